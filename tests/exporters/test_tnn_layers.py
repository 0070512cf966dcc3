"""Promised: the layers of a .tnnproto file compute what the quantized network does, run as TNN's sources say that they run.

There is no TNN here, so this file is the runtime: it reads both files, decides by the types of layers which blobs are
int8, and computes int8 layers by the formula of TNN's kernels and float layers by the ONNX operator that they stand for.

    acc = sum of codes + bias;  y = f32(acc) f32(scale / scale of the output);  Relu;  code = half_away(y), -128..127

A float layer that reads what a float layer made for int8 layers reads it unrounded, as TNN's optimizer arranges.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.tnn.write import write_tnn
from halfeven.numerics.rounding import Rounding
from halfeven.run.ort import OrtExecutor
from halfeven.run.tnn_file import Layer, TnnNetwork, Weights, read_tnn
from halfeven.stats.distance import sqnr_db
from halfeven.targets.tnn import TNN

Build = Callable[..., ir.Model]
DEMO = Path(halfeven.__file__).parent / "demo"
Floats = np.ndarray
PLAIN = {
    "Permute": "Transpose", "Clip": "Clip", "MatMul": "MatMul", "Sigmoid": "Sigmoid", "Tanh": "Tanh", "Exp": "Exp",
    "Sqrt": "Sqrt", "Abs": "Abs", "Add": "Add", "Sub": "Sub", "Mul": "Mul", "Div": "Div", "Maximum": "Max",
    "Minimum": "Min",
}  # fmt: skip


def alone(kind: str, inputs: Sequence[Floats], **attributes: object) -> list[Floats]:
    """The outputs of one ONNX operator."""
    count = int(attributes.pop("count", 1))  # type: ignore[call-overload]
    names = [f"i{k}" for k in range(len(inputs))]
    infos = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, inputs, strict=True)
    ]
    outs = [f"o{k}" for k in range(count)]
    node = onnx.helper.make_node(kind, names, outs, **attributes)
    graph = onnx.helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name=n) for n in outs])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    run = OrtExecutor(ir.from_proto(model), optimize=False, threads=1)
    return list(run(dict(zip(names, inputs, strict=True))).values())


def lists(numbers: Sequence[int], count: int) -> list[list[int]]:
    """`count` lists that stand behind their lengths."""
    found, rest = [], list(numbers)
    for _ in range(count):
        length, rest = rest[0], rest[1:]
        found.append(rest[:length])
        rest = rest[length:]
    return found


def floating(layer: Layer, x: list[Floats], held: Weights | None) -> list[Floats]:
    """A float layer."""
    kind, words = layer.kind, layer.params
    n = [int(float(word)) for word in words]
    if kind in ("Convolution", "Deconvolution"):
        shape = (n[2], n[1] // n[0], *n[3:5]) if kind == "Convolution" else (n[1], n[2] // n[0], *n[3:5])
        weights = [held.values.reshape(shape), *([] if held.bias is None else [held.bias])]  # type: ignore[union-attr]
        more = {"auto_pad": "SAME_UPPER"} if n[10] == 0 else {"pads": n[7:9] * 2}
        op = "Conv" if kind == "Convolution" else "ConvTranspose"
        return alone(op, [*x, *weights], group=n[0], strides=n[5:7], dilations=n[11:13], **more)
    if kind == "InnerProduct":
        return [x[0] @ held.values.reshape(n[0], -1).T + held.bias]  # type: ignore[union-attr]
    if kind == "Pooling":
        ops = ("GlobalMaxPool", "MaxPool") if n[0] == 0 else ("GlobalAveragePool", "AveragePool")
        if n[1] == 0:
            return alone(ops[0], x)
        return alone(ops[1], x, kernel_shape=n[1:3], strides=n[3:5], pads=n[5:7] * 2, ceil_mode=n[10])
    if kind == "Upsample":
        target = [np.array([], np.float32), np.array([1, 1, *map(float, words[1:3])], np.float32)]
        how = "align_corners" if n[3] else "half_pixel" if n[0] == 2 else "asymmetric"
        mode = "linear" if n[0] == 2 else "nearest"
        if len(words) > 4:
            target = [target[0], target[0], np.array([*x[0].shape[:2], *n[4:6]], np.int64)]
        return alone("Resize", [*x, *target], mode=mode, coordinate_transformation_mode=how, nearest_mode="floor")
    if kind in ("Squeeze", "Unsqueeze"):
        return alone(kind, [*x, np.array(n[1:], np.int64)])
    if kind == "Reshape":
        return alone("Reshape", [*x, np.array(n[3:-1], np.int64)])
    if kind in ("Flatten", "Concat", "Softmax"):
        return alone(kind, x, axis=n[0])
    if kind == "SplitV":
        return alone("Split", [*x, np.array(n[2:-1], np.int64)], axis=n[0], count=len(layer.outputs))
    if kind == "StridedSliceV2":
        return alone("Slice", [*x, *(np.array(part, np.int64) for part in lists(n, 4))])
    if kind == "Pad":
        top, bottom, left, right, front, back, how = n[2:9]
        modes, value = ("constant", "reflect", "edge"), np.array(words[9], np.float32)
        return alone("Pad", [*x, np.array([0, front, top, left, 0, back, bottom, right]), value], mode=modes[how])
    if kind == "PadV2":
        return alone("Pad", [*x, np.array(n[1:-2]), np.array(words[-1], np.float32)])
    if kind == "PReLU":
        return [np.where(x[0] < 0, x[0] * held.values.reshape(-1, 1, 1), x[0])]  # type: ignore[union-attr]
    if kind == "BatchNormCxx":
        factor, summand = held.values, held.bias  # type: ignore[union-attr]
        return [x[0] * factor.reshape(-1, 1, 1) + summand.reshape(-1, 1, 1)]  # type: ignore[union-attr]
    if kind.startswith("Reduce"):
        return [getattr(np, kind.removeprefix("Reduce").lower())(x[0], axis=tuple(n[1:]), keepdims=bool(n[0]))]
    if kind in ("HardSigmoid", "HardSwish"):
        gate = np.clip(x[0] * np.float32(words[0]) + np.float32(words[1]), 0, 1)
        return [gate if kind == "HardSigmoid" else x[0] * gate]
    if kind == "Power":
        return [(x[0] * np.float32(words[1]) + np.float32(words[2])) ** np.float32(words[0])]
    if kind == "Elu":
        return alone("Elu", x, alpha=float(words[0]))
    if held is not None:  # a constant operand: of one axis it is that of the channels
        values = held.values
        if values.ndim == 1 and values.size > 1:
            values = values.reshape(-1, *(1,) * (x[0].ndim - 2))
        x = [values, x[0]] if n[0] == 0 else [x[0], values]
    if kind == "Permute":
        return [x[0].transpose(n[1:])]
    if kind == "Clip":
        return [np.clip(x[0], *map(np.float32, words))]
    return alone(PLAIN[kind], x)


def coded(layer: Layer, x: list[Floats], scales: list[Floats], out: Floats, held: Weights | None) -> Floats:
    """An int8 layer: codes of what its kernel computes."""
    kind, n = layer.kind.removeprefix("Quantized"), [int(float(word)) for word in layer.params]
    if kind in ("Convolution", "InnerProduct"):
        assert held is not None
        if kind == "Convolution":
            weights = held.values.reshape(n[2], n[1] // n[0], *n[3:5])
            more = {"auto_pad": "SAME_UPPER"} if n[10] == 0 else {"pads": n[7:9] * 2}
            reals = [v.astype(np.float32) for v in (x[0], weights)]  # sums below 2**24 are exact in float32
            [acc] = alone("Conv", reals, strides=n[5:7], dilations=n[11:13], group=n[0], **more)
            acc = acc.astype(np.int32)
        else:
            acc = x[0].astype(np.int32) @ held.values.reshape(n[0], -1).T.astype(np.int32)
        shape = (1, -1, *(1,) * (acc.ndim - 2))
        acc = acc + (0 if held.bias is None else held.bias.reshape(shape))
        y = acc.astype(np.float32) * (held.scale / out).astype(np.float32).reshape(shape)  # type: ignore[operator]
        y = np.maximum(y, 0) if kind == "Convolution" and n[13] else y
    elif kind == "Add":
        y = (x[0] * scales[0] + x[1] * scales[1]) / out
    elif kind == "ReLU":
        y = np.maximum(x[0], 0)
    else:
        assert all(np.array_equal(scale, out) for scale in scales)
        return floating(Layer(kind, layer.name, layer.inputs, layer.outputs, layer.params), x, held)[0]
    return codes(np.asarray(y, np.float32))


def codes(y: Floats) -> Floats:
    return np.clip(Rounding.HALF_AWAY(y), -128, 127).astype(np.float32 if y.dtype != np.float32 else np.int8)


def run(net: TnnNetwork, feeds: dict[str, Floats]) -> dict[str, Floats]:
    """The outputs of a network, as TNN computes them."""
    real, held = dict(feeds), {}
    for layer in net.layers:
        weights = net.weights.get(layer.name)
        if not layer.quantized:
            x = [real[b] if b in real else held[b] * net.scales[b].values for b in layer.inputs]
            made = floating(layer, [np.asarray(v, np.float32) for v in x], weights)
            real |= dict(zip(layer.outputs, made, strict=True))
            continue
        scales = [net.scales[b].values for b in layer.inputs]
        pairs = zip(layer.inputs, scales, strict=True)
        x = [held[b] if b in held else codes(real[b] / scale) for b, scale in pairs]
        [name] = layer.outputs
        found = coded(layer, [v.astype(np.int8) if weights else v.astype(np.float32) for v in x], scales,
                      net.scales[name].values, weights)  # fmt: skip
        held[name] = found
    return {name: real[name] if name in real else held[name] * net.scales[name].values for name in net.outputs}


IMAGE = "g (float[N,4,8,8] x) => "
CASES = {
    "layers, a sum, a mean and rows": """
