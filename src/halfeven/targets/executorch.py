"""ExecuTorch with its XNNPACK backend: activations affine int8 of all codes, weights symmetric per channel, bias int32.

What stands here has an int8 kernel that the backend's partitioner lets a quantize and dequantize pair reach. Its clamps
and Relu change scales by themselves; Concat, MaxPool and what moves codes are refused unless they keep one. Division is
by one constant number, as a product. The partitioner takes averages over pictures, and no others.

Float, though XNNPACK has such kernels: Sigmoid, Tanh, Softmax, AveragePool, LeakyRelu, HardSwish, Resize, Elu, products
of two activations.
"""

from halfeven.numerics.grid import INT8, INT8_NARROW
from halfeven.numerics.scheme import Scheme, ZeroRule, per_channel
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import OpRule, Target

ACT = Scheme(INT8, zero_point=ZeroRule.FREE)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))
MOVED = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split")

EXECUTORCH = Target(
    name="executorch",
    source="executorch 1.5.1 backends/xnnpack/partition/config, operators; run and read back",
    rules=(
        OpRule(("Conv", "ConvTranspose", "MatMul", "Gemm"), ACT, weight=WEIGHT, fuses=("Relu", "Clip")),
        OpRule(("Add", "Sub", "Mul"), ACT, fuses=("Relu", "Clip")),
        OpRule(("Div",), ACT, ports=(0,), fuses=("Relu", "Clip")),
        OpRule(("GlobalAveragePool", "Relu", "Clip"), ACT),
        OpRule(("ReduceMean",), ACT, where={"axes": ((2, 3), (-2, -1))}),
        OpRule(("MaxPool",), ACT, output="as_input", where={"ceil_mode": (None,)}),
        OpRule(("Pad",), ACT, output="as_input", ports=(0,)),
        OpRule(("Concat", *MOVED), ACT, output="as_input"),
    ),
    costs=UNIFORM,
    clamp_by_channel=False,
    recurrent="XNNPACK has no kernel for {op}; its steps are written out in float",
    formats=("executorch",),
)
