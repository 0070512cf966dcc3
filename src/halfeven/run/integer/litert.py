"""LiteRT's three sets of kernels, and TFLite Micro's, for int8 codes.

    operator                 reference, Micro     optimized on x86          XNNPACK on x86
    CONV_2D, DEPTHWISE       double_rounding      neon                      float32_half_even
    FULLY_CONNECTED          float64_half_away    neon                      float32_half_even
                             (Micro: double_rounding)
    ADD                      double_rounding      its own, double_rounding  fixed_half_up
    SUB                      double_rounding      double_rounding           fixed_half_up
    MUL                      double_rounding      double_rounding           float32_half_even
    QUANTIZE of reals        tflite-reference     tflite-optimized          xnnpack
    QUANTIZE of codes        double_rounding      neon, double_rounding     q8_8
    LEAKY_RELU               double_rounding      double_rounding           q8_8
    MEAN, SOFTMAX, LOGISTIC, TANH, AVERAGE_POOL   `numerics.litert`
    MAX_POOL, RESHAPE, ...   codes moved, where parameters stay

Multipliers are f64(sx) f64(sw) / f64(sy), XNNPACK's float32. XNNPACK leaves an operator whose ratio of scales is out of
its reach to the optimized kernels. Names of rows are those of `Requant`, `Addition` and `numerics.profiles`.

Sources: ai_edge_litert 2.3.0 and tflite-micro, measured on x86-64 with AVX512.
"""

from dataclasses import dataclass

import numpy as np

from halfeven.graph.network import Network, Op
from halfeven.numerics.elementwise import Addition
from halfeven.numerics.grid import INT8, INT8_NARROW, IntGrid
from halfeven.numerics.litert import Kernels
from halfeven.numerics.requant import Requant
from halfeven.run.integer.borders import ToReal
from halfeven.run.integer.conditions import (
    all_of,
    attribute,
    coded_bias,
    coded_output,
    one_scale,
    same_params,
    spatial,
    types,
)
from halfeven.run.integer.layers import DOUBLE, SINGLE, Layer
from halfeven.run.integer.litert_kernels import (
    FIXED_SOFTMAX,
    FLOAT_SOFTMAX,
    Averaged,
    Converted,
    Difference,
    Extreme,
    Looked,
    Mean,
    OptimizedSum,
    Padded,
    Quantized,
    Sloped,
    Softmax,
    WiderProduct,
    channels_first,
    kept_places,
    pictures_mean,
)
from halfeven.run.integer.litert_layers import Clamped, InBlocks, MatrixProduct, Transposed, depthwise
from halfeven.run.integer.machine import Condition, Machine, Rule, affine
from halfeven.run.integer.pointwise import Joined, Moved, Product, Sum

