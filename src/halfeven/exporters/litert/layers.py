"""Layers: convolutions and matrix products.

    ONNX                             LiteRT               weight                      scales along
    Conv, groups 1 or more           CONV_2D              (O, R, S, C / groups)       0
    Conv, a channel a group          DEPTHWISE_CONV_2D    (1, R, S, O)                3
    Conv of one dimension            the same with a height of 1
    ConvTranspose                    TRANSPOSE_CONV       (O, R, S, C)                0
    Gemm, MatMul by a constant       FULLY_CONNECTED      (O, K)                      0
    MatMul of two values             BATCH_MATMUL

Weights are int8, or int4 where the plan has 4 bits. A bias is int32 (int64 beside 16-bit activations) of scale
input * weight, and always written, as zeros if need be. Pads of a convolution are those of `windows`; of TRANSPOSE_CONV
the output is made whole and then cut.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from halfeven.exporters.litert.builder import NONE, Builder
from halfeven.exporters.litert.flatbuffer import FileTensor
from halfeven.exporters.litert.layout import Order, channels_last, plain, still
from halfeven.exporters.litert.windows import VALID, FixedLengthError, close_window, ints, refuse, taller, text, window
from halfeven.graph.network import Op, Tensor

Array = npt.NDArray[np.generic]


# ------------------------------------------------------------------------------------------- convolutions


def conv(b: Builder, op: Op) -> None:
    """Conv."""
    x, weight = op.inputs[0], op.inputs[1]
    assert x is not None
    assert weight is not None
    array = _constant(op, weight)
    n, groups = array.ndim - 2, int(op.attributes.get("group", 1))
    if n not in (1, 2):
        raise refuse(op, f"it has {n} spatial dimensions; LiteRT's integer and mobile kernels have one or two.")
    wire = b.operand(x, channels_last(n + 2))
    out = b.dims(op.outputs[0])
    index, fields = window(b, op, wire, array.shape[2:], out.sizes[2:])
    if n == 1:
        index, array = taller(b, index), array[:, :, None]
    depthwise = groups > 1 and array.shape[1] == 1 and groups == wire.dims.sizes[1]
    axes: Order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    stored = array.transpose(axes)
    place = 3 if depthwise else 0
    inputs = [index, _weight(b, op, weight, stored, place), _bias(b, op, index, weight, array.shape[0])]
    fields["fusedActivationFunction"] = NONE
    code, options = "CONV_2D", "Conv2DOptions"
    if depthwise:
        code, options = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
        fields["depthMultiplier"] = array.shape[0] // groups
    close_window(b, op, code, inputs, options, fields, flat=n == 1)


def conv_transpose(b: Builder, op: Op) -> None:
    """ConvTranspose: the whole output, then cut by the pads."""
    x, weight = op.inputs[0], op.inputs[1]
    assert x is not None
    assert weight is not None
    array = _constant(op, weight)
    n = array.ndim - 2
    if n != 2 or int(op.attributes.get("group", 1)) != 1 or set(ints(op, "dilations", [1] * n)) != {1}:
        raise refuse(op, "LiteRT has TRANSPOSE_CONV of two dimensions, without groups and without dilations only.")
    wire, out = b.operand(x, channels_last(4)), b.dims(op.outputs[0])
    if wire.dims.open is not None:
        raise FixedLengthError(f"{op.kind} '{op.name}'")
    strides, kernel = ints(op, "strides", [1, 1]), array.shape[2:]
    whole = [(i - 1) * s + k for i, s, k in zip(wire.dims.sizes[2:], strides, kernel, strict=True)]
    starts = _starts(op, wire.dims.sizes[2:], out.sizes[2:], kernel, strides)
    ends = [s + o for s, o in zip(starts, out.sizes[2:], strict=True)]
    reach = [max(w, e) for w, e in zip(whole, ends, strict=True)]
    stored = array.transpose(1, 2, 3, 0)
    bias = _bias(b, op, wire.index, weight, array.shape[1])
    cut = reach != list(out.sizes[2:])
    shape = (out.sizes[0], *reach, out.sizes[1])
    inputs = [b.numbers(shape, "output_shape"), _weight(b, op, weight, stored, 0), wire.index, bias]
    fields = {"padding": VALID, "strideH": strides[0], "strideW": strides[1], "fusedActivationFunction": NONE}
    order = channels_last(4)
    if not cut:
        b.close(op, "TRANSPOSE_CONV", inputs, order, "TransposeConvOptions", **fields)
        return
    tall = replace(op.outputs[0], name=b.name(f"{op.outputs[0].name}_whole"), shape=(shape[0], shape[3], *reach))
    b.close(replace(op, outputs=(tall,)), "TRANSPOSE_CONV", inputs, order, "TransposeConvOptions", **fields)
    made = b.output(op.outputs[0], order)
    begin, size = b.numbers([0, *starts, 0], "begin"), b.numbers(b.tensors[made].shape, "size")
    b.emit("SLICE", [b.wires[tall.name].index, begin, size], [made], "SliceOptions")


def _starts(
    op: Op, sizes: Sequence[int], out: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """How much is cut off in front, by `pads` or by what `output_shape` and `auto_pad` ask for."""
    auto = text(op, "auto_pad", "NOTSET")
    if auto == "NOTSET" and not op.attributes.get("output_shape"):
        return ints(op, "pads", [0] * 4)[:2]
    extra = ints(op, "output_padding", [0, 0])
    totals = [s * (i - 1) + e + k - o for s, i, e, k, o in zip(strides, sizes, extra, kernel, out, strict=True)]
    return [max(t, 0) - max(t, 0) // 2 if auto == "SAME_LOWER" else max(t, 0) // 2 for t in totals]


# --------------------------------------------------------------------------------------- weights and biases


def _constant(op: Op, weight: Tensor) -> Array:
    if weight.data is None:
        raise refuse(op, "its weights are computed at run time; LiteRT's kernels need constants.")
    return weight.data


def _weight(b: Builder, op: Op, weight: Tensor, stored: Array, place: int) -> int:
    """The weight in LiteRT's order; of a layer on real numbers its codes, made real in front unless it is hybrid."""
    if weight.params is None:
        return b.constant(np.asarray(stored, np.float32), weight.name)
    bits = weight.params.scheme.grid.bits
    if weight.params.zero_point.any() or stored.dtype.name not in ("int8", "int4"):
        found = weight.params.scheme
        raise refuse(op, f"its weights '{weight.name}' are {found}; LiteRT takes symmetric int8 or int4.")
    scale = weight.params.scale.ravel()
    if scale.size not in (1, stored.shape[place]):
        raise refuse(op, f"its weights '{weight.name}' are in blocks; LiteRT takes a scale for each output channel.")
    zero = np.zeros(scale.shape, np.int64)
    index = b.constant(stored.astype(np.int8, copy=False), weight.name, scale, zero, place, bits=bits)
    if op.inputs[0] is not None and not op.inputs[0].coded and not b.hybrid:
        return dequantized(b, index)
    return index


