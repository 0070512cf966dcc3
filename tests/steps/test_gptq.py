"""Rounding by second moments: on the grid, never worse than to the nearest, and near the best there is."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfeven.draft import Draft, pipeline
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.patches import matrix_of
from halfeven.graph.plan import Site
from halfeven.numerics.quantize import dequantize, fake_quantize, quantize
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.gptq import Gptq, solve_gptq
from halfeven.steps.observe import Observe
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]
INTEGER, TENSORRT = TARGETS["integer"], TARGETS["tensorrt"]


def _form(k: int, rng: np.random.Generator, correlation: float = 0.9) -> np.ndarray:
    """A covariance of k inputs that go along with one another."""
    shared = rng.normal(size=(200, 1))
    x = correlation * shared + (1 - correlation) * rng.normal(size=(200, k)) * rng.uniform(0.2, 2, k)
    return np.cov(x.T, bias=True).reshape(k, k)


def _loss(difference: np.ndarray, form: np.ndarray) -> np.ndarray:
    return np.einsum("...i,ij,...j->...", difference, form, difference)


def _best(weight: np.ndarray, form: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    """The least loss of each row over all codes within two of the weight; weights in units of the scale."""
    k = weight.shape[1]
    around = np.array(list(product(range(-2, 3), repeat=k)))
    codes = np.clip(np.rint(weight)[:, None] + around, *limits)
    return _loss(weight[:, None] - codes, form).min(1)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_a_few_weights_are_rounded_almost_as_well_as_can_be(k: int, correlation: float) -> None:
    rng = np.random.default_rng(k)
    weight, form = rng.uniform(-6, 6, (400, k)), _form(k, rng, correlation)
    codes = solve_gptq(weight[None], np.ones((1, 400, k)), form[None], (-7, 7), 0.0)[0]
    found, nearest = _loss(weight - codes, form).sum(), _loss(weight - np.rint(weight), form).sum()
    best = _best(weight, form, (-7, 7)).sum()
    assert best <= found * (1 + 1e-9)
    assert found <= nearest * (1 + 1e-9)
    assert found <= best * (1.0 + 1e-9 if k == 1 else 1.3)


def test_uncorrelated_inputs_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(0).uniform(-9, 9, (1, 5, 7))
    codes = solve_gptq(weight, np.ones_like(weight), np.diag(np.arange(1.0, 8.0))[None], (-127, 127), 0.01)
    np.testing.assert_array_equal(codes, np.rint(weight))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 63, 64, 65, 130]), st.integers(0, 2**31))
def test_codes_are_integers_within_the_limits(groups: int, outputs: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(groups, outputs, k)) * 100
    scale = rng.uniform(0.1, 2, (groups, outputs, 1)) * np.ones_like(weight)
    x = rng.normal(size=(groups, 3, k))
    form = x.transpose(0, 2, 1) @ x
    codes = solve_gptq(weight, scale, form, (-127, 127), 0.01)
    np.testing.assert_array_equal(codes, np.rint(codes))
    assert np.abs(codes).max() <= 127


@pytest.mark.parametrize("k", [3, 64, 65, 130])
def test_blocks_give_what_columns_one_by_one_give(k: int) -> None:
    """Equations 2 and 3 of the paper, written out without blocks."""
    rng = np.random.default_rng(k)
    weight, form = rng.normal(size=(4, k)) * 5, _form(k, rng, 0.5) + np.eye(k) * 0.01
    codes = solve_gptq(weight[None], np.ones((1, 4, k)), form[None], (-127, 127), 0.0)[0]
    order = np.argsort(-np.diag(form), kind="stable")
    left, inverse, expected = weight[:, order].copy(), np.linalg.inv(form[np.ix_(order, order)]), np.empty((4, k))
    for j in range(k):
        expected[:, order[j]] = np.clip(np.rint(left[:, j]), -127, 127)
        error = (left[:, j] - expected[:, order[j]]) / inverse[j, j]
        left = left - error[:, None] * inverse[j]
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    assert (codes != expected).mean() < 0.01
    np.testing.assert_allclose(_loss(weight - codes, form), _loss(weight - expected, form), rtol=0.05)


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize(
    "kind", ["no variance at all", "a dead input", "two equal inputs", "fewer vectors than inputs"]
)
def test_a_singular_form_is_solved(kind: str, damping: float) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50, 6))
    if kind == "a dead input":
        x[:, 2] = 0
    if kind == "two equal inputs":
        x[:, 2] = x[:, 3]
    if kind == "fewer vectors than inputs":
        x = x[:3]
    form = np.zeros((6, 6)) if kind == "no variance at all" else x.T @ x
    weight = rng.normal(size=(3, 6)) * 4
    codes = solve_gptq(weight[None], np.ones((1, 3, 6)), form[None], (-7, 7), damping)[0]
    assert np.isfinite(codes).all()


# --------------------------------------------------------------------------------------------- the step

NETS = {
    "conv": "g (float[1,4,6,6] x) => (float[1,5,6,6] y) <float[8,4,3,3] w, float[8] b, float[5,8,1,1] v> {"
    " [a] h = Conv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu(h)  [c] y = Conv(r, v) }",
    "depthwise": "g (float[1,4,6,6] x) => (float[1,5,6,6] y) <float[4,1,3,3] w, float[4] b, float[5,4,1,1] v,"
        " float[5] u> {"
    " [a] h = Conv <pads = [1, 1, 1, 1], group = 4> (x, w, b)  r = Relu(h)  [c] y = Conv(r, v, u) }",
    "grouped": "g (float[1,4,6,6] x) => (float[1,5,4,4] y) <float[6,2,3,3] w, float[6] b, float[5,6,1,1] v> {"
    " [a] h = Conv <group = 2> (x, w, b)  [c] y = Conv(h, v) }",
    "gemm": "g (float[3,8] x) => (float[3,5] y) <float[8,6] w, float[6] b, float[5,6] v, float[5] u> {"
    " [a] h = Gemm(x, w, b)  r = Relu(h)  [c] y = Gemm <transB = 1> (r, v, u) }",
    "matmul": "g (float[2,3,8] x) => (float[2,3,5] y) <float[8,6] w, float[6,5] v> {"
    " [a] h = MatMul(x, w)  r = Relu(h)  [c] y = MatMul(r, v) }",
}  # fmt: skip


def _mixed(data: list) -> list:
    """Feeds whose channels, and places beside one another, go along; none has the mean zero."""
    out = []
    for label, feeds in data:
        x = feeds["x"] + 2 * feeds["x"].mean(1 if feeds["x"].ndim == 4 else -1, keepdims=True) + 0.5
        for axis in range(2, x.ndim if x.ndim == 4 else 0):
            x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
        out.append((label, {"x": x.astype(np.float32)}))
    return out


def _rounded(
    build: Build, samples: Samples, placed: Placed, name: str, target: object = INTEGER
) -> tuple[Draft, Draft, list]:
    model = build(NETS[name])
    data = _mixed(samples(model, 24))
    before = pipeline(Observe(), Calibrate(method="minmax"))(placed(model, target, data), data)
    return before, pipeline(Gptq())(before, data), data


def _constant(draft: Draft, node: str, port: int) -> np.ndarray:
    return next(n for n in draft.model.graph if n.name == node).inputs[port].const_value.numpy()


@pytest.mark.parametrize("name", NETS)
def test_rounded_weights_lie_on_their_grid(build: Build, samples: Samples, placed: Placed, name: str) -> None:
    before, after, _ = _rounded(build, samples, placed, name)
    gap = 0
    for node in ("a", "c"):
        weight, params = _constant(after, node, 1), after.plan.at(Site({"a": "w", "c": "v"}[node], node, 1)).params
        codes = quantize(weight, params)
        np.testing.assert_array_equal(dequantize(codes, params), weight)
        assert np.abs(codes.astype(int)).max() <= 127
        gap += int((codes != quantize(_constant(before, node, 1), params)).sum())
    assert gap > 0


@pytest.mark.parametrize("name", NETS)
def test_a_pruned_weight_stays_zero_and_the_others_make_up_for_it(
    build: Build, samples: Samples, placed: Placed, name: str
) -> None:
    rng = np.random.default_rng(7)
    dense = build(NETS[name])
    pruned = {}
    for node in dense.graph:
        if node.name in ("a", "c"):
            weight = node.inputs[1].const_value.numpy()
            pruned[node.inputs[1].name] = np.where(rng.random(weight.shape) < 0.3, 0, weight).astype(np.float32)
    model = build(NETS[name], **pruned)
    data = _mixed(samples(model, 24))
    before = pipeline(Observe(), Calibrate(method="minmax"))(placed(model, INTEGER, data), data)
    after = Gptq()(before, data, lambda task, done, total: None)
    moved = 0
    for node, value in (("a", "w"), ("c", "v")):
        rounded, params = _constant(after, node, 1), after.plan.at(Site(value, node, 1)).params
        assert not rounded[pruned[value] == 0].any()
        codes = quantize(pruned[value], params)
        moved += int((quantize(rounded, params) != codes).sum())
    assert moved > 0


@pytest.mark.parametrize("name", NETS)
def test_no_row_is_worse_than_rounded_to_the_nearest(build: Build, samples: Samples, placed: Placed, name: str) -> None:
    before, after, _ = _rounded(build, samples, placed, name)
    improved = 0
    for node in before.model.graph:
        if node.name not in before.moments:
            continue
        moments = before.moments[node.name]
        form = moments.covariance if len(node.inputs) == 3 else moments.gram / moments.count
        old, new = (_constant(d, node.name, 1) for d in (before, after))
        params = before.plan.seen_by(node.inputs[1].name, node.name, 1).params
        nearest = fake_quantize(old, params)
        losses = []
        for w in (new, nearest):
            d = matrix_of(node, old).astype(np.float64) - matrix_of(node, w)
            losses.append(np.einsum("goi,gij,goj->go", d, form, d))
        assert (losses[0] <= losses[1] * (1 + 1e-6) + 1e-12).all()
        improved += int((losses[0] < losses[1] * 0.9).sum())
    assert improved > 0


@pytest.mark.parametrize("name", ["conv", "depthwise", "grouped", "gemm"])
@pytest.mark.parametrize("target", [INTEGER, TENSORRT], ids=lambda t: t.name)
def test_the_bias_moves_by_the_mean_error(
    build: Build, samples: Samples, placed: Placed, name: str, target: object
) -> None:
    before, after, _ = _rounded(build, samples, placed, name, target)
    node = next(n for n in before.model.graph if n.name == "a")
    d = matrix_of(node, _constant(before, "a", 1)).astype(np.float64) - matrix_of(node, _constant(after, "a", 1))
    shift = np.einsum("gok,gk->go", d, before.moments["a"].mean).ravel()
    assert np.abs(shift).max() > 0
    np.testing.assert_allclose(_constant(after, "a", 2), _constant(before, "a", 2) + shift, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NETS)
def test_the_quantized_network_is_at_least_as_close(build: Build, samples: Samples, placed: Placed, name: str) -> None:
    before, after, _ = _rounded(build, samples, placed, name)
    fresh = _mixed(samples(before.model, 8, seed=5))
    reference = OrtExecutor(before.model)
    quality = []
    for draft in (before, after):
        run = OrtExecutor(to_qdq(draft), optimize=False)
        pairs = [(reference(feeds)["y"], run(feeds)["y"]) for _, feeds in fresh]
        quality.append(sqnr_db(*(np.concatenate([p[i] for p in pairs]) for i in range(2))))
    assert quality[1] >= quality[0] - 0.3, quality


def test_a_second_time_changes_nothing(build: Build, samples: Samples, placed: Placed) -> None:
    _, once, data = _rounded(build, samples, placed, "conv")
    twice = pipeline(Gptq())(once, data)
    for node, port in (("a", 1), ("a", 2), ("c", 1)):
        np.testing.assert_array_equal(_constant(twice, node, port), _constant(once, node, port))


def test_the_step_leaves_its_draft_as_it_was(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NETS["conv"])
    data = samples(model)
    draft = pipeline(Observe(), Calibrate())(placed(model, INTEGER, data), data)
    before = ir.to_proto(draft.model).SerializeToString(deterministic=True)
    after = pipeline(Gptq())(draft, data)
    assert ir.to_proto(draft.model).SerializeToString(deterministic=True) == before
    assert ir.to_proto(after.model).SerializeToString(deterministic=True) != before


def test_without_moments_nothing_is_rounded(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NETS["conv"])
    data = samples(model)
    draft = pipeline(Observe(moments=0), Calibrate())(placed(model, INTEGER, data), data)
    assert pipeline(Gptq())(draft, data) is draft


SHARED = {
    "a weight": "[a] h = Conv(x, w, b)  r = Relu(h)  [c] y = Conv(r, w, u)",
    "a bias": "[a] h = Conv(x, w, b)  r = Relu(h)  [c] y = Conv(r, v, b)",
    "both": "[a] h = Conv(x, w, b)  r = Relu(h)  [c] y = Conv(r, w, b)",
}


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_constant_is_right_for_each_of_its_users(
    build: Build, samples: Samples, placed: Placed, name: str
) -> None:
    model = build(
        "g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w, float[4,4,1,1] v, float[4] b, float[4] u>"
        f" {{ {SHARED[name]} }}"
    )
    data = _mixed(samples(model, 16))
    before = pipeline(Observe(), Calibrate(method="minmax"))(placed(model, INTEGER, data), data)
    after = pipeline(Gptq())(before, data)
    quality = []
    for draft in (before, after):
        quantized = to_qdq(draft)
        assert all(v.uses() or v.is_graph_output() for v in quantized.graph.initializers.values())
        reference, found = (OrtExecutor(m, optimize=False)(data[0][1])["y"] for m in (model, quantized))
        quality.append(sqnr_db(reference, found))
    assert quality[1] >= quality[0] - 1.0, quality
    nodes = {node.name: node for node in after.model.graph}
    assert all(nodes[s.consumer].inputs[s.port].name == s.value for s in after.plan.sites if s.consumer)


def test_layers_without_parameters_are_left_alone(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NETS["conv"])
    data = samples(model)
    draft = pipeline(Observe())(placed(model, INTEGER, data), data)
    after = pipeline(Gptq())(draft, data)
    np.testing.assert_array_equal(_constant(after, "a", 1), _constant(draft, "a", 1))
    assert replace(after, model=draft.model) == draft
