"""Codes moved from unsigned to signed types and back, which changes no value.

    (code - zero_point) * scale = ((code - h) - (zero_point - h)) * scale,    h = 2**(bits - 1)

So a plan of uint8 activations serves a runtime that takes int8 ones, and the other way round, with the same real
numbers at every point.
"""

from dataclasses import replace

import numpy as np

from halfeven.graph.plan import Plan, Quantizer
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import QParams, Scheme
from halfeven.targets.target import Target


def as_target_takes(plan: Plan, target: Target) -> tuple[Plan, int]:
    """The plan with activations, and constants treated as such, of the sign that the target takes; how many changed."""
    groups, count = dict(plan.groups), 0
    for group, quantizer in plan.groups.items():
        other = _shifted(quantizer, target)
        if other is not None:
            groups[group], count = other, count + 1
    return replace(plan, groups=groups), count


def _shifted(quantizer: Quantizer, target: Target) -> Quantizer | None:
    """A quantizer of the other sign; None where it is fine as it is, or no scheme of the target is the same shifted."""
    mine, params = quantizer.scheme, quantizer.params
    data = [rule.data for rule in target.rules]
    if params is None or quantizer.role == "bias" or _like(mine.grid, data) or mine.grid.narrow:
        return None
    weights = [rule.weight for rule in target.rules if rule.weight is not None]
    if quantizer.role == "weight" and (_like(mine.grid, weights) or mine.grid.signed):
        return None
    half, grid = 1 << (mine.grid.bits - 1), IntGrid(mine.grid.bits, signed=not mine.grid.signed)
    zero = (params.zero_point + (half if grid.signed is False else -half)).astype(np.int32)
    for scheme in data:
        if scheme.grid == grid and (not scheme.symmetric or not zero.any()):
            moved = Scheme(grid, mine.tiling, scheme.scale, scheme.zero_point)
            return replace(quantizer, scheme=moved, params=QParams(moved, params.scale, zero))
    return None


def _like(grid: IntGrid, schemes: list[Scheme]) -> bool:
    return any((s.grid.bits, s.grid.signed) == (grid.bits, grid.signed) for s in schemes)