def dequantized(b: Builder, index: int) -> int:
    """A tensor of codes made real, once for all that read it."""
    if index not in b.real:
        found = b.tensors[index]
        b.real[index] = b.tensor(f"{found.name}_real", found.shape, FileTensor("", (), "float32"), found.open)
        b.emit("DEQUANTIZE", [index], [b.real[index]], "DequantizeOptions")
    return b.real[index]


def _bias(b: Builder, op: Op, index: int, weight: Tensor, channels: int) -> int:
    """The bias: float for a layer on real numbers, else int32 or int64 of scale input * weight."""
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    data = None if bias is None else bias.data
    if bias is not None and data is None:
        raise refuse(op, "its bias is computed at run time; LiteRT's kernels need a constant.")
    if op.inputs[0] is None or not op.inputs[0].coded:
        real = np.zeros(channels, np.float32) if data is None else np.asarray(data, np.float32).ravel()
        return b.constant(np.broadcast_to(real, (channels,)), f"{op.name}_bias" if bias is None else bias.name)
    assert weight.params is not None
    source = b.tensors[index]
    assert source.scale is not None
    scale = (source.scale.ravel()[0] * weight.params.scale.ravel()).astype(np.float32)
    dtype = np.int64 if source.dtype == "int16" else np.int32
    codes = np.zeros(channels, dtype) if data is None else np.asarray(data).ravel()
    if bias is not None and not bias.coded and data is not None:
        codes = np.rint(codes.astype(np.float64) / scale.astype(np.float64))
    codes = np.broadcast_to(codes.astype(dtype), (channels,))
    return b.constant(codes, f"{op.name}_bias" if bias is None else bias.name, scale, np.zeros(scale.size, np.int64))


