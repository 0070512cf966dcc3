"""Schemes: all that is settled before any data is seen, and parameters: all that data decides.

Symmetric, affine, per-tensor, per-channel and per-block are not classes but values of independent fields, so that
they combine. The scale has the rank of the tensor it belongs to, always; its shape *is* the granularity:

    tiling              tensor (64, 3, 7, 7)    scale
    PER_TENSOR                                  (1, 1, 1, 1)
    per_channel(0)                              (64, 1, 1, 1)
    Tiling(((1, 32),))  tensor (8, 64)          (1, 2)
    per_group(2, 1, 32) tensor (8, 64)          (8, 2)
    per_token(3)        tensor (2, 10, 512)     (2, 10, 1)

A scheme is generic in its grid. `Scheme` alone means `Scheme[IntGrid]`: the codes are integers with a zero point, which
is what plans, targets, calibration and exporters work with, and the type checker holds them to it. `Scheme[Grid]`
takes any grid; `quantize`, `dequantize` and `fake_quantize` are one function each for all of them.

    grid                     zero_point FREE    ScaleRule.POWER_OF_TWO    what the scale is
    IntGrid                  yes                yes                       the step
    FloatGrid, CodebookGrid  no                 yes                       the value of code 1.0
    LogGrid                  no                 yes                       the largest magnitude
    BinaryGrid, TernaryGrid  no                 yes                       alpha
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.binary import TernaryGrid
from halfeven.numerics.grid import Grid, IntGrid, grid_from_json, grid_to_json

if TYPE_CHECKING:  # the default of a type variable exists from Python 3.13 on; the type checker knows it before
    G = TypeVar("G", bound=Grid, default=IntGrid, covariant=True)
else:
    G = TypeVar("G", covariant=True)
AnyGrid = TypeVar("AnyGrid", bound=Grid)


class ScaleRule(StrEnum):
    """Which scales may be chosen."""

    FREE = "free"
    POWER_OF_TWO = "power_of_two"


class ZeroRule(StrEnum):
    """Whether the zero point is zero (symmetric) or chosen by the data (affine)."""

    NONE = "none"
    FREE = "free"


@dataclass(frozen=True)
class Tiling:
    """Which elements share a scale: `(axis, run length)` pairs; all elements along an axis not named share."""

    tiles: tuple[tuple[int, int], ...] = ()

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the scale of a tensor of `shape`; the same rank.

        Raises:
            BadOption: an axis does not exist, or its length is no multiple of the run.
        """
        out = [1] * len(shape)
        for axis, run in self.tiles:
            if not -len(shape) <= axis < len(shape):
                raise BadOption(f"Tiling: a tensor of shape {shape} has no axis {axis}.")
            if shape[axis] % run:
                raise BadOption(
                    f"Tiling: a tensor of shape {shape} does not split into tiles of {run} along axis {axis}. "
                    f"Use a run that divides {shape[axis]}, or per_channel."
                )
            out[axis] = shape[axis] // run
        return tuple(out)

    @property
    def axis(self) -> int | None:
        """The channel axis of a per-channel tiling, else None."""
        return self.tiles[0][0] if len(self.tiles) == 1 and self.tiles[0][1] == 1 else None


PER_TENSOR = Tiling()


def per_channel(axis: int) -> Tiling:
    """One scale for each index along `axis`."""
    return Tiling(((axis, 1),))


def per_token(rank: int) -> Tiling:
    """One scale for each vector along the last axis, of a tensor of `rank` axes."""
    return Tiling(tuple((axis, 1) for axis in range(rank - 1)))


def per_group(rank: int, axis: int, length: int) -> Tiling:
    """One scale for each run of `length` along `axis`, at each place along the other axes."""
    return Tiling(tuple((i, length if i == axis % rank else 1) for i in range(rank)))


