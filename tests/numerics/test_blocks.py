"""Promised: block formats have the scales that their standards state, element codes that are the nearest, the sizes in
bytes of the standards, and decode to (code * block scale) * tensor scale; what they cannot hold is refused.
"""

from math import floor, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics import blocks
from halfeven.numerics.blocks import BlockFormat, encode_blocks
from halfeven.numerics.floats import FLOAT8_E4M3FN, FloatGrid
from halfeven.numerics.quantize import dequantize

MX = [blocks.MXFP8_E4M3, blocks.MXFP8_E5M2, blocks.MXFP6_E3M2, blocks.MXFP6_E2M3, blocks.MXFP4, blocks.MXINT8]
ALL = [*MX, blocks.NVFP4, blocks.INT4_INT8]
EMAX = {"MXFP8_E4M3": 8, "MXFP8_E5M2": 15, "MXFP6_E3M2": 4, "MXFP6_E2M3": 2, "MXFP4": 2, "MXINT8": 0}
by_name = pytest.mark.parametrize("form", ALL, ids=lambda form: form.name)


def drawn(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp2(rng.integers(-20, 20, (*shape[:-1], 1)))).astype(np.float32)


@pytest.mark.parametrize("form", MX, ids=lambda form: form.name)
@given(block=hnp.arrays(np.float32, 32, elements=st.floats(-(2.0**110), 2.0**110, width=32)))
def test_the_shared_exponent_is_that_of_the_largest_element_less_emax(form: BlockFormat, block: np.ndarray) -> None:
    found = encode_blocks(block, form)
    largest = float(np.abs(block).max())
    expected = -127 if largest == 0 else max(floor(log2(largest)) - EMAX[form.name], -127)
    if largest and 2.0 ** floor(log2(largest)) > largest:  # log2 rounded up
        expected -= 1
    assert int(found.scales[0]) - 127 == expected


@pytest.mark.parametrize("form", MX[:-1], ids=lambda form: form.name)
def test_elements_are_the_nearest_of_the_saturating_format(form: BlockFormat) -> None:
    x = drawn((7, 64))
    found = encode_blocks(x, form)
    scale = np.repeat(2.0 ** (found.scales.astype(np.float64) - 127), 32, -1)
    assert isinstance(form.element, FloatGrid)
    codes = np.arange(1 << form.element.bits).astype(np.uint8)
    values = form.element.decode(codes)
    values = np.unique(values[np.isfinite(values)])
    distance = np.abs(values - (x / scale)[..., None])
    np.testing.assert_array_equal(np.abs(found.decode() - x), distance.min(-1) * scale)


def test_mxint8_elements_are_multiples_of_a_64th() -> None:
    x = drawn((5, 32))
    found = encode_blocks(x, blocks.MXINT8)
    scale = 2.0 ** (found.scales.astype(np.float64) - 127)
    np.testing.assert_array_equal(found.codes, np.clip(np.rint(x / scale * 64), -128, 127))
    np.testing.assert_array_equal(found.decode(), found.codes / 64 * scale)
    assert (np.abs(x) / scale).max() < 2


def test_nvfp4_has_e4m3_block_scales_under_one_float32() -> None:
    x = drawn((4, 64))
    found = encode_blocks(x, blocks.NVFP4)
    tensor = np.float32(np.abs(x).max() / (6 * 448))
    assert found.outer.shape == (1, 1)
    assert found.outer.ravel()[0] == pytest.approx(tensor, rel=2e-7)
    largest = np.abs(x).reshape(4, 4, 16).max(-1).astype(np.float64)
    expected = FLOAT8_E4M3FN.encode(np.minimum(largest / 6 / found.outer, 448))
    np.testing.assert_array_equal(found.scales, np.maximum(expected, 1))
    assert FLOAT8_E4M3FN.decode(found.scales).max() == 448
    scale = (FLOAT8_E4M3FN.decode(found.scales).astype(np.float32) * found.outer).astype(np.float32)
    np.testing.assert_array_equal(found.params.scale, scale)


