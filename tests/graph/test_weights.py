"""Constants are read and replaced at one node, and nobody else notices."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.graph.weights import array_at, put_constant

Build = Callable[..., ir.Model]
Compute = Callable[..., list[np.ndarray]]
W = np.arange(4, dtype=np.float32).reshape(2, 2)
NEW = np.full((2, 2), 7, np.float32)
X = {"x": np.eye(2, dtype=np.float32)}


def _model(build: Build, text: str, outputs: str = "float[2,2] y") -> ir.Model:
    return build(f"g (float[2,2] x) => ({outputs}) {{ {text} }}", w=W, b=np.ones(2, np.float32))


def test_a_constant_is_read_where_there_is_one(build: Build) -> None:
    node = _model(build, "y = Gemm(x, w)").graph[0]
    np.testing.assert_array_equal(array_at(node, 1), W)
    assert array_at(node, 0) is None
    assert array_at(node, 2) is None


def test_a_constant_with_one_reader_is_replaced_under_its_name(build: Build, compute: Compute) -> None:
    source = _model(build, "y = MatMul(x, w)")
    model = source.clone()
    put_constant(model.graph[0], 1, NEW, model)
    assert list(model.graph.initializers) == ["w"]
    np.testing.assert_array_equal(compute(model, X)[0], NEW)
    np.testing.assert_array_equal(compute(source, X)[0], W)


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("h = MatMul(x, w)  y = MatMul(h, w)", "float[2,2] h, float[2,2] y"),
        ("h = MatMul(x, w)", "float[2,2] h, float[2,2] w"),
        ("h = MatMul(w, w)", "float[2,2] h"),
    ],
)
def test_a_constant_with_other_readers_is_left_to_them(build: Build, compute: Compute, text: str, outputs: str) -> None:
    model = _model(build, text, outputs)
    put_constant(model.graph[0], 1, NEW, model)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), W)
    np.testing.assert_array_equal(array_at(model.graph[0], 1), NEW)
    first, *rest = compute(model, X)
    np.testing.assert_array_equal(first, (W @ NEW) if "MatMul(w, w)" in text else NEW)
    for other in rest:
        np.testing.assert_array_equal(other, W if "w" in outputs else NEW @ W)


def test_a_bias_is_added_under_a_free_name(build: Build, compute: Compute) -> None:
    model = build("g (float[2,2] x) => (float[2,2] y) { w_bias = Relu(x)  y = Gemm(w_bias, w) }", w=W)
    put_constant(model.graph[1], 2, np.array([10, 20], np.float32), model)
    assert set(model.graph.initializers) == {"w", "w_bias_1"}
    np.testing.assert_array_equal(compute(model, X)[0], W + np.array([10, 20]))


def test_a_constant_of_another_shape_keeps_no_old_shape(build: Build) -> None:
    model = _model(build, "y = Add(x, w)")
    put_constant(model.graph[0], 1, np.ones(2, np.float32), model)
    assert model.graph.initializers["w"].shape == ir.Shape([2])


def test_a_weight_outside_of_a_body_is_replaced_inside_only(build: Build, compute: Compute) -> None:
    model = build(
        "g (float[2,2] x, bool c) => (float[2,2] y) { y = If(c) <then_branch = t () => (float[2,2] p)"
        " { p = MatMul(x, w) }, else_branch = e () => (float[2,2] q) { q = Identity(x) }> }",
        w=W,
    )
    inner = next(node for node in model.graph.all_nodes() if node.op_type == "MatMul")
    put_constant(inner, 1, NEW, model)
    np.testing.assert_array_equal(compute(model, {**X, "c": np.array(True)})[0], NEW)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), W)
