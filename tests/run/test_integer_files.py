"""Promised: the codes of OpenVINO's CPU plugin and of ncnn are computed without them.

Random layers beside the runtimes (`benchmarks/exactness_openvino.py` and `exactness_ncnn.py` do this at length), every
code of the demo network that they show, and what is not exact with its measured rate.
"""

import platform
from functools import cache
from pathlib import Path

import exactness_ncnn
import exactness_openvino
import numpy as np
import pytest

import halfeven
from halfeven import demo
from halfeven.errors import BadOption, UnsupportedModel
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.numerics.ncnn import Scaling, intel_reciprocal, real_sums
from halfeven.report.conform import conform
from halfeven.report.simulate import simulate
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named, this_machine
from halfeven.run.integer.onnxruntime import X86_VNNI
from halfeven.run.integer.openvino import hidden
from halfeven.run.openvino import open_openvino
from halfeven.run.processor import of_intel

HOME = Path(demo.__file__).parent
ELEMENTS = 12_000
RATES = {"Add": 2e-4, "One scale": 1e-4}  # of what is not exact
NCNN_KINDS = ("Convolution", "Depthwise", "Grouped", "InnerProduct")
OPENVINO_KINDS = ("Conv", "Depthwise", "Grouped", "One scale", "MatMul", "Sum", "Add", "FakeQuantize")


@pytest.fixture(scope="module")
def wide() -> None:
    """A processor like the one on which the machines were measured."""
    if this_machine() is not X86_VNNI or not of_intel():
        pytest.skip("the machines are of Intel's processors with VNNI")


@cache
def calibration() -> np.ndarray:
    return np.load(HOME / "calibration.npz")["x"][:16, None].astype(np.float32) / np.float32(255)


@pytest.fixture
def pictures() -> np.ndarray:
    return calibration()


@cache
def quantized(target: str) -> halfeven.Draft:
    return halfeven.quantize(str(HOME / "fashion_mnist_mbv2.onnx"), calibration(), target=target, verify=False).draft


@pytest.mark.parametrize("kind", NCNN_KINDS)
def test_no_code_differs_from_ncnn_s_layers(kind: str, wide: None) -> None:
    pytest.importorskip("ncnn")
    assert NCNN_KINDS == exactness_ncnn.KINDS
    count = exactness_ncnn.measured(kind, ELEMENTS, seed=1)
    assert count.codes >= ELEMENTS
    assert (count.differing, count.first) == (0, "")


@pytest.mark.parametrize("kind", OPENVINO_KINDS)
def test_no_code_differs_from_openvino_s_operators(kind: str, wide: None) -> None:
    pytest.importorskip("openvino")
    assert OPENVINO_KINDS == exactness_openvino.KINDS
    count = exactness_openvino.measured(kind, ELEMENTS, seed=2)
    assert count.codes >= ELEMENTS
    assert count.differing <= RATES.get(kind, 0) * count.codes
    assert count.step <= 1


@pytest.mark.parametrize(("runtime", "package"), [("openvino", "openvino"), ("ncnn", "ncnn")])
def test_conform_compares_codes_layer_by_layer(runtime: str, package: str, wide: None, pictures: np.ndarray) -> None:
    pytest.importorskip(package)
    data = [("a picture", {"input": pictures[:1]}), ("another", {"input": pictures[1:2]})]
    (found,) = conform(quantized(runtime), data, [runtime]).runtimes
    assert found.refused == ""
    assert found.inner
    assert found.profile in ("openvino@cpu", "ncnn@x86")
    assert len(found.tensors) > 25
    assert found.compared > 300_000
    assert (found.differing, found.first) == (0, None)
    assert not any("watched" in note for note in found.notes)
    assert found.effect.equal == found.effect.rows == 2


@pytest.mark.parametrize("target", ["openvino", "ncnn"])
def test_simulate_computes_what_the_runtime_will(target: str, pictures: np.ndarray) -> None:
    machine = {"openvino": "openvino@cpu", "ncnn": "ncnn@x86"}[target]
    model = to_qdq(quantized(target))
    data = [("a picture", {"input": pictures[:1]})]
    found = simulate(model, data, machine, against="onnxruntime@x86-vnni")
    assert "beside the runtime" in found.evidence
    assert found.first is not None
    assert all(t.step < 64 for t in found.tensors.values())  # codes, those within sums too
    if target == "ncnn":
        other = simulate(model, data, "ncnn@arm64", against=machine)
        assert other.first is not None  # depthwise layers, by a reciprocal that is not exact
        assert all(t.step < 32 for t in other.tensors.values())


def test_a_processor_is_intel_s_where_it_says_so(tmp_path: Path) -> None:
    said = tmp_path / "cpuinfo"
    for vendor, expected in (("GenuineIntel", True), ("AuthenticAMD", False)):
        said.write_text(f"processor : 0\nvendor_id : {vendor}\n")
        assert of_intel(said) is expected
    assert of_intel(tmp_path / "none") is ("GenuineIntel" in platform.processor())


def test_codes_that_ncnn_does_not_have_are_refused(pictures: np.ndarray) -> None:
    model = to_qdq(quantized("openvino"))
    with pytest.raises(UnsupportedModel, match="--target ncnn"):
        simulate(model, [("a picture", {"input": pictures[:1]})], "ncnn@arm64")


def test_a_sum_in_a_convolution_leaves_no_codes_of_it(pictures: np.ndarray) -> None:
    network = lower(to_qdq(quantized("openvino")))
    sums = [op for op in network.ops if op.kind == "Add"]
    assert {t.name for op in sums for t in op.inputs if t is not None} == hidden(network)
    machine = IntegerExecutor(network, machine_named("openvino@cpu"))
    inner = [op.inputs[1].name for op in sums if op.inputs[1] is not None]
    found = machine({"input": pictures[:1]}, inner)
    assert all(found[name].dtype == np.uint8 for name in inner)


def test_what_openvino_does_not_know_cannot_be_watched(pictures: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(BadOption, match="no tensor 'nowhere'"):
        open_openvino(HOME / "fashion_mnist_mbv2.onnx", watch=["nowhere"])


def test_intel_s_reciprocal_is_its_table() -> None:
    x = np.array([1, 1.0004, 1.9999, 3.0, 2.0**-126, 1e-39, 2.0**127, 3e38, 27.3], np.float32)
    given = "3f7ff000 3f7ff000 3f000800 3eaaa000 7e7ff000 7f800000 00000000 00000000 3d160800"  # by the instruction
    found = intel_reciprocal(x)
    assert " ".join(f"{bits:08x}" for bits in found.view(np.uint32)) == given
    many = np.float32(1.7) ** np.arange(-60, 60, dtype=np.float32)
    assert (np.abs(intel_reciprocal(many) * many.astype(np.float64) - 1) < 1.5 * 2.0**-12).all()


def test_the_four_scalings_are_four_functions() -> None:
    acc = np.random.default_rng(0).integers(-(10**6), 10**6, 20_000).astype(np.int32)
    ways = [real_sums(acc, 31.7, 217.3, np.full(1, 0.37, np.float32), way) for way in Scaling]
    assert all((one != other).any() for i, one in enumerate(ways) for other in ways[:i])
    assert all(np.allclose(one, ways[0], rtol=1e-3) for one in ways)
