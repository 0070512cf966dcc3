"""The forms that operators have on codes, by operator: each fills a `Fold`, or returns False where it does not apply.

    operator             inputs of the form                                            conditions
    QLinearConv          x, xs, xz, w, ws, wz, ys, yz, bias                            codes of 8 bits; bias int32
    QLinearMatMul        a, as, az, b, bs, bz, ys, yz                                  b: also a scale by column
    MatMulIntegerToFloat a, b, as, bs, az, bz                                          the same; the output real
    QGemm                a, as, az, b, bs, bz, c, ys, yz                               beta 1; with c alpha 1
    QLinearAdd, Mul      a, as, az, b, bs, bz, ys, yz                                  one scale each, one type
    QLinearSigmoid ...   x, xs, xz, ys, yz                                             one scale each, one type
    QLinearConcat        ys, yz, (x, xs, xz) for each input                            one scale each, one type

A signed first operand goes with signed weights only, as the kernels have it.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from halfeven.exporters.qoperator_sites import BYTES, Coded, Fold
from halfeven.graph import ops

Form: TypeAlias = Callable[[Fold], bool]
CONTRIB = "com.microsoft"
CLAMPED = frozenset({"Conv", "MatMul", "Gemm", "Add", "Mul"})
"""Operators whose clamp may work on the codes that they give."""


def _triple(coded: Coded) -> list[ir.Value]:
    return [coded.codes, coded.scale, coded.zero]


def _plain(*operands: Coded | None) -> bool:
    """Whether all are bytes of one type under one scale each."""
    kinds = {c.dtype if c is not None and c.axis is None else None for c in operands}
    return len(kinds) == 1 and kinds <= BYTES


def _weighted(data: Coded | None, weight: Coded | None) -> bool:
    """Whether kernels multiply these: uint8 by bytes of either sign, int8 by int8."""
    if data is None or weight is None or data.axis is not None or data.dtype not in BYTES:
        return False
    return weight.dtype in BYTES and (data.dtype == ir.DataType.UINT8 or weight.dtype == ir.DataType.INT8)


def _answered(fold: Fold) -> Coded | None:
    """The output, if it is codes of the first input's type under one scale."""
    out = fold.outputs[0]
    return out if _plain(fold.inputs[0], out) else None


def _bias(fold: Fold) -> tuple[bool, ir.Value | None]:
    """Whether the third input is absent or int32, and its codes."""
    if len(fold.node.inputs) < 3 or fold.node.inputs[2] is None:
        return True, None
    bias = fold.inputs[2]
    if bias is None or bias.dtype != ir.DataType.INT32 or bias.arrays[1].any() or not _is_product(fold, bias):
        return False, None
    return True, bias.codes


def _is_product(fold: Fold, bias: Coded) -> bool:
    """Whether the bias has the scale at which sums of products are counted."""
    data, weight = fold.inputs[0], fold.inputs[1]
    assert data is not None
    assert weight is not None
    product = (data.arrays[0] * weight.arrays[0]).astype(np.float32).reshape(-1)
    found = bias.arrays[0].reshape(-1)
    return (1 in (found.size, product.size) or found.size == product.size) and bool((found == product).all())


def _conv(fold: Fold) -> bool:
    data, weight, out = fold.inputs[0], fold.inputs[1], _answered(fold)
    if out is None or not _weighted(data, weight) or data is None or weight is None or weight.axis not in (None, 0):
        return False
    sound, bias = _bias(fold)
    if not sound:
        return False
    last = [] if bias is None else [bias]
    made = fold.add("QLinearConv", [*_triple(data), *_triple(weight), out.scale, out.zero, *last])
    return fold.finish(made.outputs)


def _columns(fold: Fold, weight: Coded) -> bool:
    """Whether the second factor has one scale, or one for each column."""
    if weight.axis is None:
        return True
    tensor = weight.codes.const_value
    return (
        tensor is not None
        and len(tensor.shape) == 2
        and weight.axis % 2 == (0 if fold.node.op_type == "Gemm" and ops.attribute(fold.node, "transB", 0) else 1)
    )


def _matmul(fold: Fold) -> bool:
    a, b = fold.inputs
    if a is None or b is None or not _weighted(a, b) or not _columns(fold, b):
        return False
    if fold.outputs[0] is None:
        inputs = [a.codes, b.codes, a.scale, b.scale, a.zero, b.zero]
        return fold.finish_real(fold.add("MatMulIntegerToFloat", inputs, [], CONTRIB).outputs[0])
    out = _answered(fold)
    if out is None:
        return False
    return fold.finish(fold.add("QLinearMatMul", [*_triple(a), *_triple(b), out.scale, out.zero], []).outputs)


