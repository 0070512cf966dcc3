"""Layers with weights: Convolution, InnerProduct and Deconvolution, the first two in int8 where TNN can.

    Convolution, Deconvolution   GROUP IN OUT  KH KW  SH SW  PH PW  HAS_BIAS PAD_TYPE  DH DW  ACTIVATION
    InnerProduct                 OUT HAS_BIAS 0 AXIS              rows of a tensor of two axes: AXIS 1

    PAD_TYPE     -1 the pads that stand here, the same on both sides; 0 SAME_UPPER
    ACTIVATION   0 none, 1 Relu; of int8 layers no other is written, as not every int8 kernel has one

Pads that differ become a Pad before the layer. A convolution over one axis is one over rows of height 1. A product of
rows of three or four axes by a constant is a 1 x 1 convolution between two Permutes: what runs on int8 codes is the
same sum. What an int8 layer computes, in float32 where nothing else stands (halfeven.targets.tnn on the rounding):

    acc = sum of products of codes + bias, int32;   y = acc f32(f32(s_x s_w) / s_y);   Relu;   code = half_away(y)

A clamp above is left to the saturation of codes where the greatest code is not above it; else the layer runs in float,
as does one whose bias is no code of the plan, whose dilations differ, or whose output stays real.

Sources: TNN layer_interpreter/conv_layer_interpreter.cc, inner_product_layer_interpreter.cc; layer/conv_layer.cc,
deconv_layer.cc; device/cpu/acc/cpu_conv_layer_acc.cc, device/arm/acc/convolution, tools/onnx2tnn.
"""

from collections.abc import Sequence

import numpy as np

from halfeven.exporters.tnn.blobs import Blobs, quantized, refuse
from halfeven.exporters.tnn.parts import Array, Param, integer, raw, string
from halfeven.graph.network import Op, Tensor
from halfeven.numerics.quantize import quantize

RELU, PLAIN = 1, 0
EXPLICIT, SAME = -1, 0
AUTO = {"NOTSET": EXPLICIT, "": EXPLICIT, "VALID": EXPLICIT, "SAME_UPPER": SAME}
CONV, INNER, DECONV = "Convolution", "InnerProduct", "Deconvolution"


def convolution(op: Op, blobs: Blobs) -> None:
    """Conv of one or two spatial axes."""
    x, w, bias = operands(op)
    weights = w.data
    assert weights is not None
    spatial = weights.ndim - 2
    if spatial not in (1, 2) or len(blobs.dims(x, op)) != weights.ndim:
        raise refuse(op, f"a convolution over {spatial} axes")
    source, window = blobs.blob(x, op), _window(op, weights.shape[2:])
    if spatial == 1:
        [source] = blobs.emit("Unsqueeze", f"{op.name}_rows", [source], (1, 2))
        blobs.scales |= {source: blobs.scale(x)} if x.coded else {}
    source, window = _padded(op, blobs, source, window, x)
    group = int(op.attributes.get("group", 1))
    head: list[Param] = [group, weights.shape[1] * group, weights.shape[0]]
    params = [*head, *window[:6], int(bias is not None), *window[6:]]
    rows = np.expand_dims(weights, 2) if spatial == 1 else weights
    why = not_int8(op, bias, blobs)
    if why is None and window[7] != window[8]:
        why = "its dilations differ"
    if why is None:
        _int8(op, blobs, CONV, source, params, rows, _clamped(op), spatial == 1)
    else:
        _float(op, blobs, CONV, source, params, blobs.values(w).reshape(rows.shape), why, spatial == 1)


def inner_product(op: Op, blobs: Blobs) -> None:
    """Gemm, or MatMul with a constant on the right."""
    x, w, bias = operands(op)
    weights, rank = blobs.values(w), len(blobs.dims(x, op))
    across = op.kind == "MatMul" or not op.attributes.get("transB", 0)
    if weights.ndim != 2 or any(float(op.attributes.get(k, 1.0)) != 1.0 for k in ("alpha", "beta")):
        raise refuse(op, "alpha and beta are 1, and the weight has two axes, in an InnerProduct")
    count = weights.shape[across]
    if op.attributes.get("transA", 0) or (bias is not None and bias.data is not None and bias.data.size != count):
        raise refuse(op, "its data are transposed, or its bias is not one number for each output")
    if rank not in (2, 3, 4):
        raise refuse(op, f"rows of a tensor of {rank} axes")
    why, source, codes = not_int8(op, bias, blobs), blobs.blob(x, op), w.data
    assert codes is not None
    rows = codes.T if across else codes
    if rank > 2:
        _rows(op, blobs, source, rank, rows if why is None else weights.T, why)
        return
    params: list[Param] = [count, 1, 0, 1]
    if why is None:
        _int8(op, blobs, INNER, source, params, rows, _clamped(op))
    else:
        _float(op, blobs, INNER, source, params, weights.T if across else weights, why)


