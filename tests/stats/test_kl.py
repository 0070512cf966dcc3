"""KL: each published variant finds what its procedure, written out bin by bin, finds; ONNX Runtime's is run beside it.

The oracles are plain loops over Python numbers (np.float32 where the tool computes in float32), one for each tool.
"""

import contextlib
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxruntime.quantization.calibrate import HistogramCollector

from halfeven.errors import BadCalibration, BadOption
from halfeven.stats import kl_divergences
from halfeven.stats.kl import VARIANTS, histogram_of, kl_range, threshold
from halfeven.stats.kl_histograms import Bins

F = np.float32


def _log32(x: np.float32) -> np.float32:
    return F(math.log(float(x)))


def runs_of(i: int, levels: int) -> list[range]:
    """i bins in `levels` runs of i // levels, the last taking the remainder."""
    run = i // levels
    return [range(j * run, i if j == levels - 1 else (j + 1) * run) for j in range(levels)]


def tensorrt(counts: list[int], levels: int) -> list[float]:
    h = [0, *counts[1:]]
    found = []
    for i in range(levels, len(h) + 1):
        p = h[:i]
        p[-1] += sum(h[i:])
        q = [0.0] * i
        for run in runs_of(i, levels):
            filled = sum(h[k] > 0 for k in run)
            for k in run:
                q[k] = sum(h[m] for m in run) / filled if h[k] else 0.0
        found.append(divergence(p, q))
    return found


def divergence(p: list[int], q: list[float]) -> float:
    if sum(q) == 0 or any(a and not b for a, b in zip(p, q, strict=True)):
        return math.inf
    return sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True) if a)


def pytorch_quantization(counts: list[int], levels: int, start: int) -> list[float]:
    h = [counts[1], *counts[1:]]
    found = []
    for i in range(start, len(h) + 1):
        space = [i * j / levels for j in range(levels + 1)]
        level = [max(j for j in range(levels + 1) if space[j] <= k) for k in range(i)]
        q = [0.0] * i
        for k in range(i):
            inside = [m for m in range(i) if level[m] == level[k] and h[m]]
            q[k] = sum(h[m] for m in inside) / len(inside) if h[k] else 0.0
        p = h[:i]
        p[-1] += sum(h[i:])
        found.append(divergence(p, q))
    return found


def ppq(counts: list[int], levels: int) -> list[float]:
    h = list(counts)
    cut = int(len(h) * 0.002)
    h[:cut] = [0] * cut
    h[cut] = 1
    found = []
    for i in range(levels, len(h) + 1, levels):
        p = h[:i]
        p[-1] += sum(h[i:])
        q = [F(0)] * i
        for run in runs_of(i, levels):
            filled = max(sum(h[k] > 0 for k in run), 1)
            for k in run:
                q[k] = F(sum(h[m] for m in run)) / F(filled) if h[k] > 0 else F(0)
        total = F(sum(float(one) for one in q))
        pairs = [(float(F(a) / F(sum(h))), float(b / total)) for a, b in zip(p, q, strict=True)]
        found.append(sum(a * (math.log10(a + 1e-30) - math.log10(b + 1e-30)) for a, b in pairs))
    return found


def smoothed(p: list[np.float32]) -> list[np.float32] | None:
    zeros = sum(one == 0 for one in p)
    if zeros == len(p) or (taken := F(1e-4) * F(zeros) / F(len(p) - zeros)) >= 1:
        return None
    return [F(1e-4) if one == 0 else one - taken for one in p]


