"""Element-wise operators, sums over axes and normalizations, all in float.

    ONNX                                     ncnn
    Add Sub Mul Div Max Min Pow              BinaryOp 0 = 0 1 2 3 4 5 6; 7 8 9 = RSUB, RDIV, RPOW for a constant left
    Abs Neg Floor Ceil Sqrt Exp Log Sin      UnaryOp 0 = 0 1 2 3 5 7 8 9; 10 cos, 15 reciprocal, 18 round
    Relu LeakyRelu Clip PRelu Elu Selu       ReLU, ReLU 0 = slope, Clip, PReLU, ELU, SELU
    Sigmoid Tanh Erf Gelu HardSigmoid        Sigmoid, TanH, Erf, GELU, HardSigmoid 0 = alpha, 1 = beta
    HardSwish Softplus Mish                  HardSwish 0 = 1/6, 1 = 1/2, Softplus, Mish
    Softmax                                  Softmax 0 = axis, 1 = 1 (the axis as it is written)
    ReduceSum Mean Max Min Prod L1 L2        Reduction 0 = 0 3 4 5 6 7 8; 1 = 0, 3 = axes, 4 = keepdims, 5 = 1
    LayerNormalization BatchNormalization    LayerNorm 0 = size, 1 = eps, 2 = 1; BatchNorm 0 = channels, 1 = eps

The operands of a BinaryOp get the same number of axes, so that lengths of 1 stretch as in ONNX; without that ncnn
would guess which axis a vector belongs to.

Sources: ncnn src/layer, 20261020; docs/developer-guide/operators.md.
"""

from collections.abc import Sequence

import numpy as np

from halfeven.exporters.computed_shapes import fixed
from halfeven.exporters.ncnn.blobs import Blobs, Dims, View, clamped, refuse
from halfeven.exporters.ncnn.parts import Array, Param, plain
from halfeven.exporters.patterns import bounds
from halfeven.graph.network import Op, Tensor

BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3, "Max": 4, "Min": 5, "Pow": 6}
REVERSED = {0: 0, 1: 7, 2: 2, 3: 8, 4: 4, 5: 5, 6: 9}
UNARY = {"Abs": 0, "Neg": 1, "Floor": 2, "Ceil": 3, "Sqrt": 5, "Exp": 7, "Log": 8, "Sin": 9, "Cos": 10}
UNARY |= {"Reciprocal": 15, "Round": 18}
SQUARE = 4
ALONE = {"Sigmoid": "Sigmoid", "Tanh": "TanH", "Erf": "Erf", "Softplus": "Softplus", "Mish": "Mish"}
SUMS = {"ReduceSum": 0, "ReduceMean": 3, "ReduceMax": 4, "ReduceMin": 5, "ReduceProd": 6, "ReduceL1": 7, "ReduceL2": 8}
SIXTH = 1 / 6


def binary(op: Op, blobs: Blobs) -> None:
    """Two or more operands, element by element."""
    first, *rest = op.inputs
    left: Tensor | tuple[str, View] | None = first
    for n, right in enumerate(rest):
        if left is None or right is None:
            raise refuse(op, "an operand is left out")
        made = _pair(op, left, right, blobs, f"{op.name}_{n}" if n + 1 < len(rest) else op.name)
        left = made
    assert isinstance(left, tuple)
    blobs.give(op.outputs[0], left[0], left[1], op.clamp)


def _pair(op: Op, a: Tensor | tuple[str, View], b: Tensor, blobs: Blobs, name: str) -> tuple[str, View]:
    kind = BINARY[op.kind]
    held = {i: blobs.values(t) for i, t in enumerate((a, b)) if isinstance(t, Tensor) and t.constant is not None}
    views = [v[1] if isinstance(v, tuple) else blobs.view(v) for v in (a, b)]
    view = _stretched(op, views)
    one = next((i for i, v in held.items() if v.size == 1 and len(views[1 - i].blob) == len(view.blob)), None)
    if len(held) == 2:
        raise refuse(op, "both operands are constant")
    if one is not None:
        other = b if one == 0 else a
        source = other[0] if isinstance(other, tuple) else blobs.real(other)
        value = float(held[one].ravel()[0])
        if kind == BINARY["Pow"] and one == 1 and value == 2.0:
            return blobs.emit("UnaryOp", name, [source], {0: SQUARE})[0], view
        params: dict[int, Param] = {0: REVERSED[kind] if one == 0 else kind, 1: 1, 2: value}
        return blobs.emit("BinaryOp", name, [source], params)[0], view
    operands = []
    for i, tensor in enumerate((a, b)):
        if i in held:
            operands.append(blobs.memory(_without_batch(op, held[i], views[i], view), f"{name}_operand"))
        else:
            source = tensor[0] if isinstance(tensor, tuple) else blobs.real(tensor)
            operands.append(_widened(source, views[i], view, blobs, name))
    return blobs.emit("BinaryOp", name, operands, {0: kind})[0], view


