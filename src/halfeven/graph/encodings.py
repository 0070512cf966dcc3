"""Encodings: what a table of scales holds, between a plan and a file.

A plan knows places on wires, a table names of tensors. An `Encoding` is one entry of a table in our convention: a name,
scale and zero point of the tensor's rank, and who reads it so. Each format writes and reads these through
`numerics.conventions`, one scale at a time; nothing is lost that the convention does not lose.

    tensor        scale                    axes
    activation    ()                       none
    constant      the shape of a QParams   as in `numerics.scheme`
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from halfeven.errors import BadOption
from halfeven.graph.plan import Role
from halfeven.numerics.conventions import Canonical, Fields, from_canonical
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, Tiling, ZeroRule


@dataclass(frozen=True, eq=False)
class Encoding:
    """One tensor of a table; `readers` are (node, port) of those that see it so, empty: all."""

    name: str
    params: QParams
    role: Role = "activation"
    readers: tuple[tuple[str, int], ...] = ()

    @property
    def scales(self) -> list[float]:
        """The scales, flat, as the shortest decimal numbers that are read back to the same float32."""
        return [float(str(scale)) for scale in self.params.scale.ravel()]

    @property
    def zero_points(self) -> list[int]:
        """The zero points, flat."""
        return [int(zero) for zero in self.params.zero_point.ravel()]


def canonical(params: QParams) -> list[Canonical]:
    """Each scale with its zero point, flat."""
    low, high = params.scheme.grid.low, params.scheme.grid.high
    pairs = zip(params.scale.ravel(), params.zero_point.ravel(), strict=True)
    return [Canonical(float(scale), int(zero), low, high) for scale, zero in pairs]


def written(entry: Encoding, convention: str, *, lossy: bool = False) -> list[Fields]:
    """Each scale with its zero point as a convention writes them, flat.

    Raises:
        BadOption: the convention cannot hold one of them, or loses some of it and `lossy` is False; names the tensor.
    """
    try:
        return [from_canonical(convention, one, lossy=lossy) for one in canonical(entry.params)]
    except BadOption as error:
        raise BadOption(f"'{entry.name}' is {entry.params.scheme}. {error}") from error


def full_grid(params: QParams) -> QParams:
    """The same parameters with the lowest code, for formats that do not know of narrow grids."""
    grid = params.scheme.grid
    return replace(params, scheme=replace(params.scheme, grid=replace(grid, narrow=False))) if grid.narrow else params


def grid_of(low: int, high: int) -> IntGrid | None:
    """The integers from `low` to `high`, where there is a grid of these."""
    signed = low < 0
    bits = high.bit_length() + signed if high > 0 else 0
    for narrow in (False, True) if signed and bits > 1 else (False,):
        if 1 <= bits <= 32 and (grid := IntGrid(bits, signed, narrow)).low == low and grid.high == high:
            return grid
    return None


def gathered(found: Sequence[Canonical], tiling: Tiling = PER_TENSOR, shape: tuple[int, ...] = ()) -> QParams:
    """Parameters of equal codes, of which `shape` is that of the scale; affine if some zero point is not 0.

    Raises:
        ValueError: their codes differ, or there is no such grid.
    """
    codes = {(one.low, one.high) for one in found}
    grid = grid_of(*codes.pop()) if len(codes) == 1 else None
    if grid is None:
        raise ValueError("its codes are of no integer grid, or differ between channels")
    zeros = [one.zero_point for one in found]
    scheme = Scheme(grid, tiling, zero_point=ZeroRule.FREE if any(zeros) else ZeroRule.NONE)
    scale = np.array([one.scale for one in found], np.float32).reshape(shape)
    return QParams(scheme, scale, np.array(zeros, np.int32).reshape(shape))
