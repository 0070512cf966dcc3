"""Percentiles of other tools: each by its formula over a plain sort or loop; ONNX Runtime's is run beside it."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxruntime.quantization.calibrate import HistogramCollector

from halfeven.errors import BadCalibration, BadOption
from halfeven.stats.kl_histograms import Bins, growing_both_ways, growing_upwards, over_seen_magnitudes
from halfeven.stats.percentiles import onnxruntime_percentile, ppq_percentile, pytorch_quantization_percentile

BATCH = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32))


@given(batches=st.lists(BATCH, min_size=1, max_size=3), share=st.sampled_from([0.5, 0.9, 0.99, 0.9999, 1.0]))
def test_ppq_averages_the_kth_least_of_each_batch(batches: list[np.ndarray], share: float) -> None:
    lows, highs = [], []
    for x in batches:
        ordered, n = sorted(x.tolist()), x.size
        lows.append(ordered[int(n * (1 - share))])
        highs.append(ordered[min(int(n * share), n - 1)])
    found = ppq_percentile(batches, share)
    assert found == pytest.approx((np.mean(lows), np.mean(highs)), rel=1e-6, abs=1e-6)


def test_ppq_s_default_is_the_extrema_of_batches_below_ten_thousand() -> None:
    x = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    assert ppq_percentile([x]) == (float(x.min()), float(x.max()))
    wide = np.arange(20_000, dtype=np.float32)
    assert ppq_percentile([wide]) == (1.0, 19_998.0)  # 20000 * (1 - 0.9999) is a little below 2
    assert ppq_percentile([x, wide]) == pytest.approx(((x.min() + 1) / 2, (x.max() + 19_998) / 2), rel=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("percentile", [99.999, 99.9, 99.0, 60.0])
@pytest.mark.parametrize("seed", range(3))
def test_onnxruntime_itself_concludes_the_same(seed: int, percentile: float, symmetric: bool) -> None:
    rng = np.random.default_rng(seed)
    batches = [(rng.standard_t(3, 3000) * rng.uniform(0.5, 2) + 1).astype(np.float32) for _ in range(3)]
    collector = HistogramCollector("percentile", symmetric, 2048, 128, percentile, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in batches:
            collector.collect({"x": batch})
        low, high, *_ = collector.compute_collection_result()["x"]
    bins = over_seen_magnitudes(batches) if symmetric else growing_both_ways(batches, 2048)
    assert onnxruntime_percentile(bins, percentile / 100, symmetric) == (float(low), float(high))


@given(counts=hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 50)).filter(lambda c: c.any()))
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.999])
def test_pytorch_quantization_takes_the_left_edge_of_the_bin_that_reaches_it(share: float, counts: np.ndarray) -> None:
    running, total, at = 0.0, counts.sum(), 0
    for at, count in enumerate(counts):  # noqa: B007 - the bin where the loop stops is the result
        running += count / total
        if running >= share:
            break
    bins = Bins(counts, 0.5 * np.arange(counts.size + 1), 0.0, 0.5 * counts.size)
    assert pytorch_quantization_percentile(bins, share) == 0.5 * at


def test_a_bin_lower_than_the_percentile_itself() -> None:
    x = np.arange(1, 2049, dtype=np.float32)
    bins = growing_upwards([x])
    assert pytorch_quantization_percentile(bins, 0.9999) == 2047.0
    assert np.percentile(x, 99.99) > 2047


def test_shares_that_never_add_up_are_refused_and_not_read_beyond_the_end() -> None:
    counts = next(c for c in np.random.default_rng(0).integers(1, 99, (500, 40)) if np.cumsum(c / c.sum())[-1] < 1.0)
    bins = Bins(counts, np.arange(41.0), 0.0, 40.0)
    with pytest.raises(BadCalibration, match=r"short of 1\.0 by rounding"):
        pytorch_quantization_percentile(bins, 1.0)


@pytest.mark.parametrize("share", [-0.1, 99.99, float("nan")])
def test_a_percentage_is_no_share(share: float) -> None:
    bins = Bins(np.ones(3, np.int64), np.arange(4.0), 0.0, 3.0)
    for call in (
        lambda: ppq_percentile([np.ones(3, np.float32)], share),
        lambda: onnxruntime_percentile(bins, share),
        lambda: pytorch_quantization_percentile(bins, share),
    ):
        with pytest.raises(BadOption, match=r"a fraction from .* to 1 was expected"):
            call()


def test_batches_without_elements_are_refused() -> None:
    with pytest.raises(BadCalibration, match="without elements"):
        ppq_percentile([np.zeros(0, np.float32)])
    with pytest.raises(BadCalibration, match="no batch"):
        ppq_percentile([])
