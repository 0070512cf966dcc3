"""Divergences: how far six tools find the quantized histogram from the clipped one, candidate by candidate.

Each function takes the tool's counts and levels, and gives a divergence for each candidate. For one of i bins, P is the
histogram up to i with what lies beyond added to its last bin; its bins without what lies beyond are merged into
`levels` runs of i // levels, the last taking the remainder, and each run's sum is spread over its bins: Q.

    tool          candidates i          differs in
    tensorrt      levels .. n           bin 0 does not count; bins of Q that are empty stay empty
    mxnet         levels // 2 .. n // 2 two-sided: the middle bin and i on either side; the first bin takes all on its
                                        left *and itself*, and counts as empty in Q; both smoothed: empty bins get
                                        1e-4, the others give it; float32 throughout, summed in order
    onnxruntime   levels // 2 .. n // 2 two-sided; merges what remains into the last run but does not spread it there;
                                        Q is integer, so the mean of a run is truncated; bins of Q that are empty
                                        are filled too; smoothed as in MXNet, float32
    ncnn          levels .. n - 1       runs of i / levels bins, fractions of a bin shared by two; empty bins of Q are
                                        filled; 1e-4 added to each bin of P and Q, which are not made to sum to 1;
                                        float32, summed in order
    ppq           levels, 2 levels .. n the first 0.2 % of the bins emptied, the next set to 1; logarithms to base 10
                                        of what has 1e-30 added
    pytorch-      start .. n            bin 0 takes the count of bin 1; runs of i / levels bins, each bin wholly in
    quantization                        the run in which it begins

The float32 of mxnet and ncnn is that of C++: each operation rounded, sums in order; their logf is taken to be correctly
rounded, which it is but for rare last bits. Sources as in stats/kl_histograms.py, and MXNet's
src/operator/quantization/calibrate.cc.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.stats.entropy import divergences

Counts: TypeAlias = npt.NDArray[np.int64]
Doubles: TypeAlias = npt.NDArray[np.float64]
Floats: TypeAlias = npt.NDArray[np.float32]

EPSILON = 1e-4
CHUNK = 64


def tensorrt(counts: Counts, levels: int) -> Doubles:
    """Divergences of the slides' candidates, shape (n - levels + 1,)."""
    kept = counts.astype(np.float64)
    kept[0] = 0.0
    return divergences(kept, levels, np.arange(levels, counts.size + 1))


