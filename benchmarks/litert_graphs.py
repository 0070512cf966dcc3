"""Random .tflite graphs of one operator on int8 codes, products on int16 ones, too: what `exactness_litert` compares.

Every second graph has scales that are powers of two times a small odd number, where ties are common. Zero points lie
anywhere, in one graph of four at an end; in one of four the codes lie at the ends of their range, so that sums
saturate. Sizes are odd and even, below and above the lengths of vectors; convolutions are grouped, dilated, strided.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.exporters.litert.flatbuffer import FileGraph, FileOp, FileTensor

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
SAME, VALID = 0, 1


@dataclass
class Draw:
    """Random choices for one graph."""

    rng: np.random.Generator
    ties: bool

    def scale(self, low: float, high: float) -> Array:
        """One scale between two bounds."""
        drawn = np.exp(self.rng.uniform(np.log(low), np.log(high)))
        if self.ties:
            drawn = 2.0 ** np.rint(np.log2(drawn)) * self.rng.choice([1.0, 1.0, 0.75, 1.25])
        return np.array([drawn], np.float32)

    def tensor(self, name: str, shape: Shape, scale: Array, zero: int | None = None) -> FileTensor:
        """A tensor of int8 codes."""
        drawn = int(self.rng.choice([-128, 127]) if self.one_in(4) else self.rng.integers(-128, 128))
        return FileTensor(name, shape, "int8", scale, np.array([drawn if zero is None else zero], np.int64))

    def codes(self, shape: Shape, dtype: str = "int8") -> Array:
        """Codes over the whole range, or at its ends."""
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        if self.one_in(4):
            return self.rng.choice(np.array([low, low + 1, high - 1, high], dtype), shape)
        return self.rng.integers(low, high + 1, shape).astype(dtype)

    def reals(self, shape: Shape, scale: float) -> Array:
        """Real numbers, half of them halves of a scale."""
        halves = self.rng.integers(-300, 300, shape) * 0.5 * scale
        noise = self.rng.normal(0, 40 * scale, shape)
        return np.where(self.rng.random(shape) < 0.5, halves, noise).astype(np.float32)

    def size(self, low: int, high: int) -> int:
        """A length."""
        return int(self.rng.integers(low, high + 1))

    def one_in(self, number: int) -> bool:
        """True once in so many times."""
        return bool(self.rng.integers(number) == 0)


def constant(name: str, data: Array, scale: Array, axis: int = 0) -> FileTensor:
    """A constant of codes around zero."""
    return FileTensor(name, data.shape, str(data.dtype), scale, np.zeros(scale.size, np.int64), axis, data)


def graph(kind: str, tensors: list[FileTensor], inputs: list[int], options: str = "", **fields: object) -> FileGraph:
    """One operator that reads all tensors but the last and makes that; `inputs` are fed."""
    last = len(tensors) - 1
    return FileGraph(tensors, [FileOp(kind, tuple(range(last)), (last,), options, fields)], inputs, [last])


def _weights(d: Draw, shape: Shape, axis: int) -> tuple[Array, Array]:
    """Codes without -128, one scale, or one for each index along `axis`."""
    count = 1 if d.one_in(4) else shape[axis]
    scale = np.concatenate([d.scale(0.001, 0.05) for _ in range(count)])
    return np.maximum(d.codes(shape), np.int8(-127)), scale


def _bias(d: Draw, count: int, scale: Array) -> FileTensor:
    return constant("b", d.rng.integers(-3000, 3000, count).astype(np.int32), scale.astype(np.float32))


def _made(size: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    reach = (kernel - 1) * dilation
    return -(-size // stride) if padding == SAME else -(-(size - reach) // stride)


def convolution(d: Draw, depthwise: bool) -> FileGraph:
    """CONV_2D, grouped at times, or DEPTHWISE_CONV_2D, of several outputs for each channel at times."""
    sizes, kernel = (d.size(7, 64), d.size(7, 64)), (d.size(1, 3), d.size(1, 3))
    stride, dilation = (d.size(1, 2), d.size(1, 2)), (1, 1)
    if d.one_in(4):
        stride, dilation = (1, 1), (d.size(1, 2), d.size(1, 2))
    groups = int(d.rng.choice([2, 3, 4])) if not depthwise and d.one_in(5) else 1
    padding, channels = d.size(SAME, VALID), d.size(min(groups, 2), 40)  # one channel a group is DEPTHWISE_CONV_2D
    many = d.size(2, 3) if d.one_in(4) else 1
    channels, out = groups * channels, channels * many if depthwise else groups * d.size(1, 40)
    shape = (1, *kernel, out) if depthwise else (out, *kernel, channels // groups)
    sx, sy = d.scale(0.01, 0.1), d.scale(0.02, 0.4)
    weight, sw = _weights(d, shape, 3 if depthwise else 0)
    made = [_made(*way, padding) for way in zip(sizes, kernel, stride, dilation, strict=True)]
    tensors = [
        d.tensor("x", (1, *sizes, channels), sx),
        constant("w", weight, sw, 3 if depthwise else 0),
        _bias(d, out, sx * sw),
        d.tensor("y", (1, *made, out), sy),
    ]
    fields = {"padding": padding, "strideH": stride[0], "strideW": stride[1], "fusedActivationFunction": d.size(0, 3)}
    fields |= {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
    if depthwise:
        return graph("DEPTHWISE_CONV_2D", tensors, [0], "DepthwiseConv2DOptions", **fields, depthMultiplier=many)
    return graph("CONV_2D", tensors, [0], "Conv2DOptions", **fields)


def transposed(d: Draw) -> FileGraph:
    """TRANSPOSE_CONV."""
    h, w, k, stride, c, out = d.size(2, 30), d.size(2, 30), d.size(1, 4), d.size(1, 2), d.size(1, 20), d.size(1, 40)
    k = max(k, stride)
    made = (1, (h - 1) * stride + k, (w - 1) * stride + k, out)
    sx, sy = d.scale(0.01, 0.1), d.scale(0.02, 0.4)
    weight, sw = _weights(d, (out, k, k, c), 0)
    tensors = [
        FileTensor("size", (4,), "int32", data=np.array(made, np.int32)),
        constant("w", weight, sw),
        d.tensor("x", (1, h, w, c), sx),
        _bias(d, out, sx * sw),
        d.tensor("y", made, sy),
    ]
    return graph("TRANSPOSE_CONV", tensors, [2], "TransposeConvOptions", padding=VALID, strideH=stride, strideW=stride)


def dense(d: Draw) -> FileGraph:
    """FULLY_CONNECTED."""
    n, k, out = d.size(1, 200), d.size(1, 200), d.size(1, 200)
    sx, sy, sw = d.scale(0.01, 0.1), d.scale(0.02, 0.6), d.scale(0.001, 0.05)
    tensors = [
        d.tensor("x", (n, k), sx),
        constant("w", np.maximum(d.codes((out, k)), np.int8(-127)), sw),
        _bias(d, out, sx * sw),
        d.tensor("y", (n, out), sy),
    ]
    return graph("FULLY_CONNECTED", tensors, [0], "FullyConnectedOptions", fusedActivationFunction=d.size(0, 1))


def matrices(d: Draw, turned: bool = False) -> FileGraph:
    """BATCH_MATMUL of two values; `turned`: the first one's rows and columns change places, too."""
    n, k, m = d.size(1, 90), d.size(1, 60), d.size(1, 90)
    first, second = _batches(d)
    swapped = d.one_in(2)
    shape_a, shape_b = (k, n) if turned else (n, k), (m, k) if swapped else (k, m)
    tensors = [
        d.tensor("a", (*first, *shape_a), d.scale(0.01, 0.1)),
        d.tensor("b", (*second, *shape_b), d.scale(0.01, 0.1), 0 if d.one_in(2) else None),
        d.tensor("y", (*np.broadcast_shapes(first, second), n, m), d.scale(0.05, 0.6)),
    ]
    return graph("BATCH_MATMUL", tensors, [0, 1], "BatchMatMulOptions", adjX=turned, adjY=swapped)


