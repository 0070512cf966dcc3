"""Lp: the range that minimises E |x - Q(x)|**p, for any p from 1 on.

p = 2 is the squared error of stats/search.py, and the same range; a larger p fears large errors, so that less is
clipped; p towards 1 clips more. Nahshan et al. 2019, arXiv:1911.07190 ("LAPQ"), try several p;
BRECQ's published code takes p = 2.4, the default here.

With r = x / scale, k = rint(r) clipped to the codes less the zero point, and d = r - k, the integral of |x - Q(x)|**p
from 0 to x is, as a step gives 2 (1/2)**(p + 1) / (p + 1) and what is begun of one, or lies beyond the last code,
|d|**(p + 1) / (p + 1),

    F(x) = scale**(p + 1) / (p + 1) * (k * 2**-p + sign(d) |d|**(p + 1))

which for p = 2 is the F of numerics/native.py; values are spread evenly within a bin as there, and each range is
judged with the scale and zero point that it would get. Found by the search of stats/search.py.
"""

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.quantize import params_for
from halfeven.numerics.scheme import Scheme
from halfeven.stats.density import Density
from halfeven.stats.histogram import Histogram
from halfeven.stats.search import range_of_least

Doubles = npt.NDArray[np.float64]

POWER = 2.4


def lp_range(histogram: Histogram, scheme: Scheme, p: float = POWER) -> tuple[float, float]:
    """The range of least expected |x - Q(x)|**p.

    Raises:
        BadOption: p is below 1, or above 16.
    """
    if not 1 <= p <= 16:
        raise BadOption(f"lp: p={p}; a power from 1 to 16 was expected, for instance 2.4.")
    return range_of_least(PowerErrors(Density.of(histogram), scheme, p), histogram, scheme)


class PowerErrors:
    """Mean |x - Q(x)|**p of ranges under one scheme, over one density."""

    def __init__(self, density: Density, scheme: Scheme, p: float) -> None:
        self._scheme, self._power, self._total = scheme, p, max(density.total, 1.0)
        edges, weights = density.weights()
        self._edges, self._weights = edges[weights != 0], weights[weights != 0]
        self._unit = max(float(np.abs(edges).max()), 1e-300)  # so that powers of tiny values do not vanish

    def __call__(self, low: npt.ArrayLike, high: npt.ArrayLike) -> Doubles:
        """Errors of the n ranges from `low` to `high`, shape (n,), in units of the greatest magnitude to the p-th."""
        params = params_for(np.atleast_1d(low), np.atleast_1d(high), self._scheme)
        grid, zero = self._scheme.grid, params.zero_point.astype(np.float64)
        scales = params.scale.astype(np.float64)
        ends = zip(scales, grid.low - zero, grid.high - zero, strict=True)
        return np.array([self._error(*one) for one in ends]) / self._total

    def _error(self, scale: float, low: float, high: float) -> float:
        p = self._power
        r = self._edges / scale
        k = np.clip(np.rint(r), low, high)
        d = r - k
        within = k * 2.0**-p + np.sign(d) * np.abs(d) ** (p + 1)
        total = max(float((self._weights * within).sum()), 0.0)
        return float(total / (p + 1) * scale * (scale / self._unit) ** p)
