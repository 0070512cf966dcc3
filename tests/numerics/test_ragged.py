"""Promised: a short last run has a scale of its own, and is the run that the tensor cut there would have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.numerics.grid import INT8_NARROW, UINT8, IntGrid
from halfeven.numerics.quantize import dequantize, params_of, quantize
from halfeven.numerics.ragged import dequantize_ragged, is_ragged, quantize_ragged, ragged_params
from halfeven.numerics.scheme import PER_TENSOR, Scheme, ZeroRule, per_channel, per_group

SCHEMES = [(IntGrid(4), ZeroRule.NONE), (INT8_NARROW, ZeroRule.NONE), (UINT8, ZeroRule.FREE)]


@pytest.mark.parametrize(("grid", "zero"), SCHEMES, ids=["int4", "int8", "uint8 affine"])
@given(length=st.integers(1, 40), run=st.integers(2, 17), axis=st.integers(0, 1), seed=st.integers(0, 99))
def test_each_run_is_quantized_as_if_it_stood_alone(
    grid: IntGrid, zero: ZeroRule, length: int, run: int, axis: int, seed: int
) -> None:
    shape = (length, 3) if axis == 0 else (3, length)
    x = np.random.default_rng(seed).normal(0.3, 1, shape).astype(np.float32)
    scheme = Scheme(grid, per_group(2, axis, run), zero_point=zero)
    params = ragged_params(x, scheme)
    codes = quantize_ragged(x, params)
    values = dequantize_ragged(codes, params)
    assert params.scale.shape[axis] == -(-length // run)
    assert codes.shape == values.shape == x.shape
    for i, start in enumerate(range(0, length, run)):
        part = np.take(x, range(start, min(start + run, length)), axis)
        alone = params_of(part, Scheme(grid, per_channel(1 - axis), zero_point=zero))
        np.testing.assert_array_equal(np.take(params.scale, [i], axis), alone.scale)
        here = np.take(codes, range(start, min(start + run, length)), axis)
        np.testing.assert_array_equal(here, quantize(part, alone))
        there = np.take(values, range(start, min(start + run, length)), axis)
        np.testing.assert_array_equal(there, dequantize(here, alone))


@pytest.mark.parametrize(
    ("tiling", "ragged"),
    [
        (PER_TENSOR, False),
        (per_channel(0), False),
        (per_group(2, 1, 4), False),
        (per_group(2, 1, 5), True),
        (per_group(2, 0, 4), True),
    ],
)
def test_a_tiling_is_ragged_if_some_run_does_not_divide_its_axis(tiling: object, ragged: bool) -> None:
    assert is_ragged((6, 8), tiling) is ragged  # type: ignore[arg-type]
