"""Promised: the layers that a pattern names get weights of 7 bits, -63 to 63, in scale, rounding and bias, and no other
layer changes; a pattern that names none is an error; the plan says so and keeps it as JSON.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.graph.weights import array_at
from halfeven.numerics.quantize import quantize
from halfeven.numerics.scheme import QParams
from halfeven.run.ort import OrtExecutor

Build = Callable[..., ir.Model]
NET = """g (float[N,8,6,6] x) => (float[N,3] y)
  <float[8,8,3,3] w, float[8] b, float[8,8,1,1] v, float[8] c, float[8,3] m, float[8,1,1] k> {
    [first] a = Conv<pads=[1,1,1,1]>(x, w, b) [relu] r = Relu(a) [second] d = Conv(r, v, c)
    [other] o = Relu(d) [sum] s = Mul(o, k) [third] e = Conv(s, v) [pool] p = GlobalAveragePool(e) [flat] f = Flatten(p) [last] y = MatMul(f, m) }"""
DATA = {"x": np.random.default_rng(0).normal(size=(12, 8, 6, 6)).astype(np.float32)}
SEVEN, EIGHT = "int7 narrow", "int8 narrow"


def quantized(build: Build, **options: Any) -> Draft:
    given = options if "plan" in options else {"prefer": "size", **options}
    return halfeven.quantize(build(NET), DATA, verify=False, **given).draft


def weights(plan: Plan) -> dict[str, Quantizer]:
    """The quantizer of each layer's weight, by the layer."""
    return {s.consumer: plan.groups[g] for s, g in plan.sites.items() if plan.groups[g].role == "weight"}


def grids(plan: Plan) -> dict[str, str]:
    return {layer: str(quantizer.scheme.grid) for layer, quantizer in weights(plan).items()}


def test_the_layers_that_are_named_have_seven_bits_and_the_others_what_they_had(build: Build) -> None:
    plain, plan = quantized(build).plan, quantized(build, reduce_range=("first", "MatMul")).plan
    assert grids(plan) == grids(plain) | {"first": SEVEN, "last": SEVEN}
    assert set(plan.groups) == set(plan.sites.values())
    assert weights(plan)["first"].reason.endswith("weight of Conv 'first', 7 bits by --reduce-range 'first'")
    for site, group in plan.sites.items():
        ours, theirs = plan.groups[group], plain.seen_by(site.value, site.consumer, site.port)
        if ours.role == "weight" and site.consumer in ("second", "third"):
            assert theirs is not None
            assert ours.params is not None
            assert theirs.params is not None
            np.testing.assert_array_equal(ours.params.scale, theirs.params.scale)


def test_a_weight_that_is_shared_has_both_widths_and_a_constant_that_is_no_weight_keeps_its_own(build: Build) -> None:
    plan = quantized(build, reduce_range=("second",)).plan
    assert (grids(plan)["second"], grids(plan)["third"]) == (SEVEN, EIGHT)
    both = quantized(build, reduce_range=("*",)).plan
    assert both.sites[Site("v", "second", 1)] == both.sites[Site("v", "third", 1)]
    assert {layer for layer, grid in grids(both).items() if grid != SEVEN} == {"sum"}


def test_the_plan_as_json_says_the_same_and_gives_the_same_codes(build: Build) -> None:
    draft = quantized(build, reduce_range=("Conv",))
    plan = Plan.from_json(draft.plan.to_json())
    assert plan.digest == draft.plan.digest
    assert quantized(build, plan=plan).plan.digest == quantized(build, plan=draft.plan).plan.digest


@pytest.mark.parametrize("calibrate", ["minmax", "mse"])
def test_rounding_by_second_moments_keeps_within_the_narrow_grid(build: Build, calibrate: str) -> None:
    draft = quantized(build, reduce_range=("*",), calibrate=calibrate)
    assert draft.moments
    for node in draft.model.graph:
        if node.name in ("first", "second", "last"):
            params, weight = weights(draft.plan)[node.name].params, array_at(node, 1)
            assert params is not None
            assert weight is not None
            full = QParams(weights(quantized(build).plan)[node.name].scheme, params.scale, params.zero_point)
            assert np.abs(quantize(weight.astype(np.float32), full)).max() == 63


def test_biases_take_up_the_mean_error_of_the_narrow_grid(build: Build) -> None:
    draft = quantized(build, reduce_range=("first",), skip=("equalize",), observe_vectors=1000)
    means = {}
    for name in ("bias", "no bias"):
        model = draft.model.clone()
        if name == "no bias":
            model.graph.initializers["b"].const_value = build(NET).graph.initializers["b"].const_value
        means[name] = OrtExecutor(model, ("a",))(DATA)["a"].mean((0, 2, 3))
    exact = OrtExecutor(build(NET), ("a",))(DATA)["a"].mean((0, 2, 3))
    assert np.abs(means["bias"] - exact).max() < 0.1 * np.abs(means["no bias"] - exact).max()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reduce_range": ("first", "fisrt")}, "--reduce-range 'fisrt' matches no node. `halfeven inspect` lists"),
        ({"reduce_range": ("Relu",)}, "--reduce-range 'Relu' matches no layer with int8 weights"),
        ({"reduce_range": ("sum",)}, "--reduce-range 'sum' matches no layer with int8 weights"),
        ({"reduce_range": ("last",), "keep_float": ("last",)}, "'last' matches no layer with int8 weights"),
        ({"reduce_range": ("last",), "bits": 4}, "'last' matches no layer with int8 weights"),
        ({"reduce_range": ("last",), "mode": "weight-only"}, "of the modes static and dynamic; it does nothing in we"),
    ],
)
def test_what_would_do_nothing_is_refused(build: Build, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        quantized(build, **options)


def test_rows_of_a_table_are_looked_up_and_keep_eight_bits(build: Build) -> None:
    model = build(
        "g (int64[N] i) => (float[N,4] y) <float[9,8] t, float[8,4] w> { [look] e = Gather(t, i) [out] y = MatMul(e, w) }"
    )
    data = {"i": np.arange(9)}
    plan = halfeven.quantize(model, data, prefer="size", verify=False, reduce_range=("*",)).plan
    assert grids(plan) == {"look": EIGHT, "out": SEVEN}