def matrices_by_constant(d: Draw) -> FileGraph:
    """BATCH_MATMUL by a constant of one scale around zero."""
    n, k, m, turned = d.size(1, 90), d.size(1, 60), d.size(1, 90), d.one_in(2)
    first, second = _batches(d)
    codes = np.maximum(d.codes((*second, m, k) if turned else (*second, k, m)), np.int8(-127))
    tensors = [
        d.tensor("a", (*first, n, k), d.scale(0.01, 0.1)),
        constant("b", codes, d.scale(0.01, 0.1)),
        d.tensor("y", (*np.broadcast_shapes(first, second), n, m), d.scale(0.05, 0.6)),
    ]
    return graph("BATCH_MATMUL", tensors, [0], "BatchMatMulOptions", adjX=False, adjY=turned)


def matrices_of_16_bits(d: Draw) -> FileGraph:
    """BATCH_MATMUL of int16."""
    n, k, m, turned = d.size(1, 90), d.size(1, 60), d.size(1, 90), d.one_in(2)
    first, second = _batches(d)
    shapes = {
        "a": (*first, n, k),
        "b": (*second, m, k) if turned else (*second, k, m),
        "y": (*np.broadcast_shapes(first, second), n, m),
    }
    scales = {"a": d.scale(0.00004, 0.0004), "b": d.scale(0.00004, 0.0004), "y": d.scale(0.0002, 0.0024)}
    tensors = [FileTensor(name, shapes[name], "int16", scales[name], np.zeros(1, np.int64)) for name in "aby"]
    return graph("BATCH_MATMUL", tensors, [0, 1], "BatchMatMulOptions", adjX=False, adjY=turned)