def mxnet(counts: list[int], levels: int) -> list[float]:
    middle, found = len(counts) // 2, []
    for i in range(levels // 2, middle + 1):
        start, stop = middle - i, middle + i + 1
        p, kept = [F(0)] * (stop - start), [0] * (stop - start)
        for j, count in enumerate(counts):
            if j <= start:
                p[0] += F(count)
            elif j >= stop:
                p[-1] += F(count)
            else:
                p[j - start], kept[j - start] = F(count), count
        q, run = [F(0)] * len(p), len(p) // levels
        for level, part in enumerate(runs_of(len(p), levels)):
            total = F(sum(kept[level * run : (level + 1) * run]))
            if level == levels - 1:
                total += F(sum(kept[levels * run :]))
            filled = sum(kept[k] != 0 for k in part)
            for k in part:
                q[k] = total / F(filled) if filled and p[k] else F(0)
        found.append(sequential(smoothed(p), smoothed(q)))
    return found


def sequential(p: list[np.float32] | None, q: list[np.float32] | None) -> float:
    if p is None or q is None:
        return math.inf
    totals = []
    for one in (p, q):
        total = F(0)
        for x in one:
            total += x
        totals.append(total)
    result = F(0)
    for a, b in zip(p, q, strict=True):
        result += a / totals[0] * _log32(a / totals[0] / (b / totals[1]))
    return float(result)


def ncnn(counts: list[int], levels: int) -> list[float]:
    h = [F(one / sum(counts)) for one in counts]
    found = []
    for i in range(levels, len(h)):
        p = [F(1e-4) + one for one in h[:i]]
        for one in h[i:]:
            p[-1] += one
        width, q = i / levels, [F(1e-4)] * i
        for j in range(levels):
            start, end = j * width, (j + 1) * width
            inner, outer = math.ceil(start), math.floor(end)
            mean = F(0)
            if inner > start:
                mean += F(inner - start) * h[inner - 1]
            if end > outer:
                mean += F(end - outer) * h[outer]
            for k in range(inner, outer):
                mean += h[k]
            mean /= F(width)
            if inner > start:
                q[inner - 1] += F(inner - start) * mean
            if end > outer:
                q[outer] += F(end - outer) * mean
            for k in range(inner, outer):
                q[k] += mean
        result = F(0)
        for a, b in zip(p, q, strict=True):
            result += a * _log32(a / b)
        found.append(float(result))
    return found


def heights(least: int, most: int) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.int64, st.integers(least, most), elements=st.integers(0, 6).map(lambda n: n**5)).filter(
        lambda counts: counts[1:].any()
    )


@given(counts=heights(17, 60))
@pytest.mark.parametrize("levels", [4, 7, 16])
def test_tensorrt_is_the_slides_procedure(levels: int, counts: np.ndarray) -> None:
    expected = tensorrt(counts.tolist(), levels)
    np.testing.assert_allclose(kl_divergences.tensorrt(counts, levels), expected, rtol=1e-9, atol=1e-12)


@given(counts=heights(17, 50))
@pytest.mark.parametrize(("levels", "start"), [(4, 4), (8, 10), (16, 8)])
def test_pytorch_quantization_is_its_procedure(levels: int, start: int, counts: np.ndarray) -> None:
    expected = pytorch_quantization(counts.tolist(), levels, start)
    np.testing.assert_allclose(
        kl_divergences.pytorch_quantization(counts, levels, start), expected, rtol=1e-9, atol=1e-12
    )


@given(counts=hnp.arrays(np.int64, 64, elements=st.integers(0, 6).map(lambda n: n**5)))
@pytest.mark.parametrize("levels", [4, 8, 16])
def test_ppq_is_its_procedure(levels: int, counts: np.ndarray) -> None:
    np.testing.assert_allclose(kl_divergences.ppq(counts, levels), ppq(counts.tolist(), levels), rtol=1e-6, atol=1e-9)


@given(counts=heights(17, 50).map(lambda counts: counts[: counts.size - (counts.size + 1) % 2]))
@pytest.mark.parametrize("levels", [4, 5, 16])
def test_mxnet_is_its_procedure_bit_for_bit(levels: int, counts: np.ndarray) -> None:
    assert kl_divergences.mxnet(counts, levels).tolist() == mxnet(counts.tolist(), levels)


