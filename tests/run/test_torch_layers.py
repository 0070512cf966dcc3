"""Promised: what a trace with channels last has in pieces is written as layers with channels behind the batch, and
computes the same; what only looks like such pieces stays as it is.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.graph.shapes import infer_shapes
from halfeven.run.ort import OrtExecutor
from halfeven.run.torch_layers import as_layers

FIRST, LAST = "<perm=[0,3,1,2]>", "<perm=[0,2,3,1]>"
BIAS = f"""
g (float[b,6,6,4] x) => (float[b,4,4,8] y) <float[8,4,3,3] w, float[8] v, int64[4] s = {{1, 1, 1, 8}}> {{
    p = Transpose{FIRST}(x) q = Conv(p, w) r = Transpose{LAST}(q) u = Reshape(v, s) y = Add(r, u)
}}"""
NORM = f"""
g (float[b,3,3,4] x) => (float[b,3,3,4] y)
<float[4,4,1,1] w, float[4] gamma, float[4] beta, float[4] mean, float[4] variance, float e = {{0.001}}> {{
    p = Transpose{FIRST}(x) q = Conv(p, w) r = Transpose{LAST}(q) d = Sub(r, mean)
    a = Add(variance, e) h = Sqrt(a) i = Reciprocal(h) k = Mul(i, gamma) m = Mul(d, k) y = Add(m, beta)
}}"""
MOVED = f"""
g (float[b,2,4,4] x, float[b,2,4,4] z) => (float[b,4] y)
<float[2] c, int64[8] n = {{0, 1, 2, 0, 0, 0, 1, 0}}, int64[2] axes = {{1, 2}}> {{
    p = Transpose{LAST}(x) q = Transpose{LAST}(z) f = Sigmoid(p) m = Mul(f, c) s = Add(m, q) d = Pad(s, n)
    o = Concat<axis=3>(d, d) y = ReduceMean<keepdims=0>(o, axes)
}}"""
WINDOWS = f"""
g (float[b,5,5,2] x) => (float[b,5,5,3] y)
<float[2,3,3,3] w, float[3,3,2,2] v, int64[8] n = {{0, 1, 0, 0, 0, 0, 1, 0}}, int64[1] o = {{0}}, int64[1] t = {{10}},
 int64[1] two = {{2}}, int64[1] three = {{3}}> {{
    p = Transpose{FIRST}(x) c = ConvTranspose<strides=[2,2]>(p, w) s = Slice(c, o, t, two) r = Slice(s, o, t, three)
    l = Transpose{LAST}(r) d = Pad(l, n) e = Transpose{FIRST}(d) f = Conv<strides=[2,2]>(e, v) y = Transpose{LAST}(f)
}}"""
REPEATED = f"""
g (float[b,4,2,3] x) => (float[b,4,4,9] y)
<int64[1] i = {{2}}, int64[5] k = {{1, 1, 2, 1, 1}}, int64[4] m = {{0, 4, 3, 4}}, int64[1] o = {{3}},
 int64[5] q = {{1, 1, 1, 3, 1}}, int64[4] s = {{0, 4, 9, 4}}> {{
    l = Transpose{LAST}(x) u = Unsqueeze(l, i) e = Expand(u, k) r = Reshape(e, m)
    v = Unsqueeze(r, o) f = Expand(v, q) t = Reshape(f, s) y = Transpose{FIRST}(t)
}}"""
OTHER_AXIS = BIAS.replace("float[8] v", "float[4] v").replace("{1, 1, 1, 8}", "{1, 1, 4, 1}")
READ_TWICE = BIAS.replace("(float[b,4,4,8] y)", "(float[b,4,4,8] y, float[b,4,4,8] r)")


def rewritten(model: ir.Model) -> ir.Model:
    """After a check that it computes the same for a batch of three."""
    infer_shapes(model)
    made = model.clone()
    as_layers(made)
    infer_shapes(made)
    rng = np.random.default_rng(0)
    feeds = {
        str(v.name): rng.normal(size=[3 if not isinstance(d, int) else d for d in v.shape or ()]).astype(np.float32)
        for v in model.graph.inputs
    }
    before, after = (list(OrtExecutor(one, optimize=False)(feeds, "noise").values()) for one in (model, made))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return made


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_what_is_added_by_channel_becomes_the_bias(build: Callable[..., ir.Model]) -> None:
    made = rewritten(build(BIAS))
    assert kinds(made) == Counter({"Transpose": 2, "Conv": 1})
    (conv,) = (node for node in made.graph if node.op_type == "Conv")
    assert [value.name for value in conv.inputs if value is not None][1:] == ["w", "v"]


@pytest.mark.parametrize("text", [OTHER_AXIS, READ_TWICE], ids=["another axis", "read by others"])
def test_what_is_no_bias_stays_a_sum(text: str, build: Callable[..., ir.Model]) -> None:
    assert kinds(rewritten(build(text)))["Add"] == 1


def test_a_normalization_in_pieces_becomes_one_with_its_own_tensors(build: Callable[..., ir.Model]) -> None:
    made = rewritten(build(NORM, variance=np.linspace(0.5, 2, 4)))
    assert kinds(made) == Counter({"Transpose": 2, "Conv": 1, "BatchNormalization": 1})
    (norm,) = (node for node in made.graph if node.op_type == "BatchNormalization")
    assert [value.name for value in norm.inputs if value is not None][1:] == ["gamma", "beta", "mean", "variance"]
    assert norm.attributes.get_float("epsilon", 0) == pytest.approx(0.001)


def test_transposes_go_down_through_what_is_computed_place_by_place(build: Callable[..., ir.Model]) -> None:
    made = rewritten(build(MOVED, 18))
    assert kinds(made)["Transpose"] == 1  # of the constant, which folding takes away
    (turned,) = (node for node in made.graph if node.op_type == "Transpose")
    assert turned.inputs[0] is not None
    assert not any(value.producer() is None and value in made.graph.inputs for value in turned.inputs if value)


def test_pads_and_cuts_around_a_layer_become_its_pads(build: Callable[..., ir.Model]) -> None:
    made = rewritten(build(WINDOWS))
    assert kinds(made) == Counter({"Transpose": 2, "ConvTranspose": 1, "Conv": 1})
    pads = {node.op_type: list(node.attributes.get_ints("pads", ())) for node in made.graph}
    assert (pads["ConvTranspose"], pads["Conv"]) == ([0, 0, 1, 1], [1, 0, 0, 1])


def test_places_repeated_along_two_axes_become_one_resize(build: Callable[..., ir.Model]) -> None:
    assert kinds(rewritten(build(REPEATED))) == Counter({"Resize": 1})