def _rows(op: Op, blobs: Blobs, source: str, rank: int, rows: Array, why: str | None) -> None:
    """A product of rows of three or four axes, as a 1 x 1 convolution."""
    x, _, bias = operands(op)

    def moved(kind: str, name: str, blob: str, params: Sequence[Param]) -> str:
        [top] = blobs.emit(kind, f"{op.name}_{name}", [blob], params)
        blobs.scales |= {top: blobs.scale(x)} if x.coded and kind != "Squeeze" else {}
        return top

    source = moved("Permute", "channels", source, (rank, 0, rank - 1, *range(1, rank - 1)))
    if rank == 3:
        source = moved("Unsqueeze", "picture", source, (1, 3))
    params: list[Param] = [1, rows.shape[1], rows.shape[0], 1, 1, 1, 1, 0, 0, int(bias is not None), EXPLICIT, 1, 1]
    weights = np.ascontiguousarray(rows)[:, :, None, None]
    back = [("Squeeze", (1, 3))] if rank == 3 else []
    after = [*back, ("Permute", (rank, 0, *range(2, rank), 1))]
    if why is None:
        _int8(op, blobs, CONV, source, params, weights, _clamped(op), moves=after)
    else:
        _float(op, blobs, CONV, source, params, weights, why, moves=after)


def deconvolution(op: Op, blobs: Blobs) -> None:
    """ConvTranspose of two spatial axes, in float."""
    x, w, bias = operands(op)
    weights, group = blobs.values(w), int(op.attributes.get("group", 1))
    known = not any(op.attributes.get("output_padding", ())) and "output_shape" not in op.attributes
    if weights.ndim != 4 or not known:
        raise refuse(op, "only two spatial axes without output_padding and output_shape are written")
    window = _window(op, weights.shape[2:])
    if window[6] != EXPLICIT or window[4:6] != _ends(op):
        raise refuse(op, "its pads are not the same on both sides")
    params = [group, weights.shape[0], weights.shape[1] * group, *window[:6], int(bias is not None), *window[6:]]
    _float(op, blobs, DECONV, blobs.blob(x, op), params, weights, "")


# ------------------------------------------------------------------------------------------------- pieces

Moves = Sequence[tuple[str, Sequence[Param]]]


