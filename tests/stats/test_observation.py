"""Promised: what is remembered of a tensor does not depend on how its samples are grouped or ordered (the moving
average excepted), is the same when filled in place, and reads back the same.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import gcd

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.numerics.native import use_numpy
from halfeven.numerics.tally import Lying
from halfeven.stats.observation import Observation, stride_for
from halfeven.stats.observer import Observers

LIMIT = 16
SAMPLES = st.lists(
    hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32, allow_nan=False)), min_size=1, max_size=5
)


def observed(samples: list[np.ndarray]) -> Observation:
    seen = Observation()
    for x in samples:
        seen = seen.then(x, LIMIT)
    return seen


@given(SAMPLES, st.data())
def test_histograms_merge_exactly_in_any_order(samples: list[np.ndarray], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(samples)))
    whole, parts = observed(samples), observed(samples[:cut]).merge(observed(samples[cut:]))
    assert parts.histogram == whole.histogram
    shuffled = data.draw(st.permutations(samples))
    assert observed(shuffled).histogram == whole.histogram


@given(SAMPLES, st.data())
def test_filled_in_place_in_any_order_it_is_the_same(samples: list[np.ndarray], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(samples))))
    for switch, threads in ((nullcontext, 1), (nullcontext, 2), (use_numpy, 1)):
        with switch():
            observers = Observers(["x", "y"], LIMIT, threads)
            seen = {i: observers.take(observers.layout({"x": samples[i], "y": -samples[i]})) for i in order}
            for i in range(len(samples)):
                observers.move(seen[i])
            expected = {"x": observed(samples), "y": observed([-x for x in samples])}
            assert observers.observations() == expected


@pytest.mark.parametrize("switch", [nullcontext, use_numpy], ids=["compiled", "numpy"])
def test_a_sample_may_be_taken_in_tensor_by_tensor(switch: Callable[[], AbstractContextManager[None]]) -> None:
    values = {name: np.random.default_rng(i).standard_normal(50, np.float32) for i, name in enumerate("xyz")}
    with switch():
        whole, parts = Observers(["z", "x", "y"], LIMIT), Observers(["z", "x", "y"], LIMIT)
        expected, seen = whole.take(whole.layout(values)), parts.nothing()
        for some in (["y"], [], ["x", "z"]):
            assert parts.take(parts.layout({name: values[name] for name in some}), seen) is seen
        np.testing.assert_array_equal(seen, expected)
        for observers in (whole, parts):
            observers.move(expected)
        assert parts.observations() == whole.observations()


def test_a_layout_lasts_only_where_nothing_was_copied() -> None:
    observers, x = Observers(["x"], LIMIT), np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    layout = observers.layout({"x": x, "other": x.astype(np.float64)})
    assert layout.lasting
    before = observers.take(layout)
    x += 1
    np.testing.assert_array_equal(observers.take(layout)[0, :2], before[0, :2] + 1)
    for copied in (x.astype(np.float16), x.transpose(2, 0, 1), x[:, ::2]):
        assert not observers.layout({"x": copied}).lasting


@pytest.mark.parametrize("switch", [nullcontext, use_numpy], ids=["compiled", "numpy"])
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (3, 8), (49, 16), (300, 4), (5000, 8), (300, 1)]), st.booleans()
)
def test_a_tensor_in_blocks_is_seen_as_it_is_written_times_its_factors(
    switch: Callable[[], AbstractContextManager[None]], seed: int, cut: tuple[int, int], odd: bool
) -> None:
    rng, (plane, block) = np.random.default_rng(seed), cut
    written = rng.standard_normal((2, 2 * block, plane), np.float32)
    if odd:
        written.flat[rng.integers(written.size, size=3)] = np.nan, np.inf, 0
    factors = rng.uniform(0.5, 8, 2 * block).astype(np.float32)
    if odd:
        factors[rng.integers(2 * block)] = rng.choice([3e38, -2, 0, 1e-45, np.inf])
    lies = np.ascontiguousarray(written.reshape(4, block, plane).swapaxes(1, 2))
    with switch():
        here, there = Observers(["x", "y"], 500), Observers(["x", "y"], 500)
        with np.errstate(over="ignore", invalid="ignore"):
            same = here.take(here.layout({"x": written, "y": written * factors[:, None]}))
        lying = {"x": Lying(plane, block), "y": Lying(plane, block, factors)}
        seen = there.take(there.layout({"x": lies, "y": lies}, lying))
        np.testing.assert_array_equal(seen, same)
        here.move(same)
        there.move(seen)
        assert there.observations() == here.observations()


@given(SAMPLES)
def test_extrema_see_every_element_and_the_histogram_about_the_limit(samples: list[np.ndarray]) -> None:
    seen = observed(samples)
    whole = np.concatenate(samples)
    finite = whole[np.isfinite(whole)]
    if finite.size:
        assert (seen.histogram.extrema.low, seen.histogram.extrema.high) == (finite.min(), finite.max())
    assert seen.histogram.extrema.count == whole.size
    assert seen.histogram.sampled <= len(samples) * (LIMIT + 1)


def test_the_moving_average_is_dropped_when_two_streams_merge_and_kept_when_one_is_empty() -> None:
    one, two = observed([np.ones(3, np.float32)]), observed([np.zeros(3, np.float32)])
    assert one.merge(two).moving is None
    assert one.merge(Observation()).moving == Observation().merge(one).moving == one.moving
    assert one.merge(two).then(np.ones(2, np.float32), LIMIT).moving is None


def test_tensors_without_elements_change_nothing() -> None:
    assert Observation().then(np.zeros((0, 3), np.float32), LIMIT) == Observation()


@given(SAMPLES)
def test_json_gives_the_same_back(samples: list[np.ndarray]) -> None:
    for seen in (observed(samples), observed(samples).merge(observed(samples))):
        assert Observation.from_json(json.loads(json.dumps(seen.to_json(), allow_nan=False))) == seen


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_the_stride_is_coprime_to_small_primes_and_leaves_about_the_limit(size: int, limit: int) -> None:
    stride = stride_for(size, limit)
    assert stride == 1 or gcd(stride, 2 * 3 * 5 * 7) == 1
    assert -(-size // stride) <= limit or stride == 1
    assert stride * limit < size + 11 * limit  # the next such number is at most 10 away


@pytest.mark.parametrize(("size", "limit", "stride"), [(10, 10, 1), (11, 10, 11), (120, 10, 13), (0, 10, 1)])
def test_strides_are_these(size: int, limit: int, stride: int) -> None:
    assert stride_for(size, limit) == stride
