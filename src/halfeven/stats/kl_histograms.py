"""Bins: the histogram that each published entropy calibration counts, by its own rule, from the batches of one tensor.

    rule        of      bins           where a value falls                                 later batches
    tensorrt    |x|     2048           numpy.histogram over [0, absmax]                    absmax is of all batches
    mxnet       x       8001           numpy.histogram over [-absmax, absmax]              the range grows by whole bins
    onnxruntime x       128            the same                                            the same
    ncnn        |x|     2048           min(int(|x| / absmax * 2048), 2047), zeros skipped  absmax is of all batches
    ppq         |x|     4096           int(|x| * 4096 / absmax)                            absmax is of all batches
    pytorch-    |x|     2048           int(|x| * bins / edge), edge = right end            bins of the first width are
    quantization                                                                           added up to the new absmax

int() truncates; ncnn's and the last two divisions are of float32 (torch.histc for those two). Where absmax is of all
batches the tool reads its data twice, here the batches are walked twice.

Sources: MXNet python/mxnet/contrib/quantization.py (combine_histogram), ONNX Runtime
quantization/calibrate.py (collect_value, merge_histogram, collect_absolute_value), ncnn
tools/quantize/ncnn2table.cpp, PPQ quantization/observer/range.py, pytorch-quantization calib/histogram.py; the slides
of TensorRT (S. Migacz, GTC 2017) say "2048 bins" only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration

Counts: TypeAlias = npt.NDArray[np.int64]
Batches: TypeAlias = Sequence[npt.NDArray[np.float32]]
Float: TypeAlias = npt.NDArray[np.floating[Any]]

MOST_BINS = 1 << 22  # a tool that grows by whole bins would ask for gigabytes after a tiny first batch


@dataclass(frozen=True, eq=False)
class Bins:
    """Counts between edges, and the extrema of what was counted.

    Holds: `counts` int64 of shape (n,), `edges` of shape (n + 1,), ascending, in the dtype that the tool keeps them in.
    """

    counts: Counts
    edges: Float
    low: float
    high: float

    @property
    def reach(self) -> float:
        """Largest magnitude seen."""
        return max(-self.low, self.high)


def over_magnitudes(batches: Batches, bins: int = 2048) -> Bins:
    """TensorRT's: equal bins of |x| over [0, absmax]."""
    low, high = _extrema(batches)
    reach = max(-low, high)
    counts = sum((np.histogram(np.abs(x), bins, (0.0, reach))[0] for x in batches), np.zeros(bins, np.int64))
    return Bins(counts, np.linspace(0.0, reach, bins + 1), low, high)


