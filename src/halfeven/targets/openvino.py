"""OpenVINO's CPU plugin.

Its low-precision transformations take quantize/dequantize pairs in front of layers, propagate them through what keeps
scales, and fuse the dequantization behind. Activations uint8 or int8 affine, weights int8 symmetric per-channel. Its
ONNX reader has DynamicQuantizeLinear, ConvInteger and MatMulInteger, and no DynamicQuantizeLSTM.
"""

from halfeven.numerics.grid import INT8_NARROW, UINT8
from halfeven.numerics.scheme import Scheme, ZeroRule, per_channel
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import UNDILATED, OpRule, Target

ACT = Scheme(UINT8, zero_point=ZeroRule.FREE)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))

OPENVINO = Target(
    name="openvino",
    source="OpenVINO 2026.4 low precision transformations, documentation; execution graph read back",
    rules=(
        OpRule(
            ("Conv", "ConvTranspose", "MatMul", "Gemm"), ACT, weight=WEIGHT, output="either", fuses=("Relu", "Clip")
        ),
        OpRule(("Add",), ACT, fuses=("Relu", "Clip"), constants=False),
        # padding that counts is filled with code 0 there, not with the zero point
        OpRule(("AveragePool", "GlobalAveragePool"), ACT, where={"count_include_pad": (None,), **UNDILATED}),
        OpRule(("Concat", "MaxPool"), ACT, output="as_input"),
        OpRule(("Resize",), ACT, output="as_input", where={"mode": ("nearest", None), "axes": (None,)}, ports=(0,)),
        OpRule(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split"), ACT, output="as_input"),
    ),
    costs=UNIFORM,
    recurrent="OpenVINO runs {op} in float",
    formats=("qdq", "openvino-ir"),
    dynamic=("Conv", "MatMul", "Gemm"),
)
