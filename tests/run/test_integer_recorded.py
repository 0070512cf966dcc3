"""Promised: what ONNX Runtime computed on three instruction sets is what the executor computes for each.

The recordings (golden/README.md) are layers, sums and products whose scales are powers of two or not, on x86 with VNNI,
on x86 with AVX2 alone, and on Arm64. As networks they are QDQ models, or ONNX's operators on codes.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from halfeven.exporters.litert.flatbuffer import FileGraph, FileOp, FileTensor, to_bytes
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.importers.litert.reader import import_tflite
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named

Case = dict[str, np.ndarray]
GOLDEN = Path(__file__).parents[1] / "golden"
MACHINES = {"x86_vnni": "onnxruntime@x86-vnni", "x86_avx2": "onnxruntime@x86-avx2", "arm64": "onnxruntime@arm64"}


def recorded() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    with np.load(GOLDEN / "ort_integer.npz") as held:
        for key in held.files:
            name, field = key.rsplit("/", 1)
            cases.setdefault(name, {})[field] = held[key]
    return cases


CASES = recorded()


def model(nodes: list[NodeProto], feeds: Case, constants: Case) -> ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info("y")]
    held = [numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def params(case: Case, letters: str, types: dict[str, np.dtype]) -> Case:
    """Scales and zero points, in the types of the codes."""
    return {f"s{t}": case[f"s{t}"] for t in letters} | {f"z{t}": case[f"z{t}"].astype(types[t]) for t in letters}


def explicit(kind: str, case: Case) -> tuple[ModelProto, Case]:
    """QLinearConv, QLinearMatMul or MatMulInteger."""
    feeds = {"x": case["x"]}
    if kind == "MatMulInteger":
        return model([helper.make_node(kind, ["x", "w"], ["y"])], feeds, {"w": case["w"]}), feeds
    constants = params(case, "xwy", {"x": case["x"].dtype, "w": case["w"].dtype, "y": case["y"].dtype})
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
    options = {}
    if kind == "QLinearConv":
        names.append("b")
        constants["b"] = case["b"]
        step, pad, dilation, group = (int(case[field]) for field in ("stride", "pad", "dil", "group"))
        options = {"strides": [step] * 2, "pads": [pad] * 4, "dilations": [dilation] * 2, "group": group}
    return model([helper.make_node(kind, names, ["y"], **options)], feeds, constants | {"w": case["w"]}), feeds


def pairs(kind: str, case: Case) -> tuple[ModelProto, Case]:
    """A sum, product or Gemm between quantize and dequantize."""
    a, b, y = ("x", "w", "y") if kind == "Gemm" else ("a", "b", "c")
    types = {a: case[a].dtype, b: case[b].dtype, y: case["y"].dtype}
    constants = params(case, a + b + y, types)
    fed = {a: case[a]} if kind == "Gemm" else {a: case[a], b: case[b]}
    axis = {"axis": 1} if case["s" + b].ndim else {}
    nodes = [
        helper.make_node("DequantizeLinear", [a, f"s{a}", f"z{a}"], ["ad"]),
        helper.make_node("DequantizeLinear", [b, f"s{b}", f"z{b}"], ["bd"], **axis),
    ]
    inputs = ["ad", "bd"]
    if kind == "Gemm":
        constants |= {b: case[b], "bias": case["b"], "sb": np.asarray(case["sx"] * case["sw"], np.float32)}
        constants["zb"] = np.zeros(constants["sb"].shape, np.int32)
        nodes.append(helper.make_node("DequantizeLinear", ["bias", "sb", "zb"], ["cd"], axis=0))
        inputs.append("cd")
    nodes += [
        helper.make_node(kind, inputs, ["r"]),
        helper.make_node("QuantizeLinear", ["r", f"s{y}", f"z{y}"], ["y"]),
    ]
    return model(nodes, fed, constants), fed


def as_model(name: str) -> tuple[ModelProto, Case]:
    kind = name.split("/")[1].split("_")[0]
    if kind in ("QLinearAdd", "QLinearMul", "QGemm"):
        return pairs(kind.removeprefix("QLinear").removeprefix("Q"), CASES[name])
    return explicit(kind, CASES[name])


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_executor_gives_the_recorded_integers(name: str) -> None:
    proto, feeds = as_model(name)
    machine = MACHINES[name.split("/")[0]]
    signed = np.int8 in (x.dtype for x in feeds.values()) and "arm64" not in machine
    executor = IntegerExecutor(lower(ir.from_proto(proto)), machine_named(machine + "+int8" * signed))
    assert executor.integer_ops, "no integer kernel was chosen"
    found = executor(feeds)["y"]
    assert found.dtype == CASES[name]["y"].dtype
    np.testing.assert_array_equal(found, CASES[name]["y"])


def of_the_runtime(kind: str, case: Case) -> tuple[ModelProto, Case]:
    """QLinearAdd, QLinearMul or QGemm as an operator on codes."""
    a, b, y = ("x", "w", "y") if kind == "QGemm" else ("a", "b", "c")
    constants = params(case, a + b + y, {a: case[a].dtype, b: case[b].dtype, y: case["y"].dtype})
    feeds = {a: case[a]} if kind == "QGemm" else {a: case[a], b: case[b]}
    names = [f"{k}{t}" for t in (a, b) for k in ("", "s", "z")]
    if kind == "QGemm":
        constants |= {"w": case["w"], "bias": case["b"]}
        names.append("bias")
    node = helper.make_node(kind, [*names, f"s{y}", f"z{y}"], ["y"], domain="com.microsoft")
    proto = model([node], feeds, constants)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto, feeds


@pytest.mark.parametrize("name", sorted(name for name in CASES if "MatMulInteger" not in name))
def test_as_operators_on_codes_they_need_no_session_that_allows_int8(name: str) -> None:
    kind, case = name.split("/")[1].split("_")[0], CASES[name]
    proto, feeds = (of_the_runtime if kind in ("QLinearAdd", "QLinearMul", "QGemm") else explicit)(kind, case)
    executor = IntegerExecutor(lower(ir.from_proto(proto)), machine_named(MACHINES[name.split("/")[0]]))
    assert [op.explicit for op in executor.integer_ops] == [True]
    assert executor.tensors["y"].coded
    np.testing.assert_array_equal(executor(feeds)["y"], case["y"])


def test_litert_on_arm64_multiplies_by_one_row_in_a_way_of_its_own() -> None:
    with np.load(GOLDEN / "litert_gemv.npz") as held:
        case = {field: np.squeeze(held[field]) for field in held.files}
    case |= {"w": case["w"].T, "zx": case["zx"].astype(np.int8), "zy": case["zy"].astype(np.int8)}
    case["zw"] = np.zeros(case["sw"].shape, np.int8)
    proto, feeds = pairs("Gemm", case)
    executor = IntegerExecutor(lower(ir.from_proto(proto)), machine_named("litert@optimized-arm64"))
    alone = np.concatenate([executor({"x": row[None]})["y"] for row in feeds["x"]])
    np.testing.assert_array_equal(alone, case["y"])
    together = executor(feeds)["y"].astype(int)
    assert 0 < np.sum(together != case["y"]) < 100
    assert np.abs(together - case["y"]).max() == 1


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("kind", ["DEPTHWISE_CONV_2D", "CONV_2D"])
def test_a_convolution_of_one_channel_rounds_on_arm64_as_the_operator_that_its_file_has(
    kind: str, outputs: int
) -> None:
    with np.load(GOLDEN / "litert_one_channel.npz") as held:
        case = dict(held)
    depthwise = kind == "DEPTHWISE_CONV_2D"
    weight, scale, bias = case[f"w{outputs}"], case[f"sw{outputs}"], case[f"b{outputs}"]
    expected = case[("depthwise" if depthwise else "conv") + str(outputs)]
    axis, shape = (3, (1, 1, 1, outputs)) if depthwise else (0, (outputs, 1, 1, 1))
    zeros = np.zeros(outputs, np.int64)
    tensors = [
        FileTensor("x", case["x"].shape, "int8", case["sx"].reshape(1), case["zx"].reshape(1)),
        FileTensor("w", shape, "int8", scale, zeros, axis, weight.reshape(shape)),
        FileTensor("b", (outputs,), "int32", scale * case["sx"], zeros, data=bias),
        FileTensor("y", expected.shape, "int8", case["sy"].reshape(1), case["zy"].reshape(1)),
    ]
    fields = {"padding": 1, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    options = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    layer = FileOp(kind, (0, 1, 2), (3,), options, fields | ({"depthMultiplier": outputs} if depthwise else {}))
    model = import_tflite(memoryview(to_bytes(FileGraph(tensors, [layer], [0], [3]))), "one.tflite").model
    name_everything(model)
    executor = IntegerExecutor(lower(model), machine_named("litert@optimized-arm64"))
    (found,) = executor({"x": case["x"]}).values()
    np.testing.assert_array_equal(found, expected)
