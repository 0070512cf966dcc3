"""Folding: what a linear layer is followed by, channel by channel, goes into its weight and bias.

With y = op(x, W) + b, then z = gain * y + shift in each output channel c, the layer does it alone:

    W'[c] = gain[c] * W[c]        b'[c] = gain[c] * b[c] + shift[c]

    BatchNormalization in inference:  gain = scale / sqrt(var + epsilon),  shift = bias - gain * mean
    Add, Sub, Mul, Div by a constant of shape [1, C, 1, ...], [C, 1, ...] or []:  gain or shift as one reads them

(ONNX BatchNormalization-15; Jacob et al. 2018, arXiv:1712.05877, section 3.2 eq. 14.) Where output channel c lies:

    Conv            axis 0 of W (C, in/g, k...)
    ConvTranspose   c = group * (C/g) + j:  axis 1 of W (in, C/g, k...), for the rows of that group
    Gemm            axis 1 of B, or axis 0 if transB; C is multiplied by beta first, so that beta becomes 1
    MatMul          last axis of a weight (K, C), for results of rank 2; as it has no bias, an Add is left

All is computed in float64 and rounded once to the type of the weight. A fold is refused if that rounding overflows
or loses more than `EXACT` of a channel's largest weight (BatchNormalization: or one unit of the weight's type, as half
precision networks are folded by everyone); and of course if the layer's result is also read by others or is an output.
A weight that other nodes share is copied for the layer that folds. What a normalization knew of its output, mean and
deviation by channel, stays with the value in memory (graph/normals.py).
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph.edit import absorb, add_initializer, constant, unused, value_names
from halfeven.graph.normals import Normal, normal_of, remember

EXACT = 1e-6
"""Largest rounding error of a folded weight, relative to the largest weight of its channel."""

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.generic]

_UNIT = {
    ir.DataType.FLOAT: 2.0**-23,
    ir.DataType.DOUBLE: 2.0**-52,
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.BFLOAT16: 2.0**-7,
}
"""The types that fold, and the spacing of their numbers above 1."""

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class _StaysError(Exception):
    """Why a node cannot be folded; never leaves this module."""


@dataclass(frozen=True)
class _Affine:
    """z = gain * y + shift.

    Conditions that hold:
        gain and shift have shape (C,), or () where one number serves all channels.
    """

    gain: Floats
    shift: Floats


def fold_batchnorm(model: ir.Model) -> list[str]:
    """Fold each inference BatchNormalization into the linear layer before it, in place.

    Args:
        model: Named throughout; constants lifted and folded; shapes inferred (only MatMul needs them).

    Returns:
        Notes for the user: how many were folded into what, and which stay and why.
    """
    taken = value_names(model)
    folded: Counter[str] = Counter()
    kept: defaultdict[str, list[str]] = defaultdict(list)
    for graph in tuple(model.graphs()):
        for node in tuple(graph):
            if node.op_type != "BatchNormalization" or node.domain != "":
                continue
            try:
                folded[_fold_batchnorm(node, taken)] += 1
            except _StaysError as error:
                kept[str(error)].append(node.name or "")
    notes = [f"{count} BatchNormalization folded into {op_type}" for op_type, count in folded.items()]
    for reason, names in kept.items():
        listed = ", ".join(f"'{name}'" for name in names[:3]) + (", ..." if len(names) > 3 else "")
        notes.append(f"{len(names)} BatchNormalization kept, as {reason}: {listed}")
    return notes


def fold_channel_affine(model: ir.Model) -> list[str]:
    """Fold Add, Sub, Mul and Div by a constant per channel into the Conv, ConvTranspose or Gemm before, in place.

    Returns:
        Notes for the user: how many were folded.
    """
    taken = value_names(model)
    folded: Counter[str] = Counter()
    for graph in tuple(model.graphs()):
        for node in tuple(graph):
            if node.op_type not in ("Add", "Sub", "Mul", "Div") or node.domain != "":
                continue
            for port in (0, 1):
                linear = _linear_before(node, port)
                if linear is None or linear.op_type == "MatMul":
                    continue
                try:
                    affine = _affine_of(node, port, linear)
                    _apply(linear, affine, taken, loose=False)
                except _StaysError:
                    continue
                if (known := normal_of(linear.outputs[0])) is not None:
                    remember(linear.outputs[0], known.affine(affine.gain, affine.shift))
                absorb(linear.outputs[0], node)
                folded[f"{node.op_type} folded into {linear.op_type}"] += 1
                break
    return [f"{count} {what}" for what, count in folded.items()]


def _fold_batchnorm(node: ir.Node, taken: set[str]) -> str:
    """Fold `node` and return the operator that took it in, or raise _StaysError."""
    affine = _affine_of_batchnorm(node)
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    linear = _linear_before(node, 0)
    if linear is not None and linear.op_type == "MatMul":
        _apply(linear, _Affine(affine.gain, np.zeros(())), taken, loose=True, rank=_rank(node.inputs[0]))
        _become_add(node, affine.shift, linear, taken)
        return "MatMul"
    if linear is not None:
        _apply(linear, affine, taken, loose=True)
        gamma, beta = (constant(v).numpy().astype(np.float64) for v in node.inputs[1:3])  # type: ignore[union-attr]
        remember(linear.outputs[0], Normal(beta, np.abs(gamma)))
        absorb(linear.outputs[0], node)
        return linear.op_type
    if before is not None and before.op_type == "Add" and before.domain == "" and _single_use(before, node):
        return _fold_through_add(node, before, affine, taken)
    if before is None:
        raise _StaysError("an input of the graph comes before")
    if before.op_type in _LINEAR and before.domain == "":
        raise _StaysError(f"others read the result of the {before.op_type} before")
    raise _StaysError(f"{before.op_type} comes before")


def _fold_through_add(node: ir.Node, add: ir.Node, affine: _Affine, taken: set[str]) -> str:
    """Fold MatMul, Add of a constant, BatchNormalization: the Add keeps the place of a bias."""
    for port in (0, 1):
        linear, bias = _linear_before(add, port), constant(add.inputs[1 - port])
        if linear is None or linear.op_type != "MatMul" or bias is None:
            continue
        added = bias.numpy().astype(np.float64)
        if (
            added.ndim > 2
            or added.size not in (1, affine.gain.size)
            or added.shape[-1:] not in ((), (1,), affine.gain.shape)
        ):
            continue
        shift = added * affine.gain + affine.shift
        if shift.shape[-1:] != affine.gain.shape or shift.size != affine.gain.size:
            continue
        rounded = _rounded(shift, bias.numpy().dtype, np.inf, shift.shape)
        _apply(linear, _Affine(affine.gain, np.zeros(())), taken, loose=True, rank=_rank(node.inputs[0]))
        _store(add, 1 - port, rounded, taken)
        absorb(add.outputs[0], node)
        return "MatMul"
    raise _StaysError("Add comes before")


def _become_add(node: ir.Node, shift: Floats, linear: ir.Node, taken: set[str]) -> None:
    """Put an Add of `shift` in place of the BatchNormalization `node`, under its name."""
    weight = constant(linear.inputs[1])
    assert weight is not None
    assert node.graph is not None
    rounded = _rounded(shift, weight.numpy().dtype, np.inf, shift.shape)
    name = unused(f"{node.name}_shift", taken)
    value = add_initializer(node.graph, name, ir.Tensor(rounded, dtype=weight.dtype, name=name))
    add = ir.node("Add", [node.inputs[0], value], name=node.name, metadata_props=dict(node.metadata_props))
    node.graph.insert_before(node, add)
    absorb(add.outputs[0], node)


def _affine_of_batchnorm(node: ir.Node) -> _Affine:
    if node.attributes.get_int("training_mode", 0) or any(output.name for output in node.outputs[1:]):
        raise _StaysError("it is in training mode")
    if node.attributes.get_int("spatial", 1) != 1:
        raise _StaysError("it normalizes each position by itself (spatial=0)")
    tensors = [constant(value) for value in node.inputs[1:5]]
    scale, bias, mean, var = (None if t is None else t.numpy().astype(np.float64) for t in tensors)
    if scale is None or bias is None or mean is None or var is None:
        raise _StaysError("its parameters are not constants")
    with np.errstate(all="ignore"):
        gain = scale / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
        shift = bias - gain * mean
    if not (np.isfinite(gain).all() and np.isfinite(shift).all()):
        raise _StaysError("its parameters are not finite, or a variance is negative")
    return _Affine(gain, shift)


def _affine_of(node: ir.Node, port: int, linear: ir.Node) -> _Affine:
    """Read `node`, whose input `port` is the result of `linear`, as gain and shift."""
    tensor, weight = constant(node.inputs[1 - port]), constant(linear.inputs[1])
    if tensor is None or weight is None:
        raise _StaysError("its operand is no constant")
    rank = len(weight.shape)
    channels = _channels(linear, tuple(weight.shape.numpy()))
    dims = tuple(tensor.shape.numpy())
    aligned = (1,) * (rank - len(dims)) + dims
    if len(aligned) != rank or aligned[1] not in (1, channels) or any(d != 1 for d in aligned[:1] + aligned[2:]):
        raise _StaysError("its operand is not one number per channel")
    operand: Floats = tensor.numpy().astype(np.float64).reshape(-1)
    if operand.size != channels:
        operand = operand.reshape(())
    one, zero = np.ones(()), np.zeros(())
    with np.errstate(all="ignore"):
        match node.op_type, port:
            case "Add", _:
                return _Affine(one, operand)
            case "Sub", 0:
                return _Affine(one, -operand)
            case "Sub", 1:
                return _Affine(-one, operand)
            case "Mul", _:
                return _Affine(operand, zero)
            case "Div", 0:
                return _Affine(1 / operand, zero)
    raise _StaysError("a constant divided by a result is not linear")


def _linear_before(node: ir.Node, port: int) -> ir.Node | None:
    """Return the linear layer whose result only `node` reads, at `port`."""
    value = node.inputs[port]
    before = value.producer() if value is not None else None
    if before is None or before.op_type not in _LINEAR or before.domain != "" or not _single_use(before, node):
        return None
    return before


def _single_use(before: ir.Node, node: ir.Node) -> bool:
    value = before.outputs[0]
    return len(value.uses()) == 1 and not value.is_graph_output() and before.graph is node.graph


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _channels(linear: ir.Node, shape: tuple[int, ...]) -> int:
    match linear.op_type:
        case "Conv":
            return shape[0]
        case "ConvTranspose":
            return shape[1] * linear.attributes.get_int("group", 1)
        case "Gemm" if linear.attributes.get_int("transB", 0):
            return shape[0]
        case _:
            return shape[1]


def by_channel(linear: ir.Node, gain: Floats, shape: tuple[int, ...]) -> Floats:
    """Spread `gain`, shape (C,) or (), over a weight of `shape`, so that it broadcasts."""
    if gain.ndim == 0:
        return gain
    match linear.op_type:
        case "Conv":
            return gain.reshape(-1, *(1,) * (len(shape) - 1))
        case "ConvTranspose":
            group = linear.attributes.get_int("group", 1)
            rows = np.repeat(gain.reshape(group, -1), shape[0] // group, axis=0)
            return rows.reshape(shape[0], shape[1], *(1,) * (len(shape) - 2))
        case "Gemm" if linear.attributes.get_int("transB", 0):
            return gain.reshape(-1, 1)
        case _:
            return gain


def _apply(linear: ir.Node, affine: _Affine, taken: set[str], *, loose: bool, rank: int | None = 2) -> None:
    """Multiply the weight of `linear` by gain and shift its bias, or raise _StaysError and change nothing.

    `loose` allows one unit of the weight's type as rounding error; `rank` is that of a MatMul's result.
    """
    tensor = constant(linear.inputs[1])
    if tensor is None:
        raise _StaysError(f"the weight of the {linear.op_type} before is not a constant")
    weight, shape = tensor.numpy(), tuple(tensor.shape.numpy())
    if tensor.dtype not in _UNIT:
        raise _StaysError(f"the {linear.op_type} before is not a float layer")
    if linear.op_type == "MatMul" and (rank != 2 or len(shape) != 2):
        raise _StaysError("the MatMul before is not of rank 2")
    channels = _channels(linear, shape)
    if affine.gain.size not in (1, channels) or affine.shift.size not in (1, channels):
        raise _StaysError(f"the {linear.op_type} before has another number of channels")
    bias = None if linear.op_type == "MatMul" else _bias(linear, affine, channels, weight.dtype)
    if affine.gain.ndim or affine.gain != 1:
        spread = by_channel(linear, affine.gain, shape)
        tolerance = max(EXACT, _UNIT[tensor.dtype]) if loose else EXACT
        _store(linear, 1, _rounded(weight.astype(np.float64) * spread, weight.dtype, tolerance, spread.shape), taken)
    if bias is not None:
        _store(linear, 2, bias, taken)
        if "beta" in linear.attributes:
            linear.attributes["beta"] = ir.AttrFloat32("beta", 1.0)


def _bias(linear: ir.Node, affine: _Affine, channels: int, dtype: np.dtype[np.generic]) -> Array | None:
    """Return the new bias, or None if there was none and none is needed: a shift by channel may move in training."""
    value = linear.inputs[2] if len(linear.inputs) > 2 else None
    if value is None:
        if affine.shift.ndim == 0 and not affine.shift.any():
            return None
        return _rounded(np.broadcast_to(affine.shift, (channels,)), dtype, np.inf, (channels,))
    tensor = constant(value)
    if tensor is None:
        raise _StaysError(f"the bias of the {linear.op_type} before is not a constant")
    beta = linear.attributes.get_float("beta", 1.0)
    bias = tensor.numpy().astype(np.float64) * beta * affine.gain + affine.shift
    return _rounded(bias, dtype, np.inf, bias.shape)


def _rounded(exact: Floats, dtype: np.dtype[np.generic], tolerance: float, channels: tuple[int, ...]) -> Array:
    """Round `exact` to `dtype`; the error may be `tolerance` of the largest in each channel, as `channels` spreads."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(dtype)
        if not np.isfinite(rounded.astype(np.float64)).all():
            raise _StaysError("the folded weights would overflow")
        if np.isfinite(tolerance):
            aligned = (1,) * (exact.ndim - len(channels)) + channels
            axes = tuple(axis for axis in range(exact.ndim) if aligned[axis] == 1)
            largest = np.abs(exact).max(axis=axes, keepdims=True, initial=0)
            if (np.abs(rounded.astype(np.float64) - exact) > tolerance * largest).any():
                raise _StaysError("the folded weights would lose precision")
    return np.asarray(rounded, order="C")


def _store(node: ir.Node, port: int, array: Array, taken: set[str]) -> None:
    """Let input `port` of `node` be a constant that holds `array`, without changing it for any other reader."""
    if port >= len(node.inputs):
        node.resize_inputs(port + 1)
    value = node.inputs[port]
    if value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        value.const_value = ir.Tensor(array, name=value.name)
        value.shape = ir.Shape(array.shape)
        return
    weight = node.inputs[1]
    base = value.name if value is not None else f"{weight.name}_bias" if weight is not None else ""
    name = unused(base or f"{node.name}_{port}", taken)
    assert node.graph is not None
    node.replace_input_with(port, add_initializer(node.graph, name, ir.Tensor(array, name=name)))
