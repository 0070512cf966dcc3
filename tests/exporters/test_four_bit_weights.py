"""Promised: weights of 4 bits are stored in 4 by LiteRT's and OpenVINO's files, and mean there what the ONNX file says;
what a runtime cannot read is refused in a sentence.
"""

from pathlib import Path

import numpy as np
import pytest

from halfeven import api, errors
from halfeven.errors import UnsupportedByTarget
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import open_file

DEMO = Path(errors.__file__).parent / "demo"
MODEL = DEMO / "fashion_mnist_mbv2.onnx"
PACKAGES = {"litert": ("ai_edge_litert", ".tflite", ".tflite"), "openvino": ("openvino", ".xml", ".bin")}
CASES = [
    ("litert", {"bits": 4}),
    ("litert", {"bits": 4, "conv_bits": 4}),
    ("openvino", {"bits": 4, "conv_bits": 4}),
    ("openvino", {"bits": 4, "block": 32}),
    ("openvino", {"bits": 4, "block": 32, "zero_points": "free"}),
]


def quantized(target: str, **options: object) -> api.Result:
    left = {"verify": False, "skip": ("gptq", "equalize")}
    return api.quantize(MODEL, target=target, mode="weight-only", **left, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("target", "options"), CASES, ids=str)
def test_the_runtime_computes_with_the_numbers_that_the_codes_stand_for(
    tmp_path: Path, target: str, options: dict[str, object]
) -> None:
    package, suffix, weights = PACKAGES[target]
    pytest.importorskip(package)
    result, path = quantized(target, **options), tmp_path / f"narrow{suffix}"
    result.save(path)
    if "conv_bits" in options:  # of 83,000 weights; with 8 bits these files have 147 and 107 kB
        assert path.with_suffix(weights).stat().st_size < {"litert": 105_000, "openvino": 65_000}[target]
    x = np.random.default_rng(0).normal(size=(4, 1, 28, 28)).astype(np.float32)
    file = open_file(path, result.draft.model)
    reference = OrtExecutor(result.model)({"input": x})["logits"]
    found = file({"input": x})["logits"]
    assert np.abs(found - reference).max() <= 1e-4 * np.abs(reference).max()


def test_blocks_are_refused_by_litert_before_anything_is_written(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    result = quantized("litert", bits=4, block=32)
    with pytest.raises(UnsupportedByTarget, match=r"Gemm '/fc/Gemm': .* are in blocks; LiteRT takes") as refused:
        result.save(tmp_path / "blocks.tflite")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
