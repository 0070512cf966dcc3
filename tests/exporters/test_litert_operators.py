"""Promised: each operator, written to a .tflite file and run there, gives in float what ONNX Runtime gives, to 1e-5 of the
largest output, and in integers what the QDQ model gives, to one code of the output, with each of the three kernel sets;
and in TensorFlow Lite Micro, but for four, what the reference kernels give, to the bit.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Batch, Draft
from halfeven.errors import UnsupportedModel
from halfeven.exporters.litert.write import Written, to_litert
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Plan, Site
from halfeven.run.litert import KERNELS, open_litert, schema
from halfeven.run.ort import OrtExecutor
from halfeven.run.tflite_micro import open_tflite_micro
from halfeven.targets.costs import UNIFORM
from halfeven.targets.litert import LITERT, LITERT_INT16
from halfeven.targets.target import Cost

pytest.importorskip("ai_edge_litert")

IMAGE = "g (float[N,4,9,8] x) => (y) "
ROWS = "g (float[N,6,8] x) => (y) "
# name -> (text, opset, how many operators of the file run in real numbers when the network is quantized)
CASES: dict[str, str] = {
    "conv": IMAGE + "<float[8,4,3,3] w, float[8] b> { y = Conv<pads = [1,1,1,1]>(x, w, b) }",
    "conv with stride and pads in front": IMAGE
    + "<float[8,4,3,3] w> { y = Conv<pads = [1,1,1,1], strides = [2,2]>(x, w) }",
    "conv without pads": IMAGE + "<float[8,4,2,3] w, float[8] b> { y = Conv<strides = [2,1]>(x, w, b) }",
    "conv of uneven pads": IMAGE + "<float[4,4,3,3] w> { y = Conv<pads = [0,2,1,0]>(x, w) }",
    "conv SAME_LOWER": IMAGE + '<float[4,4,2,3] w> { y = Conv<auto_pad = "SAME_LOWER", strides = [2,2]>(x, w) }',
    "conv SAME_UPPER": IMAGE + '<float[4,4,2,3] w> { y = Conv<auto_pad = "SAME_UPPER", strides = [2,2]>(x, w) }',
    "conv with dilation": IMAGE + "<float[4,4,3,3] w> { y = Conv<pads = [2,2,2,2], dilations = [2,2]>(x, w) }",
    "conv in groups": IMAGE + "<float[8,2,3,3] w, float[8] b> { y = Conv<pads = [1,1,1,1], group = 2>(x, w, b) }",
    "depthwise": IMAGE + "<float[4,1,3,3] w, float[4] b> { y = Conv<pads = [1,1,1,1], group = 4>(x, w, b) }",
    "depthwise with a multiplier": IMAGE
    + "<float[8,1,3,3] w, float[8] b> { y = Conv<pads = [1,1,1,1], group = 4, strides = [2,2]>(x, w, b) }",
    "conv and relu": IMAGE + "<float[4,4,1,1] w> { h = Conv(x, w) y = Relu(h) }",
    "conv and clip to 6": IMAGE
    + "<float[4,4,1,1] w, float lo = {0}, float hi = {6}> { h = Conv(x, w) y = Clip(h, lo, hi) }",
    "conv and clip to 0.5": IMAGE
    + "<float[4,4,1,1] w, float lo = {-0.25}, float hi = {0.5}> { h = Conv(x, w) y = Clip(h, lo, hi) }",
    "conv of one dimension": ROWS + "<float[8,6,3] w, float[8] b> { y = Conv<pads = [1,1]>(x, w, b) }",
    "transposed conv": IMAGE + "<float[4,6,2,2] w, float[6] b> { y = ConvTranspose<strides = [2,2]>(x, w, b) }",
    "transposed conv with pads": IMAGE
    + "<float[4,6,3,3] w, float[6] b> { y = ConvTranspose<strides = [2,2], pads = [1,1,1,1]>(x, w, b) }",
    "transposed conv with more output": IMAGE
    + "<float[4,6,3,3] w> { y = ConvTranspose<strides = [2,2], pads = [1,1,1,1], output_padding = [1,1]>(x, w) }",
    "gemm": "g (float[N,6] x) => (y) <float[5,6] w, float[5] b> { y = Gemm<transB = 1>(x, w, b) }",
    "gemm behind flatten": IMAGE
    + "<float[4,4,3,3] v, float[5,168] w, float[5] b> { h = Conv(x, v) f = Flatten(h) y = Gemm<transB = 1>(f, w, b) }",
    "matmul of rows": ROWS + "<float[8,5] w> { y = MatMul(x, w) }",
    "matmul of two values": "g (float[1,2,5,6] x, float[1,2,6,3] z) => (y) { y = MatMul(x, z) }",
    "add": "g (float[N,4,5] x, float[N,4,5] z) => (y) { y = Add(x, z) }",
    "add of channels": IMAGE + "<float[4,4,1,1] w, float[4,1,1] c> { h = Conv(x, w) y = Add(h, c) }",
    "sub from a constant": IMAGE + "<float[1] c = {1}> { y = Sub(c, x) }",
    "mul and relu": "g (float[N,4,5] x, float[N,4,5] z) => (y) { h = Mul(x, z) y = Relu(h) }",
    "mul of channels that were averaged": IMAGE
    + "<float[4,4,1,1] w> { h = Conv(x, w) m = GlobalAveragePool(h) y = Mul(h, m) }",
    "div by a constant": IMAGE + "<float c = {6}> { y = Div(x, c) }",
    "div of two values": "g (float[N,4,5] x, float[N,4,5] z) => (y) { e = Exp(z) y = Div(x, e) }",
    "concat of channels": IMAGE
    + "<float[4,4,1,1] w, float[3,4,1,1] v> { a = Conv(x, w) b = Conv(x, v) y = Concat<axis = 1>(a, b) }",
    "pad": IMAGE + "<int64[8] p = {0,0,1,2,0,0,0,3}> { y = Pad(x, p) }",
    "pad with a number": IMAGE + "<int64[8] p = {0,0,1,0,0,0,0,1}, float v = {0.5}> { y = Pad(x, p, v) }",
    "pad by reflection": IMAGE + '<int64[8] p = {0,0,1,0,0,0,0,1}> { y = Pad<mode = "reflect">(x, p) }',
    "max pool": IMAGE + "{ y = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x) }",
    "max pool with pads": IMAGE + "{ y = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]>(x) }",
    "max pool to the ceiling": IMAGE + "{ y = MaxPool<kernel_shape = [2,2], strides = [2,2], ceil_mode = 1>(x) }",
    "average pool": IMAGE + "{ y = AveragePool<kernel_shape = [2,2], strides = [2,2]>(x) }",
    "average pool, pads left out": IMAGE + "{ y = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1]>(x) }",
    "average pool, pads left out, uneven": IMAGE
    + "{ y = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]>(x) }",
    "average pool, pads counted": IMAGE
    + "{ y = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1], count_include_pad = 1>(x) }",
    "average pool of one dimension": ROWS + "{ y = AveragePool<kernel_shape = [2], strides = [2]>(x) }",
    "global average pool": IMAGE + "{ y = GlobalAveragePool(x) }",
    "global max pool": IMAGE + "{ y = GlobalMaxPool(x) }",
    "mean, axes dropped": IMAGE + "{ y = ReduceMean<axes = [2,3], keepdims = 0>(x) }",
    "mean of channels": IMAGE + "<float[4,4,1,1] w> { h = Conv(x, w) y = ReduceMean<axes = [1]>(h) }",
    "sum": IMAGE + "<int64[1] a = {-1}> { y = ReduceSum(x, a) }",
    "max over an axis": IMAGE + "{ y = ReduceMax<axes = [1], keepdims = 0>(x) }",
    "l2 norm": IMAGE + "{ y = ReduceL2<axes = [1]>(x) }",
    "resize nearest": IMAGE + '<float[4] s = {1,1,2,2}> { y = Resize<mode = "nearest">(x, , s) }',
    "resize nearest, floor": IMAGE
    + '<float[4] s = {1,1,2,3}> { y = Resize<nearest_mode = "floor", coordinate_transformation_mode = "asymmetric">(x, , s) }',
    "resize nearest to odd sizes": IMAGE + "<int64[4] s = {1,4,13,5}> { y = Resize(x, , , s) }",
    "resize linear": IMAGE + '<float[4] s = {1,1,2,2}> { y = Resize<mode = "linear">(x, , s) }',
    "resize linear, corners": IMAGE
    + '<float[4] s = {1,1,2,2}> { y = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(x, , s) }',
    "resize linear, asymmetric": IMAGE
    + '<float[4] s = {1,1,2,2}> { y = Resize<mode = "linear", coordinate_transformation_mode = "asymmetric">(x, , s) }',
    "reshape of channels last": IMAGE
    + "<float[4,4,1,1] w, int64[3] s = {0,4,72}> { h = Conv(x, w) y = Reshape(h, s) }",
    "flatten of channels last": IMAGE + "<float[4,4,1,1] w> { h = Conv(x, w) y = Flatten(h) }",
    "transpose to rows": IMAGE
    + "<float[4,4,1,8] w, float[4,5] m, int64[1] a = {3}> { h = Conv(x, w) q = Squeeze(h, a) t = Transpose<perm = [0,2,1]>(q) y = MatMul(t, m) }",
    "transpose": ROWS + "{ y = Transpose<perm = [2,0,1]>(x) }",
    "slice": IMAGE + "<int64[2] b = {1,-6}, int64[2] e = {3,100}, int64[2] a = {1,3}> { y = Slice(x, b, e, a) }",
    "slice in steps": IMAGE
    + "<int64[1] b = {0}, int64[1] e = {100}, int64[1] a = {2}, int64[1] s = {2}> { y = Slice(x, b, e, a, s) }",
    "slice backwards": IMAGE
    + "<int64[1] b = {-1}, int64[1] e = {-100}, int64[1] a = {3}, int64[1] s = {-1}> { y = Slice(x, b, e, a, s) }",
    "slice of five axes": "g (float[1,3,2,4,5] x) => (y) "
    "<int64[1] b = {1}, int64[1] e = {2}, int64[1] a = {1}> { y = Slice(x, b, e, a) }",
    "split": IMAGE + "{ a, b = Split<axis = 1>(x) y = Sub(a, b) }",
    "split unevenly": IMAGE + "<int64[2] s = {3,1}> { a, b = Split<axis = 1>(x, s) y = Mul(a, b) }",
    "gather of a place": IMAGE + "<int64 i = {-1}> { y = Gather<axis = 1>(x, i) }",
    "gather of places": IMAGE + "<int64[3] i = {0,2,-1}> { y = Gather<axis = 3>(x, i) }",
    "gather from a table": "g (int64[N,3] x) => (y) <float[9,4] t> { y = Gather(t, x) }",
    "expand": "g (float[1,4,1] x) => (y) <int64[3] s = {2,4,3}> { y = Expand(x, s) }",
    "tile": ROWS + "<int64[3] r = {1,2,1}> { y = Tile(x, r) }",
    "unsqueeze": ROWS + "<int64[1] a = {1}> { y = Unsqueeze(x, a) }",
    "depth to space": IMAGE + "<float[8,4,1,1] w> { h = Conv(x, w) y = DepthToSpace<blocksize = 2>(h) }",
    "pixel shuffle": IMAGE + '<float[8,4,1,1] w> { h = Conv(x, w) y = DepthToSpace<blocksize = 2, mode = "CRD">(h) }',
    "space to depth": "g (float[N,3,4,6] x) => (y) { y = SpaceToDepth<blocksize = 2>(x) }",
    "softmax": ROWS + "{ y = Softmax<axis = -1>(x) }",
    "softmax of channels": IMAGE + "<float[4,4,1,1] w> { h = Conv(x, w) y = Softmax<axis = 1>(h) }",
    "log softmax": ROWS + "{ y = LogSoftmax<axis = -1>(x) }",
    "sigmoid": ROWS + "{ y = Sigmoid(x) }",
    "swish": IMAGE + "<float[4,4,1,1] w> { h = Conv(x, w) s = Sigmoid(h) y = Mul(h, s) }",
    "tanh": ROWS + "{ y = Tanh(x) }",
    "hard swish": ROWS + "{ y = HardSwish(x) }",
    "hard swish in parts": IMAGE
    + "<float[4,4,1,1] w, float t = {3}, float lo = {0}, float hi = {6}> { h = Conv(x, w) a = Add(h, t) c = Clip(a, lo, hi) m = Mul(h, c) y = Div(m, hi) }",
    "hard sigmoid": IMAGE + "<float[4,4,1,1] w> { h = Conv(x, w) y = HardSigmoid<alpha = 0.1666667, beta = 0.5>(h) }",
    "leaky relu": IMAGE + "<float[4,4,1,1] w> { h = Conv(x, w) y = LeakyRelu<alpha = 0.1>(h) }",
    "prelu of channels": IMAGE + "<float[4,4,1,1] w, float[4,1,1] s> { h = Conv(x, w) y = PRelu(h, s) }",
    "relu alone": ROWS + "{ y = Relu(x) }",
    "conv and clip to 1": IMAGE
    + "<float[4,4,1,1] w, float lo = {-1}, float hi = {1}> { h = Conv(x, w) y = Clip(h, lo, hi) }",
    "clip to 6 alone": ROWS + "<float lo = {0}, float hi = {6}> { y = Clip(x, lo, hi) }",
    "clip to 1 alone": ROWS + "<float lo = {-1}, float hi = {1}> { y = Clip(x, lo, hi) }",
    "clip alone": ROWS + "<float lo = {-0.5}, float hi = {0.25}> { y = Clip(x, lo, hi) }",
    "elu": ROWS + "{ y = Elu(x) }",
    "gelu by erf": ROWS
    + "<float r = {1.41421356}, float one = {1}, float half = {0.5}> { a = Div(x, r) e = Erf(a) p = Add(e, one) m = Mul(x, p) y = Mul(m, half) }",
    "exp": ROWS + "{ y = Exp(x) }",
    "sqrt of a square": ROWS + "<float c = {1}> { s = Mul(x, x) a = Add(s, c) y = Sqrt(a) }",
    "pow": ROWS + "<float c = {2}> { y = Pow(x, c) }",
    "reciprocal": ROWS + "{ e = Exp(x) y = Reciprocal(e) }",
    "softplus": ROWS + "{ y = Softplus(x) }",
    "greatest of three": "g (float[N,4] x, float[N,4] z, float[N,4] u) => (y) { y = Max(x, z, u) }",
    "where": "g (float[N,4] x, float[N,4] z) => (y) { c = Less(x, z) y = Where(c, x, z) }",
    "layer normalization": ROWS + "<float[8] s, float[8] b> { y = LayerNormalization<axis = -1>(x, s, b) }",
    "instance normalization": IMAGE + "<float[4] s, float[4] b> { y = InstanceNormalization(x, s, b) }",
    "arg max": ROWS + "{ y = ArgMax<axis = 2, keepdims = 0>(x) }",
    "lstm": "g (float[5,2,4] x) => (y, h, c) <float[1,12,4] w, float[1,12,3] r, float[1,24] b> { y, h, c = LSTM<hidden_size = 3>(x, w, r, b) }",
    "lstm both ways": 'g (float[3,1,4] x) => (y, h) <float[2,12,4] w, float[2,12,3] r> { y, h = LSTM<hidden_size = 3, direction = "bidirectional">(x, w, r) }',
    "gru": "g (float[4,2,4] x, float[1,2,3] s) => (y, h) <float[1,9,4] w, float[1,9,3] r, float[1,18] b> { y, h = GRU<hidden_size = 3>(x, w, r, b, , s) }",
    "gru, reset behind": 'g (float[4,1,4] x) => (y) <float[1,9,4] w, float[1,9,3] r, float[1,18] b> { y = GRU<hidden_size = 3, linear_before_reset = 1, direction = "reverse">(x, w, r, b) }',
}
IN_FLOAT = frozenset(
    {"div of two values", "pad with a number", "sum", "l2 norm", "log softmax"}
    | {"average pool, pads left out, uneven", "gather from a table", "elu", "tile", "exp", "where", "arg max"}
    | {"depth to space", "pixel shuffle", "space to depth", "gelu by erf", "sqrt of a square", "pow", "reciprocal"}
    | {
        "softplus",
        "layer normalization",
        "instance normalization",
        "lstm",
        "lstm both ways",
        "gru",
        "gru, reset behind",
    }
)
"""What has no integer kernel, in whole or in part; of all others only the borders of the network are in float."""
NOT_IN_MICRO = {"gather from a table", "tile", "gelu by erf", "arg max"}
"""Micro has no GATHER of rows by int64, no TILE, no SIGN, of which Erf is made, and no ARG_MAX to int64."""
IN_FLOAT_OF_16_BITS = IN_FLOAT | {"hard swish", "prelu of channels"} | {name for name in CASES if "linear" in name}
EAGER = replace(LITERT, costs=replace(UNIFORM, quantize=Cost(), dequantize=Cost()))
"""The target, with costs that make a single operator worth it."""
EAGER_16 = replace(LITERT_INT16, costs=EAGER.costs)
each_case = pytest.mark.parametrize("name", CASES)


def run(written: Written, path: Path, kernels: str, feeds: Batch, names: list[str]) -> Batch:
    """Run a file on feeds that lie as ONNX has them; its outputs, as ONNX has them."""
    path.write_bytes(written.data)
    tables = schema()
    model = tables.ModelT.InitFromObj(tables.Model.GetRootAsModel(written.data, 0))
    buffer = next(entry.buffer for entry in model.metadata if entry.name == b"halfeven")
    axes = json.loads(bytes(model.buffers[buffer].data))["axes"]
    runner = open_litert(path, kernels)
    given = {port.name: np.ascontiguousarray(feeds[port.name].transpose(axes[port.name])) for port in runner.inputs}
    made = runner(given)
    return {name: made[name].transpose(np.argsort(axes[name])) for name in names}


def model_of(name: str, build: Callable[..., ir.Model]) -> ir.Model:
    return build(CASES[name])


def outputs(draft: Draft) -> list[str]:
    return [value.name or "" for value in draft.model.graph.outputs]


def borders_of(model: ir.Model) -> int:
    """How many QUANTIZE and DEQUANTIZE a network in integers needs."""
    return len(model.graph.inputs) + len(model.graph.outputs)


def step_of(draft: Draft, key: str) -> float:
    """The scale of an output, or, of one in real numbers, the largest of what it was computed from."""
    own = draft.plan.at(Site(key))
    groups = [own] if own is not None else draft.plan.groups.values()
    return max([float(q.params.scale.max()) for q in groups if q is not None and q.params is not None], default=1e-5)


@each_case
def test_in_float_an_operator_gives_what_onnx_gives(name, build, samples, placed, tmp_path) -> None:
    model = model_of(name, build)
    data = samples(model, 2)
    draft = placed(model, LITERT, data)
    written = to_litert(draft, mode="float")
    for _, feeds in data:
        expected = OrtExecutor(draft.model, optimize=False)(feeds)
        for kernels in ("xnnpack", "reference"):
            found = run(written, tmp_path / "m.tflite", kernels, feeds, outputs(draft))
            for key, array in expected.items():
                assert found[key].shape == array.shape
                np.testing.assert_allclose(found[key], array, atol=1e-5 * max(float(np.abs(array).max()), 1.0), rtol=0)


@each_case
def test_in_integers_an_operator_is_within_one_code_of_onnx(name, build, samples, placed, calibrated, tmp_path) -> None:
    model = model_of(name, build)
    data = samples(model, 4)
    draft = calibrated(placed(model, EAGER, data), data)
    written = to_litert(draft)
    run_onnx = OrtExecutor(to_qdq(draft), optimize=False)
    assert name in IN_FLOAT or written.operators - written.integer == borders_of(model)
    for kernels in KERNELS:
        for _, feeds in data[:2]:
            found = run(written, tmp_path / f"{kernels}.tflite", kernels, feeds, outputs(draft))
            for key, array in run_onnx(feeds).items():
                step = step_of(draft, key)
                off = np.abs(found[key].astype(np.float64) - array) / step
                assert off.max() <= 1.01, (kernels, key, off.max())


@each_case
def test_tensorflow_lite_micro_computes_what_the_reference_kernels_do(
    name, build, samples, placed, calibrated, tmp_path
) -> None:
    pytest.importorskip("tflite_micro")
    model = model_of(name, build)
    data = samples(model, 4)
    path = tmp_path / "m.tflite"
    path.write_bytes(to_litert(calibrated(placed(model, EAGER, data), data)).data)
    reference = open_litert(path, "reference")
    if any(port.shape[0] != 1 for port in reference.inputs):
        pytest.skip("Micro is run sample by sample; this has none")
    rng = np.random.default_rng(0)
    feeds = {port.name: rng.normal(size=port.shape).astype(port.dtype) for port in reference.inputs}
    if name in NOT_IN_MICRO:
        with pytest.raises(UnsupportedModel, match="which operator"):
            open_tflite_micro(path)(*feeds.values())
        return
    wanted, found = reference(feeds), open_tflite_micro(path)(*feeds.values(), outputs=len(reference.outputs))
    for port, array in zip(reference.outputs, found, strict=True):
        np.testing.assert_array_equal(array, wanted[port.name])


@each_case
def test_in_sixteen_bits_an_operator_is_within_four_codes_of_onnx(
    name, build, samples, placed, calibrated, tmp_path
) -> None:
    model = model_of(name, build)
    data = samples(model, 4)
    draft = calibrated(placed(model, EAGER_16, data), data)
    written = to_litert(draft)
    assert name in IN_FLOAT_OF_16_BITS or written.operators - written.integer == borders_of(model)
    run_onnx = OrtExecutor(to_qdq(draft), optimize=False)
    for _, feeds in data[:2]:
        found = run(written, tmp_path / "m.tflite", "xnnpack", feeds, outputs(draft))
        for key, array in run_onnx(feeds).items():
            off = np.abs(found[key].astype(np.float64) - array) / step_of(draft, key)
            assert off.max() <= 4.01, (key, off.max())


def test_the_plan_is_not_needed_for_a_float_file(build, samples, placed) -> None:
    model = model_of("conv", build)
    draft = placed(model, LITERT, samples(model, 1))
    assert to_litert(replace(draft, plan=Plan())).data == to_litert(replace(draft, plan=Plan()), mode="float").data