@dataclass(frozen=True)
class Scheme(Generic[G]):
    """Which codes, which elements share a scale, and what about scale and zero point is free.

    Holds: only integers have a free zero point; a symmetric grid has a code above zero.
    """

    grid: G
    tiling: Tiling = PER_TENSOR
    scale: ScaleRule = ScaleRule.FREE
    zero_point: ZeroRule = ZeroRule.NONE

    def __post_init__(self) -> None:
        if isinstance(self.grid, IntGrid):
            if self.symmetric and self.grid.high == 0:
                raise BadOption(f"Scheme: a symmetric {self.grid} has no code above zero; use BinaryGrid or affine.")
        elif not self.symmetric:
            raise BadOption(f"Scheme: {self.grid} codes have no zero point; use zero_point=ZeroRule.NONE.")

    @property
    def symmetric(self) -> bool:
        """True when the zero point is fixed at 0."""
        return self.zero_point is ZeroRule.NONE

    def __str__(self) -> str:
        """For instance `uint8 affine per-tensor`."""
        grain = "per-tensor" if not self.tiling.tiles else "per-channel" if self.tiling.axis is not None else "blocked"
        po2 = " power-of-two" if self.scale is ScaleRule.POWER_OF_TWO else ""
        return f"{self.grid} {'symmetric' if self.symmetric else 'affine'}{po2} {grain}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a plan file."""
        tiles = [list(tile) for tile in self.tiling.tiles]
        rules = {"scale": self.scale.value, "zero_point": self.zero_point.value}
        return {"grid": grid_to_json(self.grid), "tiles": tiles, **rules}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Scheme":
        """The inverse of `to_json`, for integers.

        Raises:
            BadOption: the grid is another; `any_scheme` reads those.
        """
        scheme = any_scheme(data)
        if not isinstance(scheme.grid, IntGrid):
            raise BadOption(f"Scheme: integer codes were expected, found {scheme.grid}.")
        return Scheme(scheme.grid, scheme.tiling, scheme.scale, scheme.zero_point)


def any_scheme(data: dict[str, Any]) -> Scheme[Grid]:
    """The inverse of `Scheme.to_json`, for all grids."""
    tiles = tuple((int(axis), int(run)) for axis, run in data["tiles"])
    grid = grid_from_json(data["grid"])
    return Scheme(grid, Tiling(tiles), ScaleRule(data["scale"]), ZeroRule(data["zero_point"]))


@dataclass(frozen=True, eq=False)
class QParams(Generic[G]):
    """Scale and zero point of one tensor.

    Holds: `scale` float32, positive and finite; `zero_point` int32, on the grid or 0; both of one shape, which has the
    rank of the tensor (or is all ones, of any rank, for a per-tensor scale). `threshold`, of that shape too, is for
    ternary codes only: what is not larger becomes 0.
    """

    scheme: Scheme[G]
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]
    threshold: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not isinstance(self.scheme.grid, TernaryGrid):
            raise BadOption(f"QParams: a threshold is for ternary codes, not for {self.scheme.grid}.")
        if self.threshold is not None and self.threshold.shape != self.scale.shape:
            raise BadOption(f"QParams: scale of shape {self.scale.shape}, threshold of {self.threshold.shape}.")
        if self.scale.shape != self.zero_point.shape:
            raise BadOption(f"QParams: scale of shape {self.scale.shape}, zero point of {self.zero_point.shape}.")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise BadOption(f"QParams: scales must be positive and finite, found {self.scale.ravel()[:4]}.")

    def to_json(self) -> dict[str, Any]:
        """Scales as decimal text that reads back to the same float32."""
        scales = [float(str(s)) for s in self.scale.ravel()]
        more = {} if self.threshold is None else {"threshold": [float(str(t)) for t in self.threshold.ravel()]}
        zeros = self.zero_point.ravel().tolist()
        return {"shape": list(self.scale.shape), "scale": scales, "zero_point": zeros, **more}

    @staticmethod
    def from_json(scheme: "Scheme[AnyGrid]", data: dict[str, Any]) -> "QParams[AnyGrid]":
        """The inverse of `to_json`."""
        shape = tuple(data["shape"])
        zeros = [int(z) for z in data["zero_point"]]
        grid = scheme.grid
        low, high = (min(grid.low, 0), max(grid.high, 0)) if isinstance(grid, IntGrid) else (0, 0)
        if zeros != list(data["zero_point"]) or not all(low <= z <= high for z in zeros):
            raise BadOption(
                f"QParams: zero points {data['zero_point'][:4]}; whole numbers from {low} to {high} are codes."
            )
        with np.errstate(over="ignore"):
            scale = np.array(data["scale"], np.float64).astype(np.float32).reshape(shape)
        limit = data.get("threshold")
        threshold = None if limit is None else np.array(limit, np.float64).astype(np.float32).reshape(shape)
        return QParams(scheme, scale, np.array(zeros, np.int32).reshape(shape), threshold)
