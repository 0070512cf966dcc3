"""Estimates: from a summary to the range that a scheme shall cover.

    method           summary            range
    minmax           any with extrema   lowest to highest
    moving-average   MovingAverage      the averaged lowest to highest
    percentile       Histogram          leaves 100 - `percentile` of the values out on either side; symmetric schemes:
                                        of the magnitudes
    entropy          Histogram          least divergence (stats/entropy.py)
    mse              Histogram          least squared error (stats/search.py)
    auto             Histogram          of minmax, percentile, entropy, mse the one with the least expected error
    lp               Histogram          least expected |error|**`p` (stats/lp.py)
    aciq             Histogram          the clip of a fitted normal or Laplace distribution (stats/aciq.py)
    octav            Histogram          least clipping error plus step**2 / 12 (stats/octav.py)
    sigma            Histogram          the mean and `sigmas` deviations on either side (stats/spread.py)
    admm             Histogram          scale and codes fitted in turns (stats/admm.py)

Ranges are of what was seen; zero, which every scheme covers, is added by `numerics.quantize.params_for`. Infinities
saturate and do not count; NaN is refused, as it makes every statistic of its tensor doubtful.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TypeAlias

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.scheme import Scheme
from halfeven.stats.aciq import aciq_range
from halfeven.stats.admm import admm_range
from halfeven.stats.density import Density, Errors
from halfeven.stats.entropy import entropy_range
from halfeven.stats.histogram import Histogram
from halfeven.stats.lp import POWER, lp_range
from halfeven.stats.octav import octav_range
from halfeven.stats.search import least_error_range
from halfeven.stats.spread import SIGMAS, sigma_range
from halfeven.stats.summary import Extrema, MovingAverage, Summary

Range: TypeAlias = tuple[float, float]
Evidence: TypeAlias = Extrema | MovingAverage | Histogram

PERCENTILE = 99.99
TIE = 0.01  # relative: smaller gains of error are within what even spread in a bin gets wrong


@dataclass(frozen=True)
class Choice:
    """What `auto` chose: the method, its range and the mean squared error expected of it."""

    method: str
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Method:
    """A way to a range: the summary to collect for it, and its options with their defaults."""

    collects: type[Summary]
    run: Callable[..., Range]
    options: dict[str, float] = field(default_factory=dict)


def estimate(method: str, summary: Evidence, scheme: Scheme, **options: float) -> Range:
    """The range `(low, high)` of `method` for `scheme`; `percentile=`, `p=`, `sigmas=` are options of some methods.

    Raises:
        BadOption: no such method or option, or the summary is not of the kind that the method reads.
        BadCalibration: the summary is empty or has seen NaN.
    """
    chosen = method_named(method)
    unknown = [name for name in options if name not in chosen.options]
    if unknown:
        known = ", ".join(chosen.options) or "none"
        raise BadOption(f"Calibration method {method!r} has no option {unknown[0]!r}; its options: {known}.")
    if not isinstance(summary, (chosen.collects, Histogram) if chosen.collects is Extrema else chosen.collects):
        raise BadOption(
            f"Calibration method {method!r} reads a {chosen.collects.kind}, but a {summary.kind} was collected. "
            "Calibrate anew with this method, or choose one that fits."
        )
    _check(summary)
    if isinstance(summary, Histogram) and not summary.counts.any():
        return _minmax(summary, scheme)  # nothing but zeros was counted
    return chosen.run(summary, scheme, **{**chosen.options, **options})


def method_named(name: str) -> Method:
    """The method called `name`; its `collects` says which summary to take.

    Raises:
        BadOption: there is none.
    """
    if name not in METHODS:
        near = get_close_matches(name, METHODS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise BadOption(f"There is no calibration method {name!r}.{hint} There are {', '.join(METHODS)}.")
    return METHODS[name]


def choose(histogram: Histogram, scheme: Scheme, percentile: float = PERCENTILE) -> Choice:
    """The method with the least expected error.

    Of those within 1 % of the least, the first of minmax, percentile, entropy, mse: minmax saturates nothing.

    Raises:
        BadCalibration: the histogram is empty or has seen NaN.
    """
    options = {"minmax": {}, "percentile": {"percentile": percentile}, "entropy": {}, "mse": {}}
    ranges = {name: estimate(name, histogram, scheme, **given) for name, given in options.items()}
    lows, highs = zip(*ranges.values(), strict=True)
    errors = Errors(Density.of(histogram), scheme)(lows, highs).tolist()
    method, error = next((n, e) for n, e in zip(ranges, errors, strict=True) if e <= min(errors) * (1 + TIE))
    return Choice(method, *ranges[method], error)


def _check(summary: Evidence) -> None:
    """Refuse what no range can be concluded from."""
    seen = summary.extrema if isinstance(summary, Histogram) else summary
    if seen.nans:
        raise BadCalibration(
            f"{seen.nans} NaN were seen in calibration. Look for unsuitable input data, or for an operator that "
            "overflows; leave this value in float if NaN is meant."
        )
    if seen.empty:
        why = f"only infinities ({seen.infs})" if seen.infs else "no element"
        raise BadCalibration(f"Calibration saw {why} here: no range can be concluded. Check the calibration data.")


def _minmax(summary: Evidence, scheme: Scheme) -> Range:
    seen = summary.extrema if isinstance(summary, Histogram) else summary
    return seen.low, seen.high


def _percentile(histogram: Histogram, scheme: Scheme, percentile: float) -> Range:
    if not 50 < percentile <= 100:
        raise BadOption(f"percentile={percentile}: a percentage above 50, up to 100, was expected, for instance 99.99.")
    density, share = Density.of(histogram), percentile / 100
    if scheme.symmetric:
        return histogram.within(density.folded().quantile(share, upper=True))
    ends = density.quantile(1 - share, upper=False), density.quantile(share, upper=True)
    low, high = (min(max(end, histogram.extrema.low), histogram.extrema.high) for end in ends)
    return low, high


def _auto(histogram: Histogram, scheme: Scheme, percentile: float) -> Range:
    choice = choose(histogram, scheme, percentile)
    return choice.low, choice.high


METHODS: dict[str, Method] = {
    "minmax": Method(Extrema, _minmax),
    "moving-average": Method(MovingAverage, _minmax),
    "percentile": Method(Histogram, _percentile, {"percentile": PERCENTILE}),
    "entropy": Method(Histogram, entropy_range),
    "mse": Method(Histogram, least_error_range),
    "auto": Method(Histogram, _auto, {"percentile": PERCENTILE}),
    "lp": Method(Histogram, lp_range, {"p": POWER}),
    "aciq": Method(Histogram, aciq_range),
    "octav": Method(Histogram, octav_range),
    "sigma": Method(Histogram, sigma_range, {"sigmas": SIGMAS}),
    "admm": Method(Histogram, admm_range),
}