@given(counts=heights(17, 50))
@pytest.mark.parametrize("levels", [4, 8, 16])
def test_ncnn_is_its_procedure_bit_for_bit(levels: int, counts: np.ndarray) -> None:
    assert kl_divergences.ncnn(counts, levels).tolist() == ncnn(counts.tolist(), levels)


ORACLES: dict[str, Callable[[list[int], int], list[float]]] = {"tensorrt": tensorrt, "ncnn": ncnn, "ppq": ppq}


@pytest.mark.parametrize("variant", ORACLES)
def test_the_published_size_gives_the_threshold_of_the_loops(variant: str) -> None:
    x = np.random.default_rng(4).standard_t(4, 20_000).astype(np.float32)
    bins = histogram_of(variant, [x])
    levels = 128
    small = Bins(bins.counts[:640], bins.edges[:641], bins.low / 4, bins.high / 4)
    expected = ORACLES[variant](small.counts.tolist(), levels)
    found = threshold(variant, small, levels)
    step = levels if variant == "ppq" else 1
    assert found.bins == levels + step * int(np.argmin(expected))
    reach = small.reach / 640 * (found.bins + (0 if variant == "ppq" else 0.5))
    assert found.high == -found.low == pytest.approx(reach, rel=1e-6)


def ort_range(batches: list[np.ndarray], bins: int, levels: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """What ONNX Runtime's collector counts, and concludes."""
    collector = HistogramCollector("entropy", False, bins, levels, 99.99, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in batches:
            collector.collect({"x": batch})
        low, high, *_ = collector.compute_collection_result()["x"]
    counts, edges, *_ = collector.get_histogram_dict()["x"]
    return counts, edges, (float(low), float(high))


@pytest.mark.parametrize(("bins", "levels"), [(128, 128), (512, 128), (257, 16), (300, 255)])
@pytest.mark.parametrize("seed", range(4))
def test_onnxruntime_itself_counts_and_concludes_the_same(seed: int, bins: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [(rng.standard_t(3, 2000) * rng.uniform(0.3, 2) + rng.normal()).astype(np.float32) for _ in range(3)]
    batches.insert(seed % 2, np.zeros(100, np.float32))
    counts, edges, expected = ort_range(batches, bins, levels)
    found = histogram_of("onnxruntime", batches, bins)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.edges, edges)
    assert found.edges.dtype == edges.dtype
    assert kl_range("onnxruntime", batches, bins, levels) == expected


# Of a range as narrow as that of subnormal numbers NumPy's histogram, which ONNX Runtime calls, refuses to make bins.
@given(
    x=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-4, 4, width=32)).filter(
        lambda x: np.abs(x).max() > 1e-30
    )
)
def test_onnxruntime_agrees_on_few_values(x: np.ndarray) -> None:
    assert kl_range("onnxruntime", [x], 64, 16) == ort_range([x], 64, 16)[2]


def test_onnxruntime_s_defaults_have_one_candidate_and_give_the_extrema() -> None:
    x = np.random.default_rng(0).standard_t(2, 5000).astype(np.float32)
    assert threshold("onnxruntime", histogram_of("onnxruntime", [x])).divergences.shape == (1,)
    assert kl_range("onnxruntime", [x]) == (float(x.min()), float(x.max()))


def test_pytorch_quantization_takes_the_last_of_equal_divergences_and_the_others_the_first() -> None:
    counts = np.zeros(130, np.int64)
    counts[:128] = 1
    bins = Bins(counts, np.arange(131.0), 0.0, 128.0)
    last = threshold("pytorch-quantization", bins)
    assert last.divergences.min() == last.divergences[0]
    assert last.bins == 128 + int(np.flatnonzero(last.divergences == last.divergences.min())[-1])
    spread = np.zeros(130, np.int64)
    spread[10:120:2] = 5
    tied = threshold("pytorch-quantization", Bins(spread, np.arange(131.0), 0.0, 128.0), 128)
    assert tied.divergences.tolist() == [0.0, 0.0, 0.0]
    assert tied.bins == 130
    assert threshold("tensorrt", Bins(spread, np.arange(131.0), 0.0, 128.0), 128).bins == 128


