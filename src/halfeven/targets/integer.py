"""The whole network in integers: what an integer-only chip or bare-metal C runs.

Every operator that has an integer form is quantized, with an output quantizer of its own; the rest are float regions
between dequantize and quantize. Activations int8 affine, weights int8 symmetric per-channel, bias int32. The arithmetic
is that of `halfeven.numerics.integer_target`.
"""

from halfeven.numerics.grid import INT8, INT8_NARROW
from halfeven.numerics.scheme import Scheme, ZeroRule, per_channel
from halfeven.targets.target import UNDILATED, Cost, Costs, OpRule, Target

ACT = Scheme(INT8, zero_point=ZeroRule.FREE)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))

WHOLE = Costs(
    source="not measured: a device without real numbers takes every operator that has a rule in integers",
    floats={"": Cost(call=1000.0)},
    integers={"": Cost()},
    quantize=Cost(call=1.0),
    dequantize=Cost(call=1.0),
)
INTEGER = Target(
    name="integer",
    source="Jacob et al. 2018, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342",
    rules=(
        OpRule(("Conv", "ConvTranspose", "MatMul", "Gemm"), ACT, weight=WEIGHT, fuses=("Relu", "Clip")),
        OpRule(("Add", "Sub", "Mul"), ACT, fuses=("Relu", "Clip")),
        OpRule(("Div",), ACT, ports=(0,), fuses=("Relu", "Clip")),
        OpRule(("AveragePool", "GlobalAveragePool"), ACT, where=UNDILATED),
        OpRule(("ReduceMean", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softmax"), ACT),
        OpRule(("LeakyRelu", "PRelu", "Relu", "Clip"), ACT),
        OpRule(("Concat", "MaxPool"), ACT, output="as_input"),
        OpRule(("Pad",), ACT, output="as_input", ports=(0,)),
        OpRule(("Resize",), ACT, output="as_input", where={"mode": ("nearest", None), "axes": (None,)}, ports=(0,)),
        OpRule(
            ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Expand"),
            ACT,
            output="as_input",
        ),
    ),
    costs=WHOLE,
    recurrent="the integer target has no recurrent layers",
    formats=("qdq", "c"),
)
