"""Patches are what the weights multiply: patches @ matrix.T is the layer's output at the picked positions."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfeven.graph.patches import matrix_of, patches, vector_length, weight_of

Build = Callable[..., ir.Model]
Compute = Callable[..., list[np.ndarray]]
EVERYTHING = 10**9

LAYERS = {
    "plain": ((2, 3, 7, 6), "Conv(x, w)", (4, 3, 3, 2)),
    "strides": ((1, 3, 9, 8), "Conv <strides = [2, 3]> (x, w)", (4, 3, 3, 3)),
    "dilations": ((1, 3, 9, 9), "Conv <dilations = [2, 3]> (x, w)", (4, 3, 3, 3)),
    "asymmetric pads": ((2, 3, 5, 6), "Conv <pads = [0, 1, 2, 3]> (x, w)", (4, 3, 3, 3)),
    "all at once": (
        (2, 4, 11, 9), "Conv <pads = [1, 2, 3, 0], strides = [2, 3], dilations = [3, 2], group = 2> (x,"
            " w)", (6, 2, 3, 2),
    ),
    "groups": ((1, 6, 5, 5), "Conv <group = 3> (x, w)", (9, 2, 2, 2)),
    "depthwise": ((2, 4, 5, 5), "Conv <group = 4, pads = [1, 1, 1, 1]> (x, w)", (4, 1, 3, 3)),
    "depthwise with two outputs a channel": ((1, 4, 5, 5), "Conv <group = 4> (x, w)", (8, 1, 3, 3)),
    "same upper": ((1, 3, 8, 7), 'Conv <auto_pad = "SAME_UPPER", strides = [3, 2]> (x, w)', (4, 3, 4, 3)),
    "same lower": ((1, 3, 8, 7), 'Conv <auto_pad = "SAME_LOWER", strides = [3, 2]> (x, w)', (4, 3, 4, 3)),
    "same with strides beyond the kernel": ((1, 3, 7, 8), 'Conv <auto_pad = "SAME_UPPER", strides = [3, 3]> (x,'
        ' w)', (4, 3, 1, 2)),
    "valid": ((1, 3, 8, 7), 'Conv <auto_pad = "VALID", strides = [2, 2]> (x, w)', (4, 3, 3, 3)),
    "one dimension": ((2, 3, 9), "Conv <pads = [2, 1], strides = [2], dilations = [2]> (x, w)", (4, 3, 3)),
    "three dimensions": ((1, 2, 4, 5, 6), "Conv <pads = [1, 0, 1, 0, 1, 0], strides = [1, 2, 2]> (x,"
        " w)", (3, 2, 2, 3, 2)),
    "the whole picture": ((2, 3, 4, 4), "Conv(x, w)", (5, 3, 4, 4)),
    "gemm": ((5, 3), "Gemm(x, w)", (3, 4)),
    "gemm transposed": ((5, 3), "Gemm <transB = 1> (x, w)", (4, 3)),
    "matmul": ((5, 3), "MatMul(x, w)", (3, 4)),
    "matmul of rank four": ((2, 2, 5, 3), "MatMul(x, w)", (3, 4)),
    "matmul of a vector": ((3,), "MatMul(x, w)", (3, 4)),
}  # fmt: skip


def _layer(build: Build, shape: tuple[int, ...], call: str, weight: np.ndarray) -> ir.Node:
    return build(f"g (float[{','.join(map(str, shape))}] x) => (float y) {{ y = {call} }}", w=weight).graph[0]


def _rows(y: np.ndarray, groups: int, conv: bool) -> np.ndarray:
    """The output as (groups, vectors, outputs of a group)."""
    if not conv:
        return y.reshape(1, -1, y.shape[-1])
    positions = y.reshape(y.shape[0], groups, y.shape[1] // groups, -1)
    return positions.transpose(1, 0, 3, 2).reshape(groups, -1, y.shape[1] // groups)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("limit", [EVERYTHING, 5])
def test_patches_times_weights_are_the_layers_output(build: Build, compute: Compute, name: str, limit: int) -> None:
    shape, call, weight_shape = LAYERS[name]
    rng = np.random.default_rng(3)
    x, weight = rng.normal(size=shape).astype(np.float32), rng.normal(size=weight_shape).astype(np.float32)
    node = _layer(build, shape, call, weight)
    assert node.graph is not None
    (y,) = compute(ir.Model(node.graph, ir_version=8), {"x": x})
    found, matrix = patches(node, x, limit), matrix_of(node, weight)
    assert found is not None
    assert vector_length(node) == matrix.shape[2] == found.shape[2]
    conv = node.op_type == "Conv"
    expected = _rows(y, matrix.shape[0], conv)
    items = shape[0] if conv else 1
    each = expected.shape[1] // items
    picked = np.arange(each) if each <= limit else np.arange(limit) * each // limit
    rows = (np.arange(items)[:, None] * each + picked).ravel()
    np.testing.assert_allclose(found @ matrix.transpose(0, 2, 1), expected[:, rows], rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.integers(5, 9),
    st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
)  # fmt: skip
def test_any_window_of_one_dimension(
    kernel: int, stride: int, dilation: int, left: int, right: int, size: int, auto: str
) -> None:
    """Against the sum written out, so that no other convolution is trusted."""
    if (kernel - 1) * dilation + 1 > size:
        return
    rng = np.random.default_rng(kernel)
    x, weight = rng.normal(size=(1, 2, size)).astype(np.float32), rng.normal(size=(3, 2, kernel)).astype(np.float32)
    attributes = [ir.AttrInt64s("strides", [stride]), ir.AttrInt64s("dilations", [dilation])]
    if auto == "NOTSET":
        attributes.append(ir.AttrInt64s("pads", [left, right]))
    else:
        attributes.append(ir.AttrString("auto_pad", auto))
        count = -(-size // stride) if auto != "VALID" else 0
        total = max((count - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        left, right = (total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2)
    source, w = ir.Value(name="x"), ir.Value(name="w", const_value=ir.tensor(weight, name="w"))
    node = ir.Graph([source], [], nodes=[ir.Node("", "Conv", [source, w], attributes)], initializers=[w])[0]
    padded = np.pad(x, [(0, 0), (0, 0), (left, right)])
    expected = [
        [
            sum(padded[0, c, start + t * dilation] * weight[o, c, t] for c in range(2) for t in range(kernel))
            for o in range(3)
        ]
        for start in range(0, padded.shape[2] - (kernel - 1) * dilation, stride)
    ]
    found = patches(node, x, EVERYTHING)
    assert found is not None
    np.testing.assert_allclose(found[0] @ matrix_of(node, weight)[0].T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_the_matrix_gives_the_weight_back(build: Build, name: str) -> None:
    shape, call, weight_shape = LAYERS[name]
    weight = np.random.default_rng(1).normal(size=weight_shape).astype(np.float32)
    node = _layer(build, shape, call, weight)
    np.testing.assert_array_equal(weight_of(node, matrix_of(node, weight), weight_shape), weight)


def test_the_limit_is_for_each_item_and_picks_evenly(build: Build) -> None:
    node = _layer(build, (2, 1, 100), "Conv(x, w)", np.ones((1, 1, 1), np.float32))
    x = np.arange(200, dtype=np.float32).reshape(2, 1, 100)
    found = patches(node, x, 4)
    assert found is not None
    assert found.ravel().tolist() == [0, 25, 50, 75, 100, 125, 150, 175]


def test_an_empty_batch_has_no_patches(build: Build) -> None:
    node = _layer(build, (0, 3, 5, 5), "Conv(x, w)", np.ones((4, 3, 3, 3), np.float32))
    found = patches(node, np.zeros((0, 3, 5, 5), np.float32), 8)
    assert found is None or found.size == 0


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        ("ConvTranspose(x, w)", (3, 4, 3, 3)),
        ("Add(x, w)", (3, 5, 5)),
        ("MatMul(w, x)", (5, 5)),
        ("MatMul(x, w)", (3, 5, 4)),
    ],
)
def test_other_operators_have_no_vectors(build: Build, call: str, shape: tuple[int, ...]) -> None:
    node = _layer(build, (1, 3, 5, 5), call, np.ones(shape, np.float32))
    assert vector_length(node) == 0


def test_a_node_without_the_form_has_no_patches(build: Build) -> None:
    node = _layer(build, (1, 3, 5, 5), "ConvTranspose(x, w)", np.ones((3, 4, 3, 3), np.float32))
    assert patches(node, np.ones((1, 3, 5, 5), np.float32), 8) is None
