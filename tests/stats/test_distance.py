"""Distances: their definitions, their edge cases, and sums that extend over batches."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration
from halfeven.stats.distance import BLOCK, Fidelity, cosine, kl, mse, sqnr_db

PAIR = hnp.arrays(np.float32, (2, 12), elements=st.floats(-1e6, 1e6, width=32))


@given(pair=PAIR)
def test_the_definitions(pair: np.ndarray) -> None:
    r, o = pair.astype(np.float64)
    noise, signal = float(((r - o) ** 2).sum()), float((r**2).sum())
    assert mse(*pair) == pytest.approx(noise / 12)
    if noise > 1e-200 and signal > 1e-200:
        assert sqnr_db(*pair) == pytest.approx(10 * math.log10(signal) - 10 * math.log10(noise), abs=1e-9)
    if signal > 1e-200 and (o**2).sum() > 1e-200:
        assert cosine(*pair) == pytest.approx(r @ o / np.linalg.norm(r) / np.linalg.norm(o), abs=1e-9)


def test_each_bit_is_worth_six_decibels() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 100_000)
    eight, nine = (sqnr_db(x, np.rint(x * 2**bits) / 2**bits) for bits in (7, 8))
    assert nine - eight == pytest.approx(20 * math.log10(2), abs=0.05)


def test_equal_arrays_and_arrays_of_zeros() -> None:
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert sqnr_db(ones, ones) == sqnr_db(zeros, zeros) == math.inf
    assert sqnr_db(zeros, ones) == -math.inf
    assert (cosine(zeros, zeros), cosine(zeros, ones), cosine(ones, ones), cosine(ones, -ones)) == (1, 0, 1, -1)
    assert Fidelity().mse == 0


@given(pair=PAIR, cut=st.integers(0, 12))
def test_sums_extend_over_batches(pair: np.ndarray, cut: int) -> None:
    whole = Fidelity.of(*pair)
    parts = Fidelity.of(*pair[:, :cut]).merge(Fidelity.of(*pair[:, cut:]))
    assert (parts.count, parts.worst) == (whole.count, whole.worst)
    for name in ("signal", "other", "noise"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-14)
    assert parts.dot == pytest.approx(whole.dot, rel=1e-14, abs=1e-14 * math.sqrt(whole.signal * whole.other))


def test_arrays_larger_than_a_block_are_summed_whole() -> None:
    x = np.ones(BLOCK + 3, np.float32)
    found = Fidelity.of(x, np.zeros_like(x))
    assert (found.count, found.noise, found.worst) == (BLOCK + 3, BLOCK + 3, 1.0)


def test_integers_are_compared_exactly() -> None:
    assert mse(np.array([0, 255], np.uint8), np.array([255, 0], np.uint8)) == 255**2


def test_nan_shows() -> None:
    nan, one = np.array([np.nan], np.float32), np.ones(1, np.float32)
    for found in (Fidelity.of(nan, one), Fidelity.of(nan, one).merge(Fidelity.of(one, one))):
        assert math.isnan(found.mse)
        assert math.isnan(found.worst)
        assert math.isnan(found.sqnr_db)
    assert math.isnan(Fidelity.of(one, one).merge(Fidelity.of(nan, one)).worst)


@given(pair=PAIR)
def test_stored_sums_read_back_the_same(pair: np.ndarray) -> None:
    found = Fidelity.of(*pair)
    assert Fidelity.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_arrays_of_two_shapes_are_refused() -> None:
    with pytest.raises(BadCalibration, match=r"shape \(2,\) and \(3,\) cannot be compared"):
        mse(np.zeros(2), np.zeros(3))


def test_divergence() -> None:
    assert kl([1, 1, 2], [2, 2, 4]) == 0
    assert kl([1, 1], [3, 1]) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert kl([1, 0], [1, 1]) == pytest.approx(math.log(2))
    assert kl([1, 1], [1, 0]) == math.inf
    with pytest.raises(BadCalibration, match="cannot be compared"):
        kl([1], [1, 2])
    with pytest.raises(BadCalibration, match="without any count"):
        kl([0, 0], [1, 2])
