"""Tally: the histograms of several tensors, sample by sample, in place; C++ if it was built, NumPy if not.

A tally gives the histogram (numerics/bins.py) of all that was taken in, which does not depend on the order, so samples
may be taken in from several threads. NumPy adds the samples' counts into one array for each bin width met (the
widths are few, as they are powers of two) and brings them to one width in the end; C++ (tally.hpp) widens as it goes.
"""

from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.numerics.bins import BINS, Counts, bins_to, coarsen, exponent_for, sides
from halfeven.numerics.native import Doubles, Extremes, Floats, histogram, native_module

NONE: Floats = np.zeros(0, np.float32)


class Lying(NamedTuple):
    """How a tensor [batch, channels, plane] lies in memory, and what is to be seen of it.

    It lies as [batch, channels / block, plane, block], and each channel is multiplied by its factor, float32 of shape
    (channels,), if there are any. The block divides the channels. A plane of 0: it lies as it is written and is seen as
    it is.
    """

    plane: int = 0
    block: int = 1
    factors: Floats = NONE

    def seen(self, x: Floats) -> Floats:
        """The tensor `x` as it is written, shape (n,), times the factors."""
        if not self.plane:
            return np.ravel(x)
        channels = x.reshape(-1, self.plane, self.block).swapaxes(1, 2).reshape(-1, self.plane)
        if self.factors.size:
            with np.errstate(over="ignore", invalid="ignore"):
                channels = channels * np.resize(self.factors, len(channels))[:, None]
        return np.ravel(channels)


PLAIN = Lying()
"""As it is written."""


Taken: TypeAlias = tuple[int, Floats, int, Lying]
"""The tensor's number, its values in C order, each how many-th of them is counted, and how they lie."""


class Tally(Protocol):
    """Histograms of a fixed number of tensors."""

    def take(self, taken: Sequence[Taken], threads: int) -> Doubles:
        """Take one sample of some of the tensors in.

        C++ uses as many `threads` as are told, NumPy one.
        Returns the sample's lowest and highest finite element, how many NaN and infinities: four numbers a tensor,
        shape (4 * taken,); a tensor without finite elements has (inf, -inf).
        """

    def found(self, index: int) -> tuple[Extremes, int, Counts]:
        """Extrema, zeros and counts of one tensor so far, as `native.histogram` gives them."""


def tally(tensors: int) -> Tally:
    """A tally of nothing yet."""
    return NumpyTally(tensors) if native_module() is None else _NativeTally(tensors)


class _NativeTally:
    def __init__(self, tensors: int) -> None:
        self._compiled = native_module().Tally(tensors)

    def take(self, taken: Sequence[Taken], threads: int) -> Doubles:
        seen: Doubles = self._compiled.take(taken, threads)
        return seen

    def found(self, index: int) -> tuple[Extremes, int, Counts]:
        found: tuple[Extremes, int, Counts] = self._compiled.found(index)
        return found


class NumpyTally:
    """The definition."""

    def __init__(self, tensors: int) -> None:
        """Tally nothing yet."""
        self._extremes: list[Extremes] = [(np.inf, -np.inf, 0, 0)] * tensors
        self._zeros = [0] * tensors
        self._bins: list[dict[int, npt.NDArray[np.int64]]] = [{} for _ in range(tensors)]
        self._lock = Lock()

    def take(self, taken: Sequence[Taken], threads: int) -> Doubles:
        """See Tally."""
        seen = np.empty((len(taken), 4), np.float64)
        for row, (index, x, stride, lying) in enumerate(taken):
            extremes, zeros, counts = histogram(lying.seen(x), stride)
            seen[row] = extremes
            with self._lock:
                self._add(index, extremes, zeros, counts)
        return seen.ravel()

    def _add(self, i: int, extremes: Extremes, zeros: int, counts: Counts) -> None:
        (low, high, nans, infs), old = extremes, self._extremes[i]
        self._extremes[i] = min(old[0], low), max(old[1], high), old[2] + nans, old[3] + infs
        self._zeros[i] += zeros
        if counts.size:
            exponent = exponent_for(low, high)
            into = self._bins[i].setdefault(exponent, np.zeros(2 * BINS, np.int64))
            start = BINS - bins_to(min(low, 0.0), exponent)
            into[start : start + counts.size] += counts

    def found(self, index: int) -> tuple[Extremes, int, Counts]:
        """See Tally."""
        with self._lock:
            low, high = self._extremes[index][:2]
            exponent = exponent_for(low, high)
            negative, positive = sides(low, high, exponent)
            total = np.zeros(negative + positive, np.int64)
            for narrow, counts in self._bins[index].items():
                wide, below = coarsen(counts, BINS, exponent - narrow)
                first, last = max(below - negative, 0), min(below + positive, wide.size)
                total[negative - (below - first) : negative + (last - below)] += wide[first:last]
            return self._extremes[index], self._zeros[index], total