# ----------------------------------------------------------------------------------------- matrix products


def matmul(b: Builder, op: Op) -> None:
    """Gemm and MatMul."""
    x, weight = op.inputs[0], op.inputs[1]
    assert x is not None
    assert weight is not None
    if weight.constant is not None and len(weight.constant.shape) == 2:
        _fully_connected(b, op, x, weight)
    else:
        if op.kind == "Gemm":
            raise refuse(op, "LiteRT multiplies by a constant matrix, or has BATCH_MATMUL without a bias.")
        _batch_matmul(b, op, x, weight)


def _fully_connected(b: Builder, op: Op, x: Tensor, weight: Tensor) -> None:
    array = _constant(op, weight)
    alpha, beta = (float(op.attributes.get(k, 1.0)) for k in ("alpha", "beta"))
    if op.attributes.get("transA", 0) or ((alpha, beta) != (1.0, 1.0) and op.inputs[0] is not None and x.coded):
        raise refuse(op, "LiteRT's FULLY_CONNECTED has no transA, alpha or beta.")
    stored = array if op.attributes.get("transB", 0) else array.T
    if x.name in b.columns:
        wire = b.wires[x.name]
        stored = stored[:, b.columns[x.name]]
    else:
        wire = b.operand(x, plain(b.dims(x).rank))
    if alpha != 1.0:
        stored = np.asarray(stored, np.float32) * np.float32(alpha)
    out = b.dims(op.outputs[0])
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    channels = stored.shape[0]
    if beta != 1.0 and bias is not None and bias.data is not None:
        scaled = np.asarray(bias.values, np.float32) * np.float32(beta)
        inputs = [wire.index, _weight(b, op, weight, stored, 0), b.constant(scaled.ravel(), bias.name)]
    else:
        inputs = [wire.index, _weight(b, op, weight, stored, 0), _bias(b, op, wire.index, weight, channels)]
    fields = {"fusedActivationFunction": NONE, "keepNumDims": out.rank > 2}
    b.close(op, "FULLY_CONNECTED", inputs, plain(out.rank), "FullyConnectedOptions", **fields)


def _batch_matmul(b: Builder, op: Op, x: Tensor, y: Tensor) -> None:
    """Both operands with the rank of the output; a swap of the last two axes is a flag."""
    rank = b.dims(op.outputs[0]).rank
    if min(b.dims(t).rank for t in (x, y)) < 2 or rank > 5:
        raise refuse(op, "LiteRT's BATCH_MATMUL takes operands of two to five dimensions.")
    wires, flags = [], []
    for port, tensor in enumerate((x, y)):
        turned = _turned(b, tensor, rank, moved=port == 1 and tensor.coded)
        wires.append(b.operand(tensor, _swapped(rank) if turned else plain(rank)))
        flags.append(turned)
    indices = [w.index for w in wires]
    if indices and not x.coded:
        indices = [dequantized(b, i) if b.tensors[i].scale is not None else i for i in indices]
    if y.params is not None and y.params.zero_point.any() and x.coded:
        b.shifted.append(b.where)
    fields = {"adjX": flags[0], "adjY": flags[1]}
    b.close(op, "BATCH_MATMUL", indices, plain(rank), "BatchMatMulOptions", **fields)


def _swapped(rank: int) -> Order:
    """The last two axes change places."""
    return (*range(rank - 2), rank - 1, rank - 2)


def _turned(b: Builder, tensor: Tensor, rank: int, *, moved: bool) -> bool:
    """Whether an operand is read with its last two axes swapped: it lies so, or, if `moved`, is transposed anyway.

    Codes whose sums run along the last axis are what XNNPACK packs fastest, in half the time.
    """
    if tensor.constant is not None or b.dims(tensor).rank < rank:
        return False
    wire = b.wires[tensor.name]
    return wire.order == _swapped(rank) or (moved and not still(wire.dims, wire.order, plain(rank)))
