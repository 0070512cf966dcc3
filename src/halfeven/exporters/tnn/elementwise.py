"""Element-wise operators, sums over axes and normalizations: in float, but for a sum of two int8 tensors of one shape.

    ONNX                                    TNN
    Add Sub Mul Div Max Min                 Add Sub Mul Div Maximum Minimum 1; of a constant: its place, its raw
    Add of codes                            QuantizedAdd; a Relu behind it is a QuantizedReLU of the same scale
    Relu Clip                               Clip LEAST GREATEST
    Abs Neg Floor Ceil Sqrt Exp Log ..      of the same name, without parameters
    LeakyRelu PRelu                         PReLU SHARED 0, the slopes
    Elu HardSigmoid HardSwish               Elu ALPHA; HardSigmoid, HardSwish ALPHA BETA
    Pow by a number                         Power EXPONENT 1 0
    Softmax                                 Softmax AXIS
    ReduceMean Max Min Sum Prod L1 L2 ..    of the same name, KEEP_DIMS AXES..
    BatchNormalization                      BatchNormCxx, factors and summands

Relu is a Clip, as TNN would fuse a ReLU into an int8 layer before it, or make it one. Of a product with a Sigmoid the
Sigmoid's side comes first: behind an int8 convolution TNN's fusion of the pair x * sigmoid(x) loses the Sigmoid.
Sources: TNN layer_interpreter/*.cc, layer/multidir_broadcast_layer.cc, optimizer/net_optimizer_fuse_conv_post.cc,
net_optimizer_convert_int8_layers.cc.
"""

import numpy as np

from halfeven.exporters.computed_shapes import fixed
from halfeven.exporters.patterns import bounds, hard_swish_group, softmax_group
from halfeven.exporters.tnn.blobs import Blobs, quantized, refuse
from halfeven.exporters.tnn.layers import saturates
from halfeven.exporters.tnn.parts import LARGEST, Array, Param, raw, string
from halfeven.graph.network import Op, Tensor