LAYERS = (types((INT8, INT8), (INT8, INT8_NARROW)), coded_output, coded_bias(), one_scale(0))
MOVES = (
    *("MaxPool", "Resize", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Expand"),
    *("Gather", "Tile", "Identity", "ReduceMax", "ReduceMin", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth"),
)
BOTH = (all_of(INT8), one_scale(0, 1), coded_output)
ONE = (types((INT8,)), one_scale(0), coded_output)


@dataclass(frozen=True)
class Flavours:
    """What the kernels of a set do where sets differ."""

    kernels: Kernels
    layer: Layer
    dense: Layer
    sums: Addition
    product: Requant
    quantize: str
    convert: Converted
    slope: Requant
    softmax: Softmax


def ratio(low: float, high: float, *ports: int) -> Condition:
    """The scales of these operands over the output's lie in [low, high)."""

    def holds(op: Op, _: Network) -> bool:
        params = op.outputs[0].params
        assert params is not None
        out = np.float32(params.scale.ravel()[0])
        return all(low <= np.float32(affine(op, port).scale) / out < high for port in ports)

    return holds


def scales_stay(op: Op, network: Network) -> bool:
    """The first operand and the output share their parameters."""
    return same_params(Op(op.kind, op.name, op.inputs[:1], op.outputs), network)


def all_of_output(*grids: IntGrid) -> Condition:
    """The only output has codes of one of these grids."""
    return lambda op, _: op.outputs[0].params is not None and op.outputs[0].params.scheme.grid in grids


def plain(op: Op, _: Network) -> bool:
    """No clamp follows."""
    return op.clamp is None


def _layers(f: Flavours) -> tuple[Rule, ...]:
    return (
        Rule(("Conv",), Clamped(f.layer, f.kernels), (*LAYERS, spatial(2))),
        Rule(("Gemm", "MatMul"), Clamped(f.dense, f.kernels), (*LAYERS, lambda op, _: _constant(op))),
        Rule(("MatMul",), MatrixProduct(f.layer.requant), (*BOTH, plain)),
        Rule(("ConvTranspose",), Transposed(f.layer.requant), (*LAYERS, plain)),
    )


def _constant(op: Op) -> bool:
    weight = op.inputs[1]
    return weight is not None and weight.constant is not None and len(weight.constant.shape) == 2


def _shared(f: Flavours) -> tuple[Rule, ...]:
    """What all sets compute alike, or by `f`."""
    return (
        Rule(("DequantizeLinear",), ToReal(), (lambda op, _: len(op.inputs) == 1,)),
        *_layers(f),
        Rule(("Add",), Clamped(Sum(f.sums), f.kernels), BOTH),
        Rule(("Sub",), Clamped(Difference(f.sums), f.kernels), BOTH),
        Rule(("Mul",), Clamped(Product(f.product), f.kernels), BOTH),
        Rule(("Relu", "Clip"), Converted(Requant.DOUBLE_ROUNDING), (*ONE, plain)),
        Rule(("LeakyRelu",), Sloped(f.slope), (*ONE, plain)),
        Rule(("Sigmoid", "Tanh"), Looked(f.kernels), (*ONE, plain)),
        Rule(("AveragePool",), Averaged(f.kernels), (*ONE, scales_stay)),
        Rule(("Softmax",), f.softmax, (*ONE, plain)),
        Rule(("Pad",), Padded(), (*ONE, scales_stay, attribute("mode", "constant", ("constant", b"constant")))),
        Rule(("Max", "Min"), Extreme(), (*BOTH, same_params)),
        Rule(("Concat",), Joined(), (all_of(INT8), same_params)),
        Rule(MOVES, Moved(), (same_params, types((INT8,)))),
    )


def _quantize(f: Flavours) -> tuple[Rule, ...]:
    """Blocks of elements are counted as the file orders them."""
    border = (all_of_output(INT8), lambda op, _: len(op.inputs) == 1)
    last = Converted(f.convert.flavour, f.convert.tail, last=True)
    return (
        Rule(("QuantizeLinear",), Quantized(f.quantize, last=True), (*border, channels_first)),
        Rule(("QuantizeLinear",), Quantized(f.quantize), border),
        Rule(("Requantize",), last, (*ONE, channels_first)),
        Rule(("Requantize",), f.convert, ONE),
    )


MEANS = ("GlobalAveragePool", "ReduceMean")
REFERENCE_MEAN = Rule(MEANS, Mean(Kernels.REFERENCE), (*ONE, plain))
OPTIMIZED_MEANS = (
    Rule(("GlobalAveragePool",), Mean(Kernels.OPTIMIZED), (*ONE, plain, kept_places)),
    Rule(("ReduceMean",), Mean(Kernels.OPTIMIZED, 3), (*ONE, plain, pictures_mean)),
)
REFERENCE = Flavours(
    Kernels.REFERENCE,
    Layer(Requant.DOUBLE_ROUNDING, DOUBLE),
    Layer(Requant.FLOAT64_HALF_AWAY, DOUBLE),
    Addition.DOUBLE_ROUNDING,
    Requant.DOUBLE_ROUNDING,
    "tflite-reference",
    Converted(Requant.DOUBLE_ROUNDING),
    Requant.DOUBLE_ROUNDING,
    FIXED_SOFTMAX,
)
OPTIMIZED = Flavours(
    Kernels.OPTIMIZED,
    Layer(Requant.NEON, DOUBLE),
    Layer(Requant.NEON, DOUBLE),
    Addition.DOUBLE_ROUNDING,
    Requant.DOUBLE_ROUNDING,
    "tflite-optimized",
    Converted(Requant.NEON, Requant.DOUBLE_ROUNDING),
    Requant.DOUBLE_ROUNDING,
    FLOAT_SOFTMAX,
)
FLOAT_LAYER = Layer(Requant.FLOAT32_HALF_EVEN, SINGLE)
Q8_8 = ratio(2.0**-8, 2.0**7 + 1e-9, 0)
XNNPACK = (
    Rule(("Conv",), Clamped(FLOAT_LAYER, Kernels.XNNPACK), (*LAYERS, spatial(2))),
    Rule(("Gemm", "MatMul"), Clamped(FLOAT_LAYER, Kernels.XNNPACK), (*LAYERS, lambda op, _: _constant(op))),
    Rule(("ConvTranspose",), Transposed(Requant.FLOAT32_HALF_EVEN, SINGLE), (*LAYERS, plain)),
    Rule(
        ("Add",),
        Clamped(Sum(Addition.FIXED_HALF_UP), Kernels.XNNPACK),
        (*BOTH, ratio(2.0**-10, 2.0**8, 0, 1)),
    ),
    Rule(
        ("Sub",),
        Clamped(Difference(Addition.FIXED_HALF_UP), Kernels.XNNPACK),
        (*BOTH, ratio(2.0**-10, 2.0**8, 0, 1)),
    ),
    Rule(("Mul",), Clamped(Product(Requant.FLOAT32_HALF_EVEN), Kernels.XNNPACK), BOTH),
    Rule(("LeakyRelu",), Sloped(Requant.Q8_8), (*ONE, plain, Q8_8)),
    Rule(("Sigmoid", "Tanh"), Looked(Kernels.XNNPACK), (*ONE, plain)),
    Rule(("QuantizeLinear",), Quantized("xnnpack"), (all_of_output(INT8), lambda op, _: len(op.inputs) == 1)),
    Rule(("Requantize",), Converted(Requant.Q8_8), (*ONE, Q8_8)),
    Rule(("GlobalAveragePool", "ReduceMean"), Mean(Kernels.XNNPACK), (*ONE, plain)),
)
_REFERENCE = (*_shared(REFERENCE), *_quantize(REFERENCE), REFERENCE_MEAN)
_DEPTHWISE = InBlocks(Clamped(OPTIMIZED.layer, Kernels.OPTIMIZED), Clamped(REFERENCE.layer, Kernels.REFERENCE))
_OWN = (
    Rule(("Conv",), _DEPTHWISE, (*LAYERS, spatial(2), depthwise)),
    Rule(
        ("ConvTranspose",),
        InBlocks(Transposed(Requant.NEON), Transposed(Requant.DOUBLE_ROUNDING)),
        (*LAYERS, plain),
    ),
    Rule(("Add",), Clamped(OptimizedSum(last=True), Kernels.OPTIMIZED), (*BOTH, channels_first)),
    Rule(("Add",), Clamped(OptimizedSum(), Kernels.OPTIMIZED), BOTH),
)
_OPTIMIZED = (*_OWN, *_shared(OPTIMIZED), *_quantize(OPTIMIZED), *OPTIMIZED_MEANS, REFERENCE_MEAN)
_MICRO = (
    Rule(
        ("Gemm", "MatMul"),
        Clamped(REFERENCE.layer, Kernels.REFERENCE),
        (*LAYERS, lambda op, _: _constant(op)),
    ),
    Rule(("Mul",), Clamped(WiderProduct(), Kernels.REFERENCE), BOTH),
)
_SOURCE = "LiteRT 2.3.0, "
_BESIDE = "run beside the runtime, no integer of five networks differs; of random operators "
LITERT_REFERENCE = Machine("litert@reference", _SOURCE + "reference kernels", _BESIDE + "none", _REFERENCE)
LITERT_OPTIMIZED = Machine(
    "litert@optimized-x86",
    _SOURCE + "its own kernels on x86-64",
    _BESIDE + "one in 12,000 of ADD, and MUL where products go far beyond the output's range",
    _OPTIMIZED,
)
LITERT_XNNPACK = Machine(
    "litert@xnnpack",
    _SOURCE + "its default delegate on x86-64",
    _BESIDE + "one in 1,700 of MEAN, beside ties",
    (*XNNPACK, *_OPTIMIZED),
)
TFLITE_MICRO = Machine(
    "tflite-micro",
    "TensorFlow Lite Micro's reference kernels",
    "run beside the runtime, of random operators one in 160 of LEAKY_RELU and one in 4,000 of LOGISTIC differ",
    (*_MICRO, *_REFERENCE),
)
LITERT = (LITERT_REFERENCE, LITERT_OPTIMIZED, LITERT_XNNPACK, TFLITE_MICRO)