def mxnet(counts: Counts, levels: int) -> Doubles:
    """Divergences of MXNet's candidates, shape (n // 2 - levels // 2 + 1,); n is odd."""
    heights, middle = counts.astype(np.float32), counts.size // 2
    left = np.cumsum(heights)
    found = [_mxnet_at(heights, left, middle - i, middle + i + 1, levels) for i in range(levels // 2, middle + 1)]
    return np.array(found, np.float64)


def _mxnet_at(heights: Floats, left: Floats, start: int, stop: int, levels: int) -> float:
    p = heights[start:stop].copy()
    p[-1] = _in_order(heights[stop - 1 :])
    p[0] = left[start]
    kept = heights[start:stop].astype(np.int64)
    kept[0] = 0
    run = kept.size // levels
    edges = np.append(np.arange(levels) * run, kept.size)
    sums = np.add.reduceat(kept, edges[:-1]).astype(np.int32).astype(np.float32)
    last = kept[edges[-2] : edges[-2] + run].sum(), kept[edges[-2] + run :].sum()
    sums[-1] = np.float32(last[0]) + np.float32(last[1])
    filled = np.add.reduceat((kept != 0).astype(np.int64), edges[:-1])
    mean = np.where(filled > 0, sums / np.maximum(filled, 1).astype(np.float32), np.float32(0))
    q = np.where(p != 0, np.repeat(mean, np.diff(edges)), np.float32(0))
    smooth_p, smooth_q = _smoothed(p), _smoothed(q)
    if smooth_p is None or smooth_q is None:
        return np.inf
    smooth_p, smooth_q = smooth_p / _in_order(smooth_p), smooth_q / _in_order(smooth_q)
    return float(_in_order(smooth_p * _logf(smooth_p / smooth_q)))


def _smoothed(p: Floats) -> Floats | None:
    """1e-4 in empty bins, taken from the others in equal parts; None if all are empty, or would become so."""
    empty = p == 0
    zeros = int(np.count_nonzero(empty))
    if zeros == p.size:
        return None
    taken = np.float32(EPSILON) * np.float32(zeros) / np.float32(p.size - zeros)
    if taken >= 1:
        return None
    return np.where(empty, np.float32(EPSILON), p - taken)


def onnxruntime(counts: Counts, levels: int, dtype: npt.DTypeLike = np.float32) -> Doubles:
    """Divergences of ONNX Runtime's candidates, shape (n // 2 - levels // 2 + 1,); `dtype` is that of its edges."""
    middle = counts.size // 2
    left = np.concatenate([[0], np.cumsum(counts)])
    found = []
    for i in range(levels // 2, middle + 1):
        start, stop = middle - i, min(middle + i + 1, counts.size)
        p = counts[start:stop].copy()
        p[0] += left[start]
        p[-1] += left[-1] - left[stop]
        q = _onnxruntime_q(counts[start:stop], p, levels)
        found.append(np.array(_onnxruntime_entropy(p, q), dtype))
    return np.array(found, np.float64)


def _onnxruntime_q(kept: Counts, p: Counts, levels: int) -> Counts:
    run = kept.size // levels
    whole = levels * run
    sums = kept[:whole].reshape(levels, run).sum(axis=1)
    sums[-1] += kept[whole:].sum()
    filled = np.count_nonzero(p[:whole].reshape(levels, run), axis=1)
    q = np.zeros(p.size, np.int64)
    q[:whole] = np.repeat(np.where(filled, sums / np.maximum(filled, 1), 0.0).astype(np.int64), run)
    return q


def _onnxruntime_entropy(p: Counts, q: Counts) -> float:
    """The Kullback-Leibler divergence of the two, smoothed, with NumPy's float32 sums and logarithms."""
    made = []
    for one in (p, q):
        empty = one == 0
        zeros = int(np.count_nonzero(empty))
        if zeros == one.size:
            return np.inf
        taken = np.float32(-EPSILON * zeros / (one.size - zeros))
        if taken <= -1:
            return np.inf  # ONNX Runtime stops with an AssertionError here
        smooth = np.where(empty, np.float32(EPSILON), one.astype(np.float32) + taken)
        made.append(smooth / np.sum(smooth, axis=0, keepdims=True))
    return float(np.sum(made[0] * np.log(made[0] / made[1]), axis=0))


def ncnn(counts: Counts, levels: int) -> Doubles:
    """Divergences of ncnn's candidates, shape (n - levels,); `levels` is a power of two, so that edges are exact."""
    share = (counts / counts.sum()).astype(np.float32)
    candidates = np.arange(levels, counts.size)
    parts = [_ncnn_part(share, candidates[at : at + CHUNK], levels) for at in range(0, candidates.size, CHUNK)]
    return np.concatenate(parts).astype(np.float64)


def _ncnn_part(share: Floats, candidates: Counts, levels: int) -> Floats:
    """Of some candidates at once, a row for each."""
    many, rows = int(candidates[-1]), np.arange(candidates.size)
    run = candidates.astype(np.float32)[:, None] / np.float32(levels)
    mean = _ncnn_means(share, run, levels)
    k = np.arange(many)
    inside = k < candidates[:, None]
    # first is the run in which bin k begins, and which shares it with the next run if it ends within
    first = np.minimum((k / run).astype(np.int64), levels - 1)
    end = (first + 1).astype(np.float32) * run
    whole = (end >= k + 1) | (first == levels - 1)
    here = np.where(whole, np.float32(1), end - k.astype(np.float32))
    q = np.float32(EPSILON) + here * np.take_along_axis(mean, first, 1)
    after = np.take_along_axis(mean, np.minimum(first + 1, levels - 1), 1)
    q = np.where(whole, q, q + (np.float32(1) - here) * after)
    p = np.broadcast_to(np.float32(EPSILON) + share[:many], q.shape).copy()
    for row in rows:
        last = int(candidates[row]) - 1
        p[row, last] = _in_order(np.append(p[row, last], share[last + 1 :]))
    terms = np.where(inside, p * _logf(np.where(inside, p / q, np.float32(1))), np.float32(0))
    return np.cumsum(terms, axis=1)[rows, candidates - 1]


def _ncnn_means(share: Floats, run: Floats, levels: int) -> Floats:
    """Mean of each run, shape (candidates, levels): cut bins on the left and right, then those within."""
    level = np.arange(levels, dtype=np.float32)
    start, end = level * run, (level + 1) * run
    inner, outer = np.ceil(start).astype(np.int64), np.floor(end).astype(np.int64)
    left, right = inner - start, end - outer
    padded = np.append(share, np.float32(0))
    total = np.where(left > 0, left.astype(np.float32) * padded[inner - 1], np.float32(0))
    total = np.where(right > 0, total + right.astype(np.float32) * padded[np.minimum(outer, share.size)], total)
    for step in range(int((outer - inner).max())):
        place = inner + step
        total = np.where(place < outer, total + padded[np.minimum(place, share.size)], total)
    return np.asarray(total / run, np.float32)


def ppq(counts: Counts, levels: int) -> Doubles:
    """Divergences of PPQ's candidates, shape (n / levels,); n is a multiple of `levels`."""
    heights, cut = counts.astype(np.float32), int(counts.size * 0.002)
    heights[:cut] = 0
    heights[cut] = 1
    total, found = np.float32(heights.sum(dtype=np.float64)), []
    for i in range(levels, counts.size + 1, levels):
        p = heights[:i].copy()
        p[-1] += np.float32(heights[i:].sum(dtype=np.float64))
        q = heights[:i].reshape(levels, -1)
        filled = np.maximum(np.count_nonzero(q, axis=1, keepdims=True), 1).astype(np.float32)
        q = q.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32) / filled * (q > 0)
        q = (q / np.float32(q.sum(dtype=np.float64))).ravel()
        wide_p, wide_q = (p / total).astype(np.float64), q.astype(np.float64)
        found.append(float(np.dot(wide_p, np.log10(wide_p + 1e-30) - np.log10(wide_q + 1e-30))))
    return np.array(found)


def pytorch_quantization(counts: Counts, levels: int, start: int = 128) -> Doubles:
    """Divergences of pytorch-quantization's candidates start .. n.

    Prefix sums give them all; those at the least, to 1e-9, are computed anew bin by bin, as the tool does, so that
    equal divergences compare equal.
    """
    bins = counts.copy()
    bins[0] = bins[1]
    heights, candidates = bins.astype(np.float64), np.arange(start, bins.size + 1)
    logs = heights * np.log(np.maximum(heights, 1))
    sums, filled, products = (np.concatenate([[0.0], np.cumsum(one)]) for one in (heights, heights > 0, logs))
    edges = -(-candidates[:, None] * np.arange(levels + 1) // levels)
    s, z, a = (np.diff(prefix[edges], axis=1) for prefix in (sums, filled, products))
    last = heights[candidates - 1]
    beyond = sums[-1] - sums[candidates]
    mean = np.where(z > 0, s / np.maximum(z, 1), 1.0)
    run = mean[np.arange(candidates.size), (candidates - 1) * levels // candidates]
    within = (a - s * np.log(mean)).sum(axis=1)
    added = (last + beyond) * np.log(np.maximum(last + beyond, 1)) - last * np.log(np.maximum(last, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = np.where(beyond > 0, added - beyond * np.log(run), 0.0)
        found = (within + tail) / sums[-1] + np.log(sums[candidates] / sums[-1])
    found = np.where((sums[candidates] == 0) | ((beyond > 0) & (last == 0)), np.inf, found)
    for at in np.flatnonzero(found <= found.min() + 1e-9) if np.isfinite(found).any() else ():
        found[at] = _pytorch_quantization_at(heights, int(candidates[at]), levels)
    return found


def _pytorch_quantization_at(heights: Doubles, i: int, levels: int) -> float:
    """One candidate, bin by bin; scipy.stats.entropy makes both sum to 1."""
    level = np.arange(i) * levels // i
    p, filled = heights[:i].copy(), heights[:i] > 0
    sums = np.bincount(level, np.where(filled, p, 0.0), levels)
    means = sums / np.maximum(np.bincount(level, filled, levels), 1)
    q = np.where(filled, means[level], 0.0)
    p[-1] += heights[i:].sum()
    p, q = p / p.sum(), q / q.sum()
    here = p > 0
    terms = np.zeros(i)
    terms[here] = p[here] * np.log(p[here] / q[here])
    return float(terms.sum())


def _in_order(x: Floats) -> np.float32:
    """The sum, element after element, each partial sum rounded to float32."""
    return np.float32(np.cumsum(x, dtype=np.float32)[-1])


def _logf(x: Floats) -> Floats:
    """The natural logarithm, rounded once."""
    return np.log(x.astype(np.float64)).astype(np.float32)