def _batches(d: Draw) -> tuple[Shape, Shape]:
    """The axes in front of the matrices: none to three; at times one operand repeats along some of them."""
    full = tuple(d.size(1, 4) for _ in range(d.size(0, 3)))
    less = tuple(1 if d.one_in(2) else size for size in full)
    if d.one_in(2):
        return full, full
    return (full, less) if d.one_in(2) else (less, full)


def two(d: Draw, kind: str, broadcast: bool = False) -> FileGraph:
    """ADD, SUB or MUL; one operand is one number, a row, a column or a plane if `broadcast`."""
    shape = (d.size(1, 2), d.size(1, 40), d.size(1, 60), d.size(1, 90))
    other = shape
    if broadcast:
        n, h, w, c = shape
        ways = [(1, 1, 1, 1), (1, 1, 1, c), (1, h, w, 1), (1, 1, w, c), (n, 1, 1, c), (n, h, 1, c), (1, h, 1, c)]
        other = ways[d.size(0, len(ways) - 1)]
    shapes = [shape, other] if d.one_in(2) else [other, shape]
    sy = d.scale(0.01, 0.3) if kind == "MUL" else d.scale(0.01, 0.2)
    both = [d.tensor(name, one, d.scale(0.01, 0.2)) for name, one in zip("ab", shapes, strict=True)]
    options = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[kind]
    return graph(kind, [*both, d.tensor("y", shape, sy)], [0, 1], options, fusedActivationFunction=d.size(0, 3))


def _some(d: Draw) -> Shape:
    """Three or four axes."""
    return tuple(d.size(1, 70) for _ in range(3)) if d.one_in(2) else tuple(d.size(1, 28) for _ in range(4))


def border(d: Draw) -> FileGraph:
    """QUANTIZE of real numbers."""
    shape = _some(d)
    return graph(
        "QUANTIZE",
        [FileTensor("x", shape, "float32"), d.tensor("y", shape, d.scale(0.01, 0.1))],
        [0],
        "QuantizeOptions",
    )


def back(d: Draw) -> FileGraph:
    """DEQUANTIZE."""
    shape = _some(d)
    return graph(
        "DEQUANTIZE",
        [d.tensor("x", shape, d.scale(0.01, 0.1)), FileTensor("y", shape, "float32")],
        [0],
        "DequantizeOptions",
    )


def one(d: Draw, kind: str, options: str = "", **fields: object) -> FileGraph:
    """An operator of one operand with scales of its own."""
    shape = _some(d)
    tensors = [d.tensor("x", shape, d.scale(0.01, 0.1)), d.tensor("y", shape, d.scale(0.01, 0.1))]
    return graph(kind, tensors, [0], options, **fields)


def function(d: Draw, kind: str) -> FileGraph:
    """LOGISTIC or TANH."""
    shape, zero = (1, d.size(1, 90), d.size(256, 300)), -128 if kind == "LOGISTIC" else 0
    made = np.array([1 / 256 if kind == "LOGISTIC" else 1 / 128], np.float32)
    return graph(kind, [d.tensor("x", shape, d.scale(0.005, 0.2)), d.tensor("y", shape, made, zero)], [0])


def softmax(d: Draw) -> FileGraph:
    """SOFTMAX."""
    shape = (d.size(1, 200), d.size(2, 300))
    tensors = [d.tensor("x", shape, d.scale(0.005, 0.2)), d.tensor("y", shape, np.array([1 / 256], np.float32), -128)]
    return graph("SOFTMAX", tensors, [0], "SoftmaxOptions", beta=1.0)


