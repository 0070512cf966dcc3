"""Promised: for each target whose format is ONNX the demo network's QDQ file is valid, its shapes can be inferred, ONNX
Runtime runs it, and so does OpenVINO, with the answers of the float network.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest

import halfeven
from halfeven import demo
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db

FOLDER = Path(demo.__file__).parent
NAMES = ("onnxruntime", "onnxruntime-arm", "tensorrt", "openvino", "integer")


@pytest.fixture(scope="module", params=NAMES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of one target, calibrated with a few pictures."""
    path = tmp_path_factory.mktemp("qdq") / f"{request.param}.onnx"
    data, options = FOLDER / "calibration.npz", {"preprocess": "fashion-mnist", "limit": 24, "verify": False}
    halfeven.quantize(FOLDER / "fashion_mnist_mbv2.onnx", data, target=request.param, **options).save(path)
    return path


def pictures() -> np.ndarray:
    x = np.load(FOLDER / "test.npz")["x"][:16].astype(np.float32)
    return ((x / 255 - 0.2860) / 0.3530).astype(np.float32)[:, None]


def expected() -> np.ndarray:
    return np.asarray(OrtExecutor(FOLDER / "fashion_mnist_mbv2.onnx")({"input": pictures()})["logits"])


def test_the_file_is_valid_and_its_shapes_are_known(written: Path) -> None:
    model = onnx.load(written)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert all(info.type.tensor_type.HasField("shape") for info in inferred.graph.value_info)
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}


def test_onnx_runtime_runs_it(written: Path) -> None:
    assert sqnr_db(expected(), OrtExecutor(written)({"input": pictures()})["logits"]) > 15


def test_openvino_runs_it(written: Path) -> None:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(written), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert sqnr_db(expected(), np.asarray(compiled([pictures()])[0])) > 15
