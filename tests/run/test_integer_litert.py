"""Promised: the integers of LiteRT's three sets of kernels and of TFLite Micro are computed without them.

Random operators, ties by power-of-two scales and odd sizes among them (`benchmarks/exactness_litert.py` does this at
length), and every quantized tensor of the demo network.
"""

from pathlib import Path

import numpy as np
import pytest

import halfeven
from halfeven import demo
from halfeven.exporters.formats import exporter_named
from halfeven.exporters.litert.flatbuffer import FileGraph, FileOp, FileTensor, to_bytes
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.importers.litert.reader import load_tflite
from halfeven.report.conform import conform, litert_kernels
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.litert import open_litert
from halfeven.run.processor import on_arm
from halfeven.run.tflite_micro import open_tflite_micro

pytest.importorskip("ai_edge_litert")
import exactness_litert

ELEMENTS = 8_000


@pytest.fixture(scope="module")
def network() -> tuple[halfeven.Draft, np.ndarray]:
    home = Path(demo.__file__).parent
    pictures = np.load(home / "calibration.npz")["x"][:16, None].astype(np.float32) / np.float32(255)
    return halfeven.quantize(str(home / "fashion_mnist_mbv2.onnx"), pictures, target="litert", verify=False), pictures


@pytest.mark.parametrize("machine", exactness_litert.MACHINES)
@pytest.mark.parametrize("operator", exactness_litert.OPERATORS)
def test_no_integer_differs_from_the_kernels(operator: str, machine: str) -> None:
    if machine == "tflite-micro":
        pytest.importorskip("tflite_micro")
    count = exactness_litert.measured(operator, ELEMENTS, machine, seed=5)
    assert (count.elements >= ELEMENTS, count.real) == (True, 0)
    assert count.differing == 0, count.first


@pytest.mark.parametrize("runtime", ["litert", *list(litert_kernels(on_arm()))[1:]])
def test_no_integer_of_a_whole_network_differs(network: tuple, runtime: str, tmp_path: Path) -> None:
    result, pictures = network
    result.save(tmp_path / "net.onnx")
    data = [(str(i), {"input": pictures[i : i + 1]}) for i in range(2)]
    (found,) = conform(tmp_path / "net.onnx", data, [runtime]).runtimes
    assert (found.first, found.differing) == (None, 0)
    assert len(found.tensors) > 40
    assert found.compared > 400_000
    assert found.effect.rows == 2


