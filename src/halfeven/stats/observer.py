"""Observers: fill the Observations of several tensors, in place and quickly.

`take` may be called for several samples at once, by as many threads; `move` brings a sample's extrema into the moving
averages, and is called in the order of the samples. The result is that of `Observation.then`, sample by sample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from halfeven.numerics.tally import PLAIN, Lying, Taken, tally
from halfeven.stats.histogram import Histogram
from halfeven.stats.observation import Observation, stride_for
from halfeven.stats.summary import Array, Extrema, MovingAverage, float32_of

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
AS_WRITTEN: Mapping[str, Lying] = {}


@dataclass(frozen=True, eq=False)
class Layout:
    """How to take tensors in: the rows of what is returned that they fill, and their sizes."""

    taken: Sequence[Taken]
    rows: Sequence[int]
    sizes: Sequence[int]
    lasting: bool
    """Whether it is the same when other values stand in the same arrays: nothing was copied."""


class Observers:
    """Takes samples in, each of which has all tensors."""

    def __init__(self, names: Sequence[str], limit: int, threads: int = 1) -> None:
        """Count at most about `limit` elements of each tensor in a sample, by `threads` for each sample."""
        self.names, self.limit, self.threads = tuple(names), limit, threads
        self._tally = tally(len(self.names))
        self._rows = {name: row for row, name in enumerate(self.names)}
        size = len(self.names)
        self._low, self._high = np.full(size, np.inf), np.full(size, -np.inf)
        self._elements, self._samples = np.zeros(size, np.int64), np.zeros(size, np.int64)

    def nothing(self) -> Doubles:
        """What `take` returns, for a sample of which no tensor was taken in yet."""
        seen = np.zeros((len(self.names), 5))
        seen[:, 0], seen[:, 1] = np.inf, -np.inf
        return seen

    def layout(self, values: Mapping[str, Array], lying: Mapping[str, Lying] = AS_WRITTEN) -> Layout:
        """How to take these tensors in; `lying` names those that do not lie as they are written."""
        given = [(self._rows[name], x, lying.get(name, PLAIN)) for name, x in values.items() if name in self._rows]
        taken = [(row, y := _in_order(x), stride_for(y.size, self.limit), lies) for row, x, lies in given]
        lasting = all(y is x for (_, y, _, _), (_, x, _) in zip(taken, given, strict=True))
        return Layout(taken, [row for row, _, _ in given], [y.size for _, y, _, _ in taken], lasting)

    def take(self, layout: Layout, seen: Doubles | None = None) -> Doubles:
        """Take in some of one sample's tensors.

        Returns:
            Of each tensor lowest and highest finite element, how many NaN, infinities and elements, shape (tensors, 5):
            `seen`, if it is given, with the rows of these tensors filled in.
        """
        seen = self.nothing() if seen is None else seen
        if layout.rows:
            seen[layout.rows, :4] = self._tally.take(layout.taken, self.threads).reshape(-1, 4)
            seen[layout.rows, 4] = layout.sizes
        return seen

    def move(self, seen: Doubles) -> None:
        """Take what `take` returned into the moving averages; tensors without elements change nothing."""
        low, high, c = seen[:, 0], seen[:, 1], MovingAverage.c
        first, later = self._low > self._high, low <= high
        with np.errstate(invalid="ignore"):
            moved_low, moved_high = (1 - c) * self._low + c * low, (1 - c) * self._high + c * high
        self._low = np.where(later, np.where(first, low, moved_low), self._low)
        self._high = np.where(later, np.where(first, high, moved_high), self._high)
        self._elements += seen[:, 4].astype(np.int64)
        self._samples += seen[:, 4] > 0

    def observations(self) -> dict[str, Observation]:
        """What was taken in and moved so far, by name."""
        return {name: self._observation(i) for i, name in enumerate(self.names)}

    def _observation(self, i: int) -> Observation:
        (low, high, nans, infs), zeros, counts = self._tally.found(i)
        moving = MovingAverage(float(self._low[i]), float(self._high[i]), int(self._samples[i]), nans, infs)
        return Observation(Histogram(Extrema(low, high, int(self._elements[i]), nans, infs), zeros, counts), moving)


def _in_order(x: Array) -> Floats:
    """`x` as float32 in C order; most are that already, and asking costs less than NumPy's ways to make it so."""
    if x.dtype == np.float32 and x.flags.c_contiguous:
        return cast(Floats, x)
    return np.ascontiguousarray(float32_of(x))
