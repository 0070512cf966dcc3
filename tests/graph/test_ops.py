"""The table of operators: where weights and data are, which axis a weight's scale leaves by, how much work there is."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.graph import ops
from halfeven.graph.shapes import infer_shapes

Build = Callable[..., ir.Model]
Compute = Callable[..., list[np.ndarray]]

# name: input shape, call, weight shape, weight port, axis of the weight's output channels, axis of the output's
LAYERS = {
    "conv": ((1, 4, 7, 6), "Conv(x, w)", (6, 4, 3, 2), 1, 0, 1),
    "conv in one dim": ((2, 4, 7), "Conv <strides = [2]> (x, w)", (6, 4, 3), 1, 0, 1),
    "conv in three dims": ((1, 2, 4, 5, 4), "Conv(x, w)", (3, 2, 2, 2, 2), 1, 0, 1),
    "grouped conv": ((1, 4, 7, 6), "Conv <group = 2> (x, w)", (6, 2, 3, 3), 1, 0, 1),
    "depthwise conv": ((1, 4, 7, 6), "Conv <group = 4> (x, w)", (4, 1, 3, 3), 1, 0, 1),
    "dilated conv": ((1, 4, 9, 9), "Conv <dilations = [2, 3]> (x, w)", (6, 4, 3, 3), 1, 0, 1),
    "transposed conv": ((1, 4, 5, 5), "ConvTranspose <strides = [2, 2]> (x, w)", (4, 6, 3, 3), 1, 1, 1),
    "grouped transposed conv": ((1, 4, 5, 5), "ConvTranspose <group = 2> (x, w)", (4, 3, 3, 3), 1, None, None),
    "gemm": ((3, 5), "Gemm(x, w)", (5, 6), 1, 1, 1),
    "gemm transposed": ((3, 5), "Gemm <transB = 1> (x, w)", (6, 5), 1, 0, 1),
    "gemm of a transposed input": ((5, 3), "Gemm <transA = 1> (x, w)", (5, 6), 1, 1, 1),
    "matmul": ((3, 5), "MatMul(x, w)", (5, 6), 1, 1, 1),
    "matmul of rank three": ((2, 3, 5), "MatMul(x, w)", (5, 6), 1, 1, 2),
    "batched matmul": ((2, 3, 5), "MatMul(x, w)", (2, 5, 6), 1, None, None),
    "matmul with the constant left": ((5, 3), "MatMul(w, x)", (6, 5), 0, 0, 0),
}


def _layer(build: Build, name: str, weight: np.ndarray) -> ir.Model:
    shape, call = LAYERS[name][:2]
    return build(f"g (float[{','.join(map(str, shape))}] x) => (float y) {{ y = {call} }}", w=weight)


@pytest.mark.parametrize("name", LAYERS)
def test_a_scale_along_the_weights_channel_axis_leaves_the_sum(build: Build, compute: Compute, name: str) -> None:
    shape, _, weight_shape, port, axis, out_axis = LAYERS[name]
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=weight_shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    node = _layer(build, name, weight).graph[0]
    assert ops.weight_port(node) == port
    assert ops.weight_axis(node, port) == axis
    if axis is None:
        return
    scale = rng.integers(1, 5, weight_shape[axis]).astype(np.float32)
    scaled = weight * scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    (before,), (after,) = (compute(_layer(build, name, w), {"x": x}) for w in (weight, scaled))
    assert out_axis is not None
    expected = before * scale.reshape([-1 if i == out_axis else 1 for i in range(before.ndim)])
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_multiply_adds_are_the_sum_of_a_layer_of_ones(build: Build, compute: Compute, name: str) -> None:
    """With all inputs and weights one and nothing padded, each multiply-add adds one to the sum of the output."""
    shape, _, weight_shape = LAYERS[name][:3]
    model = _layer(build, name, np.ones(weight_shape, np.float32))
    (y,) = compute(model, {"x": np.ones(shape, np.float32)})
    assert ops.multiply_adds(model.graph[0], {"x": shape, "y": y.shape}) == y.sum()


def test_multiply_adds_of_unknown_shapes_are_none(build: Build) -> None:
    node = _layer(build, "conv", np.ones((6, 4, 3, 2), np.float32)).graph[0]
    assert ops.multiply_adds(node, {}) == 0
    assert ops.multiply_adds(node, {"x": (1, 4, 7, 6)}) == 0
    relu = build("g (float[2] x) => (float[2] y) { y = Relu(x) }").graph[0]
    assert ops.multiply_adds(relu, {"x": (2,), "y": (2,)}) == 0


@pytest.mark.parametrize(
    ("call", "port"),
    [
        ("Conv(x, w)", 1),
        ("custom.Conv(x, w)", None),
        ("Conv(x, x)", None),
        ("MatMul(x, v)", None),
        ("Gather(t, i)", 0),
        ("Gather(it, i)", None),
        ("Gather(x, i)", None),
        ("Add(x, w)", None),
        ("LSTM(x, w, w)", None),
    ],
)
def test_only_a_constant_matrix_of_floats_is_a_weight(build: Build, call: str, port: int | None) -> None:
    model = build(
        f"g (float[1,4,1,1] x, int64[1] i) => (float y) {{ y = {call} }}",
        w=np.ones((4, 4, 1, 1), np.float32), v=np.ones(4, np.float32), t=np.ones((3, 4), np.float32),
        it=np.ones((3, 4), np.int64),
    )  # fmt: skip
    assert ops.weight_port(model.graph[0]) == port


def test_a_weight_that_the_caller_may_replace_is_none(build: Build) -> None:
    model = build("g (float[1,4] x, float[4,4] w) => (float y) { y = MatMul(x, w) }", w=np.ones((4, 4), np.float32))
    assert ops.weight_port(model.graph[0]) is None
    assert ops.data_ports(model.graph[0]) == [0, 1]


def test_data_are_the_floats_that_are_no_constants(build: Build) -> None:
    model = build(
        "g (float[1,4,2,2] x, float[4] s, int64[1] n) => (float y) {"
        " r = Resize(x, , s)  c = Clip(r, z)  p = Expand(c, n)  a = Add(p, k)  m = MatMul(a, a)  y = Cast <to = 1>"
        " (n) }",
        z=np.array(0, np.float32), k=np.ones(1, np.float32),
    )  # fmt: skip
    infer_shapes(model)
    found = {node.op_type: ops.data_ports(node) for node in model.graph}
    assert found == {"Resize": [0, 2], "Clip": [0], "Expand": [0], "Add": [0], "MatMul": [0, 1], "Cast": []}


@pytest.mark.parametrize(
    ("call", "bias"),
    [("Conv(x, w, b)", "b"), ("Conv(x, w)", None), ("Gemm(x, w, b)", "b"), ("MatMul(x, w)", None), ("Relu(x)", None)],
)
def test_the_bias_of_a_layer(build: Build, call: str, bias: str | None) -> None:
    model = build(f"g (float x) => (float y) {{ y = {call} }}", w=np.ones((2, 2), np.float32), b=np.ones(2, np.float32))
    found = ops.bias_of(model.graph[0])
    assert (found and found.name) == bias


@pytest.mark.parametrize(
    ("call", "shape", "expected"),
    [
        ("Conv <group = 4> (x, w)", (4, 1, 3, 3), True),
        ("Conv <group = 4> (x, w)", (8, 1, 3, 3), False),
        ("Conv <group = 2> (x, w)", (4, 2, 3, 3), False),
        ("Conv(x, w)", (4, 4, 1, 1), False),
        ("Conv(x, w)", (4, 1, 3, 3), False),
        ("ConvTranspose <group = 4> (x, w)", (4, 1, 3, 3), False),
    ],
)
def test_depthwise_is_one_input_and_one_output_channel_a_group(
    build: Build, call: str, shape: tuple[int, ...], expected: bool
) -> None:
    node = build(f"g (float x) => (float y) {{ y = {call} }}", w=np.ones(shape, np.float32)).graph[0]
    assert ops.is_depthwise(node) is expected


def test_the_lists_of_operators_do_not_overlap() -> None:
    kinds = [ops.COMPUTE_OPS, ops.RECURRENT_OPS, ops.SHAPE_OPS, ops.POST_OPS, ops.QUANTIZED_OPS]
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
    assert set(ops.TRAITS) - ops.COMPUTE_OPS == {"Gather"}
