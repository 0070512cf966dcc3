"""LiteRT's sets of kernels, on x86 and on Arm64, and TFLite Micro's, for int8 codes.

    operator                 reference, Micro     optimized                 XNNPACK
    CONV_2D, DEPTHWISE       double_rounding      neon; CONV_2D on Arm64    float32_half_even
                                                  single_rounding, of
                                                  groups double_rounding
    FULLY_CONNECTED          float64_half_away    neon, on Arm64            float32_half_even
                             (Micro: double_      single_rounding
                             rounding)
    BATCH_MATMUL             double_rounding      double_rounding           float32_half_even where zb = 0
    the same of int16        int16x8              int16x8                   int16x8
    ADD                      double_rounding      in blocks                 fixed_half_up
    SUB                      double_rounding      double_rounding           fixed_half_up
    MUL                      double_rounding      in blocks                 float32_half_even, on Arm64 rndnu
    QUANTIZE of reals        tflite-reference     tflite-optimized          xnnpack
    QUANTIZE of codes        double_rounding      neon, double_rounding     q8_8
    LEAKY_RELU               double_rounding      double_rounding           q8_8
    LOGISTIC, TANH           table; in Micro      table                     table
                             `numerics.gemmlowp`
    SOFTMAX                  `numerics.gemmlowp`  float32, on Arm64         as optimized
                                                  exponentials of 16 bits
    RELU6 alone              double_rounding; Micro limits the input's codes and leaves its scale
    DEQUANTIZE, MEAN, AVERAGE_POOL                `numerics.litert`
    MAX_POOL, RESHAPE, ...   codes moved, where parameters stay

Multipliers are f64(sx) f64(sw) / f64(sy), XNNPACK's float32. XNNPACK leaves an operator whose ratio of scales is out of
its reach to the optimized kernels. Names of rows are those of `Requant`, `Addition` and `numerics.profiles`; blocks are
those of `litert_blocks`. In a file read back a Gemm is FULLY_CONNECTED and a MatMul BATCH_MATMUL, by constants too.

Sources: ai_edge_litert 2.3.0 and tflite-micro, measured on x86-64 with AVX512, and on Arm64 under qemu (Cortex-A76).
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from halfeven.graph.network import Network, Op
from halfeven.numerics.elementwise import Addition
from halfeven.numerics.grid import INT8, INT8_NARROW, INT16, IntGrid
from halfeven.numerics.litert import Kernels, product_multiplier
from halfeven.numerics.requant import Requant
from halfeven.run.integer.borders import ToReal
from halfeven.run.integer.conditions import (
    all_of,
    attribute,
    coded_bias,
    coded_output,
    fixed_scale,
    one_scale,
    plain,
    same_params,
    spatial,
    types,
)
from halfeven.run.integer.layers import DOUBLE, SINGLE, Layer
from halfeven.run.integer.litert_blocks import block_product, block_sum, block_sum_16
from halfeven.run.integer.litert_int16 import MICRO_WIDE, TWO, WIDE_RULES
from halfeven.run.integer.litert_kernels import (
    FIXED_SOFTMAX,
    FLOAT_SOFTMAX,
    SOFTMAX_16,
    Averaged,
    Bounded,
    Converted,
    Difference,
    FixedLooked,
    Looked,
    Mean,
    Padded,
    Quantized,
    Real,
    Sloped,
    Softmax,
    WiderProduct,
    bounds_of,
    channels_first,
    kept_places,
    pictures_mean,
)
from halfeven.run.integer.litert_layers import (
    Clamped,
    Extreme,
    InBlocks,
    MatrixProduct,
    OneColumn,
    Rectified,
    Transposed,
    depthwise,
    grouped,
)
from halfeven.run.integer.litert_micro import first_scales
from halfeven.run.integer.machine import Condition, Kernel, Machine, Rule, affine
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
    column: Requant | None = None
    """Of a layer that gives one column, where that is another than that of `layer` and `dense`."""

    def by_columns(self, layer: Layer) -> Kernel:
        """The layer, and the other where it gives one column."""
        return layer if self.column is None else OneColumn(layer, replace(layer, requant=self.column))


def ratio(low: float, high: float, *ports: int) -> Condition:
    """The scales of these operands over the output's lie in [low, high)."""

    def holds(op: Op, _: Network) -> bool:
        params = op.outputs[0].params
        assert params is not None
        out = np.float32(params.scale.ravel()[0])
        return all(low <= np.float32(affine(op, port).scale) / out < high for port in ports)

    return holds


def product_held(op: Op, _: Network) -> bool:
    """The product of the operands' scales over the output's lies in [2**-16, 2**8)."""
    params = op.outputs[0].params
    assert params is not None
    m = np.float32(affine(op, 0).scale) * np.float32(affine(op, 1).scale) / np.float32(params.scale.ravel()[0])
    return bool(2.0**-16 <= m < 2.0**8)


