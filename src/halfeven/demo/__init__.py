"""The demonstration: a small trained network and real pictures, shipped with the package (see README.md beside)."""

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from halfeven import api
from halfeven.draft import Progress
from halfeven.report.verify import Verification
from halfeven.result import Result

MEAN, STD = 0.2860, 0.3530


def run(folder: Path, progress: Progress) -> tuple[Result, Verification, Path]:
    """Quantize the shipped network, judge it on the 1000 test pictures, write it to `folder`."""
    with as_file(files("halfeven.demo")) as home:
        model = home / "fashion_mnist_mbv2.onnx"
        with np.load(home / "calibration.npz", allow_pickle=False) as stored:
            calibration = _pictures(stored["x"])
        with np.load(home / "test.npz", allow_pickle=False) as stored:
            test, labels = _pictures(stored["x"]), stored["y"]
        result = api.quantize(model, calibration, verify=False, progress=progress)
        output = folder / "fashion_mnist_mbv2.int8.onnx"
        result.save(output)
        verification = api.verify(model, output, test, labels=labels, progress=progress)
    return result, verification, output


def _pictures(x: np.ndarray) -> np.ndarray:
    """Bytes, shape (n, 28, 28), to what the network was trained on, shape (n, 1, 28, 28)."""
    return ((x[:, None].astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)
