"""Promised: the codes of OpenVINO's CPU plugin and of ncnn are computed without them.

Random layers beside the runtimes (`benchmarks/exactness_openvino.py` and `exactness_ncnn.py` do this at length), every
code of the demo network that they show, and what is not exact with its measured rate.
"""

import platform
from functools import cache
from pathlib import Path
from zlib import crc32

import exactness_ncnn
import exactness_openvino
import numpy as np
import pytest

import halfeven
from halfeven import demo
from halfeven.errors import BadOption, UnsupportedModel
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.numerics.ncnn import Scaling, real_sums
from halfeven.numerics.rcpps import amd_reciprocal, intel_reciprocal
from halfeven.report.conform import conform
from halfeven.report.conform_files import unmeasured
from halfeven.report.simulate import simulate
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named, this_machine
from halfeven.run.integer.ncnn import this_ncnn
from halfeven.run.integer.onnxruntime import X86_VNNI
from halfeven.run.integer.openvino import hidden
from halfeven.run.openvino import open_openvino
from halfeven.run.processor import AMD, INTEL, family, on_arm, vendor

HOME = Path(demo.__file__).parent
ELEMENTS = 12_000
RATES = {"Add": 2e-4, "One scale": 1e-4}  # of what is not exact
NCNN_KINDS = ("Convolution", "Depthwise", "Grouped", "InnerProduct")
OPENVINO_KINDS = ("Conv", "Depthwise", "Grouped", "One scale", "MatMul", "Sum", "Add", "FakeQuantize")


@pytest.fixture(scope="module")
def wide() -> None:
    """A processor like those on which the machines were measured."""
    if this_machine() is not X86_VNNI:
        pytest.skip("the machines are of x86-64 with VNNI")


def need_known_reciprocal() -> None:
    """A processor whose approximate reciprocal was read out."""
    if unmeasured(this_ncnn()):
        pytest.skip("the approximate reciprocals are of Intel's processors and of AMD's Zen 5")


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
    if kind == "Depthwise":
        need_known_reciprocal()
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
    if runtime == "ncnn":
        need_known_reciprocal()
    data = [("a picture", {"input": pictures[:1]}), ("another", {"input": pictures[1:2]})]
    (found,) = conform(quantized(runtime), data, [runtime]).runtimes
    assert found.refused == ""
    assert found.inner
    assert found.profile == (this_ncnn().name if runtime == "ncnn" else "openvino@cpu")
    assert len(found.tensors) > 25
    assert found.compared > 300_000
    assert (found.differing, found.first) == (0, None)
    assert not any("watched" in note or "reciprocal" in note for note in found.notes)
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


def test_a_processor_is_the_vendor_s_that_it_says(tmp_path: Path) -> None:
    said = tmp_path / "cpuinfo"
    for name, expected in (("GenuineIntel", INTEL), ("AuthenticAMD", AMD), ("CentaurHauls", "")):
        said.write_text(f"processor\t: 0\nvendor_id\t: {name}\ncpu family\t: 26\nmodel\t\t: 2\n")
        assert vendor(said) == expected
        assert family(said) == 26
    said.write_text("CPU implementer : 0x41\n")
    assert (vendor(said), family(said)) == ("", None)
    assert vendor(tmp_path / "none") in platform.processor()


@pytest.mark.parametrize(
    ("description", "machine", "said"),
    [
        ("vendor_id : GenuineIntel, cpu family : 6", "ncnn@x86", False),
        ("vendor_id : CentaurHauls, cpu family : 7", "ncnn@x86", True),
        ("vendor_id : AuthenticAMD, cpu family : 26", "ncnn@x86-amd", False),
        ("AMD64 Family 25 Model 80 Stepping 0, AuthenticAMD", "ncnn@x86-amd", True),
    ],
)
def test_ncnn_is_the_machine_of_the_vendor_and_of_what_was_not_measured_is_said(
    description: str, machine: str, said: bool, tmp_path: Path
) -> None:
    if on_arm():
        pytest.skip("vendors are of x86-64")
    file = tmp_path / "cpuinfo"
    file.write_text(description)
    found = this_ncnn(file)
    assert found.name == machine
    assert any(machine in note for note in unmeasured(found, file)) is said


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


def test_amd_s_reciprocal_is_its_table() -> None:
    x = np.array([1, 1.0004, 1.9999, 3.0, 2.0**-126, 1e-39, 2.0**127, 3e38, 27.3], np.float32)
    given = "3f7ff000 3f7fe000 3f000000 3eaaa800 7e7ff000 7f800000 00000000 00000000 3d161000"  # by the instruction
    found = amd_reciprocal(x)
    assert " ".join(f"{bits:08x}" for bits in found.view(np.uint32)) == given
    entries = amd_reciprocal(1 + np.arange(4096, dtype=np.float32) / 4096)
    assert crc32(entries.astype("<f4").tobytes()) == 0xEBD6B180  # of what the instruction gave
    within = amd_reciprocal(1 + (np.arange(4096, dtype=np.float32) + np.float32(0.999)) / 4096)
    np.testing.assert_array_equal(within, entries)


def test_the_scalings_are_different_functions() -> None:
    acc = np.random.default_rng(0).integers(-(10**6), 10**6, 20_000).astype(np.int32)
    ways = [real_sums(acc, 31.7, 296.1, np.full(1, 0.37, np.float32), way) for way in Scaling]
    assert all((one != other).any() for i, one in enumerate(ways) for other in ways[:i])
    assert all(np.allclose(one, ways[0], rtol=1e-3, atol=1e-3) for one in ways)
