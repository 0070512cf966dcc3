"""Promised: a sample that the model cannot use is named with its fault, and data that look wrong are said to."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.data.check import DataCheck, check_sample, checked, swap_colors
from halfeven.data.preprocess import PRESETS
from halfeven.data.source import InputSpec, open_source
from halfeven.errors import BadCalibration

IMAGE = InputSpec("x", np.dtype("float32"), ("N", 3, 4, 5))


def image(fill: float = 0.0, seed: int | None = None) -> Any:
    if seed is None:
        return np.full((1, 3, 4, 5), fill, np.float32)
    return np.random.default_rng(seed).normal(size=(1, 3, 4, 5)).astype(np.float32)


def with_value(value: float) -> Any:
    x = image()
    x[0, 2, 1, 3] = value
    return x


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (image()[0], r"cat\.jpg: input 'x' float32 \[N, 3, 4, 5\] got shape \[3, 4, 5\]\. Expected 4 axes, found 3"),
        (np.zeros((1, 4, 5, 3), np.float32), r"got shape \[1, 4, 5, 3\]\. The channels are last; transpose"),
        (np.zeros((1, 3, 4, 6), np.float32), r"Expected length 5 on axis 3, found 6"),
        (image().astype(np.float64), r"got float64\. Convert it: x\.astype\('float32'\)"),
        (with_value(np.nan), r"holds 1 values that are not finite, the first being nan at \[0, 2, 1, 3\]"),
        (with_value(-np.inf), r"the first being -inf at \[0, 2, 1, 3\]"),
    ],
)
def test_each_fault_is_named(array: Any, message: str) -> None:
    with pytest.raises(BadCalibration, match=message):
        check_sample("cat.jpg", {"x": array}, [IMAGE])


def test_channels_first_for_a_channels_last_model_are_seen() -> None:
    last = InputSpec("x", np.dtype("float32"), (1, 4, 5, 3))
    with pytest.raises(BadCalibration, match="The channels are first; transpose"):
        check_sample("a", {"x": image()}, [last])


def test_a_missing_input_is_named() -> None:
    with pytest.raises(BadCalibration, match=r"a: input 'x' float32 \[N, 3, 4, 5\] is missing; the sample has y"):
        check_sample("a", {"y": image()}, [IMAGE])


def test_open_lengths_and_unknown_ranks_take_anything() -> None:
    check_sample("a", {"x": np.zeros((7, 3, 4, 5), np.float32)}, [IMAGE])
    check_sample("a", {"x": np.zeros(2, np.float32)}, [InputSpec("x", np.dtype("float32"), None)])
    check_sample("a", {"x": np.zeros((9, 0), np.float32)}, [InputSpec("x", np.dtype("float32"), (-1, 0))])


def items(bad: int, count: int) -> list[Any]:
    return [with_value(np.nan) if index < bad else image(seed=index) for index in range(count)]


@pytest.mark.parametrize("wrap", [list, iter])
def test_a_tenth_of_bad_samples_is_skipped_and_named(wrap: Callable[[Any], Any]) -> None:
    good, findings = checked(open_source(wrap(items(2, 20)), [IMAGE]), [IMAGE])
    assert [label for label, _ in good] == [f"data[{index}]" for index in range(2, 20)]
    assert (findings.seen, findings.bad) == (20, 2)
    assert [
        said.startswith(f"skipped data[{index}]: input 'x'") for index, said in enumerate(findings.sentences())
    ] == [
        True,
        True,
    ]


def test_more_than_a_tenth_is_an_error_as_soon_as_it_is_certain() -> None:
    good, findings = checked(open_source(items(20, 20), [IMAGE]), [IMAGE])
    with pytest.raises(
        BadCalibration, match=r"3 of 20 samples cannot be used, more than a tenth.*data\[0\]: input 'x'"
    ):
        list(good)
    assert findings.seen == 3


@pytest.mark.parametrize("wrap", [list, iter])
@pytest.mark.parametrize("count", [2, 3, 5, 9, 10, 19])
def test_one_bad_sample_of_few_is_skipped_and_named(wrap: Callable[[Any], Any], count: int) -> None:
    good, findings = checked(open_source(wrap(items(1, count)), [IMAGE]), [IMAGE])
    assert [label for label, _ in good] == [f"data[{index}]" for index in range(1, count)]
    (said,) = findings.sentences()
    assert said.startswith("skipped data[0]: input 'x'")


@pytest.mark.parametrize("wrap", [list, iter])
@pytest.mark.parametrize(("bad", "count"), [(1, 1), (2, 2), (2, 3), (2, 4), (2, 19), (3, 29)])
def test_two_of_few_and_the_only_one_are_too_many(wrap: Callable[[Any], Any], bad: int, count: int) -> None:
    good, _ = checked(open_source(wrap(items(bad, count)), [IMAGE]), [IMAGE])
    with pytest.raises(BadCalibration, match=rf"{bad} of {count} samples cannot be used, more than a tenth"):
        list(good)


def test_the_first_bad_sample_ends_a_strict_run() -> None:
    good, _ = checked(open_source(items(1, 20), [IMAGE]), [IMAGE], on_bad="error")
    with pytest.raises(BadCalibration, match=r"data\[0\]: input 'x'.*not finite"):
        list(good)


def test_no_samples_is_an_error() -> None:
    class Nothing:
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(BadCalibration, match="the data hold no sample"):
        list(checked(open_source(Nothing(), [IMAGE]), [IMAGE])[0])


def test_only_twenty_bad_samples_are_remembered() -> None:
    good, findings = checked(open_source(items(30, 300), [IMAGE]), [IMAGE])
    assert len(list(good)) == 270
    assert len(findings.sentences()) == 21
    assert findings.sentences()[-1] == "skipped 10 more of 300 samples."


def test_empty_arrays_pass_and_are_counted() -> None:
    ragged = InputSpec("x", np.dtype("float32"), ("N", "T"))
    data = [np.zeros((1, index % 2), np.float32) for index in range(4)]
    good, findings = checked(open_source(data, [ragged]), [ragged])
    check = DataCheck([ragged])
    for _, sample in good:
        check.add(sample)
    assert findings.sentences() == ["2 of 4 samples have an input without elements."]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_ranges_by_channel_are_those_of_all_samples_at_once(widths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = InputSpec("x", np.dtype("float32"), ("N", 3, 2, "W"))
    samples = [rng.normal(100, 2, (1, 3, 2, width)).astype(np.float32) for width in widths]
    check = DataCheck([spec])
    for sample in samples:
        check.add({"x": sample})
    whole = np.concatenate(samples, axis=3)
    seen = check.range("x")
    assert seen is not None
    assert seen.channel_axis == 1
    assert np.array_equal(seen.low, whole.min((0, 2, 3)))
    assert np.array_equal(seen.high, whole.max((0, 2, 3)))


def test_channels_last_are_found_and_changing_channel_counts_become_one() -> None:
    last = InputSpec("x", np.dtype("float32"), ("N", None, None, 3))
    check = DataCheck([last])
    check.add({"x": np.broadcast_to(np.float32([1, 2, 3]), (1, 6, 7, 3))})
    seen = check.range("x")
    assert seen is not None
    assert seen.low.tolist() == seen.high.tolist() == [1, 2, 3]
    unknown = InputSpec("x", np.dtype("float32"), None)
    check = DataCheck([unknown])
    check.add({"x": np.full((1, 2, 5), 1, np.float32)})
    check.add({"x": np.full((1, 4, 5), 4, np.float32)})
    seen = check.range("x")
    assert seen is not None
    assert (seen.low.tolist(), seen.high.tolist()) == ([1], [4])


def said(samples: list[Any], preprocess: Any = None) -> list[str]:
    check = DataCheck([IMAGE])
    for sample in samples:
        check.add({"x": sample})
    return check.findings(preprocess)


def test_codes_without_a_preprocess_raise_a_question() -> None:
    codes = [image(seed=0) * 0 + value for value in (0, 255)]
    (sentence,) = said(codes)
    assert "input 'x': values reach 255 but ImageNet-trained networks expect about -2.1..2.6" in sentence
    assert "--preprocess imagenet?" in sentence
    assert said(codes, PRESETS["raw"]) == []


def test_zero_to_one_without_a_preprocess_is_mentioned() -> None:
    assert "values lie in 0..1, which suits" in said([image(0), image(1)])[0]


def test_normal_data_raise_no_question() -> None:
    assert said([image(seed=0), image(seed=1)]) == []


def test_constant_channels_inputs_and_identical_samples_are_said() -> None:
    samples = [image(seed=index) for index in range(64)]
    for sample in samples:
        sample[0, 2] = 0
    assert said(samples) == ["input 'x': channel 2 is constant 0.0 in all 64 samples."]
    assert said([image(seed=1)] * 3) == ["all 3 samples are identical."]
    assert said([image(0)]) == ["input 'x' is constant 0 in all 1 samples."]
    assert said([image(seed=1)]) == []


def test_constant_masks_are_no_finding() -> None:
    check = DataCheck([InputSpec("mask", np.dtype("int64"), ("N", "T"))])
    check.add({"mask": np.ones((1, 3), np.int64)})
    check.add({"mask": np.ones((1, 4), np.int64)})
    assert check.findings() == []


def test_swapping_colours_twice_gives_the_sample_back() -> None:
    first, last, other = image(seed=0), image(seed=1).transpose(0, 2, 3, 1), np.zeros((1, 4))
    sample = {"a": first, "b": last, "c": other}
    swapped = swap_colors(sample)
    assert np.array_equal(swapped["a"], first[:, ::-1])
    assert np.array_equal(swapped["b"], last[..., ::-1])
    assert swapped["c"] is other
    again = swap_colors(swapped)
    assert all(np.array_equal(again[name], sample[name]) for name in sample)
