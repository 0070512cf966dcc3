"""Promised: a machine of LiteRT simulates the .tflite file that is written of a model, or the one that is given."""

from pathlib import Path

import numpy as np
import pytest

import halfeven
from halfeven import demo
from halfeven.exporters.formats import exporter_named
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.graph.names import name_everything
from halfeven.report.sides import fitting
from halfeven.report.simulate import simulate
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.litert import open_litert
from halfeven.run.runtimes import open_file

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    home = Path(demo.__file__).parent
    return np.load(home / "calibration.npz")["x"][:16, None].astype(np.float32) / np.float32(255)


@pytest.fixture(scope="module")
def quantized(pictures: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network in uint8 codes, as for ONNX Runtime."""
    path = tmp_path_factory.mktemp("models") / "net.onnx"
    source = str(Path(demo.__file__).parent / "fashion_mnist_mbv2.onnx")
    halfeven.quantize(source, pictures, target="onnxruntime", verify=False).save(path)
    return path


def samples(pictures: np.ndarray) -> list[tuple[str, dict[str, np.ndarray]]]:
    return [(str(i), {"input": pictures[i : i + 1]}) for i in range(2)]


def test_what_is_simulated_is_the_file_that_would_be_written(
    quantized: Path, pictures: np.ndarray, tmp_path: Path
) -> None:
    data, path = samples(pictures), tmp_path / "net.tflite"
    held = load(str(quantized))
    exporter_named("tflite")(fitting(held, None, data, "tflite"), path)
    found = simulate(quantized, data, "litert@xnnpack", "litert@reference")
    run = open_file(path, held)
    for (_, feeds), outputs in zip(data, found.outputs, strict=True):
        (ours,), (theirs,) = outputs.values(), run(feeds).values()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert len(found.tensors) > 30
    assert found.first is not None
    assert found.first.step == 1


def test_a_file_is_compared_with_the_model_tensor_by_tensor(quantized: Path, pictures: np.ndarray) -> None:
    found = simulate(quantized, samples(pictures), "litert@xnnpack", "onnxruntime@x86-vnni")
    assert len(found.tensors) > 30
    assert sum(d.compared for d in found.tensors.values()) > 300_000
    assert max(d.rate for d in found.tensors.values()) < 0.2


def test_a_tflite_file_is_simulated_as_it_is(quantized: Path, pictures: np.ndarray, tmp_path: Path) -> None:
    data, path = samples(pictures), tmp_path / "net.tflite"
    exporter_named("tflite")(fitting(load(str(quantized)), None, data, "tflite"), path)
    held = open_litert(path, "reference")
    fed = [(label, {held.inputs[0].name: np.moveaxis(feeds["input"], 1, -1)}) for label, feeds in data]
    found = simulate(path, fed, "litert@reference")
    for (_, feeds), outputs in zip(fed, found.outputs, strict=True):
        for ours, theirs in zip(outputs.values(), held(feeds).values(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_codes_of_a_type_that_the_machine_lacks_run_on_real_numbers(quantized: Path, pictures: np.ndarray) -> None:
    held = load(str(quantized))
    name_everything(held)
    run = IntegerExecutor(lower(held), machine_named("litert@reference"))
    assert not {op.kind for op in run.integer_ops} - {"QuantizeLinear", "DequantizeLinear"}
    exact = IntegerExecutor(lower(held), machine_named("onnxruntime@x86-vnni"))
    one, other = (np.asarray(next(iter(way({"input": pictures[:4]}).values()))) for way in (run, exact))
    np.testing.assert_array_equal(one.argmax(-1), other.argmax(-1))
