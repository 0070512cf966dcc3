"""Promised: weights, biases and activations are stored in the target's types, rounded at the scales of the plan."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Quantizer, Site
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import params_of
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]
Calibrated = Callable[..., Draft]
ByHand = Callable[..., ir.Model]
Sound = Callable[[Draft, ir.Model], None]
EAGER = {name: replace(t, costs=UNIFORM) for name, t in TARGETS.items() if "qdq" in t.formats}
"""The targets, with costs that make all layers worth it, so that small networks are quantized."""
INTEGER = TARGETS["integer"]


LAYERED = (
    "g (float[1,3,6,6] x) => (float[1,5,6,6] y) <float[4,3,1,1] a, float[4] ab, float[5,4,1,1] z, float[5] zb> {"
    " [a] h = Conv(x, a, ab)  [r] r = Relu(h)  [z] y = Conv(r, z, zb) }"
)


@pytest.mark.parametrize(
    ("name", "activation", "bias"),
    [("onnxruntime", "uint8", "int32"), ("onnxruntime-arm", "int8", "int32"), ("openvino", "uint8", "int32"),
     ("integer", "int8", "int32"), ("tensorrt", "int8", "float32")],
)  # fmt: skip
def test_the_integers_have_the_targets_types(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, name: str, activation: str, bias: str
) -> None:
    model = build(LAYERED)
    data = samples(model)
    quantized = to_qdq(calibrated(placed(model, EAGER[name], data), data))
    for node in quantized.graph:
        if node.op_type == "QuantizeLinear":
            assert node.inputs[2].const_value.numpy().dtype == activation
        if node.op_type == "DequantizeLinear":
            assert node.inputs[1].dtype == ir.DataType.FLOAT
            assert node.inputs[2].dtype == node.inputs[0].dtype
    kinds = {n: str(v.const_value.numpy().dtype) for n, v in quantized.graph.initializers.items()}
    assert kinds["a_quantized"] == "int8"
    assert kinds["ab" if bias == "float32" else "ab_quantized"] == bias
    assert "a" not in kinds


def test_a_bias_is_rounded_at_the_scale_of_the_accumulator(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated
) -> None:
    model = build(LAYERED)
    data = samples(model)
    draft = calibrated(placed(model, INTEGER, data), data)
    initializers = to_qdq(draft).graph.initializers
    for bias, weight, source in (("ab", "a", Site("x", "a", 0)), ("zb", "z", Site("r"))):
        sx = draft.plan.at(source).params.scale.ravel()
        sw = draft.plan.at(Site(weight, weight, 1)).params.scale.ravel()
        scale = (sx * sw).astype(np.float32)
        b = model.graph.initializers[bias].const_value.numpy()
        np.testing.assert_array_equal(initializers[f"{bias}_scale"].const_value.numpy(), scale)
        np.testing.assert_array_equal(initializers[f"{bias}_quantized"].const_value.numpy(), np.rint(b / scale))
        assert not initializers[f"{bias}_zero_point"].const_value.numpy().any()


def test_a_weight_is_rounded_by_channel(build: Build, samples: Samples, placed: Placed, calibrated: Calibrated) -> None:
    model = build(LAYERED)
    data = samples(model)
    draft = calibrated(placed(model, INTEGER, data), data)
    codes = to_qdq(draft).graph.initializers["z_quantized"].const_value.numpy()
    weight = model.graph.initializers["z"].const_value.numpy()
    scale = draft.plan.at(Site("z", "z", 1)).params.scale
    np.testing.assert_array_equal(codes, np.rint(weight / scale))
    assert (np.abs(codes.astype(int)).reshape(5, -1).max(1) == 127).all()


def test_weights_of_four_bits_are_stored_as_such(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, as_by_hand: ByHand, sound: Sound
) -> None:
    model = build("g (float[2,6] x) => (float[2,4] y) <float[6,4] w> { [a] y = MatMul(x, w) }", opset=21)
    data = samples(model)
    draft = calibrated(placed(model, INTEGER, data), data)
    scheme = Scheme(IntGrid(4, narrow=True), per_channel(1))
    params = params_of(model.graph.initializers["w"].const_value.numpy(), scheme)
    group = draft.plan.sites[Site("w", "a", 1)]
    plan = draft.plan.with_group(group, Quantizer(scheme, "by hand", "weight", params))
    draft = replace(draft, plan=plan, target=replace(draft.target, takes=(scheme,)))
    quantized = to_qdq(draft)
    assert np.abs(quantized.graph.initializers["w_quantized"].const_value.numpy().astype(int)).max() == 7
    as_by_hand(draft, data[:1])
    sound(draft, quantized)