def scales_stay(op: Op, network: Network) -> bool:
    """The first operand and the output share their parameters."""
    return same_params(Op(op.kind, op.name, op.inputs[:1], op.outputs), network)


def all_of_output(*grids: IntGrid) -> Condition:
    """The only output has codes of one of these grids."""
    return lambda op, _: op.outputs[0].params is not None and op.outputs[0].params.scheme.grid in grids


def _layers(f: Flavours) -> tuple[Rule, ...]:
    return (
        Rule(("Conv",), Clamped(f.by_columns(f.layer), f.kernels), (*LAYERS, spatial(2))),
        Rule(("Gemm",), Clamped(f.by_columns(f.dense), f.kernels), LAYERS),
        Rule(("MatMul",), MatrixProduct(Requant.DOUBLE_ROUNDING, product_multiplier), (*BOTH, plain)),
        Rule(("ConvTranspose",), Transposed(f.layer.requant), (*LAYERS, plain)),
    )


def _shared(f: Flavours) -> tuple[Rule, ...]:
    """What all sets compute alike, or by `f`."""
    return (
        Rule(("DequantizeLinear",), ToReal(), (lambda op, _: len(op.inputs) == 1,)),
        *_layers(f),
        *WIDE_RULES,
        Rule(("Add",), Clamped(Sum(f.sums), f.kernels), BOTH),
        Rule(("Sub",), Clamped(Difference(f.sums), f.kernels), BOTH),
        Rule(("Mul",), Clamped(Product(f.product), f.kernels), BOTH),
        Rule(("Relu", "Clip"), Rectified(), (*ONE, plain)),
        Rule(("LeakyRelu",), Sloped(f.slope), (*ONE, plain)),
        Rule(("Sigmoid", "Tanh"), Looked(f.kernels), (*ONE, plain)),
        Rule(("AveragePool",), Averaged(f.kernels), (*ONE, scales_stay)),
        Rule(("Softmax",), f.softmax, (*ONE, plain)),
        Rule(
            ("Pad",),
            Padded(),
            (types((INT8,), (INT16,)), *ONE[1:], scales_stay, attribute("mode", "constant", ("constant", b"constant"))),
        ),
        Rule(("Max", "Min"), Extreme(), (*BOTH, same_params)),
        Rule(("Concat",), Joined(), (all_of(INT8), same_params)),
        Rule(MOVES, Moved(), (same_params, types((INT8,), (INT16,)))),
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
    Layer(Requant.NEON, product_multiplier),
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
    Rule(("Gemm",), Clamped(FLOAT_LAYER, Kernels.XNNPACK), LAYERS),
    Rule(
        ("MatMul",),
        MatrixProduct(Requant.FLOAT32_HALF_EVEN, SINGLE),
        (*BOTH, plain, lambda op, _: affine(op, 1).zero_point == 0),
    ),
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
    Rule(("Mul",), Clamped(Product(Requant.FLOAT32_HALF_EVEN), Kernels.XNNPACK), (*BOTH, product_held)),
    Rule(("DequantizeLinear",), ToReal(), (lambda op, _: len(op.inputs) == 1,)),
    Rule(("LeakyRelu",), Sloped(Requant.Q8_8), (*ONE, plain, Q8_8)),
    Rule(("Sigmoid", "Tanh"), Looked(Kernels.XNNPACK), (*ONE, plain)),
    Rule(("QuantizeLinear",), Quantized("xnnpack"), (all_of_output(INT8), lambda op, _: len(op.inputs) == 1)),
    Rule(("Requantize",), Converted(Requant.Q8_8), (*ONE, Q8_8)),
    Rule(("GlobalAveragePool", "ReduceMean"), Mean(Kernels.XNNPACK), (*ONE, plain)),
)
_REFERENCE = (*_shared(REFERENCE), *_quantize(REFERENCE), REFERENCE_MEAN)
_DEPTHWISE = InBlocks(Clamped(OPTIMIZED.layer, Kernels.OPTIMIZED), Clamped(REFERENCE.layer, Kernels.REFERENCE))


