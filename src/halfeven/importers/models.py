"""Model files of any kind that can be read: ONNX, and LiteRT's .tflite turned into ONNX."""

import os
from pathlib import Path
from typing import Any

import onnx_ir as ir

from halfeven.graph.model import load
from halfeven.graph.plan import Plan
from halfeven.importers.qdq import draft_of
from halfeven.targets.target import Target

TFLITE = ".tflite"


def read_model(source: Any) -> tuple[ir.Model, tuple[str, ...]]:
    """A model from a path, a ModelProto or an onnx-ir model, and what reading it has to say.

    Raises:
        UnsupportedModel: There is no such file, or it is damaged, unsafe, or of another kind.
    """
    if isinstance(source, (str, os.PathLike)) and _is_tflite(Path(source)):
        from halfeven.importers.litert.reader import load_tflite  # loads all its converters

        found = load_tflite(Path(source))
        return found.model, found.notes
    return load(source), ()


def _is_tflite(path: Path) -> bool:
    """By its suffix, or by what the file says of itself: others call it .lite, or nothing."""
    if path.suffix.lower() == TFLITE or not path.is_file():
        return path.suffix.lower() == TFLITE
    from halfeven.importers.litert.contents import looks_like_tflite

    with path.open("rb") as file:
        return looks_like_tflite(file.read(8))


def plan_of_tflite(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan in a quantized .tflite file; of a float `model` nothing is needed."""
    return draft_of(read_model(path)[0], target).plan
