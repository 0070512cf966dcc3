"""The kernels: C++ if it was built, NumPy if not; the one place that chooses.

The NumPy functions here are the definitions, and C++ agrees with them bit for bit or is wrong: `extrema` and
`histogram` count and compare, which is exact in any order and with any number of threads; `grid_errors` sums doubles in
eight lanes, in one order.

Expected squared error of a grid. Take r = x / scale, k = rint(r) clipped to the codes less the zero point, d = r - k.
The squared error has, whatever is clipped, the integral from 0 to x

    F(x) = scale**3 / 12 * (k + 4 * d**3)

(a whole step gives scale**3 / 12; within a step, and beyond the last code, t**2 from 0 to d). Data that is evenly
spread between each two neighbouring edges e_j, with density p_j there, thus has the error

    sum_j p_j * (F(e_(j+1)) - F(e_j))  =  sum_j weight_j * F(e_j),      weight_j = p_(j-1) - p_j

where the weights do not depend on the grid.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.numerics.bins import Counts, bin_of, exponent_for, sides

try:
    from halfeven.numerics import _native
except ImportError:
    BUILT = False
else:
    BUILT = True

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Extremes: TypeAlias = tuple[float, float, int, int]

LANES = 8
_NUMPY_ONLY: ContextVar[bool] = ContextVar("numpy_only", default=False)


@contextmanager
def use_numpy() -> Iterator[None]:
    """Within, the NumPy definitions run even where C++ is built: for tests and benchmarks."""
    token = _NUMPY_ONLY.set(True)
    try:
        yield
    finally:
        _NUMPY_ONLY.reset(token)


def native() -> bool:
    """Whether C++ runs."""
    return BUILT and not _NUMPY_ONLY.get()


def extrema(x: Floats, threads: int = 1) -> Extremes:
    """Lowest and highest finite element of `x`, how many NaN, how many infinities; (inf, -inf) if none is finite."""
    flat = np.ravel(x)
    return _native.extrema(flat, threads) if native() else _extrema(flat)


def histogram(x: Floats, stride: int = 1, threads: int = 1) -> tuple[Extremes, int, Counts]:
    """Extrema of `x`, exact zeros, and counts of the other finite elements, for the bins of `numerics.bins`.

    The counts begin with the most negative bin and have the exponent `exponent_for(low, high)`. Zeros and counts take
    each `stride`-th element in C order, the first included; the extrema take all.
    """
    flat = np.ravel(x)
    return _native.histogram(flat, stride, threads) if native() else _histogram(flat, stride)


def grid_errors(edges: Doubles, weights: Doubles, scale: Doubles, low: Doubles, high: Doubles) -> Doubles:
    """Sum of squared errors, shape (n,), of the n grids with codes `low..high` (less the zero point) and `scale`.

    `edges` and `weights`, shape (8 * m,), are those of the module's docstring; pad with weights of 0.
    """
    if native():
        return _native.grid_errors(edges, weights, scale, low, high)
    return np.array([_grid_error(edges, weights, *one) for one in zip(scale, low, high, strict=True)], np.float64)


def _extrema(x: Floats) -> Extremes:
    finite = x[np.isfinite(x)]
    nans = int(np.isnan(x).sum())
    infs = x.size - finite.size - nans
    if finite.size == 0:
        return np.inf, -np.inf, nans, infs
    return float(finite.min()) + 0.0, float(finite.max()) + 0.0, nans, infs  # + 0 makes -0 a 0


def _histogram(x: Floats, stride: int) -> tuple[Extremes, int, Counts]:
    found = _extrema(x)
    exponent = exponent_for(*found[:2])
    negative, positive = sides(*found[:2], exponent)
    sample = x[::stride]
    sample = sample[np.isfinite(sample)]
    filled = sample[sample != 0]
    counts = np.bincount(bin_of(filled, exponent) + negative, minlength=negative + positive)
    return found, sample.size - filled.size, counts.astype(np.int64, copy=False)


def _grid_error(edges: Doubles, weights: Doubles, scale: float, low: float, high: float) -> float:
    r = edges * (1.0 / scale)
    k = np.clip(np.rint(r), low, high)
    d = r - k
    lane = (weights * (k + 4.0 * (d * d * d))).reshape(-1, LANES).sum(axis=0)  # row by row, as axis 0 is not contiguous
    four = lane[:4] + lane[4:]
    return float(((four[0] + four[2]) + (four[1] + four[3])) * (scale * scale * scale) / 12.0)
