"""Quantize and dequantize have the bits of ONNX Runtime's QuantizeLinear and DequantizeLinear, ties, infinities and
NaN included, for the four integer types that both know.
"""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from halfeven.numerics.grid import INT8, INT16, UINT8, IntGrid
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule

TYPES = {
    INT8: TensorProto.INT8,
    UINT8: TensorProto.UINT8,
    INT16: TensorProto.INT16,
    IntGrid(16, signed=False): TensorProto.UINT16,
}
SCALES = [0.1, 1.0, 2.0**-7, 3.0e-5, 7.77, 1e30, float(np.finfo(np.float32).tiny)]


def session(grid: IntGrid) -> onnxruntime.InferenceSession:
    """x -> codes -> values, unoptimised, so that both operators run as they are."""
    kind = TYPES[grid]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("zero", kind, []),
        ],
        [
            helper.make_tensor_value_info("codes", kind, ["n"]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def values(scale: float, seed: int) -> np.ndarray:
    """Ties and their neighbours, normal values in and beyond the range, any bits, and specials."""
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore", invalid="ignore"):
        ties = ((np.arange(-700, 700) + 0.5) * scale).astype(np.float32)
        normal = (rng.standard_normal(4000) * 100 * scale).astype(np.float32)
        bits = rng.integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45], np.float32)
    neighbours = [np.nextafter(ties, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([ties, *neighbours, normal, bits, special])


@pytest.mark.parametrize("grid", TYPES, ids=str)
def test_the_codes_and_values_of_onnx_runtime(grid: IntGrid) -> None:
    run = session(grid)
    scheme = Scheme(grid, zero_point=ZeroRule.FREE)
    for seed, scale in enumerate(SCALES):
        x = values(scale, seed)
        for zero in (0, grid.low, grid.high, (grid.low + grid.high) // 2, 7):
            feeds = {"x": x, "scale": np.array(scale, np.float32), "zero": np.array(zero, grid.dtype)}
            codes, y = run.run(None, feeds)
            params = QParams(scheme, np.array([scale], np.float32), np.array([zero], np.int32))
            ours = quantize(x, params)
            np.testing.assert_array_equal(ours, codes, strict=True)
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(dequantize(ours, params).view(np.int32), y.view(np.int32))
