"""Promised: layers in C++ have the bits of their definitions, on every instruction set that this processor has: sums,
codes in every flavour, saturating pairs, tables of two codes.
"""

import numpy as np
import pytest

from halfeven.numerics.accumulate import Weights, conv_sums, matrix_codes, matrix_sums
from halfeven.numerics.integer_ops import conv2d, matmul, matmul_saturating_pairs
from halfeven.numerics.native import native, use_numpy
from halfeven.numerics.packed import PackedLayer, Settled, look_up_pairs, packed_codes, packed_layer, paired_sums
from halfeven.numerics.requant import Requant, requantize
from halfeven.numerics.windows import Window

pytestmark = pytest.mark.skipif(not native(), reason="C++ is not built")

EIGHT = (np.uint8, np.int8)
# in channels, out channels, groups, size, kernel, strides, dilations, pads
SHAPES = [
    (1, 1, 1, (1, 1), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
    (3, 17, 1, (9, 33), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    (5, 9, 1, (8, 7), (3, 2), (2, 3), (2, 1), (0, 1, 2, 0)),
    (8, 8, 8, (15, 16), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    (19, 19, 19, (7, 17), (5, 3), (2, 2), (1, 2), (2, 0, 1, 3)),
    (13, 13, 13, (31, 9), (3, 4), (3, 1), (2, 1), (0, 3, 0, 3)),
    (6, 12, 6, (5, 6), (2, 2), (1, 2), (1, 1), (1, 0, 0, 1)),
    (6, 10, 2, (4, 33), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
    (40, 70, 1, (1, 1), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
]


def drawn(rng: np.random.Generator, shape: tuple[int, ...], dtype: type[np.integer]) -> np.ndarray:
    held = np.iinfo(dtype)
    x = rng.integers(held.min, held.max + 1, shape)
    return np.where(rng.random(shape) < 0.3, rng.choice([held.min, held.max], shape), x).astype(dtype)


def layer(weight: np.ndarray, zeros: np.ndarray, groups: int = 1, most: int = 3) -> PackedLayer:
    found = packed_layer(weight, zeros, groups, most)
    assert found is not None
    return found


@pytest.mark.parametrize("most", [0, 1, 2, 3])
@pytest.mark.parametrize("weight_type", EIGHT)
@pytest.mark.parametrize("input_type", EIGHT)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_sums_are_those_of_the_definition(
    case: tuple[int, int, int, tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, ...]],
    input_type: type[np.integer],
    weight_type: type[np.integer],
    most: int,
) -> None:
    channels, made, groups, size, kernel, strides, dilations, pads = case
    rng = np.random.default_rng(channels * made)
    x, w = drawn(rng, (2, channels, *size), input_type), drawn(rng, (made, channels // groups, *kernel), weight_type)
    zero, zeros = int(drawn(rng, (), input_type)), drawn(rng, (made,), weight_type).astype(np.int32)
    bias = rng.integers(-(2**31), 2**31, made).astype(np.int32)
    window = Window(kernel, strides, pads, dilations)
    expected = conv2d(x, w, zero, zeros, bias, strides, pads, dilations, groups)
    packed = layer(w, zeros, groups, most)
    for threads in (1, 3):
        np.testing.assert_array_equal(packed(x, zero, bias, window, threads=threads), expected)


@pytest.mark.parametrize("flavour", [f for f in Requant if not f.startswith("shift_") and f is not Requant.INT16X8])
@pytest.mark.parametrize("dtype", EIGHT)
def test_codes_are_those_of_the_definition(dtype: type[np.integer], flavour: Requant) -> None:
    rng = np.random.default_rng(5)
    x, w = drawn(rng, (1, 7, 9, 19), np.uint8), drawn(rng, (11, 7, 3, 3), np.int8)
    m = np.exp2(rng.uniform(-9, -5, 11)) if flavour is not Requant.Q8_8 else np.full(11, 0.0078125)
    m[::2] = np.exp2(np.rint(np.log2(m[::2])))
    held = np.iinfo(dtype)
    settled = Settled(m, flavour, int(held.min) + 5, (int(held.min), int(held.max) - 3), np.dtype(dtype))
    window = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    packed = layer(w, np.zeros(1, np.int32))
    sums = packed(x, 3, None, window)
    assert sums is not None
    expected = requantize(sums, m[:, None, None], settled.zero_point, *settled.limits, flavour)
    np.testing.assert_array_equal(packed(x, 3, None, window, settled), expected)
    np.testing.assert_array_equal(packed_codes(np.asarray(sums, np.int32), settled, 1), expected)


def test_a_multiplier_that_a_flavour_cannot_express_is_left_to_the_definition() -> None:
    settled = Settled(np.array([1e9]), Requant.QNNPACK, 0, (-128, 127), np.dtype(np.int8))
    assert packed_codes(np.ones((2, 3), np.int32), settled, 1) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 31, 5), (4, 64, 7), (2, 65, 33), (5, 200, 3)], ids=str)
def test_pairs_saturate_as_defined(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.default_rng(k)
    a, b = drawn(rng, (m, k), np.uint8), drawn(rng, (k, n), np.int8)
    expected = matmul_saturating_pairs(a, b)
    np.testing.assert_array_equal(paired_sums(a, b), expected)
    assert k < 30 or (expected != matmul(a, b)).any()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("pairs", [False, True])
def test_convolutions_of_one_to_three_axes_are_the_same_with_and_without_cpp(rank: int, pairs: bool) -> None:
    rng = np.random.default_rng(rank)
    x, w = drawn(rng, (2, 6, *(7, 5, 6)[:rank]), np.uint8), drawn(rng, (4, 3, *(3, 2, 2)[:rank]), np.int8)
    window = Window((3, 2, 2)[:rank], (2, 1, 1)[:rank], (1,) * (2 * rank), (1, 2, 1)[:rank])
    weights = [Weights(w, np.array([3], np.int32), 2, pairs) for _ in range(2)]
    bias = np.arange(4, dtype=np.int32)
    fast = conv_sums(x, weights[0], 9, window, bias)
    with use_numpy():
        slow = conv_sums(x, weights[1], 9, window, bias)
    np.testing.assert_array_equal(fast, slow)
    if rank == 3 and not pairs:
        naive = sum(
            conv2d(np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)), constant_values=9)[:, :, t : t + 7 : 2][:, :, o],
                   w[:, :, t], 9, 3, 0, (1, 1), (1, 1, 1, 1), (2, 1), 2)
            for o in [1] for t in range(3)
        ) + bias[:, None, None]  # fmt: skip
        np.testing.assert_array_equal(fast[:, :, 1], naive)


@pytest.mark.parametrize("left", [(5, 9), (3, 5, 9), (2, 1, 5, 9)], ids=str)
def test_matrix_products_of_any_rank_are_the_same_with_and_without_cpp(left: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(left))
    a, b = drawn(rng, left, np.int8), drawn(rng, (9, 4), np.uint8)
    weights, bias = Weights(b, np.arange(4, dtype=np.int32)), np.arange(4, dtype=np.int32)
    settled = Settled(np.full(4, 0.003), Requant.FLOAT32_HALF_EVEN, 7, (-128, 127), np.dtype(np.int8))
    expected = matmul(a, b, 5, np.arange(4), bias)
    np.testing.assert_array_equal(matrix_sums(a, weights, 5, bias), expected)
    codes = requantize(expected, 0.003, 7, -128, 127, settled.flavour)
    np.testing.assert_array_equal(matrix_codes(a, weights, 5, bias, settled), codes)


def test_tables_of_two_codes() -> None:
    rng = np.random.default_rng(0)
    a, b = drawn(rng, (3, 50), np.int8), drawn(rng, (3, 50), np.uint8)
    table = drawn(rng, (256, 256), np.int8)
    expected = table[a.view(np.uint8).astype(int), b.astype(int)]
    np.testing.assert_array_equal(look_up_pairs(a, b, table), expected)
    with use_numpy():
        np.testing.assert_array_equal(look_up_pairs(a, b, table), expected)
