"""KL: the threshold of entropy calibration as six published tools find it, each with its quirks.

    variant               bins   levels  least divergence  threshold
    tensorrt              2048   128     first             (i + 1/2) * width
    mxnet                 8001   255     first             edge on the right of the i bins beside the middle one
    onnxruntime           128    128     first             edges on both sides, not beyond the data; with 128 bins there
                                                           is one candidate: the range of the data
    ncnn                  2048   128     first             (i + 1/2) * absmax / 2048 in float32; all 2048 never compete
    ppq                   4096   128     first             i * width; its scale is threshold / 128
    pytorch-quantization  2048   128     last              edge i

How each counts is in stats/kl_histograms.py, how each compares in stats/kl_divergences.py. Halfeven's own procedure,
"entropy" of stats/estimate.py, is that of stats/entropy.py: these are for results that have to equal another tool's,
or be set against them. `levels` is given for 8 bits, signed; pytorch-quantization's unsigned grid has 256, MXNet's
511. Where a tool divides the threshold by the highest code (127) to get a scale, PPQ divides by 128.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.stats import kl_divergences as divergence
from halfeven.stats import kl_histograms as histograms
from halfeven.stats.kl_histograms import Batches, Bins, Counts

Doubles: TypeAlias = npt.NDArray[np.float64]
Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Variant:
    """One tool's entropy calibration.

    `first` and `step` give the candidates: first(levels) + step(levels) * index, which `range` turns into a range.
    """

    bins: int
    levels: int
    count: Callable[[Batches, int], Bins]
    divergences: Callable[[Counts, int], Doubles]
    range: Callable[[Bins, int], Range]
    first: Callable[[int], int] = lambda levels: levels
    step: Callable[[int], int] = lambda levels: 1
    last: bool = False


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found: the winning candidate, in bins, its range, and the divergence of every candidate."""

    bins: int
    low: float
    high: float
    divergences: Doubles


def histogram_of(variant: str, batches: Batches, bins: int | None = None) -> Bins:
    """The histogram that the tool counts of `batches`, float32 arrays of any shape; `bins` other than its default.

    Raises:
        BadOption: no such variant.
        BadCalibration: there are no values but zeros, NaN or infinities, or the tool's rule asks for too many bins.
    """
    chosen = _variant(variant)
    flat = [np.asarray(x, np.float32).ravel() for x in batches]
    return chosen.count(flat, chosen.bins if bins is None else bins)


def threshold(variant: str, bins: Bins, levels: int | None = None) -> Found:
    """The range of least divergence that the tool concludes from its histogram `bins`.

    Raises:
        BadOption: no such variant, or too few bins for the levels, or a number of either that the tool cannot have.
    """
    chosen = _variant(variant)
    levels = chosen.levels if levels is None else levels
    _check(variant, bins.counts.size, levels)
    found = chosen.divergences(bins.counts, levels)
    at = found.size - 1 - int(np.argmin(found[::-1])) if chosen.last else int(np.argmin(found))
    best = chosen.first(levels) + chosen.step(levels) * at
    return Found(best, *chosen.range(bins, best), found)


def kl_range(variant: str, batches: Batches, bins: int | None = None, levels: int | None = None) -> Range:
    """The range that the tool would calibrate to on `batches`.

    Raises:
        BadOption: as `threshold`.
        BadCalibration: as `histogram_of`.
    """
    found = threshold(variant, histogram_of(variant, batches, bins), levels)
    return found.low, found.high


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise BadOption(f"There is no entropy calibration called {name!r}; there are {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def _check(variant: str, bins: int, levels: int) -> None:
    two_sided, powers = variant in ("mxnet", "onnxruntime"), variant in ("ncnn", "ppq", "pytorch-quantization")
    least = 128 if variant == "pytorch-quantization" else levels + (variant == "ncnn")
    if levels < 2 or bins < least:
        raise BadOption(f"{variant}: a histogram of {bins} bins was given for {levels} levels; {least} are the least.")
    if powers and levels & (levels - 1):
        raise BadOption(f"{variant}: {levels} levels were asked for; it merges into a power of two, for instance 128.")
    if variant == "ppq" and bins % levels:
        raise BadOption(f"ppq: {bins} bins do not divide into {levels} levels; its own number is 4096.")
    if two_sided and variant == "mxnet" and bins % 2 == 0:
        raise BadOption(f"mxnet: {bins} bins were given; it takes an odd number, so that one is in the middle.")


def _symmetric(reach: float) -> Range:
    return -reach, reach


def _tensorrt(bins: Bins, i: int) -> Range:
    return _symmetric((i + 0.5) * bins.reach / bins.counts.size)


def _ncnn(bins: Bins, i: int) -> Range:
    reach = (np.float32(i) + np.float32(0.5)) * np.float32(bins.reach) / np.float32(bins.counts.size)
    return _symmetric(float(reach))


def _mxnet(bins: Bins, i: int) -> Range:
    return _symmetric(float(np.float32(bins.edges[bins.counts.size // 2 + i + 1])))


def _onnxruntime(bins: Bins, i: int) -> Range:
    middle = bins.counts.size // 2
    low, high = bins.edges[middle - i], bins.edges[min(middle + i + 1, bins.counts.size)]
    return max(float(low), bins.low), min(float(high), bins.high)


def _ppq(bins: Bins, i: int) -> Range:
    return _symmetric(i / bins.counts.size * bins.reach)


def _pytorch_quantization(bins: Bins, i: int) -> Range:
    return _symmetric(float(bins.edges[i]))


def _half(levels: int) -> int:
    return levels // 2


VARIANTS: dict[str, Variant] = {
    "tensorrt": Variant(2048, 128, histograms.over_magnitudes, divergence.tensorrt, _tensorrt),
    "mxnet": Variant(8001, 255, histograms.growing_both_ways, divergence.mxnet, _mxnet, first=_half),
    "onnxruntime": Variant(128, 128, histograms.growing_both_ways, divergence.onnxruntime, _onnxruntime, first=_half),
    "ncnn": Variant(2048, 128, histograms.skipping_zeros, divergence.ncnn, _ncnn),
    "ppq": Variant(4096, 128, histograms.over_magnitudes_float32, divergence.ppq, _ppq, step=lambda levels: levels),
    "pytorch-quantization": Variant(
        2048,
        128,
        histograms.growing_upwards,
        divergence.pytorch_quantization,
        _pytorch_quantization,
        first=lambda levels: 128,
        last=True,
    ),
}
