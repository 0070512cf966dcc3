"""LiteRT's layers of int8 codes: clamps, depthwise tails, transposed convolutions, products and extremes of values."""

from dataclasses import dataclass, replace

import numpy as np

from halfeven.graph import ops
from halfeven.graph.network import Network, Op
from halfeven.numerics.integer_ops import conv2d, matmul
from halfeven.numerics.litert import Kernels
from halfeven.numerics.multiplier import real_multiplier
from halfeven.numerics.requant import Requant, requantize
from halfeven.run.integer.layers import Derivation
from halfeven.run.integer.litert_kernels import bounds_of, output
from halfeven.run.integer.machine import (
    Array,
    Arrays,
    Kernel,
    Run,
    affine,
    code_type,
    given,
    operand,
    params_of,
)


@dataclass(frozen=True)
class Clamped:
    """A kernel behind whose operator a clamp stands, with the limits of LiteRT's kernels."""

    kernel: Kernel
    kernels: Kernels

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The kernel, with bounds that are codes already."""
        if op.clamp is None:
            return self.kernel(op, threads)
        out = output(op, self.kernels)
        low, high = ((code - out.affine.zero_point) * out.affine.scale for code in (out.low, out.high))
        return self.kernel(replace(op, clamp=(low, high)), threads)


@dataclass(frozen=True)
class InBlocks:
    """A layer whose channels behind the last whole block of 8 another kernel computes."""

    body: Kernel
    tail: Kernel

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The layer."""
        body, tail = self.body(op, threads), self.tail(op, threads)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            (found,) = body(arrays)
            cut = found.shape[1] // 8 * 8
            if cut == found.shape[1]:
                return (found,)
            (rest,) = tail(arrays)
            return (np.concatenate([found[:, :cut], rest[:, cut:]], 1),)

        return run


@dataclass(frozen=True)
class OneColumn:
    """A layer that another kernel computes where it has one row of a matrix, or one position of one picture, to give.

    LiteRT multiplies a matrix by a vector on Arm64 on its own, from 4 outputs and 16 inputs on. Source: LiteRT
    tflite/kernels/cpu_backend_gemm_custom_gemv.h.
    """

    many: Kernel
    one: Kernel

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The layer."""
        many, weight, made = self.many(op, threads), op.inputs[1], list[Run]()
        size = int(np.prod(weight.constant.shape.numpy())) if weight is not None and weight.constant is not None else 0

        def run(arrays: Arrays) -> tuple[Array, ...]:
            (found,) = many(arrays)
            outputs = found.shape[1]
            if found.size > outputs or outputs < 4 or size < 16 * outputs:
                return (found,)
            if not made:
                made.append(self.one(op, threads))
            return made[0](arrays)

        return run


def depthwise(op: Op, _: Network) -> bool:
    """A Conv that is DEPTHWISE_CONV_2D in its file; of another source, one with one input channel for each group."""
    kind = None if op.node is None else op.node.metadata_props.get(ops.LITERT_KIND)
    if kind is not None:
        return kind == "DEPTHWISE_CONV_2D"
    groups, weight = int(op.attributes.get("group", 1)), operand(op, 1)
    return groups > 1 and weight is not None and weight.constant is not None and weight.constant.shape.numpy()[1] == 1


def grouped(op: Op, _: Network) -> bool:
    """A Conv of several groups."""
    return int(op.attributes.get("group", 1)) > 1


@dataclass(frozen=True)
class MatrixProduct:
    """BATCH_MATMUL of two values, each with one scale."""

    flavour: Requant
    multiplier: Derivation = real_multiplier

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The product."""
        in_a, in_b, out = affine(op, 0), affine(op, 1), output(op, Kernels.REFERENCE)
        dtype, m = code_type(op.outputs[0]), self.multiplier(in_a.scale, in_b.scale, out.affine.scale)
        bits = 64 if self.flavour is Requant.INT16X8 else 32

        def run(arrays: Arrays) -> tuple[Array, ...]:
            acc = matmul(given(arrays, 0), given(arrays, 1), in_a.zero_point, in_b.zero_point, accumulator_bits=bits)
            codes = requantize(acc, m, out.affine.zero_point, out.low, out.high, self.flavour)
            return (codes.astype(dtype),)

        return run


@dataclass(frozen=True)
class Transposed:
    """TRANSPOSE_CONV, as a convolution of the input with zero points between and around its codes."""

    flavour: Requant
    multiplier: Derivation = real_multiplier

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The layer."""
        source, out, dtype = affine(op, 0), output(op, Kernels.REFERENCE), code_type(op.outputs[0])
        scales = params_of(op, 1).scale.ravel()
        m = self.multiplier(source.scale, scales, out.affine.scale).reshape(-1, 1, 1)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x, w, bias = given(arrays, 0), given(arrays, 1), arrays[2] if len(arrays) > 2 else None
            turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
            acc = conv2d(*_spread(op, x, turned, source.zero_point), source.zero_point, 0, 0 if bias is None else bias)
            codes = requantize(acc, m, out.affine.zero_point, out.low, out.high, self.flavour)
            return (codes.astype(dtype),)

        return run


def _spread(op: Op, x: Array, w: Array, zero: int) -> tuple[Array, Array]:
    """The input with `strides` - 1 zero points between its codes, and what the pads leave of the kernel around."""
    strides, pads = op.attributes.get("strides", (1, 1)), op.attributes.get("pads", (0,) * 4)
    extra = op.attributes.get("output_padding", (0, 0))
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True)]
    wide = np.full((*x.shape[:2], *sizes), zero, x.dtype)
    wide[:, :, :: strides[0], :: strides[1]] = x
    before = [k - 1 - p for k, p in zip(w.shape[2:], pads[:2], strict=True)]
    after = [k - 1 - p + e for k, p, e in zip(w.shape[2:], pads[2:], extra, strict=True)]
    cut = [slice(max(-b, 0), n - max(-a, 0)) for b, a, n in zip(before, after, sizes, strict=True)]
    around = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
    return np.pad(wide[:, :, cut[0], cut[1]], [(0, 0), (0, 0), *around], constant_values=zero), w


@dataclass(frozen=True)
class Extreme:
    """MAXIMUM and MINIMUM of codes of one scale."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The larger or smaller codes."""
        pick = np.maximum if op.kind == "Max" else np.minimum
        return lambda arrays: (pick(given(arrays, 0), given(arrays, 1)),)


@dataclass(frozen=True)
class Rectified:
    """RELU and RELU6 as operators of their own in LiteRT."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """Codes on the output's scale."""
        source, dtype = affine(op, 0), code_type(op.outputs[0])
        out = output(replace(op, clamp=bounds_of(op)), Kernels.REFERENCE)
        m = np.float32(source.scale) / np.float32(out.affine.scale)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            offsets = given(arrays, 0).astype(np.int64) - source.zero_point
            codes = requantize(offsets, m, out.affine.zero_point, out.low, out.high, Requant.DOUBLE_ROUNDING)
            return (codes.astype(dtype),)

        return run
