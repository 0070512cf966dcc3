"""Horizon's BPU (Journey 6), as far as it is public: symmetric linear codes only.

Feature maps int8, or int16 where asked for; weights int8, one scale for each output channel; biases int32; zero points
are 0. Since OE 3.0.31 the toolchain rounds half to even, before that floor(x + 0.5): the two profiles of
`numerics.profiles`. How the BPU rounds inside its kernels is not published, so a simulation is right about what is
quantized where, not about each integer. The operators are those that every such unit has; the toolchain decides.
"""

from dataclasses import replace

from halfeven.numerics.grid import INT8, INT8_NARROW, INT16
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import UNDILATED, Numerics, OpRule, Target

ACT = Scheme(INT8)
ACT_16 = Scheme(INT16)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))

HORIZON = Target(
    name="horizon",
    source="Horizon OpenExplorer (Journey 6), symmetric linear quantization; rounding since OE 3.0.31: nearbyint",
    rules=(
        OpRule(("Conv", "ConvTranspose", "MatMul", "Gemm"), ACT, weight=WEIGHT, fuses=("Relu", "Clip")),
        OpRule(("Add", "Sub", "Mul"), ACT, fuses=("Relu", "Clip")),
        OpRule(("AveragePool", "GlobalAveragePool"), ACT, where=UNDILATED),
        OpRule(("ReduceMean", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Clip"), ACT),
        OpRule(("Concat", "MaxPool"), ACT, output="as_input"),
        OpRule(("Pad",), ACT, output="as_input", ports=(0,)),
        OpRule(("Resize",), ACT, output="as_input", where={"mode": ("nearest", None), "axes": (None,)}, ports=(0,)),
        OpRule(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split"), ACT, output="as_input"),
    ),
    costs=UNIFORM,
    numerics=Numerics(profile="journey6>=3.0.31"),
    recurrent="no integer {op} of Horizon's is published",
    formats=("qdq", "encodings"),
    takes=(ACT_16,),
)

HORIZON_BEFORE_3_0_31 = replace(
    HORIZON,
    name="horizon-before-3.0.31",
    source="Horizon OpenExplorer (Journey 6), symmetric linear quantization; rounding before OE 3.0.31: floor(x + 0.5)",
    numerics=Numerics(rounding=Rounding.SUM_UP, profile="journey6<3.0.31"),
)

HORIZON_INT16 = replace(
    HORIZON,
    name="horizon-int16",
    rules=tuple(replace(rule, data=ACT_16) for rule in HORIZON.rules),
    takes=(ACT,),
)