def _optimized(f: Flavours, fused: bool) -> tuple[Rule, ...]:
    """LiteRT's own kernels. `fused`: float products and sums round once, as on Arm64."""
    one_input = (lambda op, _: len(op.inputs) == 1, one_scale(0))
    return (
        Rule(("DequantizeLinear",), Real(fused, last=True), (*one_input, types((INT8,), output=False), channels_first)),
        Rule(("DequantizeLinear",), Real(fused), (*one_input, types((INT8,), output=False))),
        Rule(("Conv",), _DEPTHWISE, (*LAYERS, spatial(2), depthwise)),
        Rule(("Conv",), Clamped(REFERENCE.layer, Kernels.REFERENCE), (*LAYERS, spatial(2), grouped)),
        Rule(
            ("ConvTranspose",),
            InBlocks(Transposed(Requant.NEON), Transposed(Requant.DOUBLE_ROUNDING)),
            (*LAYERS, plain),
        ),
        Rule(("Add",), Clamped(block_sum(True), Kernels.OPTIMIZED), (*BOTH, channels_first)),
        Rule(("Add",), Clamped(block_sum(False), Kernels.OPTIMIZED), BOTH),
        Rule(("Add",), Clamped(block_sum_16(True), Kernels.REFERENCE), (*TWO, channels_first)),
        Rule(("Add",), Clamped(block_sum_16(False), Kernels.REFERENCE), TWO),
        Rule(("Mul",), Clamped(block_product(True), Kernels.OPTIMIZED), (*BOTH, channels_first)),
        Rule(("Mul",), Clamped(block_product(False), Kernels.OPTIMIZED), BOTH),
        *_shared(f),
        *_quantize(f),
        *OPTIMIZED_MEANS,
        REFERENCE_MEAN,
    )


_OPTIMIZED = _optimized(OPTIMIZED, fused=False)
_RUY = Requant.SINGLE_ROUNDING
_ON_ARM64 = replace(
    OPTIMIZED,
    layer=Layer(_RUY, DOUBLE),
    dense=Layer(_RUY, product_multiplier),
    softmax=SOFTMAX_16,
    column=Requant.NEON,
)
_ARM64 = _optimized(_ON_ARM64, fused=True)
_MICRO = (
    MICRO_WIDE,
    Rule(("Gemm",), Clamped(REFERENCE.layer, Kernels.REFERENCE), LAYERS),
    Rule(("MatMul",), MatrixProduct(Requant.DOUBLE_ROUNDING), (*BOTH, plain)),
    Rule(("Mul",), Clamped(WiderProduct(), Kernels.REFERENCE), BOTH),
    Rule(("LeakyRelu",), Sloped(Requant.DOUBLE_ROUNDING, wide=True), (*ONE, plain)),
    Rule(("Relu",), Converted(Requant.DOUBLE_ROUNDING), (*ONE, plain)),
    Rule(("Clip",), Bounded(), (*ONE, plain, lambda op, _: bounds_of(op) == (0.0, 6.0))),
    Rule(("Sigmoid",), FixedLooked(), (*ONE, plain, fixed_scale(1 / 256, -128))),
    Rule(("Tanh",), FixedLooked(), (*ONE, plain, fixed_scale(1 / 128, 0))),
    *_REFERENCE,
)
_SOURCE = "LiteRT 2.3.0, "
_BESIDE = "run beside the runtime, no integer of random operators differs, nor of whole networks before a float region"
_QEMU = "run beside the runtime under qemu (Cortex-A76), no integer of random operators or whole networks differs"
LITERT_REFERENCE = Machine("litert@reference", _SOURCE + "reference kernels", _BESIDE, _REFERENCE)
LITERT_OPTIMIZED = Machine("litert@optimized-x86", _SOURCE + "its own kernels on x86-64", _BESIDE, _OPTIMIZED)
LITERT_OPTIMIZED_ARM64 = Machine("litert@optimized-arm64", _SOURCE + "its own kernels on Arm64", _QEMU, _ARM64)
LITERT_XNNPACK = Machine("litert@xnnpack", _SOURCE + "its default delegate on x86-64", _BESIDE, (*XNNPACK, *_OPTIMIZED))
LITERT_XNNPACK_ARM64 = Machine(
    "litert@xnnpack-arm64",
    _SOURCE + "its default delegate on Arm64",
    _QEMU,
    (
        Rule(("Mul",), Clamped(Product(Requant.RNDNU), Kernels.XNNPACK), (*BOTH, product_held)),
        Rule(MEANS, Mean(Kernels.XNNPACK, fused=True), (*ONE, plain)),
        *XNNPACK,
        *_ARM64,
    ),
)
TFLITE_MICRO = Machine(
    "tflite-micro",
    "TensorFlow Lite Micro's reference kernels",
    "run beside the runtime, no output of whole networks and no integer of random operators differs",
    _MICRO,
    prepare=partial(first_scales, rules=_MICRO),
)
LITERT = (
    LITERT_REFERENCE,
    LITERT_OPTIMIZED,
    LITERT_OPTIMIZED_ARM64,
    LITERT_XNNPACK,
    LITERT_XNNPACK_ARM64,
    TFLITE_MICRO,
)
