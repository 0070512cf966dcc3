"""Schemes: all that is settled before any data is seen, and parameters: all that data decides.

Symmetric, affine, per-tensor, per-channel and per-block are not classes but values of independent fields, so that
they combine. The scale has the rank of the tensor it belongs to, always; its shape *is* the granularity:

    tiling              tensor (64, 3, 7, 7)    scale
    PER_TENSOR                                  (1, 1, 1, 1)
    per_channel(0)                              (64, 1, 1, 1)
    Tiling(((1, 32),))  tensor (8, 64)          (1, 2)
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.grid import Grid, IntGrid


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


@dataclass(frozen=True)
class Scheme:
    """Which codes, which elements share a scale, and what about scale and zero point is free."""

    grid: Grid
    tiling: Tiling = PER_TENSOR
    scale: ScaleRule = ScaleRule.FREE
    zero_point: ZeroRule = ZeroRule.NONE

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
        grid = {"bits": self.grid.bits, "signed": self.grid.signed, "narrow": self.grid.narrow}
        tiles = [list(tile) for tile in self.tiling.tiles]
        return {"grid": grid, "tiles": tiles, "scale": self.scale.value, "zero_point": self.zero_point.value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Scheme":
        """The inverse of `to_json`."""
        tiles = tuple((int(axis), int(run)) for axis, run in data["tiles"])
        return cls(IntGrid(**data["grid"]), Tiling(tiles), ScaleRule(data["scale"]), ZeroRule(data["zero_point"]))


@dataclass(frozen=True, eq=False)
class QParams:
    """Scale and zero point of one tensor.

    Holds: `scale` float32, positive and finite; `zero_point` int32, on the grid or 0; both of one shape, which has the
    rank of the tensor (or is all ones, of any rank, for a per-tensor scale).
    """

    scheme: Scheme
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.scale.shape != self.zero_point.shape:
            raise BadOption(f"QParams: scale of shape {self.scale.shape}, zero point of {self.zero_point.shape}.")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise BadOption(f"QParams: scales must be positive and finite, found {self.scale.ravel()[:4]}.")

    def to_json(self) -> dict[str, Any]:
        """Scales as decimal text that reads back to the same float32."""
        scales = [float(str(s)) for s in self.scale.ravel()]
        return {"shape": list(self.scale.shape), "scale": scales, "zero_point": self.zero_point.ravel().tolist()}

    @classmethod
    def from_json(cls, scheme: Scheme, data: dict[str, Any]) -> "QParams":
        """The inverse of `to_json`."""
        shape = tuple(data["shape"])
        zeros = [int(z) for z in data["zero_point"]]
        low, high = min(scheme.grid.low, 0), max(scheme.grid.high, 0)
        if zeros != list(data["zero_point"]) or not all(low <= z <= high for z in zeros):
            raise BadOption(
                f"QParams: zero points {data['zero_point'][:4]}; whole numbers from {low} to {high} are codes."
            )
        with np.errstate(over="ignore"):
            scale = np.array(data["scale"], np.float64).astype(np.float32).reshape(shape)
        return cls(scheme, scale, np.array(zeros, np.int32).reshape(shape))