def _stretched(op: Op, views: Sequence[View]) -> View:
    """The axes of a result whose operands are stretched to each other."""
    rank = max(len(v.dims) for v in views)
    batches = {v.batch + rank - len(v.dims) for v in views if v.batch is not None}
    if len(batches) > 1:
        raise refuse(op, "the batch is another axis in each operand")
    batch = next(iter(batches), None)
    dims: list[int | None] = []
    for axis in range(rank):
        here = [v.dims[axis - rank + len(v.dims)] for v in views if axis >= rank - len(v.dims)]
        wide = [d for d in here if d != 1]
        dims.append(next((d for d in wide if d is not None), wide[0] if wide else 1))
        outside = [v for v in views if v.batch is None and axis == batch and axis >= rank - len(v.dims)]
        if any(v.dims[axis - rank + len(v.dims)] != 1 for v in outside):
            raise refuse(op, "an operand without batch has numbers for each sample")
    return View(tuple(dims), batch)


def _without_batch(op: Op, values: Array, own: View, view: View) -> Array:
    """A constant with as many axes as the result's blob."""
    rank = len(view.dims)
    wide = values.reshape((1,) * (rank - len(own.dims)) + values.shape)
    return wide if view.batch is None else wide.squeeze(view.batch)


def _widened(source: str, own: View, view: View, blobs: Blobs, name: str) -> str:
    """A blob with ones in front until it has as many axes as the result's."""
    lacking = len(view.blob) - len(own.blob)
    if not lacking:
        return source
    return blobs.emit("ExpandDims", f"{name}_wide", [source], {3: list(range(lacking))})[0]


def unary(op: Op, blobs: Blobs) -> None:
    """One operand, element by element."""
    x = op.inputs[0]
    assert x is not None
    kind, params, weights = _unary(op, blobs)
    [top] = blobs.emit(kind, op.name, [blobs.real(x)], params, weights)
    blobs.give(op.outputs[0], top, blobs.view(x), op.clamp)


def _unary(op: Op, blobs: Blobs) -> tuple[str, dict[int, Param], list[bytes]]:
    get = op.attributes.get
    if op.kind in UNARY:
        return "UnaryOp", {0: UNARY[op.kind]}, []
    if op.kind in ALONE:
        return ALONE[op.kind], {}, []
    match op.kind:
        case "Relu" | "Clip":
            limits = bounds(op)
            if limits is None:
                raise refuse(op, "its bounds are computed")
            low, high = clamped(limits)
            return ("ReLU", {}, []) if op.kind == "Relu" else ("Clip", {0: low, 1: high}, [])
        case "LeakyRelu":
            return "ReLU", {0: float(get("alpha", 0.01))}, []
        case "Elu":
            return "ELU", {0: float(get("alpha", 1.0))}, []
        case "Selu":
            return "SELU", {0: float(get("alpha", 1.67326319)), 1: float(get("gamma", 1.05070102))}, []
        case "Gelu":
            return "GELU", {0: int(str(get("approximate", "none")) == "tanh")}, []
        case "HardSigmoid":
            return "HardSigmoid", {0: float(get("alpha", 0.2)), 1: float(get("beta", 0.5))}, []
        case "HardSwish":
            return "HardSwish", {0: SIXTH, 1: 0.5}, []
        case "PRelu":
            return _prelu(op, blobs)
    raise refuse(op, "ncnn has no such layer")


