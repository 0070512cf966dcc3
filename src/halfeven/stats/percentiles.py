"""Percentiles: the range that leaves the outermost values out, as three tools conclude it.

    tool                   of                      low, high
    ppq                    each batch's values     the k-th least, k = int(n (1 - p)) + 1 and min(int(n p), n - 1) + 1,
                                                   p = 0.9999; each averaged over the batches in float32 (n (1 - p)
                                                   in float64, whose rounding may make k one less than it should be)
    onnxruntime            a histogram             edges on the left of the bins in which the running sum of shares
                                                   reaches (1 - p) / 2 and 1 - (1 - p) / 2, p = 0.99999, not beyond the
                                                   data; symmetric: of |x|, the edge where it reaches p
    pytorch-quantization   a histogram of |x|      the edge on the left of the bin in which it reaches p = 0.9999

ONNX Runtime's p is of both sides together, the others' of each. All three return the *left* edge of the bin that
reaches p: the threshold is a bin below the percentile, and for p = 1 a bin below the greatest value (but for ONNX
Runtime's, where rounding may make the running sum end below 1: then there is no such bin, and it fails).

Halfeven's own, "percentile" of stats/estimate.py, places the percentile within its bin.

Sources: PPQ quantization/observer/range.py (TorchPercentileObserver), ONNX Runtime quantization/calibrate.py
(compute_percentile), pytorch-quantization calib/histogram.py (_compute_amax_percentile).
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration, BadOption
from halfeven.stats.kl_histograms import Bins

Range: TypeAlias = tuple[float, float]


def ppq_percentile(batches: Iterable[npt.NDArray[np.float32]], share: float = 0.9999) -> Range:
    """PPQ's percentile of each batch, averaged; `share` is the fraction kept below, and above.

    Raises:
        BadOption: the share is below a half, or above 1.
        BadCalibration: there is no batch, or one without elements.
    """
    _fraction("ppq", share, 0.5)
    ends = []
    for x in batches:
        if not x.size:
            raise BadCalibration("ppq percentile: a batch without elements has no percentile. Leave it out.")
        k = int(x.size * (1 - share)), min(int(x.size * share), x.size - 1)
        ends.append(np.partition(np.asarray(x, np.float32).ravel(), k)[list(k)])
    if not ends:
        raise BadCalibration("ppq percentile: there was no batch to take percentiles of.")
    mean = np.stack(ends).mean(axis=0, dtype=np.float32)
    return float(mean[0]), float(mean[1])


def onnxruntime_percentile(bins: Bins, share: float = 0.99999, symmetric: bool = False) -> Range:
    """ONNX Runtime's percentile of a histogram of x, or of |x| if `symmetric`.

    `bins` are of `kl_histograms.growing_both_ways`, or of `over_seen_magnitudes` if symmetric.

    Raises:
        BadOption: the share is no fraction.
        BadCalibration: the shares add up to less than what is asked for.
    """
    _fraction("onnxruntime", share)
    if symmetric:
        high = float(bins.edges[_reached(bins, share)])
        low = -high
    else:
        percent = share * 100  # the tool's own way from percent to a share, for its rounding
        cut = (100.0 - percent) / 200.0
        low, high = (float(bins.edges[_reached(bins, one)]) for one in (cut, 1.0 - cut))
    return max(low, bins.low), min(high, bins.high)


def pytorch_quantization_percentile(bins: Bins, share: float = 0.9999) -> float:
    """pytorch-quantization's amax: of a histogram of |x| (`kl_histograms.growing_upwards`).

    Raises:
        BadOption: the share is no fraction.
        BadCalibration: the shares add up to less than what is asked for.
    """
    _fraction("pytorch-quantization", share)
    return float(bins.edges[_reached(bins, share)])


def _reached(bins: Bins, share: float) -> int:
    """The first bin at which the running sum of shares is `share` or more."""
    running = np.cumsum(bins.counts / bins.counts.sum())
    at = int(np.searchsorted(running, share))
    if at >= bins.counts.size:
        raise BadCalibration(
            f"The shares of {bins.counts.size} bins add up to {running[-1]!r}, short of {share!r} by rounding; the "
            "tool would fail here. Ask for a little less."
        )
    return at


def _fraction(tool: str, share: float, least: float = 0.0) -> None:
    if not least <= share <= 1:
        raise BadOption(f"{tool} percentile: share={share}; a fraction from {least:g} to 1 was expected, as 0.9999.")
