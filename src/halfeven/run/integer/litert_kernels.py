"""LiteRT's kernels of int8 codes that are not those of other runtimes: `numerics.litert`, operator by operator.

The operators are those of a .tflite file read back (`importers.litert`): pictures are channels first there and channels
last in the file, which decides which elements are the last of a block.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from halfeven.errors import BadOption
from halfeven.graph.network import Network, Op
from halfeven.numerics import gemmlowp
from halfeven.numerics.elementwise import Addition, Affine, Output, add, convert
from halfeven.numerics.grid import INT8
from halfeven.numerics.integer_target import output_of
from halfeven.numerics.litert import (
    Kernels,
    average,
    clamped,
    dequantize,
    leaky_relu,
    mean,
    softmax,
    softmax_16,
    table,
)
from halfeven.numerics.multiplier import real_multiplier
from halfeven.numerics.profiles import profile_named
from halfeven.numerics.requant import Requant, requantize
from halfeven.run.integer.layers import window_of
from halfeven.run.integer.machine import (
    Array,
    Arrays,
    Run,
    affine,
    code_type,
    given,
    operand,
)

PLACES = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"})
TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def channels_first(op: Op, network: Network) -> bool:
    """Whether what an operator reads at its first port are pictures with channels first, by what made them."""
    seen: set[str] = set()
    waiting = [op.inputs[0]]
    while waiting:
        tensor = waiting.pop()
        if tensor is None or tensor.name in seen or tensor.constant is not None:
            continue
        seen.add(tensor.name)
        maker = network.maker(tensor.name)
        if maker is None:
            continue
        if maker.kind == "Transpose":
            if list(maker.attributes.get("perm", ())) == TO_FIRST:
                return True
        elif maker.kind in PLACES:
            return True
        else:
            waiting += maker.inputs
    return False


def output(op: Op, kernels: Kernels) -> Output:
    """What the output is stored as, with the limits that these kernels make of the clamp."""
    params = op.outputs[0].params
    if params is None:
        raise BadOption(f"{op.kind} '{op.name}': the output holds no codes.")
    plain = output_of(params)
    return plain if op.clamp is None else clamped(plain, op.clamp, kernels)


@dataclass(frozen=True)
class Quantized:
    """QUANTIZE of real numbers, as a profile of `numerics.profiles` says. `last`: blocks count with channels last."""

    profile: str
    last: bool = False

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """Codes of the operand."""
        way, out, dtype = profile_named(self.profile), output(op, Kernels.REFERENCE), code_type(op.outputs[0])
        scale, zero = np.float32(out.affine.scale), out.affine.zero_point

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = turned(given(arrays, 0), self.last)
            codes = way.quantize(x, scale, zero, out.low, out.high).astype(dtype)
            return (back(codes, self.last),)

        return run


@dataclass(frozen=True)
class Real:
    """DEQUANTIZE in the optimized kernels. `fused`: on Arm64. `last`: blocks count with channels last."""

    fused: bool
    last: bool = False

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """Real numbers of the operand."""
        source = affine(op, 0)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            codes = turned(given(arrays, 0), self.last)
            return (back(dequantize(codes, source, self.fused), self.last),)

        return run


@dataclass(frozen=True)
class Converted:
    """QUANTIZE of codes, and RELU in Micro: another scale, by one flavour, and `tail` behind the last block of 16."""

    flavour: Requant
    tail: Requant | None = None
    last: bool = False

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """Codes on the output's scale."""
        source, dtype = affine(op, 0), code_type(op.outputs[0])
        out = output(replace(op, clamp=bounds_of(op)), Kernels.REFERENCE)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = turned(given(arrays, 0), self.last)
            return (back(convert(x, source, out, self.flavour, self.tail), self.last).astype(dtype),)

        return run


@dataclass(frozen=True)
class Bounded:
    """RELU6 in Micro: the input's codes between those of 0 and 6, whatever the output's scale and zero point are."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The codes, limited."""
        limits = clamped(Output(affine(op, 0), INT8.low, INT8.high), bounds_of(op) or (0.0, 6.0), Kernels.REFERENCE)
        return lambda arrays: (np.clip(given(arrays, 0), limits.low, limits.high),)


def bounds_of(op: Op) -> tuple[float, float] | None:
    """The bounds of Relu and Clip, the clamp of other operators."""
    if op.kind not in ("Relu", "Clip"):
        return op.clamp
    ends = [0.0, np.inf] if op.kind == "Relu" else [-np.inf, np.inf]
    for place, tensor in enumerate(op.inputs[1:3]):
        if tensor is not None and tensor.data is not None:
            ends[place] = float(np.asarray(tensor.data).ravel()[0])
    return ends[0], ends[1]


def turned(x: Array, last: bool) -> Array:
    """Pictures with channels last, if the file has them `last`; what is no picture stays."""
    return np.ascontiguousarray(x.transpose(TO_LAST)) if last and x.ndim == 4 else x


def back(x: Array, last: bool) -> Array:
    """Pictures with channels first again."""
    return np.ascontiguousarray(x.transpose(TO_FIRST)) if last and x.ndim == 4 else x


