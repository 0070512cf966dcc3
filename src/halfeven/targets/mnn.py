"""MNN on CPU.

int8: activations affine, one scale; weights symmetric per output channel; biases int32 at the scale of the product,
which MNN adds as real numbers in a layer over all channels, as integers in a depthwise one. What a layer, or an
operator of two coded tensors, hands on is rounded half away from zero. The converter makes layers integer; an operator
between computes on codes where all its tensors have scales, as read or made by such layers. Pools and all other
operators compute in float between, see `exporters.mnn`.
"""

from halfeven.numerics.grid import INT8, INT8_NARROW
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import Scheme, ZeroRule, per_channel
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import Numerics, OpRule, Target

ACT = Scheme(INT8, zero_point=ZeroRule.FREE)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))

MNN = Target(
    name="mnn",
    source="MNN 3.6.1: FullQuantAndCoding.cpp, Pipeline.cpp, CPUConvolution.cpp; run, operator by operator",
    rules=(
        OpRule(("Conv", "Gemm", "MatMul"), ACT, weight=WEIGHT, fuses=("Relu", "Clip")),
        OpRule(("Add",), ACT, fuses=("Relu", "Clip"), constants=False),
        OpRule(("Concat", "MaxPool"), ACT, output="as_input"),
        OpRule(("Resize",), ACT, output="as_input", where={"mode": ("nearest", None), "axes": (None,)}, ports=(0,)),
        OpRule(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split"), ACT, output="as_input"),
    ),
    costs=UNIFORM,
    numerics=Numerics(rounding=Rounding.HALF_AWAY),
    clamp_by_channel=False,
    recurrent="MNN's converter gives {op} no static scales",
    formats=("mnn", "mnn-params"),
)
