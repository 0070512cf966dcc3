"""Promised: what LiteRT, TFLite Micro, ONNX Runtime, OpenVINO and ncnn gave once is what the executor computes now.

The recordings (golden/README.md) are single operators: LiteRT's as the files that it ran, those of the others as the
graphs that are built here from their fields. None of these runtimes is needed.
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
LITERT = {
    "x86": {
        "y_ref": "litert@reference",
        "y_opt": "litert@optimized-x86",
        "y_xnn": "litert@xnnpack",
        "y_tflm": "tflite-micro",
    },
    "arm64": {"y_opt": "litert@optimized-arm64", "y_xnn": "litert@xnnpack-arm64"},
}
"""The machine of each recorded output, by the processor that it is of."""


def recorded(file: str) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    with np.load(GOLDEN / f"{file}.npz") as held:
        for key in held.files:
            name, field = key.rsplit("/", 1)
            cases.setdefault(name, {})[field] = held[key]
    return cases


FILES = {file: recorded(file) for file in ("litert_core", "litert_extra_x86", "litert_extra_arm64")}
FIELDS = recorded("litert_integer")
MISC, OPENVINO, NCNN = recorded("ort_misc"), recorded("openvino"), recorded("ncnn_integer")


def kernels(case: Case, isa: str) -> list[str]:
    """The fields of a case that hold what a set of kernels gave."""
    return [field for field in LITERT[isa] if field in case]


def of_file(content: bytes, machine: str) -> IntegerExecutor:
    """What computes a .tflite file."""
    model = import_tflite(memoryview(content), "recorded.tflite").model
    name_everything(model)
    return IntegerExecutor(lower(model), machine_named(machine), threads=1)


def check(executor: IntegerExecutor, fed: list[np.ndarray], expected: np.ndarray) -> None:
    """All operators are computed on codes, and the output is the one that was recorded."""
    assert len(executor.integer_ops) == len(executor.network.ops)
    feeds = {port.name: x for port, x in zip(executor.network.inputs, fed, strict=True)}
    (found,) = executor(feeds).values()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("file", "name", "field"),
    [
        (file, name, field)
        for file, cases in FILES.items()
        for name, case in cases.items()
        for field in kernels(case, "arm64" if "arm64" in file else "x86")
    ],
)
def test_a_recorded_tflite_file_gives_what_its_kernels_gave(file: str, name: str, field: str) -> None:
    case = FILES[file][name]
    machine = LITERT["arm64" if "arm64" in file else "x86"][field]
    fed = [case[key] for key in ("x", "x0", "x1") if key in case]
    check(of_file(case["model"].tobytes(), machine), fed, case[field])


def coded(name: str, x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> FileTensor:
    """A tensor of a file, with the parameters of its codes."""
    return FileTensor(name, x.shape, str(x.dtype), scale.reshape(1), zero.reshape(1))


def changed_scale(case: Case) -> FileGraph:
    """A QUANTIZE of codes."""
    tensors = [coded("x", case["x0"], case["sx"], case["zx"]), coded("y", case["y_ref"], case["sy"], case["zy"])]
    return FileGraph(tensors, [FileOp("QUANTIZE", (0,), (1,), "QuantizeOptions", {})], [0], [1])


BUILT = {name: case for name, case in FIELDS.items() if name.startswith("x86/QUANTIZE_")}


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, case in BUILT.items() for field in kernels(case, "x86")]
)
def test_recorded_changes_of_scale_are_computed_as_files_too(name: str, field: str) -> None:
    case = BUILT[name]
    check(of_file(to_bytes(changed_scale(case)), LITERT["x86"][field]), [case["x0"]], case[field])


def of_graph(nodes: list[NodeProto], feed: Case, constants: Case, output: str) -> ModelProto:
    """A model of one input."""
    ((name, x),) = feed.items()
    inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)]
    held = [numpy_helper.from_array(np.asarray(x), name) for name, x in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info(output)], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def computed(proto: ModelProto, machine: str, kinds: list[str], feed: Case, watch: str) -> np.ndarray:
    """A tensor; `kinds` are the operators that must be computed on codes."""
    model = ir.from_proto(proto)
    name_everything(model)
    executor = IntegerExecutor(lower(model), machine_named(machine), threads=1)
    assert [op.kind for op in executor.integer_ops] == kinds
    return np.asarray(executor(feed, [watch])[watch])


@pytest.mark.parametrize("name", sorted(MISC))
def test_onnx_runtime_s_functions_of_codes_are_the_recorded_ones(name: str) -> None:
    case, kind = MISC[name], name.split("_")[0].removeprefix("QLinear")
    dtype, (sx, zx, sy, zy) = case["x"].dtype.type, case["p"]
    constants = {"sx": np.float32(sx), "zx": dtype(zx), "sy": np.float32(sy), "zy": dtype(zy)}
    more = {"LeakyRelu": {"alpha": 0.01}, "Softmax": {"axis": -1}, "Sigmoid": {}}[kind]
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["a"]),
        helper.make_node(kind, ["a"], ["b"], **more),
        helper.make_node("QuantizeLinear", ["b", "sy", "zy"], ["y"]),
    ]
    feed, machine = {"x": case["x"]}, "onnxruntime@x86-vnni" + "+int8" * (dtype is np.int8)
    found = computed(of_graph(nodes, feed, constants, "y"), machine, [kind], feed, "y")
    assert found.dtype == case["y"].dtype
    np.testing.assert_array_equal(found, case["y"])


def convolution(x: str, relu: bool) -> list[NodeProto]:
    """From real numbers to codes, a Conv of 3 x 3 with a real bias, codes, and real numbers again."""
    return [
        helper.make_node("QuantizeLinear", [x, "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "b"], ["c"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        *([helper.make_node("Relu", ["c"], ["r"])] if relu else []),
        helper.make_node("QuantizeLinear", ["r" if relu else "c", "sy", "zy"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "sy", "zy"], ["y"]),
    ]


BORDERED = ["QuantizeLinear", "Conv", "DequantizeLinear"]


@pytest.mark.parametrize("name", sorted(OPENVINO))
def test_openvino_s_convolution_is_the_recorded_one(name: str) -> None:
    case = OPENVINO[name]
    dtype = case["x"].dtype.type
    constants = {key: case[key] for key in ("sx", "sw", "sy", "w")} | {"b": case["bf"]}
    constants |= {"zx": dtype(case["zx"]), "zy": dtype(case["zy"]), "zw": np.zeros(case["sw"].size, np.int8)}
    feed = {"x": ((case["x"].astype(np.float32) - np.float32(case["zx"])) * case["sx"]).astype(np.float32)}
    found = computed(of_graph(convolution("x", False), feed, constants, "y"), "openvino@cpu", BORDERED, feed, "yq")
    assert found.dtype == case["x"].dtype
    np.testing.assert_array_equal(found, case["yq"])


@pytest.mark.parametrize("machine", ["ncnn@x86", "ncnn@x86-amd"])
def test_ncnn_s_convolution_is_the_recorded_one(machine: str) -> None:
    (case,) = NCNN.values()
    ours = {key: np.asarray(1 / case[key], np.float32) for key in ("sx", "sw", "so")}  # ncnn's are the reciprocals
    constants = {"sx": ours["sx"], "sw": ours["sw"], "sy": ours["so"], "w": case["w"], "b": case["b"]}
    constants |= {"zx": np.int8(0), "zy": np.int8(0), "zw": np.zeros(8, np.int8)}
    feed = {"x": case["x"][None]}
    found = computed(of_graph(convolution("x", True), feed, constants, "y"), machine, BORDERED, feed, "yq")
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found[0], case["y"])
