"""Promised: a simulation says what it compared; where that is nothing, it says so, and a network of real numbers alone is
refused.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.errors import UnsupportedModel
from halfeven.report.sides import in_order
from halfeven.report.simulate import Divergence, Simulation, simulate

Build = Callable[..., ir.Model]
DATA = [("ramp", {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)})]
X86, ARM = "onnxruntime@x86-vnni", "onnxruntime@arm64"


def test_a_network_of_real_numbers_is_refused(build: Build) -> None:
    model = build("g (float[2,3] x) => (float[2,4] y) <float[3,4] w> { y = MatMul(x, w) }")
    with pytest.raises(UnsupportedModel, match=r"real numbers alone.* were expected. Quantize it first"):
        simulate(model, DATA, X86)


def test_where_no_tensor_is_in_both_nothing_was_compared(build: Build) -> None:
    model = build(
        "g (float[2,3] x) => (float[2,4] y) <int8[3,4] w, float s, int8 z>"
        " { v = DequantizeLinear(w, s, z) y = MatMul(x, v) }",
        opset=21,
        s=np.float32(0.5),
        z=np.int8(0),
        w=np.ones((3, 4), np.int8),
    )
    found = simulate(model, DATA, X86, ARM)
    assert found.sentence == f"{X86} and {ARM}: no quantized tensor is in both; nothing was compared."
    assert found.outputs[0]["y"].shape == (2, 4)


def test_a_tensor_that_was_not_compared_is_named() -> None:
    seen = {"q": Divergence("q", "conv"), "r": Divergence("r", "add", compared=6)}
    found = Simulation(X86, ARM, "", [{}], seen)
    assert found.sentence.endswith("compute the same integers.")
    (note,) = found.notes
    assert note.startswith("the codes of 'q' were not compared")


def test_channels_may_stand_first_or_last_on_either_side() -> None:
    ours = np.arange(24).reshape(2, 3, 2, 2)
    for theirs in (ours, np.moveaxis(ours, 1, -1)):
        np.testing.assert_array_equal(in_order(ours, theirs), ours)
    last = np.moveaxis(ours, 1, -1)
    np.testing.assert_array_equal(in_order(last, ours), last)
    assert in_order(ours, ours[..., :1]) is None
