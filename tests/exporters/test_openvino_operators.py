"""Promised: every operator that is written as OpenVINO IR computes there in float what ONNX Runtime computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, no_progress
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.openvino.write import write_ir
from halfeven.graph.prepare import prepare
from halfeven.run.openvino import open_openvino
from halfeven.run.ort import OrtExecutor
from halfeven.steps.trace import Trace
from halfeven.targets.openvino import OPENVINO

pytest.importorskip("openvino")
Build = Callable[..., ir.Model]
Samples = Callable[..., list[tuple[str, dict[str, np.ndarray]]]]

IMAGE = "(float[N,4,6,6] x) => (float[N,c,h,w] y)"
ROWS = "(float[N,5,8] x) => (float[N,r,c] y)"
FLAT = "(float[N,8] x) => (float[N,c] y)"
CASES = {
    "convolution": f"{IMAGE} <float[6,4,3,3] w, float[6] b> {{ y = Conv<pads=[1,1,1,1]>(x, w, b) }}",
    "strides, gaps and uneven pads": f"{IMAGE} <float[6,4,3,2] w> {{ y = Conv<pads=[2,1,1,0], strides=[2,1], "
    "dilations=[1,2]>(x, w) }",
    "pads by name": f"{IMAGE} <float[6,4,3,3] w> {{ y = Conv<auto_pad=\"SAME_LOWER\", strides=[2,2]>(x, w) }}",
    "groups": f"{IMAGE} <float[6,2,3,3] w, float[6] b> {{ y = Conv<group=2>(x, w, b) }}",
    "depthwise": f"{IMAGE} <float[4,1,3,3] w> {{ y = Conv<group=4>(x, w) }}",
    "one axis": f"{ROWS} <float[6,5,3] w, float[6] b> {{ y = Conv<pads=[1,1]>(x, w, b) }}",
    "transposed": f"{IMAGE} <float[4,3,2,3] w, float[3] b> {{ y = ConvTranspose<strides=[2,2], pads=[0,1,0,1], "
    "output_padding=[1,0]>(x, w, b) }",
    "transposed groups": f"{IMAGE} <float[4,3,2,2] w> {{ y = ConvTranspose<strides=[2,2], group=2>(x, w) }}",
    "gemm": f"{FLAT} <float[5,8] w, float[5] b> {{ y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b) }}",
    "matrices": f"{ROWS} <float[8,7] w> {{ a = MatMul(x, w)  t = Transpose<perm=[0,2,1]>(a)  y = MatMul(a, t) }}",
    "pools": f"{IMAGE} {{ a = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,0], ceil_mode=1>(x)  "
    "b = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(a)  y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], "
    "count_include_pad=1>(b) }",
    "global pools": f"{IMAGE} {{ a = GlobalAveragePool(x)  b = GlobalMaxPool(x)  y = Add(a, b) }}",
    "norms": f"{IMAGE} <float[6] g, float[6] b, float[4] s, float[4] o, float[4] m, float[4] v> {{ w = Sigmoid(x)  "
    "n = BatchNormalization(w, s, o, m, v)  y = LayerNormalization<axis=-1, epsilon=0.001>(n, g, b) }",
    "arithmetic": f"{FLAT} <float[8] k> {{ a = Add(x, k)  b = Sub(k, a)  e = Exp(b)  c = Mul(a, e)  d = Div(c, e)  "
    "h = Abs(d)  t = Constant<value_float=1.5>()  p = Pow(h, t)  q = Max(p, x, k)  y = Min(q, a) }",
    "functions": f"{FLAT} {{ a = Abs(x)  b = Sqrt(a)  c = Exp(x)  d = Log(c)  e = Sin(d)  f = Cos(b)  g = Neg(f)  "
    "h = Floor(x)  i = Ceil(h)  j = Reciprocal(c)  k = Add(e, g)  l = Add(j, i)  m = Round(l)  n = Sub(k, m)  "
    "o = Sign(n)  p = Add(o, n)  q = Erf(p)  y = Tanh(q) }",
    "activations": f"{FLAT} {{ a = LeakyRelu<alpha=0.3>(x)  b = Elu<alpha=0.7>(a)  c = HardSigmoid<alpha=0.3>(b)  "
    "d = HardSwish(c)  e = Softplus(d)  f = Selu(e)  g = Mish(f)  y = Relu(g) }",
    "slopes": f"{IMAGE} <float[4,1,1] s> {{ y = PRelu(x, s) }}",
    "clips": f"{FLAT} {{ l = Constant<value_float=-0.2>()  a = Clip(x, l)  h = ReduceMax<keepdims=0>(x)  y = Clip(a, l, h) }}",
    "softmax": f"{ROWS} {{ y = Softmax<axis=1>(x) }}",
    "reductions": f"{IMAGE} {{ a = ReduceMean<axes=[1]>(x)  b = ReduceMax<axes=[-1]>(a)  c = ReduceMin<axes=[2]>(x)  "
    "d = ReduceL2<axes=[3]>(c)  e = ReduceL1<axes=[3]>(c)  f = ReduceProd<axes=[3]>(c)  g = Add(b, d)  h = Add(e, f)  "
    "y = Add(g, h) }",
    "shapes": f"{IMAGE} {{ s = Shape(x)  z = Constant<value_ints=[0]>()  t = Constant<value_ints=[2]>()  "
    "h = Slice(s, z, t)  m = Constant<value_ints=[-1]>()  k = Concat<axis=0>(h, m)  a = Reshape(x, k)  "
    "b = Unsqueeze(a, z)  c = Squeeze(b, z)  y = Transpose<perm=[0,2,1]>(c) }",
    "flatten": f"{IMAGE} {{ y = Flatten<axis=3>(x) }}",
    "flatten samples": f"{IMAGE} {{ y = Flatten(x) }}",
    "concat and split": f"{IMAGE} {{ a, b = Split<axis=1>(x)  y = Concat<axis=1>(b, a, x) }}",
    "slices": f"{IMAGE} {{ s = Constant<value_ints=[1,-4]>()  e = Constant<value_ints=[3,9223372036854775807]>()  "
    "a = Constant<value_ints=[1,2]>()  k = Constant<value_ints=[1,2]>()  y = Slice(x, s, e, a, k) }",
    "slices of leading axes": f"{IMAGE} {{ s = Constant<value_ints=[0,1]>()  e = Constant<value_ints=[1,3]>()  "
    "y = Slice(x, s, e) }",
    "pads": f"{IMAGE} {{ p = Constant<value_ints=[0,1,2,0,0,0,1,3]>()  v = Constant<value_float=0.5>()  a = Pad(x, p, v)  "
    "q = Constant<value_ints=[0,0,1,2,0,0,2,1]>()  y = Pad<mode=\"reflect\">(a, q) }",
    "nearest": f"{IMAGE} {{ r = Constant<value_floats=[0.0]>()  s = Constant<value_floats=[1.0,1.0,2.0,1.5]>()  "
    "y = Resize<mode=\"nearest\", coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\">(x, r, s) }",
    "linear to lengths": f"{IMAGE} {{ z = Constant<value_ints=[2,4,11,9]>()  y = Resize<mode=\"linear\">(x, , , z) }}",
    "cubic": f"{IMAGE} {{ s = Constant<value_floats=[1.0,1.0,2.0,2.0]>()  y = Resize<mode=\"cubic\">(x, , s) }}",
    "blocks": f"{IMAGE} {{ a = DepthToSpace<blocksize=2, mode=\"CRD\">(x)  b = SpaceToDepth<blocksize=3>(a)  "
    "c = SpaceToDepth<blocksize=2>(b)  y = DepthToSpace<blocksize=2>(c) }",
    "lookups": "(int64[N,5] i) => (float[N,5,8] y) <float[6,8] t> { y = Gather(t, i) }",
    "choices": f"{FLAT} {{ z = Constant<value_float=0.1>()  c = Greater(x, z)  d = Less(x, z)  e = Or(c, d)  n = Not(d)  "
    "f = And(e, n)  g = Equal(x, z)  h = Xor(f, g)  i = GreaterOrEqual(x, z)  j = LessOrEqual(x, z)  k = And(i, j)  "
    "l = Or(h, k)  m = Neg(x)  w = Where(l, x, m)  b = Cast<to=7>(w)  y = Cast<to=1>(b) }",
    "broadcast": "(float[1,8] x) => (float[3,8] y) { k = Constant<value_ints=[3,1]>()  a = Expand(x, k)  "
    "s = Shape(a)  o = ConstantOfShape<value = float[1] {2.5}>(s)  y = Add(a, o) }",
    "tiles": f"{FLAT} {{ k = Constant<value_ints=[1,2]>()  y = Tile(x, k) }}",
    "one value twice": "(float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Relu(x)  z = Identity(y) }",
    "an input that is an output": "(float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Identity(x)  z = Relu(x) }",
}  # fmt: skip
OLDER = {"reductions", "concat and split", "clips"}  # written as before opset 18


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_in_openvino_what_onnx_runtime_computes(
    build: Build, samples: Samples, tmp_path: Path, name: str
) -> None:
    model = prepare(build(f"g {CASES[name]}", opset=17 if name in OLDER else 18))[0]
    [(_, feeds)] = samples(model, 1)
    write_ir(Draft(model, OPENVINO), tmp_path / "net.xml")
    found = open_openvino(tmp_path / "net.xml", threads=1)(feeds)
    expected = OrtExecutor(model, optimize=False, threads=1)(feeds)
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].shape == array.shape
        np.testing.assert_allclose(found[key], array, rtol=3e-5, atol=3e-5)


def test_a_rank_that_is_not_inferred_is_that_of_the_run_and_its_axes_stay_open(
    build: Build, samples: Samples, tmp_path: Path
) -> None:
    body = (
        "(float[N,8] x, int64[3] k) => (float[c,d] y) { a = Reshape(x, k)  m = ReduceSum<keepdims=0>(a)  "
        "t = Transpose<perm=[0,2,1]>(a)  s = Shape(t)  z = Constant<value_ints=[0]>()  "
        "o = Constant<value_ints=[1]>()  h = Slice(s, z, o)  e = Constant<value_ints=[-1]>()  "
        "j = Concat<axis=0>(h, e)  f = Reshape(t, j)  y = Sub(f, m) }"
    )
    model = prepare(build(f"g {body}", opset=18))[0]
    for value in (value for node in model.graph for value in node.outputs):
        value.shape = None  # as where inference fails
    feeds = {"x": samples(model, 1)[0][1]["x"], "k": np.array([2, 4, -1])}
    with pytest.raises(UnsupportedByTarget, match="the rank of its input is not known"):
        write_ir(Draft(model, OPENVINO), tmp_path / "net.xml")
    write_ir(Trace()(Draft(model, OPENVINO), [("a sample", feeds)], no_progress), tmp_path / "net.xml")
    run, reference = open_openvino(tmp_path / "net.xml", threads=1), OrtExecutor(model, optimize=False, threads=1)
    for rows in (2, 6):
        fed = {"x": np.repeat(feeds["x"], rows // 2, 0), "k": feeds["k"]}
        np.testing.assert_allclose(run(fed)["y"], reference(fed)["y"], rtol=3e-5, atol=3e-5)
