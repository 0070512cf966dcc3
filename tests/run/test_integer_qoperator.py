"""Promised: a file with integer operators (QOperator) has in every machine the integers of the QDQ file of the same plan,
all its tensors of codes can be watched, and they hold what ONNX Runtime computes.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft, pipeline
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.qoperator import to_qoperator
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.importers.qdq import draft_of
from halfeven.report.conform import conform
from halfeven.report.judging import judged
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named, this_machine
from halfeven.run.ort import OrtExecutor
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.observe import Observe
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Tied = Callable[[Draft], Draft]
Placed = Callable[..., Draft]
HOME = files("halfeven.demo")
BYTES = (np.uint8, np.int8)

NETWORKS = {
    "layers": (
        "g (float[1,4,9,9] x) => (float[1,3] y) <float[8,4,3,3] w, float[8] b, float[8,1,3,3] d, float[8,5] m, float[5,3] n,"
        " float[3] k, int64[2] shape = {1, 8}> { h = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(h)"
        " e = Conv<group=8, strides=[2,2]>(r, d)  a = GlobalAveragePool(e)  f = Reshape(a, shape)  p = MatMul(f, m)"
        " y = Gemm(p, n, k) }",
        {"QLinearConv", "QLinearGlobalAveragePool", "Reshape", "QLinearMatMul", "QGemm"},
    ),
    "a product of real output": (
        "g (float[2,5,6] x) => (float[2,5,3] y) <float[6,8] w, float[8,3] v>"
        " { h = MatMul(x, w)  t = Sigmoid(h)  y = MatMul(t, v) }",
        {"QLinearMatMul", "QLinearSigmoid", "MatMulIntegerToFloat"},
    ),
    "sums and products": (
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y) <float[3,3,1,1] w, float[1,3,1,1] k>"
        " { h = Conv(x, w)  s = Add(h, x)  p = Mul(s, h)  q = Add(p, k)  y = Conv(q, w) }",
        {"QLinearConv", "QLinearAdd", "QLinearMul"},
    ),
    "pools and curves": (
        "g (float[1,3,6,6] x) => (float[1,3,6,6] y) <float[3,3,1,1] w> { h = Conv(x, w)"
        " a = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1], count_include_pad=1>(h)"
        " l = LeakyRelu<alpha=0.1>(a)  s = Sigmoid(l)"
        " p = AveragePool<kernel_shape=[2,2], strides=[1,1], pads=[0,0,1,1]>(s)  y = Conv(p, w) }",
        {"QLinearConv", "QLinearAveragePool", "QLinearLeakyRelu", "QLinearSigmoid"},
    ),
    "moves": (
        "g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w, float[4,8,1,1] v, float[4] scales = {1, 1, 2, 2},"
        " int64[2] parts = {2, 2}> { h = Conv(x, w)  m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)"
        ' u = Resize<mode="nearest">(m, , scales)  a, b = Split<axis=1>(u, parts)  t = Transpose<perm=[0,1,3,2]>(a)'
        " s = Sigmoid(h)  c = Concat<axis=1>(t, b, s)  y = Conv(c, v) }",
        {"QLinearConv", "MaxPool", "Resize", "Split", "Transpose", "Concat"},
    ),
}  # fmt: skip


def codes_of(model: ir.Model, executor: IntegerExecutor) -> list[str]:
    made = {v.name for node in model.graph for v in node.outputs}
    return [name for name, tensor in executor.tensors.items() if tensor.coded and name in made]


def assert_the_runtime_s(model: ir.Model, data: list, least: int) -> None:
    """Every tensor of bytes in the model is watched, and is what ONNX Runtime computes."""
    executor = IntegerExecutor(lower(model), this_machine())
    names = [v.name for node in model.graph for v in node.outputs if v.name]
    names = [n for n in names if n not in {v.name for v in model.graph.outputs}]
    run = OrtExecutor(model, tuple(names), threads=1)
    bytes_ = [n for n, x in run(data[0][1]).items() if x.dtype in BYTES]
    assert set(bytes_) == set(codes_of(model, executor))
    assert len(bytes_) >= least
    for _, feeds in data:
        ours, theirs = executor(feeds, bytes_), run(feeds)
        assert [n for n in bytes_ if not np.array_equal(ours[n], theirs[n])] == []


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-arm"])
@pytest.mark.parametrize("ties", [False, True], ids=["free scales", "ties"])
@pytest.mark.parametrize("name", NETWORKS)
def test_integer_operators_are_layers_like_those_of_the_qdq_file(
    build: Build, samples: Samples, placed: Placed, tied: Tied, name: str, ties: bool, target: str
) -> None:
    text, expected = NETWORKS[name]
    model = build(text)
    data = samples(model, 6)
    draft = pipeline(Observe(), Calibrate(method="minmax"))(
        placed(model, replace(TARGETS[target], costs=UNIFORM), data), data
    )
    draft = tied(draft) if ties else draft
    qdq, file = to_qdq(draft), to_qoperator(to_qdq(draft))[0]
    name_everything(qdq)
    name_everything(file)
    assert expected <= {node.op_type for node in file.graph}
    on_grid = [(label, {k: np.round(v * 32) / np.float32(32) for k, v in feeds.items()}) for label, feeds in data]
    assert_the_runtime_s(file, on_grid, 3)
    int8 = "+int8" if target.endswith("arm") else ""
    for machine in (f"onnxruntime@x86-vnni{int8}", f"onnxruntime@x86-avx2{int8}", "onnxruntime@arm64", "integer"):
        one, other = (IntegerExecutor(lower(m), machine_named(machine)) for m in (qdq, file))
        names = codes_of(qdq, one)
        assert len(names) >= 3
        for _, feeds in on_grid:
            expected_codes, found = one(feeds, names), other(feeds, names)
            assert [n for n in names if not np.array_equal(expected_codes[n], found[n])] == [], machine


HANDMADE = (
    "g (float[4,6] x, float[4,6] v) => (float[4,%d] y) <float s = {0.0625}, %s z = {%d}, float t = {%s}, float u ="
    " {0.03125}, %s o = {%d}, int8[6,6] w, float k = {0.03125}, int8 n = {0}, float p = {0.001953125}, int32 e = {0}, int32[6] c>"
    " { q = QuantizeLinear(x, s, z)  r = DequantizeLinear(q, s, z)  f = QuantizeLinear(v, u, z)"
    "  h = DequantizeLinear(f, u, z)  i = DequantizeLinear(w, k, n)  b = DequantizeLinear(c, p, e)  j = %s"
    "  l = QuantizeLinear(j, t, o)  y = DequantizeLinear(l, t, o) }"
)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("operator", "scale", "form"),
    [
        ("Concat<axis=1>(r, h)", 0.05, "QLinearConcat"),
        ("Concat<axis=0>(r, h, r)", 0.0625, "QLinearConcat"),
        ("Softmax<axis=0>(r)", 0.0078125, "QLinearSoftmax"),
        ("Softmax(r)", 0.0043, "QLinearSoftmax"),
        ("Gemm<transB=1>(r, i, b)", 0.25, "QGemm"),
        ("Gemm<alpha=0.5>(r, i)", 0.1, "QGemm"),
        ("MatMul(r, i)", 0.3, "QLinearMatMul"),
        ("Mul(r, h)", 0.03125, "QLinearMul"),
        ("Add(r, h)", 0.0625, "QLinearAdd"),
        ("LeakyRelu(r)", 0.04, "QLinearLeakyRelu"),
        ("Relu(r)", 0.0625, "Max"),
    ],
)
def test_an_operator_alone_has_the_machine_s_kernel(
    build: Build, samples: Samples, operator: str, scale: float, form: str, kind: str
) -> None:
    zeros = (128, 120) if kind == "uint8" else (3, -7)
    zeros = (zeros[0], zeros[0] if form == "Max" else 0 if form == "QLinearSoftmax" else zeros[1])
    text = HANDMADE % (12 if "axis=1" in operator else 6, kind, zeros[0], scale, kind, zeros[1], operator)
    text = text.replace("float[4,6] y", "float[12,6] y") if "axis=0>(r, h, r)" in operator else text
    qdq, twin = (build(text, w=np.arange(36).reshape(6, 6) * 7 % 255 - 127, c=np.arange(6) * 900) for _ in range(2))
    file = to_qoperator(twin)[0]
    assert form in {node.op_type for node in file.graph}
    name_everything(file)
    data = samples(file, 6, 3.0)
    assert_the_runtime_s(file, data, 2)
    for machine in ("onnxruntime@x86-vnni", "onnxruntime@x86-avx2", "onnxruntime@arm64"):
        signed = "+int8" if kind == "int8" and "x86" in machine else ""
        one, other = (
            IntegerExecutor(lower(qdq), machine_named(machine + signed)),
            IntegerExecutor(lower(file), machine_named(machine)),
        )
        assert [op for op in other.integer_ops if op.explicit]
        for _, feeds in data:
            np.testing.assert_array_equal(other(feeds, ["l"])["l"], one(feeds, ["l"])["l"], err_msg=machine)


def test_signed_integer_operators_are_integer_on_x86_whatever_the_session_says(
    build: Build, samples: Samples, placed: Placed
) -> None:
    model = build(NETWORKS["sums and products"][0])
    data = samples(model, 6)
    draft = pipeline(Observe(), Calibrate(method="minmax"))(
        placed(model, replace(TARGETS["onnxruntime-arm"], costs=UNIFORM), data), data
    )
    executor = IntegerExecutor(lower(to_qoperator(to_qdq(draft))[0]), machine_named("onnxruntime@x86-vnni"))
    kinds = [op.kind for op in executor.integer_ops if op.explicit]
    assert kinds == ["Conv", "Add", "Mul", "Add", "Conv"]


@pytest.fixture(scope="module")
def demo() -> tuple[ir.Model, ir.Model, list]:
    """The demonstration network in both forms, and pictures."""
    with np.load(str(HOME / "calibration.npz"), allow_pickle=False) as stored:
        x = ((stored["x"][:16, None].astype(np.float32) / 255 - 0.286) / 0.353).astype(np.float32)
    draft = halfeven.quantize(str(HOME / "fashion_mnist_mbv2.onnx"), x, verify=False).draft
    data = [(str(i), {"input": x[i : i + 1]}) for i in range(3)]
    return to_qdq(draft), to_qoperator(to_qdq(draft))[0], data


def test_the_demonstration_as_integer_operators_parts_where_its_qdq_file_does(
    demo: tuple[ir.Model, ir.Model, list],
) -> None:
    qdq, file, data = demo
    name_everything(file)
    assert_the_runtime_s(file, data, 30)
    for machine in ("onnxruntime@x86-avx2", "onnxruntime@arm64"):
        one, other = (judged(m, data, machine) for m in (qdq, file))
        assert one.simulation.sentence == other.simulation.sentence
        assert one.advice == other.advice
        assert list(one.simulation.tensors) == list(other.simulation.tensors)
        for a, b in zip(one.simulation.outputs, other.simulation.outputs, strict=True):
            np.testing.assert_array_equal(a["logits"], b["logits"])


def test_other_runtimes_read_the_plan_of_a_file_with_integer_operators(demo: tuple[ir.Model, ir.Model, list]) -> None:
    found = [conform(m, demo[2][:1], ("onnxruntime", "openvino")).runtimes for m in demo[:2]]
    for one, other in zip(*found, strict=True):
        assert (one.refused, other.refused) == ("", "")
        assert one.compared == other.compared > 0
        assert (other.differing, other.effect.rows) == (one.differing, 1)
    plans = [draft_of(m, TARGETS["onnxruntime"]).plan for m in demo[:2]]
    assert len(plans[0].sites) == len(plans[1].sites)
    assert len(plans[0].groups) == len(plans[1].groups)


CLAMPED = (
    "g (float[1,2,3,3] x) => (float[1,2,3,3] y) <float s = {0.5}, uint8 z = {20}, int8[2,2,1,1] w, float t = {0.25},"
    " int8 n = {0}, float u = {0.75}, uint8 o = {90}, uint8 top = {140}> { q = QuantizeLinear(x, s, z)"
    "  c = QLinearConv(q, s, z, w, t, n, u, o)  m = %s  y = DequantizeLinear(m, u, o) }"
)


@pytest.mark.parametrize("clamp", ["Max(c, o)", "Max(c, top)", "Min(c, top)", "Clip(c, o, top)", "Clip(c, , top)"])
def test_clamps_on_codes_are_computed_and_go_back_into_their_layer(build: Build, samples: Samples, clamp: str) -> None:
    file = build(CLAMPED % clamp, w=np.array([[90, -110], [-70, 120]]).reshape(2, 2, 1, 1))
    name_everything(file)
    data = samples(file, 3, 40.0)
    assert_the_runtime_s(file, data, 3)
    draft = draft_of(file, TARGETS["onnxruntime"])
    assert draft.model.graph[0].op_type == "Conv"
    assert len([n for n in to_qdq(draft).graph if n.op_type == "QuantizeLinear"]) == 2
    for _, feeds in data:
        again = OrtExecutor(to_qdq(draft), optimize=False)(feeds)["y"]
        np.testing.assert_array_equal(again, OrtExecutor(file)(feeds)["y"])


OTHERWISE = (
    "g (float[2,4] x) => (float[2,4] y) <float s = {0.5}, uint8 z = {20}, float t = {0.125}>"
    " { q = QuantizeLinear(x, s, z)  [sum] c = com.microsoft.QLinearAdd(q, t, z, q, s, z, s, z)"
    "  y = DequantizeLinear(c, s, z) }"
)


def test_codes_read_otherwise_than_they_were_made_stay_with_the_runtime_and_files_of_others_are_refused(
    build: Build, samples: Samples
) -> None:
    file = build(OTHERWISE)
    file.opset_imports["com.microsoft"] = 1
    data = samples(file, 3, 10.0)
    for _, feeds in data:
        ours = IntegerExecutor(lower(file), this_machine())(feeds, ["c"])
        theirs = OrtExecutor(file, ("c",))(feeds)
        np.testing.assert_array_equal(ours["c"], theirs["c"])
    (found,) = conform(file, data, ("openvino",)).runtimes
    assert found.refused == (
        "QLinearAdd 'sum' computes on codes in a form that no plan can hold, so that no other file can be written of it. "
        "Give the model in QDQ form, with QuantizeLinear and DequantizeLinear."
    )
