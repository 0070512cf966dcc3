"""Layers with weights, and pools.

    .tflite                                     ONNX                          weights as ONNX wants them
    CONV_2D            weights O,H,W,I          Conv, group = C / I           O,I,H,W
    DEPTHWISE_CONV_2D  weights 1,H,W,C*m        Conv, group = C               C*m,1,H,W
    TRANSPOSE_CONV     weights O,H,W,I          ConvTranspose                 I,O,H,W
                       so the custom Convolution2DTransposeBias of MediaPipe
    FULLY_CONNECTED    weights O,I              Gemm(transB), or MatMul + Add where float rows keep their axes
    BATCH_MATMUL                                MatMul
    AVERAGE_POOL_2D    padding is not counted   AveragePool
    MAX_POOL_2D                                 MaxPool

Padding SAME gives ceil(size / stride) places: total = max((places - 1) * stride + (kernel - 1) * dilation + 1 - size,
0), the smaller half before. It is written as numbers, or as auto_pad SAME_UPPER where the size is open.
TRANSPOSE_CONV pads as the convolution that it turns round; what the pads leave missing at the end is output_padding.
Sources: tensorflow/lite/kernels/padding.h, internal/reference/*.h; the ONNX operators.
"""

import struct
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph import ops
from halfeven.importers.litert.builder import Builder
from halfeven.importers.litert.contents import Operator
from halfeven.importers.litert.tensors import BIASES

SAME, VALID = 0, 1
CUSTOM_OPTIONS = struct.Struct("<3i")


def convolution(b: Builder, op: Operator) -> None:
    """CONV_2D and DEPTHWISE_CONV_2D."""
    source, weight = b.tensors[op.input(0)], b.tensors[op.input(1)]
    depthwise = op.kind == "DEPTHWISE_CONV_2D"
    (_, height, width, channels), (_, *kernel, inner) = _four(b, op, source.dims), _four(b, op, weight.dims)
    if channels is None or inner is None or (channels % inner and not depthwise):
        raise UnsupportedModel(f"{b.contents.where}: {b.label} has {channels} channels and weights for {inner}.")
    group = channels if depthwise else channels // inner
    dilations = [op.option("dilation_h"), op.option("dilation_w")]
    out = b.call(
        "Conv",
        b.read(source.index, first=True),
        b.turned(weight.index, (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)),
        bias(b, op, 2),
        group=group,
        dilations=dilations,
        **_windows(b, op, (height, width), kernel, dilations),
    )
    node = out.producer()
    assert node is not None
    node.metadata_props[ops.LITERT_KIND] = op.kind
    b.give(op.output(), out, first=True, activation=op.option("activation"))


def transposed_convolution(b: Builder, op: Operator) -> None:
    """TRANSPOSE_CONV: inputs are shape, weights, data and perhaps a bias."""
    shape = b.data(op.input(0))
    dims = b.tensors[op.output()].dims if shape is None else tuple(int(n) for n in shape.ravel())
    strides = [op.option("stride_h"), op.option("stride_w")]
    value = _turned_round(b, op, (2, 1, 3), dims, strides)
    b.give(op.output(), value, first=True, activation=op.option("activation"))


def transposed_convolution_of_mediapipe(b: Builder, op: Operator) -> None:
    """The custom Convolution2DTransposeBias: inputs are data, weights and bias; options int32 padding, strides w, h."""
    if len(op.custom) < CUSTOM_OPTIONS.size:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} has {len(op.custom)} bytes of options, 12 are needed.")
    _, stride_w, stride_h = CUSTOM_OPTIONS.unpack_from(op.custom)
    value = _turned_round(b, op, (0, 1, 2), b.tensors[op.output()].dims, [stride_h, stride_w])
    b.give(op.output(), value, first=True)


