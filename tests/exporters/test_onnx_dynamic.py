"""Promised: dynamically quantized layers compute what DynamicQuantizeLinear and exact integer sums give, bit for bit;
ONNX Runtime makes its own kernels of them; an LSTM becomes DynamicQuantizeLSTM; what has no such form stays float, with
the reason.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.exporters.onnx import to_qdq, write_qdq
from halfeven.graph.plan import DYNAMIC, Plan
from halfeven.numerics.grid import INT8_NARROW
from halfeven.numerics.quantize import params_of, quantize
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.observe import watched
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
Placed = Callable[..., Draft]
Samples = Callable[..., list]


def dynamic(placed: Placed, model: ir.Model, **options: object) -> Draft:
    draft = placed(model, TARGETS["onnxruntime"], (), mode="dynamic", **options)
    return Calibrate()(draft, (), lambda *_: None)


def dynamic_codes(x: np.ndarray) -> tuple[np.ndarray, np.float32, int]:
    """DynamicQuantizeLinear, as ONNX has it, written out."""
    low, high = np.minimum(x.min(), 0, dtype=np.float32), np.maximum(x.max(), 0, dtype=np.float32)
    scale = np.float32((high - low) / np.float32(255))
    zero = int(np.rint(np.clip(-low / scale, 0, 255)))
    codes = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64)
    return codes, scale, zero


PRODUCTS = {
    "matmul": ("g (float[2,3,16] x) => (float[2,3,8] y) <float[16,8] w> { [a] y = MatMul(x, w) }", 1),
    "gemm": ("g (float[3,16] x) => (float[3,8] y) <float[8,16] w, float[8] b> { [a] y = Gemm<transB=1>(x, w, b) }", 0),
    "conv": (
        "g (float[1,3,6,6] x) => (float[1,4,6,6] y) <float[4,3,3,3] w, float[4] b>"
        " { [a] y = Conv<pads=[1,1,1,1]>(x, w, b) }",
        0,
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_layer_computes_with_the_codes_of_what_it_reads(
    build: Build, samples: Samples, placed: Placed, name: str
) -> None:
    text, axis = PRODUCTS[name]
    model = build(text)
    quantized = to_qdq(dynamic(placed, model, prefer="size"))
    onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
    weight = model.graph.initializers["w"].const_value.numpy()
    params = params_of(weight, Scheme(INT8_NARROW, per_channel(axis)))
    codes, bias = quantize(weight, params).astype(np.int64), 0
    if "b" in model.graph.initializers:
        bias = model.graph.initializers["b"].const_value.numpy()
    for _, feeds in samples(model, 4, 2.0):
        x, scale, zero = dynamic_codes(feeds["x"])
        if name == "conv":
            padded = np.pad(x - zero, [(0, 0), (0, 0), (1, 1), (1, 1)])
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
            sums = np.einsum("ncijhw,ochw->noij", windows, codes)
            bias = bias.reshape(-1, 1, 1)  # type: ignore[union-attr]
        else:
            sums = (x - zero) @ (codes.T if name == "gemm" else codes)
        step = np.float32(scale) * params.scale.reshape(-1, 1, 1) if name == "conv" else scale * params.scale.ravel()
        expected = (sums.astype(np.float32) * step).astype(np.float32)
        expected = (expected + bias).astype(np.float32) if "b" in model.graph.initializers else expected
        np.testing.assert_array_equal(OrtExecutor(quantized, optimize=False)(feeds)["y"], expected)
        np.testing.assert_allclose(OrtExecutor(quantized)(feeds)["y"], expected, rtol=1e-5, atol=1e-5)


def test_a_value_that_three_layers_read_is_quantized_once_and_the_runtime_fuses(
    build: Build, samples: Samples, placed: Placed, tmp_path: Path
) -> None:
    model = build(
        "g (float[3,16] x) => (float[3,8] y, float[3,8] z) <float[16,16] q, float[16,8] k, float[16,8] v>"
        " { a = MatMul(x, q)  y = MatMul(x, k)  r = Relu(a)  z = MatMul(r, v) }"
    )
    quantized = to_qdq(dynamic(placed, model))
    kinds = [node.op_type for node in quantized.graph]
    assert kinds.count("DynamicQuantizeLinear") == 2
    assert kinds.count("MatMulInteger") == 3
    path = tmp_path / "optimized.onnx"
    run = OrtExecutor(quantized, written=path)
    for _, feeds in samples(model, 2):
        expected, found = OrtExecutor(model)(feeds), run(feeds)
        assert all(sqnr_db(expected[name], found[name]) > 30 for name in expected)
    fused = {node.op_type for node in onnx.load(path).graph.node}
    assert {"MatMulIntegerToFloat", "DynamicQuantizeMatMul"} & fused
    assert "MatMulInteger" not in fused


LSTM = (
    "g (float[5,2,12] x, int32[2] n) => (float[5,%d,2,8] y, float[%d,2,8] h, float[%d,2,8] c) <float[%d,32,12] w,"
    " float[%d,32,8] r, float[%d,64] b> { [l] y, h, c = LSTM<hidden_size=8, direction=\"%s\">(x, w, r, b) }"
)  # fmt: skip


@pytest.mark.parametrize(("directions", "word"), [(1, "forward"), (1, "reverse"), (2, "bidirectional")])
def test_an_lstm_becomes_the_runtimes_dynamic_lstm(
    build: Build, samples: Samples, placed: Placed, directions: int, word: str
) -> None:
    model = build((LSTM % (*[directions] * 6, word)).replace(", int32[2] n", ""))
    draft = dynamic(placed, model)
    quantized = to_qdq(draft)
    (node,) = quantized.graph
    assert (node.domain, node.op_type, len(node.inputs)) == ("com.microsoft", "DynamicQuantizeLSTM", 12)
    assert node.inputs[1].const_value.dtype == ir.DataType.INT8
    assert node.inputs[1].const_value.shape == (directions, 12, 32)
    assert node.inputs[8].const_value.shape == (directions, 32)
    for _, feeds in samples(model, 3):
        expected, found = OrtExecutor(model)(feeds), OrtExecutor(quantized)(feeds)
        assert all(sqnr_db(expected[name], found[name]) > 28 for name in expected)
        assert any((expected[name] != found[name]).any() for name in expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "g (float[5,2,12] x) => (float[5,1,2,8] y) <float[1,24,12] w, float[1,24,8] r> { [a] y ="
            " GRU<hidden_size=8>(x, w, r) }",
            "ONNX Runtime has no dynamically quantized GRU",
        ),
        (
            "g (float[1,3,6,6] x) => (float[1,4,6,6] y) <float[4,3,1,1] w> { [a] y = Conv(x, w) }",
            "a dynamically quantized Conv is slower than float; --prefer size takes it",
        ),
        (
            "g (float[1,3,6,6] x) => (float[1,4,6,6] y) <float[3,4,1,1] w> { [a] y = ConvTranspose(x, w) }",
            "there is no integer ConvTranspose",
        ),
        (
            "g (float[3,8] x) => (float[3,4] y) <float[8,4] w> { [a] y = Gemm<alpha=0.5>(x, w) }",
            "the integer operator has no alpha",
        ),
        (
            "g (float[8,3] x) => (float[4,3] y) <float[4,8] w> { [a] y = MatMul(w, x) }",
            "its weight is the first factor; integer kernels take it as the second",
        ),
        ("g (float[3,8] x) => (float[3,8] y) { [a] y = Tanh(x) }", "computes in float: it has no constant weights"),
    ],
)
def test_what_has_no_dynamic_form_stays_float_with_the_reason(
    build: Build, placed: Placed, text: str, reason: str
) -> None:
    draft = dynamic(placed, build(text))
    assert draft.plan.floats == {"a": reason}
    assert not draft.plan.sites


def test_nothing_is_observed_and_the_plan_reads_back(build: Build, placed: Placed, tmp_path: Path) -> None:
    draft = dynamic(placed, build(PRODUCTS["matmul"][0]))
    assert not watched(draft)
    (moving,) = [q for q in draft.plan.groups.values() if q.role == "activation"]
    assert (moving.method, moving.params) == (DYNAMIC, None)
    draft.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").to_json() == draft.plan.to_json()


@pytest.mark.parametrize("name", PRODUCTS)
def test_openvino_runs_what_its_table_says_of_scales_found_in_each_run(
    build: Build, samples: Samples, placed: Placed, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("openvino")
    from halfeven.run.openvino import open_openvino

    model = build(PRODUCTS[name][0])
    assert {node.op_type for node in model.graph} <= set(TARGETS["openvino"].dynamic)
    draft = replace(dynamic(placed, model, prefer="size"), target=TARGETS["openvino"])
    write_qdq(draft, tmp_path / "net.onnx")
    (_, feeds), *_ = samples(model, 1, 2.0)
    ours, theirs = (run(tmp_path / "net.onnx")(feeds)["y"] for run in (OrtExecutor, open_openvino))
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5)
