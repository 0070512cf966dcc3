"""Promised: constants and tables with several readers serve each as the plan says."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.exporters.onnx import to_qdq
from halfeven.graph import ops
from halfeven.graph.plan import Site
from halfeven.numerics.grid import INT8_NARROW
from halfeven.numerics.quantize import params_of
from halfeven.numerics.scheme import Scheme
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
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


SHARED = {
    "one weight for two operators": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w> { [a] h = MatMul(x, w)  [b] y"
        " = Gemm(h, w) }",
    "one weight along two axes": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w> { [a] h = MatMul(x, w)  [b] y ="
        " Gemm <transB = 1> (h, w) }",
    "one weight and bias for two layers": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4] b> {"
    " [a] h = Gemm(x, w, b)  [r] r = Relu(h)  [b] y = Gemm(r, w, b) }",
    "one constant for a sum and a product": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4,4] v, float k"
        " = {0.5}> {"
    " [a] h = MatMul(x, w)  [s] s = Add(h, k)  [m] m = Mul(s, k)  [b] y = MatMul(m, v) }",
    "one constant as bias and as summand": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4,4] v, float[4]"
        " k> {"
    " [a] h = Gemm(x, w, k)  [e] e = Erf(h)  [s] s = Add(e, k)  [b] y = Gemm(s, v, k) }",
    "one weight read in floats as well": "g (float[1,4] x) => (float[1,4] y, float[4,4] e) <float[4,4] w> { [a] y ="
        " MatMul(x, w)  [e] e = Erf(w) }",
    "one constant on both sides": "g (float[4,4] x) => (float[4,4] y) <float[4,4] w> { [a] h = MatMul(x, w)  [s] s ="
        " Sub(w, h)  [t] y = Sub(s, w) }",
    "a weight read in a body": "g (float[1,4] x, bool c) => (float[1,4] y) <float[4,4] w> { [a] h = MatMul(x, w)  [i]"
        " y = If(c) <"
    " then_branch = t () => (float[1,4] p) { p = MatMul(h, w) }, else_branch = e () => (float[1,4] q) { q ="
    " Identity(h) }> }",
}  # fmt: skip


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("name", SHARED)
def test_a_shared_constant_serves_each_reader(
    build: Build,
    samples: Samples,
    placed: Placed,
    calibrated: Calibrated,
    as_by_hand: ByHand,
    sound: Sound,
    name: str,
    refine: bool,
) -> None:
    model = build(SHARED[name])
    data = samples(model)
    for target in EAGER.values():
        draft = calibrated(placed(model, target, data, prefer="size"), data, refine=refine)
        quantized = to_qdq(draft)
        sound(draft, quantized)
        if "body" not in name:
            as_by_hand(draft, data[:1])
        reference, found = (OrtExecutor(m, optimize=False)(data[0][1]) for m in (model, quantized))
        assert all(sqnr_db(reference[key], found[key]) > 20 for key in reference)


@pytest.mark.parametrize("target", EAGER.values(), ids=lambda t: t.name)
def test_bodies_of_control_flow_read_what_everyone_reads(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, sound: Sound, target: Target
) -> None:
    """A quantized tensor, a looked-up row, and a clamp's operand, which must therefore stay."""
    model = build(
        "g (float[3,4] x, int64[3] i, bool c) => (float[3,4] y) <float[6,4] t, float[4,4] w, float[4,4] v> {"
        " e = Gather(t, i)  s = Add(e, x)  h = MatMul(s, w)  r = Relu(h)  k = MatMul(r, v)  q = Sigmoid(k)  b = If(c) <"
        " then_branch = p () => (float[3,4] p1) { p0 = Add(h, e)  p1 = Add(p0, q) },"
        " else_branch = n () => (float[3,4] n1) { n1 = Add(r, q) }>  y = MatMul(b, v) }"
    )
    data = samples(model)
    draft = calibrated(placed(model, target, data, prefer="size"), data, refine=True)
    quantized = to_qdq(draft)
    sound(draft, quantized)
    for _, feeds in data[:2]:
        for choice in (True, False):
            given = {**feeds, "c": np.array(choice)}
            reference, found = (OrtExecutor(m, optimize=False)(given)["y"] for m in (model, quantized))
            assert sqnr_db(reference, found) > 20


