"""Promised: the file with integer operators gives, in ONNX Runtime, the outputs of the QDQ file and every one of its
integers, bit for bit, ties included; what has no integer operator stays in float, and the notes name it.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import halfeven
from halfeven import demo
from halfeven.draft import Draft
from halfeven.exporters.formats import exporter_named
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.qoperator import to_qoperator
from halfeven.numerics.scheme import QParams
from halfeven.run.ort import OrtExecutor
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM

Build = Callable[..., ir.Model]
Placed = Callable[..., Draft]
Samples = Callable[..., list]
Tied = Callable[[Draft], Draft]
Calibrated = Callable[..., Draft]
BORDERS = {"QuantizeLinear", "DequantizeLinear"}

NETWORKS = {
    "conv with bias": (
        "g (float[1,3,6,6] x) => (float[1,4,4,4] y) <float[4,3,3,3] w, float[4] b> { y = Conv(x, w, b) }",
        {"QLinearConv"},
    ),
    "grouped, strided, dilated convs": (
        "g (float[1,4,9,9] x) => (float[1,4,3,3] y) <float[4,1,3,3] w, float[4,2,3,3] v>"
        " { h = Conv<group=4, strides=[2,2], pads=[1,1,1,1]>(x, w)  r = Relu(h)"
        " y = Conv<group=2, dilations=[1,1]>(r, v) }",
        {"QLinearConv"},
    ),
    "matmuls": (
        "g (float[2,5,6] x) => (float[2,5,3] y) <float[6,8] w, float[8,3] v> { h = MatMul(x, w)  y = MatMul(h, v) }",
        {"QLinearMatMul", "MatMulIntegerToFloat"},
    ),
    "gemms": (
        "g (float[3,6] x) => (float[3,4] y) <float[8,6] w, float[8] b, float[8,4] v, float[4] c>"
        " { h = Gemm<transB=1>(x, w, b)  y = Gemm(h, v, c) }",
        {"QGemm"},
    ),
    "sums and products": (
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y) <float[3,3,1,1] w, float[1,3,1,1] k>"
        " { h = Conv(x, w)  s = Add(h, x)  p = Mul(s, h)  y = Add(p, k) }",
        {"QLinearConv", "QLinearAdd", "QLinearMul"},
    ),
    "pools and curves": (
        "g (float[1,3,6,6] x) => (float[1,3,1,1] y) <float[3,3,1,1] w> { h = Conv(x, w)"
        " a = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[1,1], count_include_pad=1>(h)"
        " b = LeakyRelu<alpha=0.25>(a)  c = Sigmoid(b)  y = GlobalAveragePool(c) }",
        {"QLinearConv", "QLinearAveragePool", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearGlobalAveragePool"},
    ),
    "moves": (
        "g (float[1,4,6,6] x) => (float[18,5] y) <float[4,4,1,1] w, int64[2] shape = {4,9}, int64[1] from = {0},"
        " int64[1] to = {9}, int64[1] axis = {1}, float[4,5] v> { h = Conv(x, w)"
        " m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)  s = Reshape(m, shape)  t = Transpose(s)"
        " c = Concat<axis=0>(t, t)  u = Unsqueeze(c, axis)  q = Squeeze(u, axis)  f = Flatten(q)"
        " e = Slice(f, from, to)  d = Concat<axis=0>(e, t)  y = MatMul(d, v) }",
        {"QLinearConv", "MaxPool", "Reshape", "Transpose", "Concat", "Slice", "Flatten", "MatMulIntegerToFloat"},
    ),
    "an enlarged map": (
        "g (float[1,2,4,4] x) => (float[1,2,8,8] y) <float[2,2,1,1] w, float[4] scales = {1, 1, 2, 2}>"
        ' { h = Conv(x, w)  r = Resize<mode="nearest">(h, , scales)  y = Conv(r, w) }',
        {"QLinearConv", "Resize"},
    ),
    "a split": (
        "g (float[1,4,4,4] x) => (float[1,2,4,4] y) <float[4,4,1,1] w, int64[2] parts = {2, 2}>"
        " { h = Conv(x, w)  a, b = Split<axis=1>(h, parts)  y = Add(a, b) }",
        {"QLinearConv", "Split", "QLinearAdd"},
    ),
}  # fmt: skip


def eager(name: str) -> object:
    return replace(TARGETS[name], costs=UNIFORM)


def assert_same_integers(qdq: ir.Model, qoperator: ir.Model, data: list, *, signed: bool = False) -> None:
    """Outputs, and all codes that both files have under one name, which are all but those of float neighbours."""
    made = {v.name for node in qoperator.graph for v in node.outputs}
    codes = [v.name for node in qdq.graph for v in node.outputs if node.op_type == "QuantizeLinear"]
    both = tuple(name for name in codes if name in made)
    assert len(both) == len(codes)
    for watch in ((), both):  # watched, the runtime folds the graph otherwise
        first, second = (OrtExecutor(m, watch, threads=1, signed=signed) for m in (qdq, qoperator))
        for _, feeds in data:
            expected, found = first(feeds), second(feeds)
            for name in expected if not watch else [v.name for v in qdq.graph.outputs]:
                np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    for _, feeds in data:
        outs = second(feeds)
        for name in both:
            assert outs[name].dtype in (np.uint8, np.int8)


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-arm"])
@pytest.mark.parametrize("ties", [False, True], ids=["free scales", "ties"])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_operator_gives_the_integers_of_the_qdq_file(
    build: Build,
    samples: Samples,
    placed: Placed,
    calibrated: Calibrated,
    tied: Tied,
    name: str,
    ties: bool,
    target: str,
) -> None:
    text, expected = NETWORKS[name]
    model = build(text)
    data = samples(model, 6)
    draft = calibrated(placed(model, eager(target), data), data)
    draft = tied(draft) if ties else draft
    found, _ = to_qoperator(to_qdq(draft))
    onnx.checker.check_model(ir.to_proto(found), full_check=True)
    kinds = {node.op_type for node in found.graph}
    assert expected <= kinds
    assert kinds.isdisjoint({"Conv", "Gemm", "Add", "Mul", "Sigmoid"})
    on_grid = [(label, {k: np.round(v * 32) / np.float32(32) for k, v in feeds.items()}) for label, feeds in data]
    assert_same_integers(to_qdq(draft), found, on_grid, signed=target.endswith("arm"))


QDQ = (
    "g (float[4,6] x) => (float[4,6] y) <float s = {0.0625}, %s z = {%d}, float t = {%s}, %s u = {%d}, float low ="
    " {-0.7}, float top = {1.3}> { q = QuantizeLinear(x, s, z)  r = DequantizeLinear(q, s, z)  h = %s"
    "  p = QuantizeLinear(h, t, u)  y = DequantizeLinear(p, t, u) }"
)


def alone(build: Build, operator: str, scale: float, zero: int, kind: str = "uint8") -> ir.Model:
    """One operator between codes of scale 1/16 and codes of another scale, in QDQ."""
    middle = 128 if kind == "uint8" else 3
    return build(QDQ % (kind, middle, scale, kind, zero, operator))


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("operator", "scale", "zero", "form"),
    [
        ("Softmax(r)", 1 / 256, 0, "QLinearSoftmax"),
        ("Softmax<axis=0>(r)", 1 / 128, 0, "QLinearSoftmax"),
        ("Relu(r)", 1 / 16, 128, "Max"),
        ("Clip(r, low, top)", 1 / 16, 128, "Clip"),
        ("Clip(r, , top)", 1 / 16, 128, "Clip"),
        ("Clip(r, low)", 1 / 16, 128, "Max"),
    ],
)
def test_an_operator_alone_gives_the_codes_of_the_qdq_graph(
    build: Build, samples: Samples, operator: str, scale: float, zero: int, form: str, kind: str
) -> None:
    zero = zero if kind == "uint8" else 3 if zero else -128
    model = alone(build, operator, scale, zero, kind)
    data = samples(model, 8, 3.0)
    found, notes = to_qoperator(alone(build, operator, scale, zero, kind))
    assert [n.op_type for n in found.graph if n.op_type not in BORDERS] == [form]
    assert notes == ("1 operator became operators on codes",)
    assert_same_integers(model, found, data)


@pytest.mark.parametrize(
    ("operator", "scale", "why"),
    [
        ("Relu(r)", 1 / 8, "1 Relu"),
        ("Reshape(r, shape)", 1 / 8, "1 Reshape"),
        ("HardSwish(r)", 1 / 16, "1 HardSwish"),
        ("Softmax(r)", 0.0, "1 Softmax"),
    ],
)
def test_what_has_no_form_stays_in_float_and_is_named(
    build: Build, samples: Samples, operator: str, scale: float, why: str
) -> None:
    text = QDQ % ("uint8", 128, scale or 0.01, "uint8", 128, operator)
    text = text.replace("float low", "int64[2] shape = {4, 6}, float low")
    text = text if scale else text.replace("uint8 u = {128}", "uint16 u = {128}")
    found, notes = to_qoperator(build(text, opset=21))
    assert notes[-1] == f"read codes, but compute in float: {why}"
    assert operator.split("(", maxsplit=1)[0] in {node.op_type for node in found.graph}
    expected, other = (OrtExecutor(m)(samples(found)[0][1])["y"] for m in (build(text, opset=21), found))
    np.testing.assert_array_equal(other, expected)


def test_a_clamp_that_the_codes_can_pass_works_on_them(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated
) -> None:
    """The runtime computes such a layer of the QDQ graph in float, so one code may differ there."""
    model = build(
        "g (float[1,3,6,6] x) => (float[1,4,6,6] y) <float[4,3,1,1] w, float[4,4,1,1] v, float low = {-0.25}, float"
        " top = {0.5}> { [a] h = Conv(x, w)  [c] r = Clip(h, low, top)  [b] y = Conv(r, v) }"
    )
    data = samples(model, 6)
    draft = calibrated(placed(model, eager("onnxruntime"), data), data)
    group = next(g for s, g in draft.plan.sites.items() if s.value == "r")
    wide = replace(
        draft.plan.groups[group],
        params=QParams(draft.plan.groups[group].scheme, np.full((), 0.01, np.float32), np.array(100, np.int32)),
    )
    draft = replace(draft, plan=draft.plan.with_group(group, wide))
    found, notes = to_qoperator(to_qdq(draft))
    kinds = [node.op_type for node in found.graph if node.op_type not in BORDERS]
    assert kinds == ["QLinearConv", "Clip", "QLinearConv"]
    assert "behind a layer work on codes" in notes[-1]
    names = [v.name for n in to_qdq(draft).graph for v in n.outputs if n.op_type == "QuantizeLinear"]
    clamped = names[1]
    for _, feeds in data:
        a, b = (OrtExecutor(m, (clamped,))(feeds)[clamped].astype(int) for m in (to_qdq(draft), found))
        assert np.abs(a - b).max() <= 1
        assert (a != b).mean() < 0.01
        assert 75 <= b.min() < b.max() == 150


TWO = (
    "g (float[2,5,6] x, float[2,6,4] c) => (float[2,5,4] y) <float s = {0.0625}, uint8 z = {128}, float t = {0.5}, uint8 u"
    " = {120}> { q = QuantizeLinear(x, s, z)  r = DequantizeLinear(q, s, z)  d = QuantizeLinear(c, t, u)"
    "  e = DequantizeLinear(d, t, u)  h = %s  p = QuantizeLinear(h, t, u)  y = DequantizeLinear(p, t, u) }"
)  # fmt: skip
HALF = (
    "g (float[3,6] x) => (float[3,4] y) <float s = {0.0625}, uint8 z = {128}, float t = {0.125}, uint8 u = {100}, int8[6,4] w,"
    " float k = {0.03125}, int8 n = {0}> { q = QuantizeLinear(x, s, z)  r = DequantizeLinear(q, s, z)"
    "  v = DequantizeLinear(w, k, n)  h = %s  p = QuantizeLinear(h, t, u)  y = DequantizeLinear(p, t, u) }"
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "form"),
    [(TWO % "MatMul(r, e)", "QLinearMatMul"), (HALF % "Gemm<alpha=0.5>(r, v)", "QGemm")],
    ids=["a product of two activations", "half a product"],
)
def test_products_that_placement_leaves_alone_are_folded_too(
    build: Build, samples: Samples, text: str, form: str
) -> None:
    weight = {"w": np.arange(24).reshape(6, 4) * 5 - 60}
    found, _ = to_qoperator(build(text, **weight))
    assert [n.op_type for n in found.graph if n.op_type not in BORDERS] == [form]
    assert_same_integers(build(text, **weight), found, samples(found, 8, 2.0))


@pytest.mark.parametrize("attributes", ["alpha=0.5", "beta=0.5", "transA=1, beta=2.0"])
def test_a_gemm_that_weighs_its_bias_is_not_folded(build: Build, samples: Samples, attributes: str) -> None:
    text = (
        "g (float[6,6] x) => (float[6,6] y) <float s = {0.0625}, uint8 z = {128}, float k = {0.03125}, int8 n = {0}, int8[6,6] w,"
        " int32[6] c, float e = {0.001953125}, int32 o = {0}> { q = QuantizeLinear(x, s, z)  r = DequantizeLinear(q, s, z)"
        " v = DequantizeLinear(w, k, n)  b = DequantizeLinear(c, e, o)  h = Gemm<%s>(r, v, b)"
        " p = QuantizeLinear(h, s, z)  y = DequantizeLinear(p, s, z) }"
    )  # fmt: skip
    weights = {"w": np.arange(36).reshape(6, 6) - 18, "c": np.arange(6) * 900}
    model, twin = (build(text % attributes, **weights) for _ in range(2))
    found, _ = to_qoperator(twin)
    assert "Gemm" in {node.op_type for node in found.graph}
    folded, _ = to_qoperator(build(text % "alpha=1.0", **weights))
    assert "QGemm" in {node.op_type for node in folded.graph}
    for _, feeds in samples(model):
        runs = [OrtExecutor(m, optimize=False)(feeds)["y"] for m in (model, found)]
        np.testing.assert_array_equal(*runs)


def test_the_demo_network_gives_the_same_logits_and_integers(tmp_path: Path) -> None:
    folder = Path(demo.__file__).parent
    result = halfeven.quantize(
        folder / "fashion_mnist_mbv2.onnx",
        folder / "calibration.npz",
        preprocess="fashion-mnist",
        limit=16,
        verify=False,
    )
    path = tmp_path / "mbv2.qop.onnx"
    notes = exporter_named("qoperator")(result.draft, path)
    assert notes[0] == "37 operators became operators on codes"
    pictures = np.load(folder / "test.npz")["x"][:8].astype(np.float32)
    data = [("", {"input": ((x / 255 - 0.2860) / 0.3530).astype(np.float32)[None, None]}) for x in pictures]
    assert_same_integers(to_qdq(result.draft), ir.load(path), data)
