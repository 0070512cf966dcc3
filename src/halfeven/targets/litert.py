"""LiteRT (TensorFlow Lite), its XNNPACK delegate, and TensorFlow Lite Micro.

int8: activations affine of all codes, weights symmetric per channel, bias int32. Of a product of two activations the
second is symmetric: XNNPACK multiplies by no other, and LiteRT's own kernels take ten times as long and more. What
moves codes keeps one scale, and so do pools that average. Sigmoid, Softmax and Tanh have an output of one scale: 1/256
from -128, and 1/128 around 0. Division is by constants. `litert-int16` is the 16x8 scheme: activations int16 symmetric,
weights int8, bias int64 made of the float one; its sigmoids are 1/32768, its linear Resize, which keeps ten bits, stays
float.

Hybrid kernels find the scale of what a layer reads in each run; of an LSTM's, written out, too.

No integer kernel: Sqrt, Pow, Erf, Clip of another scale, LayerNormalization, recurrent layers (written out, in float).
"""

from halfeven.numerics.grid import INT8, INT8_NARROW, INT16
from halfeven.numerics.scheme import Scheme, ZeroRule, per_channel
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import UNDILATED, Numerics, OpRule, Target

ACT = Scheme(INT8, zero_point=ZeroRule.FREE)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))
SECOND = Scheme(INT8)
ACT_16 = Scheme(INT16)
RECURRENT = (
    "LiteRT's one integer recurrent kernel, an LSTM, keeps its state from run to run; "
    "the steps of {op} are written out in float"
)
PICKED = ("Concat", "MaxPool", "GlobalMaxPool", "Max", "Min", "Clip", "ReduceMax", "ReduceMin")
MOVED = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Expand")

LITERT = Target(
    name="litert",
    source="TensorFlow Lite 8-bit quantization specification; kernels of ai-edge-litert 2.3, run and read back",
    rules=(
        OpRule(("Conv", "ConvTranspose", "MatMul", "Gemm"), ACT, weight=WEIGHT, fuses=("Relu", "Clip")),
        OpRule(("MatMul",), ACT, second=SECOND),
        OpRule(("Add", "Sub", "Mul"), ACT, fuses=("Relu", "Clip")),
        OpRule(("Div",), ACT, ports=(0,), fuses=("Relu", "Clip")),
        OpRule(("GlobalAveragePool", "ReduceMean", "LeakyRelu", "PRelu", "Relu", "HardSwish", "HardSigmoid"), ACT),
        OpRule(("Sigmoid", "Softmax"), ACT, fixed=(1 / 256, -128)),
        OpRule(("Tanh",), ACT, fixed=(1 / 128, 0)),
        OpRule(("AveragePool",), ACT, output="as_input", where=UNDILATED),
        OpRule(PICKED, ACT, output="as_input"),
        OpRule(("Pad", "Resize", "Gather"), ACT, output="as_input", ports=(0,)),
        OpRule(MOVED, ACT, output="as_input"),
    ),
    costs=UNIFORM,
    recurrent=RECURRENT,
    formats=("tflite",),
    dynamic=("Conv", "MatMul", "Gemm", "LSTM"),
)

LITERT_INT16 = Target(
    name="litert-int16",
    source="TensorFlow Lite 16x8 quantization; kernels of ai-edge-litert 2.3, run and read back",
    rules=(
        OpRule(("Conv", "ConvTranspose", "MatMul", "Gemm"), ACT_16, weight=WEIGHT, fuses=("Relu", "Clip")),
        OpRule(("MatMul",), ACT_16, second=ACT_16),
        OpRule(("Add", "Sub", "Mul"), ACT_16, fuses=("Relu", "Clip")),
        OpRule(("Div",), ACT_16, ports=(0,), fuses=("Relu", "Clip")),
        OpRule(("GlobalAveragePool", "ReduceMean", "LeakyRelu", "Relu", "HardSigmoid"), ACT_16),
        OpRule(("Sigmoid", "Softmax", "Tanh"), ACT_16, fixed=(1 / 32768, 0)),
        OpRule(("AveragePool",), ACT_16, output="as_input", where=UNDILATED),
        OpRule(PICKED, ACT_16, output="as_input"),
        OpRule(("Pad", "Gather"), ACT_16, output="as_input", ports=(0,)),
        OpRule(("Resize",), ACT_16, output="as_input", where={"mode": ("nearest", None)}, ports=(0,)),
        OpRule(MOVED, ACT_16, output="as_input"),
    ),
    costs=UNIFORM,
    numerics=Numerics(bias_bits=0),
    recurrent=RECURRENT,
    formats=("tflite",),
    dynamic=("Conv", "MatMul", "Gemm", "LSTM"),
)