def _turned_round(
    b: Builder, op: Operator, ports: tuple[int, int, int], dims: tuple[int | None, ...], strides: list[int]
) -> ir.Value:
    """A ConvTranspose whose data, weights and bias are at `ports`, to the shape `dims` of the file."""
    source, weight = b.tensors[op.input(ports[0])], b.tensors[op.input(ports[1])]
    (_, *sizes, _), (_, *kernel, _) = _four(b, op, source.dims), _four(b, op, weight.dims)
    (_, *wanted, _) = _four(b, op, dims)
    before, after, extra = [], [], []
    for size, out, k, stride in zip(sizes, wanted, kernel, _positive(b, strides), strict=True):
        if size is None or out is None or k is None:
            raise UnsupportedModel(f"{b.contents.where}: {b.label} has an open size, which cannot be imported.")
        surplus = (size - 1) * stride + k - out
        pad = max(surplus, 0)
        before.append(pad // 2)
        after.append(pad - pad // 2)
        extra.append(max(-surplus, 0))
    return b.call(
        "ConvTranspose",
        b.read(source.index, first=True),
        b.turned(weight.index, (3, 0, 1, 2)),
        bias(b, op, ports[2]),
        kernel_shape=kernel,
        strides=strides,
        pads=[*before, *after],
        output_padding=extra if any(extra) else None,
    )


def fully_connected(b: Builder, op: Operator) -> None:
    """FULLY_CONNECTED: rows of the last axis times the weights."""
    source, weight, out = b.tensors[op.input(0)], b.tensors[op.input(1)], op.output()
    if op.option("format"):
        raise UnsupportedModel(f"{b.contents.where}: {b.label} keeps its weights shuffled, which cannot be imported.")
    activation, inner = op.option("activation"), weight.dims[-1]
    if weight.rank != 2 or inner is None:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} has weights of shape {list(weight.dims)}.")
    keep = bool(op.option("keep_dims")) and source.rank != 2
    if keep and not source.coded:
        value = b.call("MatMul", b.read(source.index), b.turned(weight.index, (1, 0)))
        addend = bias(b, op, 2)
        b.give(out, value if addend is None else b.call("Add", value, addend), activation=activation)
        return
    rows = b.read(source.index)
    if source.rank != 2 or source.dims[-1] != inner:
        rows = b.coded(b.call("Reshape", rows, b.small([-1, inner])), source)
    value = b.call(
        "Gemm",
        rows,
        b.constant(weight.index) if weight.data is not None else b.read(weight.index),
        bias(b, op, 2),
        transB=1,
    )
    if keep:
        value = b.coded(b.activated(value, activation), b.tensors[out])
        activation, dims = 0, [-1 if d is None else d for d in b.tensors[out].dims]
        value = b.call("Reshape", value, b.small(dims))
    b.give(out, value, activation=activation)


def matrix_product(b: Builder, op: Operator) -> None:
    """BATCH_MATMUL: products of the matrices in the last two axes."""
    operands = []
    for port, adjoint in ((0, op.option("adj_x")), (1, op.option("adj_y"))):
        tensor = b.tensors[op.input(port)]
        order = (*range(tensor.rank - 2), tensor.rank - 1, tensor.rank - 2)
        if not adjoint:
            operands.append(b.read(tensor.index))
        elif tensor.data is not None:
            operands.append(b.turned(tensor.index, order))
        else:
            operands.append(b.coded(b.call("Transpose", b.read(tensor.index), perm=order), tensor))
    b.give(op.output(), b.call("MatMul", *operands))


def pool(b: Builder, op: Operator) -> None:
    """AVERAGE_POOL_2D and MAX_POOL_2D."""
    (_, height, width, _) = _four(b, op, b.tensors[op.input(0)].dims)
    kernel = _positive(b, [op.option("height"), op.option("width")])
    value = b.call(
        "MaxPool" if op.kind == "MAX_POOL_2D" else "AveragePool",
        b.read(op.input(0), first=True),
        **_windows(b, op, (height, width), kernel, [1, 1]),
    )
    if op.option("activation"):
        value = b.coded(value, b.tensors[op.input(0)])
    b.give(op.output(), value, first=True, activation=op.option("activation"))


def bias(b: Builder, op: Operator, port: int) -> ir.Value | None:
    """The bias at a port: real numbers, or int32 codes behind a DequantizeLinear."""
    if not op.has(port):
        return None
    tensor = b.tensors[op.input(port)]
    if tensor.data is not None and tensor.dtype in BIASES and tensor.quantization is None:
        raise UnsupportedModel(f"{b.contents.where}: the bias '{tensor.name}' of {b.label} has codes but no scale.")
    if tensor.data is None or tensor.rank == 1:
        return b.read(tensor.index)
    return b.constant(tensor.index, np.ravel, lambda _: 0, "flat")


def _windows(
    b: Builder, op: Operator, sizes: tuple[int | None, ...], kernel: list[int | None] | list[int], dilations: list[int]
) -> dict[str, Any]:
    """Kernel, strides and padding as attributes."""
    strides = _positive(b, [op.option("stride_h"), op.option("stride_w")])
    lengths = _positive(b, [k or 0 for k in kernel])
    found: dict[str, Any] = {"kernel_shape": lengths, "strides": strides}
    if op.option("padding") == VALID:
        return {**found, "pads": [0, 0, 0, 0]}
    if None in sizes:
        return {**found, "auto_pad": "SAME_UPPER"}
    totals = [
        max((-(-(size or 0) // s) - 1) * s + (k - 1) * d + 1 - (size or 0), 0)
        for size, k, s, d in zip(sizes, lengths, strides, _positive(b, dilations), strict=True)
    ]
    return {**found, "pads": [*(t // 2 for t in totals), *(t - t // 2 for t in totals)]}


def _four(b: Builder, op: Operator, dims: tuple[int | None, ...]) -> tuple[int | None, ...]:
    if len(dims) != 4:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} works on four axes, found the shape {list(dims)}.")
    return dims


def _positive(b: Builder, numbers: list[int]) -> list[int]:
    if min(numbers) < 1:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} has a stride, size or dilation of {min(numbers)}.")
    return numbers
