"""Promised: before a Relu and codes ncnn on Arm64 has the output's scale in its factors. The numbers are of one code that
ncnn gave under qemu (Cortex-A76): a sum of -5646 became 28, where the factors one after the other give 27.49999.

Of depthwise windows of 3 x 3 whose channels are no multiple of 8, it scales whole blocks of 8 columns otherwise than the
columns behind: a recorded layer has sums that tell the two apart.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named

GOLDEN = Path(__file__).parents[1] / "golden" / "ncnn_arm_blocks.npz"
X, W, B, Y = (np.float32(v) for v in (0.10634129, 0.014378635, 28.914669, 0.7375162))


def network(relu: bool) -> ir.Model:
    """Codes of two channels, a Conv of one output whose sum for (44, 1) is -5646, codes."""
    held = {"x_s": X, "w_s": np.array([W]), "y_s": Y, "z": np.int8(0), "zs": np.zeros(1, np.int8)}
    held |= {"w_q": np.array([-127, -58], np.int8).reshape(1, 2, 1, 1), "b": np.array([B])}
    nodes = [
        helper.make_node("DequantizeLinear", ["x_q", "x_s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_s", "zs"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        *([helper.make_node("Relu", ["c"], ["r"])] if relu else []),
        helper.make_node("QuantizeLinear", ["r" if relu else "c", "y_s", "z"], ["y_q"]),
    ]
    return written(nodes, held, {"x_q": (1, 2, 1, 1), "y_q": (1, 1, 1, 1)})


@pytest.mark.parametrize(
    ("machine", "relu", "code"),
    [("ncnn@arm64", True, 28), ("ncnn@arm64", False, 27), ("ncnn@x86", True, 27), ("ncnn@x86", False, 27)],
)
def test_a_relu_before_codes_folds_the_output_s_scale_on_arm_alone(machine: str, relu: bool, code: int) -> None:
    executor = IntegerExecutor(lower(network(relu)), machine_named(machine), threads=1)
    made = executor({"x_q": np.array([44, 1], np.int8).reshape(1, 2, 1, 1)})["y_q"]
    assert [op.kind for op in executor.integer_ops] == ["Conv"]
    assert made.ravel().tolist() == [code]


def test_blocks_of_eight_columns_and_those_behind_them_are_scaled_as_recorded() -> None:
    held = dict(np.load(GOLDEN))
    x, y = held.pop("x"), held.pop("y")
    executor = IntegerExecutor(lower(depthwise(x, y, held)), machine_named("ncnn@arm64"), threads=1)
    made = executor({"x_q": x})["y_q"]
    assert [op.kind for op in executor.integer_ops] == ["Conv"]
    assert y.shape[-1] % 8 == 3
    assert (y[..., :-3].min(), y[..., -3:].min()) == (-128, -127)
    np.testing.assert_array_equal(made, y)
    on_x86 = IntegerExecutor(lower(depthwise(x, y, held)), machine_named("ncnn@x86"), threads=1)({"x_q": x})["y_q"]
    assert ((on_x86 != y) & (y > -127)).sum() == 5  # whole blocks, near ties


def depthwise(x: np.ndarray, y: np.ndarray, held: dict[str, np.ndarray]) -> ir.Model:
    """Codes, a depthwise Conv with a bias, codes."""
    channels = x.shape[1]
    constants = {"x_s": held["sx"], "w_s": held["sw"], "y_s": held["sy"], "w_q": held["w"], "b": held["b"]}
    constants |= {"z": np.int8(0), "zs": np.zeros(channels, np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x_q", "x_s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_s", "zs"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w", "b"], ["c"], group=channels, kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["c", "y_s", "z"], ["y_q"]),
    ]
    return written(nodes, constants, {"x_q": x.shape, "y_q": y.shape})


def written(nodes: list[onnx.NodeProto], held: dict[str, np.ndarray], ports: dict[str, tuple[int, ...]]) -> ir.Model:
    """A model of int8 codes `x_q` in, `y_q` out."""
    values = [helper.make_tensor_value_info(name, TensorProto.INT8, shape) for name, shape in ports.items()]
    constants = [numpy_helper.from_array(np.asarray(x), n) for n, x in held.items()]
    graph = helper.make_graph(nodes, "one layer", values[:1], values[1:], constants)
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    name_everything(model)
    return model