def _prelu(op: Op, blobs: Blobs) -> tuple[str, dict[int, Param], list[bytes]]:
    x, slope = op.inputs
    assert x is not None
    blob = blobs.view(x).blob
    if slope is None or slope.constant is None:
        raise refuse(op, "its slopes are computed")
    values = blobs.values(slope)
    dims = (1,) * (len(blob) - values.ndim) + values.shape[max(0, values.ndim - len(blob)) :]
    if values.size != 1 and (values.size != dims[0] or dims[0] != blob[0]):
        raise refuse(op, "it has other slopes than one for each channel")
    return "PReLU", {0: values.size}, [plain(values.ravel())]


def softmax(op: Op, blobs: Blobs) -> None:
    """Softmax over one axis."""
    x = op.inputs[0]
    assert x is not None
    view = blobs.view(x)
    axis = view.axis(int(op.attributes.get("axis", -1 if blobs.network.opset >= 13 else 1)))
    if axis is None or (blobs.network.opset < 13 and axis != len(view.blob) - 1):
        raise refuse(op, "its axis is the batch, or it reaches over several axes")
    [top] = blobs.emit("Softmax", op.name, [blobs.real(x)], {0: axis, 1: 1})
    blobs.give(op.outputs[0], top, view, op.clamp)


def reduction(op: Op, blobs: Blobs) -> None:
    """Sums, means and extrema over axes."""
    x = op.inputs[0]
    assert x is not None
    view = blobs.view(x)
    given, rank = fixed(op, 1, "axes", blobs), len(view.dims)
    if given is None and (len(op.inputs) > 1 and op.inputs[1] is not None):
        raise refuse(op, "its axes are computed")
    axes = sorted({a % rank for a in given}) if given else [a for a in range(rank) if a != view.batch]
    inner = [view.axis(a) for a in axes]
    if None in inner:
        raise refuse(op, "it reduces the batch axis")
    keep = int(op.attributes.get("keepdims", 1))
    params: dict[int, Param] = {0: SUMS[op.kind], 1: 0, 3: [a for a in inner if a is not None], 4: keep, 5: 1}
    [top] = blobs.emit("Reduction", op.name, [blobs.real(x)], params)
    blobs.give(op.outputs[0], top, _reduced(view, axes, keep), op.clamp)


def _reduced(view: View, axes: Sequence[int], keep: int) -> View:
    if keep:
        return View(tuple(1 if i in axes else d for i, d in enumerate(view.dims)), view.batch)
    dims: Dims = tuple(d for i, d in enumerate(view.dims) if i not in axes)
    batch = None if view.batch is None else view.batch - sum(a < view.batch for a in axes)
    return View(dims, batch)


def layer_norm(op: Op, blobs: Blobs) -> None:
    """LayerNormalization over the last axes."""
    x, gamma, *rest = op.inputs
    assert x is not None
    view = blobs.view(x)
    axis = int(op.attributes.get("axis", -1)) % len(view.dims)
    beta = rest[0] if rest else None
    constants = [blobs.values(t).ravel() for t in (gamma, beta) if t is not None and t.constant is not None]
    sizes = view.dims[axis:]
    if axis == view.batch or None in sizes or len(constants) != 1 + (beta is not None) or len(sizes) > 2:
        raise refuse(op, "its last axes are open, or its weights computed")
    size = int(np.prod([d or 1 for d in sizes]))
    weights = [np.broadcast_to(c, (size,)) for c in constants] + [np.zeros(size, np.float32)] * (beta is None)
    params: dict[int, Param] = {0: size, 1: float(op.attributes.get("epsilon", 1e-5)), 2: 1}
    [top] = blobs.emit("LayerNorm", op.name, [blobs.real(x)], params, [plain(w) for w in weights])
    blobs.give(op.outputs[0], top, view, op.clamp)


def batch_norm(op: Op, blobs: Blobs) -> None:
    """BatchNormalization that could not be folded into a layer."""
    x, *rest = op.inputs
    assert x is not None
    if any(t is None or t.constant is None for t in rest[:4]):
        raise refuse(op, "its statistics are computed")
    scale, bias, mean, variance = (blobs.values(t).ravel() for t in rest[:4] if t is not None)
    params: dict[int, Param] = {0: scale.size, 1: float(op.attributes.get("epsilon", 1e-5))}
    weights = [plain(v) for v in (scale, mean, variance, bias)]
    [top] = blobs.emit("BatchNorm", op.name, [blobs.real(x)], params, weights)
    blobs.give(op.outputs[0], top, blobs.view(x), op.clamp)
