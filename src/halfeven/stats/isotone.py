"""Isotone: the scale that keeps the order of a classifier's two highest outputs for the most samples.

Of each sample only its highest value f and second highest s count. A scale serves the sample if it lies in

    [ max(s / (high - 0.51), 0),  (f - max(s, 0)) / margin )

at least the first, so that s is not clipped to the highest code and f can lie above it; below the second, so that f and
s lie more than `margin` steps apart. The objective is the number of samples served; of the scales that serve the most,
the least. It lies at the lower end of some sample's interval, and one pass over the sorted ends finds it.

PPQ's margin is 1/2: then round(f / scale) *can* differ from round(s / scale), but need not, as both may fall on one
code. With a margin of 1 it must: two values more than a step apart never share a code, and a sample that is served
keeps its class. PPQ takes the magnitudes of f and s in symmetric schemes, which leaves out samples whose highest values
are negative, and when no sample can be served, the range from 0 to the last sample's f; so it is here.

Source: PPQ quantization/observer/order.py (TorchIsotoneObserver).
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.scheme import Scheme

Doubles = npt.NDArray[np.float64]

PPQ_MARGIN = 0.5


def top_two(x: npt.NDArray[np.float32], axis: int = -1) -> npt.NDArray[np.float32]:
    """The highest and second highest along `axis`, shape (samples, 2), for `isotone_scale`: all that need be kept.

    Raises:
        BadCalibration: fewer than two values along the axis.
    """
    if x.ndim == 0 or x.shape[axis] < 2:
        raise BadCalibration(f"Isotone calibration of shape {x.shape}: two classes or more are needed along {axis}.")
    last = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    return np.partition(last, (-2, -1), axis=1)[:, :-3:-1]


def isotone_scale(pairs: Iterable[npt.NDArray[np.float32]], scheme: Scheme, margin: float = PPQ_MARGIN) -> float:
    """The least scale that serves the most of all `pairs`, arrays of shape (n, 2): highest, second highest.

    Raises:
        BadOption: the margin is not above 0.
        BadCalibration: there is no pair.
    """
    if not margin > 0:
        raise BadOption(f"Isotone calibration: margin={margin}; PPQ's is 0.5, and 1 makes sure of the order.")
    parts = list(pairs)
    if not sum(len(part) for part in parts):
        raise BadCalibration("Isotone calibration saw no sample.")
    both = np.concatenate(parts).astype(np.float64)
    least, most = intervals(both, scheme, margin)
    if not least.size:
        codes = scheme.grid.high - scheme.grid.low
        reach = 2 * abs(both[-1, 0]) if scheme.symmetric else max(both[-1, 0], 0.0)
        return max(float(reach) / codes, 1e-8)
    starts = np.sort(least)
    begun, ended = (np.searchsorted(np.sort(ends), starts, side="right") for ends in (least, most))
    served = begun - ended
    return float(starts[np.argmax(served)])


def intervals(pairs: Doubles, scheme: Scheme, margin: float) -> tuple[Doubles, Doubles]:
    """Least and greatest scale of each sample that some scale serves."""
    first, second = np.abs(pairs).T if scheme.symmetric else pairs.T
    least = np.maximum(second / (scheme.grid.high - 0.51), 0.0)
    most = (first - np.maximum(second, 0.0)) / margin
    fits = (most > least) & (first > 0)
    return least[fits], most[fits]
