"""Layout: in which order a tensor's axes lie in memory, and how that order passes through a graph.

ONNX puts channels first, LiteRT's convolutions want them last. A value is kept as it was made, with its `order`: axis
`order[k]` of the ONNX value is axis k of the stored tensor. An operator that works on any order (element-wise, concat,
pad, reduce, slice, ...) maps its axes and leaves the order alone; an ONNX Transpose only renames axes. A TRANSPOSE is
written where an operator insists on another order, and not even there when all that moves is of length one:

    stored           ONNX (N, C, H, W)    order
    NCHW             N C H W              (0, 1, 2, 3)
    NHWC             N H W C              (0, 2, 3, 1)

A Reshape keeps the order, too, when it merges and splits axes that lie together in memory (`regroup`):

    (N, C, H, W) stored NHWC -> (N, C, H * W) stored (N, H * W, C)        no data moves

An axis of length one lies anywhere; an open axis, whose length the caller chooses, does not count as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

Order = tuple[int, ...]


@dataclass(frozen=True)
class Dims:
    """The lengths of a value's axes, as ONNX orders them, and the axis that is open (its length is then 1 here)."""

    sizes: tuple[int, ...]
    open: int | None = None

    @property
    def rank(self) -> int:
        """How many axes there are."""
        return len(self.sizes)

    def solid(self, order: Sequence[int]) -> tuple[int, ...]:
        """The axes of `order` along which data can move: longer than one, or open."""
        return tuple(a for a in order if self.sizes[a] != 1 or a == self.open)

    def stored(self, order: Order) -> tuple[int, ...]:
        """The lengths as they lie in memory."""
        return tuple(self.sizes[a] for a in order)

    def stored_open(self, order: Order) -> int | None:
        """The open axis as it lies in memory."""
        return None if self.open is None else order.index(self.open)


def plain(rank: int) -> Order:
    """As ONNX has it."""
    return tuple(range(rank))


def channels_last(rank: int) -> Order:
    """(N, spatial axes, C)."""
    return plain(rank) if rank < 3 else (0, *range(2, rank), 1)


def still(dims: Dims, before: Order, after: Order) -> bool:
    """Whether going from one order to another moves no data."""
    return dims.solid(before) == dims.solid(after)


def regroup(before: Dims, order: Order, after: Dims) -> Order | None:
    """The order of a reshaped value whose memory is left as it is; None where that cannot be expressed."""
    groups = _groups(before, after)
    if groups is None:
        return None
    solid = before.solid(order)
    found: list[int] = []
    while solid:
        group = next((g for g in groups if solid[0] in g[0]), None)
        if group is None or solid[: len(group[0])] != group[0]:
            return None
        found += group[1]
        solid = solid[len(group[0]) :]
    return _with_units(after, found)


def _groups(before: Dims, after: Dims) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Runs of solid axes before and after that hold the same elements, as ONNX orders them; the open axis alone."""
    left, right = list(before.solid(plain(before.rank))), list(after.solid(plain(after.rank)))
    groups = []
    while left or right:
        if not left or not right:
            return None
        a, b = [left.pop(0)], [right.pop(0)]
        if (a[0] == before.open) != (b[0] == after.open):
            return None
        while (m := prod(before.sizes[i] for i in a)) != (n := prod(after.sizes[i] for i in b)):
            source, into = (left, a) if m < n else (right, b)
            if not source or source[0] == (before.open if source is left else after.open):
                return None
            into.append(source.pop(0))
        groups.append((tuple(a), tuple(b)))
    return groups


def _with_units(dims: Dims, solid: list[int]) -> Order:
    """A whole order from that of the solid axes: ONNX's, else channels last, else each unit in its place."""
    for candidate in (plain(dims.rank), channels_last(dims.rank)):
        if list(dims.solid(candidate)) == solid:
            return candidate
    order = list(solid)
    for axis in range(dims.rank):
        if axis not in solid:
            place = order.index(axis - 1) + 1 if axis else 0
            order.insert(place, axis)
    return tuple(order)


def raised(order: Order, rank: int) -> Order:
    """The order of a value of which ONNX's broadcasting sees `rank` axes: new axes of length one in front."""
    more = rank - len(order)
    return (*range(more), *(axis + more for axis in order))


def without(order: Order, axes: Sequence[int]) -> Order:
    """The order after these ONNX axes have been removed."""
    kept = [axis for axis in range(len(order)) if axis not in axes]
    return tuple(kept.index(axis) for axis in order if axis not in axes)
