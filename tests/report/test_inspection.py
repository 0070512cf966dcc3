"""Promised: layers, nodes and bytes are counted as placed; reasons are gathered, most first, each with examples."""

from math import prod

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft, pipeline
from halfeven.report.inspection import Inspection, inspect_draft
from halfeven.steps.place import Place
from halfeven.steps.simplify import Simplify
from halfeven.steps.trace import Trace
from halfeven.targets import TARGETS

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,8,8] x) => (float[1,512] y) <float[8,3,3,3] w1, float[8] b1, float[8,8,3,3] w2> {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w2)  s = Sin(c)  t = Sqrt(s)
    y = Flatten(t)
}"""


def placed(**options: object) -> Inspection:
    """TEXT, with weights, placed for ONNX Runtime."""
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for info in list(proto.graph.value_info):
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))
    del proto.graph.value_info[:]
    data = [("s", {"x": np.ones((1, 3, 8, 8), np.float32)})]
    steps = Simplify(), Trace(), Place(prefer="size", **options)  # type: ignore[arg-type]
    return inspect_draft(pipeline(*steps)(halfeven.load(ir.from_proto(proto)), data))


def test_layers_nodes_and_bytes_are_counted() -> None:
    seen = placed()
    one, two = prod((8, 3, 3, 3)), prod((8, 8, 3, 3))
    assert seen.layers == (2, 2)
    assert seen.nodes[1] == 6
    assert seen.weights == (4 * (one + 8 + two), one + two + 4 * 8)  # weights in a byte each, the bias in four
    half = placed(keep_float=("Conv_c",))
    assert half.layers == (1, 2)
    assert half.weights == (seen.weights[0], one + 4 * (two + 8))
    assert half.floats["Conv_c"] == ("Conv", "kept in float by --keep-float 'Conv_c'")


def test_nodes_for_whose_operator_there_is_no_kernel_are_one_reason() -> None:
    (reason,) = (row for row in placed().reasons() if "no integer kernel" in row[1])
    assert reason == (2, "onnxruntime has no integer kernel for Sin, Sqrt", "Sin 'Sin_s', Sqrt 'Sqrt_t'")


def inspection(floats: dict[str, tuple[str, str]]) -> Inspection:
    return Inspection("t", (0, 1), (0, 1), (4, 4), floats, [], ())


def test_reasons_come_most_first_with_two_examples_and_what_does_not_pay_as_one() -> None:
    floats = {"a": ("Add", "too small"), **{f"c{i}": ("Conv", f"does not pay: {i} us") for i in range(3)}}
    floats["d"] = ("Mul", "does not pay next to float operators: 3 us")
    assert inspection(floats).reasons() == [
        (4, "does not pay", "Conv 'c0', Conv 'c1'"),
        (1, "too small", "Add 'a'"),
    ]


def test_what_is_only_estimated_not_to_pay_is_a_reason_of_its_own_without_times() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { a = Sin(x) y = Add(a, x) }'
        )
    )
    sample = [("s", {"x": np.ones((1, 4), np.float32)})]
    for target, reason in (
        ("onnxruntime-arm", "does not pay, as estimated without measurements"),
        ("onnxruntime", "does not pay"),
    ):
        seen = inspect_draft(pipeline(Simplify(), Trace(), Place())(Draft(model, TARGETS[target]), sample))
        assert (1, reason, "Add 'Add_y'") in seen.reasons()
        why = seen.floats["Add_y"][1]
        assert (f"on {target}: a conversion is taken to cost as much as an operator" in why) == (
            target != "onnxruntime"
        )
        assert (" us in float" in why) == (target == "onnxruntime")


def test_json_holds_every_node_and_tensor() -> None:
    seen = placed(keep_float=("Conv_c",))
    data = seen.to_json()
    assert {entry["node"] for entry in data["floats"]} == set(seen.floats)
    assert len(data["tensors"]) == len(seen.groups)
    assert data["layers"] == {"quantized": 1, "all": 2}
    assert data["weight_bytes"]["float"] == seen.weights[0]


@pytest.mark.parametrize("name", ["w1 -> Conv_a[1]", "x"])
def test_tensors_are_named_with_their_scheme_and_group(name: str) -> None:
    found = {tensor: (scheme, group) for tensor, scheme, group in placed().groups}
    assert any(tensor.startswith(name) for tensor in found)
    assert all("int8" in scheme or "int32" in scheme for scheme, _ in found.values())