@by_name
def test_decoding_is_dequantizing_with_the_scales_as_they_are_stored(form: BlockFormat) -> None:
    x = drawn((3, 5, 64))
    found = encode_blocks(x, form)
    assert found.codes.shape == x.shape
    assert found.scales.shape == (3, 5, 64 // form.length)
    np.testing.assert_array_equal(found.decode(), dequantize(found.codes, found.params))


@by_name
def test_values_that_the_format_holds_come_back(form: BlockFormat) -> None:
    once = encode_blocks(drawn((4, 64), 3), form).decode()
    error = np.abs(encode_blocks(once, form).decode() - once)
    if form in MX:
        assert (error == 0).all()
    else:  # scales of scales are rounded anew
        assert error.max() <= np.abs(once).max() * 2.0**-3


@by_name
def test_the_error_is_at_most_the_widest_step_of_the_elements(form: BlockFormat) -> None:
    x = np.random.default_rng(4).standard_normal((16, 64)).astype(np.float32)
    found = encode_blocks(x, form)
    # MX lets absmax exceed the largest e4m3 number, 448, by up to 64: what is over saturates
    steps = {"MXFP8_E4M3": 64, "MXFP8_E5M2": 2.0**13, "MXFP6_E3M2": 4, "MXFP6_E2M3": 0.5, "MXFP4": 2, "NVFP4": 2}
    step = np.repeat(found.params.scale, form.length, -1) * steps.get(form.name, 1)
    assert (np.abs(found.decode() - x) <= step * 1.0001).all()


@pytest.mark.parametrize(
    ("form", "count"),
    [
        (blocks.MXFP8_E4M3, 33 * 4),  # 32 elements and one scale, four times
        (blocks.MXFP6_E3M2, 25 * 4),
        (blocks.MXFP4, 17 * 4),
        (blocks.MXINT8, 33 * 4),
        (blocks.NVFP4, 8 * 9 + 4),
        (blocks.INT4_INT8, 17 * 4 + 2 * 4),  # a float32 for each of two rows
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_sizes_in_bytes(form: BlockFormat, count: int) -> None:
    assert form.nbytes((2, 64)) == count


@by_name
def test_zeros_stay_zeros_beside_anything(form: BlockFormat) -> None:
    x = drawn((2, 128))
    x[0, ::3] = 0
    x[1] = 0
    decoded = encode_blocks(x, form).decode()
    assert (decoded[x == 0] == 0).all()
    assert (encode_blocks(np.zeros((2, 64), np.float32), form).decode() == 0).all()


@by_name
@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 1e30, 3.4e38])
def test_the_ends_of_float32_are_held(form: BlockFormat, size: float) -> None:
    x = np.full((1, 64), size, np.float32)
    decoded = encode_blocks(x, form).decode()
    assert np.isfinite(decoded).all()
    if size >= 1e-30:
        np.testing.assert_allclose(decoded, x, rtol=0.34)


def test_double_quantization_costs_a_byte_a_run_and_little_error() -> None:
    x = np.random.default_rng(0).standard_normal((1, 64 * 256)).astype(np.float32)
    found = encode_blocks(x, blocks.NF4_DOUBLE)
    assert blocks.NF4_DOUBLE.nbytes(x.shape) == 64 * 256 // 2 + 256 + 4
    ideal = np.abs(x).reshape(-1, 64).max(1)
    assert np.abs(found.params.scale[0] / ideal - 1).max() < 0.01
    assert float(np.abs(found.decode() - x).mean()) < 0.1


@by_name
def test_what_a_format_cannot_hold_is_refused(form: BlockFormat) -> None:
    with pytest.raises(BadOption, match=f"tiles of {form.length} along axis"):
        encode_blocks(np.zeros((2, form.length + 1), np.float32), form)
    with pytest.raises(BadOption, match="no axis to cut"):
        encode_blocks(np.array(1.0, np.float32), form)
    for bad in (np.inf, np.nan):
        with pytest.raises(BadCalibration, match="would spoil their whole run"):
            encode_blocks(np.full(form.length, bad, np.float32), form)
