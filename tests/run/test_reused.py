"""Promised: outputs that are written into the same arrays again are those of an ordinary run, bit for bit, whatever the
shapes do from sample to sample and in the graph, and what cannot be run has the same error.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.errors import BadCalibration
from halfeven.run.ort import OrtExecutor
from halfeven.run.reused import ReusedOutputs

Build = Callable[..., ir.Model]
NET = "g (float[n,3,h,w] x) => (float[n,4,h,w] y) <float[4,3,1,1] a> { c = Conv(x, a)  y = Relu(c) }"
FOUND = "g (float[n] x) => (int64[1,m] y) { y = NonZero(x) }"


def _x(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_samples_of_changing_shapes_have_the_bits_of_ordinary_runs(build: Build) -> None:
    run = OrtExecutor(build(NET), ("c",), 1)
    reused = ReusedOutputs(run)
    shapes = [*[(1, 3, 5, 6)] * 3, *[(1, 3, 7, 2)] * 2, *[(2, 3, 5, 6), (1, 3, 5, 6)] * 2]
    for seed, shape in enumerate(shapes):
        feeds = {"x": _x(*shape, seed=seed)}
        expected, found = run(feeds), reused(feeds).values
        assert found.keys() == expected.keys() == {"c", "y"}
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


def test_the_arrays_are_the_same_from_sample_to_sample_and_others_in_each_thread(build: Build) -> None:
    reused = ReusedOutputs(OrtExecutor(build(NET), ("c",), 1))
    first = reused({"x": _x(1, 3, 5, 6)}).values["c"]
    before = first.copy()
    again = reused({"x": _x(1, 3, 5, 6, seed=1)}).values["c"]
    assert np.shares_memory(first, again)
    assert not np.array_equal(again, before)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(reused, {"x": _x(1, 3, 5, 6)}).result().values["c"]
    assert not np.shares_memory(other, again)
    np.testing.assert_array_equal(other, before)


def test_shapes_that_depend_on_the_data_are_run_anew(build: Build) -> None:
    run = OrtExecutor(build(FOUND), (), 1)
    reused = ReusedOutputs(run)
    for row in ([1, 0, 2], [0, 3, 0], [1, 1, 0], [0, 0, 0], [4, 5, 6]):
        feeds = {"x": np.float32(row)}
        np.testing.assert_array_equal(reused(feeds).values["y"], run(feeds)["y"])


def test_once_arrays_were_refused_no_sample_is_run_twice(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    reused = ReusedOutputs(OrtExecutor(build(FOUND), (), 1))
    tried: list[bool] = []
    again = ReusedOutputs._again
    monkeypatch.setattr(ReusedOutputs, "_again", lambda self, feeds: tried.append(again(self, feeds)) or tried[-1])
    for row in ([1, 0, 2], [0, 3, 0], [1, 1, 0], [0, 5, 0], [4, 5, 6]):
        reused({"x": np.float32(row)})
    assert tried == [False]


def test_outputs_that_are_no_arrays_of_numbers_come_as_in_an_ordinary_run(build: Build) -> None:
    run = OrtExecutor(
        build("g (float[n] x) => (seq(float[m]) y, float[n] z) { y = SequenceConstruct(x, x)  z = Abs(x) }"), (), 1
    )
    reused = ReusedOutputs(run)
    for seed in range(3):
        feeds = {"x": _x(4, seed=seed)}
        expected, found = run(feeds), reused(feeds).values
        np.testing.assert_array_equal(found["y"], expected["y"])
        np.testing.assert_array_equal(found["z"], expected["z"])


def test_inputs_that_do_not_lie_in_order_are_taken_as_they_are_seen(build: Build) -> None:
    run = OrtExecutor(build(NET), (), 1)
    reused = ReusedOutputs(run)
    for seed in range(3):
        feeds = {"x": _x(1, 5, 6, 3, seed=seed).transpose(0, 3, 1, 2)}
        np.testing.assert_array_equal(reused(feeds).values["y"], run(feeds)["y"])


def test_what_cannot_be_run_has_the_error_of_an_ordinary_run_and_the_next_sample_runs(build: Build) -> None:
    run = OrtExecutor(build(NET), (), 1)
    reused = ReusedOutputs(run)
    good = {"x": _x(1, 3, 4, 4)}
    expected = run(good)["y"]
    for bad in ({"x": _x(1, 2, 4, 4)}, {"x": _x(1, 3, 4, 4).astype(np.float64)}):
        np.testing.assert_array_equal(reused(good).values["y"], expected)
        with pytest.raises(BadCalibration) as told:
            run(bad, "sample 7")
        with pytest.raises(BadCalibration) as found:
            reused(bad, "sample 7")
        assert str(found.value) == str(told.value)
    np.testing.assert_array_equal(reused(good).values["y"], expected)
