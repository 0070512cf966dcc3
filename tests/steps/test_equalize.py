"""Equalization changes the channels' ranges and nothing that the network computes, at any input."""

from collections.abc import Callable
from itertools import islice

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.data.lead import led
from halfeven.draft import Draft, pipeline
from halfeven.exporters.onnx import to_qdq
from halfeven.run.compare import relative_error
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.equalize import Equalize
from halfeven.steps.observe import Observe
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]
INTEGER, OPENVINO = TARGETS["integer"], TARGETS["openvino"]

SPREAD = np.array([8, 4, 2, 1, 0.5, 0.25, 0.12, 0.06], np.float32)
"""Factors that make the channels of a layer's output unequal."""


def _unequal(*shape: int, seed: int = 0) -> np.ndarray:
    """A weight whose output channels have ranges apart."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * SPREAD[: shape[0]].reshape(-1, *[1] * (len(shape) - 1))).astype(np.float32)


HEAD = "g (float[1,3,10,10] x) => (float[1,4,p,q] y) <float[8,3,1,1] a, float[8] ab, float[8,8,1,1] b, float[8] bb,"
TAIL = "float[4,8,1,1] z, float zero = {0}, float six = {6}, float one = {1}>"
DEPTHWISE = "float[8,1,3,3] d, float[8] db,"

# Networks whose streams can be scaled, by what lies between the layers.
NETWORKS = {
    "chain": f"{HEAD} {TAIL} {{ h = Conv(x, a, ab)  y = Conv(h, z) }}",
    "relu": f"{HEAD} {TAIL} {{ h = Conv(x, a, ab)  r = Relu(h)  k = Conv(r, b, bb)  s = Relu(k)  y = Conv(s, z) }}",
    "no bias": f"{HEAD} {TAIL} {{ h = Conv(x, a)  r = Relu(h)  y = Conv(r, z) }}",
    "clip": f"{HEAD} {TAIL} {{ h = Conv(x, a, ab)  r = Clip(h, zero, six)  y = Conv(r, z) }}",
    "clip without end": f"{HEAD} {TAIL} {{ h = Conv(x, a, ab)  r = Clip(h, zero)  y = Conv(r, z) }}",
    "inverted residual": f"{HEAD} {DEPTHWISE} {TAIL} {{ h = Conv(x, a, ab)  r = Clip(h, zero, six)"
    " k = Conv <group = 8, pads = [1, 1, 1, 1]> (r, d, db)  s = Clip(k, zero, six)  y = Conv(s, z) }",
    "depthwise alone": f"{HEAD} {DEPTHWISE} {TAIL} {{ h = Conv(x, a, ab)  k = Conv <group = 8> (h, d)  y = Conv(k, z)"
        f" }}",
    "pooling": f"{HEAD} {TAIL} {{ h = Conv(x, a, ab)  m = MaxPool <kernel_shape = [2, 2], pads = [1, 0, 0, 1]> (h)"
    " p = AveragePool <kernel_shape = [3, 3], strides = [2, 2]> (m)  g = GlobalAveragePool(p)  y = Conv(g, z) }",
    "residual stream": f"{HEAD} float[8,8,1,1] c, float[8,8,1,1] e, {TAIL} {{ h = Conv(x, a, ab)  r = Relu(h)  k ="
        f" Conv(r, b, bb)"
    " s = Relu(k)  t = Conv(s, c)  u = Add(r, t)  v = Relu(u)  w = Conv(v, e)  n = Add(v, w)  y = Conv(n, z) }",
    "two readers": f"{HEAD} float[4,8,1,1] v, {TAIL} {{ h = Conv(x, a, ab)  r = Relu(h)  i = Conv(r, z)  j = Conv(r, v)"
    "  y = Add(i, j) }",
    "sum of two clips": f"{HEAD} float[8,3,1,1] f, {TAIL} {{ h = Conv(x, a, ab)  r = Clip(h, zero, six)  k = Conv(x,"
        f" f, bb)"
    " s = Clip(k, zero, one)  u = Add(r, s)  y = Conv(u, z) }",
}  # fmt: skip


def _network(build: Build, name: str) -> ir.Model:
    """Quiet channels count as much as loud ones: their readers' weights make up for it."""
    weights = {key: _unequal(8, 8, 1, 1, seed=i) for i, key in enumerate("bce")}
    weights["z"] = np.random.default_rng(6).normal(size=(4, 8, 1, 1))
    weights = {key: weight / SPREAD.reshape(1, 8, 1, 1) for key, weight in weights.items()}
    weights.update(a=_unequal(8, 3, 1, 1), f=_unequal(8, 3, 1, 1, seed=8))
    weights["d"] = np.random.default_rng(2).normal(size=(8, 1, 3, 3))
    return build(NETWORKS[name], ab=_unequal(8, seed=3), bb=_unequal(8, seed=4), db=_unequal(8, seed=5), **weights)