def pool(d: Draw, kind: str) -> FileGraph:
    """AVERAGE_POOL_2D or MAX_POOL_2D."""
    h, w, c, k = d.size(5, 34), d.size(5, 34), d.size(1, 70), d.size(2, 5)
    x = d.tensor("x", (1, h, w, c), d.scale(0.01, 0.1))
    y = FileTensor("y", x.shape, "int8", x.scale, x.zero_point)
    fields = {"padding": SAME, "strideH": 1, "strideW": 1, "filterHeight": k, "filterWidth": k}
    return graph(kind, [x, y], [0], "Pool2DOptions", **fields, fusedActivationFunction=d.size(0, 3))


def mean(d: Draw) -> FileGraph:
    """MEAN over height and width, or over another axis."""
    n, h, w, c, keep = d.size(1, 40), d.size(1, 7), d.size(2, 7), d.size(1, 400), bool(d.size(0, 1))
    axes = [1, 2] if not d.one_in(5) else [d.size(1, 3)]
    shape = (n, h, w, c)
    made = tuple(1 if i in axes else size for i, size in enumerate(shape) if keep or i not in axes)
    over = FileTensor("axes", (len(axes),), "int32", data=np.array(axes, np.int32))
    tensors = [d.tensor("x", shape, d.scale(0.01, 0.1)), over, d.tensor("y", made, d.scale(0.01, 0.1))]
    return graph("MEAN", tensors, [0], "ReducerOptions", keepDims=keep)


def wider(made: FileGraph) -> FileGraph:
    """The same of int16 activations, symmetric, on scales 256 times as fine; the bias has 64 bits."""
    tensors = []
    for tensor in made.tensors:
        fine = None if tensor.scale is None else tensor.scale.astype(np.float32) / np.float32(256)
        if tensor.dtype == "int8" and tensor.data is None:
            tensor = replace(tensor, dtype="int16", scale=fine, zero_point=np.zeros(1, np.int64))
        elif tensor.dtype == "int32" and tensor.scale is not None and tensor.data is not None:
            tensor = replace(tensor, dtype="int64", scale=fine, data=tensor.data.astype(np.int64) * 256)
        tensors.append(tensor)
    (op,) = made.ops
    more = {"potScaleInt16": False} if op.code in ("ADD", "SUB") else {}
    return replace(made, tensors=tensors, ops=[replace(op, fields={**op.fields, **more})])


OPERATORS: Mapping[str, Callable[[Draw], FileGraph]] = {
    "CONV_2D": lambda d: convolution(d, False),
    "DEPTHWISE_CONV_2D": lambda d: convolution(d, True),
    "TRANSPOSE_CONV": transposed,
    "FULLY_CONNECTED": dense,
    "BATCH_MATMUL": matrices,
    "BATCH_MATMUL, turned": lambda d: matrices(d, True),
    "BATCH_MATMUL, constant": matrices_by_constant,
    "BATCH_MATMUL, 16 bits": matrices_of_16_bits,
    "CONV_2D, 16 bits": lambda d: wider(convolution(d, False)),
    "DEPTHWISE_CONV_2D, 16 bits": lambda d: wider(convolution(d, True)),
    "FULLY_CONNECTED, 16 bits": lambda d: wider(dense(d)),
    "ADD, 16 bits": lambda d: wider(two(d, "ADD", d.one_in(2))),
    "SUB, 16 bits": lambda d: wider(two(d, "SUB", d.one_in(2))),
    "MEAN, 16 bits": lambda d: wider(mean(d)),
    "ADD": lambda d: two(d, "ADD"),
    "ADD, broadcast": lambda d: two(d, "ADD", True),
    "SUB": lambda d: two(d, "SUB"),
    "SUB, broadcast": lambda d: two(d, "SUB", True),
    "MUL": lambda d: two(d, "MUL"),
    "MUL, broadcast": lambda d: two(d, "MUL", True),
    "QUANTIZE of reals": border,
    "QUANTIZE of codes": lambda d: one(d, "QUANTIZE", "QuantizeOptions"),
    "DEQUANTIZE": back,
    "RELU": lambda d: one(d, "RELU"),
    "RELU6": lambda d: one(d, "RELU6"),
    "LEAKY_RELU": lambda d: one(d, "LEAKY_RELU", "LeakyReluOptions", alpha=float(d.rng.choice([0.125, 0.1, 0.3]))),
    "LOGISTIC": lambda d: function(d, "LOGISTIC"),
    "TANH": lambda d: function(d, "TANH"),
    "SOFTMAX": softmax,
    "AVERAGE_POOL_2D": lambda d: pool(d, "AVERAGE_POOL_2D"),
    "MAX_POOL_2D": lambda d: pool(d, "MAX_POOL_2D"),
    "MEAN": mean,
}
