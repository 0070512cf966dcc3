"""Promised: a file of another runtime is called with the float model's feeds and answers under its names, wherever its
channels stand and whatever types its borders have; what does not fit is said.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import halfeven
from halfeven.errors import BadCalibration, BadOption, UnsupportedModel
from halfeven.exporters.formats import FORMATS, exporter_named
from halfeven.graph.model import load
from halfeven.report.own_float import own_float
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import RUNTIMES, alike, bytes_of, open_file, runtime_of
from halfeven.stats.distance import sqnr_db

NET = str(files("halfeven.demo") / "fashion_mnist_mbv2.onnx")
PACKAGES = {".tflite": "ai_edge_litert", ".param": "ncnn", ".xml": "openvino", ".pte": "executorch", ".mnn": "MNN"}


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Eight of the shipped pictures as the network takes them."""
    with np.load(str(files("halfeven.demo") / "calibration.npz"), allow_pickle=False) as stored:
        return ((stored["x"][:8, None].astype(np.float32) / 255 - 0.2860) / 0.3530).astype(np.float32)


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_a_quantized_file_answers_as_the_float_model_is_asked(
    suffix: str, pictures: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip(PACKAGES[suffix])
    runtime = RUNTIMES[suffix]
    assert FORMATS[runtime.format].suffix == suffix
    result = halfeven.quantize(NET, pictures, format=runtime.format, verify=False)
    path = tmp_path / f"net{suffix}"
    result.save(path)
    model, feeds = load(NET), {"input": pictures[:1]}
    run = open_file(path, model)
    found = run(feeds)
    assert list(found) == ["logits"]
    reference = OrtExecutor(NET)(feeds)["logits"]
    assert found["logits"].shape == reference.shape
    assert sqnr_db(reference, found["logits"]) > 20
    layers = run.integer_layers(feeds)
    assert layers is None or 0 < layers[0] <= layers[1]
    assert (layers is None) == (not runtime.layers)
    assert path.stat().st_size <= bytes_of(path) < Path(NET).stat().st_size


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_the_float_model_runs_in_the_same_runtime(suffix: str, pictures: np.ndarray) -> None:
    pytest.importorskip(PACKAGES[suffix])
    run = own_float(load(NET), RUNTIMES[suffix])
    assert run is not None
    feeds = {"input": pictures[:1]}
    assert sqnr_db(OrtExecutor(NET)(feeds)["logits"], run(feeds)["logits"]) > 60


def test_codes_at_the_border_are_made_of_real_numbers_and_made_real_again(pictures: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from halfeven.exporters.litert.write import write_litert

    draft = halfeven.quantize(NET, pictures, target="litert", verify=False).draft
    answers = []
    for io in ("float", "int8"):
        path = tmp_path / f"{io}.tflite"
        write_litert(draft, path, io=io)
        answers.append(open_file(path, load(NET))({"input": pictures[:1]})["logits"])
    assert answers[1].dtype == np.float32
    np.testing.assert_array_equal(answers[0], answers[1])


def test_a_file_with_other_inputs_is_refused(pictures: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "net.tflite"
    exporter_named("tflite")(halfeven.quantize(NET, pictures, target="litert", verify=False).draft, path)
    model = load(NET).clone()
    model.graph.outputs.append(next(iter(model.graph)).outputs[0])
    run = open_file(path, model)
    with pytest.raises(BadCalibration, match=r"The file has other outputs than the float model: logits"):
        run({"input": pictures[:1]})


@pytest.mark.parametrize("suffix", RUNTIMES)
def test_what_is_no_such_file_is_refused(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[suffix])
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"nothing of the kind")
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises((UnsupportedModel, BadOption), match=path.name):
        open_file(path, load(NET))


def test_the_suffix_tells_the_runtime() -> None:
    assert runtime_of("a.TFLITE") is RUNTIMES[".tflite"]
    assert runtime_of("a.onnx") is None
    assert runtime_of(object()) is None
    with pytest.raises(BadOption, match=r"these are: \.tflite"):
        open_file("a.rknn", load(NET))


def test_channels_move_only_where_the_shapes_then_agree() -> None:
    x = np.arange(24.0).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(alike(x, np.moveaxis(x, 1, -1)), x)
    other = np.zeros((1, 4, 3, 2))
    assert alike(x, other) is other
    assert alike(x, x) is x
