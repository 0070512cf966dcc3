"""Forms: which operators of a network have an int8 kernel in ExecuTorch's XNNPACK backend, and why others have none.

An operator on codes has one if each quantize and dequantize pair around it is taken into it by the backend's
partitioner (`halfeven.targets.executorch` lists them), and its attributes are those of the kernel:

    Conv             one or two dimensions; weights with one scale, or one for each output channel
    ConvTranspose    two dimensions; in groups only with one scale for all
    Gemm, MatMul     by a constant matrix; Gemm with alpha and beta 1, its data not transposed
    Add, Sub, Mul    two tensors of codes, or one and one number
    Div              by one number, as the product with its reciprocal
    MaxPool          of pictures, the same padding on both sides, strides within the window
    means            over the two axes of pictures
    Slice            without steps

All others compute in real numbers between a dequantization and a quantization. Source: executorch 1.5.1,
backends/xnnpack/partition/config/gemm_configs.py and generic_node_configs.py; tried.
"""

from collections.abc import Callable, Mapping

import numpy as np

from halfeven.graph.network import Op, Tensor
from halfeven.numerics.grid import IntGrid

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
SHAPED = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
MOVERS = frozenset({*SHAPED, "Transpose", "Slice", "Split", "Concat", "MaxPool", "Pad"})
"""Operators whose codes keep their scale."""
CLAMPS = frozenset({"Relu", "Clip"})
MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
PAIRS = frozenset({"Add", "Sub", "Mul"})


def why_float(op: Op) -> str:
    """Why an operator that goes from codes to codes has no int8 kernel; empty when it has one."""
    if op.domain not in ("", "ai.onnx"):
        return f"'{op.domain}' is a domain of its own"
    if op.kind in LAYERS:
        return _weight(op) or (_LAYERS[op.kind](op) if op.kind in _LAYERS else "")
    if op.kind in PAIRS:
        fits = all(t is not None and (t.coded or number_of(t) is not None) for t in op.inputs)
        return "" if fits else "the other operand is in real numbers"
    if op.kind in MOVERS | CLAMPS and (why := _unmoved(op)):
        return why
    if op.kind in _OTHERS:
        return _OTHERS[op.kind](op)
    return "" if op.kind in MOVERS | CLAMPS else f"XNNPACK's backend has no int8 kernel for {op.kind}"


def moved(op: Op) -> tuple[Tensor | None, ...]:
    """The inputs that hold what an operator moves."""
    return op.inputs if op.kind == "Concat" else op.inputs[:1]


def _unmoved(op: Op) -> str:
    """Why a mover or clamp cannot keep to codes: what it moves, or a shape, places or bounds that are no constants."""
    if not all(t is None or t.coded for t in moved(op)):
        return "not all it moves are codes"
    settings = op.inputs[len(moved(op)) :]
    return "" if all(t is None or t.constant is not None for t in settings) else "its settings are computed"


def number_of(tensor: Tensor | None) -> float | None:
    """The one number that a constant holds, neither zero nor infinite; None of all else."""
    values = None if tensor is None else tensor.values
    if values is None or values.size != 1 or values.dtype.kind != "f":
        return None
    number = float(values.ravel()[0])
    return number if np.isfinite(number) and number else None


def rank_of(tensor: Tensor | None) -> int:
    """The number of axes; -1 where it is not known."""
    return -1 if tensor is None or tensor.shape is None else len(tensor.shape)


def sizes_of(tensor: Tensor | None) -> tuple[int, ...]:
    """The lengths of the axes of a value whose shape is settled."""
    shape = () if tensor is None or tensor.shape is None else tensor.shape
    return tuple(d for d in shape if isinstance(d, int))


