"""Observation: what is remembered depends on the samples alone, not on their order or how they come."""

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Batch, Draft, pipeline
from halfeven.errors import BadCalibration
from halfeven.graph.patches import patches
from halfeven.run.ort import OrtExecutor
from halfeven.stats.histogram import Histogram
from halfeven.stats.moments import Moments
from halfeven.stats.observation import Observation, stride_for
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.gptq import Gptq
from halfeven.steps.observe import Observe, watched
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]
INTEGER = TARGETS["integer"]

NET = (
    "g (float[1,3,8,8] x) => (float[1,4,6,6] y) <float[6,3,3,3] a, float[6] ab, float[6,1,3,3] d, float[4,6,1,1] z> {"
    " [a] h = Conv(x, a, ab)  [r] r = Relu(h)  [d] k = Conv <group = 6, pads = [1, 1, 1, 1]> (r, d)"
    " [m] m = MaxPool <kernel_shape = [1, 1]> (k)  [z] y = Conv(m, z) }"
)


def _observed(draft: Draft, data: list, **options: int) -> Draft:
    return pipeline(Observe(**options))(draft, data)


def _seen(draft: Draft) -> dict[str, object]:
    return {name: one.histogram.to_json() for name, one in draft.stats.items()}


def test_histograms_do_not_depend_on_the_order_of_samples(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model, 12)
    draft = placed(model, INTEGER, data)
    forth, back = (_observed(draft, d) for d in (data, data[::-1]))
    assert set(forth.stats) == {"x", "r", "k", "y"}
    assert _seen(forth) == _seen(back)
    assert forth.stats["r"].moving != back.stats["r"].moving


def test_two_halves_merge_to_the_whole(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model, 9)
    draft = placed(model, INTEGER, data)
    whole, one, two = (_observed(draft, d) for d in (data, data[:4], data[4:]))
    for name, seen in whole.stats.items():
        assert one.stats[name].merge(two.stats[name]).histogram.to_json() == seen.histogram.to_json()


def test_extrema_see_every_element_however_few_are_counted(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model, 3)
    draft = placed(model, INTEGER, data)
    seen = _observed(draft, data, elements=16).stats
    run = OrtExecutor(draft.model, ("r", "k"))
    values = [{**feeds, **run(feeds)} for _, feeds in data]
    for name in ("x", "r", "k", "y"):
        arrays = np.stack([v[name] for v in values])
        extrema = seen[name].histogram.extrema
        assert (extrema.low, extrema.high, extrema.count) == (arrays.min(), arrays.max(), arrays.size)
        assert seen[name].moving is not None
        assert seen[name].moving.samples == 3


def test_every_sample_is_read_once(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model, 5)
    draft = placed(model, INTEGER, data)

    class Counted:
        passes = 0

        def __iter__(self) -> Iterator[tuple[str, Batch]]:
            self.passes += 1
            return iter(data)

    counted, told = Counted(), []
    pipeline(Observe())(draft, counted, lambda *args: told.append(args))
    assert counted.passes == 1
    assert told == [("observe", i, None) for i in range(1, 6)]


def test_what_is_known_already_is_not_watched_again(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model, 4)
    first = _observed(placed(model, INTEGER, data), data)
    assert _observed(first, samples(model, 4, seed=9)) is first


def test_moments_are_those_of_the_layers_input_vectors(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model, 7)
    draft = placed(model, INTEGER, data)
    found = _observed(draft, data, moments=5, vectors=11).moments
    assert set(found) == {"a", "d", "z"}
    run = OrtExecutor(draft.model, ("r", "m"))
    for node in draft.model.graph:
        if node.name not in found:
            continue
        inputs = [{**feeds, **run(feeds)}[node.inputs[0].name] for _, feeds in data[:5]]
        vectors = np.concatenate([patches(node, np.asarray(x), 11) for x in inputs], axis=1).astype(np.float64)
        moments = found[node.name]
        assert moments.count == vectors.shape[1] == 55
        np.testing.assert_allclose(moments.mean, vectors.mean(1), rtol=1e-5, atol=1e-6)
        expected = [np.cov(group.T, bias=True).reshape(group.shape[1], -1) for group in vectors]
        np.testing.assert_allclose(moments.covariance, expected, rtol=1e-3, atol=1e-5)


def test_moments_can_be_left_out(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model, 2)
    assert _observed(placed(model, INTEGER, data), data, moments=0).moments == {}


def test_a_layer_with_long_vectors_has_no_moments(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (float[1,1200] x) => (float[1,2] y) <float[1200,4] w, float[4,2] v> { h = MatMul(x, w)  y = MatMul(h, v) }"
    )
    data = samples(model, 2)
    assert set(_observed(placed(model, INTEGER, data), data).moments) == {"MatMul_y"}


def test_nan_inside_of_the_network_names_sample_and_tensor(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4,4] v> {"
        " h = MatMul(x, w)  s = Sqrt(x)  y = MatMul(s, v) }"
    )
    data = [(label, {"x": np.abs(feeds["x"])}) for label, feeds in samples(model, 4)]
    draft = placed(model, INTEGER, data)
    data[2][1]["x"][0, 1] = -1
    with pytest.raises(BadCalibration, match=r"sample 2: tensor 's' holds 1 NaN"):
        _observed(draft, data)


def test_an_infinity_inside_of_the_network_is_survived(build: Build, samples: Samples, placed: Placed) -> None:
    model = build("g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4] b> { s = Log(x)  y = Gemm(s, w, b) }")
    data = [(label, {"x": np.abs(feeds["x"])}) for label, feeds in samples(model, 4)]
    draft = placed(model, INTEGER, data)
    data[2][1]["x"][0, 1] = 0
    after = _observed(draft, data)
    assert after.stats["s"].histogram.extrema.infs == 1
    rounded = pipeline(Calibrate(), Gptq())(after, data).model
    assert all(np.isfinite(v.const_value.numpy()).all() for v in rounded.graph.initializers.values())


