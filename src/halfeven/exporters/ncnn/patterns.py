"""Groups of operators that are one layer in ncnn.

Flatten, Softmax, Reshape to the shape before      Softmax over the last axis    (what an older Softmax becomes)
x * Clip(x + 3, 0, 6) / 6                          HardSwish
"""

from halfeven.exporters.ncnn.blobs import Blobs
from halfeven.exporters.ncnn.elementwise import SIXTH
from halfeven.exporters.ncnn.layers import bounds
from halfeven.graph.network import Op, Tensor


def fused(op: Op, blobs: Blobs) -> bool:
    """Convert the group that begins with an operator, if one does."""
    if op.kind == "Flatten":
        return _softmax(op, blobs)
    return op.kind == "Add" and _hard_swish(op, blobs)


def _softmax(flat: Op, blobs: Blobs) -> bool:
    x = flat.inputs[0]
    soft = _only_reader(flat, "Softmax", blobs)
    back = None if soft is None else _only_reader(soft, "Reshape", blobs)
    if x is None or soft is None or back is None or back.inputs[1] is None:
        return False
    view, shape = blobs.view(x), blobs.network.maker(back.inputs[1].name)
    whole = shape is not None and shape.kind == "Shape" and shape.inputs[0] is x and not shape.attributes
    last = int(flat.attributes.get("axis", 1)) in (-1, len(view.dims) - 1) and view.batch != len(view.dims) - 1
    if not whole or not last or int(soft.attributes.get("axis", -1)) not in (-1, 1):
        return False
    [top] = blobs.emit("Softmax", soft.name, [blobs.real(x)], {0: len(view.blob) - 1, 1: 1})
    blobs.give(back.outputs[0], top, view, back.clamp)
    blobs.done.update((id(soft), id(back)))
    return True


def _hard_swish(add: Op, blobs: Blobs) -> bool:
    x, three = _with_constant(add)
    clip = _only_reader(add, "Clip", blobs)
    product = None if clip is None else _only_reader(clip, "Mul", blobs)
    ratio = None if product is None else _only_reader(product, "Div", blobs)
    if x is None or three != 3.0 or clip is None or product is None or ratio is None:
        return False
    plain = bounds(clip) == (0.0, 6.0) and {t.name for t in product.inputs if t is not None} == {
        x.name,
        clip.outputs[0].name,
    }
    same, six = _with_constant(ratio)
    if not plain or six != 6.0 or same is not ratio.inputs[0] or ratio.clamp is not None:
        return False
    [top] = blobs.emit("HardSwish", ratio.name, [blobs.real(x)], {0: SIXTH, 1: 0.5})
    blobs.give(ratio.outputs[0], top, blobs.view(x))
    blobs.done.update((id(clip), id(product), id(ratio)))
    return True


def _with_constant(op: Op) -> tuple[Tensor | None, float | None]:
    """The operand that is computed, and the number that the other holds for all."""
    computed = [t for t in op.inputs if t is not None and t.constant is None]
    held = [t.data for t in op.inputs if t is not None and t.constant is not None and not t.coded]
    if len(computed) != 1 or len(held) != 1 or held[0] is None or held[0].size != 1 or held[0].ndim > 1:
        return None, None
    return computed[0], float(held[0].ravel()[0])


def _only_reader(op: Op, kind: str, blobs: Blobs) -> Op | None:
    """The operator of a kind that alone reads a real output."""
    y = op.outputs[0]
    readers = blobs.network.readers(y.name)
    ends = any(t.name == y.name for t in blobs.network.outputs)
    return readers[0] if len(readers) == 1 and readers[0].kind == kind and not ends and not y.coded else None
