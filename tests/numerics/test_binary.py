"""Promised: binary weights are signs times mean |w| (XNOR-Net), ternary ones keep what is over 0.7 mean |w| (TWN), per
tensor and per channel; both scales are those of least squared error for their codes.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.binary import BinaryGrid, TernaryGrid
from halfeven.numerics.quantize import dequantize, fake_quantize, params_for, params_of, quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, Tiling, ZeroRule, per_channel

BINARY, TERNARY = BinaryGrid(), TernaryGrid()
WEIGHTS = hnp.arrays(np.float32, (4, 8), elements=st.floats(-100, 100, width=32))


def test_the_sign_of_zero_is_one() -> None:
    x = np.array([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, np.nan], np.float32)
    codes = BINARY.encode(x)
    assert codes.tolist() == [1, 1, 1, -1, 1, -1, -1]
    assert codes.dtype == np.int8


@given(w=WEIGHTS)
def test_binary_scales_are_mean_magnitudes(w: np.ndarray) -> None:
    wide = np.abs(w.astype(np.float64))
    per_row = params_of(w, Scheme(BINARY, per_channel(0))).scale[:, 0]
    expected = np.where(wide.mean(1) < 2.0**-126, 1, wide.mean(1)).astype(np.float32)
    np.testing.assert_array_equal(per_row, expected)
    whole = params_of(w, Scheme(BINARY, PER_TENSOR)).scale
    assert whole.shape == (1, 1)
    assert whole == np.float32(wide.mean() if wide.mean() >= 2.0**-126 else 1)


@pytest.mark.parametrize("grid", [BINARY, TERNARY])
def test_no_other_scale_has_less_error_with_the_same_codes(grid: BinaryGrid | TernaryGrid) -> None:
    w = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
    params = params_of(w, Scheme(grid, per_channel(0)))
    codes = quantize(w, params).astype(np.float64)
    tried = params.scale[..., None] * np.linspace(0.5, 1.5, 1001)
    errors = np.square(w[..., None] - codes[..., None] * tried).sum(1)
    assert (np.abs(errors.argmin(1) - 500) <= 1).all()


@given(w=WEIGHTS)
def test_ternary_codes_keep_what_is_over_the_threshold(w: np.ndarray) -> None:
    params = params_of(w, Scheme(TERNARY, per_channel(0)))
    assert params.threshold is not None
    wide = w.astype(np.float64)
    threshold = (0.7 * np.abs(wide).mean(1, keepdims=True)).astype(np.float32)
    np.testing.assert_array_equal(params.threshold, threshold)
    kept = np.abs(wide) > threshold
    np.testing.assert_array_equal(quantize(w, params), np.sign(w) * kept)
    for row, keeps, scale in zip(np.abs(wide), kept, params.scale[:, 0], strict=True):
        mean = row[keeps].mean() if keeps.any() else 0.0
        assert scale == (pytest.approx(mean, rel=1e-6) if mean >= 2.0**-126 else 1.0)


def test_values_are_codes_times_alpha() -> None:
    w = np.array([1.0, -3.0, 0.1, 0.0], np.float32)
    binary = params_of(w, Scheme(BINARY))
    np.testing.assert_allclose(fake_quantize(w, binary), [1.025, -1.025, 1.025, 1.025], rtol=1e-6)
    ternary = params_of(w, Scheme(TERNARY))
    assert fake_quantize(w, ternary).tolist() == [2.0, -2.0, 0.0, 0.0]
    np.testing.assert_array_equal(quantize(dequantize(quantize(w, ternary), ternary), ternary), quantize(w, ternary))


def test_without_a_threshold_the_nearest_ternary_code_is_taken() -> None:
    params = QParams(Scheme(TERNARY), np.array([2.0], np.float32), np.zeros(1, np.int32))
    x = np.array([1.0, 1.0000001, -1.0000001, 5.0, 0.0, np.nan], np.float32)
    assert quantize(x, params).tolist() == [0, 1, -1, 1, 0, -1]


def test_blocks_have_their_own_alpha() -> None:
    w = np.arange(16, dtype=np.float32).reshape(2, 8)
    assert params_of(w, Scheme(BINARY, Tiling(((0, 1), (1, 4))))).scale.tolist() == [[1.5, 5.5], [9.5, 13.5]]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(BadOption, match="is a mean, which a range does not give"):
        params_for(-1.0, 1.0, Scheme(BINARY))
    with pytest.raises(BadOption, match="binary codes have no zero point"):
        Scheme(BINARY, zero_point=ZeroRule.FREE)
    with pytest.raises(BadOption, match="no ties for 'trunc'"):
        quantize(np.ones(2, np.float32), params_of(np.ones(2, np.float32), Scheme(BINARY)), Rounding.TRUNC)
    with pytest.raises(BadCalibration, match="empty or not finite"):
        params_of(np.array([1, np.nan], np.float32), Scheme(TERNARY))
    with pytest.raises(BadOption, match="a threshold is for ternary codes, not for binary"):
        QParams(Scheme(BINARY), np.ones(1, np.float32), np.zeros(1, np.int32), np.ones(1, np.float32))
    with pytest.raises(BadOption, match=r"threshold of \(2,\)"):
        QParams(Scheme(TERNARY), np.ones(1, np.float32), np.zeros(1, np.int32), np.ones(2, np.float32))