def test_no_sample_at_all_is_an_error(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    draft = placed(model, INTEGER, samples(model, 1))
    with pytest.raises(BadCalibration, match="the data are empty"):
        _observed(draft, [])


def test_a_tensor_without_elements_is_survived(build: Build, placed: Placed) -> None:
    model = build("g (float[n,4] x) => (float[n,4] y) <float[4,4] w> { y = MatMul(x, w) }")
    data = [("empty", {"x": np.zeros((0, 4), np.float32)}), ("full", {"x": np.ones((2, 4), np.float32)})]
    after = _observed(placed(model, INTEGER, data[1:]), data)
    assert after.stats["x"].histogram.extrema.count == 8
    assert after.moments["MatMul_y"].count == 2


def test_a_convolution_without_elements_is_survived(build: Build, placed: Placed) -> None:
    model = build("g (float[n,4,2,2] x) => (float[n,4,2,2] y) <float[4,4,1,1] w> { y = Conv(x, w) }")
    data = [("full", {"x": np.ones((2, 4, 2, 2), np.float32)}), ("empty", {"x": np.zeros((0, 4, 2, 2), np.float32)})]
    assert _observed(placed(model, INTEGER, data), data).moments["Conv_y"].count == 8


def test_what_only_moves_codes_is_not_watched(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (float[1,4,4,4] x) => (float[1,8,2,2] y) <float[4,4,1,1] a, float[4,4,1,1] b, float[8,8,1,1] z> {"
        " h = Conv(x, a)  k = Conv(x, b)  c = Concat <axis = 1> (h, k)"
        " m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)  y = Conv(m, z) }"
    )
    draft = placed(model, INTEGER, samples(model))
    assert set(watched(draft)) == {"x", "h", "k", "y"}


# --------------------------------------------------------------------------------------------- the summaries


@pytest.mark.parametrize("size", [0, 1, 5, 64, 65, 1000, 99_991])
@pytest.mark.parametrize("limit", [1, 16, 64])
def test_a_stride_passes_over_no_channel(size: int, limit: int) -> None:
    step = stride_for(size, limit)
    assert step >= 1
    assert step == 1 or all(step % p for p in (2, 3, 5, 7))
    assert -(-size // step) <= limit
    assert (step == 1) == (size <= limit)


def test_an_observation_reads_back_from_json() -> None:
    rng = np.random.default_rng(0)
    seen = Observation().then(rng.normal(size=100).astype(np.float32), 64).then(np.ones(3, np.float32), 64)
    again = Observation.from_json(seen.to_json())
    assert again.to_json() == seen.to_json()
    assert again.moving == seen.moving
    merged = seen.merge(again)
    assert merged.moving is None
    assert Observation.from_json(merged.to_json()).moving is None


def test_an_empty_observation_merges_and_changes_nothing() -> None:
    seen = Observation().then(np.arange(5, dtype=np.float32), 64)
    for merged in (seen.merge(Observation()), Observation().merge(seen)):
        assert merged.to_json() == seen.to_json()
    assert Observation().then(np.zeros((0, 3), np.float32), 64) == Observation()
    assert Observation().histogram.to_json() == Histogram().to_json()


def test_moments_merge_to_those_of_all_vectors() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(2, 1, (3, 50, 4)).astype(np.float32)
    merged, whole = Moments.of(x[:, :20]).merge(Moments.of(x[:, 20:])), Moments.of(x)
    assert merged.count == whole.count == 50
    np.testing.assert_allclose(merged.total, whole.total, rtol=1e-6)
    np.testing.assert_allclose(merged.gram, whole.gram, rtol=1e-5)
    np.testing.assert_allclose(whole.mean, x.mean(1), rtol=1e-5)
    np.testing.assert_allclose(whole.covariance, [np.cov(g.T, bias=True) for g in x], rtol=1e-3, atol=1e-4)


def test_whatever_the_order_of_more_samples_than_are_looked_at_closely_the_codes_are_the_same(
    build: Build, samples: Samples
) -> None:
    net = build(
        "g (float[1,4,6,6] x) => (float[1,2,6,6] y) <float[8,4,3,3] a, float[2,8,1,1] b> {"
        " c = Conv <pads = [1, 1, 1, 1]> (x, a)  r = Relu(c)  y = Conv(r, b) }"
    )
    rows = [feeds for _, feeds in samples(net, 48)]
    made = []
    for given in (rows, rows[::-1], rows[20:] + rows[:20], rows[:40] + [{"x": -row["x"]} for row in rows[40:]]):
        one = halfeven.quantize(net, given, prefer="size", verify=False)
        made.append([t.const_value.tobytes() for t in one.model.graph.initializers.values()])
    assert made[0] == made[1] == made[2] != made[3]


def test_the_moving_average_goes_by_the_order_that_was_given(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model, 12)
    draft = placed(model, INTEGER, data)
    plain, led = (_observed(draft, data, moments=count).stats for count in (0, 5))
    assert {name: one.moving for name, one in plain.items()} == {name: one.moving for name, one in led.items()}
    assert _observed(draft, data[::-1], moments=5).stats["r"].moving != plain["r"].moving


def test_what_can_be_read_once_is_read_whole(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model, 7)
    draft = placed(model, INTEGER, data)
    once, again = _observed(draft, iter(data), moments=3), _observed(draft, data, moments=3)
    assert once.stats == again.stats
    assert set(once.moments) == set(again.moments)
