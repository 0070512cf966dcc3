"""Shapes and indices that a network computes while it runs, worked out when the file is written.

A Shape gives the lengths of a tensor's axes as the format has them, an open one as None or by its name. What follows,
up to the Reshape, Slice or Resize that uses it, moves and computes these few numbers; what is computed from an open
length is None.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from halfeven.graph.network import Op, Tensor

Array = npt.NDArray[np.generic]


class Shapes(Protocol):
    """What a writer knows of shapes."""

    known: dict[str, Array]
    """Tensors that were worked out, by name."""

    def lengths(self, tensor: Tensor, op: Op) -> Sequence[Any] | None:
        """Of the axes of a tensor that `op` reads; None if the tensor is not written."""
        ...


_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: int(a / b),
    "Min": min,
    "Max": max,
}


def evaluate(op: Op, shapes: Shapes) -> bool:
    """Work an operator on shapes out; False if it is none, or one that this cannot."""
    if len(op.outputs) != 1:
        return False
    if op.kind in ("Shape", "Size"):
        found = _shape(op, shapes)
    else:
        found = computed(op, [None if t is None else _known(t, shapes) for t in op.inputs])
    if found is None:
        return False
    shapes.known[op.outputs[0].name] = found
    return True


def numbers(tensor: Tensor | None, shapes: Shapes) -> list[Any] | None:
    """The whole numbers of a tensor of shape arithmetic or a constant, open lengths as they are; None: not known."""
    found = None if tensor is None else _known(tensor, shapes)
    return None if found is None else _plain(found.ravel().tolist())


def fixed(op: Op, port: int, name: str, shapes: Shapes) -> list[int] | None:
    """The whole numbers at an input, or in the attribute of older operators; None where some are not known."""
    if port < len(op.inputs):
        found = numbers(op.inputs[port], shapes)
    else:
        found = [int(n) for n in op.attributes[name]] if name in op.attributes else None
    known = [n for n in found or [] if isinstance(n, int)]
    return None if found is None or len(known) < len(found) else known


def _known(tensor: Tensor, shapes: Shapes) -> Array | None:
    if tensor.name in shapes.known:
        return shapes.known[tensor.name]
    data = tensor.data
    return None if data is None or data.dtype.kind not in "iu" else data.astype(object)


def _shape(op: Op, shapes: Shapes) -> Array | None:
    tensor = op.inputs[0]
    lengths = None if tensor is None else shapes.lengths(tensor, op)
    if lengths is None:
        return None
    dims = _plain(lengths)
    if op.kind == "Size":
        whole = [d for d in dims if isinstance(d, int)]
        return np.array(int(np.prod(whole)) if len(whole) == len(dims) else None, object)
    start, end = int(op.attributes.get("start", 0)), op.attributes.get("end")
    return np.array(dims[start : None if end is None else int(end)], object)


def _plain(lengths: Sequence[Any]) -> list[Any]:
    return [int(n) if isinstance(n, np.integer) else n for n in lengths]


def computed(op: Op, operands: list[Array | None]) -> Array | None:
    """What an operator makes of whole numbers, None or a name where one is not known; None: it cannot be told."""
    if not operands or any(t is not None and x is None for t, x in zip(op.inputs, operands, strict=True)):
        return None
    x, rest = operands[0], operands[1:]
    assert x is not None
    match op.kind:
        case "Identity" | "Cast":
            return x if int(op.attributes.get("to", 7)) in (6, 7) else None
        case "Concat":
            return np.concatenate([p for p in operands if p is not None], int(op.attributes["axis"]))
        case "Gather" if rest[0] is not None:
            return np.asarray(np.take(x, rest[0].astype(np.int64), int(op.attributes.get("axis", 0))), object)
        case "Squeeze" | "Unsqueeze":
            return _axes(op, x, rest)
        case "Slice":
            return _slice(x, rest)
        case "Reshape" if rest[0] is not None:
            return x.reshape([int(n) for n in rest[0].ravel()])
    if op.kind in _ARITHMETIC and len(operands) == 2 and rest[0] is not None:
        each = np.frompyfunc(
            lambda a, b: _ARITHMETIC[op.kind](a, b) if isinstance(a, int) and isinstance(b, int) else None, 2, 1
        )
        return np.asarray(each(x, rest[0]), object)
    return None


def _axes(op: Op, x: Array, rest: list[Array | None]) -> Array | None:
    given = rest[0].tolist() if rest and rest[0] is not None else op.attributes.get("axes")
    if op.kind == "Squeeze":
        return x.squeeze(None if given is None else tuple(int(a) for a in given))
    return None if given is None else np.expand_dims(x, tuple(int(a) for a in given))


def _slice(x: Array, rest: list[Array | None]) -> Array | None:
    parts = [None if p is None else p.ravel().tolist() for p in rest]
    starts, ends = parts[0], parts[1]
    if starts is None or ends is None or None in starts or None in ends:
        return None
    axes = parts[2] if len(parts) > 2 and parts[2] is not None else list(range(len(starts)))
    steps = parts[3] if len(parts) > 3 and parts[3] is not None else [1] * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return np.asarray(x[tuple(index)], object)
