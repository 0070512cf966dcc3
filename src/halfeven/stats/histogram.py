"""Histogram: how often which values occur, over bins of a power-of-two width that doubles when the range grows.

`numerics/bins.py` defines the bins. The width follows from the extrema alone, and a wider bin is a union of narrower
ones; so the histogram of a stream is the same however it is cut, and merging is associative and commutative to the
last count. Exact zeros are counted apart: half of a ReLU's outputs are zero, cost nothing on any grid (zero is always a
code), and would hide the rest.

With `stride` s only each s-th element of a tensor is counted, the extrema remain exact. Take an s that shares no factor
with the tensor's shape, for instance a prime above 3, lest it sees some channels only.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.bins import BINS, Counts, coarsen, exponent_for, sides
from halfeven.numerics.native import histogram
from halfeven.stats.summary import Array, Extrema, float32_of, with_fields


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of the finite elements that are not zero, most negative bin first.

    Holds: `counts` int64 of shape (negative + positive,), at most (4096,), where `exponent`, `negative` and `positive`
    follow from `extrema`; bin i is |x| in units of 2**exponent from |i - negative| on (see numerics/bins.py).
    """

    kind: ClassVar[str] = "histogram"
    extrema: Extrema = field(default_factory=Extrema)
    zeros: int = 0
    counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        expected = sum(sides(self.extrema.low, self.extrema.high, self.exponent))
        if self.counts.shape != (expected,):
            raise BadCalibration(f"Histogram: counts of shape {self.counts.shape}, but its range has {expected} bins.")

    def __eq__(self, other: object) -> bool:
        """Equal in every count."""
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self.extrema, self.zeros) == (other.extrema, other.zeros) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]

    @property
    def empty(self) -> bool:
        """True when no finite element was seen."""
        return self.extrema.empty

    @property
    def exponent(self) -> int:
        """Bins are 2**exponent wide."""
        return exponent_for(self.extrema.low, self.extrema.high)

    @property
    def negative(self) -> int:
        """How many bins lie below zero."""
        return sides(self.extrema.low, self.extrema.high, self.exponent)[0]

    @property
    def sampled(self) -> int:
        """How many elements were counted, zeros included."""
        return self.zeros + int(self.counts.sum())

    def within(self, threshold: float) -> tuple[float, float]:
        """`[-threshold, threshold]`, less what holds no data; holds 0."""
        return max(min(self.extrema.low, 0.0), -threshold), min(max(self.extrema.high, 0.0), threshold)

    @classmethod
    def of(cls, x: Array, stride: int = 1, threads: int = 1) -> Self:
        """Histogram of `x`, of any shape; each `stride`-th element is counted.

        Raises:
            BadCalibration: `x` does not hold floats.
            BadOption: `stride` is less than 1.
        """
        if stride < 1:
            raise BadOption(f"Histogram: a stride of {stride} was given; 1 counts each element, 7 each seventh.")
        (low, high, nans, infs), zeros, counts = histogram(float32_of(x), stride, threads)
        return cls(Extrema(low, high, x.size, nans, infs), zeros, counts)

    def then(self, x: Array, stride: int = 1, threads: int = 1) -> Self:
        """Take `x` in."""
        return self.merge(self.of(x, stride, threads))

    def merge(self, other: "Histogram") -> Self:
        """The histogram of both streams; associative and commutative."""
        extrema = self.extrema.merge(other.extrema)
        exponent = exponent_for(extrema.low, extrema.high)
        negative, positive = sides(extrema.low, extrema.high, exponent)
        total = np.zeros(negative + positive, np.int64)
        for part in (self, other):
            counts, below = coarsen(part.counts, part.negative, exponent - part.exponent)
            total[negative - below :][: counts.size] += counts
        return type(self)(extrema, self.zeros + other.zeros, total)

    def to_json(self) -> dict[str, Any]:
        """Counts are written in order, a run of k empty bins as -k."""
        runs: list[int] = []
        for count in self.counts.tolist():
            if count == 0 and runs and runs[-1] < 0:
                runs[-1] -= 1
            else:
                runs.append(count or -1)
        return {"kind": self.kind, "extrema": self.extrema.to_json(), "zeros": self.zeros, "counts": runs}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            BadCalibration: the values are not those of a `Histogram`.
        """
        with_fields(data, "extrema", "zeros", "counts")
        runs = np.array(data["counts"], np.int64).reshape(-1)
        lengths = np.where(runs < 0, -np.maximum(runs, -BINS - 1), 1)
        if lengths.sum() > BINS:
            raise BadCalibration(f"Stored histogram: {lengths.sum()} bins found, at most {BINS} were expected.")
        counts = np.repeat(np.maximum(runs, 0), lengths)
        return cls(Extrema.from_json(data["extrema"]), int(data["zeros"]), counts)