g (float[N,6,8,8] x) => (float[N,7] y) <float[12,6,3,3] w, float[12] b, float[12,1,3,3] d, float[12,12,1,1] v,
  float[12] c, float[12,7] m, float[7] n> {
  a = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(a)  e = Conv<pads=[1,1,1,1], group=12>(r, d)  f = Conv(e, v, c)
  s = Add(f, e)  t = Relu(s)  g0 = GlobalAveragePool(t)  h = Flatten(g0)  y = Gemm(h, m, n) }""",
    "groups, strides, gaps": IMAGE
    + """(float[N,6,2,3] y) <float[6,2,3,3] w, float[6,6,2,1] v> {
  a = Conv<group=2, strides=[2,1]>(x, w)  y = Conv<dilations=[1,1], strides=[2,2]>(a, v) }""",
    "pads on one side": IMAGE
    + """(float[N,5,4,4] y) <float[4,4,3,3] w, float[5,4,3,3] v> {
  a = Conv<pads=[0,0,1,1], strides=[2,2]>(x, w)  y = Conv<auto_pad="SAME_UPPER">(a, v) }""",
    "one axis": """
g (float[N,4,9] x) => (float[N,3,9] y) <float[6,4,3] w, float[6] b, float[3,6,1] v> {
  a = Conv<pads=[1,1]>(x, w, b)  r = Relu(a)  y = Conv(r, v) }""",
    "rows of three axes": """
