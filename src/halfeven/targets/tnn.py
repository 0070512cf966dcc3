"""TNN on CPU: Arm, x86 and its plain C++ device. Read from its sources; nothing here was run in TNN.

int8: activations symmetric with one scale, codes -128..127, weights symmetric with one scale for each output channel,
biases int32 at the scale of the product. An int8 layer has codes in and out, so what a layer makes has a scale of its
own. Accumulators plus bias become float32, are multiplied by f32(f32(s_x s_w) / s_y) and rounded half away from zero:
Arm by its own instruction, x86 and the C++ device by adding 0.5 and cutting, which differs at 0.49999997 alone.

The kernels with int8 codes: Convolution (with Relu), InnerProduct, Add of two tensors of one shape, ReLU, Concat,
Pooling and Upsample. Of these an average over codes is cut towards zero in 16 bits and a linear Upsample has its own
fixed-point weights, so averages and Upsamples other than the nearest stay float. What moves codes has no int8 kernel;
TNN makes the codes real before it and gets the same ones behind it, which is why their scales are shared.
TNN's optimizer adds a sum into the 1 x 1 convolution before it, which then makes no codes of its own: codes of such a
sum are nearer to the real numbers than those of the plan, and differ where that rounds or saturates.
"""

from halfeven.numerics.grid import INT8, INT8_NARROW
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import Numerics, OpRule, Target

ACT = Scheme(INT8)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))

TNN = Target(
    name="tnn",
    source="TNN (github.com/Tencent/TNN, 2023) device/{cpu,arm,x86}/acc, optimizer, interpreter/tnn; read, never run",
    rules=(
        OpRule(("Conv", "Gemm", "MatMul"), ACT, weight=WEIGHT, fuses=("Relu", "Clip")),
        OpRule(("Add",), ACT, fuses=("Relu", "Clip"), constants=False),
        OpRule(("Concat", "MaxPool"), ACT, output="as_input"),
        OpRule(("Resize",), ACT, output="as_input", where={"mode": ("nearest", None), "axes": (None,)}, ports=(0,)),
        OpRule(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split"), ACT, output="as_input"),
    ),
    costs=UNIFORM,
    numerics=Numerics(rounding=Rounding.HALF_AWAY),
    clamps_in_range=False,
    clamp_by_channel=False,
    recurrent="TNN's int8 kernels have no {op}",
    formats=("tnn",),
)
