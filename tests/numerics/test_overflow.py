"""The report on overflow is exact: both ends of each channel's range are reached by some input, and none is passed."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics.integer_ops import conv2d, matmul, matmul_saturating_pairs
from halfeven.numerics.overflow import accumulator_ranges, bias_ranges, pair_ranges

small = st.integers(-4, 4)


@given(
    weight=st.lists(st.lists(small, min_size=3, max_size=3), min_size=1, max_size=3),
    ends=st.tuples(small, small).map(sorted),
    zx=small,
    zw=small,
    bias=small,
)
def test_brute_force_finds_the_same_ends(weight: list[list[int]], ends: list[int], zx: int, zw: int, bias: int) -> None:
    """All inputs of a small grid, zero points outside it included."""
    low, high = ends
    x = np.array(list(product(range(low, high + 1), repeat=3)))
    acc = matmul(x, np.array(weight).T, zx, zw, bias)
    for found in accumulator_ranges(np.array(weight), low, high, zx, zw, bias):
        assert (found.lowest, found.highest) == (acc[:, found.channel].min(), acc[:, found.channel].max())
        assert found.bound == np.abs(acc[:, found.channel]).max()


@given(weight=st.lists(small, min_size=3, max_size=3), ends=st.tuples(small, small).map(sorted), bias=small)
def test_brute_force_over_all_orders_finds_the_ends_of_partial_sums(
    weight: list[int], ends: list[int], bias: int
) -> None:
    low, high = ends
    partial = {0}
    for x in product({low, high, max(low, min(high, 0))}, repeat=3):
        for order in permutations([*(a * b for a, b in zip(x, weight, strict=True)), bias]):
            partial |= set(np.cumsum(order).tolist())
    found = accumulator_ranges(np.array([weight]), low, high, 0, 0, bias, saturating=True)[0]
    assert (found.lowest, found.highest) == (min(partial), max(partial))


@pytest.mark.parametrize("bits", [16, 32])
def test_it_can_overflow_from_the_very_code_on(bits: int) -> None:
    limit = (1 << (bits - 1)) - 1
    weight = np.full((1, 100), 127)
    rest = limit - 100 * 127 * 255
    if bits == 16:
        weight, rest = np.array([[127, 1]]), limit - 128 * 255
    fits, over = (accumulator_ranges(weight, 0, 255, bias=rest + more, bits=bits)[0] for more in (0, 1))
    assert not fits.can_overflow
    assert fits.bits_needed == bits
    assert over.can_overflow
    assert over.bits_needed == bits + 1
    x = np.full((1, weight.shape[1]), 255)
    assert matmul(x, weight.T, 0, 0, rest, bits)[0, 0] == limit
    assert matmul(x, weight.T, 0, 0, rest + 1, bits)[0, 0] == -limit - 1


def test_the_lower_end_is_one_code_further() -> None:
    weight = np.array([[-128]])
    fits, over = (accumulator_ranges(weight, 0, 256, bias=bias, bits=16)[0] for bias in (0, -1))
    assert (fits.lowest, fits.can_overflow, fits.bits_needed) == (-32768, False, 16)
    assert (over.lowest, over.can_overflow, over.bits_needed) == (-32769, True, 17)


def test_the_advice_names_channel_range_and_remedy() -> None:
    weight = np.stack([np.ones(10, np.int64), np.full(10, 127)])
    quiet, loud = accumulator_ranges(weight, 0, 255, bits=16)
    assert quiet.advice == ""
    assert loud.channel == 1
    assert loud.limit == 32767
    assert loud.advice == (
        "Channel 1 can reach 0 to 323850, beyond 16 bits: accumulate in 20 bits, split the sum, "
        "or use weights of 4 bits less."
    )
    following = accumulator_ranges(weight // 16, 0, 255, bits=16)
    assert not any(found.can_overflow for found in following)


def test_a_convolution_reaches_its_bound() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (4, 3, 3, 3))
    bias = rng.integers(-(2**20), 2**20, 4)
    for found in accumulator_ranges(weight, -128, 127, -3, 0, bias):
        x = np.where(weight[found.channel] > 0, 127, -128)[None]
        assert conv2d(x, weight, -3, 0, bias)[0, found.channel, 0, 0] == found.highest
        x = np.where(weight[found.channel] > 0, -128, 127)[None]
        assert conv2d(x, weight, -3, 0, bias)[0, found.channel, 0, 0] == found.lowest


def test_channels_may_lie_on_any_axis_and_codes_be_wide() -> None:
    weight = np.random.default_rng(1).integers(-(2**31), 2**31, (3, 5, 2))
    along = accumulator_ranges(weight, -(2**31), 2**31 - 1, axis=1, bits=64)
    assert [f.channel for f in along] == list(range(5))
    for found in along:
        terms = [[int(w) * x for x in (-(2**31), 2**31 - 1)] for w in weight[:, found.channel].ravel()]
        assert found.highest == sum(max(t) for t in terms)
        assert found.lowest == sum(min(t) for t in terms)


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(BadOption, match="no input code lies between 1 and 0"):
        accumulator_ranges(np.ones((1, 1), np.int8), 1, 0)


@given(seed=st.integers(0, 999), depth=st.integers(1, 7))
def test_pairs_saturate_if_and_only_if_the_report_says_so(seed: int, depth: int) -> None:
    """The worst input of each pair is tried: 255 where it pushes to the end in question, 0 elsewhere."""
    weight = np.random.default_rng(seed).integers(-128, 128, (3, depth)).astype(np.int8)
    for found in pair_ranges(weight):
        row = weight[found.channel]
        inputs = np.stack([np.where(row > 0, 255, 0), np.where(row < 0, 255, 0)]).astype(np.uint8)
        exact, saturated = matmul(inputs, row[:, None]), matmul_saturating_pairs(inputs, row[:, None])
        assert found.can_saturate == (exact != saturated).any()


def test_weights_of_64_are_safe_in_pairs_and_of_65_are_not() -> None:
    for size, saturates in [(64, False), (65, True)]:
        for sign in (1, -1):
            found = pair_ranges(np.full((1, 4), sign * size, np.int8))[0]
            assert found.can_saturate == saturates
            assert found.saturating_pairs == (2 if saturates else 0)
    assert pair_ranges(np.full((1, 4), -65, np.int8))[0].advice == (
        "Channel 0: 2 pairs of products can reach -33150 to 0, beyond 16 bits, on x86 without VNNI: "
        "use weights of 7 bits, or uint8 weights."
    )
    assert pair_ranges(np.full((1, 4), 64, np.int8))[0].advice == ""


def test_a_bias_that_no_int32_holds_is_found() -> None:
    scale = 2.0**-40
    found = bias_ranges([1.0, 1.0, -1.0], 0.5, [scale * 2**11, scale, 2.0**-30])
    assert [f.can_overflow for f in found] == [False, True, False]
    assert found[1].code == 2.0**41
    assert found[1].advice == (
        "Channel 1: the bias needs the code 2.19902e+12, beyond 32 bits: make the weight scale at least 1.02e+03 times "
        "as large, or keep the bias in float."
    )
    assert found[0].advice == ""


def test_the_ends_of_int32_fit_and_one_more_does_not() -> None:
    for bias, fits in [(2**31 - 1, True), (2**31, False), (-(2**31), True), (-(2**31) - 1, False)]:
        assert bias_ranges(float(bias), 1.0, 1.0)[0].can_overflow != fits
