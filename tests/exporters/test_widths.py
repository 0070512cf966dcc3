"""Promised: weights of 4 bits and activations of 16 are stored as such, and ONNX Runtime computes from them what the
codes say; what a target does not take is refused; defaults are not touched; integer interfaces stand in half precision.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import halfeven
from halfeven.errors import BadOption, UnsupportedByTarget
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.onnx_int4 import in_int4
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.graph.weights import array_at
from halfeven.numerics.grid import INT8_NARROW, IntGrid
from halfeven.numerics.quantize import fake_quantize
from halfeven.numerics.scheme import QParams, Scheme
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import this_machine
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,32,6,6] x) => (float[N,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)  b = Relu(a)  d = Conv<group=32, pads=[1,1,1,1]>(b, w2, b2)  e = Relu(d)
    f = GlobalAveragePool(e)  g = Flatten(f)  y = Gemm(g, w3, b3)
}"""
SHAPES = {"w1": (32, 32, 3, 3), "b1": (32,), "w2": (32, 1, 3, 3), "b2": (32,), "w3": (32, 5), "b3": (5,)}
X = np.random.default_rng(5).standard_normal((8, 32, 6, 6)).astype(np.float32)
COMMON: dict[str, Any] = {"verify": False, "prefer": "size"}


def network() -> onnx.ModelProto:
    rng, model = np.random.default_rng(3), onnx.parser.parse_model(NET)
    for name, shape in SHAPES.items():
        array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def stored(result: halfeven.Result) -> dict[str, int]:
    """The ONNX types of the codes, by operator."""
    graph = result.model.graph
    return {
        node.op_type: int(dq.inputs[0].dtype)
        for node in graph
        if node.op_type in ("Conv", "Gemm") and (dq := node.inputs[1].producer()) is not None
    }


def by_hand(draft: halfeven.Draft) -> np.ndarray:
    """The float network with fake-quantized weights and activations, each put in place by its own definition."""
    model, plan = draft.model.clone(), draft.plan
    for node in model.graph:
        for port in (1, 2):
            quantizer = plan.at(Site(node.inputs[port].name, node.name, port)) if port < len(node.inputs) else None
            if quantizer is not None and quantizer.params is not None and quantizer.role == "weight":
                found = fake_quantize(array_at(node, port).astype(np.float32), quantizer.params)
                node.inputs[port].const_value = ir.tensor(found)
    return np.asarray(OrtExecutor(model)({"x": X}, "x")["y"])


@pytest.mark.parametrize(("block", "zero_points"), [(0, "none"), (0, "free"), (16, "none"), (16, "free")])
def test_weights_alone_of_convolutions_in_four_bits_are_int4_and_compute_as_their_codes(
    block: int, zero_points: str
) -> None:
    given = {"mode": "weight-only", "bits": 4, "conv_bits": 4, "block": block, "zero_points": zero_points}
    result = halfeven.quantize(network(), {"x": X}, **given, **COMMON)
    kind = onnx.TensorProto.INT4 if zero_points == "none" else onnx.TensorProto.UINT4
    assert stored(result) == {"Conv": kind, "Gemm": kind}
    made = np.asarray(OrtExecutor(result.model, optimize=False)({"x": X}, "x")["y"])
    np.testing.assert_allclose(made, by_hand(result.draft), rtol=1e-5, atol=1e-6)
    depthwise = next(q for s, q in _weights(result) if s.value == "w2")
    assert depthwise.scheme.tiling.axis == 0, "a depthwise convolution has one scale for each channel"


def _weights(result: halfeven.Result) -> list[tuple[Site, Any]]:
    return [(s, q) for s in result.plan.sites if (q := result.plan.at(s)) is not None and q.role == "weight"]


def test_static_weights_of_four_bits_are_stored_in_four() -> None:
    result = halfeven.quantize(network(), {"x": X}, bits=4, conv_bits=4, **COMMON)
    assert stored(result) == {"Conv": onnx.TensorProto.INT4, "Gemm": onnx.TensorProto.INT4}
    assert "made real by onnxruntime" in " ".join(result.notes)
    eight = halfeven.quantize(network(), {"x": X}, **COMMON)
    assert {int(q.scheme.grid.bits) for _, q in _weights(result)} == {4}
    assert {int(q.scheme.grid.bits) for _, q in _weights(eight)} == {8}


@pytest.mark.parametrize(("target", "kind"), [("onnxruntime", "uint16"), ("onnxruntime-arm", "int16")])
def test_activations_of_sixteen_bits_keep_what_eight_lose(target: str, kind: str) -> None:
    found = {}
    for bits in (8, 16):
        result = halfeven.quantize(network(), {"x": X}, target=target, activation_bits=bits, skip=("gptq",), **COMMON)
        found[bits] = sqnr_db(by_hand(result.draft), np.asarray(OrtExecutor(result.model)({"x": X}, "x")["y"]))
    assert found[8] < 60
    assert found[16] > 75
    assert {str(q.scheme.grid) for q in result.plan.groups.values() if q.role == "activation"} == {kind}
    assert "is slower than float" in " ".join(result.notes)
    assert result.model.opset_imports[""] == 21