TABLES = {
    "rows": ("int64[2,3] i", "float[2,3,4] y", "Gather(t, i)", "float[6,4] t"),
    "one row": ("int64 i", "float[4] y", "Gather(t, i)", "float[6,4] t"),
    "columns": ("int64[3] i", "float[6,3] y", "Gather <axis = 1> (t, i)", "float[6,4] t"),
    "the last axis from behind": ("int64[3] i", "float[6,3] y", "Gather <axis = -1> (t, i)", "float[6,4] t"),
    "rows of matrices": ("int64[3] i", "float[3,2,4] y", "Gather(t, i)", "float[6,2,4] t"),
    "rows from behind": ("int32[3] i", "float[3,4] y", "Gather <axis = -2> (t, i)", "float[6,4] t"),
}


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("name", TABLES)
def test_a_lookup_gives_what_the_rounded_table_holds(
    build: Build,
    samples: Samples,
    placed: Placed,
    calibrated: Calibrated,
    as_by_hand: ByHand,
    sound: Sound,
    name: str,
    per_row: bool,
) -> None:
    given, out, call, table = TABLES[name]
    model = build(f"g ({given}) => ({out}) <{table}> {{ [g] y = {call} }}")
    data = samples(model)
    draft = calibrated(placed(model, EAGER["onnxruntime"], data, prefer="size"), data)
    group = draft.plan.sites[Site("t", "g", 0)]
    old = draft.plan.groups[group]
    if not per_row:
        scheme = Scheme(INT8_NARROW)
        params = params_of(model.graph.initializers["t"].const_value.numpy(), scheme)
        draft = replace(draft, plan=draft.plan.with_group(group, replace(old, scheme=scheme, params=params)))
    quantized = as_by_hand(draft, data)
    sound(draft, quantized)
    assert {v.dtype for v in quantized.graph.initializers.values() if v.shape and np.prod(v.shape.numpy()) > 12} == {
        ir.DataType.INT8
    }


@pytest.mark.parametrize(
    "text",
    [
        "[g] h = Gather(t, i)  [k] k = Gather(t, j)  [s] y = Add(h, k)",
        "[g] h = Gather(t, i)  [s] s = Sigmoid(h)  [b] b = MatMul(s, w)  [k] k = Gather(t, j)  [t] y = Add(b, k)",
        "[g] h = Gather(t, i)  [s] s = Sigmoid(h)  [b] y = Gemm <transB = 1> (s, t)",
        "[g] h = Gather(t, i)  [s] s = Sigmoid(h)  [b] m = MatMul(s, w)  [c] y = Gemm <transB = 1> (m, t, b)",
        "[d] d = Transpose(t)  [g] h = Gather(t, i)  [s] s = Sigmoid(h)  [b] y = MatMul(s, d)",
        "[b] m = Gemm <transB = 1> (x, t, b)  [g] h = Gather(t, i)  [c] k = Gemm <transB = 1> (h, t, b)  [s] y ="
        " Add(m, k)",
    ],
)
def test_a_table_with_two_readers_serves_both(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, as_by_hand: ByHand, sound: Sound, text: str
) -> None:
    """As where input and output embeddings are tied."""
    model = build(
        "g (int64[3] i, int64[3] j, float[3,4] x) => (float[3,n] y) <float[6,4] t, float[4,4] w, float[6] b>"
        f" {{ {text} }}"
    )
    data = samples(model)
    for name in ("onnxruntime", "onnxruntime-arm"):
        draft = calibrated(placed(model, EAGER[name], data, prefer="size"), data)
        assert any(q.role == "weight" for q in draft.plan.groups.values())
        sound(draft, as_by_hand(draft, data[:2]))


def test_a_lookup_that_is_an_output_keeps_its_name(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, as_by_hand: ByHand, sound: Sound
) -> None:
    model = build(
        "g (int64[3] i) => (float[3,4] h, float[3,4] y) <float[6,4] t, float[4,4] w> { [g] h = Gather(t, i)  [a] y ="
        " MatMul(h, w) }"
    )
    data = samples(model)
    draft = calibrated(placed(model, EAGER["onnxruntime"], data, prefer="size"), data)
    assert ops.weight_port(draft.model.graph[0]) == 0
    assert Site("t", "g", 0) in draft.plan.sites
    sound(draft, as_by_hand(draft, data[:2]))