def growing_both_ways(batches: Batches, bins: int) -> Bins:
    """MXNet's and ONNX Runtime's: equal bins over [-absmax, absmax], as many added on either side as a batch needs."""
    low, high = _extrema(batches)
    counts, edges, reach = np.zeros(0, np.int64), np.zeros(0, np.float32), np.float32(0)
    for x in batches:
        found = np.float32(max(abs(x.min()), abs(x.max())))
        if not counts.size or (found > reach and reach == 0):
            before, reach = counts, found
            counts, edges = np.histogram(x, bins, _around(reach))
            counts = counts + before if before.size else counts
        elif found <= reach:
            counts = counts + np.histogram(x, counts.size, _around(reach))[0]
        else:
            width = 2 * reach / counts.size
            more = _affordable(int((found - reach) // width + 1), counts.size)
            wide, reach = counts.size + 2 * more, more * width + reach
            grown, edges = np.histogram(x, wide, _around(reach))
            grown[more : wide - more] += counts
            counts = grown
    return Bins(counts, edges, low, high)


def skipping_zeros(batches: Batches, bins: int = 2048) -> Bins:
    """ncnn's: |x| in units of absmax / bins, in float32; exact zeros are not counted."""
    low, high = _extrema(batches)
    reach, counts = np.float32(max(-low, high)), np.zeros(bins, np.int64)
    for x in batches:
        filled = np.abs(x[x != 0])
        place = (filled / reach * np.float32(bins)).astype(np.int64)
        counts += np.bincount(np.minimum(place, bins - 1), minlength=bins)
    return Bins(counts, (np.arange(bins + 1) * float(reach) / bins).astype(np.float32), low, high)


def histc(x: npt.NDArray[np.float32], bins: int, reach: float) -> Counts:
    """Counts of `x`, none negative, over [0, reach] as torch.histc counts them; what lies above is left out."""
    top = np.float32(reach)
    place = (x[x <= top] * np.float32(bins) / top).astype(np.int64)
    return np.bincount(np.minimum(place, bins - 1), minlength=bins)


def over_magnitudes_float32(batches: Batches, bins: int = 4096) -> Bins:
    """PPQ's: torch.histc of |x| over [0, absmax]."""
    low, high = _extrema(batches)
    reach = max(-low, high)
    counts = sum((histc(np.abs(x), bins, reach) for x in batches), np.zeros(bins, np.int64))
    return Bins(counts, np.linspace(0.0, reach, bins + 1), low, high)


def growing_upwards(batches: Batches, bins: int = 2048) -> Bins:
    """pytorch-quantization's: torch.histc of |x| over the first batch's [0, absmax], bins of that width added above.

    Edges are multiples of the width, rounded to float32; torch's own may differ from them in the last bit, as its
    linspace and arange do from processor to processor.
    """
    low, high = _extrema(batches)
    counts, reach = np.zeros(0, np.int64), np.float32(0)
    edges = np.zeros(1, np.float32)
    for x in batches:
        magnitudes = np.abs(x)
        found = magnitudes.max()
        if not counts.size:
            if found == 0:
                raise BadCalibration("The first batch holds nothing but zeros: pytorch-quantization cannot bin it.")
            edges = (np.arange(bins + 1) * (float(found) / bins)).astype(np.float32)
        elif found > edges[-1]:
            width = edges[1] - edges[0]
            more = _affordable(int(np.ceil(found / width)), counts.size)
            edges = (np.arange(more + 1) * float(width)).astype(np.float32)
        reach = edges[-1] if counts.size else found
        grown = histc(magnitudes, edges.size - 1, float(reach))
        grown[: counts.size] += counts
        counts = grown
    return Bins(counts, edges, low, high)


def over_seen_magnitudes(batches: Batches, bins: int = 2048) -> Bins:
    """ONNX Runtime's for its symmetric percentile: numpy.histogram of |x| over the first batch's least to greatest.

    Later batches count in the same bins, and in bins of that width above; what lies below the first is lost.
    """
    low, high = _extrema(batches)
    counts, edges = np.histogram(np.abs(batches[0]), bins)
    edges = edges.astype(np.float32)
    for x in batches[1:]:
        magnitudes = np.abs(x)
        if (found := magnitudes.max()) > edges[-1]:
            width = edges[1] - edges[0]
            _affordable(int((found - edges[-1]) / width) if width > 0 else MOST_BINS, counts.size)
            edges = np.hstack((edges, np.arange(edges[-1] + width, found + width, width)))
        grown, edges = np.histogram(magnitudes, bins=edges)
        edges = edges.astype(np.float32)
        grown[: counts.size] += counts
        counts = grown
    return Bins(counts, edges, low, high)


def _extrema(batches: Batches) -> tuple[float, float]:
    """Lowest and highest of all batches.

    Raises:
        BadCalibration: there is no element, one is NaN or infinite, or all are zero.
    """
    if not batches or not all(x.size for x in batches):
        raise BadCalibration("There were no elements, or a batch without any: no histogram can be counted.")
    low, high = min(float(x.min()) for x in batches), max(float(x.max()) for x in batches)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadCalibration(f"Values from {low} to {high} were seen: NaN and infinities have no place in a histogram.")
    if low == high == 0:
        raise BadCalibration("Nothing but zeros was seen: a histogram of them has no width, and no threshold follows.")
    return low, high


def _around(reach: np.float32) -> Any:
    """[-reach, reach], in float32, so that NumPy keeps the edges in float32."""
    return -reach, reach


def _affordable(bins: int, before: int) -> int:
    if bins > MOST_BINS:
        raise BadCalibration(
            f"A later batch is so much larger than the first that {bins} bins would be added to {before}. Put batches "
            "with large values first, or use Halfeven's own estimators, whose histogram stays small."
        )
    return bins
