"""ncnn on CPU: for Arm, and for x86-64, where its int8 kernels do not always pay.

Its int8 layers take symmetric activations of one scale, codes -127..127, and weights of one scale for each output
channel; the bias stays float. A layer hands on codes or real numbers, as its readers need. All other layers compute in
float: codes are made real before them. What ncnn rounds, it rounds half away from zero.

`Conv` here is ncnn's Convolution or ConvolutionDepthWise, `Gemm` and `MatMul` with a constant are its InnerProduct.
Its Gemm, MultiHeadAttention, RNN, LSTM and GRU layers have int8 weights too, but find the scale of each row of their
data while they run; Deconvolution, Convolution1D and grouped convolutions with scales of their own have no int8 form.

`NCNN_X86` has costs, read from chains of four layers of one kind on an x86-64 server with AVX512-VNNI, one thread,
interleaved with float: of the time of its float layer, a 1 x 1 convolution takes 0.5 to 0.8, a 3 x 3 one 0.75 to 0.85,
a depthwise one 2.4 to 12, as only packed 3 x 3 windows have a kernel of their own. So it leaves those in float.
"""

from dataclasses import replace

from halfeven.numerics.grid import INT8_NARROW
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import Cost, Costs, Numerics, OpRule, Target

ACT = Scheme(INT8_NARROW)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))

NCNN = Target(
    name="ncnn",
    source="ncnn 20261020 convolution.cpp, convolutiondepthwise.cpp, innerproduct.cpp, modelbin.cpp; run and read back",
    rules=(OpRule(("Conv", "MatMul", "Gemm"), ACT, weight=WEIGHT, output="either", fuses=("Relu", "Clip")),),
    costs=UNIFORM,
    numerics=Numerics(rounding=Rounding.HALF_AWAY, bias_bits=0),
    clamps_in_range=False,
    clamp_by_channel=False,
    recurrent="ncnn's static int8 scales do not reach {op}",
    formats=("ncnn", "ncnn-table"),
)

X86 = Costs(
    source="ncnn 1.0.20261020, chains of layers, x86-64 with AVX512-VNNI, one thread, other programs running",
    floats={
        "Conv": Cost(mac=0.021, element=0.3, call=2000),
        "Conv/spatial": Cost(mac=0.012, element=0.3, call=2000),
        "Conv/depthwise": Cost(element=1.4, call=2000),
        "MatMul": Cost(mac=0.03, call=2000),
        "Gemm": Cost(mac=0.03, call=2000),
        "": Cost(element=0.3, call=500),
    },
    integers={
        "Conv": Cost(mac=0.011, element=0.3, call=3000),
        "Conv/spatial": Cost(mac=0.009, element=0.3, call=3000),
        "Conv/depthwise": Cost(element=8.6, call=3000),
        "MatMul": Cost(mac=0.015, call=3000),
        "Gemm": Cost(mac=0.015, call=3000),
        "": Cost(element=0.3, call=500),
    },
    quantize=Cost(element=0.35, call=1000),
    dequantize=Cost(element=0.7, call=2000),
)
NCNN_X86 = replace(NCNN, name="ncnn-x86", source=f"as ncnn; {X86.source}", costs=X86)
