"""TensorRT, explicit quantization.

Symmetric only: int8, zero point 0, activations per-tensor with full grid, weights per-channel. Q/DQ stand at the inputs
of layers and on the residual branch of Add; a bias stays float, as TensorRT fuses it into the kernel itself. Of ONNX's
quantized operators its reader has QuantizeLinear and DequantizeLinear, and none that finds scales in each run
(onnx-tensorrt docs/operators.md: DynamicQuantizeLinear, ConvInteger and MatMulInteger are not supported).
"""

from halfeven.numerics.grid import INT8, INT8_NARROW
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import UNDILATED, Numerics, OpRule, Target

ACT = Scheme(INT8)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))

TENSORRT = Target(
    name="tensorrt",
    source="NVIDIA TensorRT developer guide, working with quantized types: explicit quantization, Q/DQ placement",
    rules=(
        OpRule(
            ("Conv", "ConvTranspose", "MatMul", "Gemm"), ACT, weight=WEIGHT, output="either", fuses=("Relu", "Clip")
        ),
        OpRule(("Add",), ACT, output="either", fuses=("Relu", "Clip"), constants=False, residual=True),
        OpRule(("AveragePool", "GlobalAveragePool"), ACT, output="either", where=UNDILATED),
        OpRule(("Concat", "MaxPool"), ACT, output="as_input"),
        OpRule(("Resize",), ACT, output="as_input", ports=(0,)),
    ),
    costs=UNIFORM,
    numerics=Numerics(bias_bits=0),
    clamps_in_range=False,
    clamp_by_channel=False,
    recurrent="TensorRT runs {op} in float or half precision",
    formats=("qdq", "tensorrt-cache", "tensorrt-cache-minmax", "tensorrt-precision", "ppq-tensorrt"),
)
