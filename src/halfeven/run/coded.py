"""Models whose inputs and outputs are codes, called with the floats that they stand for.

Scale and zero point of each stand in the file's metadata (`halfeven.io.NAME`). Where the file normalises pictures
itself, the metadata say how (`folded` in `halfeven.options`): there the codes are of the bytes p of
x = (p * scale - mean) / std.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.errors import BadOption
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule
from halfeven.run.ort import OrtExecutor

Array = npt.NDArray[Any]
CODES = {ir.DataType.UINT8: False, ir.DataType.INT8: True}
"""Whether they are signed."""


@dataclass(frozen=True)
class CodedExecutor:
    """Runs a model by the floats of its codes; `inputs` and `outputs` are those that are codes."""

    run: OrtExecutor
    inputs: Mapping[str, QParams]
    outputs: Mapping[str, QParams]
    pictures: Mapping[str, Any]
    """How the model normalises the bytes that it is fed: `scale`, `mean`, `std`; empty if it does not."""

    def __call__(self, feeds: Batch, label: str = "") -> Batch:
        """Run once, in floats."""
        found = self.run(self.codes(feeds), label)
        return {k: self._real(v, self.outputs[k]) if k in self.outputs else v for k, v in found.items()}

    def codes(self, feeds: Batch) -> Batch:
        """The feeds as the model takes them: codes of floats, nearest, ties to even, saturated."""
        return {k: self._code(v, self.inputs[k]) if k in self.inputs else v for k, v in feeds.items()}

    def _real(self, codes: Array, params: QParams) -> Array:
        return dequantize(codes, params)

    def _code(self, x: Array, params: QParams) -> Array:
        values = x.astype(np.float32)
        if self.pictures:
            mean, std = (np.array(self.pictures[key], np.float64).reshape(-1, 1, 1) for key in ("mean", "std"))
            values = ((x * std + mean) / self.pictures["scale"]).astype(np.float32)
        return quantize(values, params)


def coded(run: OrtExecutor, model: ir.Model, reference: ir.Model) -> OrtExecutor | CodedExecutor:
    """`run`, which executes `model`, as it can be called in place of the float `reference`.

    Raises:
        BadOption: an input or output is codes where the float model has floats, and the file does not say of which, or
            what it says is damaged.
    """
    pictures = _said(model, "halfeven.options").get("folded") or {}
    if pictures and not (isinstance(pictures, dict) and pictures.keys() >= {"scale", "mean", "std"}):
        raise _damaged("halfeven.options")
    inputs = _codes(model, reference.graph.inputs, model.graph.inputs, bytes_=bool(pictures))
    outputs = _codes(model, reference.graph.outputs, model.graph.outputs, bytes_=False)
    return CodedExecutor(run, inputs, outputs, pictures) if inputs or outputs else run


def _codes(
    model: ir.Model, ours: Sequence[ir.Value], theirs: Sequence[ir.Value], *, bytes_: bool
) -> dict[str, QParams]:
    """Those that are floats in the one and codes in the other."""
    real = {v.name for v in ours if v.dtype is not None and v.dtype.is_floating_point()}
    found = [v for v in theirs if v.name in real and v.dtype in CODES]
    return {v.name or "": _params(model, v, bytes_=bytes_) for v in found}


def _params(model: ir.Model, value: ir.Value, *, bytes_: bool) -> QParams:
    """What the codes of an input or output mean."""
    text = model.metadata_props.get(f"halfeven.io.{value.name}")
    assert value.dtype is not None
    if text is None and not bytes_:
        raise BadOption(
            f"The models cannot be compared: '{value.name}' is {value.dtype.name.lower()} in the second, whose "
            f"metadata do not say by which scale and zero point; write halfeven.io.{value.name} as --io does."
        )
    key = f"halfeven.io.{value.name}"
    said = {"scale": 1.0, "zero_point": 0} if text is None else _said(model, key)
    scheme = Scheme(IntGrid(8, CODES[value.dtype]), zero_point=ZeroRule.FREE)
    try:
        return QParams(scheme, np.array(said["scale"], np.float32), np.array(said["zero_point"], np.int32))
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(key) from error


def _said(model: ir.Model, key: str) -> dict[str, Any]:
    """An entry of the metadata, which anyone may have written; empty where there is none."""
    try:
        found = json.loads(model.metadata_props.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise _damaged(key) from error
    if not isinstance(found, dict):
        raise _damaged(key)
    return found


def _damaged(key: str) -> BadOption:
    return BadOption(f"The quantized model's metadata '{key}' are damaged: not what --io writes there. Write it anew.")