def _gemm(fold: Fold) -> bool:
    a, b = fold.inputs[:2]
    if a is None or b is None or not _weighted(a, b) or not _columns(fold, b):
        return False
    sound, bias = _bias(fold)
    node, has_bias = fold.node, len(fold.node.inputs) > 2 and fold.node.inputs[2] is not None
    alpha, beta = ops.attribute(node, "alpha", 1.0), ops.attribute(node, "beta", 1.0)
    if not sound or (has_bias and (beta != 1.0 or alpha != 1.0)):
        return False
    out = _answered(fold)
    if out is None and fold.outputs[0] is not None:
        return False
    kept = [node.attributes[name] for name in ("alpha", "transA", "transB") if name in node.attributes]
    last = [] if out is None else [out.scale, out.zero]
    made = fold.add("QGemm", [*_triple(a), *_triple(b), bias, *last], kept, CONTRIB)
    return fold.finish_real(made.outputs[0]) if out is None else fold.finish(made.outputs)


def _pairwise(fold: Fold) -> bool:
    a, b = fold.inputs
    out = _answered(fold)
    if a is None or b is None or out is None or not _plain(a, b):
        return False
    op, inputs = f"QLinear{fold.node.op_type}", [*_triple(a), *_triple(b), out.scale, out.zero]
    return fold.finish(fold.add(op, inputs, [], CONTRIB).outputs)


def _unary(fold: Fold) -> bool:
    x, out, node = fold.inputs[0], _answered(fold), fold.node
    if x is None or out is None or "dilations" in node.attributes:
        return False
    attributes = list(node.attributes.values())
    if node.op_type == "Softmax":
        assert node.graph is not None
        opset = node.graph.opset_imports.get("", 13)
        if opset < 13:
            return False
        attributes = [ir.AttrInt64("axis", int(ops.attribute(node, "axis", -1))), ir.AttrInt64("opset", opset)]
    made = fold.add(f"QLinear{node.op_type}", [*_triple(x), out.scale, out.zero], attributes, CONTRIB)
    return fold.finish(made.outputs)


def _concat(fold: Fold) -> bool:
    out = fold.outputs[0]
    if out is None or not _plain(out, *fold.inputs):
        return False
    operands = [c for c in fold.inputs if c is not None]
    if all(c.parameters == out.parameters for c in operands):
        return fold.finish(fold.add("Concat", [c.codes for c in operands]).outputs)
    inputs = [out.scale, out.zero, *(v for c in operands for v in _triple(c))]
    return fold.finish(fold.add("QLinearConcat", inputs, domain=CONTRIB).outputs)


def _moves(fold: Fold) -> bool:
    """The operator itself, on codes whose scale does not change."""
    x = fold.inputs[0]
    if x is None or not _plain(x, *fold.outputs):
        return False
    if any(c is None or c.parameters != x.parameters for c in fold.outputs):
        return False
    if fold.node.op_type == "Resize" and ops.attribute(fold.node, "mode", "nearest") != "nearest":
        return False
    made = fold.add(fold.node.op_type, [x.codes, *fold.node.inputs[1:]], outputs=len(fold.outputs))
    return fold.finish(made.outputs)


def _clamp(fold: Fold) -> bool:
    """Relu or Clip between codes of one scale: two bounds on codes."""
    x, out = fold.inputs[0], _answered(fold)
    if x is None or out is None or x.parameters != out.parameters:
        return False
    if fold.node.op_type == "Clip" and any(v is not None and ops.constant_of(v) is None for v in fold.node.inputs[1:]):
        return False
    value = fold.clamp(x.codes, fold.node, out)
    if value is x.codes:
        return False
    return fold.finish([value])


MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "MaxPool", "Resize", "Expand")
FORMS: dict[str, Form] = {
    "Conv": _conv,
    "MatMul": _matmul,
    "Gemm": _gemm,
    **dict.fromkeys(("Add", "Mul"), _pairwise),
    **dict.fromkeys(("Sigmoid", "LeakyRelu", "Softmax", "AveragePool", "GlobalAveragePool"), _unary),
    "Concat": _concat,
    **dict.fromkeys((*MOVES, "Tile", "Identity", "DepthToSpace", "Gather"), _moves),
    **dict.fromkeys(("Relu", "Clip"), _clamp),
}
"""By ONNX operator."""
