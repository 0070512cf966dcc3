"""Observation: what calibration remembers of one tensor, enough for every estimator at once."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from halfeven.stats.histogram import Histogram
from halfeven.stats.summary import MovingAverage

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Observation:
    """A histogram with exact extrema, and the moving average of the extrema, sample by sample.

    Of each sample at most about `limit` elements are counted in the histogram (every k-th, k odd and no multiple of 3,
    5 or 7, so that no channel is passed over); the extrema see all. What is kept does not depend on the number of
    samples, nor, but for the moving average, on their order.
    """

    histogram: Histogram = field(default_factory=Histogram)
    moving: MovingAverage | None = field(default_factory=MovingAverage)

    def then(self, x: Array, limit: int, threads: int = 1) -> Self:
        """Take the tensor of one sample in; tensors without elements change nothing."""
        if x.size == 0:
            return self
        part = Histogram.of(x, stride_for(x.size, limit), threads)
        moving = None if self.moving is None else self.moving.move(part.extrema)
        return replace(self, histogram=self.histogram.merge(part), moving=moving)

    def merge(self, other: Self) -> Self:
        """Both streams. Where both have samples the moving average, which knows no order between them, is dropped."""
        mine, yours = self.moving, other.moving
        if mine is not None and yours is not None:
            moving = mine.merge(yours) if not mine.samples or not yours.samples else None
        else:
            moving = None
        return replace(self, histogram=self.histogram.merge(other.histogram), moving=moving)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "histogram": self.histogram.to_json(),
            "moving": None if self.moving is None else self.moving.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        moving = data.get("moving")
        return cls(Histogram.from_json(data["histogram"]), None if moving is None else MovingAverage.from_json(moving))


@lru_cache(maxsize=1024)  # asked for each tensor of each sample
def stride_for(size: int, limit: int) -> int:
    """The least k, coprime to 2, 3, 5 and 7, that leaves at most about `limit` of `size` elements; 1 when all fit."""
    k = -(-size // limit)
    while k > 1 and any(k % p == 0 for p in (2, 3, 5, 7)):
        k += 1
    return max(k, 1)
