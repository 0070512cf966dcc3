"""Promised: LPBQ's scales are whole multiples of one scale a channel, each the best of its block, and come apart again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.numerics.grid import IntGrid
from halfeven.numerics.lpbq import lpbq_params, lpbq_parts
from halfeven.numerics.ragged import fake_quantize_ragged
from halfeven.numerics.scheme import QParams, Scheme, per_group

BY_ROWS = Scheme(IntGrid(4), per_group(2, 0, 16))


def weights(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, shape) * np.exp(rng.normal(0, 1, shape))).astype(np.float32)


@given(st.integers(0, 10_000))
def test_scales_are_whole_multiples_of_one_scale_a_channel(seed: int) -> None:
    x = weights(seed, (48, 5))
    params = lpbq_params(x, BY_ROWS, 1)
    factor = (np.abs(x).max(0) / np.float32(7 * 16)).astype(np.float32)
    steps = np.rint(params.scale / factor)
    assert params.scale.shape == (3, 5)
    assert ((steps >= 1) & (steps <= 16)).all()
    np.testing.assert_array_equal(steps.astype(np.float32) * factor, params.scale)


@given(st.integers(0, 10_000))
def test_no_other_multiple_has_less_error_in_any_block(seed: int) -> None:
    x = weights(seed, (32, 3))
    params = lpbq_params(x, BY_ROWS, 1)
    factor = (np.abs(x).max(0, keepdims=True) / np.float32(7 * 16)).astype(np.float32)

    def errors(scale: np.ndarray) -> np.ndarray:
        made = fake_quantize_ragged(x, QParams(BY_ROWS, scale, np.zeros(scale.shape, np.int32)))
        return np.square(made.astype(np.float64) - x).reshape(2, 16, 3).sum(1)

    ours = errors(params.scale)
    for step in range(1, 17):
        assert (ours <= errors(np.repeat(np.float32(step) * factor, 2, 0)) + 1e-12).all()


@given(st.integers(0, 10_000), st.sampled_from([0, 1]))
def test_the_parts_of_made_scales_give_their_bits(seed: int, channel: int) -> None:
    scheme = Scheme(IntGrid(4), per_group(2, 1 - channel, 8))
    params = lpbq_params(weights(seed, (40, 40)), scheme, channel)
    parts = lpbq_parts(params, channel)
    assert parts is not None
    steps, factor = parts
    assert factor.shape == ((1, 40) if channel else (40, 1))
    assert ((steps >= 1) & (steps <= 16)).all()
    np.testing.assert_array_equal(steps.astype(np.float32) * factor, params.scale)


def test_scales_that_are_no_whole_multiples_have_no_parts() -> None:
    scale = np.sqrt(np.arange(2, 8, dtype=np.float32)).reshape(3, 2)
    assert lpbq_parts(QParams(BY_ROWS, scale, np.zeros((3, 2), np.int32)), 1) is None


def test_a_channel_of_zeros_and_a_block_of_zeros_keep_their_zeros() -> None:
    x = weights(1, (32, 2))
    x[:, 0], x[:16, 1] = 0, 0
    params = lpbq_params(x, BY_ROWS, 1)
    assert np.isfinite(params.scale).all()
    assert (params.scale > 0).all()
    assert not fake_quantize_ragged(x, params)[x == 0].any()


def test_the_last_block_may_be_short() -> None:
    x = weights(2, (40, 2))
    params = lpbq_params(x, BY_ROWS, 1)
    assert params.scale.shape == (3, 2)
    alone = lpbq_params(np.concatenate([x, np.zeros((8, 2), np.float32)]), BY_ROWS, 1)
    np.testing.assert_array_equal(params.scale, alone.scale)


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_at_most_that_of_each_blocks_own_scale_rounded_to_the_nearest_multiple(seed: int) -> None:
    x = weights(seed, (64, 8))
    params = lpbq_params(x, BY_ROWS, 1)
    factor = np.abs(x).max(0) / np.float32(7 * 16)
    own = np.abs(x).reshape(4, 16, 8).max(1) / 7
    nearest = QParams(BY_ROWS, (np.clip(np.rint(own / factor), 1, 16) * factor).astype(np.float32), params.zero_point)
    ours, theirs = (np.square(fake_quantize_ragged(x, p) - x).sum() for p in (params, nearest))
    assert ours <= theirs