def channel_axis(op: Op) -> int:
    """The axis of a layer's weight, as ONNX holds it, along which its outputs lie."""
    if op.kind == "Gemm":
        return 0 if op.attributes.get("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}[op.kind]


def same_params(a: Tensor, b: Tensor) -> bool:
    """Whether codes of both mean the same."""
    assert a.params is not None
    assert b.params is not None
    scales = np.array_equal(a.params.scale.ravel(), b.params.scale.ravel())
    return scales and bool(np.array_equal(a.params.zero_point.ravel(), b.params.zero_point.ravel()))


def is_int8(tensor: Tensor) -> bool:
    """Whether it holds signed codes of at most 8 bits, with one scale."""
    params = tensor.params
    grid = None if params is None else params.scheme.grid
    return (
        isinstance(grid, IntGrid) and grid.signed and grid.bits <= 8 and params is not None and params.scale.size == 1
    )


def _weight(op: Op) -> str:
    data, weight = op.inputs[0], op.inputs[1]
    if data is None or not data.coded or weight is None or weight.constant is None or weight.params is None:
        return "its weight is no constant of codes"
    params, axis = weight.params, channel_axis(op)
    grid = params.scheme.grid
    if grid.bits > 8 or not grid.signed or params.zero_point.any():
        return f"its weight is {grid}, not int8 around 0"
    shape = weight.constant.shape.numpy()
    channels = [1] * len(shape)
    channels[axis] = shape[axis]
    if params.scale.size != 1 and tuple(params.scale.shape) != tuple(channels):
        return "its weight has scales other than one for each output channel"
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    return "" if bias is None or bias.constant is not None else "its bias is computed"


def _conv(op: Op) -> str:
    return "" if rank_of(op.inputs[0]) in (3, 4) else "XNNPACK convolves over one or two axes"


def _transposed(op: Op) -> str:
    if rank_of(op.inputs[0]) != 4:
        return "XNNPACK's transposed convolution is over two axes"
    weight = op.inputs[1]
    assert weight is not None
    assert weight.params is not None
    grouped = int(op.attributes.get("group", 1)) > 1 and weight.params.scale.size > 1
    if grouped or "output_shape" in op.attributes or op.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return "its groups have several scales" if grouped else "its pads follow from its output's shape"
    return ""


def _product(op: Op) -> str:
    weight = op.inputs[1]
    assert weight is not None
    if weight.constant is None or len(weight.constant.shape) != 2:
        return "its weight is no matrix"
    scaled = op.attributes.get("alpha", 1.0) != 1.0 or op.attributes.get("beta", 1.0) != 1.0
    if scaled or op.attributes.get("transA", 0):
        return "it scales or transposes its operands"
    bias, count = op.inputs[2] if len(op.inputs) > 2 else None, weight.constant.shape.numpy()[channel_axis(op)]
    fits = bias is None or bias.constant is None or tuple(bias.constant.shape.numpy()) in ((count,), (1, count))
    return "" if fits else "its bias is not one number for each output"


_LAYERS: Mapping[str, Callable[[Op], str]] = {
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Gemm": _product,
    "MatMul": _product,
}


def _divided(op: Op) -> str:
    data = op.inputs[0]
    fits = data is not None and data.coded and number_of(op.inputs[1]) is not None
    return "" if fits else "XNNPACK divides codes by nothing but one number"


def _mean(op: Op) -> str:
    axes = op.attributes.get("axes", ())
    if op.kind == "ReduceMean" and len(op.inputs) > 1 and op.inputs[1] is not None and op.inputs[1].data is not None:
        axes = op.inputs[1].data.ravel().tolist()
    pictures = rank_of(op.inputs[0]) == 4 and (op.kind != "ReduceMean" or sorted(int(a) % 4 for a in axes) == [2, 3])
    return "" if pictures else "XNNPACK's backend has means in int8 over the two axes of pictures only"


def _pool(op: Op) -> str:
    pads, kernel = list(op.attributes.get("pads", (0,) * 4)), list(op.attributes["kernel_shape"])
    strides = list(op.attributes.get("strides", (1,) * len(kernel)))
    plain = rank_of(op.inputs[0]) == 4 and len(op.outputs) == 1 and not op.attributes.get("ceil_mode", 0)
    plain = plain and op.attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and pads[:2] == pads[2:]
    return (
        "" if plain and all(s <= k for s, k in zip(strides, kernel, strict=True)) else "its windows are not XNNPACK's"
    )


def _slice(op: Op) -> str:
    if len(op.inputs) < 5 or op.inputs[4] is None:
        return ""
    steps = op.inputs[4].data
    return "" if steps is not None and (steps == 1).all() else "XNNPACK slices without steps"


def _pad(op: Op) -> str:
    mode, value = op.attributes.get("mode", "constant"), op.inputs[2] if len(op.inputs) > 2 else None
    filled = value is not None and (value.values is None or value.values.any())
    return "" if mode in ("constant", b"constant") and not filled else "it fills with something else than zero"


_OTHERS: Mapping[str, Callable[[Op], str]] = {
    "Div": _divided,
    **dict.fromkeys(MEANS, _mean),
    "MaxPool": _pool,
    "Slice": _slice,
    "Pad": _pad,
}
