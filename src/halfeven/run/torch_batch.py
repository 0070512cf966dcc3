"""Whether the first axis of a module's inputs is a batch: rows that do not know of each other.

Two rows a and b are cut from the example. If forward gives

    f([a; b]) = [f(a); f(b)]

with the rows of each output joined on some axis, or an output that depends on neither, then the axis is a batch. A
recurrent layer which takes time first fails the test, as does a module that normalizes or attends over the batch; so
does one whose forward has the number of rows written into it. Inputs as long as the first one have rows, others none.

The example often has one row only, and often one made of zeros. Then b is the row reversed, or, where that changes
nothing, shifted: by a ramp from 1/2 to 1 if it holds floats, by -1 where that leaves it positive if it holds integers,
which stays within the range of an index. Of several integers the second half is shifted: a mask of ones is then one of
a shorter sequence, and not of none, over which no attention is defined.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ROWS_TOLERANCE = 1e-3
"""Relative to an output's maximum. Kernels for other batch sizes sum in another order; rows that mix are far off."""

TINY = 1e-30

Array = npt.NDArray[Any]


def pair_of_rows(tensors: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any], list[bool]]:
    """The tensors with row a only, with row b only and with both, and which of them have rows at all."""
    size = len(tensors[0]) if tensors[0].dim() else 0
    batched = [bool(size and tensor.dim() and len(tensor) == size) for tensor in tensors]
    first = [tensor[:1] if has_rows else tensor for tensor, has_rows in zip(tensors, batched, strict=True)]
    second = [_another(tensor) if has_rows else tensor for tensor, has_rows in zip(tensors, batched, strict=True)]
    both = [
        _joined(tensor, other) if has_rows else tensor
        for tensor, other, has_rows in zip(first, second, batched, strict=True)
    ]
    return first, second, both, batched


def is_stacked(first: Sequence[Any], second: Sequence[Any], both: Sequence[Any]) -> bool:
    """Whether each tensor of `both` is those of `first` and `second` joined on some axis, or equal to either."""
    if not len(first) == len(second) == len(both):
        return False
    triples = zip(first, second, both, strict=True)
    return all(_is_joint(*(as_array(tensor) for tensor in triple)) for triple in triples)


def as_array(tensor: Any) -> Array:
    """A tensor's values as an array of its dtype."""
    array: Array = tensor.detach().cpu().numpy()
    return array


def largest_gap(expected: Array, found: Array) -> float:
    """The largest |expected - found| over the largest |expected|, of finite values.

    Infinite where shapes, kinds of dtype, places of NaN and infinity, or values that are no floats differ.
    """
    if expected.shape != found.shape or expected.dtype.kind != found.dtype.kind:
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, found) else float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], found[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return float("inf")
    a, b = expected[finite].astype(np.float64), found[finite].astype(np.float64)
    gap = float(np.abs(a - b).max(initial=0))
    return gap and gap / max(float(np.abs(a).max(initial=0)), TINY)


def _is_joint(a: Array, b: Array, both: Array) -> bool:
    for axis in range(both.ndim):
        if both.ndim == a.ndim == b.ndim and both.shape[axis] == a.shape[axis] + b.shape[axis] > 0:
            parts = np.split(both, [a.shape[axis]], axis)
            return max(largest_gap(a, parts[0]), largest_gap(b, parts[1])) <= ROWS_TOLERANCE
    return max(largest_gap(a, both), largest_gap(b, both)) <= ROWS_TOLERANCE


def _another(tensor: Any) -> Any:
    """A row that differs from the tensor's first one, if that can be arranged."""
    first, last = tensor[:1], tensor[-1:]
    for row in (last, last.flip(tuple(range(1, last.dim())))):
        if not bool((row == first).all()):
            return row
    if last.is_floating_point():
        return last + last.new_tensor(np.linspace(0.5, 1, last.numel())).reshape(last.shape)
    if "int" not in str(last.dtype):
        return last
    later = (np.arange(last.numel()) >= last.numel() // 2).reshape(last.shape)
    return last - ((last > 0) & last.new_tensor(later).bool()).to(last.dtype)


def _joined(first: Any, second: Any) -> Any:
    both = first.expand(2, *first.shape[1:]).clone()
    both[1:] = second
    return both