@dataclass(frozen=True)
class Difference:
    """SUB: the sum with the second operand's codes turned round its zero point."""

    flavour: Addition

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The difference."""
        in_a, in_b, out = affine(op, 0), affine(op, 1), output(op, Kernels.REFERENCE)
        dtype = code_type(op.outputs[0])

        def run(arrays: Arrays) -> tuple[Array, ...]:
            turned = 2 * in_b.zero_point - given(arrays, 1).astype(np.int64)
            return (add(given(arrays, 0), turned, in_a, in_b, out, self.flavour).astype(dtype),)

        return run


@dataclass(frozen=True)
class WiderProduct:
    """MUL with a multiplier of float64, as Micro has it."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The product."""
        in_a, in_b, out = affine(op, 0), affine(op, 1), output(op, Kernels.REFERENCE)
        dtype, m = code_type(op.outputs[0]), real_multiplier(in_a.scale, in_b.scale, out.affine.scale)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            a, b = given(arrays, 0).astype(np.int64), given(arrays, 1).astype(np.int64)
            products = (a - in_a.zero_point) * (b - in_b.zero_point)
            codes = requantize(products, m, out.affine.zero_point, out.low, out.high, Requant.DOUBLE_ROUNDING)
            return (codes.astype(dtype),)

        return run


@dataclass(frozen=True)
class Sloped:
    """LEAKY_RELU."""

    flavour: Requant
    wide: bool = False

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The codes of the slopes."""
        source, out, dtype = affine(op, 0), output(op, Kernels.REFERENCE), code_type(op.outputs[0])
        alpha = float(op.attributes.get("alpha", 0.01))

        def run(arrays: Arrays) -> tuple[Array, ...]:
            return (leaky_relu(given(arrays, 0), alpha, source, out, self.flavour, self.wide).astype(dtype),)

        return run


@dataclass(frozen=True)
class Looked:
    """LOGISTIC and TANH."""

    kernels: Kernels

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The table, looked up."""
        codes = table(op.kind, affine(op, 0), output(op, Kernels.REFERENCE), self.kernels).astype(np.int8)
        return lambda arrays: (codes[given(arrays, 0).astype(np.int16) + 128],)


@dataclass(frozen=True)
class FixedLooked:
    """LOGISTIC and TANH in Micro, whose outputs have one scale each."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The table, looked up."""
        codes = gemmlowp.table(op.kind, affine(op, 0)).astype(np.int8)
        return lambda arrays: (codes[given(arrays, 0).astype(np.int16) + 128],)


@dataclass(frozen=True)
class Averaged:
    """AVERAGE_POOL_2D: pads are not counted."""

    kernels: Kernels

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The means."""
        out, dtype = output(op, self.kernels), code_type(op.outputs[0])

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = given(arrays, 0)
            window = window_of(op, x.shape[2:], tuple(op.attributes["kernel_shape"]))
            sums = window.gathered(x, 0).astype(np.int64).sum(-1)
            return (average(sums, window.counts(x.shape[2:], include_pads=False), out).astype(dtype),)

        return run


@dataclass(frozen=True)
class Mean:
    """MEAN: over a picture's places (GlobalAveragePool) or over named axes (ReduceMean), channels at `channel`."""

    kernels: Kernels
    channel: int = 1
    fused: bool = False

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The means."""
        source, out, dtype = affine(op, 0), output(op, Kernels.REFERENCE), code_type(op.outputs[0])

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = given(arrays, 0)
            axes, keep = _axes(op, arrays, x.ndim)
            count = int(np.prod([x.shape[axis] for axis in axes]))
            sums = x.sum(axis=axes, keepdims=True, dtype=np.int64)
            last = np.moveaxis(sums, self.channel, -1)
            found = np.moveaxis(mean(last, count, source, out, self.kernels, self.fused), -1, self.channel)
            return ((found if keep else found.squeeze(axes)).astype(dtype),)

        return run


def kept_places(op: Op, network: Network) -> bool:
    """A mean of pictures whose height and width stay, with length 1; a Flatten behind it says that they go."""
    return not any(reader.kind == "Flatten" for reader in network.readers(op.outputs[0].name))


def pictures_mean(op: Op, network: Network) -> bool:
    """A ReduceMean over height and width, which stay, of pictures with channels last."""
    x, axes = operand(op, 0), operand(op, 1)
    if x is None or x.shape is None or len(x.shape) != 4 or axes is None or axes.data is None:
        return False
    if not op.attributes.get("keepdims", 1):
        return False
    return sorted(np.asarray(axes.data).ravel() % 4) == [1, 2] and not channels_first(op, network)


def _axes(op: Op, arrays: Arrays, rank: int) -> tuple[tuple[int, ...], bool]:
    if op.kind == "GlobalAveragePool":
        return tuple(range(2, rank)), True
    return tuple(int(axis) % rank for axis in given(arrays, 1).ravel()), bool(op.attributes.get("keepdims", 1))


@dataclass(frozen=True)
class Softmax:
    """SOFTMAX along one axis."""

    way: Callable[[Array, Affine, Output], Array]

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The softmax."""
        source, out, dtype = affine(op, 0), output(op, Kernels.REFERENCE), code_type(op.outputs[0])
        axis = int(op.attributes.get("axis", -1))

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = np.moveaxis(given(arrays, 0), axis, -1)
            return (np.moveaxis(self.way(x, source, out), -1, axis).astype(dtype),)

        return run


FLOAT_SOFTMAX, FIXED_SOFTMAX, SOFTMAX_16 = Softmax(softmax), Softmax(gemmlowp.softmax), Softmax(softmax_16)


@dataclass(frozen=True)
class Padded:
    """PAD with zeros, that is with the zero point, or PADV2 with a constant."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The operand with its pads."""
        out, value = output(op, Kernels.REFERENCE), operand(op, 2)
        fill = 0.0 if value is None or value.data is None else float(np.asarray(value.data).ravel()[0])
        code = int(np.clip(np.rint(fill / out.affine.scale) + out.affine.zero_point, out.low, out.high))

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x, amounts = given(arrays, 0), given(arrays, 1).ravel().astype(int)
            return (np.pad(x, list(zip(amounts[: x.ndim], amounts[x.ndim :], strict=True)), constant_values=code),)

        return run