BINARY = {k: k for k in ("Add", "Sub", "Mul", "Div")} | {"Max": "Maximum", "Min": "Minimum"}
UNARY = ("Abs", "Neg", "Floor", "Ceil", "Sqrt", "Exp", "Log", "Sin", "Cos", "Reciprocal", "Sigmoid", "Tanh", "Erf")
SUMS = ("Mean", "Max", "Min", "Sum", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
SIXTH = 1 / 6


def fused(op: Op, blobs: Blobs) -> bool:
    """Convert a group of operators that is one layer, if one begins here."""
    if op.kind == "Flatten" and (group := softmax_group(op, blobs.network)):
        x = op.inputs[0]
        assert x is not None
        last = len(blobs.dims(x, op)) - 1
        if int(op.attributes.get("axis", 1)) in (-1, last):
            blobs.layer(group[-1], "Softmax", [blobs.blob(x, op)], (last,))
            blobs.done.update(map(id, group))
            return True
    if op.kind == "Add":
        source, group = hard_swish_group(op, blobs.network)
        if source is not None:
            blobs.layer(group[-1], "HardSwish", [blobs.blob(source, op)], (SIXTH, 0.5))
            blobs.done.update(map(id, group))
            return True
    return False


def binary(op: Op, blobs: Blobs) -> None:
    """Two or more operands, element by element."""
    if op.kind == "Add" and _added(op, blobs):
        return
    left: Tensor | str | None = op.inputs[0]
    for n, right in enumerate(op.inputs[1:]):
        if left is None or right is None:
            raise refuse(op, "an operand is left out")
        left = _pair(
            op, left, right, blobs, "" if n + 2 < len(op.inputs) or op.clamp is not None else op.outputs[0].name
        )
    if not isinstance(left, str):
        raise refuse(op, "it has one operand")
    blobs.give(op.outputs[0], left, op.clamp)


def _added(op: Op, blobs: Blobs) -> bool:
    """Emit a sum of codes; False if it is none that TNN's kernels compute."""
    (a, b), y = op.inputs[:2], op.outputs[0]
    if a is None or b is None or not (a.coded and b.coded and y.coded) or not {a.name, b.name} <= set(blobs.blobs):
        return False
    below, above = saturates(y, op.clamp)
    relu = not below and op.clamp is not None and op.clamp[0] == 0.0
    if blobs.dims(a, op) != blobs.dims(b, op) or len(blobs.dims(a, op)) < 2 or not above or not (below or relu):
        why = "its operands are not known to have one shape" if above and (below or relu) else "of its clamp"
        blobs.notes.append(f"Add '{op.name}' runs in float: {why}.")
        return False
    for tensor in (a, b):
        blobs.scale(tensor)
    names = () if relu else (y.name,)
    [top] = blobs.emit(quantized("Add"), op.name, [blobs.blob(a, op), blobs.blob(b, op)], (1,), outputs=names)
    if relu:
        blobs.scales[top] = blobs.scale(y)
        [top] = blobs.emit(quantized("ReLU"), f"{op.name}_relu", [top], (), outputs=(y.name,))
    blobs.give_codes(y, top)
    return True


def _pair(op: Op, a: Tensor | str, b: Tensor, blobs: Blobs, name: str) -> str:
    held = [isinstance(t, Tensor) and t.constant is not None for t in (a, b)]
    if all(held):
        raise refuse(op, "both operands are constant")
    if not any(held):
        sources = [t if isinstance(t, str) else blobs.blob(t, op) for t in (a, b)]
        if op.kind == "Mul" and any(m.layer.kind == "Sigmoid" and sources[1] in m.layer.outputs for m in blobs.made):
            sources.reverse()
        return blobs.emit(BINARY[op.kind], op.name, sources, (1,), outputs=(name or op.name,))[0]
    constant, other = (a, b) if held[0] else (b, a)
    assert isinstance(constant, Tensor)
    rank = len(blobs.dims(other, op)) if isinstance(other, Tensor) else len(blobs.dims(op.outputs[0], op))
    weights = _operand(op, np.asarray(blobs.values(constant), np.float32), rank)
    source = other if isinstance(other, str) else blobs.blob(other, op)
    place = (int(not held[0]),)
    return blobs.emit(BINARY[op.kind], op.name, [source], place, lambda _: weights, (name or op.name,))[0]


def _operand(op: Op, values: Array, rank: int) -> bytes:
    """A constant operand: one number, one for each channel, or an array that says its axes."""
    if values.ndim > rank:
        raise refuse(op, "a constant gives its result more axes")
    wide = (1,) * (rank - values.ndim) + values.shape
    if values.size == 1 or (rank > 1 and values.size == wide[1]):
        return raw(values.ravel())
    return raw(values.reshape(wide), axes=True)


def unary(op: Op, blobs: Blobs) -> None:
    """One operand, element by element."""
    x = op.inputs[0]
    kind, params, slopes = _unary(op, blobs)
    weights = None if slopes is None else lambda title: string(title) + raw(slopes)
    blobs.layer(op, kind, [blobs.blob(x, op)], params, weights)


def _unary(op: Op, blobs: Blobs) -> tuple[str, tuple[Param, ...], Array | None]:
    get = op.attributes.get
    if op.kind in UNARY:
        return op.kind, (), None
    match op.kind:
        case "Relu" | "Clip":
            limits = bounds(op)
            if limits is None:
                raise refuse(op, "its bounds are computed")
            return "Clip", tuple(float(np.clip(bound, -LARGEST, LARGEST)) for bound in limits), None
        case "LeakyRelu":
            return "PReLU", (1, 0), np.array([get("alpha", 0.01)], np.float32)
        case "Elu":
            return "Elu", (float(get("alpha", 1.0)),), None
        case "HardSigmoid":
            return "HardSigmoid", (float(get("alpha", 0.2)), float(get("beta", 0.5))), None
        case "HardSwish":
            return "HardSwish", (SIXTH, 0.5), None
        case "Pow":
            power = op.inputs[1]
            if power is None or power.data is None or power.data.size != 1:
                raise refuse(op, "its exponent is not one constant number")
            return "Power", (float(blobs.values(power).ravel()[0]), 1.0, 0.0), None
        case "PRelu":
            return _prelu(op, blobs)
    raise refuse(op, "TNN has no such layer")


def _prelu(op: Op, blobs: Blobs) -> tuple[str, tuple[Param, ...], Array]:
    x, slope = op.inputs
    assert x is not None
    if slope is None or slope.constant is None:
        raise refuse(op, "its slopes are computed")
    values, dims = blobs.values(slope), blobs.dims(x, op)
    wide = (1,) * (len(dims) - values.ndim) + values.shape
    if values.size != 1 and (len(wide) < 2 or values.size != wide[1] or wide[1] != dims[1]):
        raise refuse(op, "it has other slopes than one for each channel")
    return "PReLU", (int(values.size == 1), 0), values.ravel()


def softmax(op: Op, blobs: Blobs) -> None:
    """Softmax over one axis."""
    x = op.inputs[0]
    assert x is not None
    rank = len(blobs.dims(x, op))
    axis = int(op.attributes.get("axis", -1 if blobs.network.opset >= 13 else 1)) % rank
    if blobs.network.opset < 13 and axis != rank - 1:
        raise refuse(op, "it reaches over several axes")
    blobs.layer(op, "Softmax", [blobs.blob(x, op)], (axis,))


def reduction(op: Op, blobs: Blobs) -> None:
    """Sums, means and extrema over axes."""
    x = op.inputs[0]
    assert x is not None
    rank, given = len(blobs.dims(x, op)), fixed(op, 1, "axes", blobs)
    if given is None and len(op.inputs) > 1 and op.inputs[1] is not None:
        raise refuse(op, "its axes are computed")
    if not given and op.attributes.get("noop_with_empty_axes", 0):
        raise refuse(op, "it reduces nothing")
    axes = sorted({a % rank for a in given}) if given else range(rank)
    blobs.layer(op, op.kind, [blobs.blob(x, op)], (int(op.attributes.get("keepdims", 1)), *axes))


def batch_norm(op: Op, blobs: Blobs) -> None:
    """BatchNormalization that could not be folded into a layer."""
    x, *rest = op.inputs
    if len(rest) < 4 or any(t is None or t.constant is None for t in rest[:4]):
        raise refuse(op, "its statistics are computed")
    scale, bias, mean, variance = (blobs.values(t).ravel().astype(np.float64) for t in rest[:4] if t is not None)
    factor = scale / np.sqrt(variance + float(op.attributes.get("epsilon", 1e-5)))
    weights = raw(factor.astype(np.float32)) + raw((bias - mean * factor).astype(np.float32))
    blobs.layer(op, "BatchNormCxx", [blobs.blob(x, op)], (), lambda _: weights)
