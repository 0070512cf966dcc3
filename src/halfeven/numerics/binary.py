"""Grids of one and of two bits: weights that are a sign, or a sign and zero, times alpha.

    grid          codes     value           alpha (the scale)                    a code is
    BinaryGrid    -1, 1     alpha * code    mean |w| over the tile               1 where w >= 0, also for -0.0; else -1
    TernaryGrid   -1, 0, 1  alpha * code    mean |w| over the kept               sign(w) where |w| > threshold, else 0

The ternary threshold is 0.7 * mean |w| over the tile, kept in `QParams.threshold`; parameters without one have the
threshold alpha / 2, which is the nearest code. mean |w| is the alpha of least squared error for the binary codes, and
the mean over the kept that for the ternary codes; both are computed in float64 and stored as float32. NaN gets -1.
These grids have no ties, so no rounding rule.

A dot product of binary codes of length N is N - 2 * popcount(a xor b), with a bit set for the code 1.

Sources: Rastegari et al. 2016, XNOR-Net, arXiv:1603.05279, equation 6; Li and Liu 2016, Ternary Weight Networks,
arXiv:1605.04711, equations 5 and 6.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

KEPT = 0.7  # of mean |w|: the threshold of Ternary Weight Networks

Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class BinaryGrid:
    """The codes -1 and 1."""

    bits: ClassVar[int] = 1

    @property
    def dtype(self) -> np.dtype[np.int8]:
        """Codes are int8; `packing.pack_signs` makes bits of them."""
        return np.dtype(np.int8)

    def __str__(self) -> str:
        """`binary`."""
        return "binary"

    def encode(self, x: npt.NDArray[np.floating]) -> Codes:
        """The sign of `x`; that of zero is 1, also of negative zero."""
        return np.where(x >= 0, 1, -1).astype(np.int8)


@dataclass(frozen=True)
class TernaryGrid:
    """The codes -1, 0 and 1."""

    bits: ClassVar[int] = 2

    @property
    def dtype(self) -> np.dtype[np.int8]:
        """Codes are int8."""
        return np.dtype(np.int8)

    def __str__(self) -> str:
        """`ternary`."""
        return "ternary"

    def encode(self, x: npt.NDArray[np.floating], threshold: npt.NDArray[np.float32]) -> Codes:
        """The sign of what is larger than `threshold` (which broadcasts against `x`), else 0."""
        kept = np.where(np.abs(x) > threshold, np.sign(x), 0)
        return np.where(np.isnan(x), -1, kept).astype(np.int8)


def binary_scale(tiles: npt.NDArray[np.floating], axes: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Alpha of each tile: mean |w| over `axes`."""
    alpha: npt.NDArray[np.float64] = np.asarray(np.abs(tiles.astype(np.float64)).mean(axes))
    return alpha


def ternary_scale(
    tiles: npt.NDArray[np.floating], axes: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Alpha and threshold of each tile; alpha 0 where nothing is kept."""
    size = np.abs(tiles.astype(np.float64))
    threshold = np.asarray(KEPT * size.mean(axes), np.float32)
    kept = size > np.expand_dims(threshold, axes)
    return (size * kept).sum(axes) / np.maximum(kept.sum(axes), 1), threshold