g (float[N,5,8] x) => (float[N,5,3] y) <float[8,6] w, float[6,3] v> { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }""",
    "rows of four axes": """
g (float[N,2,5,8] x) => (float[N,2,5,3] y) <float[8,3] w, float[3] b> { a = MatMul(x, w)  y = Add(a, b) }""",
    "a clamp that the codes do not make": IMAGE
    + """(float[N,4,8,8] y) <float[4,4,1,1] w, float[4,4,1,1] v> {
  l = Constant<value_float=-0.1>()  h = Constant<value_float=0.5>()  a = Conv(x, w)  r = Clip(a, l, h)  y = Conv(r, v) }""",
    "windows": IMAGE
    + """(float[N,4,3,3] y) <float[4,4,1,1] w, float[4,4,1,1] v> {
  a = Conv(x, w)  m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(a)  c = Conv(m, v)
  y = AveragePool<kernel_shape=[2,2]>(c) }""",
    "pictures joined and grown": IMAGE
    + """(float[N,8,16,16] y) <float[4,4,1,1] w, float[4,4,1,1] v, float[8,8,1,1] u> {
  s = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
  a = Conv(x, w)  b = Conv(x, v)  c = Concat<axis=1>(a, b)
  g0 = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(c, , s)  y = Conv(g0, u) }""",
    "pictures grown smoothly": IMAGE
    + """(float[N,4,16,16] y) <float[4,4,1,1] w, float[4,4,1,1] v> {
  s = Constant<value_floats=[1.0,1.0,2.0,2.0]>()  a = Conv(x, w)
  g0 = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(a, , s)  y = Conv(g0, v) }""",
    "swish and hard swish": IMAGE
    + """(float[N,4,8,8] y) <float[4,4,1,1] w, float[4,4,1,1] v, float[4,4,1,1] u, float three = {3.0}, float six = {6.0}> {
  l = Constant<value_float=0.0>()  a = Conv(x, w)  g0 = Sigmoid(a)  b = Mul(a, g0)  c = Conv(b, v)
  d = Add(c, three)  e = Clip(d, l, six)  f = Mul(c, e)  h = Div(f, six)  y = Conv(h, u) }""",
    "gates": IMAGE
    + """(float[N,4,8,8] y) <float[4,4,1,1] w, float[4,4,1,1] v> {
  a = Conv(x, w)  m = GlobalAveragePool(a)  c = Conv(m, v)  g0 = HardSigmoid(c)  y = Mul(a, g0) }""",
    "constants": IMAGE
    + """(float[N,4,8,8] y) <float[4,1,1] c, float[8] r, float[1,4,8,8] e, float two = {2.0}, float[4] g0, float[4] b0,
  float[4] m0, float[4] v0 = {1, 2, 3, 4}> {
  a = Mul(x, c)  b = Add(r, a)  d = Sub(e, b)  f = Pow(d, two)  q = Div(f, two)  h = Max(q, x)  i = Min(h, two)
  n0 = BatchNormalization(i, g0, b0, m0, v0)  y = Elu(n0) }""",
    "moves": IMAGE
    + """(float[N,16,4] y) <float[4,4,1,1] w> {
  o = Constant<value_ints=[1]>()  z = Constant<value_ints=[0]>()  e = Constant<value_ints=[4]>()
  p = Constant<value_ints=[0,0,1,1,0,0,0,0]>()  d = Constant<value_ints=[0,4,-1]>()  t0 = Constant<value_ints=[2,2]>()
  ax = Constant<value_ints=[2]>()
  a = Conv(x, w)  q = Pad(a, p)  s = Slice(q, o, e, ax)  l, r = Split<axis=1>(s, t0)  c = Concat<axis=1>(r, l)
  k = Slice(c, z, e, ax)  m = ReduceMean<axes=[2], keepdims=0>(k)  u = Unsqueeze(m, ax)  j = Concat<axis=2>(u, u, u, u)
  v = Slice(j, z, e, ax)  xx = Squeeze(u, ax)  n = Softmax<axis=2>(v)
  three = Constant<value_ints=[3]>()  f = Slice(n, z, e, three)  h = Reshape(f, d)
  y = Transpose<perm=[0,2,1]>(h) }""",
    "slopes and a transposed convolution": IMAGE
    + """(float[N,3,16,16] y) <float[4,4,1,1] w, float[4,1,1] p, float[4,3,2,2] t, float[3] b> {
  a = Conv(x, w)  l = LeakyRelu<alpha=0.2>(a)  q = PRelu(l, p)  y = ConvTranspose<strides=[2,2]>(q, t, b) }""",
    "an input read twice, an output read on": IMAGE
    + """(float[N,4,8,8] y, float[N,4,8,8] c, float[N,4,8,8] z) <float[4,4,1,1] w, float[4,4,1,1] v> {
  a = Conv(x, w)  r = Relu(a)  c = Add(r, x)  y = Conv(c, v)  z = Sigmoid(x) }""",
}  # fmt: skip


@pytest.fixture(scope="module")
def written(
    build: Build, samples: Callable, placed: Callable, calibrated: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Draft, list, TnnNetwork, tuple[str, ...]]]:
    """`written(text)`: a calibrated draft of the text's network, its data, what its files say, and the notes."""

    def make(text: str) -> tuple[Draft, list, TnnNetwork, tuple[str, ...]]:
        model = build(text)
        data = samples(model)
        draft = calibrated(placed(model, TNN, data, prefer="size"), data)
        path = Path(tmp_path_factory.mktemp("tnn")) / "net.tnnproto"
        notes = write_tnn(draft, path)
        return draft, data, read_tnn(path), notes

    return make


