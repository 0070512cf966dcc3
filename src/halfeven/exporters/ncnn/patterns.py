"""Groups of operators that are one layer in ncnn.

Flatten, Softmax, Reshape to the shape before      Softmax over the last axis    (what an older Softmax becomes)
x * Clip(x + 3, 0, 6) / 6                          HardSwish
"""

from halfeven.exporters.ncnn.blobs import Blobs
from halfeven.exporters.ncnn.elementwise import SIXTH
from halfeven.exporters.patterns import hard_swish_group, softmax_group
from halfeven.graph.network import Op


def fused(op: Op, blobs: Blobs) -> bool:
    """Convert the group that begins with an operator, if one does."""
    if op.kind == "Flatten":
        return _softmax(op, blobs)
    return op.kind == "Add" and _hard_swish(op, blobs)


def _softmax(flat: Op, blobs: Blobs) -> bool:
    x, group = flat.inputs[0], softmax_group(flat, blobs.network)
    if x is None or not group:
        return False
    view = blobs.view(x)
    if int(flat.attributes.get("axis", 1)) not in (-1, len(view.dims) - 1) or view.batch == len(view.dims) - 1:
        return False
    [top] = blobs.emit("Softmax", group[0].name, [blobs.real(x)], {0: len(view.blob) - 1, 1: 1})
    blobs.give(group[-1].outputs[0], top, view, group[-1].clamp)
    blobs.done.update(map(id, group))
    return True


def _hard_swish(add: Op, blobs: Blobs) -> bool:
    x, group = hard_swish_group(add, blobs.network)
    if x is None:
        return False
    [top] = blobs.emit("HardSwish", group[-1].name, [blobs.real(x)], {0: SIXTH, 1: 0.5})
    blobs.give(group[-1].outputs[0], top, blobs.view(x))
    blobs.done.update(map(id, group))
    return True
