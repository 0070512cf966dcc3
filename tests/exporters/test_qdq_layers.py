"""Promised: layers of every shape compute what the plan says."""

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
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


LAYERS = {
    "conv in one dimension": "(float[2,3,9] x) => (float y) <float[4,3,3] w, float[4] b> { [a] y = Conv <pads = [1,"
        " 1]> (x, w, b) }",
    "conv in three dimensions": "(float[1,2,4,4,4] x) => (float y) <float[3,2,2,2,2] w> { [a] y = Conv(x, w) }",
    "grouped conv": "(float[1,4,5,5] x) => (float y) <float[6,2,3,3] w, float[6] b> { [a] y = Conv <group = 2> (x, w,"
        " b) }",
    "conv of one output": "(float[1,4,5,5] x) => (float y) <float[1,4,3,3] w, float[1] b> { [a] y = Conv(x, w, b) }",
    "transposed conv": "(float[1,4,5,5] x) => (float y) <float[4,3,2,2] w, float[3] b> { [a] y = ConvTranspose"
        " <strides = [2, 2]> (x, w, b) }",
    "grouped transposed conv": "(float[1,4,5,5] x) => (float y) <float[4,3,2,2] w, float[6] b> { [a] y ="
        " ConvTranspose <group = 2> (x, w, b) }",
    "gemm": "(float[3,4] x) => (float y) <float[4,5] w, float[5] b> { [a] y = Gemm(x, w, b) }",
    "gemm with one bias for all": "(float[3,4] x) => (float y) <float[4,5] w, float[1] b> { [a] y = Gemm(x, w, b) }",
    "gemm with a bias of two axes": "(float[3,4] x) => (float y) <float[4,5] w, float[1,5] b> { [a] y = Gemm(x, w, b)"
        " }",
    "gemm with a scalar bias": "(float[3,4] x) => (float y) <float[4,5] w, float b = {0.5}> { [a] y = Gemm(x, w, b) }",
    "gemm without bias": "(float[3,4] x) => (float y) <float[5,4] w> { [a] y = Gemm <transB = 1> (x, w) }",
    "matmul of rank four": "(float[2,2,3,4] x) => (float y) <float[4,5] w> { [a] y = MatMul(x, w) }",
    "batched matmul": "(float[2,3,4] x) => (float y) <float[2,4,5] w> { [a] y = MatMul(x, w) }",
    "matmul of a vector": "(float[4] x) => (float y) <float[4,5] w> { [a] y = MatMul(x, w) }",
    "split": "(float[2,4] x) => (float y, float z) <float[4,6] w, float[3,3] v, int64[2] n = {3, 3}> { [a] h ="
        " MatMul(x, w)  s, t = Split <axis = 1> (h, n)"
    "  y = MatMul(s, v)  z = MatMul(t, v) }",
    "lrn of a pool": "(float[1,4,6,6] x) => (float y) <float[4,4,1,1] w> { [a] h = Conv(x, w)  p = MaxPool"
        " <kernel_shape = [2, 2]> (h)"
    "  l = LRN <size = 3> (p)  y = Conv(l, w) }",
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_every_shape_of_layer_computes_what_its_plan_says(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, as_by_hand: ByHand, sound: Sound, name: str
) -> None:
    model = build(f"g {LAYERS[name]}")
    for output in model.graph.outputs:
        output.shape = None
    data = samples(model)
    for target in EAGER.values():
        for refine in (False, True) if target.name in ("onnxruntime", "integer") else (False,):
            draft = calibrated(placed(model, target, data, prefer="size"), data, refine=refine)
            assert draft.plan.sites or draft.plan.floats["a"]
            quantized = as_by_hand(draft, data[:1])
            sound(draft, quantized)
            reference, found = (OrtExecutor(m)(data[0][1]) for m in (model, quantized))
            assert all(sqnr_db(reference[key], found[key]) > 20 for key in reference)
