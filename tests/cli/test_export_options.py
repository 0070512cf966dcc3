"""Promised: `--io int8` reaches the .tflite writer, the version in a TensorRT cache can be chosen, and formats without
such a choice refuse it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfeven import api, errors
from halfeven.errors import BadOption

Halfeven = Callable[..., Any]
DEMO = Path(errors.__file__).parent / "demo"
MODEL, DATA = DEMO / "fashion_mnist_mbv2.onnx", DEMO / "calibration.npz"


def test_a_tflite_file_takes_and_gives_codes_where_asked_to(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from halfeven.run.litert import open_litert

    asked = {"preprocess": "fashion-mnist", "limit": 6, "verify": False, "skip": ("gptq", "equalize")}
    result = api.quantize(MODEL, DATA, target="litert", io="int8", **asked)  # type: ignore[arg-type]
    notes = result.save(tmp_path / "codes.tflite")
    file = open_litert(tmp_path / "codes.tflite")
    ports = (*file.inputs, *file.outputs)
    assert [port.dtype for port in ports] == [np.int8, np.int8]
    assert all(port.scale is not None for port in ports)
    assert "44 of 44 operators run on integers" in notes
    with pytest.raises(BadOption, match="--io int8 is of the format qdq or tflite; leave it out for encodings"):
        result.save(tmp_path / "codes.json", "encodings")


def test_the_version_in_a_tensorrt_cache_is_the_one_asked_for(
    halfeven: Halfeven,
) -> None:
    made = halfeven("quantize", "net.onnx", "--target", "tensorrt", "--data", "x.npz", "--no-verify", "-o", "t.onnx")
    assert made.status == 0, made.err
    for kind in ("tensorrt-cache", "tensorrt-cache-minmax"):
        ran = halfeven("export", "t.onnx", "-o", "t.cache", "--format", kind, "--runtime-version", "101000")
        assert ran.status == 0, ran.err
        assert Path("t.cache").read_text().startswith("TRT-101000-")
    ran = halfeven("export", "t.onnx", "-o", "t2.cache", "--format", "tensorrt-cache", "--runtime-version", "10.1")
    assert ran.status == 2
    assert "is no version of TensorRT" in ran.err
    ran = halfeven("export", "t.onnx", "-o", "u.onnx", "--runtime-version", "8601")
    assert ran.status == 2
    assert "tensorrt-cache, tensorrt-cache-minmax do" in ran.err
    assert not Path("u.onnx").exists()
