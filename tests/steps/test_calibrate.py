"""Calibration: every group gets parameters, by the method asked for, and what is pinned stays."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, pipeline
from halfeven.errors import BadCalibration, BadOption
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Plan, Site
from halfeven.numerics.quantize import dequantize, params_for, params_of
from halfeven.numerics.scheme import QParams
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.stats.estimate import METHODS, estimate
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.observe import Observe, watched
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]
INTEGER, OPENVINO, TENSORRT = (TARGETS[name] for name in ("integer", "openvino", "tensorrt"))

NET = (
    "g (float[1,3,8,8] x) => (float[1,4,6,6] y) <float[6,3,3,3] a, float[6] ab, float[4,6,1,1] z> {"
    " [a] h = Conv(x, a, ab)  [r] r = Relu(h)  [z] y = Conv(r, z) }"
)


def _calibrated(draft: Draft, data: list, **options: object) -> Draft:
    return pipeline(Observe(), Calibrate(**options))(draft, data)  # type: ignore[arg-type]


def _group(plan: Plan, value: str) -> int:
    return next(g for site, g in plan.sites.items() if site.value == value)


def _params(draft: Draft, value: str) -> QParams:
    params = draft.plan.groups[_group(draft.plan, value)].params
    assert params is not None
    return params


def _range(params: QParams) -> tuple[float, float]:
    grid, scale, zero = params.scheme.grid, float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
    return (grid.low - zero) * scale, (grid.high - zero) * scale


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [INTEGER, OPENVINO, TENSORRT], ids=lambda t: t.name)
def test_every_group_but_biases_gets_parameters(
    build: Build, samples: Samples, placed: Placed, method: str, target: object
) -> None:
    model = build(NET)
    data = samples(model)
    draft = _calibrated(placed(model, target, data), data, method=method)
    for quantizer in draft.plan.groups.values():
        assert (quantizer.params is None) == (quantizer.role == "bias")
        assert quantizer.method == {"activation": method, "weight": "minmax", "bias": ""}[quantizer.role]


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"moving-average"}))
def test_parameters_do_not_depend_on_the_order_of_samples(
    build: Build, samples: Samples, placed: Placed, method: str
) -> None:
    model = build(NET)
    data = samples(model, 9)
    draft = placed(model, OPENVINO, data)
    forth, back = (_calibrated(draft, d, method=method).plan for d in (data, data[::-1]))
    assert forth.to_json() == back.to_json()


@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_what_the_estimator_says_of_what_was_seen(
    build: Build, samples: Samples, placed: Placed, method: str
) -> None:
    model = build(NET)
    data = samples(model)
    seen = pipeline(Observe())(placed(model, INTEGER, data), data)
    draft = pipeline(Calibrate(method=method))(seen, data)
    for name, group in watched(seen).items():
        scheme = draft.plan.groups[group].scheme
        evidence = seen.stats[name].moving if method == "moving-average" else seen.stats[name].histogram
        assert evidence is not None
        expected = params_for(*estimate(method, evidence, scheme), scheme)
        assert _params(draft, name).to_json() == expected.to_json()


def test_minmax_covers_all_that_was_seen(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data, method="minmax")
    run = OrtExecutor(draft.model, ("r",))
    values = [{**feeds, **run(feeds)} for _, feeds in data]
    for name in ("x", "r", "y"):
        low, high = _range(_params(draft, name))
        slack = float(_params(draft, name).scale.ravel()[0])
        everything = np.stack([v[name] for v in values])
        assert low - slack <= min(0, everything.min()) <= low + slack
        assert high - slack <= max(0, everything.max()) <= high + slack


def test_a_lower_percentile_gives_a_narrower_range(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model)
    draft = placed(model, INTEGER, data)
    wide, narrow = (_params(_calibrated(draft, data, method="percentile", percentile=p), "r") for p in (100.0, 90.0))
    assert narrow.scale < wide.scale


def test_weights_take_their_own_extremes_by_channel(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    weight = model.graph.initializers["a"].const_value.numpy()
    params = _params(draft, "a")
    np.testing.assert_array_equal(
        params.scale.ravel(), (np.abs(weight).reshape(6, -1).max(1) / 127.0).astype(np.float32)
    )
    assert params.scale.shape == (6, 1, 1, 1)
    assert params.to_json() == params_of(weight, params.scheme).to_json()


def test_a_group_covers_all_of_its_members(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (float[1,4,4,4] x) => (float[1,4,4,4] y) <float[4,4,1,1] a, float[4,4,1,1] b, float[4,8,1,1] z> {"
        " h = Conv(x, a)  k = Conv(x, b)  c = Concat <axis = 1> (h, k)  y = Conv(c, z) }",
        a=np.full((4, 4, 1, 1), 5), b=np.full((4, 4, 1, 1), 0.1),
    )  # fmt: skip
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data, method="minmax")
    seen = draft.stats["h"].histogram.extrema
    low, high = _range(_params(draft, "c"))
    assert low <= seen.low * 0.99
    assert high >= seen.high * 0.99


SHARED = (
    "g (float[1,4,4,4] x) => (float[1,4,4,4] y) <float[4,4,1,1] a, float[4,4,1,1] b, float[4,8,1,1] z> {"
    " h = Conv(x, a)  k = Conv(x, b)  c = Concat <axis = 1> (h, k)  y = Conv(c, z) }"
)


@pytest.mark.parametrize("options", [{"method": "moving-average"}, {"tensors": ("k=moving-average",)}])
def test_a_moving_average_of_tensors_that_share_a_scale_is_minmax_and_said(
    build: Build, samples: Samples, placed: Placed, options: dict[str, object]
) -> None:
    model = build(SHARED)
    data = samples(model)
    draft = placed(model, INTEGER, data)
    found = _calibrated(draft, data, **options)
    (note,) = [n for n in found.notes if "moving-average" in n]
    assert note.startswith("minmax instead of moving-average for 1 scale, the first being that of 'h': ")
    assert found.plan.groups[_group(found.plan, "c")].method == "minmax"
    expected = _calibrated(draft, data, tensors=("[hk]=minmax",))
    assert _params(found, "c").to_json() == _params(expected, "c").to_json()


def test_a_moving_average_of_one_tensor_is_no_matter_of_a_note(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(SHARED)
    data = samples(model)
    found = _calibrated(placed(model, INTEGER, data), data, tensors=("x=moving-average",))
    assert found.plan.groups[_group(found.plan, "x")].method == "moving-average"
    assert not any("moving-average" in note for note in found.notes)


CLIPPED = (
    "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,1,1] a, float[4,3,1,1] b, float[4,8,1,1] z,"
    " float zero = {0}, float one = {1}, float six = {6}> { h = Conv(x, a)  r = Clip(h, zero, one)  k = Conv(x, b)"
)


@pytest.mark.parametrize(
    ("text", "top"),
    [
        ("c = Concat <axis = 1> (r, k)  y = Conv(c, z) }", None),
        ("s = Clip(k, zero, six)  c = Concat <axis = 1> (r, s)  y = Conv(c, z) }", 6),
        ("s = Clip(k, zero, one)  c = Concat <axis = 1> (r, s)  y = Conv(c, z) }", 1),
    ],
)
def test_what_is_clipped_does_not_clip_what_it_shares_a_scale_with(
    build: Build, samples: Samples, placed: Placed, text: str, top: float | None
) -> None:
    """One scale for a tensor that ends at 1 and one that does not: the range is that of both."""
    model = build(f"{CLIPPED}  {text}", a=np.full((4, 3, 1, 1), 3), b=np.full((4, 3, 1, 1), 9))
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data, method="minmax")
    reached = max(one.histogram.extrema.high for name, one in draft.stats.items() if name in ("r", "k", "s"))
    step = float(_params(draft, "c").scale.ravel()[0])
    assert _range(_params(draft, "c"))[1] == pytest.approx(reached if top is None else top, abs=step)
    reference, found = (OrtExecutor(m)(data[0][1])["y"] for m in (model, to_qdq(draft)))
    assert sqnr_db(reference, found) > 25


CONSTANTS = {
    "a class token": "g (float[1,4,8] x) => (float[1,5,6] y) <float[8,8] a, float[8,6] z, float[1,1,8] far> {"
    " h = MatMul(x, a)  c = Concat <axis = 1> (h, far)  y = MatMul(c, z) }",
    "a frame": "g (float[1,4,4,4] x) => (float[1,4,4,4] y) <float[4,4,1,1] a, float[4,4,3,3] z,"
    " int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float far> { h = Conv(x, a)  p = Pad(h, pads, far)  y = Conv(p, z) }",
}


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize("far", [50, -50])
def test_a_constant_among_moved_codes_is_not_cut_off(
    build: Build, samples: Samples, placed: Placed, name: str, far: float
) -> None:
    """It is no activation, but its values must be within the range of what it becomes part of."""
    shape = (1, 1, 8) if name == "a class token" else ()
    model = build(CONSTANTS[name], far=np.full(shape, far))
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data, method="minmax")
    reference, found = (OrtExecutor(m)(data[0][1])["y"] for m in (model, to_qdq(draft)))
    assert sqnr_db(reference, found) > 25


def test_no_code_lies_above_a_clip_that_saturation_replaces(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,1,1] a, float[4,4,1,1] z, float zero = {0}, float one"
        " = {1}>"
        " { h = Conv(x, a)  r = Clip(h, zero, one)  y = Conv(r, z) }",
        a=np.full((4, 3, 1, 1), 3),
    )
    data = samples(model)
    for method in METHODS:
        high = _range(_params(_calibrated(placed(model, INTEGER, data), data, method=method), "r"))[1]
        assert high <= 1 + 1e-5, method


# --------------------------------------------------------------------------------------------- what the user sets


def test_pinned_parameters_are_left_alone(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET, ab=np.full(6, 1e4))
    data = samples(model)
    draft = placed(model, INTEGER, data)
    pins = {"x": params_for(-1.0, 1.0, draft.plan.groups[_group(draft.plan, "x")].scheme)}
    scheme = draft.plan.groups[_group(draft.plan, "a")].scheme
    pins["a"] = QParams(scheme, np.full((6, 1, 1, 1), 1e-6, np.float32), np.zeros((6, 1, 1, 1), np.int32))
    for value, params in pins.items():
        group = _group(draft.plan, value)
        draft = replace(draft, plan=draft.plan.with_group(group, replace(draft.plan.groups[group], params=params)))
    after = _calibrated(draft, data)
    for value, params in pins.items():
        assert _params(after, value).to_json() == params.to_json()
        assert after.plan.groups[_group(after.plan, value)].method == ""
    assert "x" not in after.stats


def test_to_calibrate_again_changes_nothing(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    data = samples(model)
    once = _calibrated(placed(model, INTEGER, data), data, method="minmax")
    assert pipeline(Calibrate(method="mse"))(once, data).plan.to_json() == once.plan.to_json()


def test_some_tensors_have_a_method_of_their_own_and_the_first_pattern_counts(
    build: Build, samples: Samples, placed: Placed
) -> None:
    model = build(NET)
    data = samples(model)
    tensors = ("[xr]=percentile", "r=mse", "y=minmax")
    plan = _calibrated(placed(model, INTEGER, data), data, method="entropy", tensors=tensors).plan
    assert {v: plan.groups[_group(plan, v)].method for v in "xry"} == {
        "x": "percentile",
        "r": "percentile",
        "y": "minmax",
    }


def test_a_pattern_may_hold_an_equals_sign(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    renamed = next(v for node in model.graph for v in node.outputs if v.name == "r")
    renamed.name = "layer=1"
    data = samples(model)
    plan = _calibrated(placed(model, INTEGER, data), data, tensors=("layer=1=minmax",)).plan
    assert plan.groups[_group(plan, "layer=1")].method == "minmax"


def test_a_tensors_name_written_out_matches_itself(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    next(v for node in model.graph for v in node.outputs if v.name == "r").name = "blocks[0].relu"
    data = samples(model)
    plan = _calibrated(placed(model, INTEGER, data), data, tensors=("blocks[0].relu=minmax",)).plan
    assert plan.groups[_group(plan, "blocks[0].relu")].method == "minmax"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "minmix"}, "Did you mean 'minmax'"),
        ({"tensors": ("r",)}, r"--tensors 'r': expected PATTERN=METHOD"),
        ({"tensors": ("r=best",)}, "no calibration method 'best'"),
        ({"tensors": ("q*=mse",)}, r"--tensors 'q\*=...' fits no quantized tensor"),
        ({"tensors": ("a=mse",)}, "fits no quantized tensor"),
        ({"method": "percentile", "percentile": 101.0}, "percentile=101.0"),
    ],
)
def test_a_wrong_option_is_refused(
    build: Build, samples: Samples, placed: Placed, options: dict[str, object], match: str
) -> None:
    model = build(NET)
    data = samples(model, 2)
    with pytest.raises(BadOption, match=match):
        _calibrated(placed(model, INTEGER, data), data, **options)


def test_a_tensor_that_was_not_observed_is_named(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NET)
    draft = placed(model, INTEGER, samples(model, 1))
    with pytest.raises(BadCalibration, match=r"Tensor '[rxy]' is not in the statistics"):
        pipeline(Calibrate())(draft, [])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(build: Build, samples: Samples, placed: Placed, value: float) -> None:
    model = build(NET)
    data = samples(model, 2)
    draft = pipeline(Observe())(placed(model, INTEGER, data), data)
    weight = draft.model.graph.initializers["z"]
    array = weight.const_value.numpy().copy()
    array[1, 2] = value
    weight.const_value = ir.tensor(array, name="z")
    with pytest.raises(BadCalibration, match="Weight 'z' holds NaN or infinity"):
        pipeline(Calibrate())(draft, data)


def test_a_tensor_without_elements_gets_scale_one(build: Build, placed: Placed) -> None:
    model = build("g (float[n,4] x) => (float[n,4] y) <float[4,4] w> { y = MatMul(x, w) }")
    data = [("empty", {"x": np.zeros((0, 4), np.float32)})]
    draft = _calibrated(placed(model, INTEGER, data), data)
    assert _params(draft, "x").scale == 1
    assert draft.plan.groups[_group(draft.plan, "x")].method == "empty"


# --------------------------------------------------------------------------------------------- biases


LAYERS = {
    "conv": ("g (float[1,3,4,4] x) => (float[1,4,4,4] y) <float[4,3,1,1] w, float[4] b> { [a] y = Conv(x, w, b) }", 0),
    "transposed conv": ("g (float[1,3,4,4] x) => (float[1,4,4,4] y) <float[3,4,1,1] w, float[4] b> { [a] y ="
        " ConvTranspose(x, w, b) }", 1),
    "gemm": ("g (float[2,3] x) => (float[2,4] y) <float[3,4] w, float[4] b> { [a] y = Gemm(x, w, b) }", 1),
    "gemm transposed": ("g (float[2,3] x) => (float[2,4] y) <float[4,3] w, float[4] b> { [a] y = Gemm <transB = 1>"
        " (x, w, b) }", 0),
}  # fmt: skip


def test_a_bias_has_a_normal_float32_scale(build: Build, samples: Samples, placed: Placed) -> None:
    weight = np.random.default_rng(0).uniform(1, 2, (4, 3, 1, 1))
    weight[2] *= 3e-36  # with a scale that is normal, but not times that of the input
    model = build(LAYERS["conv"][0], w=weight, b=np.zeros(4))
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data, method="minmax")
    scales = np.ravel(_params(draft, "x").scale * _params(draft, "w").scale)
    assert (scales >= np.finfo(np.float32).tiny).all()
    assert scales[2] < 2 * np.finfo(np.float32).tiny


@pytest.mark.parametrize("name", LAYERS)
def test_a_bias_too_large_for_int32_widens_the_weights_of_its_channel_alone(
    build: Build, samples: Samples, placed: Placed, name: str
) -> None:
    text, axis = LAYERS[name]
    shape = build(text).graph.initializers["w"].const_value.shape.numpy()
    channel = [slice(None)] * len(shape)
    channel[axis] = 2
    weight = np.random.default_rng(0).normal(size=shape)
    weight[tuple(channel)] *= 1e-8
    model = build(text, w=weight, b=np.array([1, -2, 30, 0]))
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data, method="minmax")
    assert "'a': the weight scale of 1 channel was raised for the bias" in draft.notes
    before, now = params_of(weight.astype(np.float32), _params(draft, "w").scheme), _params(draft, "w")
    raised = now.scale > before.scale
    assert raised.sum() == 1
    assert raised.ravel()[2]
    sx = float(_params(draft, "x").scale.ravel()[0])
    assert 30 / (sx * float(now.scale.ravel()[2])) <= 2**30 * 1.001
    reference, found = (OrtExecutor(m)(data[0][1])["y"] for m in (model, to_qdq(draft)))
    axes = tuple(i for i in range(reference.ndim) if i != 1)
    assert np.abs(found - reference).max(axes)[2] <= float(_params(draft, "y").scale.ravel()[0])


def test_a_bias_of_one_for_all_channels_is_quantized(build: Build, samples: Samples, placed: Placed) -> None:
    model = build("g (float[2,3] x) => (float[2,4] y) <float[3,4] w, float[1] b = {0.5}> { [a] y = Gemm(x, w, b) }")
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data, method="minmax")
    reference, found = (OrtExecutor(m)(data[0][1])["y"] for m in (model, to_qdq(draft)))
    assert sqnr_db(reference, found) > 25


def test_a_bias_in_place_widens_nothing(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(LAYERS["conv"][0], b=np.array([1, -2, 3, 0]))
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    assert not any("raised" in note for note in draft.notes)


def test_a_constant_operand_keeps_its_values(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4,4] v, float k = {0.7}, float[4] m = {-1, 2, 0, 3}> {"
        " h = MatMul(x, w)  a = Add(h, k)  [s] b = Sub(m, a)  y = MatMul(b, v) }"
    )
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    for name, exact in (("k", [0.7]), ("m", [-1, 2, 0, 3])):
        params = _params(draft, name)
        low, high = _range(params)
        assert low <= min(*exact, 0) + 0.01
        assert high >= max(*exact, 0) - 0.01
    assert Site("m", "s", 0) in draft.plan.sites
    assert dequantize(np.array([255 - 128], np.int8), _params(draft, "k")) == pytest.approx(0.7)
