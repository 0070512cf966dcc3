"""Blocks of elements: axes with their lengths and steps, made as few as can be.

A step is the distance in elements between neighbours along an axis: 0 where an operand is repeated. Two neighbouring
axes are one where every operand walks through both evenly:

    step[i] = step[i + 1] * length[i + 1]     ->     one axis of length[i] * length[i + 1] with step[i + 1]
"""

from collections.abc import Sequence
from math import prod

Shape = tuple[int, ...]
RANK = 6


def strides(shape: Sequence[int]) -> Shape:
    """Steps of a tensor whose elements lie in C order."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def repeated(shape: Sequence[int], onto: Sequence[int]) -> Shape:
    """Steps of a tensor of `shape` that is broadcast to `onto`."""
    lead = len(onto) - len(shape)
    steps = strides(shape)
    return (0,) * lead + tuple(0 if size == 1 else step for size, step in zip(shape, steps, strict=True))


def merged(lengths: Sequence[int], *steps: Sequence[int]) -> tuple[Shape, list[Shape]]:
    """The same elements in the same order with as few axes as can be, at least one."""
    kept: list[tuple[int, tuple[int, ...]]] = []
    for length, *at in zip(lengths, *steps, strict=True):
        if length == 1:
            continue
        if kept and all(before == now * length for before, now in zip(kept[-1][1], at, strict=True)):
            kept[-1] = (kept[-1][0] * length, tuple(at))
        else:
            kept.append((length, tuple(at)))
    kept = kept or [(1, (0,) * len(steps))]
    return tuple(length for length, _ in kept), [tuple(at[i] for _, at in kept) for i in range(len(steps))]


def filled(values: Sequence[int], rank: int = RANK) -> Shape:
    """`values` with zeros behind, as an array of `rank` elements in C."""
    return (*values, *[0] * (rank - len(values)))