def operands(op: Op) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a layer reads, its weights and its bias."""
    x, w = op.inputs[:2]
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    if x is None or w is None or w.constant is None or (bias is not None and bias.constant is None):
        raise refuse(op, "its weights and bias are not constant")
    return x, w, bias


def not_int8(op: Op, bias: Tensor | None, blobs: Blobs) -> str | None:
    """Why a layer cannot run on codes; None: it can."""
    x, w, y = op.inputs[0], op.inputs[1], op.outputs[0]
    if x is None or w is None or not (x.coded and w.coded):
        return ""
    if not y.coded:
        return "its output stays real"
    for tensor in (x, y):
        blobs.scale(tensor)
    data = w.data
    assert w.params is not None
    assert data is not None
    if data.dtype != np.int8 or w.params.zero_point.any() or int(data.min(initial=0)) < -127:
        raise refuse(op, f"its weights are {w.params.scheme} codes, not int8 from -127 to 127; use --target tnn")
    if w.params.scale.size not in (1, y_channels(op)):
        raise refuse(op, "its weights have other scales than one for each output channel")
    if bias is not None and (bias.params is None or bias.data is None or bias.data.dtype != np.int32):
        return "its bias is no int32 code"
    return None if _clamped(op) is not None else "its clamp is none of TNN's int8 kernels"


def y_channels(op: Op) -> int:
    """The output channels of a layer with constant weights."""
    w = op.inputs[1]
    assert w is not None
    across = op.kind == "MatMul" or (op.kind == "Gemm" and not op.attributes.get("transB", 0))
    return int(np.shape(w.data)[across])  # type: ignore[arg-type]


def product_scale(op: Op) -> Array:
    """f32(s_x s_w), one for each output channel; the scale of the bias."""
    x, w = op.inputs[0], op.inputs[1]
    assert x is not None
    assert w is not None
    assert x.params is not None
    assert w.params is not None
    found = (x.params.scale.ravel()[:1] * w.params.scale.ravel()).astype(np.float32)
    return np.broadcast_to(found, (y_channels(op),))


def saturates(y: Tensor, clamp: tuple[float, float] | None) -> tuple[bool, bool]:
    """Which bounds of a clamp, below and above, the saturation of the codes makes needless."""
    if clamp is None or y.params is None:
        return True, True
    bounds = np.array([np.clip(b, -1e30, 1e30) for b in clamp], np.float32)
    low, high = quantize(bounds, y.params).ravel().tolist()
    return low <= y.params.scheme.grid.low, high >= y.params.scheme.grid.high


def _clamped(op: Op) -> int | None:
    """The activation of an int8 layer; None: its clamp is none that all kernels have."""
    below, above = saturates(op.outputs[0], op.clamp)
    if not above:
        return None
    if below:
        return PLAIN
    return RELU if op.clamp is not None and op.clamp[0] == 0.0 else None


def _int8(
    op: Op,
    blobs: Blobs,
    kind: str,
    source: str,
    params: Sequence[Param],
    rows: Array,
    activation: int | None,
    flat: bool = False,
    moves: Moves = (),
) -> None:
    """Emit a layer on codes."""
    (_, _, bias), y = operands(op), op.outputs[0]
    codes, scale, count = np.ascontiguousarray(rows, np.int8), product_scale(op), y_channels(op)
    held = np.zeros(count, np.int32) if bias is None or bias.data is None else bias.data.astype(np.int32).ravel()
    after = [*moves, *([("Squeeze", (1, 2))] if flat else [])]
    extra = [activation or PLAIN] if kind == CONV else []
    body = [raw(codes), raw(held), raw(scale)]

    def weights(title: str) -> bytes:
        if kind == INNER:
            return string(title) + b"".join(body)
        return string(title) + integer(int(bias is not None)) + b"".join(body if bias is not None else body[::2])

    [top] = blobs.emit(quantized(kind), op.name, [source], [*params, *extra], weights, () if after else (y.name,))
    if kind == INNER and activation == RELU:
        blobs.scales[top] = blobs.scale(y)
        [top] = blobs.emit(quantized("ReLU"), f"{op.name}_relu", [top], (), outputs=(y.name,))
    blobs.scales[top] = blobs.scale(y)
    for number, (move, values) in enumerate(after):
        names = (y.name,) if number + 1 == len(after) else ()
        [top] = blobs.emit(move, f"{op.name}_{move}", [top], values, outputs=names)
        blobs.scales[top] = blobs.scale(y)
    blobs.give_codes(y, top)


def _float(
    op: Op,
    blobs: Blobs,
    kind: str,
    source: str,
    params: Sequence[Param],
    rows: Array,
    why: str,
    flat: bool = False,
    moves: Moves = (),
) -> None:
    """Emit a layer in float, and say why if its operands are codes."""
    _, _, bias = operands(op)
    if why:
        blobs.notes.append(f"{op.kind} '{op.name}' runs in float: {why}.")
    held = None if bias is None else np.asarray(blobs.values(bias), np.float32).ravel()
    data = np.ascontiguousarray(rows, np.float32)

    def weights(title: str) -> bytes:
        if kind == INNER:
            return string(title) + raw(data) + raw(np.zeros(rows.shape[0], np.float32) if held is None else held)
        return string(title) + integer(int(held is not None)) + raw(data) + (b"" if held is None else raw(held))

    steps = [*moves, *([("Squeeze", (1, 2))] if flat else [])]
    ends: list[tuple[str, ...]] = [()] * len(steps) + [(op.outputs[0].name,) if op.clamp is None else ()]
    [top] = blobs.emit(kind, op.name, [source], [*params, *([PLAIN] if kind != INNER else [])], weights, ends[0])
    for (move, values), names in zip(steps, ends[1:], strict=True):
        [top] = blobs.emit(move, f"{op.name}_{move}", [top], values, outputs=names)
    blobs.give(op.outputs[0], top, op.clamp)


def _window(op: Op, kernel: Sequence[int]) -> list[Param]:
    """KH KW SH SW PH PW PAD_TYPE DH DW; of one axis with a height of 1. Pads are those before."""
    auto, flat = str(op.attributes.get("auto_pad", "NOTSET")), len(kernel) == 1
    if auto not in AUTO:
        raise refuse(op, f"TNN has no padding '{auto}'")
    strides = [int(s) for s in op.attributes.get("strides", (1,) * len(kernel))]
    dilations = [int(d) for d in op.attributes.get("dilations", (1,) * len(kernel))]
    pads = [int(p) for p in op.attributes.get("pads", (0,) * len(kernel) * 2)][: len(kernel)]
    one = [1] * flat
    if AUTO[auto] == SAME and set(dilations) != {1}:
        raise refuse(op, "TNN pads a dilated window otherwise")
    return [*one, *kernel, *one, *strides, *([0] * flat), *pads, AUTO[auto], *(dilations * (1 + flat))]


def _ends(op: Op) -> list[Param]:
    """The pads behind, of two axes."""
    pads = [int(p) for p in op.attributes.get("pads", (0,) * 4)]
    return [*([0] * (2 - len(pads) // 2)), *pads[len(pads) // 2 :]]


def _padded(op: Op, blobs: Blobs, source: str, window: list[Param], x: Tensor) -> tuple[str, list[Param]]:
    """A Pad before a window whose pads differ, and the window without them."""
    if window[6] != EXPLICIT or window[4:6] == _ends(op):
        return source, window
    (top, left), (bottom, right) = window[4:6], _ends(op)
    [made] = blobs.emit("Pad", f"{op.name}_pad", [source], (0, 0, top, bottom, left, right, 0, 0, 0, 0.0))
    if x.coded:
        blobs.scales[made] = blobs.scale(x)
    return made, [*window[:4], 0, 0, *window[6:]]
