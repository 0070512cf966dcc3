"""Squares: the range of least squared error as PPQ and pytorch-quantization find it, on histograms of their own.

PPQ takes every value for the middle of its bin (an even spread within a bin would have the squared error
(d - 1/2)**2 + 1/12), and bins for the unit; codes lie on the edges start, start + step, ..., end. The error of bin j:

    j < start              (start - j - 1) + 1/2
    j > end                (j - end) + 1/2
    else, l = (j - start) mod step, r = step - l - 1
        l = r              l + 1/4                  a quirk: the middle bin of an odd step, whose middle is at l + 1/2
        else               min(l, r) + 1/2

    symmetric    |x| in 2048 bins over [0, absmax]; start 0, step 1 .. 2048 // levels, and first one step more, which
                 holds all; all 256 levels are laid on the side above zero, where a grid has but half of them; the
                 range is +-end
    affine       x in 2048 bins over [min, max]; start 0, 8, 16 .. at most 0; the steps as above, end at most
                 2048 + levels; the range start .. end

pytorch-quantization quantizes the middles of the bins of |x| with amax at each middle from bin 128 on:
q = clip(round(c * (bound / amax)), -bound, bound) / (bound / amax) in float32, and takes the first least mean of
counts * (q - c)**2 (here summed in float64; the tool sums in float32 on a GPU, in no stated order).

Sources: ESP-PPQ and PPQ quantization/observer/range.py (TorchMSEObserver.compute_mse_loss), csrc/cpu/hist_mse.cc;
pytorch-quantization calib/histogram.py (_compute_amax_mse), tensor_quant.py.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration, BadOption
from halfeven.stats.kl_histograms import Bins, Counts, histc, over_magnitudes_float32

Range: TypeAlias = tuple[float, float]
Doubles: TypeAlias = npt.NDArray[np.float64]

PPQ_BINS = 2048
PPQ_STRIDE = 8


def ppq_loss(counts: Counts, start: int, step: int, end: int) -> float:
    """PPQ's mean squared error, in bins, of codes on the edges start, start + step, ..., end."""
    j = np.arange(counts.size)
    left = (j - start) % step
    right = step - left - 1
    error = np.where(left == right, left + 0.25, np.minimum(left, right) + 0.5)
    error = np.where(j < start, (start - j - 1) + 0.5, np.where(j > end, (j - end) + 0.5, error))
    return float(np.cumsum(counts * error * error / counts.sum())[-1])  # in order, as the tool sums


def ppq_symmetric(counts: Counts, width: float, levels: int = 256) -> Range:
    """PPQ's symmetric range, of counts of |x| over bins of `width`."""
    steps = [counts.size // levels + 1, *range(1, counts.size // levels + 1)]
    losses = [ppq_loss(counts, 0, step, levels * step) for step in steps]
    reach = levels * steps[int(np.argmin(losses))] * width
    return -reach, reach


def ppq_affine(counts: Counts, low: float, width: float, levels: int = 256) -> Range:
    """PPQ's affine range, of counts of x over bins of `width` from `low` on."""
    first = counts.size // levels + 1
    tried = [(0, first)]
    for start in range(0, counts.size, PPQ_STRIDE):
        if start * width + low > 0:
            break
        tried += [(start, step) for step in range(1, first) if start + levels * step <= counts.size + levels]
    losses = [ppq_loss(counts, start, step, start + levels * step) for start, step in tried]
    start, step = tried[int(np.argmin(losses))]
    return start * width + low, (start + levels * step) * width + low


def ppq_range(batches: Sequence[npt.NDArray[np.float32]], symmetric: bool, levels: int = 256) -> Range:
    """PPQ's range of least squared error over `batches`, histogram and all.

    Raises:
        BadOption: there are more levels than bins.
        BadCalibration: nothing but zeros, NaN or infinities were seen.
    """
    if not 2 <= levels <= PPQ_BINS:
        raise BadOption(f"ppq: {levels} levels were asked for; 2 to {PPQ_BINS} fit its {PPQ_BINS} bins.")
    flat = [np.asarray(x, np.float32).ravel() for x in batches]
    bins = over_magnitudes_float32(flat, PPQ_BINS)
    if symmetric:
        return ppq_symmetric(bins.counts, bins.reach / PPQ_BINS, levels)
    span = bins.high - bins.low
    if not span > 0:
        raise BadCalibration(f"ppq: all values are {bins.low}; its affine histogram over [min, max] has no width.")
    low, high = np.float32(bins.low), np.float32(bins.high)
    counts = sum((histc_between(x, PPQ_BINS, low, high) for x in flat), np.zeros(PPQ_BINS, np.int64))
    return ppq_affine(counts, bins.low, span / PPQ_BINS, levels)


def histc_between(x: npt.NDArray[np.float32], bins: int, low: np.float32, high: np.float32) -> Counts:
    """Counts of `x`, all within, over [low, high] as torch.histc counts them."""
    return histc(x - low, bins, float(high - low))


def pytorch_quantization_amax(bins: Bins, bits: int = 8, unsigned: bool = False, start: int = 128) -> float:
    """pytorch-quantization's amax of least squared error, of a histogram of |x| (`kl_histograms.growing_upwards`).

    Raises:
        BadOption: there are no more bins than `start`.
    """
    centres, losses = pytorch_quantization_losses(bins, bits, unsigned, start)
    return float(centres[start + int(np.argmin(losses))])


def pytorch_quantization_losses(
    bins: Bins, bits: int = 8, unsigned: bool = False, start: int = 128
) -> tuple[npt.NDArray[np.float32], Doubles]:
    """Middles of all bins, and the error with amax at each from `start` on."""
    if bins.counts.size <= start:
        raise BadOption(f"pytorch-quantization: {bins.counts.size} bins were given, but it begins at bin {start}.")
    edges = bins.edges.astype(np.float32)
    centres = ((edges[1:] + edges[:-1]) / np.float32(2)).astype(np.float32)
    bound = np.float32(2 ** (bits - 1 + unsigned) - 1)
    losses = []
    for amax in centres[start:]:
        scale = bound / amax
        quantized = np.clip(np.rint(centres * scale), 0, bound) / scale
        losses.append(np.mean(((quantized - centres) ** 2 * bins.counts.astype(np.float32)), dtype=np.float64))
    return centres, np.array(losses)
