"""Simplify and Trace: a model fit for quantization that computes the same, its shapes, and values no scale can hold."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, pipeline
from halfeven.errors import QuantError, UnsupportedModel
from halfeven.run.ort import OrtExecutor
from halfeven.steps import simplify
from halfeven.steps.simplify import Simplify
from halfeven.steps.trace import Trace
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
TARGET = TARGETS["integer"]

NORMED = (
    "g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w, float[4] s = {1, 2, 3, 4}, float[4] b = {0, 1, 0,"
    " 1},"
    " float[4] m = {0, 0, 1, 1}, float[4] v = {1, 2, 1, 2}> {"
    " h = Conv(x, w)  n = BatchNormalization(h, s, b, m, v)  y = Relu(n) }"
)


def test_a_simplified_model_computes_the_same_with_fewer_nodes(build: Build, samples: Samples) -> None:
    model = build(NORMED)
    data = samples(model)
    draft = Simplify()(Draft(model, TARGET), data, lambda *_: None)
    assert [node.op_type for node in draft.model.graph] == ["Conv", "Relu"]
    assert len(model.graph) == 3
    assert any("BatchNormalization" in note for note in draft.notes)
    before, after = (OrtExecutor(m)(data[0][1])["y"] for m in (model, draft.model))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("opset", "raised"), [(9, 17), (11, 17), (13, 13), (18, 18)])
def test_an_opset_without_channel_scales_is_raised(build: Build, samples: Samples, opset: int, raised: int) -> None:
    model = build(NORMED, opset=opset)
    draft = Simplify()(Draft(model, TARGET), samples(model), lambda *_: None)
    assert draft.model.opset_imports[""] == raised
    assert any(f"opset {opset} was raised to {raised}" in note for note in draft.notes) == (opset < 13)


def test_a_change_of_the_outputs_is_refused(build: Build, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wrong = build(NORMED), build(NORMED.replace("{1, 2, 3, 4}", "{1, 2, 3, 4.01}"))
    monkeypatch.setattr(simplify, "prepare", lambda _: (wrong, []))
    with pytest.raises(UnsupportedModel, match=r"changed output 'y' by .* more than 1e-05. This is a defect"):
        Simplify()(Draft(model, TARGET), samples(model), lambda *_: None)


LOST = (
    "g (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] z, int64[1,4,6,6] i) <float[4,4,1,1] w,"
    " float[4] s = {1, 2, 3, 4}, float[4] b = {99999, 99999, 99999, 99999}, float[4] m = {0, 0, 1, 1},"
    " float[4] v = {1, 2, 1, 2}> {"
    " h = Conv(x, w)  n = BatchNormalization(h, s, b, m, v)  back = Constant <value_float = -99999.0> ()"
    " y = Add(n, back)  z = Relu(x)  i = Cast <to = 7> (x) }"
)


def test_outputs_that_are_lost_in_rounding_are_held_to_what_neighbouring_floats_change(
    build: Build, samples: Samples
) -> None:
    model = build(LOST)
    draft = Simplify()(Draft(model, TARGET), samples(model), lambda *_: None)
    (note,) = (note for note in draft.notes if "lost in rounding" in note)
    assert "output 'y' is lost" in note
    assert "the nearest other floats as weights and inputs by" in note


@pytest.mark.parametrize(
    ("right", "wrong", "output"),
    [("z = Relu(x)", "z = Relu(n)", "z"), ("to = 7> (x)", "to = 7> (n)", "i"), ("-99999.0", "-99990.0", "y")],
)
def test_an_output_that_is_lost_excuses_no_other(
    build: Build, samples: Samples, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, output: str
) -> None:
    model = build(LOST)
    monkeypatch.setattr(simplify, "prepare", lambda _: (build(LOST.replace(right, wrong)), []))
    with pytest.raises(UnsupportedModel, match=rf"changed output '{output}' by .* This is a defect"):
        Simplify()(Draft(model, TARGET), samples(model), lambda *_: None)


def test_without_data_nothing_is_compared(build: Build) -> None:
    draft = Simplify()(Draft(build(NORMED), TARGET), (), lambda *_: None)
    assert [node.op_type for node in draft.model.graph] == ["Conv", "Relu"]


def test_a_trace_knows_the_shape_of_every_value(build: Build, samples: Samples) -> None:
    model = build("g (float[n,3] x) => (float[k,4] y) <float[3,4] w> { h = NonZero(x)  m = MatMul(x, w)  y = Relu(m) }")
    data = [("s", {"x": np.ones((5, 3), np.float32)})]
    draft = Trace()(Draft(model, TARGET), data, lambda *_: None)
    assert draft.shapes == {"x": (5, 3), "h": (2, 15), "m": (5, 4), "y": (5, 4)}
    assert draft.sizes == {}


def test_a_trace_finds_values_of_astronomic_size(build: Build) -> None:
    model = build("g (float[2] x, float[2] k) => (float[2] y) { a = Add(x, x)  b = Add(a, k)  y = Exp(b) }")
    feeds = {"x": np.ones(2, np.float32), "k": np.array([0, -np.inf], np.float32)}
    draft = Trace()(Draft(model, TARGET), [("s", feeds)], lambda *_: None)
    assert draft.sizes == {"k": np.inf, "b": np.inf}
    feeds["k"] = np.array([np.nan, 1e9], np.float32)
    assert set(Trace()(Draft(model, TARGET), [("s", feeds)], lambda *_: None).sizes) == {"k", "b", "y"}


def test_an_error_names_the_step_it_came_from(build: Build) -> None:
    model = build("g (float[2] x) => (float[2] y) { y = Exp(x) }")
    with pytest.raises(QuantError, match="cannot be run") as caught:
        pipeline(Simplify(), Trace())(Draft(model, TARGET), [("cat.jpg", {"x": np.ones(3, np.float32)})])
    assert caught.value.__notes__ == ["step 'simplify' of simplify -> trace"]
    assert "cat.jpg" in str(caught.value)


def test_a_note_is_told_once(build: Build) -> None:
    draft = Draft(build("g (float[2] x) => (float[2] y) { y = Exp(x) }"), TARGET).noting("a", "b", "a").noting("b", "c")
    assert draft.notes == ("a", "b", "c")
