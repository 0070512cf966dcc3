"""Promised: int8 activations, and weights and biases left real, give the integers that ONNX Runtime computes with the
session's defaults, where its optimiser turns int8 pairs to uint8 and real constants to codes; watching changes nothing.
"""

from importlib.resources import files
from itertools import product
from platform import machine

import exactness
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import halfeven
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import this_machine
from halfeven.run.ort import OrtExecutor

HOME = files("halfeven.demo")
ELEMENTS = 8_000


def differing(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, int]:
    """Of each quantized tensor and output, how many numbers differ; outputs of a session without watching too."""
    executor = IntegerExecutor(lower(model), this_machine(), threads=1)
    made = {v.name for node in model.graph for v in node.outputs}
    watch = tuple(name for name, t in executor.tensors.items() if t.coded and name in made)
    theirs, plain = OrtExecutor(model, watch, threads=1)(feeds), OrtExecutor(model, threads=1)(feeds)
    ours = executor(feeds, watch)
    assert watch
    assert all(ours[name].dtype == array.dtype for name, array in theirs.items())
    found = {name: int((ours[name] != array).sum()) for name, array in theirs.items()}
    return found | {f"{name}, alone": int((ours[name] != array).sum()) for name, array in plain.items()}


@pytest.mark.parametrize("operator", [k for k in exactness.OPERATORS if "Linear" not in k])
def test_operators_on_int8_codes_give_the_integers_of_a_session_with_defaults(operator: str) -> None:
    count = exactness.measured(operator, ELEMENTS, this_machine(), seed=3, signed=False, int8=True)
    assert count.elements >= ELEMENTS
    assert (count.differing, count.first) == (0, "")


def layer(kind: str, dtype: type, tail: str, scales: int | None, bias: bool) -> ir.Model:
    """Q, DQ, one layer with a real bias, an activation, Q, DQ; `scales` of the weights, None: they are real."""
    rng, nodes, held = np.random.default_rng(5), [], []

    def constant(name: str, x: object) -> str:
        held.append(numpy_helper.from_array(np.asarray(x), name))
        return name

    def pair(source: str, scale: float, zero: int) -> str:
        more = [constant(f"{source}_s", np.float32(scale)), constant(f"{source}_z", np.array(zero, dtype))]
        nodes.append(helper.make_node("QuantizeLinear", [source, *more], [f"{source}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{source}_q", *more], [f"{source}_d"]))
        return f"{source}_d"

    shape, weights = (
        ([5, 8], [8, 8]) if kind == "Gemm" else ([1, 4, 6, 6], [8, 4, 3, 3] if kind == "Conv" else [4, 8, 3, 3])
    )
    inputs = [pair("x", 0.05, 3)]
    if scales is None:
        inputs.append(constant("w", rng.normal(0.3, 1, weights).astype(np.float32)))
    else:
        codes = constant("w_q", rng.integers(-127, 128, weights).astype(np.int8))
        scale = rng.uniform(0.001, 0.01, scales).astype(np.float32)
        more = [
            constant("w_s", scale if scales > 1 else scale[0]),
            constant("w_z", np.zeros(scales, np.int8)[: None if scales > 1 else 1].reshape(() if scales == 1 else -1)),
        ]
        axis = {} if scales == 1 else {"axis": 0 if kind == "Conv" else 1}
        nodes.append(helper.make_node("DequantizeLinear", [codes, *more], ["w"], **axis))
        inputs.append("w")
    if bias:
        inputs.append(constant("b", rng.normal(0, 1, 8).astype(np.float32)))
    nodes.append(helper.make_node(kind, inputs, ["y"]))
    last = "y"
    if tail == "Clip":
        nodes.append(
            helper.make_node("Clip", ["y", constant("low", np.float32(0)), constant("high", np.float32(6))], ["a"])
        )
        last = "a"
    elif tail in ("Relu", "Sigmoid"):
        nodes.append(helper.make_node(tail, ["y"], ["a"]))
        last = "a"
    out = last if tail == "real" else pair(last, 0.1, np.iinfo(dtype).min)
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(
        nodes, "layer", ports, [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)], held
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    name_everything(model)
    return model


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm"])
def test_real_weights_and_biases_become_the_codes_that_the_optimiser_makes(kind: str) -> None:
    rng = np.random.default_rng(1)
    for dtype, tail, scales, bias in product(
        (np.int8, np.uint8), ("", "Relu", "Clip", "Sigmoid", "real"), (8, 1, None), (True, False)
    ):
        model = layer(kind, dtype, tail, scales, bias)
        x = rng.normal(0, 3, [5, 8] if kind == "Gemm" else [1, 4, 6, 6]).astype(np.float32)
        found = differing(model, {"x": x})
        assert set(found.values()) == {0}, (dtype, tail, scales, bias, found)


@pytest.mark.parametrize("target", ["ncnn", "integer"])
def test_networks_of_int8_codes_give_the_runtime_s_integers_and_outputs(target: str) -> None:
    with np.load(str(HOME / "calibration.npz"), allow_pickle=False) as stored:
        pictures = stored["x"][:16, None].astype(np.float32) / 255
    result = halfeven.quantize(str(HOME / "fashion_mnist_mbv2.onnx"), pictures[:8], target=target, verify=False)
    model = result.model.clone()
    name_everything(model)
    found = differing(model, {str(model.graph.inputs[0].name): pictures[8:]})
    assert {name: n for name, n in found.items() if n} == {}


@pytest.mark.skipif(machine().lower() in ("arm64", "aarch64"), reason="Arm keeps int8 codes")
def test_a_watched_pair_of_int8_is_shown_in_int8_and_computed_in_uint8() -> None:
    model = layer("Gemm", np.int8, "", 8, bias=True)
    executor = IntegerExecutor(lower(model), this_machine(), threads=1)
    feeds = {"x": np.random.default_rng(2).normal(0, 3, (5, 8)).astype(np.float32)}
    names = ("x_q", "y_q")
    ours, theirs = executor(feeds, names), OrtExecutor(model, names, threads=1)(feeds)
    assert [ours[n].dtype for n in names] == [theirs[n].dtype for n in names] == [np.int8, np.int8]
    assert [op.kind for op in executor.integer_ops] == ["QuantizeLinear", "Gemm", "DequantizeLinear"]
