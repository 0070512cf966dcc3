"""Summaries: what is remembered of a stream of tensors, of bounded size however long the stream is.

    summary         remembers                                          merges
    Extrema         lowest and highest element                         exactly, in any order
    MovingAverage   averaged low and high of a sample                  not: the order of the samples matters
    Histogram       counts over up to 4096 bins, and the extrema       exactly, in any order (stats/histogram.py)

An empty summary, `Extrema()`, merges with any and changes nothing. NaN and infinities enter no range; they are counted,
and it is for the reader to refuse them (`stats/estimate.py` does so for NaN).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration
from halfeven.numerics.native import extrema

Array = npt.NDArray[np.generic]


class Summary(Protocol):
    """Bounded in size; `kind` names it in files."""

    kind: ClassVar[str]

    @classmethod
    def of(cls, x: Array) -> Self:
        """The summary of one tensor."""

    def then(self, x: Array) -> Self:
        """The summary of all before and of `x`."""

    def merge(self, other: Self) -> Self:
        """The summary of both streams."""

    def to_json(self) -> dict[str, Any]:
        """Plain values that give the same summary back, bit for bit."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""


def float32_of(x: Array) -> npt.NDArray[np.float32]:
    """`x` as float32: float16 and bfloat16 exactly, float64 rounded (beyond float32 it becomes infinite).

    Raises:
        BadCalibration: `x` does not hold floats.
    """
    if x.dtype == np.float32:
        return np.asarray(x)
    if x.dtype.kind not in "fV" or not np.can_cast(x.dtype, np.float64):
        raise BadCalibration(f"A tensor of dtype {x.dtype} has no range to calibrate: floats were expected.")
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32)


@dataclass(frozen=True)
class Extrema:
    """Lowest and highest finite element; (inf, -inf) when there was none.

    Holds: `count` is of all elements, the `nans` and `infs` among them; `low` and `high` are float32 values, never -0.
    """

    kind: ClassVar[str] = "extrema"
    low: float = np.inf
    high: float = -np.inf
    count: int = 0
    nans: int = 0
    infs: int = 0

    @property
    def empty(self) -> bool:
        """True when no finite element was seen."""
        return self.low > self.high

    @classmethod
    def of(cls, x: Array, threads: int = 1) -> Self:
        """Extrema of `x`, of any shape."""
        low, high, nans, infs = extrema(float32_of(x), threads)
        return cls(low, high, x.size, nans, infs)

    def then(self, x: Array) -> Self:
        """Take `x` in."""
        return self.merge(self.of(x))

    def merge(self, other: "Extrema") -> Self:
        """Extrema of both; associative and commutative."""
        return type(self)(
            min(self.low, other.low),
            max(self.high, other.high),
            self.count + other.count,
            self.nans + other.nans,
            self.infs + other.infs,
        )

    def to_json(self) -> dict[str, Any]:
        """Bounds are null when empty; a float64 written in decimal reads back the same."""
        bounds = [None, None] if self.empty else [self.low, self.high]
        return {"kind": self.kind, "range": bounds, "count": self.count, "nans": self.nans, "infs": self.infs}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            BadCalibration: the values are not those of an `Extrema`.
        """
        with_fields(data, "range", "count", "nans", "infs")
        low, high = bounds_from(data["range"])
        with np.errstate(over="ignore"):
            rounded = np.array([low, high]).astype(np.float32).tolist()
        if rounded != [low, high]:
            raise BadCalibration(f"Stored extrema: the range {data['range']} does not consist of float32 values.")
        return cls(low, high, int(data["count"]), int(data["nans"]), int(data["infs"]))


@dataclass(frozen=True)
class MovingAverage:
    """The exponential moving average of each sample's lowest and highest element, samples along axis 0.

    The first sample sets it, each later one moves it: new = (1 - c) * old + c * sample, in float64 (PyTorch's
    MovingAverageMinMaxObserver, there per batch; per sample, the result does not depend on the size of the batches).
    For c = 0.01 a sample's weight halves in 69 samples. A tensor of rank 0 is one sample; a sample without a finite
    element does not move it.
    """

    kind: ClassVar[str] = "moving-average"
    low: float = np.inf
    high: float = -np.inf
    samples: int = 0
    nans: int = 0
    infs: int = 0
    c: float = 0.01

    @property
    def empty(self) -> bool:
        """True when no sample was seen."""
        return self.low > self.high

    @classmethod
    def of(cls, x: Array, c: float = 0.01) -> Self:
        """The average over the samples of `x`, shape (samples, ...)."""
        return cls(c=c).then(x)

    def then(self, x: Array) -> Self:
        """Take the samples of `x` in, in their order."""
        now = self
        for sample in np.atleast_1d(float32_of(x)):
            now = now.move(Extrema.of(np.asarray(sample)))
        return now

    def move(self, sample: Extrema) -> Self:
        """Take the extrema of the next sample in."""
        samples, nans, infs = self.samples + 1, self.nans + sample.nans, self.infs + sample.infs
        if sample.empty:
            return type(self)(self.low, self.high, samples, nans, infs, self.c)
        if self.empty:
            return type(self)(sample.low, sample.high, samples, nans, infs, self.c)
        low = (1 - self.c) * self.low + self.c * sample.low
        high = (1 - self.c) * self.high + self.c * sample.high
        return type(self)(low, high, samples, nans, infs, self.c)

    def merge(self, other: "MovingAverage") -> Self:
        """The other, if one is empty.

        Raises:
            BadCalibration: both hold samples; their order relative to each other is not known.
        """
        if self.samples and other.samples:
            raise BadCalibration(
                f"Moving averages of {self.samples} and {other.samples} samples cannot be merged, as the later samples "
                "weigh more. Calibrate in one process, or with minmax, percentile, entropy or mse, which merge exactly."
            )
        kept = other if other.samples else self
        return type(self)(kept.low, kept.high, kept.samples, kept.nans, kept.infs, kept.c)

    def to_json(self) -> dict[str, Any]:
        """Bounds are null when empty."""
        bounds = [None, None] if self.empty else [self.low, self.high]
        counts = {"samples": self.samples, "nans": self.nans, "infs": self.infs}
        return {"kind": self.kind, "range": bounds, **counts, "c": self.c}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            BadCalibration: the values are not those of a `MovingAverage`.
        """
        with_fields(data, "range", "samples", "nans", "infs", "c")
        low, high = bounds_from(data["range"])
        return cls(low, high, int(data["samples"]), int(data["nans"]), int(data["infs"]), float(data["c"]))


def with_fields(data: dict[str, Any], *names: str) -> None:
    """Check that a stored summary has the fields.

    Raises:
        BadCalibration: one is missing.
    """
    missing = [name for name in names if name not in data]
    if missing:
        raise BadCalibration(f"Stored summary: {', '.join(missing)} missing; found {', '.join(data) or 'nothing'}.")


def bounds_from(stored: Any) -> tuple[float, float]:
    """A stored range: two finite numbers in order, or two nulls, which give (inf, -inf).

    Raises:
        BadCalibration: it is neither.
    """
    if stored == [None, None]:
        return np.inf, -np.inf
    numbers = isinstance(stored, list) and len(stored) == 2 and all(isinstance(one, int | float) for one in stored)
    if not (numbers and np.isfinite(stored).all() and stored[0] <= stored[1]):
        raise BadCalibration(f"Stored summary: range {stored} found; two finite numbers in order were expected.")
    return float(stored[0]), float(stored[1])