def test_the_simulator_computes_sixteen_bit_codes_as_onnx_runtime_does() -> None:
    result = halfeven.quantize(network(), {"x": X}, activation_bits=16, **COMMON)
    simulated = np.asarray(IntegerExecutor(lower(result.model), this_machine())({"x": X})["y"])
    run = np.asarray(OrtExecutor(result.model)({"x": X}, "x")["y"])
    np.testing.assert_array_equal(simulated, run)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "ncnn", "conv_bits": 4}, "--conv-bits 4: ncnn takes no int4"),
        ({"target": "ncnn", "activation_bits": 16}, "--activation-bits 16: ncnn takes no int16"),
        ({"bits": 5}, "--bits 5: choose 4 or 8"),
        ({"activation_bits": 4}, "--activation-bits 4: choose 8 or 16"),
        (
            {"mode": "weight-only", "activation_bits": 99},
            "--activation-bits is of the mode static; it does nothing in we",
        ),
        ({"mode": "dynamic", "bits": 4, "conv_bits": 4}, "--bits is of the modes static and weight-only; it does"),
        ({"mode": "float", "conv_bits": 4}, "--conv-bits is of the modes .* nothing in float. Leave it out"),
        ({"block": 32}, "--block is of the mode weight-only; it does nothing in static"),
        ({"zero_points": "free"}, "--zero-points is of the mode weight-only"),
    ],
)
def test_widths_that_are_not_there_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        halfeven.quantize(network(), {"x": X}, **options, **COMMON)


def test_eight_bit_weights_that_use_few_codes_move_to_int4_without_a_change(tmp_path: Path) -> None:
    model = network()
    rng = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("w"):
            codes = rng.integers(-7, 8, SHAPES[tensor.name]).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(codes / 64, tensor.name))
    result = halfeven.quantize(model, {"x": X}, skip=("equalize", "gptq"), **COMMON)
    plan = result.plan
    for site, quantizer in _weights(result):
        params = type(quantizer.params)(
            quantizer.scheme, np.full_like(quantizer.params.scale, 1 / 64), quantizer.params.zero_point
        )
        plan = plan.with_group(plan.sites[site], type(quantizer)(quantizer.scheme, "trained", "weight", params))
    draft = type(result.draft)(result.draft.model, result.draft.target, plan)
    notes = halfeven.export(draft, tmp_path / "q4.onnx", "qdq-int4")
    assert notes == ("3 weights of at most 4 bits stored as INT4",)
    runs = [OrtExecutor(m, optimize=False)({"x": X}, "x")["y"] for m in (to_qdq(draft), load(tmp_path / "q4.onnx"))]
    np.testing.assert_array_equal(*map(np.asarray, runs))
    narrowed, _ = in_int4(draft)
    assert {q.scheme.grid for q in narrowed.plan.groups.values() if q.role == "weight"} == {IntGrid(4)}


@pytest.mark.parametrize("most", [7, 100])
def test_weights_that_share_a_scale_move_to_int4_only_if_all_fit(most: int) -> None:
    text = "net (float[1,2,4,4] x) => (float[1,3,4,4] y, float[1,3,4,4] z) { y = Conv(x, v)  z = Conv(x, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    arrays = {"v": np.full((3, 2, 1, 1), 7, np.float32), "w": np.full((3, 2, 1, 1), most, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    draft = halfeven.load(model)
    params = QParams(Scheme(INT8_NARROW), np.ones((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.int32))
    for node, name in zip(draft.model.graph, "yz", strict=True):
        node.name = name
    plan = Plan(
        {0: Quantizer(params.scheme, "one for both", "weight", params)}, {Site("v", "y", 1): 0, Site("w", "z", 1): 0}
    )
    draft = replace(draft, plan=plan)
    if most > 7:
        with pytest.raises(UnsupportedByTarget, match="No weight has codes of 4 bits"):
            in_int4(draft)
    else:
        assert in_int4(draft)[0].plan.groups[0].scheme.grid == IntGrid(4)


def test_a_network_without_codes_of_four_bits_is_not_written_in_four(tmp_path: Path) -> None:
    result = halfeven.quantize(network(), {"x": X}, **COMMON)
    with pytest.raises(UnsupportedByTarget, match="No weight has codes of 4 bits"):
        result.save(tmp_path / "q.onnx", "qdq-int4")
    assert not list(tmp_path.iterdir())


def test_a_half_precision_interface_takes_and_gives_codes() -> None:
    model = network()
    model.graph.node.append(onnx.helper.make_node("Conv", ["e", "w1"], ["m"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("m", 1, ["N", 32, 4, 4]))
    given = {**COMMON, "float_dtype": "fp16", "half_interface": "same", "keep_float": ("GlobalAveragePool",)}
    plain, coded = (halfeven.quantize(model, {"x": X}, io=io, **given) for io in ("float", "uint8"))
    ends = [[str(v.dtype) for v in (*r.model.graph.inputs, *r.model.graph.outputs)] for r in (plain, coded)]
    assert ends == [["FLOAT16"] * 3, ["UINT8", "FLOAT16", "UINT8"]]
    scales = [interface_of(coded, name) for name in ("x", "m")]
    half = X.astype(np.float16)
    codes = np.clip(np.rint(half.astype(np.float32) / np.float32(scales[0][0])) + scales[0][1], 0, 255)
    made = OrtExecutor(coded.model)({"x": codes.astype(np.uint8)}, "x")
    wanted = OrtExecutor(plain.model)({"x": half}, "x")
    real = (np.asarray(made["m"], np.float32) - scales[1][1]) * np.float32(scales[1][0])
    np.testing.assert_array_equal(real.astype(np.float16), wanted["m"])
    np.testing.assert_array_equal(made["y"], wanted["y"])


def interface_of(result: halfeven.Result, name: str) -> tuple[float, int]:
    said = json.loads(result.model.metadata_props[f"halfeven.io.{name}"])
    return said["scale"], said["zero_point"]


def test_without_any_scale_a_half_precision_interface_has_no_codes() -> None:
    given = {"verify": False, "float_dtype": "fp16", "half_interface": "same", "mode": "float"}
    with pytest.raises(BadOption, match="--io uint8: no floating-point input or output is quantized"):
        halfeven.quantize(network(), {"x": X}, io="uint8", **given)
