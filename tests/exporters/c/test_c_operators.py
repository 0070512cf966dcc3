"""Promised: C computes each operator's integers as the simulation of the integer target does, every code of every output
alike, on codes that reach all limits; and both are within one code of the QDQ graph in floats, whose operators are
ONNX Runtime's own, so that no rule of an operator is misread.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Site
from halfeven.numerics.quantize import quantize
from halfeven.run.ort import OrtExecutor

IN = "agraph (float[1,4,9,10] x) => (float[{out}] y)"
HEAD = "c = Conv <pads=[1,1,1,1]> (x, w, b)"
CONV = "<float[4,4,3,3] w, float[4] b"


def after_conv(node: str, out: str, more: str = "") -> str:
    """A graph whose node reads `c`, the codes of a convolution of shape [1, 4, 9, 10]."""
    return f"{IN.format(out=out)} {CONV}{more}> {{ {HEAD} {node} }}"


SAME = "1,4,9,10"
GRAPHS: dict[str, tuple[str, str]] = {
    "conv, strided and padded unevenly": (
        "convolution",
        "agraph (float[1,3,11,70] x) => (float[1,5,5,35] y) <float[5,3,3,4] w, float[5] b>"
        "{ y = Conv <pads=[0,1,1,2], strides=[2,2]> (x, w, b) }",
    ),
    "conv, dilated": (
        "convolution",
        "agraph (float[1,2,12,13] x) => (float[1,3,8,9] y) <float[3,2,3,3] w> { y = Conv <dilations=[2,2]> (x, w) }",
    ),
    "conv, pads beyond the kernel": (
        "convolution",
        "agraph (float[1,1,3,3] x) => (float[1,2,5,7] y) <float[2,1,3,3] w>"
        "{ y = Conv <pads=[2,3,2,3], dilations=[1,1]> (x, w) }",
    ),
    "conv, depthwise with ReLU6": (
        "convolution",
        "agraph (float[1,6,9,9] x) => (float[1,6,9,9] y) <float[6,1,3,3] w, float[6] b, float zero = {0}, float six = {6}>"
        "{ c = Conv <group=6, pads=[1,1,1,1]> (x, w, b) y = Clip (c, zero, six) }",
    ),
    "conv, grouped, pointwise, with Relu": (
        "convolution",
        "agraph (float[1,6,9,15] x) => (float[1,4,9,15] y) <float[4,3,1,1] w, float[4] b>"
        "{ c = Conv <group=2> (x, w, b) y = Relu (c) }",
    ),
    "conv of one axis, SAME_LOWER": (
        "convolution",
        "agraph (float[1,3,90] x) => (float[1,4,45] y) <float[4,3,4] w, float[4] b>"
        '{ y = Conv <auto_pad="SAME_LOWER", strides=[2]> (x, w, b) }',
    ),
    "transposed conv, strided, output padding": (
        "transposed",
        "agraph (float[1,3,4,5] x) => (float[1,2,9,11] y) <float[3,2,3,3] w, float[2] b>"
        "{ y = ConvTranspose <strides=[2,2], pads=[0,1,1,0], output_padding=[1,1]> (x, w, b) }",
    ),
    "transposed conv, grouped, dilated": (
        "transposed",
        "agraph (float[1,4,5,5] x) => (float[1,6,13,7] y) <float[4,3,3,2] w>"
        "{ y = ConvTranspose <group=2, strides=[2,1], dilations=[2,2]> (x, w) }",
    ),
    "gemm, transB": (
        "product",
        "agraph (float[3,20] x) => (float[3,7] y) <float[7,20] w, float[7] b> { y = Gemm <transB=1> (x, w, b) }",
    ),
    "gemm, plain, with Relu": (
        "product",
        "agraph (float[3,20] x) => (float[3,7] y) <float[20,7] w, float[7] b> { c = Gemm (x, w, b) y = Relu (c) }",
    ),
    "matmul by a weight": (
        "product",
        "agraph (float[2,3,20] x) => (float[2,3,7] y) <float[20,7] w> { y = MatMul (x, w) }",
    ),
    "matmul of a weight": (
        "product",
        "agraph (float[2,20,3] x) => (float[2,7,3] y) <float[7,20] w> { y = MatMul (w, x) }",
    ),
    "matmul of two activations that broadcast": (
        "product",
        "agraph (float[2,1,5,6] x, float[3,6,4] z) => (float[2,3,5,4] y) { y = MatMul (x, z) }",
    ),
    "add of two": ("addition", after_conv("s = Sigmoid (c) y = Add (c, s)", SAME)),
    "add of a constant for each channel": ("addition", after_conv("s = Sigmoid (c) y = Add (s, k)", SAME, ", float[4,1,1] k")),
    "add of inputs, both ways of broadcasting, with Relu": (
        "addition",
        "agraph (float[1,4,1,6] x, float[3,1,5,1] z) => (float[3,4,5,6] y) { s = Add (x, z) y = Relu (s) }",
    ),
    "sub": ("addition", after_conv("s = Sigmoid (c) y = Sub (s, c)", SAME)),
    "mul": ("multiplication", after_conv("s = Sigmoid (c) y = Mul (c, s)", SAME)),
    "mul by one number for each channel of a batch": (
        "multiplication",
        after_conv("g = GlobalAveragePool (c) s = HardSigmoid (g) y = Mul (c, s)", SAME),
    ),
    "prelu": ("prelu", after_conv("y = PRelu (c, k)", SAME, ", float[4,1,1] k")),
    "leaky relu": ("lookup", after_conv("y = LeakyRelu <alpha=0.3> (c)", SAME)),
    "sigmoid": ("lookup", after_conv("y = Sigmoid (c)", SAME)),
    "tanh": ("lookup", after_conv("y = Tanh (c)", SAME)),
    "hard sigmoid": ("lookup", after_conv("y = HardSigmoid <alpha=0.17, beta=0.4> (c)", SAME)),
    "hard swish": ("lookup", after_conv("y = HardSwish (c)", SAME)),
    "division by a number, with Relu": (
        "lookup",
        after_conv("m = Mul (c, c) d = Div (m, k) y = Relu (d)", SAME, ", float k = {6.0}"),
    ),
    "division by a negative number": (
        "lookup",
        after_conv("m = Mul (c, c) y = Div (m, k)", SAME, ", float[1] k = {-0.3}"),
    ),
    "softmax along the last axis": ("softmax", after_conv("y = Softmax (c)", SAME)),
    "softmax along channels": ("softmax", after_conv("y = Softmax <axis=1> (c)", SAME)),
    "average pool, pads counted": (
        "average_pool",
        after_conv("y = AveragePool <kernel_shape=[3,2], pads=[1,1,1,0], count_include_pad=1> (c)", "1,4,9,10"),
    ),
    "average pool, pads not counted, rounded up": (
        "average_pool",
        after_conv("y = AveragePool <kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], ceil_mode=1> (c)", "1,4,5,6"),
    ),
    "max pool, dilated": (
        "max_pool",
        after_conv("y = MaxPool <kernel_shape=[2,3], dilations=[2,1], strides=[1,2], pads=[1,0,0,1]> (c)", "1,4,8,5"),
    ),
    "mean over axes that are not neighbours": (
        "mean",
        after_conv("y = ReduceMean <axes=[1,3], keepdims=0> (c)", "1,9"),
    ),
    "mean over all": ("mean", after_conv("y = ReduceMean (c)", "1,1,1,1")),
    "concat with a constant": ("move", after_conv("s = Sigmoid (c) y = Concat <axis=2> (c, k, s)", "1,4,20,10", ", float[1,4,2,10] k")),
    "transpose": ("move", after_conv("y = Transpose <perm=[0,2,3,1]> (c)", "1,9,10,4")),
    "slice, backwards and in steps": (
        "move",
        after_conv(
            "y = Slice (c, from, to, axes, by)", "1,4,3,10",
            ", int64[2] from = {-1, 7}, int64[2] to = {-100, 0}, int64[2] axes = {3, 2}, int64[2] by = {-1, -3}",
        ),
    ),
    "split and join": (
        "move",
        after_conv("p, q = Split <axis=1> (c, n) y = Concat <axis=1> (q, p)", SAME, ", int64[2] n = {1, 3}"),
    ),
    "expand": ("move", after_conv("g = GlobalAveragePool (c) y = Expand (g, n)", "2,4,3,5", ", int64[4] n = {2, 1, 3, 5}")),
    "pad by a value, and cut": (
        "fill",
        after_conv("y = Pad (c, p, v)", "1,4,10,11", ", int64[8] p = {0,0,2,-1,0,0,-1,2}, float v = {0.7}"),
    ),
    "pad by reflection": (
        "move", after_conv('y = Pad <mode="reflect"> (c, p)', "1,4,12,14", ", int64[8] p = {0,0,1,2,0,0,2,2}")
    ),
    "resize by scales": (
        "move",
        after_conv('y = Resize <mode="nearest"> (c, , s)', "1,4,18,25", ", float[4] s = {1.0, 1.0, 2.0, 2.5}"),
    ),
    "resize to sizes, asymmetric, floor": (
        "move",
        after_conv(
            'y = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (c, , , n)',
            "1,4,13,7", ", int64[4] n = {1, 4, 13, 7}",
        ),
    ),
    "shapes alone, before and after a layer": (
        "product",
        after_conv(
            "f = Flatten (c) u = Unsqueeze (f, one) r = Reshape (u, n) q = Squeeze (r, one) m = MatMul (q, v) "
            "y = Reshape (m, k)",
            "2,2,4", ", int64[1] one = {1}, int64[3] n = {4, 1, -1}, float[90,4] v, int64[3] k = {2, -1, 4}",
        ),
    ),
    "a shape computed from the input's": (
        "product",
        after_conv(
            "s = Shape (x) h = Gather (s, i) n = Concat <axis=0> (h, m) r = Reshape (c, n) y = MatMul (r, v)",
            "4,5", ", int64[1] i = {1}, int64[1] m = {-1}, float[90,5] v",
        ),
    ),
}  # fmt: skip

ALSO = {
    "matmul of a weight": {Site("w", "MatMul_y", 0): "", Site("x"): "", Site("y"): ""},
    "matmul of two activations that broadcast": {Site("x"): "", Site("z"): "", Site("y"): ""},
    "concat with a constant": {Site("k", "Concat_y", 1): "", Site("s"): "", Site("y"): "c"},
    "pad by a value, and cut": {Site("y"): "c"},
}


@pytest.mark.parametrize("title", GRAPHS)
def test_c_computes_the_integers_of_the_simulation(
    title: str, drafted: Callable, written: Callable, tmp_path: Path
) -> None:
    kernel, text = GRAPHS[title]
    opset = 13 if "axes=[" in text and "Reduce" in text else 17
    made = written(drafted(text, 18 if "Split" in text else opset, also=ALSO.get(title, {})), tmp_path / "net.c")
    assert kernel in made.kernels
    feeds = made.noise(6)
    found, wanted = made.run(feeds), made.simulated(feeds)
    names = [t.name for _, t in made.program.outputs]
    for one, codes in zip(found, wanted, strict=True):
        for array, name in zip(one, names, strict=True):
            np.testing.assert_array_equal(array, codes[name].ravel())
    assert_near_floats(made, feeds, found)


def assert_near_floats(made: object, feeds: list, found: list) -> None:
    """The QDQ graph in floats, its outputs as codes, is never more than one code off after each operator's rounding."""
    run = OrtExecutor(to_qdq(made.draft), optimize=False, threads=1)  # type: ignore[attr-defined]
    for one, codes in zip(feeds, found, strict=True):
        real = {}
        for (title, tensor), given in zip(made.program.inputs, one, strict=True):  # type: ignore[attr-defined]
            scale, zero = tensor.params.scale.ravel()[0], int(tensor.params.zero_point.ravel()[0])
            real[title] = (given.astype(np.int32) - zero).astype(np.float32) * scale
        outputs = run(real)
        for (title, tensor), array in zip(made.program.outputs, codes, strict=True):  # type: ignore[attr-defined]
            near = quantize(outputs[title], tensor.params).ravel().astype(int)
            assert array.size == near.size
            assert np.abs(array - near).max() <= 2
            assert (array != near).mean() < 0.05
