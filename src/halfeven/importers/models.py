"""Model files of any kind that can be read: ONNX, and LiteRT's .tflite turned into ONNX.

`read_model` gives a network to quantize: where a .tflite file holds nothing but its weights as codes (dynamic range,
weight-only), these are the numbers that the codes stand for. `read_as_stored` leaves them as they are.
"""

import os
from pathlib import Path
from typing import Any

import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.model import load
from halfeven.graph.plan import Plan
from halfeven.importers.qdq import draft_of
from halfeven.targets import TARGETS
from halfeven.targets.target import Target
from halfeven.wording import counted

TFLITE = ".tflite"


def read_model(source: Any) -> tuple[ir.Model, tuple[str, ...]]:
    """A model from a path, a ModelProto or an onnx-ir model, weights as real numbers, and what reading it has to say.

    Raises:
        UnsupportedModel: There is no such file, or it is damaged, unsafe, or of another kind.
    """
    model, notes = read_as_stored(source)
    if not isinstance(source, (str, os.PathLike)) or not is_tflite(Path(source)) or not (count := _coded(model)):
        return model, notes
    said = f"{counted(count, 'constant')} of the file in integer codes: taken as the numbers they stand for"
    return draft_of(model, next(iter(TARGETS.values()))).model, (*notes, said)


def _coded(model: ir.Model) -> int:
    """How many constants of a network that computes in real numbers are codes; 0 where it computes on codes too."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        return 0
    pairs = [node for node in model.graph if node.op_type == "DequantizeLinear"]
    return len(pairs) if all(ops.constant_of(node.inputs[0]) is not None for node in pairs) else 0


def read_as_stored(source: Any) -> tuple[ir.Model, tuple[str, ...]]:
    """The same, but a .tflite file's codes stay codes behind DequantizeLinear.

    Raises:
        UnsupportedModel: There is no such file, or it is damaged, unsafe, or of another kind.
    """
    if isinstance(source, (str, os.PathLike)) and is_tflite(Path(source)):
        from halfeven.importers.litert.reader import load_tflite  # loads all its converters

        found = load_tflite(Path(source))
        return found.model, found.notes
    return load(source), ()


def is_tflite(path: Path) -> bool:
    """By its suffix, or by what the file says of itself: others call it .lite, or nothing."""
    if path.suffix.lower() == TFLITE or not path.is_file():
        return path.suffix.lower() == TFLITE
    from halfeven.importers.litert.contents import looks_like_tflite

    with path.open("rb") as file:
        return looks_like_tflite(file.read(8))


def plan_of_tflite(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan in a quantized .tflite file; of a float `model` nothing is needed."""
    return draft_of(read_as_stored(path)[0], target).plan
