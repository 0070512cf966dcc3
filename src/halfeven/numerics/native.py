"""The kernels: C++ if it was built, NumPy if not; the one place that chooses.

The NumPy functions here are the definitions, and C++ agrees with them bit for bit or is wrong: `extrema`,
`channel_summary` and `histogram` count and compare, which is exact in any order and with any number of threads;
`grid_errors` sums doubles in eight lanes, in one order.

Expected squared error of a grid. Take r = x / scale, k = rint(r) clipped to the codes less the zero point, d = r - k.
The squared error has, whatever is clipped, the integral from 0 to x

    F(x) = scale**3 / 12 * (k + 4 * d**3)

(a whole step gives scale**3 / 12; within a step, and beyond the last code, t**2 from 0 to d). Data that is evenly
spread between each two neighbouring edges e_j, with density p_j there, thus has the error

    sum_j p_j * (F(e_(j+1)) - F(e_j))  =  sum_j weight_j * F(e_j),      weight_j = p_(j-1) - p_j

where the weights do not depend on the grid.

`quantize`, `dequantize`, `fake_quantize`, `lsq_backward` and the forms of the last two for one scale, which clamp first
and take several threads, are C++ alone and give None where it does not run, or has
no form of what is asked: their definitions are in `numerics.quantize` and `numerics.lsq`, whose bits they have. C++
reads a tensor as (outer, channels, inner), with one scale per channel; `cut` finds that form, for instance

    tensor (8, 64, 7, 7)    scale (1, 1, 1, 1) or (1,)    ->    (1, 1, 25088)
                            (1, 64, 1, 1)                       (8, 64, 49)
    tensor (8, 64)          (8, 2), groups of 32                (1, 16, 32)
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

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
Ints: TypeAlias = npt.NDArray[np.int32]
AnyCodes: TypeAlias = npt.NDArray[np.integer]
Cut: TypeAlias = tuple[int, int, int]
Ends: TypeAlias = tuple[float, float]
T = TypeVar("T", bound=np.generic)

LANES = 8
_INT32_MAX = np.iinfo(np.int32).max
_CODES = ("int8", "uint8", "int16", "uint16", "int32")
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


def channel_summary(x: Floats, stride: int, block: int = 1, threads: int = 1) -> tuple[Floats, Floats, Doubles]:
    """Lowest and highest element and a sum of squares of each channel (axis 1) of `x`, shape (channels,).

    `x` holds an element at least of each channel; extrema are NaN where there is one. The squares, rounded to float32,
    are those of each `stride`-th element in C order, the first included, added one after the other in float64. `x`
    lies in memory as [batch, channels / block, plane, block]; the block divides the channels.
    """
    batch, channels, plane = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    if native():
        return _native.channel_summary(_flat(x), (batch, channels, plane), block, stride, threads)
    lying = x.reshape(batch, channels // block, plane, block)
    low, high = (extreme((0, 2)).ravel() + np.float32(0) for extreme in (lying.min, lying.max))  # + 0 makes -0 a 0
    rows = lying.transpose(1, 3, 0, 2).reshape(channels, -1)[:, ::stride]
    with np.errstate(over="ignore"):
        return low, high, np.square(rows).cumsum(1, dtype=np.float64)[:, -1]


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


def quantize(x: Floats, scale: Floats, zero_point: Ints, low: int, high: int, dtype: np.dtype[Any]) -> AnyCodes | None:
    """Codes `low..high` of `x`, half to even, of `x`'s shape and of `dtype`. None: no C++ form."""
    parts = _parts(x, scale, zero_point)
    if parts is None or dtype.name not in _CODES or x.dtype != np.float32 or high > _INT32_MAX:
        return None
    codes = np.empty(x.shape, dtype)
    _native.quantize(_flat(x), *parts, low, high, _flat(codes))
    return codes


def dequantize(codes: AnyCodes, scale: Floats, zero_point: Ints) -> Floats | None:
    """(code - zero_point) * scale, float32, of the codes' shape. None: no C++ form."""
    parts = _parts(codes, scale, zero_point)
    if parts is None or codes.dtype.name not in _CODES:
        return None
    values = np.empty(codes.shape, np.float32)
    _native.dequantize(_flat(codes), *parts, _flat(values))
    return values


