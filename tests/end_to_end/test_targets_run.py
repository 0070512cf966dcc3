"""What each target's runtime makes of the demo network and of small residual ones; where it cannot run here, its rules.

ONNX Runtime and, if installed, OpenVINO run the files: every layer on integer kernels, outputs as documented. TensorRT is
held to NVIDIA's developer guide (working with quantized types, explicit quantization): symmetric int8, one scale for each
channel of a weight, Q/DQ in front of layers and on the residual branch of a sum, a float bias, nothing between a layer and
its activation. The integer target is held to what it promises: between layers no tensor is float for anything but
dequantizing, activating and quantizing again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import halfeven
from halfeven import TARGETS, demo

Feeds = dict[str, np.ndarray]
Build = Callable[..., onnx.ModelProto]
Draw = Callable[..., list[Feeds]]
Ran = Callable[..., list[dict[str, object]]]
Sqnr = Callable[..., float]

DEMO = Path(str(demo.__file__)).parent
PICTURES = 500
FEWER = 0.015  # of the demo's pictures that INT8 may get wrong beyond float; 500 pictures resolve about 0.01
RESIDUAL = """
g (float[1,8,8,8] x) => (float[1,8,4,4] y) <float[8,8,3,3] w, float[8] b, float[8,8,3,3] v, float[8] c, float[8,1,3,3] d,
  float[8,8,1,1] u> {
  h = Conv<pads = [1, 1, 1, 1]>(x, w, b)
  r = Relu(h)
  k = Conv<pads = [1, 1, 1, 1]>(r, v, c)
  s = Add(k, r)
  t = Relu(s)
  e = Conv<pads = [1, 1, 1, 1], group = 8>(t, d)
  a = Add(t, e)
  p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
  y = Conv(p, u)
}"""
MIXED = """
g (float[1,8,8,8] x) => (float[1,8,8,8] h, float[1,8,8,8] y, float[1,10] z) <float[8,8,3,3] w, float[8] b, float[8,8,1,1] v,
  float[8,4,1,1] t, float[4,8,1,1] q, float[8,12] m, float[12,10] n, float[10] c, int64[2] flat = {1, 8}> {
  h = Conv<pads = [1, 1, 1, 1]>(x, w, b)
  a = HardSwish(h)
  g = GlobalAveragePool(a)
  i = Conv(g, q)
  j = Relu(i)
  k = Conv(j, t)
  f = HardSigmoid(k)
  s = Mul(a, f)
  y = Conv(s, v)
  o = GlobalAveragePool(y)
  l = Reshape(o, flat)
  r = MatMul(l, m)
  e = Gelu(r)
  z = Gemm(e, n, c)
}"""
POOLED = """
g (float[1,4,9,9] x) => (float[1,4,5,5] y) <float[4,4,3,3] w, float[4] b = {1, 2, 3, 4}, float[4,4,1,1] v> {
  h = Conv<pads = [1, 1, 1, 1]>(x, w, b)
  i = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(h)
  j = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(i)
  k = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(j)
  y = Conv(k, v)
}"""
NETWORKS = {"residual": (RESIDUAL, 17, 8), "mixed": (MIXED, 20, 9), "pooled": (POOLED, 17, 8)}
each_target = pytest.mark.parametrize("target", list(TARGETS))
each_network = pytest.mark.parametrize("network", list(NETWORKS))


@cache
def _demo(target: str) -> onnx.ModelProto:
    result = halfeven.quantize(
        DEMO / "fashion_mnist_mbv2.onnx", DEMO / "calibration.npz", target=target, preprocess="fashion-mnist", limit=64,
        verify=False, prefer="size",
    )  # fmt: skip
    return ir.to_proto(result.model)


@cache
def _pictures() -> tuple[Feeds, np.ndarray]:
    with np.load(DEMO / "test.npz") as data:
        x, y = data["x"][:PICTURES], data["y"][:PICTURES]
    return {"input": ((x[:, None] / 255 - 0.2860) / 0.3530).astype(np.float32)}, y


def _network(name: str, target: str, build: Build, draw: Draw) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    text, opset, version = NETWORKS[name]
    source = build(text, opset, version)
    result = halfeven.quantize(source, draw(source), target=target, verify=False, prefer="size")
    return source, ir.to_proto(result.model)


def _accuracy(model: bytes, ran: Ran) -> float:
    feeds, classes = _pictures()
    return float(np.mean(np.argmax(np.asarray(ran(model, [feeds])[0]["logits"]), 1) == classes))


class Wires:
    """Who makes and who reads each tensor, and the constants, of a message."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.nodes = list(proto.graph.node)
        self.constants: Mapping[str, onnx.TensorProto] = {t.name: t for t in proto.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}

    def array(self, name: str) -> np.ndarray:
        return onnx.numpy_helper.to_array(self.constants[name])

    def maker(self, name: str) -> str:
        """Operator that makes a tensor; "" for inputs and constants."""
        return self.makers[name].op_type if name in self.makers else ""

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def of(self, *ops: str) -> Iterator[onnx.NodeProto]:
        yield from (node for node in self.nodes if node.op_type in ops)


LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@each_target
def test_the_demo_network_keeps_its_accuracy(target: str, ran: Ran) -> None:
    floating = _accuracy((DEMO / "fashion_mnist_mbv2.onnx").read_bytes(), ran)
    assert _accuracy(_demo(target).SerializeToString(), ran) >= floating - FEWER


@pytest.mark.parametrize("target", ["onnxruntime", "integer"])
def test_onnx_runtime_executes_every_layer_of_the_demo_network_in_integers(target: str, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    ort.InferenceSession(_demo(target).SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == 34
    assert kinds["QGemm"] + kinds["QLinearMatMul"] == 1
    assert not kinds.keys() & {"Conv", "FusedConv", "Gemm", "MatMul", "FusedGemm"}


# ---------------------------------------------------------------------------------------------- TensorRT


def _for_tensorrt(network: str, build: Build, draw: Draw) -> Wires:
    return Wires(_demo("tensorrt") if network == "demo" else _network(network, "tensorrt", build, draw)[1])


each_of_tensorrt = pytest.mark.parametrize("network", ["demo", *NETWORKS])


@each_of_tensorrt
def test_tensorrt_gets_symmetric_int8_with_a_scale_per_channel_for_weights_only(
    network: str, build: Build, draw: Draw
) -> None:
    wires = _for_tensorrt(network, build, draw)
    seen = Counter[str]()
    for node in wires.of("QuantizeLinear", "DequantizeLinear"):
        scale, zero = wires.array(node.input[1]), wires.array(node.input[2])
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
        weight = node.op_type == "DequantizeLinear" and node.input[0] in wires.constants
        seen["weight" if weight else "activation"] += 1
        assert scale.ndim == (1 if weight else 0)
        if weight:
            codes = wires.array(node.input[0])
            layer = wires.readers(node.output[0])[0]
            axis = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": codes.ndim - 1}[layer.op_type]
            transposed = any(a.name == "transB" and a.i for a in layer.attribute)
            assert {a.name: a.i for a in node.attribute}["axis"] == (0 if transposed else axis)
            assert np.abs(codes.astype(int)).max() <= 127
    assert seen["weight"] == len(list(wires.of(*LAYERS)))
    assert seen["activation"] > 0


@each_of_tensorrt
def test_tensorrt_gets_layers_between_dequantized_inputs_and_float_biases(
    network: str, build: Build, draw: Draw
) -> None:
    wires = _for_tensorrt(network, build, draw)
    for layer in wires.of(*LAYERS):
        assert [wires.maker(name) for name in layer.input[:2]] == ["DequantizeLinear"] * 2
        for bias in layer.input[2:]:
            assert wires.constants[bias].data_type == onnx.TensorProto.FLOAT
    assert not any(t.data_type == onnx.TensorProto.INT32 for t in wires.constants.values())


@each_of_tensorrt
def test_tensorrt_gets_no_pair_between_a_layer_and_the_activation_that_it_fuses(
    network: str, build: Build, draw: Draw
) -> None:
    wires = _for_tensorrt(network, build, draw)
    for node in wires.of("Relu", "Clip", "HardSwish"):
        assert wires.maker(node.input[0]) != "DequantizeLinear"


def test_tensorrt_gets_pairs_on_the_residual_branch_of_a_sum_only(build: Build, draw: Draw) -> None:
    for network in ("demo", "residual"):
        wires = _for_tensorrt(network, build, draw)
        sums = list(wires.of("Add"))
        assert sums
        for node in sums:
            assert sorted(wires.maker(name) for name in node.input) == ["Conv", "DequantizeLinear"]


# ---------------------------------------------------------------------------------------------- integer


@pytest.mark.parametrize("network", ["demo", "residual"])
def test_the_integer_target_has_codes_on_every_wire(network: str, build: Build, draw: Draw) -> None:
    wires = Wires(_demo("integer") if network == "demo" else _network(network, "integer", build, draw)[1])
    for node in wires.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        floats = [n for n in node.input if n and not (n in wires.constants and wires.array(n).dtype.kind != "f")]
        if node.op_type not in ("Relu", "Clip"):
            assert {wires.maker(name) for name in floats} <= {"DequantizeLinear"}, node.name
        for name in node.output:
            assert {reader.op_type for reader in wires.readers(name)} <= {"QuantizeLinear", "Relu", "Clip"}, node.name
    for layer in wires.of(*LAYERS):
        data, weight, *bias = (wires.makers[name] for name in layer.input)
        for dq in bias:
            assert wires.array(dq.input[0]).dtype == np.int32
            product = wires.array(data.input[1]) * wires.array(weight.input[1])
            np.testing.assert_array_equal(wires.array(dq.input[1]), product.astype(np.float32))


# ---------------------------------------------------------------------------------------------- OpenVINO


def _opened(model: bytes) -> "tuple[Callable[[Feeds], list[np.ndarray]], Counter[tuple[str, str]]]":
    """A function that runs the model by OpenVINO, and how many layers its plan runs in which precision."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    # f32: so that what is float is so on every processor, not bfloat16 where there is AMX
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = Counter[tuple[str, str]]()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kinds[str(info["layerType"].astype(str)), str(info["runtimePrecision"].astype(str))] += 1
    return lambda feeds: [np.asarray(array) for array in compiled(feeds).values()], kinds


PRECISE = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


def test_openvino_runs_every_layer_of_the_demo_network_in_integers(ran: Ran, sqnr: Sqnr) -> None:
    model = _demo("openvino").SerializeToString()
    run, kinds = _opened(model)
    layers = {kind: count for kind, count in kinds.items() if kind[0] in PRECISE}
    assert sum(layers.values()) == 35
    assert {precision for _, precision in layers} <= {"u8", "i8"}
    feeds, classes = _pictures()
    found = run(feeds)[0]
    assert sqnr([ran(model, [feeds])[0]["logits"]], [found]) > 30
    floating = _accuracy((DEMO / "fashion_mnist_mbv2.onnx").read_bytes(), ran)
    assert np.mean(np.argmax(found, 1) == classes) >= floating - FEWER


@each_network
def test_openvino_computes_what_onnx_runtime_computes(
    network: str, build: Build, draw: Draw, ran: Ran, sqnr: Sqnr
) -> None:
    source, quantized = _network(network, "openvino", build, draw)
    run, kinds = _opened(quantized.SerializeToString())
    assert {precision for kind, precision in kinds if kind in PRECISE} <= {"u8", "i8"}
    judged = draw(source, 4, 1)
    reference = ran(quantized.SerializeToString(), judged)
    for i, name in enumerate(reference[0]):
        assert sqnr([row[name] for row in reference], [run(feeds)[i] for feeds in judged]) > 25
