"""Cost tables, fitted to measurements on the targets they name.

`ORT_X86` is what `python benchmarks/costs.py` prints on a 2-core x86-64 server with AVX512-VNNI and AMX (ONNX Runtime
1.31.1, one thread, least of 9 rounds). It was read from chains of four operators, so layout changes are shared as in
a network. Run the script on your own machine to see how far it differs.

`UNIFORM` is for targets that were not measured: an integer layer costs nothing, a float layer ten, an element-wise
operator one, a border one. So layers are quantized wherever the rules allow, and what lies between two quantized
layers stays integer.
"""

from halfeven.targets.target import Cost, Costs

ORT_X86 = Costs(
    source="benchmarks/costs.py, ONNX Runtime 1.31.1, x86-64 with AVX512-VNNI and AMX, one thread",
    floats={
        "Conv": Cost(mac=0.0125, element=0.15, weight=0.06, call=1500),
        "Conv/spatial": Cost(mac=0.0165, element=0.2, weight=0.06, call=1500),
        "Conv/depthwise": Cost(element=0.43, call=3000),
        "ConvTranspose": Cost(mac=0.02, element=0.2, weight=0.06, call=3000),
        "MatMul": Cost(mac=0.0122, weight=0.06, call=1600),
        "Gemm": Cost(mac=0.0121, weight=0.06, call=1550),
        "Add": Cost(element=0.135, call=100),
        "Mul": Cost(element=0.158, call=330),
        "Concat": Cost(element=0.129, call=1060),
        "MaxPool": Cost(element=0.299, call=680),
        "AveragePool": Cost(element=0.303, call=630),
        "GlobalAveragePool": Cost(element=0.12, call=1200),
        "Resize": Cost(element=0.137, call=170),
        "Transpose": Cost(element=0.05, call=490),
        "Reshape": Cost(call=300),
        "Sigmoid": Cost(element=0.301, call=680),
        "LeakyRelu": Cost(element=0.193, call=440),
        "Softmax": Cost(element=0.325, call=3070),
        "Gather": Cost(element=0.05, call=800),
        "": Cost(element=0.14, call=200),
    },
    integers={
        "Conv": Cost(mac=0.0037, element=0.10, weight=0.03, call=2500),
        "Conv/spatial": Cost(mac=0.0037, element=0.10, weight=0.03, tap=8.0, call=2500),
        "Conv/depthwise": Cost(element=0.43, call=3000),
        "MatMul": Cost(mac=0.00129, element=0.064, weight=0.02, call=3540),
        "Gemm": Cost(mac=0.0015, weight=0.02, call=3870),
        "Add": Cost(element=0.207, call=1080),
        "Mul": Cost(element=0.304, call=1180),
        "Concat": Cost(element=0.268, call=1440),
        "MaxPool": Cost(element=13.9, call=240),
        "AveragePool": Cost(element=8.0, call=8500),
        "GlobalAveragePool": Cost(element=0.10, call=4000),
        "Resize": Cost(element=0.242, call=7640),
        "Transpose": Cost(element=0.083, call=790),
        "Reshape": Cost(call=300),
        "Sigmoid": Cost(element=0.302, call=1020),
        "LeakyRelu": Cost(element=0.303, call=1080),
        "Gather": Cost(element=0.02, call=800),
        "": Cost(element=0.1, call=500),
    },
    quantize=Cost(element=0.35, call=800),
    dequantize=Cost(element=0.35, call=800),
)

_LAYERS = ("Conv", "Conv/spatial", "Conv/depthwise", "ConvTranspose", "MatMul", "Gemm")
UNIFORM = Costs(
    source="not measured on this target: layers are quantized wherever the rules allow",
    floats={**dict.fromkeys(_LAYERS, Cost(call=10.0)), "": Cost(call=1.0)},
    integers={**dict.fromkeys(_LAYERS, Cost()), "": Cost(call=0.5)},
    quantize=Cost(call=1.0),
    dequantize=Cost(call=1.0),
    measured=False,
)
