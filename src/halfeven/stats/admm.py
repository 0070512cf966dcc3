"""ADMM: scale and codes fitted to values in turns, to the least squared error.

    B = clip(rint(W / s))        the codes nearest to the values at the scale s
    s = <W, B> / <B, B>          the scale of least squared error for these codes

Either half makes the error |W - s B|**2 less, or leaves it; so it falls until neither changes anything. That is a local
minimum: there, no other codes are better at this scale, and no other scale is better for these codes. Where many values
change their codes at once it is crept up to, so 4, 16 .. 4096 times the step are tried too, and the best taken. In
which minimum it ends the first scale decides, so it is done from several: that of the greatest magnitude and 1/2, 1/4
.. 1/32 of it; the best end is kept, which is never worse than the range of the data. Scales that have to be powers of
two take, of the powers on either side of s, the one of less error for these codes. The zero point of an affine scheme
stays that of the lowest to the highest value; codes are less the zero point.

For a tensor the sums are over its elements, per tile of the scheme; for a histogram they are integrals over values
spread evenly within each bin: with r = x / s, k = |rint(r)| clipped,

    integral from 0 to r of rint(u)**2   = (k - 1) k (2 k - 1) / 6 + k**2 (|r| - k + 1/2)
    integral from 0 to r of u rint(u)    = (k - 1) k (2 k - 1) / 6 + k (r**2 - (k - 1/2)**2) / 2      (both odd in r)

so that activations stream: any number of batches, one histogram.

The alternation is that of C. Leng et al., "Extremely Low Bit Neural Network: Squeeze the Last Bit Out with ADMM",
AAAI 2018, arXiv:1707.09870, where it projects weights onto scaled codes; MNN's quantizer offers it as "ADMM".
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.numerics.quantize import TINY, params_for, params_of
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme
from halfeven.stats.density import Density
from halfeven.stats.histogram import Histogram

Doubles: TypeAlias = npt.NDArray[np.float64]

STARTS = 2.0 ** -np.arange(6)
STRIDES = 4.0 ** np.arange(1, 7)
ROUNDS = 30
SETTLED = 1e-8

Sums: TypeAlias = Callable[[Doubles], tuple[Doubles, Doubles]]


def admm_params(w: npt.NDArray[np.float32], scheme: Scheme) -> QParams:
    """Parameters of a whole tensor `w` under `scheme`, scale of `scheme.tiling.scale_shape(w.shape)`.

    Sums are float64; the error is that of the unrounded scale, the scale then rounded to float32. Tiles of zeros keep
    the scale of `params_of`.
    """
    first = params_of(w, scheme)
    shape = first.scale.shape
    split = [d for n, size in zip(shape, w.shape, strict=True) for d in (n, size // n if n else 0)]
    axes = (*range(0, 2 * w.ndim, 2), *range(1, 2 * w.ndim, 2))
    tiles = w.reshape(split).transpose(axes).reshape(first.scale.size, -1).astype(np.float64)
    zero = first.zero_point.reshape(-1, 1).astype(np.float64)
    low, high = scheme.grid.low - zero, scheme.grid.high - zero
    start = first.scale.reshape(-1, 1).astype(np.float64)

    def sums_at(scale: Doubles) -> tuple[Doubles, Doubles]:
        codes = np.clip(np.rint(tiles / scale), low, high)
        return (tiles * codes).sum(axis=1, keepdims=True), (codes * codes).sum(axis=1, keepdims=True)

    best = _best_end(sums_at, start, scheme.scale)
    best = np.where(tiles.any(axis=1, keepdims=True), np.maximum(best, TINY), start)
    return QParams(scheme, best.astype(np.float32).reshape(shape), first.zero_point)


def admm_range(histogram: Histogram, scheme: Scheme) -> tuple[float, float]:
    """The range of the codes at the scale so fitted to a histogram's values."""
    edges, weights = Density.of(histogram).weights()
    edges, weights = edges[weights != 0], weights[weights != 0]
    first = params_for(*histogram.within(np.inf), scheme)
    low, high = (float(end - first.zero_point) for end in (scheme.grid.low, scheme.grid.high))

    def sums_at(scale: Doubles) -> tuple[Doubles, Doubles]:
        product, square = sums(edges, weights, float(scale), low, high)
        return np.array(product), np.array(square)

    scale = float(_best_end(sums_at, first.scale.astype(np.float64), scheme.scale))
    return (-high if scheme.symmetric else low) * scale, high * scale


def _best_end(sums_at: Sums, start: Doubles, rule: ScaleRule) -> Doubles:
    """Of the ends of all starts the scale of least error, each element for itself."""
    best, least = start, _error(sums_at, start)
    for share in STARTS:
        scale = _settled(sums_at, start * share, rule)
        error = _error(sums_at, scale)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best


def _settled(sums_at: Sums, scale: Doubles, rule: ScaleRule) -> Doubles:
    """Scales after the alternation from `scale`; its last steps are short, so longer ones are tried too."""
    for _ in range(ROUNDS):
        moved = _scale(*sums_at(scale), scale, rule)
        if (np.abs(moved - scale) <= SETTLED * scale).all():
            return moved
        best, least = moved, _error(sums_at, moved)
        for stride in STRIDES if rule is ScaleRule.FREE else ():
            far = np.maximum(scale + stride * (moved - scale), scale / 2)
            error = _error(sums_at, far)
            best, least = np.where(error < least, far, best), np.minimum(error, least)
        scale = best
    return scale


def _error(sums_at: Sums, scale: Doubles) -> Doubles:
    """|W - s B|**2 less |W|**2."""
    product, square = sums_at(scale)
    return scale * (scale * square - 2 * product)


def _scale(product: Doubles, square: Doubles, before: Doubles, rule: ScaleRule) -> Doubles:
    """The scale of least error, product / square; the one before, where all codes are zero."""
    free = np.where((square > 0) & (product > 0), product / np.where(square > 0, square, 1.0), before)
    if rule is ScaleRule.FREE:
        return free
    below = np.ldexp(1.0, np.frexp(free)[1] - 1)
    return np.asarray(np.where(free - below <= 2 * below - free, below, 2 * below), np.float64)


def sums(edges: Doubles, weights: Doubles, scale: float, low: float, high: float) -> tuple[float, float]:
    """<x, B> and <B, B> over a density (`Density.weights`), with B the codes low .. high, less the zero point."""
    r = edges / scale
    k, size = np.abs(np.clip(np.rint(r), low, high)), np.abs(r)
    whole = (k - 1) * k * (2 * k - 1) / 6
    square = np.sign(r) * (whole + k * k * (size - k + 0.5))
    product = np.sign(r) * (whole + k * (size * size - (k - 0.5) ** 2) / 2)
    return float((weights * product).sum()) * scale * scale, float((weights * square).sum()) * scale
