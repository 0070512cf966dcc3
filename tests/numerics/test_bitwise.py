"""Products on bits equal integer products of the same codes, and the float products of the fake-quantized ones."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics import bitwise, integer_ops
from halfeven.numerics.bitwise import Coding, pack, popcount, scaled, unpack
from halfeven.numerics.native import use_numpy
from halfeven.numerics.packing import pack_signs

CODES = {Coding.SIGN: [-1, 1], Coding.UNIT: [0, 1], Coding.TERNARY: [-1, 0, 1]}
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speedups.py"
PAIRS = list(product(Coding, Coding))


def drawn(rng: np.random.Generator, coding: Coding, shape: tuple[int, ...]) -> np.ndarray:
    return rng.choice(np.array(CODES[coding], np.int8), shape)


@given(words=st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_ones_are_counted(words: list[int]) -> None:
    assert popcount(np.array(words, np.uint64)).tolist() == [word.bit_count() for word in words]


@pytest.mark.parametrize("coding", Coding)
@pytest.mark.parametrize("length", [0, 1, 7, 8, 63, 64, 65, 130])
def test_packing_is_undone_by_unpacking(coding: Coding, length: int) -> None:
    codes = drawn(np.random.default_rng(length), coding, (3, length))
    packed = pack(codes, coding)
    assert packed.positive.shape == (3, -(-length // 64))
    np.testing.assert_array_equal(unpack(packed), codes)


def test_the_first_code_is_the_lowest_bit_as_in_stored_binary_weights() -> None:
    assert pack(np.array([[1, -1, -1, 1]]), Coding.SIGN).positive.tolist() == [[0b1001]]
    codes = drawn(np.random.default_rng(0), Coding.SIGN, (64,))
    assert pack(codes[None], Coding.SIGN).positive.astype("<u8").tobytes() == pack_signs(codes).tobytes()


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_pair_of_codes_multiplies(a: Coding, b: Coding) -> None:
    for x, y in product(CODES[a], CODES[b]):
        assert bitwise.matmul(pack(np.array([[x]]), a), pack(np.array([[y]]), b)).tolist() == [[x * y]]


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("depth", [0, 1, 3, 15, 16, 17, 33, 63, 64, 65, 129, 1000])
def test_a_product_on_bits_is_the_integer_product(a: Coding, b: Coding, depth: int) -> None:
    rng = np.random.default_rng(depth)
    left, right = drawn(rng, a, (4, depth)), drawn(rng, b, (5, depth))
    found = bitwise.matmul(pack(left, a), pack(right, b))
    np.testing.assert_array_equal(found, left.astype(int) @ right.T.astype(int))
    with use_numpy():
        np.testing.assert_array_equal(bitwise.matmul(pack(left, a), pack(right, b)), found)


def test_a_sign_product_is_n_less_twice_the_ones_of_the_exclusive_or() -> None:
    """R021, R011, as XNOR-Net has it."""
    rng = np.random.default_rng(1)
    a, b = drawn(rng, Coding.SIGN, (77,)), drawn(rng, Coding.SIGN, (77,))
    differ = int(np.count_nonzero(a != b))
    assert bitwise.matmul(pack(a[None], Coding.SIGN), pack(b[None], Coding.SIGN)).tolist() == [[77 - 2 * differ]]


@pytest.mark.parametrize(("x_coding", "pad_value"), [
    (Coding.SIGN, -1), (Coding.SIGN, 0), (Coding.SIGN, 1), (Coding.UNIT, 0), (Coding.UNIT, 1),
    (Coding.TERNARY, -1), (Coding.TERNARY, 0), (Coding.TERNARY, 1),
])  # fmt: skip
@pytest.mark.parametrize("weight_coding", Coding)
@pytest.mark.parametrize("geometry", [
    ((1, 1), (1, 1, 1, 1), (1, 1), 1), ((2, 1), (0, 2, 1, 0), (1, 2), 2), ((1, 1), (0, 0, 0, 0), (1, 1), 4),
])  # fmt: skip
def test_a_convolution_on_bits_is_the_integer_convolution(
    x_coding: Coding, pad_value: int, weight_coding: Coding, geometry: tuple[tuple[int, ...], ...]
) -> None:
    strides, pads, dilations, groups = geometry
    rng = np.random.default_rng(2)
    x, w = drawn(rng, x_coding, (2, 4, 6, 7)), drawn(rng, weight_coding, (8, 4 // int(groups), 3, 3))  # type: ignore[call-overload]
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=pad_value)
    want = integer_ops.conv2d(padded, w, strides=strides, dilations=dilations, groups=groups)  # type: ignore[arg-type]
    found = bitwise.conv2d(x, w, x_coding, weight_coding, strides, pads, dilations, groups, pad_value)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, want)


@given(seed=st.integers(0, 10**6), depth=st.integers(1, 3000), alpha=st.floats(2.0**-20, 2.0**20, width=32))
def test_scaled_by_alpha_it_is_the_float_product_bit_for_bit(seed: int, depth: int, alpha: float) -> None:
    """In float64, in the order NumPy likes: each partial sum is a whole multiple of alpha, so no order matters."""
    rng = np.random.default_rng(seed)
    x, w = drawn(rng, Coding.SIGN, (2, depth)), drawn(rng, Coding.SIGN, (3, depth))
    fake = np.float64(np.float32(alpha)) * w
    reference = (x.astype(np.float64) @ fake.T).astype(np.float32)
    bits = bitwise.matmul(pack(x, Coding.SIGN), pack(w, Coding.SIGN))
    assert scaled(bits, alpha).tobytes() == reference.tobytes()


def test_one_alpha_a_channel() -> None:
    rng = np.random.default_rng(3)
    x, weight = drawn(rng, Coding.SIGN, (1, 2, 5, 5)), rng.normal(0, 1, (4, 2, 3, 3)).astype(np.float32)
    alpha = np.abs(weight).mean((1, 2, 3))
    signs = np.where(weight >= 0, 1, -1)
    dots = bitwise.conv2d(x, signs, Coding.SIGN, Coding.SIGN)
    values = np.float64(alpha[:, None, None, None]) * signs
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), (2, 3))
    reference = np.einsum("nchwrs,ocrs->nohw", windows, values).astype(np.float32)
    assert scaled(dots, alpha[:, None, None]).tobytes() == reference.tobytes()


def test_codes_of_another_coding_are_refused() -> None:
    for code, coding in [(0, Coding.SIGN), (-1, Coding.UNIT), (2, Coding.TERNARY), (-2, Coding.TERNARY)]:
        with pytest.raises(BadOption, match=f"{code} was found, which is no code of coding '{coding}'"):
            pack(np.array([code]), coding)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadOption, match="rows of 3 and 4"):
        bitwise.matmul(pack(np.ones((1, 3), int), Coding.SIGN), pack(np.ones((1, 4), int), Coding.SIGN))
    x, w = np.ones((1, 1, 3, 3), int), np.ones((1, 1, 2, 2), int)
    with pytest.raises(BadOption, match="pads of 2"):
        bitwise.conv2d(x, w, Coding.SIGN, Coding.SIGN, pad_value=2)
    with pytest.raises(BadOption, match="pads of -1"):
        bitwise.conv2d(x, w, Coding.UNIT, Coding.SIGN, pad_value=-1)
    with pytest.raises(BadOption, match="no code of coding 'sign'"):
        bitwise.conv2d(x - 1, w, Coding.SIGN, Coding.SIGN, pads=(1, 1, 1, 1))


def test_products_of_8_bits_and_of_1_bit_are_timed_beside_float_and_equal_the_integers() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--shapes", "5x70x3", "--repeat", "2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [row] = [line for line in done.stdout.splitlines() if "5x70x3" in line]
    assert row.count("times") == 3
