"""Histograms of the tools: where each value is counted, how ranges grow, against loops, NumPy, torch and ONNX Runtime."""

import contextlib
import io

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from halfeven.errors import BadCalibration
from halfeven.stats import kl_histograms
from halfeven.stats.kl import VARIANTS, histogram_of
from halfeven.stats.kl_histograms import MOST_BINS, growing_upwards, histc, over_seen_magnitudes

F = np.float32


def batches(seed: int, count: int = 4, size: int = 500) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_t(3, size) * rng.uniform(0.2, 3)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_every_value_is_counted_once(variant: str, seed: int) -> None:
    found = histogram_of(variant, batches(seed))
    assert found.counts.sum() == 2000
    assert found.edges.size == found.counts.size + 1
    assert (np.diff(found.edges) > 0).all()
    assert found.reach == max(float(np.abs(x).max()) for x in batches(seed))


def test_ncnn_skips_zeros_and_puts_the_greatest_into_the_last_bin() -> None:
    x = np.array([0, -0.0, 0.25, -0.5, 1.0, -1.0], np.float32)
    counts = histogram_of("ncnn", [x]).counts
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == {512: 1, 1024: 1, 2047: 2}
    assert histogram_of("tensorrt", [x]).counts[0] == 2


def test_ncnn_s_bin_is_a_truncated_float32_product() -> None:
    x = batches(7, 1)[0]
    reach = np.abs(x).max()
    expected = np.zeros(2048, np.int64)
    for one in x:
        expected[min(int(F(F(abs(one)) / reach) * F(2048)), 2047)] += 1
    np.testing.assert_array_equal(histogram_of("ncnn", [x]).counts, expected)


def test_two_passes_know_the_range_before_they_count() -> None:
    parts = batches(1)
    for variant in ("tensorrt", "ncnn", "ppq"):
        whole = histogram_of(variant, [np.concatenate(parts)])
        np.testing.assert_array_equal(histogram_of(variant, parts).counts, whole.counts)
        np.testing.assert_array_equal(histogram_of(variant, parts[::-1]).counts, whole.counts)


def test_ranges_that_grow_depend_on_the_order_of_batches() -> None:
    """What Halfeven's own histogram is made not to do."""
    parts = [np.linspace(-1, 1, 100, dtype=np.float32), np.linspace(-3, 3, 100, dtype=np.float32)]
    for variant in ("mxnet", "onnxruntime", "pytorch-quantization"):
        assert histogram_of(variant, parts).counts.size > histogram_of(variant, parts[::-1]).counts.size


def test_mxnet_grows_by_whole_bins_on_either_side() -> None:
    first, second = np.array([-1, 1], np.float32), np.array([1.7], np.float32)
    found = kl_histograms.growing_both_ways([first, second], 5)  # width 0.4: 0.7 more are int(1.75) + 1 = 2 bins
    assert found.counts.tolist() == [0, 0, 1, 0, 0, 0, 1, 0, 1]
    np.testing.assert_allclose(found.edges, 0.4 * (np.arange(10) - 4.5), atol=1e-6)


def test_pytorch_quantization_adds_bins_of_the_first_width() -> None:
    found = growing_upwards([np.array([1.0], np.float32), np.array([-1.6, 0.1], np.float32)], 4)
    assert found.counts.tolist() == [1, 0, 0, 1, 0, 0, 1]
    np.testing.assert_array_equal(found.edges, 0.25 * np.arange(8, dtype=np.float32))


@pytest.mark.parametrize("seed", range(5))
def test_torch_s_histc_counts_the_same(seed: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, bins = np.abs(batches(seed, 1, 5000)[0]), 2048 + 131 * seed
    for reach in (float(x.max()), float(x.max()) * 1.3, float(x.max()) * 0.7):
        expected = torch.histc(torch.from_numpy(x), bins=bins, min=0, max=reach).numpy()
        np.testing.assert_array_equal(histc(x, bins, reach), expected)


@pytest.mark.parametrize("seed", range(4))
def test_onnxruntime_s_symmetric_percentile_counts_the_same(seed: int) -> None:
    parts = batches(seed)
    collector = HistogramCollector("percentile", True, 100, 128, 99.99, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in parts:
            collector.collect({"x": batch})
    counts, edges, low, high = collector.get_histogram_dict()["x"]
    found = over_seen_magnitudes(parts, 100)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.edges, edges)
    assert (found.low, found.high) == (float(low), float(high))


@pytest.mark.parametrize("variant", ["mxnet", "onnxruntime", "pytorch-quantization"])
def test_a_tiny_first_batch_does_not_eat_the_memory(variant: str) -> None:
    parts = [np.array([1e-9], np.float32), np.array([1.0], np.float32)]
    with pytest.raises(BadCalibration, match="bins would be added to"):
        histogram_of(variant, parts)
    with pytest.raises(BadCalibration, match="bins would be added to"):
        over_seen_magnitudes([np.array([0, 1e-9], np.float32), parts[1]])
    assert MOST_BINS * 8 < 2**26


def test_pytorch_quantization_needs_something_in_its_first_batch() -> None:
    with pytest.raises(BadCalibration, match="first batch holds nothing but zeros"):
        histogram_of("pytorch-quantization", [np.zeros(3, np.float32), np.ones(3, np.float32)])
