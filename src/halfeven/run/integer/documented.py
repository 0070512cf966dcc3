"""Machines as their makers document them, without a device to measure beside: Vitis AI's DPU and Horizon's BPU.

    vitis-dpu            int8 codes of power-of-two scales, everything in integers and shifts: `numerics.shift_target`.
                         Feature maps round by method 2 of fix_neuron, half up
    vitis-dpu@method3    the same with another method, 3 to 8
    journey6             int8 codes without zero points. Sums of layers are exact, then r = f32(f32(acc) f32(sx sw));
                         of two tensors r = f32(f32(a sa) + f32(b sb)), likewise the product; the code of r is that of
                         the toolchain, half_even(r / sy) since OE 3.0.31. How the BPU changes scales is not published
    journey6<3.0.31      the same with floor(r / sy + 0.5)

What has no row runs on real numbers, and becomes codes by the same rule. Codes that the devices lack are refused: the
DPU's are int8, the BPU's int8 or int16, those of biases int32 too; no zero points; one scale for a feature map.
"""

from dataclasses import dataclass, replace

import numpy as np

from halfeven.errors import BadOption, UnsupportedModel
from halfeven.graph.network import Network, Op, Tensor
from halfeven.numerics import shift_target
from halfeven.numerics.grid import INT8, INT8_NARROW, INT16, INT32, Grid
from halfeven.numerics.profiles import DPU_METHODS, profile_for, profile_named
from halfeven.numerics.requant import Requant
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams
from halfeven.run.integer.borders import ToCodes, ToReal, to_codes, to_real
from halfeven.run.integer.conditions import all_of, attribute, coded_output, one_scale, same_params, spatial, types
from halfeven.run.integer.layers import DOUBLE, Layer, window_of
from halfeven.run.integer.litert import scales_stay
from halfeven.run.integer.litert_kernels import Padded
from halfeven.run.integer.litert_layers import Transposed
from halfeven.run.integer.machine import (
    Array,
    Arrays,
    Kernel,
    Machine,
    Quantizer,
    Rule,
    Run,
    affine,
    code_type,
    given,
    operand,
    params_of,
    result,
)
from halfeven.run.integer.pointwise import Moved, TwoCodes

