"""AMD Xilinx' DPU, by Vitis AI.

Every scale is a power of two, one for a whole tensor: value = code * 2**-fix. Feature maps, weights and biases are int8
of all codes; a bias has a fix position of its own and is shifted to the accumulator's. Feature maps round half up
(method 2 of fix_neuron), weights half away from zero (method 3); `numerics.profiles` has all methods. Here weights and
the simulation round half to even: ties differ, and no weight that Gptq has put on its grid is one.

`Gemm` and `MatMul` with a constant are its fully connected layers. Clip is its ReLU6. What is not listed runs on the
host, in float.
"""

from halfeven.numerics.grid import INT8
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import PER_TENSOR, ScaleRule, Scheme
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import UNDILATED, Numerics, OpRule, Target

ACT = Scheme(INT8, PER_TENSOR, ScaleRule.POWER_OF_TWO)

VITIS_DPU = Target(
    name="vitis-dpu",
    source="Vitis AI 3.5 nndct_fix_kernels.cuh, quant_info.py, TORCHQuantizer; UG1414, operators of DPUCZDX8G",
    rules=(
        OpRule(("Conv", "ConvTranspose", "Gemm", "MatMul"), ACT, weight=ACT, fuses=("Relu", "Clip")),
        OpRule(("Add", "Mul"), ACT, fuses=("Relu", "Clip"), constants=False),
        OpRule(("AveragePool", "GlobalAveragePool"), ACT, where=UNDILATED),
        OpRule(("Relu", "Clip", "LeakyRelu"), ACT),
        OpRule(("Concat", "MaxPool"), ACT, output="as_input"),
        OpRule(("Pad",), ACT, output="as_input", ports=(0,)),
        OpRule(("Resize",), ACT, output="as_input", where={"mode": ("nearest", None), "axes": (None,)}, ports=(0,)),
        OpRule(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice"), ACT, output="as_input"),
    ),
    costs=UNIFORM,
    numerics=Numerics(rounding=Rounding.HALF_UP, bias_bits=8, profile="vitis-dpu"),
    recurrent="the DPU has no recurrent layers",
    formats=("vitis-fix",),
)
