"""Promised: a network that Halfeven writes as .tflite and reads again computes bit for bit what it writes as ONNX."""

from pathlib import Path

import numpy as np
import pytest

import halfeven
from halfeven import demo
from halfeven.exporters.litert.write import to_litert
from halfeven.exporters.onnx import to_qdq
from halfeven.importers.litert.reader import import_tflite
from halfeven.run.ort import OrtExecutor

pytest.importorskip("ai_edge_litert")
FOLDER = Path(demo.__file__).parent


@pytest.mark.parametrize("mode", ["integer", "float"])
def test_a_written_network_is_read_as_it_was(mode: str) -> None:
    result = halfeven.quantize(
        FOLDER / "fashion_mnist_mbv2.onnx",
        data=FOLDER / "calibration.npz",
        preprocess="fashion-mnist",
        target="litert",
        limit=32,
        verify=False,
    )
    written = to_litert(result.draft, mode=mode)
    imported = import_tflite(memoryview(written.data), "demo.tflite").model
    again = OrtExecutor(imported)
    once = OrtExecutor(to_qdq(result.draft) if mode == "integer" else result.draft.model)
    x = np.load(FOLDER / "test.npz")["x"][:20].reshape(-1, 1, 1, 28, 28).astype(np.float32) / 128 - 1
    for picture in x:
        (found,) = again({"input": picture.transpose(0, 2, 3, 1)}).values()
        (wanted,) = once({"input": picture}).values()
        if mode == "integer":
            np.testing.assert_array_equal(found, wanted)
        else:
            assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