def fake_quantize(x: Floats, scale: Floats, zero_point: Ints, low: int, high: int) -> Floats | None:
    """`dequantize(quantize(x))` in one pass, float32, of `x`'s shape. None: no C++ form."""
    parts = _parts(x, scale, zero_point)
    if parts is None or x.dtype != np.float32 or high > _INT32_MAX:
        return None
    values = np.empty(x.shape, np.float32)
    _native.fake_quantize(_flat(x), *parts, low, high, _flat(values))
    return values


def lsq_backward(
    x: Floats, grad: Floats, scale: Floats, zero_point: Ints, low: int, high: int
) -> tuple[Floats, Floats, Floats] | None:
    """Gradients of `x`, `scale` and `zero_point`, of their shapes: see `numerics.lsq`."""
    parts = _parts(x, scale, zero_point)
    if parts is None or x.dtype != np.float32 or grad.dtype != np.float32 or high - low > 65535:
        return None
    grad_x = np.empty(x.shape, np.float32)
    sums = np.empty(scale.size, np.float32), np.empty(scale.size, np.float32)
    _native.lsq_backward(_flat(x), _flat(grad), *parts, low, high, _flat(grad_x), *sums)
    return grad_x, sums[0].reshape(scale.shape), sums[1].reshape(scale.shape)


def fake_quantize_clamped(
    x: Floats, scale: float, zero_point: int, codes: tuple[int, int], clamp: Ends, threads: int
) -> Floats | None:
    """`fake_quantize` of `x` clipped to `clamp`, with one scale; codes of at most 16 bits. None: no C++ form."""
    if not native() or x.dtype != np.float32 or codes[1] - codes[0] > 65535:
        return None
    values = np.empty(x.shape, np.float32)
    _native.fake_quantize_clamped(_flat(x), scale, zero_point, codes, clamp, threads, _flat(values))
    return values


def lsq_backward_clamped(
    x: Floats,
    grad: Floats,
    scale: float,
    zero_point: int,
    codes: tuple[int, int],
    clamp: Ends,
    threads: int,
    sums: bool = True,
) -> tuple[Floats, float, float] | None:
    """Gradients of `x`, of one scale and of one zero point, for `x` clipped to `clamp`: see `numerics.lsq`.

    Without `sums` the last two are 0. None: no C++ form.
    """
    if not native() or x.dtype != np.float32 or grad.dtype != np.float32 or codes[1] - codes[0] > 65535:
        return None
    grad_x = np.empty(x.shape, np.float32)
    flat = _flat(x), _flat(grad)
    found = _native.lsq_backward_clamped(*flat, scale, zero_point, codes, clamp, sums, threads, _flat(grad_x))
    return grad_x, *found


def cut(shape: tuple[int, ...], scale_shape: tuple[int, ...]) -> Cut | None:
    """(outer, channels, inner) of a tensor whose scale has `scale_shape`; None if tiles share otherwise."""
    if math.prod(scale_shape) == 1:
        return 1, 1, math.prod(shape)
    if len(shape) != len(scale_shape) or any(size % max(n, 1) for n, size in zip(scale_shape, shape, strict=True)):
        return None
    axes = [
        part for n, size in zip(scale_shape, shape, strict=True) for part in ((n, True), (size // n if n else 1, False))
    ]
    sizes, kinds = [1, 1, 1], [False, True, False]  # shared, scaled, shared
    at = 0
    for size, scaled in axes:
        if size == 1:
            continue
        while at < 3 and kinds[at] is not scaled:
            at += 1
        if at == 3:
            return None
        sizes[at] *= size
    return sizes[0], sizes[1], sizes[2]


def _parts(x: npt.NDArray[Any], scale: Floats, zero_point: Ints) -> tuple[Cut, Floats, Ints] | None:
    if not native() or scale.dtype != np.float32 or zero_point.dtype != np.int32:
        return None
    parts = cut(x.shape, scale.shape)
    return None if parts is None else (parts, _flat(scale), _flat(zero_point))


def _flat(x: npt.NDArray[T]) -> npt.NDArray[T]:
    """`x` in C order as one axis, without gaps: a view where it is laid out so, as fresh results are, else a copy.

    `reshape(-1)` would keep the strides of a slice such as x[::2] and of a broadcast array, which C++ does not read.
    """
    return np.ravel(x)


def native_module() -> Any:
    """The extension, for `numerics.tally` and `numerics.feedback`; None unless C++ runs."""
    return _native if native() else None


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
