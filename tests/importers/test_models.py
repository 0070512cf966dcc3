"""Promised: a .tflite file whose weights alone are codes can be quantized anew, from the numbers that the codes stand
for.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven import api, errors
from halfeven.importers.models import read_as_stored, read_model
from halfeven.run.compare import relative_error

DEMO = Path(errors.__file__).parent / "demo"
SKIP = ("gptq", "equalize")


def kinds(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_weights_in_codes_are_taken_as_the_numbers_they_stand_for(tmp_path: Path, mode: str) -> None:
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "weights.tflite"
    api.quantize(DEMO / "fashion_mnist_mbv2.onnx", target="litert", mode=mode, verify=False, skip=SKIP).save(path)  # type: ignore[arg-type]
    stored, _ = read_as_stored(path)
    model, notes = read_model(path)
    assert "DequantizeLinear" in kinds(stored)
    assert "DequantizeLinear" not in kinds(model)
    assert any("taken as the numbers they stand for" in note for note in notes)
    x = np.random.default_rng(0).normal(size=(1, 28, 28, 1)).astype(np.float32)
    error, where = relative_error(stored, model, [("", {"input": x})])
    assert error <= 1e-5, where
    result = api.quantize(path, [{"input": x}], verify=False, skip=SKIP)
    assert any(q.role == "activation" for q in result.plan.groups.values())
