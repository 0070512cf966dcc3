"""Squares: PPQ's and pytorch-quantization's least squared error, against their formulas in plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration, BadOption
from halfeven.stats.kl_histograms import Bins, growing_upwards
from halfeven.stats.squares import (
    ppq_affine,
    ppq_loss,
    ppq_range,
    ppq_symmetric,
    pytorch_quantization_amax,
    pytorch_quantization_losses,
)

F = np.float32
COUNTS = hnp.arrays(np.int64, 64, elements=st.integers(0, 99)).filter(lambda counts: counts.any())


def loss(counts: list[int], start: int, step: int, end: int) -> float:
    total = 0.0
    for j, count in enumerate(counts):
        if j < start:
            error = (start - j - 1) + 0.5
        elif j > end:
            error = (j - end) + 0.5
        else:
            left = (j - start) % step
            right = step - left - 1
            error = left + 0.25 if left == right else min(left + 0.5, right + 0.5)
        total += count * error * error / sum(counts)
    return total


@given(counts=COUNTS, start=st.integers(0, 40), step=st.integers(1, 9), levels=st.integers(1, 16))
def test_ppq_s_loss_is_the_loop_bit_for_bit(counts: np.ndarray, start: int, step: int, levels: int) -> None:
    end = start + step * levels
    assert ppq_loss(counts, start, step, end) == loss(counts.tolist(), start, step, end)


def test_the_middle_bin_of_an_odd_step_counts_a_quarter_too_much_or_too_little() -> None:
    one = np.zeros(8, np.int64)
    one[1] = 1
    assert ppq_loss(one, 0, 3, 6) == 1.25**2  # its middle is 1.5 from either code
    assert ppq_loss(np.eye(1, 8, dtype=np.int64)[0], 0, 1, 6) == 0.25**2  # 0.5 from either


@given(counts=COUNTS)
@pytest.mark.parametrize("levels", [8, 16])
def test_nothing_that_ppq_tries_is_better_symmetric(levels: int, counts: np.ndarray) -> None:
    steps = [64 // levels + 1, *range(1, 64 // levels + 1)]
    losses = [loss(counts.tolist(), 0, step, levels * step) for step in steps]
    reach = 0.5 * levels * steps[losses.index(min(losses))]
    assert ppq_symmetric(counts, 0.5, levels) == (-reach, reach)


@given(counts=COUNTS, low=st.integers(-32, 0))
def test_nothing_that_ppq_tries_is_better_affine(counts: np.ndarray, low: int) -> None:
    tried = [(0, 9)]
    for start in range(0, 64, 8):
        if start * 0.5 + low > 0:
            break
        tried += [(start, step) for step in range(1, 9) if start + 8 * step <= 64 + 8]
    losses = [loss(counts.tolist(), start, step, start + 8 * step) for start, step in tried]
    start, step = tried[losses.index(min(losses))]
    assert ppq_affine(counts, float(low), 0.5, 8) == (start * 0.5 + low, (start + 8 * step) * 0.5 + low)


def test_ppq_s_ranges_of_data_hold_most_of_it() -> None:
    x = np.random.default_rng(0).standard_t(4, 20_000).astype(np.float32)
    low, high = ppq_range([x[:7000], x[7000:]], symmetric=True)
    assert (low, high) == ppq_range([x], symmetric=True)
    assert 0 < high == -low <= 2304 / 2048 * np.abs(x).max() * (1 + 1e-6)
    low, high = ppq_range([x], symmetric=False)
    assert x.min() <= low < 0 < high
    assert np.mean((x < low) | (x > high)) < 0.02


def test_what_ppq_cannot_bin_is_refused() -> None:
    with pytest.raises(BadCalibration, match=r"all values are 3.0; its affine histogram"):
        ppq_range([np.full(4, 3, np.float32)], symmetric=False)
    with pytest.raises(BadOption, match="4096 levels were asked for"):
        ppq_range([np.ones(4, np.float32)], symmetric=True, levels=4096)


@pytest.mark.parametrize(("bits", "unsigned"), [(8, False), (8, True), (4, False)])
def test_no_middle_of_a_bin_is_a_better_amax(bits: int, unsigned: bool) -> None:
    x = np.abs(np.random.default_rng(1).standard_t(3, 5000)).astype(np.float32)
    bins = growing_upwards([x], 200)
    bound, losses = 2 ** (bits - 1 + unsigned) - 1, []
    centres = [F((bins.edges[i] + bins.edges[i + 1]) / F(2)) for i in range(200)]
    for amax in centres[128:]:
        total, scale = 0.0, F(bound) / amax
        for centre, count in zip(centres, bins.counts, strict=True):
            quantized = F(min(np.rint(centre * scale), F(bound))) / scale
            total += float((quantized - centre) ** 2 * F(count))
        losses.append(total / 200)
    np.testing.assert_allclose(pytorch_quantization_losses(bins, bits, unsigned)[1], losses, rtol=1e-6)
    assert pytorch_quantization_amax(bins, bits, unsigned) == centres[128 + int(np.argmin(losses))]


def test_the_full_range_is_no_candidate_of_pytorch_quantization() -> None:
    x = np.linspace(0, 1, 10_000, dtype=np.float32)
    assert pytorch_quantization_amax(growing_upwards([x])) < 1


def test_too_few_bins_are_refused() -> None:
    with pytest.raises(BadOption, match="begins at bin 128"):
        pytorch_quantization_amax(Bins(np.ones(128, np.int64), np.arange(129.0), 0.0, 128.0))
