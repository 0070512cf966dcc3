"""Promised: inputs, outputs and names stay as they are, and what cannot be written is refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Site
from halfeven.numerics.scheme import QParams
from halfeven.run.ort import OrtExecutor
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import Target

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]
Calibrated = Callable[..., Draft]
ByHand = Callable[..., ir.Model]
Sound = Callable[[Draft, ir.Model], None]
EAGER = {name: replace(t, costs=UNIFORM) for name, t in TARGETS.items() if "qdq" in t.formats}
"""The targets, with costs that make all layers worth it, so that small networks are quantized."""
INTEGER = TARGETS["integer"]
LAYERED = (
    "g (float[1,3,6,6] x) => (float[1,5,6,6] y) <float[4,3,1,1] a, float[4] ab, float[5,4,1,1] z, float[5] zb> {"
    " [a] h = Conv(x, a, ab)  [r] r = Relu(h)  [z] y = Conv(r, z, zb) }"
)


@pytest.mark.parametrize("target", EAGER.values(), ids=lambda t: t.name)
def test_the_interface_stays_whatever_is_quantized(
    build: Build,
    samples: Samples,
    placed: Placed,
    calibrated: Calibrated,
    as_by_hand: ByHand,
    sound: Sound,
    target: Target,
) -> None:
    """Outputs: a quantized tensor that is read on, an input, a constant, one made of floats, in this order."""
    model = build(
        "g (float[1,4] x, float[1,4] u) => (float[1,4] m, float[1,4] x, float[4,4] w, float[1,4] e, float[1,4] y)"
        " <float[4,4] w, float[4,4] v> { [a] h = MatMul(x, w)  [m] m = Add(h, u)  [b] k = MatMul(m, v)  [e] e = Erf(k)"
        " [c] y = MatMul(k, w) }"
    )
    data = samples(model)
    draft = calibrated(placed(model, target, data), data)
    quantized = as_by_hand(draft, data[:2])
    sound(draft, quantized)
    found = OrtExecutor(quantized)(data[0][1])
    np.testing.assert_array_equal(found["x"], data[0][1]["x"])
    np.testing.assert_array_equal(found["w"], model.graph.initializers["w"].const_value.numpy())


def test_names_that_the_exporter_would_give_are_taken_already(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, as_by_hand: ByHand, sound: Sound
) -> None:
    model = build(
        "g (float[1,4,2,2] x) => (float[1,4,2,2] y) <float[4,4,1,1] w, float[4,4,1,1] w_scale, float[4,4,1,1]"
        " w_quantized,"
        " float[4] x_zero_point, float[1,4,2,2] y_float> {"
        " [conv1] conv1 = Conv(x, w, x_zero_point)  [s] conv1_scale = Sigmoid(conv1)  [c] conv1_quantized ="
        " Conv(conv1_scale, w_scale)"
        " [w_dequantized_DequantizeLinear] w_dequantized = Add(conv1_quantized, y_float)"
        " [conv1_quantized_QuantizeLinear] conv1_dequantized = Conv(w_dequantized, w_quantized)  [l] y ="
        " Relu(conv1_dequantized) }"
    )
    data = samples(model)
    for target in EAGER.values():
        draft = calibrated(placed(model, target, data), data)
        sound(draft, as_by_hand(draft, data[:1]))


def test_a_draft_that_is_not_calibrated_is_refused(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(LAYERED)
    draft = placed(model, INTEGER, samples(model, 1))
    with pytest.raises(UnsupportedByTarget, match=r"x -> a\[0\] has no scale: run Calibrate before the export"):
        to_qdq(draft)


def test_a_bias_without_its_scales_is_refused(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated
) -> None:
    model = build(LAYERED)
    data = samples(model)
    draft = calibrated(placed(model, INTEGER, data), data)
    sites = {s: g for s, g in draft.plan.sites.items() if s != Site("x", "a", 0)}
    with pytest.raises(UnsupportedByTarget, match=r"Conv 'a'.*bias"):
        to_qdq(replace(draft, plan=replace(draft.plan, sites=sites)))


def test_the_draft_is_left_as_it_is(build: Build, samples: Samples, placed: Placed, calibrated: Calibrated) -> None:
    model = build(LAYERED)
    data = samples(model)
    draft = calibrated(placed(model, INTEGER, data), data)
    before = ir.to_proto(draft.model).SerializeToString(deterministic=True)
    to_qdq(draft)
    assert ir.to_proto(draft.model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("everyone", [False, True])
def test_two_readers_with_a_scale_each_read_through_their_own(
    build: Build,
    samples: Samples,
    placed: Placed,
    calibrated: Calibrated,
    as_by_hand: ByHand,
    sound: Sound,
    everyone: bool,
) -> None:
    """As an edited plan may ask; `everyone` leaves one of them the site of all readers."""
    model = build(
        "g (float[1,4] x) => (float[1,4] y, float[1,4] z) <float[4,4] w, float[4,4] u, float[4,4] v> {"
        " [i] h = MatMul(x, u)  [a] y = MatMul(h, w)  [b] z = MatMul(h, v) }"
    )
    data = samples(model)
    draft = calibrated(placed(model, INTEGER, data), data)
    fine = draft.plan.groups[draft.plan.sites[Site("h")]]
    coarse = replace(fine, params=QParams(fine.scheme, np.array(0.25, np.float32), np.array(0, np.int32)))
    sites = {s: g for s, g in draft.plan.sites.items() if everyone or s != Site("h")}
    if not everyone:
        sites[Site("h", "a", 0)] = draft.plan.sites[Site("h")]
    sites[Site("h", "b", 0)] = 99
    draft = replace(draft, plan=replace(draft.plan, groups={**draft.plan.groups, 99: coarse}, sites=sites))
    sound(draft, as_by_hand(draft, data[:2]))
