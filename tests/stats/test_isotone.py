"""Isotone: no scale serves more samples; with a margin of one step a served sample keeps its class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.grid import INT8, UINT8
from halfeven.numerics.quantize import quantize
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule
from halfeven.stats.isotone import intervals, isotone_scale, top_two

SYMMETRIC, AFFINE = Scheme(INT8), Scheme(UINT8, zero_point=ZeroRule.FREE)
PAIRS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(-40, 400).map(lambda n: n / 8)
).map(lambda pairs: -np.sort(-pairs, axis=1))


def served(pairs: np.ndarray, scheme: Scheme, scale: float, margin: float) -> int:
    """How many samples `scale` serves, counted one by one."""
    count = 0
    for first, second in pairs.astype(np.float64):
        if scheme.symmetric:
            first, second = abs(first), abs(second)
        least, most = max(second / (scheme.grid.high - 0.51), 0.0), (first - max(second, 0.0)) / margin
        count += most > least and first > 0 and least <= scale < most
    return count


@given(pairs=PAIRS)
@pytest.mark.parametrize("margin", [0.5, 1.0])
@pytest.mark.parametrize("scheme", [SYMMETRIC, AFFINE], ids=str)
def test_no_scale_serves_more_samples(scheme: Scheme, margin: float, pairs: np.ndarray) -> None:
    scale = isotone_scale([pairs], scheme, margin)
    least, most = intervals(pairs.astype(np.float64), scheme, margin)
    tried = np.concatenate([least, most, (least + 1e-9), (most - 1e-9), np.linspace(0, 100, 200)])
    best = max((served(pairs, scheme, float(one), margin) for one in tried), default=0)
    if best:
        assert served(pairs, scheme, scale, margin) == best
        smaller = [float(one) for one in tried if one < scale]
        assert all(served(pairs, scheme, one, margin) < best for one in smaller)


@given(logits=hnp.arrays(np.float32, (6, 5), elements=st.integers(-400, 400).map(lambda n: n / 8)))
def test_a_sample_served_with_a_margin_of_one_keeps_its_class(logits: np.ndarray) -> None:
    pairs = top_two(logits)
    scale = isotone_scale([pairs], SYMMETRIC, margin=1.0)
    if scale == 0:
        return
    params = QParams(SYMMETRIC, np.full((1, 1), scale, np.float32), np.zeros((1, 1), np.int32))
    for row in range(6):
        if pairs[row, 1] >= 0 and served(pairs[row : row + 1], SYMMETRIC, float(params.scale.item()), 1.0):
            codes = quantize(logits[row : row + 1], params)[0]
            assert codes.argmax() == logits[row].argmax()
            assert (codes == codes.max()).sum() == 1


def test_ppq_s_margin_of_half_a_step_may_put_both_on_one_code() -> None:
    pairs = np.array([[1.01, 0.5]], np.float32) * 127
    scale = isotone_scale([pairs], SYMMETRIC)
    assert scale == pytest.approx(0.5 * 127 / 126.49, rel=1e-6)
    wide = 0.99 * 2 * float(pairs[0, 0] - pairs[0, 1])  # serves as well
    assert served(pairs, SYMMETRIC, wide, 0.5)
    assert np.rint(pairs[0] / wide).tolist() == [1.0, 1.0] or np.rint(pairs[0] / wide)[0] != np.rint(pairs[0] / wide)[1]


def test_the_two_highest_of_each_sample_are_enough() -> None:
    logits = np.random.default_rng(0).standard_normal((4, 10, 3)).astype(np.float32)
    expected = -np.sort(-logits, axis=1)[:, :2].transpose(0, 2, 1).reshape(-1, 2)
    found = top_two(logits, axis=1)
    np.testing.assert_array_equal(found, expected)
    assert isotone_scale([found[:5], found[5:]], AFFINE) == isotone_scale([found], AFFINE)


def test_when_no_sample_can_be_served_the_last_one_s_range_is_taken() -> None:
    tied = np.array([[3.0, 3.0], [5.1, 5.1]], np.float32)
    assert isotone_scale([tied], SYMMETRIC) == pytest.approx(2 * 5.1 / 255)
    assert isotone_scale([tied], AFFINE) == pytest.approx(5.1 / 255)
    assert isotone_scale([-tied], AFFINE) == 1e-8


def test_what_has_no_order_is_refused() -> None:
    with pytest.raises(BadCalibration, match="two classes or more"):
        top_two(np.ones((3, 1), np.float32))
    with pytest.raises(BadCalibration, match="no sample"):
        isotone_scale([np.zeros((0, 2), np.float32)], SYMMETRIC)
    with pytest.raises(BadOption, match="margin=0"):
        isotone_scale([np.ones((1, 2), np.float32)], SYMMETRIC, margin=0)
