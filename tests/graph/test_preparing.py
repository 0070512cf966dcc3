"""A prepared model computes what its source computes, and the source is not touched."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.graph.model import load
from halfeven.graph.prepare import inline_functions, prepare
from halfeven.graph.shapes import infer_shapes

Build = Callable[..., ir.Model]
Compute = Callable[..., list[np.ndarray]]

FUNCTIONS = """g (float[2,3] x) => (float[2,3] y) {
  a = local.Twice <k = 2.0> (x)  b = local.Twice(a)  y = Add(a, b)
}
<domain: "local", opset_import: ["" : 17, "local" : 1]> Twice <k: float = 3.0> (u) => (v) {
  c = Constant <value_float: float = @k> ()  d = local.Plain(u)  v = Mul(d, c)
}
<domain: "local", opset_import: ["" : 17]> Plain (u) => (v) { h = Relu(u)  v = Neg(h) }"""

GRAPHS = {
    "functions": FUNCTIONS,
    "scalar output": "g (float[2,3] x) => (float y) { h = ReduceSum <keepdims = 0> (x)  y = Sqrt(h) }",
    "omitted inputs": "g (float[2,3] x) => (float[2,3] y) <float m = {1}> { h = Clip(x, , m)  y = Clip(h) }",
    "input as output": "g (float[2,3] x) => (float[2,3] x, float[2,3] y) { y = Neg(x) }",
    "initializer as output": "g (float[2,3] x) => (float[2] w, float[2,3] y) <float[2] w = {1, 2}> { y = Neg(x) }",
    "unused input": "g (float[2,3] x, float[7] z) => (float[2,3] y) { y = Neg(x) }",
    "scan": """g (float[2,3] x) => (float[3] y, float[2,3] z) <float[3] s = {0, 0, 0}> {
      y, z = Scan <num_scan_inputs = 1, body = b (float[3] a, float[3] e) => (float[3] o, float[3] p) {
        k = Constant <value = float[1] {2.0}> ()  m = Mul(e, k)  o = Add(a, m)  p = Identity(o)
      }> (s, x)
    }""",
    "nested ifs": """g (float[2,3] x) => (float[2,3] y) <bool t = {1}, float zero = {0}> {
      m = ReduceMax <keepdims = 0> (x)  c = Greater(m, zero)
      y = If (c) <
        then_branch = a () => (float[2,3] p) {
          p = If (t) <then_branch = d () => (float[2,3] q) { h = Exp(x)  q = Neg(h) },
                      else_branch = e () => (float[2,3] q) { q = Neg(x) }>
        },
        else_branch = b () => (float[2,3] r) { r = Identity(x) }
      >
    }""",
    "sequences": """g (float[2,3] x) => (float[4,3] y) { s = SequenceConstruct(x, x)  t = Identity(s)
      y = ConcatFromSequence <axis = 0> (t) }""",
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_prepared_model_computes_what_its_source_computes(build: Build, compute: Compute, name: str) -> None:
    model = build(GRAPHS[name])
    feeds = {"x": np.array([[-1, 2, 3], [0.5, -4, 1]], np.float32)}
    feeds |= {"z": np.ones(7, np.float32)} if name == "unused input" else {}
    before = compute(model, feeds)
    text = ir.to_onnx_text(model)
    prepared, _ = prepare(load(model))
    assert ir.to_onnx_text(model) == text
    for part in ("inputs", "outputs"):
        source, result = getattr(model.graph, part), getattr(prepared.graph, part)
        assert [(v.name, v.dtype, v.shape) for v in source] == [(v.name, v.dtype, v.shape) for v in result]
    for was, now in zip(before, compute(prepared, feeds), strict=True):
        np.testing.assert_allclose(now, was, rtol=1e-6)


def test_the_sources_bytes_and_tensors_are_untouched(build: Build) -> None:
    model = build(
        """g (float[1,1,4,4] x) => (float[1,2,4,4] y) {
          h = Conv(x, w)  i = BatchNormalization(h, s, s, s, s)  y = Mul(i, k)
        }""",
        w=np.ones((2, 1, 1, 1), np.float32), s=np.ones(2, np.float32), k=np.full((2, 1, 1), 2, np.float32),
    )  # fmt: skip
    before = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    prepared, notes = prepare(model)
    assert notes == ["1 BatchNormalization folded into Conv", "1 Mul folded into Conv"]
    assert len(prepared.graph) == 1
    ir.serde.serialize_model(prepared)
    assert ir.serde.serialize_model(model).SerializeToString(deterministic=True) == before


def test_functions_are_inlined_and_gone(build: Build) -> None:
    prepared, _ = prepare(build(FUNCTIONS))
    assert not prepared.functions
    assert Counter(node.op_type for node in prepared.graph) == {"Relu": 2, "Neg": 2, "Mul": 2, "Add": 1}
    names = [node.name for node in prepared.graph]
    assert len(set(names)) == len(names)


def test_a_function_of_another_opset_stays_a_call_and_is_told_of(build: Build) -> None:
    model = build(FUNCTIONS.replace('["" : 17]> Plain', '["" : 13]> Plain'))
    (note,) = inline_functions(model)
    assert "stay calls and in float" in note
    assert "version" in note
    prepared, _ = prepare(model)
    assert prepared.functions


def test_every_tensor_of_a_static_graph_gets_its_shape(build: Build) -> None:
    model = build("g (float[N,3] x) => (float[N,4] y) <float[9,9] h> { h = MatMul(x, w)  y = Relu(h) }",
                  w=np.ones((3, 4), np.float32))  # fmt: skip
    assert infer_shapes(model) == []
    value = model.graph[0].outputs[0]
    assert [str(dim) for dim in value.shape] == ["N", "4"]
    assert value.dtype == ir.DataType.FLOAT


def test_a_shape_that_nobody_can_infer_stays_as_declared(build: Build) -> None:
    model = build("""g (float[2] x) => (float y) <float[2,5] h> {
      h = custom.Magic(x)  k = Relu(h)  j = custom.Magic(k)  y = Relu(j)
    }""")
    (note,) = infer_shapes(model)
    assert note == "2 of 4 tensors have no known shape"
    assert list(model.graph[0].outputs[0].shape) == [2, 5]


def test_a_graph_that_contradicts_itself_is_left_to_the_runtime(build: Build) -> None:
    model = build("g (float[2] x) => (float y) <float[3] w = {1, 2, 3}> { y = Add(x, w) }")
    prepared, _ = prepare(model)
    assert len(prepared.graph) == 1


def test_preparing_twice_changes_nothing_more(build: Build) -> None:
    for text in GRAPHS.values():
        once, _ = prepare(build(text))
        twice, _ = prepare(once)
        assert ir.to_onnx_text(twice) == ir.to_onnx_text(once)
