"""Promised: data are divided by their count alone, whatever they come as; each sample is judged once, however often it
passes; what was noticed is said once.
"""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from halfeven.errors import BadCalibration, UnsupportedModel
from halfeven.feeding import Feed, open_data
from halfeven.run.specs import class_count

MODEL = ir.from_proto(
    onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\nnet (float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu(x) }'
    )
)


CLASSIFIER = ir.from_proto(
    onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>\nnet (float[N,3,4,4] x) => (float[N,48] y) { y = Flatten(x) }'
    )
)


class Loader:
    """Batches of three."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.x[i : i + 3] for i in range(0, len(self.x), 3))


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 4, 4)).astype(np.float32)


def first_values(feed: Feed) -> tuple[list[float], list[float]]:
    """The first value of each sample, of both parts."""
    parts = (feed.calibration, feed.held_out)
    kept, held = ([float(feeds["x"].flat[0]) for _, feeds in part] for part in parts)
    return kept, held


@pytest.mark.parametrize(("count", "held"), [(5, 1), (9, 1), (40, 8), (160, 32), (161, 26), (500, 31), (640, 32)])
def test_a_fifth_is_held_out_at_most_32_from_arrays_and_loaders_alike(count: int, held: int) -> None:
    x = pictures(count)
    found = [first_values(open_data(MODEL, data, {}, held_out=True)) for data in (x, Loader(x))]
    assert found[0] == found[1]
    assert len(found[0][1]) == held
    assert sorted(found[0][0] + found[0][1]) == sorted(x[:, 0, 0, 0].tolist())


@pytest.mark.parametrize("count", [1, 4])
def test_few_samples_do_both_and_it_is_said(count: int) -> None:
    feed = open_data(MODEL, Loader(pictures(count)), {}, held_out=True)
    kept, held = first_values(feed)
    assert kept == held
    assert len(kept) == count
    samples = "1 sample" if count == 1 else f"{count} samples"
    assert f"the figures are of the {samples} that the scales were made from: too few to hold some out" in feed.said()


@pytest.mark.parametrize("wrap", [np.asarray, Loader])
@pytest.mark.parametrize("bad", range(6))
def test_one_bad_sample_of_six_is_left_out_wherever_it_stands(wrap: Callable[[np.ndarray], object], bad: int) -> None:
    x = pictures(6)
    whole = x[:, 0, 0, 0].tolist()
    x[bad, 0, 0, 0] = np.nan
    feed = open_data(MODEL, wrap(x), {}, held_out=True)
    kept, held = first_values(feed)
    good = [value for i, value in enumerate(whole) if i not in (4, bad)]
    assert kept == good
    assert held == (good if bad == 4 else [whole[4]])
    said = "the only sample held out cannot be used: the figures are of those the scales were made from"
    assert (said in feed.said()) is (bad == 4)
    assert sum(text.startswith("skipped ") for text in feed.said()) == 1


def test_two_bad_samples_that_were_held_out_are_an_error() -> None:
    x = pictures(10)
    x[[4, 9], 0, 0, 0] = np.nan
    with pytest.raises(BadCalibration, match="2 of 2 samples cannot be used"):
        list(open_data(MODEL, x, {}, held_out=True).held_out)


def test_given_holdout_all_data_calibrate() -> None:
    feed = open_data(MODEL, pictures(10), {"holdout": pictures(3)}, held_out=True)
    assert [len(part) for part in first_values(feed)] == [10, 3]


def test_holdout_without_data_judges_synthetic_scales_on_real_data() -> None:
    feed = open_data(MODEL, None, {"holdout": pictures(3)}, held_out=True)
    assert [len(part) for part in first_values(feed)] == [16, 3]
    assert feed.said() == ("no data were given: 16 synthetic samples stand in; real data give better scales",)


def test_each_sample_is_judged_once_however_often_it_passes() -> None:
    feed = open_data(MODEL, pictures(10), {}, held_out=False)
    next(iter(feed.calibration))
    for _ in range(2):
        list(islice(feed.calibration, 4))
    assert feed.calibration.passed == 4
    few = {label for _ in range(2) for label, _ in feed.some(4)}
    assert len(few) == 4
    assert feed.calibration.passed == 4 + len(few - {f"array[{i}]" for i in range(4)}) > 4
    list(feed.calibration)
    list(feed.calibration)
    assert feed.calibration.passed == feed.calibration.check.count == 10


def test_what_was_skipped_is_said_once_and_not_forgotten_by_a_short_pass() -> None:
    x = pictures(40)
    x[7, 0, 0, 0] = np.nan
    feed = open_data(MODEL, x, {}, held_out=False)
    list(feed.calibration)
    list(feed.some(2))
    (said,) = (text for text in feed.said() if "skipped" in text)
    assert said.startswith("skipped array[7]: ")
    assert feed.calibration.passed == 39


def test_suspicious_ranges_of_real_pictures_are_said_but_not_of_synthetic_ones() -> None:
    feed = open_data(MODEL, np.abs(pictures(6)) * 100, {}, held_out=False)
    list(feed.calibration)
    assert any("did you forget --preprocess imagenet?" in text for text in feed.said())
    noise = open_data(MODEL, None, {}, held_out=False, measured=True)
    list(noise.calibration)
    assert noise.said() == ()


def test_a_model_without_inputs_cannot_be_fed() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]>\nnone () => (float[1] y) { y = Constant<value_floats=[1.0]>() }'
    with pytest.raises(UnsupportedModel, match="no inputs"):
        open_data(ir.from_proto(onnx.parser.parse_model(text)), None, {}, held_out=True)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 48, 47, 1, 49, 0], "2 of 6 labels are no class of the model, which has 0..47: the first is 48."),
        ([1, 48, 47, 1, 1, 0], "1 of 6 labels is no class of the model, which has 0..47: the first is 48."),
        ([0, 47, 1, 1, 1, 1], None),
    ],
)
@pytest.mark.parametrize("held_out", [False, True])
def test_labels_that_the_model_has_no_class_for_are_said(labels: list[int], said: str | None, held_out: bool) -> None:
    given = {"labels": np.array(labels)}
    feed = (
        open_data(CLASSIFIER, None, given | {"holdout": pictures(6)}, held_out=True)
        if held_out
        else open_data(CLASSIFIER, pictures(6), given, held_out=False)
    )
    found = [text for text in feed.said() if "no class of the model" in text]
    assert found == ([f"{said} Is the first class counted as 0?"] if said else [])


def test_a_sample_with_one_right_class_of_several_has_a_label() -> None:
    labels = {f"[{i}]": [i, 100] for i in range(6)}
    feed = open_data(CLASSIFIER, pictures(6), {"labels": labels}, held_out=False)
    assert not any("no class of the model" in text for text in feed.said())


@pytest.mark.parametrize(
    ("outputs", "classes"),
    [
        ("float[N,48] y", 48),
        ("float[N,1,48] y", 48),
        ("float[N,K] y", None),
        ("float[N,T,48] y", 48),
        ("float[N,84,8400] y", 0),
        ("float[N,1] y", 0),
        ("float[N,3,4,4] y", 0),
        ("int64[N,48] y", 0),
    ],
)
def test_classes_are_what_the_first_output_scores_for_a_sample(outputs: str, classes: int | None) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 17]>\nnet (float[N,3,4,4] x) => ({outputs}) {{ y = Cast<to=1>(x) }}'
    assert class_count(ir.from_proto(onnx.parser.parse_model(text))) == classes
