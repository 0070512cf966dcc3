"""Promised: a clamp vanishes into the saturation of the codes where it can, and nowhere else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Site
from halfeven.numerics.scheme import QParams
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


CLAMPED = (
    "g (float[1,3,4,4] x) => (float[1,4,4,4] y) <float[4,3,1,1] a, float[4,4,1,1] z, float zero = {0}, float low ="
    " {-0.5},"
    " float top = {0.75}> { [a] h = Conv(x, a)  [c] r = %s  [z] y = Conv(r, z) }"
)


@pytest.mark.parametrize(
    "clamp", ["Relu(h)", "Clip(h, zero, top)", "Clip(h, low, top)", "Clip(h, zero)", "Clip(h, , top)"]
)
@pytest.mark.parametrize("wide", [False, True])
def test_a_clamp_goes_if_and_only_if_the_codes_cannot_pass_it(
    build: Build,
    samples: Samples,
    placed: Placed,
    calibrated: Calibrated,
    as_by_hand: ByHand,
    sound: Sound,
    clamp: str,
    wide: bool,
) -> None:
    model = build(CLAMPED % clamp, a=np.full((4, 3, 1, 1), 2))
    data = samples(model)
    draft = calibrated(placed(model, INTEGER, data), data)
    if wide:
        group = draft.plan.sites[Site("r")]
        old = draft.plan.groups[group]
        params = QParams(old.scheme, np.array(0.03, np.float32), np.array(5, np.int32))
        draft = replace(draft, plan=draft.plan.with_group(group, replace(old, params=params)))
    quantized = as_by_hand(draft, data)
    params = draft.plan.at(Site("r")).params
    codes = np.arange(-128, 128, dtype=np.float64)
    values = (codes - params.zero_point) * float(params.scale)
    low = {"low,": -0.5, ",": -np.inf}.get(clamp.split()[1], 0) if " " in clamp else 0
    high = 0.75 if "top" in clamp else np.inf
    passed = max(low - values.min(), values.max() - high)
    left = any(node.op_type in ("Relu", "Clip") for node in quantized.graph)
    assert left == (passed > 1e-5)
    assert left or not wide
    sound(draft, quantized)


@pytest.mark.parametrize("target", EAGER.values(), ids=lambda t: t.name)
def test_a_target_that_needs_its_clamps_keeps_them(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, target: Target
) -> None:
    model = build(CLAMPED % "Relu(h)")
    data = samples(model)
    quantized = to_qdq(calibrated(placed(model, EAGER[target.name], data), data))
    passed = target.rules[0].data.symmetric  # symmetric codes express numbers below zero
    assert any(node.op_type == "Relu" for node in quantized.graph) == (passed or not target.clamps_in_range)


@pytest.mark.parametrize(
    "text",
    [
        "(float[1,4,4,4] y, float[1,4,4,4] h) W { [a] h = Conv(x, a)  [c] r = Relu(h)  [z] y = Conv(r, z) }",
        "(float[1,4,4,4] y, float[1,4,4,4] e) W { [a] h = Conv(x, a)  [c] r = Relu(h)  [z] y = Conv(r, z)  [e] e ="
        " Erf(h) }",
        "(float[1,4,4,4] y) W { [a] h = Conv(x, a)  [c] y = Relu(h) }",
        "(float[1,4,4,4] y, float[1,4,4,4] z) W { [a] h = Conv(x, a)  [c] y = Relu(h)  [b] z = Conv(y, z0) }",
        "(float[1,4,4,4] y) W { [a] h = Conv(x, a)  [c] r = Relu(h)  [d] s = Clip(r, zero, top)  [z] y = Conv(s, z) }",
        "(float[1,4,4,4] y) W { [a] r = Relu(x)  [d] s = Clip(r, zero, top)  [z] y = Conv(s, a) }",
    ],
)
def test_clamps_with_other_readers_or_in_rows_stay_right(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, as_by_hand: ByHand, sound: Sound, text: str
) -> None:
    weights = "<float[4,3,1,1] a, float[4,4,1,1] z, float[4,4,1,1] z0, float zero = {0}, float top = {0.5}>"
    model = build("g (float[1,3,4,4] x) => " + text.replace("W", weights))
    data = samples(model)
    for target in EAGER.values():
        draft = calibrated(placed(model, target, data), data)
        sound(draft, as_by_hand(draft, data[:2]))