MOVES = (
    *("MaxPool", "Resize", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat"),
    *("Expand", "Gather", "Tile", "Identity", "ReduceMax", "GlobalMaxPool"),
)
LAYERS = (types((INT8, INT8), (INT8, INT8_NARROW)), coded_output, one_scale(0))
BOTH = (all_of(INT8), one_scale(0, 1), coded_output)
ONE = (types((INT8,)), one_scale(0), coded_output)


MOVED = (
    Rule(("Pad",), Padded(), (*ONE, scales_stay, attribute("mode", "constant", ("constant", b"constant")))),
    Rule(MOVES, Moved(), (same_params, types((INT8,)))),
)


def quantizer_of(name: str, method: int | None = None) -> Quantizer:
    """A profile of `numerics.profiles` as what makes codes."""
    profile = profile_named(name) if method is None else profile_for(name, method=method)

    def quantizer(x: Array, params: QParams) -> Array:
        grid = params.scheme.grid
        scale = np.float32(1) / params.scale if profile.stores_reciprocal else params.scale
        return profile.quantize(x, scale, params.zero_point, grid.low, grid.high).astype(grid.dtype)

    return quantizer


@dataclass(frozen=True)
class Taken:
    """What a device's codes are: refuses a network that holds others, which it could not run.

    Raises:
        UnsupportedModel: a tensor has such codes; machine, tensor and codes are named.
    """

    machine: str
    target: str
    grids: tuple[Grid, ...]
    powers: bool

    def __call__(self, network: Network) -> Network:
        """The network as it is."""
        for tensor in (*network.inputs, *(t for op in network.ops for t in (*op.inputs, *op.outputs) if t is not None)):
            if tensor.params is not None and (why := self._lacks(tensor, tensor.params)):
                shifts = ", with scales that are powers of two" if self.powers else ""
                takes = " and ".join(str(grid) for grid in self.grids if grid != INT8_NARROW)
                raise UnsupportedModel(
                    f"{self.machine} has no codes like those of '{tensor.name}': {why}. It takes {takes}, without zero "
                    f"points{shifts}. Quantize the model with --target {self.target}."
                )
        return network

    def _lacks(self, tensor: Tensor, params: QParams) -> str:
        grid, constant = params.scheme.grid, tensor.constant is not None
        if grid not in self.grids and not (constant and grid == INT32):  # that of biases
            return f"they are {grid}"
        if params.zero_point.any():
            return "they have a zero point"
        if not constant and params.scale.size != 1:
            return f"they have {params.scale.size} scales"
        if self.powers and (np.frexp(params.scale)[0] != 0.5).any():
            return f"their scale, {params.scale.ravel()[0]:.6g}, is no power of two"
        return ""


def no_zero_points(op: Op, _: Network) -> bool:
    """All codes stand around zero."""
    coded = [t.params for t in (*op.inputs, *op.outputs) if t is not None and t.params is not None]
    return not any(params.zero_point.any() for params in coded)


def powers_of_two(op: Op, _: Network) -> bool:
    """All scales are powers of two."""
    coded = [t.params for t in (*op.inputs, *op.outputs) if t is not None and t.params is not None]
    return all((np.frexp(params.scale)[0] == 0.5).all() for params in coded)


@dataclass(frozen=True)
class Shifted:
    """A layer whose bias has a scale of its own and is shifted to the accumulator's."""

    kernel: Kernel
    rule: Rounding

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The layer."""
        bias = operand(op, 2)
        if bias is None:
            return self.kernel(op, threads)
        data = bias.data
        if data is None or bias.params is None:
            raise BadOption(f"{op.kind} '{op.name}': a bias of constant codes was expected.")
        places = [shift_target.fix_position(affine(op, port).scale) for port in (0, 1, 2)]
        moved = shift_target.shifted(data.astype(np.int64), places[2] - places[0] - places[1], self.rule)
        if np.abs(moved).max(initial=0) >= 1 << 31:
            raise BadOption(
                f"{op.kind} '{op.name}': the bias, shifted by {sum(places[:2]) - places[2]}, leaves 32 bits."
            )
        fed, codes = replace(op, inputs=(*op.inputs[:2], replace(bias, constant=None))), moved.astype(np.int32)
        run = self.kernel(fed, threads)
        return lambda arrays: run([*arrays[:2], codes])


@dataclass(frozen=True)
class Exact:
    """A sum, product, mean or slope in integers, rounded once."""

    rule: Rounding

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The operator."""
        out, dtype = result(op), code_type(op.outputs[0])

        def two(a: Array, b: Array) -> Array:
            scales = (affine(op, 0).scale, affine(op, 1).scale)
            if op.kind == "Mul":
                return shift_target.multiply(a, b, scales, out, self.rule).astype(dtype)
            return shift_target.add(a, b, scales, out, self.rule, -1 if op.kind == "Sub" else 1).astype(dtype)

        table = TwoCodes(two)

        def run(arrays: Arrays) -> tuple[Array, ...]:
            if len(op.inputs) > 1 and op.kind in ("Add", "Sub", "Mul"):
                return (table(given(arrays, 0), given(arrays, 1)),)
            x, scale = given(arrays, 0), affine(op, 0).scale
            if op.kind == "LeakyRelu":
                alpha = float(op.attributes.get("alpha", 0.01))
                return (shift_target.leaky_relu(x, alpha, scale, out, self.rule).astype(dtype),)
            if op.kind == "Relu":
                codes = shift_target.rescale(
                    np.maximum(x.astype(np.int64), 0), shift_target.fix_position(scale), out, self.rule
                )
                return (codes.astype(dtype),)
            sums, kernel = _windows(op, x)
            return (shift_target.mean(sums, kernel, scale, out, self.rule).astype(dtype),)

        return run


def _windows(op: Op, x: Array) -> tuple[Array, tuple[int, ...]]:
    """Sums over the windows of a mean, and their shape."""
    wide = x.astype(np.int64)
    if op.kind == "AveragePool":
        window = window_of(op, x.shape[2:], tuple(op.attributes["kernel_shape"]))
        return window.gathered(wide, 0).sum(-1), tuple(window.kernel)
    axes, keep = tuple(range(2, x.ndim)), True
    if op.kind == "ReduceMean":
        axes, keep = _axes(op), bool(op.attributes.get("keepdims", 1))
    return wide.sum(axis=axes, keepdims=keep), tuple(x.shape[axis] for axis in axes)


def _axes(op: Op) -> tuple[int, ...]:
    named = operand(op, 1)
    found = op.attributes.get("axes", ()) if named is None or named.data is None else named.data.ravel()
    return tuple(int(axis) for axis in found)


def places_alone(op: Op, _: Network) -> bool:
    """A mean over height and width: axes that are known, the last two."""
    x = op.inputs[0]
    rank = 4 if x is None or x.shape is None else len(x.shape)
    return op.kind != "ReduceMean" or sorted(axis % rank for axis in _axes(op)) == [2, 3]


def unpadded(op: Op, _: Network) -> bool:
    """A pool without pads, all of whose windows have one size."""
    return not any(op.attributes.get("pads", ())) and not op.attributes.get("ceil_mode", 0)


def _known_bias(op: Op, _: Network) -> bool:
    bias = operand(op, 2)
    return bias is None or (bias.data is not None and bias.params is not None and bias.params.scale.size == 1)


def vitis_dpu(method: int) -> Machine:
    """The DPU that rounds feature maps by this method."""
    rule, quantizer = DPU_METHODS[method], quantizer_of("vitis-dpu", method)
    flavour = Requant(f"shift_{rule}")
    layers = (*LAYERS, one_scale(0, 1), no_zero_points, powers_of_two, _known_bias)
    whole = (attribute("alpha", 1.0, (1.0,)), attribute("beta", 1.0, (1.0,)))
    exact = (no_zero_points, powers_of_two)
    name = "vitis-dpu" if method == 2 else f"vitis-dpu@method{method}"
    return Machine(
        name,
        f"Vitis AI 3.5, nndct_fix_kernels.cuh, method {method}; means by pytorch_nndct",
        "as documented; no device was measured",
        (
            Rule(("QuantizeLinear",), ToCodes(quantizer), (coded_output, lambda op, _: len(op.inputs) == 1)),
            Rule(("DequantizeLinear",), ToReal(), (lambda op, _: len(op.inputs) == 1,)),
            Rule(("Conv",), Shifted(Layer(flavour, DOUBLE), rule), (*layers, spatial(1, 2))),
            Rule(("Gemm", "MatMul"), Shifted(Layer(flavour, DOUBLE), rule), (*layers, *whole)),
            Rule(
                ("ConvTranspose",),
                Shifted(Transposed(flavour), rule),
                (*layers, spatial(2), attribute("group", 1, (1,)), lambda op, _: op.clamp is None),
            ),
            Rule(("Add", "Sub", "Mul"), Exact(rule), (*BOTH, *exact)),
            Rule(("GlobalAveragePool", "ReduceMean"), Exact(rule), (*ONE, *exact, places_alone)),
            Rule(("AveragePool",), Exact(rule), (*ONE, *exact, unpadded)),
            Rule(("LeakyRelu", "Relu"), Exact(rule), (*ONE, *exact)),
            *MOVED,
        ),
        quantizer,
        Taken(name, "vitis-dpu", (INT8, INT8_NARROW), powers=True),
    )


@dataclass(frozen=True)
class RealLayer:
    """A layer of exact sums whose real numbers become codes by a profile."""

    quantizer: Quantizer

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The layer."""
        made = op.outputs[0]
        run = Layer()(replace(op, outputs=(replace(made, params=None),), clamp=None), threads)

        def coded(arrays: Arrays) -> tuple[Array, ...]:
            (real,) = run(arrays)
            return (to_codes(made, _limited(op, real), self.quantizer),)

        return coded


def _limited(op: Op, real: Array) -> Array:
    return real if op.clamp is None else np.clip(real, np.float32(op.clamp[0]), np.float32(op.clamp[1]))


@dataclass(frozen=True)
class RealPair:
    """A sum, difference or product of the real numbers of two operands, by a profile."""

    quantizer: Quantizer

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The operator."""
        made, sources = op.outputs[0], [t for t in op.inputs if t is not None]
        act = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[op.kind]

        def codes(a: Array, b: Array) -> Array:
            return to_codes(made, _limited(op, act(to_real(sources[0], a), to_real(sources[1], b))), self.quantizer)

        table = TwoCodes(codes)
        return lambda arrays: (table(given(arrays, 0), given(arrays, 1)),)


def _bias_known(op: Op, _: Network) -> bool:
    """The bias, if any, has codes of the accumulator's scale."""
    bias = operand(op, 2)
    if bias is None or bias.params is None:
        return bias is None or bias.data is not None
    scales = np.float32(affine(op, 0).scale) * params_of(op, 1).scale.ravel()
    return np.array_equal(np.broadcast_to(bias.params.scale.ravel(), scales.shape), scales)


def journey6(name: str, profile: str, said: str) -> Machine:
    """Horizon's toolchain in one of its versions."""
    quantizer = quantizer_of(profile)
    layers = (*LAYERS, no_zero_points, _bias_known)
    return Machine(
        name,
        f"Horizon OpenExplorer (Journey 6), {said}",
        "as documented for the toolchain; how the BPU itself changes scales is not published, no device was measured",
        (
            Rule(("QuantizeLinear",), ToCodes(quantizer), (coded_output, lambda op, _: len(op.inputs) == 1)),
            Rule(("DequantizeLinear",), ToReal(), (lambda op, _: len(op.inputs) == 1,)),
            Rule(("Conv",), RealLayer(quantizer), (*layers, spatial(1, 2))),
            Rule(("Gemm", "MatMul"), RealLayer(quantizer), (*layers, attribute("beta", 1.0, (1.0,)))),
            Rule(("Add", "Sub", "Mul"), RealPair(quantizer), (*BOTH, no_zero_points)),
            *MOVED,
        ),
        quantizer,
        Taken(name, "horizon", (INT8, INT8_NARROW, INT16), powers=False),
    )


JOURNEY6 = journey6("journey6", "journey6>=3.0.31", "OE 3.0.31 and later: half to even")
JOURNEY6_BEFORE = journey6("journey6<3.0.31", "journey6<3.0.31", "before OE 3.0.31: floor(x + 0.5)")
DOCUMENTED = (*(vitis_dpu(method) for method in DPU_METHODS), JOURNEY6, JOURNEY6_BEFORE)