@pytest.mark.parametrize("name", CASES)
def test_a_file_computes_what_the_quantized_network_does(written: Callable, name: str) -> None:
    draft, data, net, _ = written(CASES[name])
    reference = OrtExecutor(to_qdq(draft), optimize=False)
    for _, feeds in data[:2]:
        expected, found = reference(feeds), run(net, feeds)
        assert list(found) == list(expected)
        for key, wanted in expected.items():
            assert found[key].shape == wanted.shape
            assert sqnr_db(wanted, found[key]) > 32, key


def test_the_demo_network_keeps_its_accuracy(tmp_path: Path) -> None:
    result = halfeven.quantize(
        DEMO / "fashion_mnist_mbv2.onnx", DEMO / "calibration.npz", target="tnn", preprocess="fashion-mnist", limit=64,
        verify=False,
    )  # fmt: skip
    write_tnn(result.draft, tmp_path / "demo.tnnproto")
    with np.load(DEMO / "test.npz") as stored:
        x, labels = ((stored["x"][:300, None] / 255 - 0.2860) / 0.3530).astype(np.float32), stored["y"][:300]
    found = run(read_tnn(tmp_path / "demo.tnnproto"), {"input": x})["logits"]
    floating = OrtExecutor(DEMO / "fashion_mnist_mbv2.onnx")({"input": x})["logits"]
    assert sqnr_db(floating, found) > 25
    assert (found.argmax(1) == labels).mean() >= (floating.argmax(1) == labels).mean() - 0.015
