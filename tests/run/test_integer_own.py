"""Promised: the `integer` machine has a kernel for every operator of its arithmetic, and no code is further than one
step from what real numbers give.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.graph.lower import lower
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.own import INTEGER
from halfeven.run.ort import OrtExecutor

Build = Callable[..., ir.Model]
W = {"w": np.random.default_rng(0).integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)}
CASES = {
    "Conv": "Conv <pads = [1,1,1,1]> (a, v)",
    "ConvTranspose": "ConvTranspose <strides = [2,2], pads = [1,0,1,0]> (a, v)",
    "Add": "Add(a, b)",
    "Sub": "Sub(a, b)",
    "Mul": "Mul(a, b)",
    "PRelu": "PRelu(a, b)",
    "GlobalAveragePool": "GlobalAveragePool(a)",
    "ReduceMean": "ReduceMean <keepdims = 0> (a, axes)",
    "AveragePool": "AveragePool <kernel_shape = [3,2], pads = [1,0,1,0]> (a)",
    "Softmax": "Softmax <axis = 1> (a)",
    "Sigmoid": "Sigmoid(a)",
    "Tanh": "Tanh(a)",
    "HardSwish": "HardSwish(a)",
    "HardSigmoid": "HardSigmoid(a)",
    "LeakyRelu": "LeakyRelu <alpha = 0.3> (a)",
    "Clip": "Clip(a, low, high)",
    "Div": "Div(a, high)",
    "MatMul": "MatMul(a, m)",
}
CONSTANTS = "<int8[4,4,3,3] w, int8[7,5] n, float p, int8 zp, float q, int8 zq, float r, int8 zr, float u, int8 zu,"
MORE = " int64[2] axes, float low, float high>"


def model(build: Build, call: str) -> ir.Model:
    given = {
        **W,
        "n": np.arange(-17, 18, dtype=np.int8).reshape(7, 5),
        "p": np.float32(0.043),
        "zp": np.int8(-5),
        "q": np.float32(0.021),
        "zq": np.int8(17),
        "r": np.float32(0.25 if call.startswith("Conv") else 0.037),
        "zr": np.int8(-9),
        "u": np.float32(0.003),
        "zu": np.int8(0),
        "axes": np.array([2, 3]),
        "low": np.float32(-1.0),
        "high": np.float32(2.0),
    }
    text = (
        f"g (int8[2,4,6,7] x, int8[2,4,6,7] y) => (int8[] z) {CONSTANTS}{MORE} {{ a = DequantizeLinear(x, p, zp)"
        "  b = DequantizeLinear(y, q, zq)  v = DequantizeLinear(w, u, zu)  m = DequantizeLinear(n, u, zu)"
        f"  o = {call}  z = QuantizeLinear(o, r, zr) }}"
    )
    return build(text.replace("int8[] z", "int8 z"), opset=21, **{k: np.asarray(x) for k, x in given.items()})


@pytest.mark.parametrize("kind", CASES)
def test_an_operator_has_a_kernel_within_a_step_of_real_numbers(build: Build, kind: str) -> None:
    held = model(build, CASES[kind])
    held.graph.outputs[0].shape = None
    executor = IntegerExecutor(lower(held), INTEGER)
    assert kind in [op.kind for op in executor.integer_ops]
    rng = np.random.default_rng(1)
    feeds = {name: rng.integers(-128, 128, (2, 4, 6, 7)).astype(np.int8) for name in "xy"}
    ours, real = executor(feeds)["z"], OrtExecutor(held, optimize=False)(feeds)["z"]
    assert ours.dtype == np.int8
    assert ours.shape == real.shape
    gap = np.abs(ours.astype(int) - real.astype(int))
    assert gap.max() <= 1
    assert (gap == 0).mean() > 0.95
    assert len(np.unique(ours)) > 1
