"""ONNX Runtime's CPU kernels on three instruction sets, and which groups of operators its optimiser hands to them.

    operators                        x86                           Arm64
    Conv, MatMul, Gemm               float32_half_even             the same
      uint8 x int8 without VNNI      saturates in pairs            never
      depthwise, both -128           never                         wraps in pairs: `numerics.product_pairs`
    MatMul, Gemm with real output    float32(acc) * scale          the same
    Add                              float32_fused                 fixed_half_away
    Mul                              float32_inside                float32_fused
    AveragePool                      float32 sums                  the same
    GlobalAveragePool                float32_half_even             the same
    Sigmoid, LeakyRelu               table of the float function   the same
    Softmax, Concat                  `numerics.softmax`; by real numbers where parameters differ
    MaxPool, Resize, Reshape, ...    on codes, where parameters stay

On x86 Conv and MatMul are fused with uint8 activations only (int8 if the session says `session.qdqisint8allowed`), all
else and on Arm with both; there many an int8 tensor becomes uint8 first: `onnxruntime_graph`. A Relu or Clip that codes
do not make idle keeps its layer real. Everything else is real.

Sources: onnxruntime/core/optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc; numerics as measured on 1.31.1.
"""

from dataclasses import replace

from halfeven.numerics.elementwise import Addition
from halfeven.numerics.grid import INT8, UINT8
from halfeven.numerics.product_pairs import Pairs
from halfeven.numerics.requant import Requant
from halfeven.numerics.softmax import ARM_OVERFLOW
from halfeven.run.integer.borders import Through, ToCodes, ToReal
from halfeven.run.integer.conditions import (
    all_of,
    coded_bias,
    coded_output,
    explicit,
    idle_clamp,
    no_real_bias,
    one_scale,
    real_output,
    same_params,
    spatial,
    types,
    whole_gemm,
)
from halfeven.run.integer.explicit import KINDS, Explicit
from halfeven.run.integer.layers import Layer
from halfeven.run.integer.machine import Machine, Rule
from halfeven.run.integer.onnxruntime_graph import with_coded_constants, with_unsigned_pairs
from halfeven.run.integer.pointwise import GlobalMean, Joined, Moved, Product, Softmax, Sum, Table, WindowMean

BORDERS = (
    Rule(("QuantizeLinear",), ToCodes(), (coded_output, lambda op, _: len(op.inputs) == 1)),
    Rule(("DequantizeLinear",), ToReal(), (lambda op, _: len(op.inputs) == 1,)),
    Rule(("Requantize",), Through()),
)
MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "Expand", "Tile",
         "MaxPool", "Resize")  # fmt: skip
UNSIGNED = ((UINT8, INT8), (UINT8, UINT8))
SIGNED = ((INT8, INT8),)


def _rules(layer: Layer, add: Addition, mul: Requant, softmax: Softmax, signed: bool) -> tuple[Rule, ...]:
    """The kernels; of Conv and MatMul those for signed activations too, if `signed`."""
    rows, gemm = UNSIGNED + SIGNED * signed, UNSIGNED + SIGNED
    both = (all_of(UINT8, INT8), one_scale(0, 1), coded_output, idle_clamp)
    return (
        *BORDERS,
        *_explicit_rules(layer, add, mul, softmax),
        Rule(("Conv",), layer, (types(*rows), coded_output, idle_clamp, coded_bias(), one_scale(0), spatial(1, 2, 3))),
        Rule(("MatMul",), layer, (types(*rows), coded_output, idle_clamp, one_scale(0))),
        Rule(("MatMul",), layer, (types(*rows), real_output, one_scale(0))),
        Rule(("Gemm",), layer, (types(*gemm), coded_output, idle_clamp, coded_bias(), one_scale(0), whole_gemm)),
        Rule(("Gemm",), layer, (types(*gemm), real_output, no_real_bias, one_scale(0), whole_gemm)),
        Rule(("Add",), Sum(add), both),
        Rule(("Mul",), Product(mul), both),
        Rule(("GlobalAveragePool",), GlobalMean(), both),
        Rule(("AveragePool",), WindowMean(), both),
        Rule(("Sigmoid", "LeakyRelu"), Table(), both),
        Rule(("Softmax",), softmax, both),
        Rule(("Concat",), Joined(), (all_of(UINT8, INT8), coded_output, idle_clamp)),
        Rule(MOVES, Moved(), (same_params, types((UINT8,), (INT8,)))),
        Rule(KINDS, Explicit(layer.requant, layer.pairs)),
    )


def _explicit_rules(layer: Layer, add: Addition, mul: Requant, softmax: Softmax) -> tuple[Rule, ...]:
    """The kernels of operators that the file itself has on codes: of any sign, with any neighbours."""
    return (
        Rule(("Conv", "MatMul", "Gemm"), layer, (explicit,)),
        Rule(("Add",), Sum(add), (explicit,)),
        Rule(("Mul",), Product(mul), (explicit,)),
        Rule(("GlobalAveragePool",), GlobalMean(), (explicit,)),
        Rule(("AveragePool",), WindowMean(), (explicit,)),
        Rule(("Sigmoid", "LeakyRelu", "Relu", "Clip"), Table(), (explicit,)),
        Rule(("Softmax",), softmax, (explicit,)),
        Rule(("Concat",), Joined(), (explicit,)),
    )


_SOURCE = "ONNX Runtime 1.31.1, CPU execution provider, "
_INT8 = ", session.qdqisint8allowed = 1"
_BESIDE = "no integer differs in 10 million elements of each operator, nor in whole networks, run beside the runtime"
_QEMU = "no integer differs in recordings and in random operators and networks run under qemu "


def _x86(layer: Layer, signed: bool) -> tuple[Rule, ...]:
    return _rules(layer, Addition.FLOAT32_FUSED, Requant.FLOAT32_INSIDE, Softmax(), signed)


X86_VNNI = Machine(
    "onnxruntime@x86-vnni",
    _SOURCE + "x86-64 with AVX512-VNNI or AVX-VNNI",
    _BESIDE,
    _x86(Layer(), False),
    prepare=with_unsigned_pairs,
)
X86_AVX2 = Machine(
    "onnxruntime@x86-avx2",
    _SOURCE + "x86-64 with AVX2, without VNNI",
    _QEMU + "(Haswell)",
    _x86(Layer(pairs=Pairs.SATURATING), False),
    prepare=with_unsigned_pairs,
)
ARM64 = Machine(
    "onnxruntime@arm64",
    _SOURCE + "Arm64 with NEON",
    _QEMU + "(Cortex-A76)",
    _rules(
        Layer(pairs=Pairs.WRAPPING), Addition.FIXED_HALF_AWAY, Requant.FLOAT32_FUSED, Softmax(ARM_OVERFLOW), signed=True
    ),
    prepare=with_coded_constants,
)


def _int8(machine: Machine, layer: Layer) -> Machine:
    rules, source = _x86(layer, True), machine.source + _INT8
    return replace(machine, name=f"{machine.name}+int8", source=source, rules=rules, prepare=with_coded_constants)


X86_VNNI_INT8 = _int8(X86_VNNI, Layer())
X86_AVX2_INT8 = _int8(X86_AVX2, Layer(pairs=Pairs.SATURATING))
