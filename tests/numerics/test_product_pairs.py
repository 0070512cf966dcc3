"""Promised: sums that wrap are those of int32, but that pairs of products are added in 16 bits; and only codes of -128,
at the taps that pair, make any difference.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.numerics.accumulate import Weights, conv_sums
from halfeven.numerics.product_pairs import Pairs, paired_taps
from halfeven.numerics.windows import Window

NO_ZERO = np.zeros(1, np.int32)


def in_sixteen_bits(x: np.ndarray, w: np.ndarray, zero: int, window: Window) -> np.ndarray:
    """The definition: products of int8 codes, added by pairs in int16, then in int32; the zero point's part taken off."""
    signed = x.astype(np.int64) - (128 if x.dtype == np.uint8 else 0)
    offset = zero - (128 if x.dtype == np.uint8 else 0)
    seen = window.gathered(signed, offset)
    taps = w.reshape(len(w), -1).astype(np.int64)
    products = seen * taps.reshape(1, len(w), *[1] * (seen.ndim - 3), -1)
    pairs = paired_taps(taps.shape[1], len(w))
    alone = [tap for tap in range(taps.shape[1]) if all(tap not in pair for pair in pairs)]
    total = products[..., alone].sum(-1)
    for pair in pairs:
        total += products[..., list(pair)].sum(-1).astype(np.int16)
    return total - offset * taps.sum(1).reshape(1, -1, *[1] * (total.ndim - 2))


@given(st.data())
def test_wrapping_sums_are_those_of_pairs_in_sixteen_bits(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dtype = data.draw(st.sampled_from([np.int8, np.uint8]))
    channels = data.draw(st.sampled_from([3, 8, 12, 16, 24, 32]))
    kernel = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    rank, held = len(kernel), np.iinfo(dtype)
    window = Window(
        kernel,
        tuple(int(n) for n in rng.integers(1, 3, rank)),
        tuple(int(n) for n in rng.integers(0, 2, 2 * rank)),
        tuple(int(n) for n in rng.integers(1, 3, rank)),
    )
    size = [int(rng.integers((k - 1) * d + 1, 10)) for k, d in zip(kernel, window.dilations, strict=True)]
    x = np.where(rng.random((2, channels, *size)) < 0.7, held.min, rng.integers(held.min, held.max + 1)).astype(dtype)
    w = np.where(rng.random((channels, 1, *kernel)) < 0.6, -128, rng.integers(-128, 128)).astype(np.int8)
    zero = int(rng.choice([held.min, held.min + 128, held.max]))
    found = conv_sums(x, Weights(w, NO_ZERO, channels, Pairs.WRAPPING), zero, window)
    np.testing.assert_array_equal(found, in_sixteen_bits(x, w, zero, window))


@pytest.mark.parametrize(
    ("taps", "channels", "pairs"),
    [
        (9, 16, ((0, 2), (1, 3), (4, 6), (5, 7))),
        (9, 24, ((0, 1), (2, 3), (4, 5), (6, 7))),
        (4, 16, ((0, 1), (2, 3))),
        (3, 8, ((0, 1),)),
        (9, 12, ()),
    ],
)
def test_which_taps_pair_depends_on_their_number_and_the_channels(
    taps: int, channels: int, pairs: tuple[tuple[int, int], ...]
) -> None:
    assert paired_taps(taps, channels) == pairs


@pytest.mark.parametrize(
    ("channels", "kernel", "taps"), [(16, (2, 3, 3), (0, 2)), (8, (2, 1, 3), (3, 4)), (8, (2, 1, 3), (1, 2))]
)
def test_taps_of_three_axes_pair_across_them_and_not_in_each_slice(
    channels: int, kernel: tuple[int, ...], taps: tuple[int, int]
) -> None:
    w = np.ones((channels, 1, int(np.prod(kernel))), np.int8)
    w[..., list(taps)] = -128
    w = w.reshape(channels, 1, *kernel)
    x, window = np.full((1, channels, 3, 4, 4), -128, np.int8), Window(kernel, (1,) * 3, (0,) * 6, (1,) * 3)
    found = [conv_sums(x, Weights(w, NO_ZERO, channels, pairs), 0, window) for pairs in (Pairs.EXACT, Pairs.WRAPPING)]
    np.testing.assert_array_equal(*found)


def test_codes_of_sixteen_bits_do_not_wrap() -> None:
    x, w = np.full((1, 8, 3, 3), -32768, np.int16), np.full((8, 1, 2, 2), -128, np.int8)
    window = Window((2, 2), (1, 1), (0,) * 4, (1, 1))
    found = [conv_sums(x, Weights(w, NO_ZERO, 8, pairs), 0, window) for pairs in (Pairs.EXACT, Pairs.WRAPPING)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("w", "zero_point", "groups"),
    [
        (np.full((8, 1, 3, 3), -127, np.int8), 0, 8),  # a narrow range
        (np.full((8, 1, 3, 3), -128, np.int8), 1, 8),
        (np.full((8, 2, 3, 3), -128, np.int8), 0, 4),
        (np.full((8, 1, 3, 3), 255, np.uint8), 0, 8),
        (np.full((12, 1, 3, 3), -128, np.int8), 0, 12),
    ],
)
def test_other_layers_have_exact_sums(w: np.ndarray, zero_point: int, groups: int) -> None:
    x = np.full((1, groups * w.shape[1], 4, 4), -128, np.int8)
    window = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    sums = [
        conv_sums(x, Weights(w, np.full(1, zero_point, np.int32), groups, pairs), -128, window)
        for pairs in (Pairs.EXACT, Pairs.WRAPPING)
    ]
    np.testing.assert_array_equal(*sums)
