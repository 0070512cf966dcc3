"""ONNX Runtime on CPU: x86-64 (unsigned activations) and Arm (signed activations).

x86: kernels are fast with uint8 activations and int8 weights; int8 activations are fused only when the session is told
so. Arm has the signed kernels by default. Both take affine activations, per-channel symmetric int8 weights and an int32
bias of scale (input scale * weight scale). What is "own" below has a QLinear kernel; what is "as_input" runs on codes
as they are. Codes of 4 and of 16 bits are taken, though no kernel computes on them: weights of 4 bits become real first
(a MatMul of real activations has MatMulNBits), and what stands between 16-bit codes is float. Scales found in each run
are those of DynamicQuantizeLinear, before ConvInteger, MatMulInteger and in DynamicQuantizeLSTM. Not listed means no
integer kernel (Div, Sub, Erf, Clip on its own, LayerNormalization, ConvTranspose) or none to rely on: QLinearSoftmax
gives zeros where the output's scale is not near 1/256.
"""

from dataclasses import replace

from halfeven.numerics.grid import INT8, INT8_NARROW, INT16, UINT8, IntGrid
from halfeven.numerics.scheme import Scheme, ZeroRule, per_channel
from halfeven.targets.costs import ORT_X86, UNIFORM
from halfeven.targets.target import UNDILATED, OpRule, Target

ACT = Scheme(UINT8, zero_point=ZeroRule.FREE)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))

RULES = (
    OpRule(("Conv",), ACT, weight=WEIGHT, fuses=("Relu", "Clip")),
    OpRule(("MatMul", "Gemm"), ACT, weight=WEIGHT, output="either", fuses=("Relu", "Clip")),
    OpRule(("Gather",), ACT, weight=WEIGHT),
    OpRule(("Add", "Mul"), ACT, fuses=("Relu", "Clip")),
    OpRule(("AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"), ACT, where=UNDILATED),
    OpRule(("Concat", "MaxPool"), ACT, output="as_input"),
    OpRule(("Resize",), ACT, output="as_input", where={"mode": ("nearest", None), "axes": (None,)}, ports=(0,)),
    OpRule(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split"), ACT, output="as_input"),
)

ONNXRUNTIME = Target(
    name="onnxruntime",
    source="onnxruntime 1.31 core/optimizer/qdq_transformer (selectors), quantization/registry.py; run and read back",
    rules=RULES,
    costs=ORT_X86,
    recurrent="ONNX Runtime has no integer kernel for static {op}; its weights dequantize on every run",
    formats=("qdq", "qdq-int4", "qoperator", "matmulnbits", "matmulnbits-int8", "ort-calibration", "encodings"),
    takes=(
        *(Scheme(UINT8, zero_point=ZeroRule.FREE), Scheme(INT8, zero_point=ZeroRule.FREE)),
        *(Scheme(IntGrid(16, signed=False), zero_point=ZeroRule.FREE), Scheme(INT16, zero_point=ZeroRule.FREE)),
        *(Scheme(IntGrid(4, signed=False), zero_point=ZeroRule.FREE), Scheme(IntGrid(4), zero_point=ZeroRule.FREE)),
    ),
    dynamic=("Conv", "MatMul", "Gemm", "LSTM"),
)

ACT_S8 = Scheme(INT8, zero_point=ZeroRule.FREE)
ONNXRUNTIME_ARM = replace(
    ONNXRUNTIME,
    name="onnxruntime-arm",
    source="as onnxruntime; MLAS signed kernels (S8S8) for Arm64",
    rules=tuple(replace(rule, data=ACT_S8) for rule in RULES),
    costs=UNIFORM,
)
