"""Promised: every operator that is written for ncnn computes there in float what ONNX Runtime computes, for one sample
and for several, along open axes too.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.exporters.ncnn.write import write_ncnn
from halfeven.graph.prepare import prepare
from halfeven.run.ncnn import open_ncnn
from halfeven.run.ort import OrtExecutor
from halfeven.targets.ncnn import NCNN

pytest.importorskip("ncnn")
Build = Callable[..., ir.Model]
Samples = Callable[..., list[tuple[str, dict[str, np.ndarray]]]]

IMAGE = "(float[N,4,6,6] x) => (float[N,c,h,w] y)"
ROWS = "(float[N,5,8] x) => (float[N,r,c] y)"
FLAT = "(float[N,8] x) => (float[N,c] y)"
CASES = {
    "convolution": f"{IMAGE} <float[6,4,3,3] w, float[6] b> {{ y = Conv<pads=[1,1,1,1]>(x, w, b) }}",
    "strides, gaps and uneven pads": f"{IMAGE} <float[6,4,3,2] w> {{ y = Conv<pads=[2,1,1,0], strides=[2,1], "
    "dilations=[1,2]>(x, w) }",
    "pads by name": f"{IMAGE} <float[6,4,3,3] w> {{ y = Conv<auto_pad=\"SAME_UPPER\", strides=[2,2]>(x, w) }}",
    "depthwise": f"{IMAGE} <float[4,1,3,3] w, float[4] b> {{ y = Conv<pads=[1,1,1,1], group=4>(x, w, b) }}",
    "groups": f"{IMAGE} <float[6,2,3,3] w> {{ y = Conv<group=2>(x, w) }}",
    "one axis": f"{ROWS} <float[6,5,3] w, float[6] b> {{ y = Conv<pads=[1,1]>(x, w, b) }}",
    "transposed": f"{IMAGE} <float[4,3,2,3] w, float[3] b> {{ y = ConvTranspose<strides=[2,2], pads=[0,1,0,1], "
    "output_padding=[1,0]>(x, w, b) }",
    "transposed groups": f"{IMAGE} <float[4,3,2,2] w> {{ y = ConvTranspose<strides=[2,2], group=2>(x, w) }}",
    "activations join": f"{IMAGE} <float[6,4,1,1] w> {{ a = Conv(x, w)  l = Constant<value_float=-0.2>()  "
    "h = Constant<value_float=0.3>()  y = Clip(a, l, h) }",
    "gemm": f"{FLAT} <float[5,8] w, float[5] b> {{ y = Gemm<transB=1>(x, w, b) }}",
    "gemm, not transposed": f"{FLAT} <float[8,5] w, float[5] b> {{ y = Gemm(x, w, b) }}",
    "rows by a matrix": f"{ROWS} <float[8,7] w> {{ y = MatMul(x, w) }}",
    "images by a matrix": f"{IMAGE} <float[6,7] w> {{ y = MatMul(x, w) }}",
    "a matrix by rows": f"{ROWS} <float[7,5] w> {{ y = MatMul(w, x) }}",
    "two activations": f"{ROWS} {{ t = Transpose<perm=[0,2,1]>(x)  y = MatMul(x, t) }}",
    "sums of channels": f"{IMAGE} <float[4,1,1] s, float[1,4,6,6] o> {{ a = Mul(x, s)  y = Add(o, a) }}",
    "scalars on both sides": f"{IMAGE} {{ t = Constant<value_float=1.7>()  e = Exp(x)  a = Sub(t, x)  b = Div(t, e)  "
    "c = Sub(a, t)  d = Div(b, t)  y = Max(c, d, t) }",
    "powers": f"{FLAT} {{ t = Constant<value_float=2.0>()  h = Constant<value_float=1.5>()  p = Pow(x, t)  q = Pow(p, h)  "
    "y = Pow(h, q) }",
    "squeeze and excitation": f"{IMAGE} <float[4,4,1,1] w> {{ g = GlobalAveragePool(x)  c = Conv(g, w)  s = Sigmoid(c)  "
    "y = Mul(x, s) }",
    "vectors beside images": f"{IMAGE} {{ m = ReduceMean<axes=[2,3], keepdims=0>(x)  k = Constant<value_ints=[2]>()  "
    "u = Unsqueeze(m, k)  r = ReduceMax<axes=[3], keepdims=0>(x)  y0 = Add(u, r)  n = Constant<value_ints=[3]>()  "
    "y = Unsqueeze(y0, n) }",
    "a blob with fewer axes": "(float[1,4,6] x, float[1,2,4,6] z) => (float[1,a,b,c] y) { q = Constant<value_ints=[0]>()  "
    "s = Squeeze(x, q)  y = Add(z, s) }",
    "functions": f"{FLAT} {{ a = Abs(x)  b = Sqrt(a)  c = Exp(x)  d = Log(c)  e = Sin(d)  f = Cos(b)  g = Neg(f)  "
    "h = Floor(x)  i = Ceil(h)  j = Reciprocal(c)  k = Add(e, g)  l = Add(j, i)  m = Round(l)  n = Sub(k, m)  y = Tanh(n) }",
    "activations": f"{FLAT} {{ a = LeakyRelu<alpha=0.3>(x)  b = Elu<alpha=0.7>(a)  c = HardSigmoid<alpha=0.3>(b)  "
    "d = HardSwish(c)  e = Softplus(d)  f = Selu(e)  g = Erf(f)  y = Relu(g) }",
    "slopes of channels": f"{IMAGE} <float[4,1,1] s> {{ y = PRelu(x, s) }}",
    "hard swish in four": f"{IMAGE} {{ t = Constant<value_float=3.0>()  z = Constant<value_float=0.0>()  "
    "s = Constant<value_float=6.0>()  a = Add(x, t)  c = Clip(a, z, s)  m = Mul(x, c)  y = Div(m, s) }",
    "softmax": f"{ROWS} {{ y = Softmax<axis=1>(x) }}",
    "softmax over the last": f"{IMAGE} {{ y = Softmax<axis=-1>(x) }}",
    "reductions": f"{IMAGE} {{ a = ReduceMean<axes=[1], keepdims=1>(x)  b = ReduceMax<axes=[-1], keepdims=1>(a)  "
    "c = ReduceMin<axes=[2], keepdims=1>(x)  d = ReduceL2<axes=[3], keepdims=1>(c)  y = Add(b, d) }",
    "layer norm": f"{ROWS} <float[8] g, float[8] b> {{ y = LayerNormalization<axis=-1, epsilon=0.001>(x, g, b) }}",
    "batch norm": f"{IMAGE} <float[4] s, float[4] b, float[4] m, float[4] v> {{ w = Sigmoid(x)  "
    "y = BatchNormalization(w, s, b, m, v) }",
    "reshape": f"{IMAGE} {{ s = Constant<value_ints=[0,2,-1]>()  y = Reshape(x, s) }}",
    "flatten": f"{IMAGE} {{ y = Flatten(x) }}",
    "reshape to what a shape says": "(float[N,4,6,L] x) => (float[N,c,w] y) { s = Shape(x)  "
    "z = Constant<value_ints=[0]>()  t = Constant<value_ints=[2]>()  h = Slice(s, z, t)  m = Constant<value_ints=[-1]>()  "
    "k = Concat<axis=0>(h, m)  y = Reshape(x, k) }",
    "heads": "(float[N,L,12] x) => (float[N,h,l,c] y) { s = Constant<value_ints=[0,-1,3,2,2]>()  r = Reshape(x, s)  "
    "t = Transpose<perm=[2,0,3,1,4]>(r)  b = Constant<value_ints=[1]>()  e = Constant<value_ints=[2]>()  "
    "a = Constant<value_ints=[0]>()  k = Slice(t, b, e, a)  y = Squeeze(k, a) }",
    "permutations": f"{IMAGE} {{ a = Transpose<perm=[0,2,3,1]>(x)  b = Transpose<perm=[0,3,1,2]>(a)  "
    "y = Transpose<perm=[0,1,3,2]>(b) }",
    "concat and split": f"{IMAGE} <float[1,2,6,6] k> {{ a, b = Split<axis=1>(x)  y = Concat<axis=1>(b, k, a, x) }}",
    "slices": f"{IMAGE} {{ s = Constant<value_ints=[1,-4]>()  e = Constant<value_ints=[3,9223372036854775807]>()  "
    "a = Constant<value_ints=[1,2]>()  y = Slice(x, s, e, a) }",
    "pads": f"{IMAGE} {{ p = Constant<value_ints=[0,1,2,0,0,0,1,3]>()  v = Constant<value_float=0.5>()  y = Pad(x, p, v) }}",
    "reflected pads": f"{IMAGE} {{ p = Constant<value_ints=[0,0,1,2,0,0,2,1]>()  y = Pad<mode=\"reflect\">(x, p) }}",
    "max pool": f"{IMAGE} {{ y = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,0]>(x) }}",
    "average pool": f"{IMAGE} {{ y = AveragePool<kernel_shape=[3,2], strides=[2,1], pads=[1,1,0,0]>(x) }}",
    "average of the pads too": f"{IMAGE} {{ y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) }}",
    "global pools": f"{IMAGE} {{ a = GlobalAveragePool(x)  b = GlobalMaxPool(x)  y = Add(a, b) }}",
    "nearest": f"{IMAGE} {{ r = Constant<value_floats=[0.0]>()  s = Constant<value_floats=[1.0,1.0,2.0,3.0]>()  "
    "y = Resize<mode=\"nearest\", coordinate_transformation_mode=\"asymmetric\", nearest_mode=\"floor\">(x, r, s) }",
    "linear": f"{IMAGE} {{ r = Constant<value_floats=[0.0]>()  s = Constant<value_floats=[1.0,1.0,2.0,1.5]>()  "
    "y = Resize<mode=\"linear\">(x, r, s) }",
    "linear to lengths": "(float[N,4,6,6] x) => (float[N,4,11,9] y) { r = Constant<value_floats=[0.0]>()  "
    "e = Constant<value_floats=[1.0]>()  z = Constant<value_ints=[1,4,11,9]>()  b = Cast<to=7>(z)  "
    "y = Resize<mode=\"linear\", coordinate_transformation_mode=\"align_corners\">(x, , , b) }",
    "a value that is read often": f"{IMAGE} <float[4,4,1,1] w> {{ a = Conv(x, w)  b = Relu(a)  c = Add(a, b)  d = Mul(c, a)  "
    "y = Add(d, x) }",
    "an input that is an output": "(float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Identity(x)  z = Relu(x) }",
    "two outputs of one value": "(float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Relu(x)  z = Identity(y) }",
}  # fmt: skip
BATCHED = {"linear to lengths", "a blob with fewer axes", "concat and split"}  # they name a batch of 1 themselves


def converted(draft: Draft, folder: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    write_ncnn(draft, folder / "net.param")
    return open_ncnn(folder / "net.param")(feeds)


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_in_ncnn_what_onnx_runtime_computes(
    build: Build, samples: Samples, tmp_path: Path, name: str
) -> None:
    opset = 17 if "ReduceM" in CASES[name] or "ReduceL" in CASES[name] or "Split<axis=1>(x)" in CASES[name] else 18
    text = CASES[name].replace("N,", "1,", 1) if name in BATCHED else CASES[name]
    model = prepare(build(f"g {text}", opset=opset))[0]
    [(_, feeds)] = samples(model, 1)
    found = converted(Draft(model, NCNN), tmp_path, feeds)
    expected = OrtExecutor(model, optimize=False, threads=1)(feeds)
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].shape == array.shape
        np.testing.assert_allclose(found[key], array, rtol=2e-5, atol=2e-5)