def test_micro_gives_the_outputs_of_its_machine(network: tuple, tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    result, pictures = network
    result.save(tmp_path / "net.onnx")
    data = [(str(i), {"input": pictures[i : i + 1]}) for i in range(4)]
    (found,) = conform(tmp_path / "net.onnx", data, ["tflite-micro"]).runtimes
    assert (found.refused, found.first, found.compared, found.effect.rows) == ("", None, 40, 4)


def test_the_wrong_machine_would_be_found_out(network: tuple, tmp_path: Path) -> None:
    result, pictures = network
    result.save(tmp_path / "net.tflite")
    model = load_tflite(tmp_path / "net.tflite").model
    name_everything(model)
    graph = lower(model)
    feeds = {graph.inputs[0].name: pictures[:1].transpose(0, 2, 3, 1)}
    runs = [IntegerExecutor(graph, machine_named(name), 1) for name in ("litert@reference", "litert@xnnpack")]
    coded = [name for name, tensor in runs[0].tensors.items() if tensor.coded]
    one, other = (run(feeds, coded) for run in runs)
    assert any((np.asarray(one[name]) != np.asarray(other[name])).any() for name in coded)


@pytest.mark.parametrize("arm", [False, True])
def test_each_processor_has_machines_of_its_own_for_litert_s_sets_of_kernels(arm: bool) -> None:
    machines = {name: machine_named(name) for name in litert_kernels(arm)}
    assert list(litert_kernels(arm).values()) == ["xnnpack", "optimized", "reference"]
    assert all(("Arm64" in one.source) is arm for name, one in machines.items() if name != "litert@reference")


@pytest.mark.parametrize("mode", ["weight-only", "static"])
def test_micro_makes_weights_real_by_the_scale_of_their_first_channel_and_so_does_its_machine(
    mode: str, tmp_path: Path
) -> None:
    pytest.importorskip("tflite_micro")
    home = Path(demo.__file__).parent
    pictures = np.load(home / "calibration.npz")["x"][:4, None].astype(np.float32) / np.float32(255)
    found = halfeven.quantize(str(home / "fashion_mnist_mbv2.onnx"), pictures, target="litert", mode=mode, verify=False)
    path = tmp_path / "net.tflite"
    notes = exporter_named("tflite")(found.draft, path)
    assert any("not for TensorFlow Lite Micro" in note for note in notes) == (mode == "weight-only")
    read = load_tflite(path).model
    name_everything(read)
    x = np.ascontiguousarray(pictures[:1].transpose(0, 2, 3, 1))
    name = read.graph.inputs[0].name or ""
    micro = open_tflite_micro(path)(x)[0]
    ours, other = (
        next(iter(IntegerExecutor(lower(read), machine_named(machine))({name: x}).values()))
        for machine in ("tflite-micro", "litert@reference")
    )
    np.testing.assert_allclose(ours, micro, rtol=1e-4, atol=1e-4)
    assert np.allclose(other, micro, rtol=1e-1, atol=1e-1) == (mode == "static")


def test_every_integer_of_a_network_of_16_bit_activations_is_that_of_the_runtime() -> None:
    pytest.importorskip("tflite_micro")
    home = Path(demo.__file__).parent
    pictures = np.load(home / "calibration.npz")["x"][:16, None].astype(np.float32) / np.float32(255)
    source = str(home / "fashion_mnist_mbv2.onnx")
    model = halfeven.quantize(source, pictures, target="litert-int16", verify=False).model
    found = conform(model, [("a picture", {"input": pictures[:1]})], ("litert", "litert@reference", "tflite-micro"))
    for one in found.runtimes:
        assert one.refused == ""
        assert one.differing == 0
        assert one.compared > (9 if one.runtime == "tflite-micro" else 100_000)


@pytest.mark.skipif(on_arm(), reason="the kernels of x86-64 are run")
def test_a_sum_of_int16_rounds_otherwise_in_whole_blocks_of_16_of_the_optimized_kernels(tmp_path: Path) -> None:
    scales = (0.00013370114902500063, 7.160616951296106e-05, 0.0001490161957917735)
    tensors = [
        FileTensor(name, (1, 1, 1, 20), "int16", np.array([scale], np.float32), np.zeros(1, np.int64))
        for name, scale in zip("aby", scales, strict=True)
    ]
    layer = FileOp("ADD", (0, 1), (2,), "AddOptions", {"fusedActivationFunction": 0, "potScaleInt16": False})
    path = tmp_path / "sum.tflite"
    path.write_bytes(to_bytes(FileGraph(tensors, [layer], [0, 1], [2])))
    model = load_tflite(path).model
    name_everything(model)
    executor = IntegerExecutor(lower(model), machine_named("litert@optimized-x86"), 1)
    for pair in ((26474, -31727), (22933, -16300)):
        feeds = {name: np.full((1, 1, 1, 20), code, np.int16) for name, code in zip("ab", pair, strict=True)}
        (ours,), (theirs,) = executor(feeds).values(), open_litert(path, "optimized")(feeds).values()
        np.testing.assert_array_equal(ours, theirs)
        assert (theirs.ravel()[:16] == theirs.ravel()[16] + 1).all()


def test_sums_of_int16_codes_beyond_32_bits_are_those_of_the_runtime(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.integers(20000, 32767, (8, 2000)).astype(np.int16), rng.integers(90, 127, (4, 2000)).astype(np.int8)
    scales, zero = [np.array([s], np.float32) for s in (1e-5, 1e-3, 0.5)], np.zeros(1, np.int64)
    tensors = [
        FileTensor("x", x.shape, "int16", scales[0], zero),
        FileTensor("w", w.shape, "int8", scales[1], zero, data=w),
        FileTensor("b", (4,), "int64", scales[0] * scales[1], zero, data=np.array([5, -7, 1 << 20, 9], np.int64)),
        FileTensor("y", (8, 4), "int16", scales[2], zero),
    ]
    layer = FileOp("FULLY_CONNECTED", (0, 1, 2), (3,), "FullyConnectedOptions", {"fusedActivationFunction": 0})
    path = tmp_path / "wide.tflite"
    path.write_bytes(to_bytes(FileGraph(tensors, [layer], [0], [3])))
    model = load_tflite(path).model
    name_everything(model)
    (ours,) = IntegerExecutor(lower(model), machine_named("litert@reference"))({"x": x}).values()
    (theirs,) = open_litert(path, "reference")({"x": x}).values()
    assert (x.astype(np.int64) @ w.T.astype(np.int64)).min() > 2**31
    np.testing.assert_array_equal(ours, theirs)
