"""Schemes and parameters: the scale's shape is the granularity, JSON gives the same back, wrong values are refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics.grid import INT8, UINT8, IntGrid
from halfeven.numerics.scheme import PER_TENSOR, QParams, ScaleRule, Scheme, Tiling, ZeroRule, per_channel

GRIDS = st.builds(IntGrid, st.integers(2, 32), st.just(True), st.booleans()) | st.builds(
    IntGrid, st.integers(2, 32), st.just(False)
)
TILINGS = st.sampled_from([PER_TENSOR, per_channel(0), per_channel(-1), Tiling(((1, 32),)), Tiling(((0, 1), (1, 4)))])
SCHEMES = st.builds(Scheme, GRIDS, TILINGS, st.sampled_from(ScaleRule), st.sampled_from(ZeroRule))


def test_the_scale_s_shape_is_the_granularity() -> None:
    assert PER_TENSOR.scale_shape((64, 3, 7, 7)) == (1, 1, 1, 1)
    assert per_channel(0).scale_shape((64, 3, 7, 7)) == (64, 1, 1, 1)
    assert per_channel(-1).scale_shape((64, 3)) == (1, 3)
    assert Tiling(((1, 32),)).scale_shape((8, 64)) == (1, 2)
    assert Tiling(((0, 1), (1, 32))).scale_shape((8, 64)) == (8, 2)
    assert PER_TENSOR.scale_shape(()) == ()


def test_an_axis_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadOption, match=r"shape \(4, 5\) has no axis 2"):
        per_channel(2).scale_shape((4, 5))


def test_a_ragged_tile_is_refused() -> None:
    with pytest.raises(BadOption, match=r"does not split into tiles of 32 along axis 1"):
        Tiling(((1, 32),)).scale_shape((4, 40))


def test_only_a_per_channel_tiling_has_a_channel_axis() -> None:
    assert per_channel(1).axis == 1
    assert [one.axis for one in (PER_TENSOR, Tiling(((1, 32),)), Tiling(((0, 1), (1, 1))))] == [None, None, None]


@given(scheme=SCHEMES)
def test_a_scheme_in_json_gives_the_same_back(scheme: Scheme) -> None:
    assert Scheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme


@given(scale=st.floats(2.0**-126, 2.0**127, width=32), zero=st.integers(0, 255))
def test_parameters_in_json_give_the_same_bits_back(scale: float, zero: int) -> None:
    scheme = Scheme(UINT8, per_channel(0), zero_point=ZeroRule.FREE)
    params = QParams(scheme, np.full((2, 1), scale, np.float32), np.full((2, 1), zero, np.int32))
    again = QParams.from_json(scheme, json.loads(json.dumps(params.to_json())))
    np.testing.assert_array_equal(again.scale, params.scale, strict=True)
    np.testing.assert_array_equal(again.zero_point, params.zero_point, strict=True)


def test_scale_and_zero_point_of_two_shapes_are_refused() -> None:
    with pytest.raises(BadOption, match=r"scale of shape \(1,\), zero point of \(\)"):
        QParams(Scheme(INT8), np.ones(1, np.float32), np.array(0, np.int32))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_a_scale_that_is_not_positive_and_finite_is_refused(scale: float) -> None:
    with pytest.raises(BadOption, match="scales must be positive and finite"):
        QParams(Scheme(INT8), np.array(scale, np.float32), np.array(0, np.int32))


def test_a_scheme_says_itself_in_words() -> None:
    assert str(Scheme(UINT8, zero_point=ZeroRule.FREE)) == "uint8 affine per-tensor"
    assert str(Scheme(INT8, per_channel(0), ScaleRule.POWER_OF_TWO)) == "int8 symmetric power-of-two per-channel"
    assert str(Scheme(INT8, Tiling(((1, 32),)))) == "int8 symmetric blocked"