def test_thresholds_follow_each_tool_s_formula() -> None:
    x = np.random.default_rng(1).standard_t(3, 30_000).astype(np.float32)
    reach = float(np.abs(x).max())
    for variant in VARIANTS:
        bins = histogram_of(variant, [x])
        found = threshold(variant, bins)
        width = {"mxnet": 2 * reach / 8001, "ppq": reach / 4096}.get(variant, reach / 2048)
        if variant == "onnxruntime":
            continue  # its own test
        expected = {
            "tensorrt": (found.bins + 0.5) * width,
            "mxnet": (found.bins + 0.5) * width,
            "ncnn": (found.bins + 0.5) * width,
            "ppq": found.bins * width,
            "pytorch-quantization": found.bins * width,
        }[variant]
        assert -found.low == found.high == pytest.approx(expected, rel=1e-5)
        assert found.high == kl_range(variant, [x])[1]


def test_ncnn_never_tries_the_full_range() -> None:
    x = np.random.default_rng(1).uniform(-1, 1, 30_000).astype(np.float32)
    bins = histogram_of("ncnn", [x])
    assert threshold("ncnn", bins).divergences.size == 2047 - 128 + 1


@pytest.mark.parametrize(
    ("variant", "bins", "levels", "words"),
    [
        ("tensorrt", 100, 128, "a histogram of 100 bins was given for 128 levels"),
        ("ncnn", 128, 128, "129 are the least"),
        ("ncnn", 500, 100, "merges into a power of two"),
        ("ppq", 300, 128, "300 bins do not divide into 128 levels"),
        ("mxnet", 300, 255, "takes an odd number"),
        ("pytorch-quantization", 100, 64, "128 are the least"),
    ],
)
def test_bins_that_a_tool_cannot_have_are_refused(variant: str, bins: int, levels: int, words: str) -> None:
    given_bins = Bins(np.ones(bins, np.int64), np.arange(bins + 1.0), -1.0, 1.0)
    with pytest.raises(BadOption, match=words):
        threshold(variant, given_bins, levels)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(BadOption, match="no entropy calibration called 'trt'; there are tensorrt, mxnet"):
        kl_range("trt", [np.ones(3, np.float32)])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("values", "words"),
    [([], "no elements"), ([[]], "no elements"), ([[0.0, 0.0]], "Nothing but zeros"), ([[1.0, np.nan]], "NaN and inf")],
)
def test_what_gives_no_histogram_is_refused(variant: str, values: list[list[float]], words: str) -> None:
    with pytest.raises(BadCalibration, match=words):
        kl_range(variant, [np.array(one, np.float32) for one in values])


def test_where_smoothing_has_nothing_to_give_the_divergence_is_infinite() -> None:
    first = np.zeros(21, np.int64)
    first[0] = 9  # the first bin of P, which is empty in MXNet's Q
    assert kl_divergences.mxnet(first, 4).tolist() == mxnet(first.tolist(), 4) == [math.inf] * 9
    lonely = np.zeros(20_003, np.int64)
    lonely[10_001] = 1  # 1e-4 for each of 20002 others are more than it has
    assert kl_divergences.mxnet(lonely, 20_001)[0] == math.inf
    assert kl_divergences.onnxruntime(lonely, 20_001)[0] == math.inf
    thin = np.ones(65, np.int64)
    thin[::2] = 0
    assert np.isfinite(kl_divergences.onnxruntime(thin, 16)).all()
    assert kl_divergences.onnxruntime(first[:20], 4)[-1] < math.inf


def test_where_smoothing_has_nothing_to_give_onnxruntime_stops() -> None:
    lonely = np.full(1, 0.1, np.float32)
    with pytest.raises(AssertionError):
        ort_range([lonely], 20_001, 20_001)
    assert kl_range("onnxruntime", [lonely], 20_001, 20_001)[1] == pytest.approx(0.1)
