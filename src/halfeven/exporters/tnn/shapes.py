"""Shapes and indices that a network computes while it runs, worked out when the file is written.

A Shape gives the lengths of a tensor's axes, an open one by its name. What follows up to the Reshape, Slice or Resize
that uses it moves and computes these few numbers; what is computed from an open length is None.
"""

import numpy as np

from halfeven.exporters.ncnn.shapes import computed
from halfeven.exporters.tnn.blobs import Blobs, Length
from halfeven.exporters.tnn.parts import Array
from halfeven.graph.network import Op, Tensor


def evaluate(op: Op, blobs: Blobs) -> bool:
    """Work an operator on shapes out; False if it is none, or one that this cannot."""
    if len(op.outputs) != 1:
        return False
    if op.kind in ("Shape", "Size"):
        found = _shape(op, blobs)
    else:
        found = computed(op, [None if t is None else _known(t, blobs) for t in op.inputs])
    if found is None:
        return False
    blobs.known[op.outputs[0].name] = found
    return True


def numbers(tensor: Tensor | None, blobs: Blobs) -> list[Length | None] | None:
    """The whole numbers of a tensor of shape arithmetic or a constant; None when they are not known."""
    found = None if tensor is None else _known(tensor, blobs)
    return None if found is None else found.ravel().tolist()


def fixed(op: Op, port: int, name: str, blobs: Blobs) -> list[int] | None:
    """The whole numbers at an input, or in the attribute of older operators; None where some are not known."""
    if port < len(op.inputs):
        found = numbers(op.inputs[port], blobs)
    else:
        found = [int(n) for n in op.attributes[name]] if name in op.attributes else None
    known = [n for n in found or [] if isinstance(n, int)]
    return None if found is None or len(known) < len(found) else known


def _known(tensor: Tensor, blobs: Blobs) -> Array | None:
    if tensor.name in blobs.known:
        return blobs.known[tensor.name]
    data = tensor.data
    return None if data is None or data.dtype.kind not in "iu" else data.astype(object)


def _shape(op: Op, blobs: Blobs) -> Array | None:
    tensor = op.inputs[0]
    if tensor is None or (tensor.constant is None and tensor.name not in blobs.blobs):
        return None
    dims = blobs.dims(tensor, op)
    if op.kind == "Size":
        whole = [d for d in dims if isinstance(d, int)]
        return np.array(int(np.prod(whole)) if len(whole) == len(dims) else None, object)
    start, end = int(op.attributes.get("start", 0)), op.attributes.get("end")
    return np.array(dims[start : None if end is None else int(end)], object)
