"""Folding computes constants as ONNX Runtime does, believes no stale shape, and leaves the interface alone."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from halfeven.graph.constants import FOLDABLE, evaluate, fold_constants, lift_constants
from halfeven.graph.names import name_everything
from halfeven.graph.prepare import prepare

Build = Callable[..., ir.Model]
Compute = Callable[..., list[np.ndarray]]

A = np.array([[-7, -3, 0], [2, 5, -1]])
B = np.array([[2, -2, 3], [-4, 5, 3]])
X = np.array([[-2.5, -1.5, -0.5], [0.5, 1.5, 2.5]], np.float32)
CUBE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
NUMBERS = ("int64", "int32", "float32", "float64", "float16")
ODD = np.array([2.7, -2.7, 300, -1, 0, 0.5], np.float32)


def _ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def _cases() -> list[tuple]:
    """Operator, inputs, attributes, opset, number of outputs."""
    cases: list[tuple] = []

    def add(op: str, inputs: list, attributes: dict | None = None, opset: int = 17, outputs: int = 1) -> None:
        cases.append((op, inputs, attributes or {}, opset, outputs))

    for op in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Equal", "Greater", "Less"):
        for dtype in NUMBERS:
            add(op, [A.astype(dtype), (np.abs(B) if op == "Pow" else B).astype(dtype)])
            add(op, [A.astype(dtype), np.array(3, dtype)])
    for dtype in ("int64", "int32"):
        add("Mod", [A.astype(dtype), B.astype(dtype)])
        add("Mod", [A.astype(dtype), B.astype(dtype)], {"fmod": 1})
        add("ReduceSum", [A.astype(dtype), _ints(1)])
        add("CumSum", [A.astype(dtype), np.array(0)], {"reverse": 1})
    add("Mod", [X, np.array(0.7, np.float32)], {"fmod": 1})
    add("Pow", [A, np.array([2.0], np.float32)])
    for op in ("GreaterOrEqual", "LessOrEqual", "Sum", "Mean"):
        add(op, [X, X[0]])
    for op in ("And", "Or", "Xor"):
        add(op, [A > 0, B > 0])
    add("Not", [A > 0])
    add("Where", [A > 0, X, -X])
    add("Where", [A > 0, A, np.array(0)])
    for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "IsInf", "IsNaN", "Neg", "Reciprocal", "Relu", "Round",
               "Sigmoid", "Sign", "Sin", "Tanh"):  # fmt: skip
        add(op, [X * 2])
    for op in ("Abs", "Neg", "Sign"):
        add(op, [A])
    for op in ("Log", "Sqrt"):
        add(op, [np.abs(X)])
    for dtype in ("int8", "uint8", "int32", "int64", "bool", "float16", "float64"):
        add("Cast", [ODD], {"to": int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))})
        add("CastLike", [A, np.zeros(1, dtype)])
    for op in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"):
        for dtype in ("float32", "int32"):
            for keepdims in (0, 1):
                add(op, [A.astype(dtype)], {"axes": [-1], "keepdims": keepdims})
                add(op, [A.astype(dtype)], {"keepdims": keepdims})
        add(op, [X, _ints(0)], opset=18)
    add("ReduceSum", [X], {"axes": [1]}, opset=11)
    add("ReduceSum", [X], {"noop_with_empty_axes": 1})
    for op in ("ArgMax", "ArgMin"):
        add(op, [A], {"axis": 1})
        add(op, [np.zeros((2, 3), np.float32)], {"axis": 1, "keepdims": 0, "select_last_index": 1})
    add("Clip", [X, np.array(-1, np.float32), np.array(1, np.float32)])
    add("Clip", [X, None, np.array(1, np.float32)])
    add("Clip", [X], {"min": -1.0, "max": 1.0}, opset=7)
    add("Concat", [A, B], {"axis": -1})
    add("ConstantOfShape", [_ints(2, 3)])
    add("ConstantOfShape", [_ints(2)], {"value": numpy_helper.from_array(_ints(7))})
    add("ConstantOfShape", [_ints()])
    add("CumSum", [X, np.array(1)])
    add("CumSum", [A, np.array(-1)], {"exclusive": 1, "reverse": 1})
    add("Expand", [X, _ints(4, 1, 1)])
    for axis in (0, 2, -1):
        add("Flatten", [CUBE], {"axis": axis})
    add("Gather", [A, _ints(-1, 0)], {"axis": 1})
    add("Gather", [A, np.array(1)])
    add("GatherElements", [A, np.array([[0, -1, 1]])])
    add("GatherND", [A, np.array([[0, 1], [1, 2]])])
    add("GatherND", [np.arange(8).reshape(2, 2, 2), np.array([[1], [0]])], {"batch_dims": 1})
    add("MatMul", [X, X.T.copy()])
    add("MatMul", [A, B.T.copy()])
    add("OneHot", [_ints(0, 2, -1, 9), np.array(3), np.array([0, 1], np.float32)])
    add("Pad", [X, _ints(0, 1, 0, 2), np.array(9, np.float32)])
    add("Pad", [X, _ints(1, 1, 0, 2)], {"mode": "reflect"})
    add("Pad", [X, _ints(1, 1, 0, 2)], {"mode": "edge"})
    add("Pad", [X], {"pads": [0, 1, 0, 2], "value": 3.0}, opset=10)
    add("Range", [np.array(5), np.array(-1), np.array(-2)])
    add("Range", [np.array(5), np.array(1), np.array(2)])
    add("Range", [np.array(0, np.float32), np.array(1, np.float32), np.array(0.3, np.float32)])
    add("Reshape", [X, _ints(0, -1, 1)])
    add("Reshape", [np.zeros((0, 3), np.float32), _ints(0, 3)], {"allowzero": 1})
    add("ScatterElements", [X, np.array([[1], [-1]]), np.array([[9], [7]], np.float32)], {"axis": 1})
    add("ScatterND", [A, np.array([[0, 1], [1, -1]]), _ints(5, 6)])
    add("ScatterND", [X, np.array([[0], [0]]), X * 2], {"reduction": "add"}, opset=18)
    add("Shape", [CUBE], {"start": -2, "end": 3})
    add("Size", [CUBE])
    add("Slice", [A, _ints(0), _ints(2**63 - 1), _ints(1), _ints(2)])
    add("Slice", [A, _ints(-1), _ints(-(2**63)), _ints(-1), _ints(-1)])
    add("Slice", [A], {"starts": [0, 1], "ends": [1, 3]}, opset=9)
    add("Split", [A], {"axis": 1}, outputs=3)
    add("Split", [A, _ints(1, 2)], {"axis": 1}, outputs=2)
    add("Split", [A], {"axis": 1, "split": [1, 2]}, opset=11, outputs=2)
    add("Split", [A], {"axis": 1, "num_outputs": 2}, opset=18, outputs=2)
    add("Squeeze", [X[None, :, None], _ints(0, 2)])
    add("Squeeze", [X[None]], {"axes": [0]}, opset=11)
    add("Unsqueeze", [X, _ints(0, -1)])
    add("Unsqueeze", [X], {"axes": [0, 3]}, opset=11)
    add("Tile", [A, _ints(2, 1)])
    add("Transpose", [CUBE], {"perm": [2, 0, 1]})
    add("Trilu", [A, np.array(1)])
    add("Trilu", [X, np.array(-1)], {"upper": 0})
    return cases


CASES = _cases()


def test_each_foldable_operator_is_compared() -> None:
    assert {case[0] for case in CASES} == FOLDABLE


@pytest.mark.parametrize("op", sorted(FOLDABLE))
def test_a_folded_operator_computes_what_onnx_runtime_computes(op: str) -> None:
    for _, inputs, attributes, opset, outputs in (case for case in CASES if case[0] == op):
        given = [f"i{k}" if array is not None else "" for k, array in enumerate(inputs)]
        proto = helper.make_node(op, given, [f"o{k}" for k in range(outputs)], **attributes)
        feeds = {name: array for name, array in zip(given, inputs, strict=True) if array is not None}
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ]
        graph = helper.make_graph([proto], "g", infos, [onnx.ValueInfoProto(name=name) for name in proto.output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = session.run(None, feeds)
        node = ir.from_proto(model).graph[0]
        actual = evaluate(node, inputs, opset)
        assert actual is not None, (op, attributes, opset)
        for want, got in zip(expected, actual, strict=True):
            assert (got.dtype, got.shape) == (want.dtype, want.shape), (op, attributes, opset)
            # One unit in the last place of float16; float32 functions differ by a few of theirs.
            rtol = 1e-3 if got.dtype == np.float16 else 1e-6
            np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-7, err_msg=f"{op} {attributes} {opset}")


def _simplified(model: ir.Model) -> ir.Model:
    name_everything(model)
    lift_constants(model)
    fold_constants(model)
    return model


def _ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


def test_all_forms_of_constant_become_initializers_and_strings_stay(build: Build) -> None:
    model = build("""g (float[1] x) => (float[1] y, string[2] s, float[1] c) {
      a = Constant <value = float[1] {1.0}> ()
      b = Constant <value_float = 2.0> ()
      d = Constant <value_floats = [3.0]> ()
      e = Constant <value_ints = [1]> ()
      f = Constant <value_int = 0> ()
      t = Constant <value_strings = ["a", "ä"]> ()
      s = Identity(t)
      c = Constant <value = float[1] {4.0}> ()
      p = Add(x, a)  q = Add(p, b)  r = Add(q, d)  u = Reshape(r, e)  v = Gather(u, f)  y = Reshape(v, e)
    }""")
    lift_constants(model)
    assert set(model.graph.initializers) == {"a", "b", "d", "e", "f"}
    assert {n: v.const_value.dtype.name for n, v in model.graph.initializers.items()} == {
        "a": "FLOAT", "b": "FLOAT", "d": "FLOAT", "e": "INT64", "f": "INT64",
    }  # fmt: skip
    assert [v.const_value.shape.rank() for v in model.graph.initializers.values()] == [1, 0, 1, 1, 0]
    assert _ops(model)["Constant"] == 2


def test_a_default_input_becomes_a_weight_and_is_told_of(build: Build) -> None:
    text = "g (float[2] x, float[2] w = {1, 2}) => (float[2] y) { y = Add(x, w) }"
    model = build(text)
    (note,) = lift_constants(model)
    assert note == "inputs with default values are taken as fixed weights and cannot be fed (1): 'w'"
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert list(model.graph.initializers) == ["w"]
    old = build(text)
    old.ir_version = 3
    assert lift_constants(old) == []
    assert old.ir_version == 4


def test_a_chain_of_constants_folds_to_one_and_keeps_its_name(build: Build, compute: Compute) -> None:
    model = build("""g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 5}> {
      a = Add(w, v)  b = Sqrt(a)  z = Neg(b)  y = Mul(x, z)
    }""")
    feeds = {"x": np.array([1, -1], np.float32)}
    before = compute(model, feeds)
    _simplified(model)
    assert [node.op_type for node in model.graph] == ["Mul"]
    assert list(model.graph.initializers) == ["z"]
    np.testing.assert_allclose(compute(model, feeds)[0], before[0], rtol=1e-6)


def test_quantized_weights_random_numbers_and_outputs_are_not_folded(build: Build) -> None:
    model = build("""g (float[2] x) => (float[2] y, float[2] c, float[2] r)
    <int8[2] w = {1, 2}, float s = {0.5}, float[2] k = {1, 2}> {
      d = DequantizeLinear(w, s)  y = Add(x, d)  c = Neg(k)  n = RandomNormalLike(k)  r = Add(x, n)
    }""")
    _simplified(model)
    assert _ops(model) == {"DequantizeLinear": 1, "Add": 2, "Neg": 1, "RandomNormalLike": 1}


def test_a_small_file_cannot_ask_for_gigabytes(build: Build) -> None:
    model = build("""g (float[1] x) => (float[N,M] y)
    <int64[2] s = {1000000, 1000000}, float one = {1}, int64 a = {0}, int64 b = {1000000000000}, int64 c = {1}> {
      e = Expand(one, s)  y = Add(x, e)  r = Range(a, b, c)  f = Cast <to = 1> (r)  z = Add(f, x)
    }""")
    name_everything(model)
    notes = fold_constants(model)
    assert any("Expand 'Expand_e' of constants stays" in note for note in notes)
    assert _ops(model) == {"Expand": 1, "Add": 1}


def test_a_result_above_the_limit_is_folded_only_where_it_frees_as_much(build: Build) -> None:
    text = "g (float[9] x) => (float[9,9] y) { t = Transpose(w)  y = MatMul(x, t) }"
    weight = np.ones((9, 9), np.float32)
    model = build(text, w=weight)
    name_everything(model)
    fold_constants(model, limit_bytes=16)
    assert [node.op_type for node in model.graph] == ["MatMul"]
    shared = build(text.replace("y) {", "y, float[9] z) { z = MatMul(x, w) "), w=weight)
    name_everything(shared)
    fold_constants(shared, limit_bytes=16)
    assert _ops(shared) == {"MatMul": 2, "Transpose": 1}


def test_shape_arithmetic_folds_where_dims_are_static(build: Build, compute: Compute) -> None:
    model = build("""g (float[N,3,4] x) => (float[N,12] y) <int64[1] zero = {0}, int64[1] i = {1}, int64[1] j = {3}> {
      s = Shape(x)  n = Gather(s, zero)  t = Slice(s, i, j)  k = ReduceProd(t)  q = Concat <axis = 0> (n, k)
      f = Squeeze(k)  u = Unsqueeze(f, zero)  v = Concat <axis = 0> (n, u)  y = Reshape(x, v)
    }""")
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}
    before = compute(model, feeds)
    _simplified(model)
    assert _ops(model) == {"Shape": 1, "Gather": 1, "Concat": 1, "Reshape": 1}
    np.testing.assert_array_equal(compute(model, feeds)[0], before[0])


def test_a_stale_inner_shape_is_not_believed(build: Build, compute: Compute) -> None:
    model = build("""g (float[N,4] x) => (float[M] y) <float[1,4] h> {
      h = Relu(x)  s = Shape(h)  z = ConstantOfShape(s)  r = Add(h, z)  m = Shape <start = 0, end = 1> (r)
      y = Cast <to = 1> (m)
    }""")
    _simplified(model)
    assert "Shape" in _ops(model)
    assert compute(model, {"x": np.ones((5, 4), np.float32)})[0] == [5]


def test_a_static_graph_loses_all_its_shape_arithmetic(build: Build) -> None:
    model = build("""g (float[2,3,4] x) => (float[6,4] y) <int64[1] zero = {0}, int64[1] i = {1}, int64[1] m = {-1}> {
      s = Shape(x)  a = Gather(s, zero)  b = Gather(s, i)  ab = Mul(a, b)  t = Concat <axis = 0> (ab, m)
      h = Reshape(x, t)  r = Shape(h)  u = Reshape(h, r)  z = Size(u)  c = Cast <to = 1> (z)  y = Add(u, c)
    }""")
    _simplified(model)
    assert _ops(model) == {"Reshape": 2, "Add": 1}


def test_identities_go_where_the_interface_allows(build: Build, compute: Compute) -> None:
    model = build("""g (float[2] x) => (float[2] a, float[2] b, float[2] c, float[2] d) <float[2] w = {1, 2}> {
      i = Identity(x)  a = Relu(i)  b = Identity(a)  c = Identity(x)  e = Exp(x)  d = Identity(e)
    }""")
    feeds = {"x": np.array([-1, 2], np.float32)}
    before = compute(model, feeds)
    _simplified(model)
    assert [(node.op_type, node.outputs[0].name) for node in model.graph] == [
        ("Relu", "a"), ("Identity", "b"), ("Identity", "c"), ("Exp", "d"),
    ]  # fmt: skip
    for was, now in zip(before, compute(model, feeds), strict=True):
        np.testing.assert_array_equal(was, now)


def test_an_identity_of_an_outer_value_stays_the_branchs_output(build: Build, compute: Compute) -> None:
    model = build("""g (float[2] x, bool c) => (float[2] y) {
      h = Relu(x)
      y = If (c) <then_branch = a () => (float[2] p) { p = Identity(h) },
                  else_branch = b () => (float[2] q) { e = Exp(h)  q = Identity(e) }>
    }""")
    feeds = {"x": np.array([-1, 2], np.float32), "c": np.array(True)}
    before = compute(model, feeds)
    _simplified(model)
    assert _ops(model) == {"Relu": 1, "If": 1, "Identity": 1, "Exp": 1}
    np.testing.assert_array_equal(compute(model, feeds)[0], before[0])


def test_dropout_goes_unless_it_trains_or_its_mask_is_read(build: Build) -> None:
    model = build("""g (float[2] x) => (float[2] y, bool[2] m) <float r = {0.5}, bool t = {1}, bool f = {0}> {
      a = Dropout(x)  b = Relu(a)  c = Dropout(b, r, f)  d = Relu(c)  e, m = Dropout(d)  h = Relu(e)
      i = Dropout(h, r, t)  y = Relu(i)
    }""")
    _simplified(model)
    assert _ops(model) == {"Relu": 4, "Dropout": 2}
    old = _simplified(build("g (float[2] x) => (float[2] y) { a = Dropout <ratio = 0.5> (x)  y = Relu(a) }", opset=9))
    assert _ops(old) == {"Relu": 1}


@pytest.mark.parametrize("taken", [True, False])
def test_an_if_of_constant_condition_becomes_its_branch(build: Build, compute: Compute, taken: bool) -> None:
    model = build(
        """g (float[2] x) => (float[2] y, float[2] z) {
      n = Not(c)
      y, k = If (n) <
        then_branch = a () => (float[2] p, float[2] q) <float[2] w = {5, 6}> { p = Add(x, w)  q = Identity(w) },
        else_branch = b () => (float[2] r, float[2] s) { s = Exp(x)  r = Neg(s) }
      >
      z = Add(k, x)
    }""",
        c=np.array(taken),
    )
    feeds = {"x": np.array([-1, 2], np.float32)}
    before = compute(model, feeds)
    _simplified(model)
    assert "If" not in _ops(model)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    for was, now in zip(before, compute(model, feeds), strict=True):
        np.testing.assert_array_equal(was, now)


def test_dead_nodes_go_with_what_their_subgraphs_read(build: Build) -> None:
    model = build("""g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
      h = Exp(x)
      k = If (c) <then_branch = a () => (float[2] p) { p = Add(h, w) },
                  else_branch = b () => (float[2] q) { q = Neg(h) }>
      y = Relu(x)
    }""")
    _simplified(model)
    assert [node.op_type for node in model.graph] == ["Relu"]
    assert not model.graph.initializers
    assert [value.name for value in model.graph.inputs] == ["x", "c"]


def test_constants_fold_inside_a_loop_body(build: Build, compute: Compute) -> None:
    model = build("""g (float[2] x) => (float[2] y) <int64 n = {3}, bool t = {1}, float[2] w = {1, 2}> {
      y = Loop (n, t, x) <body = b (int64 i, bool go, float[2] v) => (bool on, float[2] o) {
        on = Identity(go)  k = Neg(w)  kk = Mul(k, k)  o = Add(v, kk)
      }>
    }""")
    feeds = {"x": np.array([1, 1], np.float32)}
    before = compute(model, feeds)
    _simplified(model)
    assert _ops(model) == {"Loop": 1, "Identity": 1, "Add": 1}
    np.testing.assert_array_equal(compute(model, feeds)[0], before[0])


def test_a_deep_chain_does_not_exhaust_the_stack(build: Build) -> None:
    nodes = "\n".join(f"h{i + 1} = Neg(h{i})" for i in range(3000))
    model = build(f"g (float[1] x) => (float[1] y) <float[1] h0 = {{1}}> {{ {nodes} y = Add(x, h3000) }}")
    prepared, _ = prepare(model)
    assert [node.op_type for node in prepared.graph] == ["Add"]
