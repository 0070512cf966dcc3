"""Entropy: the prefix sums give the divergences of the procedure written out, and its least is found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.numerics.grid import INT8, UINT8, IntGrid
from halfeven.numerics.scheme import ScaleRule, Scheme, ZeroRule
from halfeven.stats.entropy import divergences, entropy_range, magnitudes
from halfeven.stats.histogram import Histogram

SYMMETRIC = Scheme(INT8)
AFFINE = Scheme(UINT8, zero_point=ZeroRule.FREE)


def written_out(counts: np.ndarray, levels: int, bins: int) -> float:
    """The slides' procedure for one threshold."""
    p = counts[:bins].copy()
    p[-1] += counts[bins:].sum()
    q, run = np.zeros(bins), bins // levels
    for level in range(levels):
        part = slice(level * run, bins if level == levels - 1 else (level + 1) * run)
        filled = counts[part] > 0
        if filled.any():
            q[part] = np.where(filled, counts[part].sum() / filled.sum(), 0)
    here = p > 0
    if (q[here] == 0).any():
        return np.inf
    p, q = p[here] / p.sum(), q[here] / q.sum()
    return float((p * np.log(p / q)).sum())


@given(
    counts=hnp.arrays(np.float64, st.integers(9, 60), elements=st.integers(0, 5).map(lambda n: float(n**4))),
    levels=st.integers(2, 8),
)
def test_prefix_sums_give_what_the_procedure_gives(counts: np.ndarray, levels: int) -> None:
    if not counts.any():
        return
    thresholds = np.arange(levels, counts.size + 1)
    expected = [written_out(counts, levels, int(bins)) for bins in thresholds]
    np.testing.assert_allclose(divergences(counts, levels, thresholds), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("scheme", "sign"), [(SYMMETRIC, -1), (AFFINE, 1), (AFFINE, 0)], ids=str)
def test_the_range_is_the_first_least_divergence(scheme: Scheme, sign: int) -> None:
    x = np.random.default_rng(4).standard_t(4, 20_000).astype(np.float32)
    x = sign * np.abs(x) if sign else x
    histogram = Histogram.of(x)
    counts, width = magnitudes(histogram)
    levels = 256 if sign and not scheme.symmetric else 128
    assert 1024 < counts.size <= 2048
    expected = [written_out(counts, levels, bins) for bins in range(levels, counts.size + 1)]
    threshold = (levels + int(np.argmin(expected)) + 0.5) * width
    low, high = entropy_range(histogram, scheme)
    assert (low, high) == (max(min(x.min(), 0), -threshold), min(max(x.max(), 0), threshold))
    assert max(-low, high) < np.abs(x).max()


def test_magnitudes_put_both_sides_together() -> None:
    x = np.array([-3, -1, 1, 1, 2, 0, 0], np.float32)
    counts, width = magnitudes(Histogram.of(x))
    assert width == 2.0**-9
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == {512: 3, 1024: 1, 1536: 1}


def test_a_power_of_two_scheme_gets_a_threshold_of_its_grid() -> None:
    x = np.random.default_rng(4).standard_t(4, 20_000).astype(np.float32)
    scheme = Scheme(INT8, scale=ScaleRule.POWER_OF_TWO)
    threshold = max(-(ends := entropy_range(Histogram.of(x), scheme))[0], ends[1])
    steps = threshold / 127
    assert abs(np.log2(steps) - np.rint(np.log2(steps))) < 0.01 or threshold == np.abs(x).max()


def test_more_levels_than_bins_need_no_threshold() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert entropy_range(Histogram.of(x), Scheme(IntGrid(16))) == (float(x.min()), float(x.max()))