def _equalized(draft: Draft, data: list) -> Draft:
    return pipeline(Equalize())(draft, data)


TENSORRT, NCNN = TARGETS["tensorrt"], TARGETS["ncnn"]


@pytest.mark.parametrize("target", [INTEGER, OPENVINO, TENSORRT], ids=lambda t: t.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_the_same_also_beyond_the_samples(
    build: Build, samples: Samples, placed: Placed, name: str, target: object
) -> None:
    if "clip" in NETWORKS[name].lower() and target is TENSORRT:
        pytest.skip("its clamps have one bound, see below")
    model = _network(build, name)
    data = samples(model)
    draft = placed(model, target, data)
    after = _equalized(draft, data)
    assert any("equalized" in note for note in after.notes)
    for scale in (1, 10, 100):
        error, where = relative_error(draft.model, after.model, samples(model, 4, scale, seed=1))
        assert error <= 1e-5, where


@pytest.mark.parametrize("target", [NCNN, TENSORRT], ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["clip", "inverted residual"])
def test_clamps_keep_one_bound_where_no_other_fuses(
    build: Build, samples: Samples, placed: Placed, name: str, target: object
) -> None:
    model = _network(build, name)
    data = samples(model)
    draft = placed(model, target, data)
    after = _equalized(draft, data)
    kinds = [[node.op_type for node in m.graph] for m in (draft.model, after.model)]
    assert kinds[0] == kinds[1]
    assert any("a clamp of one bound" in note for note in after.notes), after.notes
    error, where = relative_error(draft.model, after.model, data)
    assert error <= 1e-5, where


def test_a_clamp_that_leaves_no_room_is_not_counted(build: Build, samples: Samples, placed: Placed) -> None:
    text = "{ h = Conv(x, a, ab)  r = Clip(h, zero, six)  k = Conv(r, b, bb)  s = Relu(k)  y = Conv(s, z) }"
    full = np.full(8, 100, np.float32)  # every channel reaches the bound
    model = build(f"{HEAD} {TAIL} {text}", a=_unequal(8, 3, 1, 1), ab=full, b=_unequal(8, 8, 1, 1, seed=1))
    data = samples(model)
    after = _equalized(placed(model, NCNN, data), data)
    (note,) = (note for note in after.notes if "equalized" in note)
    assert note == "equalized 1 of 2 tensors and residual streams by channel"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_site_still_names_what_its_node_reads(build: Build, samples: Samples, placed: Placed, name: str) -> None:
    model = _network(build, name)
    data = samples(model)
    after = _equalized(placed(model, INTEGER, data), data)
    nodes = {node.name: node for node in after.model.graph}
    values = {v.name for v in (*after.model.graph.inputs, *(v for node in nodes.values() for v in node.outputs))}
    assert len(nodes) == len(after.model.graph)
    for site in after.plan.sites:
        if site.consumer:
            assert nodes[site.consumer].inputs[site.port].name == site.value
        else:
            assert site.value in values
    assert set(after.plan.floats) <= set(nodes)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_quantized_network_is_closer_to_the_float_one(
    build: Build, samples: Samples, placed: Placed, name: str
) -> None:
    model = _network(build, name)
    data, fresh = samples(model, 16), samples(model, 8, seed=7)
    draft = placed(model, INTEGER, data)
    quality = {}
    for kind, start in (("plain", draft), ("equalized", _equalized(draft, data))):
        quantized = to_qdq(pipeline(Observe(), Calibrate(method="minmax"))(start, data))
        runs = [(OrtExecutor(m, optimize=False)) for m in (model, quantized)]
        pairs = [[run(feeds)["y"] for run in runs] for _, feeds in fresh]
        quality[kind] = sqnr_db(*(np.concatenate([p[i] for p in pairs]) for i in range(2)))
    assert quality["equalized"] >= quality["plain"] + 6, quality


SHARED = {
    "a weight of two streams": "h = Conv(x, a, ab)  r = Relu(h)  k = Conv(x, a, bb)  s = Relu(k)  i = Conv(r, z)"
    "  m = Conv(s, b)  n = Relu(m)  j = Conv(n, z)  y = Add(i, j)",
    "a weight of a maker and of a reader": "h = Conv(x, a, ab)  r = Relu(h)  k = Conv(r, b, bb)  s = Relu(k)"
    "  t = Conv(s, b, bb)  u = Relu(t)  y = Conv(u, z)",
    "a bias of two layers": "h = Conv(x, a, ab)  r = Relu(h)  k = Conv(r, b, ab)  s = Relu(k)  y = Conv(s, z)",
    "one weight of one stream twice": "h = Conv(x, a, ab)  k = Conv(x, a, bb)  u = Add(h, k)  r = Relu(u)  y ="
    " Conv(r, z)",
}


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_constant_is_right_for_each_of_its_users(
    build: Build, samples: Samples, placed: Placed, name: str
) -> None:
    model = build(f"{HEAD} {TAIL} {{ {SHARED[name]} }}", a=_unequal(8, 3, 1, 1), b=_unequal(8, 8, 1, 1, seed=1))
    data = samples(model)
    draft = placed(model, INTEGER, data)
    after = _equalized(draft, data)
    assert relative_error(draft.model, after.model, data)[0] <= 1e-5
    quantized = to_qdq(pipeline(Observe(), Calibrate(method="minmax"))(after, data))
    reference, found = (OrtExecutor(m)(data[0][1])["y"] for m in (model, quantized))
    assert sqnr_db(reference, found) > 20
    assert all(v.uses() or v.is_graph_output() for v in quantized.graph.initializers.values())


TWO = HEAD.replace("q] y)", "q] y, float[1,8,p,q] r)")
UNTOUCHED = {
    "an output": f"{TWO} {TAIL}"
    " { h = Conv(x, a, ab)  r = Relu(h)  y = Conv(r, z) }",
    "an output inside a residual stream": f"{TWO} {TAIL}"
    " { h = Conv(x, a, ab)  r = Conv(x, a, bb)  u = Add(h, r)  y = Conv(u, z) }",
    "an operator that notices": f"{HEAD} {TAIL} {{ h = Conv(x, a, ab)  r = Sigmoid(h)  y = Conv(r, z) }}",
    "a reader that notices": f"{HEAD} {TAIL} {{ h = Conv(x, a, ab)  s = Softmax <axis = 1> (h)  i = Conv(h, z)"
    "  j = Conv(s, z)  y = Add(i, j) }",
    "a clip from below zero": f"{HEAD} float low = {{-1}}, {TAIL} {{ h = Conv(x, a, ab)  r = Clip(h, low, six)  y ="
        f" Conv(r, z) }}",
    "a sum with the input": "g (float[1,8,4,4] x) => (float[1,4,4,4] y) <float[8,8,1,1] b, float[8] bb,"
        " float[4,8,1,1] z>"
    " { h = Conv(x, b, bb)  u = Add(x, h)  y = Conv(u, z) }",
    "a sum with a constant": f"{HEAD} float[1,8,10,10] c, {TAIL} {{ h = Conv(x, a, ab)  u = Add(h, c)  y = Conv(u, z)"
        f" }}",
    "a bias that is computed": "g (float[1,3,4,4] x, float[8] k) => (float[1,4,4,4] y) <float[8,3,1,1] a,"
        " float[4,8,1,1] z>"
    " { h = Conv(x, a, k)  y = Conv(h, z) }",
    "a reader in groups": f"{HEAD} float[4,2,1,1] c, {TAIL} {{ h = Conv(x, a, ab)  y = Conv <group = 4> (h, c) }}",
    "a sum that spreads one channel": "g (float[1,3,4,4] x) => (float[1,4,4,4] y) <float[8,3,1,1] a, float[1,3,1,1] e,"
    " float[4,8,1,1] z> { h = Conv(x, a)  k = Conv(x, e)  u = Add(h, k)  y = Conv(u, z) }",
    "a transposition": f"{HEAD} {TAIL} {{ h = Conv(x, a, ab)  t = Transpose <perm = [0, 1, 3, 2]> (h)  y = Conv(t, z)"
        f" }}",
    "a product of two": "g (float[1,3,4,4] x) => (float[1,8,4,4] y) <float[8,3,1,1] a> { h = Conv(x, a)  y = Mul(h,"
        " h) }",
}  # fmt: skip


@pytest.mark.parametrize("name", UNTOUCHED)
def test_nothing_is_scaled_across(build: Build, samples: Samples, placed: Placed, name: str) -> None:
    model = build(UNTOUCHED[name], a=_unequal(8, 3, 1, 1), b=_unequal(8, 8, 1, 1, seed=1))
    data = samples(model)
    draft = placed(model, INTEGER, data)
    after = _equalized(draft, data)
    for key in ("a", "b"):
        if key in draft.model.graph.initializers:
            before, now = (d.model.graph.initializers[key].const_value.numpy() for d in (draft, after))
            np.testing.assert_array_equal(now, before)
    assert relative_error(draft.model, after.model, samples(model, 2, 10))[0] <= 1e-5


def test_a_clip_that_stays_a_float_operator_is_not_split(build: Build, samples: Samples, placed: Placed) -> None:
    model = _network(build, "clip")
    data = samples(model)
    draft = placed(model, INTEGER, data, keep_float=("Clip",))
    assert any(node.op_type == "Clip" for node in _equalized(draft, data).model.graph)


def test_what_reads_a_scaled_tensor_inside_of_a_body_is_not_deceived(
    build: Build, samples: Samples, placed: Placed
) -> None:
    model = build(
        "g (float[1,3,4,4] x, bool c) => (float[1,4,4,4] y) <float[8,3,1,1] a, float[4,8,1,1] z, float[4,8,1,1] v> {"
        " h = Conv(x, a)  r = Relu(h)  i = Conv(r, z)  j = If(c) <"
        " then_branch = t () => (float[1,4,4,4] p) { p = Conv(r, v) },"
        " else_branch = e () => (float[1,4,4,4] q) { s = Sigmoid(r)  q = Conv(s, v) }>  y = Add(i, j) }",
        a=_unequal(8, 3, 1, 1),
    )
    data = samples(model)
    draft = placed(model, INTEGER, data)
    after = _equalized(draft, data)
    flipped = [(label, {**feeds, "c": np.array(i % 2 == 0)}) for i, (label, feeds) in enumerate(data)]
    assert relative_error(draft.model, after.model, flipped)[0] <= 1e-5


def test_a_channel_that_is_always_zero_is_scaled_by_the_limit_at_most(
    build: Build, samples: Samples, placed: Placed
) -> None:
    weight = _unequal(8, 3, 1, 1)
    weight[3] = 0
    model = build(NETWORKS["no bias"], a=weight)
    data = samples(model)
    draft = placed(model, INTEGER, data)
    after = pipeline(Equalize(limit=4.0))(draft, data)
    before, now = (d.model.graph.initializers["a"].const_value.numpy() for d in (draft, after))
    assert np.isfinite(now).all()
    alive = [i for i in range(8) if i != 3]
    factors = now[alive] / before[alive]
    assert factors.min() >= 1 - 1e-6
    assert factors.max() <= 4 + 1e-6
    assert not now[3].any()


def test_no_samples_leave_the_step_out(build: Build, samples: Samples, placed: Placed) -> None:
    model = _network(build, "relu")
    data = samples(model)
    draft = placed(model, INTEGER, data)
    assert pipeline(Equalize(samples=0))(draft, data) is draft


def test_the_step_leaves_its_draft_as_it_was(build: Build, samples: Samples, placed: Placed) -> None:
    model = _network(build, "clip")
    data = samples(model)
    draft = placed(model, INTEGER, data)
    before = ir.to_proto(draft.model).SerializeToString(deterministic=True)
    after = _equalized(draft, data)
    assert ir.to_proto(draft.model).SerializeToString(deterministic=True) == before
    assert ir.to_proto(after.model).SerializeToString(deterministic=True) != before


def test_as_many_samples_count_as_asked_for_and_the_same_ones_in_any_order(
    build: Build, samples: Samples, placed: Placed
) -> None:
    model = _network(build, "relu")
    data = samples(model, 6)
    draft = placed(model, INTEGER, data)
    two = list(islice(led(data, 2), 2))
    done = [pipeline(Equalize(samples=2))(draft, given) for given in (data, data[::-1], two)]
    texts = [ir.to_proto(d.model).SerializeToString(deterministic=True) for d in done]
    assert texts[0] == texts[1] == texts[2]
    other = pipeline(Equalize(samples=6))(draft, data)
    assert ir.to_proto(other.model).SerializeToString(deterministic=True) != texts[0]
