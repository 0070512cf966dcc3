"""Channels: range and mean square of each channel of one tensor, channels along axis 1.

The range is of all elements; of long channels the mean square is that of about `SQUARED` of them, evenly spread.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration
from halfeven.numerics.native import channel_summary
from halfeven.stats.observation import stride_for

Doubles = npt.NDArray[np.float64]
SQUARED = 1024


@dataclass(frozen=True, eq=False)
class ChannelRange:
    """Per channel: lowest and highest value seen (zero included), and the mean square over `samples` samples."""

    low: Doubles
    high: Doubles
    square: Doubles
    samples: int

    @classmethod
    def of(cls, x: npt.NDArray[np.generic], block: int = 1, threads: int = 1) -> Self:
        """Of one sample `x`, shape (batch, channels, ...), that lies as [batch, channels / block, plane, block]."""
        elements = x.size // x.shape[1]
        stride = stride_for(elements, SQUARED)
        low, high, squares = channel_summary(np.asarray(x, np.float32), stride, block, threads)
        lowest, highest = np.minimum(low, 0).astype(np.float64), np.maximum(high, 0).astype(np.float64)
        return cls(lowest, highest, squares / -(-elements // stride), 1)

    def merge(self, other: Self) -> Self:
        """Both streams."""
        if self.low.shape != other.low.shape:
            raise BadCalibration(f"Channel statistics of {self.low.size} and {other.low.size} channels do not merge.")
        n = self.samples + other.samples
        square = (self.square * self.samples + other.square * other.samples) / max(n, 1)
        return type(self)(np.minimum(self.low, other.low), np.maximum(self.high, other.high), square, n)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        arrays = {"low": self.low.tolist(), "high": self.high.tolist(), "square": self.square.tolist()}
        return {**arrays, "samples": self.samples}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            BadCalibration: the lists differ in length, or are no ranges around zero.
        """
        low, high, square = (np.array(data[key], np.float64) for key in ("low", "high", "square"))
        whole = low.ndim == 1 and low.shape == high.shape == square.shape
        if not (whole and np.isfinite([low, high, square]).all() and (low <= 0).all() and (high >= 0).all()):
            raise BadCalibration(
                f"Channel ranges of shapes {low.shape}, {high.shape}, {square.shape}: expected three lists of equal "
                "length, finite, from 0 or below to 0 or above."
            )
        return cls(low, high, square, int(data["samples"]))
