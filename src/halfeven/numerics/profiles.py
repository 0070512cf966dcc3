"""The table of profiles: which tool quantizes how. `profile` says what the fields mean.

"Measured": the profile was compared with the runtime on a million elements and more, ties, their neighbours and special
values among them, without one difference, on x86-64 with AVX512; the tests hold excerpts, and run what is installed.
Otherwise the source was read.

`journey6` is Horizon's toolchain, whose rounding changed with OE 3.0.31; `profile_for("journey6", version=...)` knows.

Xilinx' DPU rounds by method number. There are two vocabularies, of the same function in two versions:

    method   fix_neuron_v2 (seed 002)    Vitis-AI 3.5            rule
    2        special round for -x.5      half_up                 half_up
    3        standard round              std_round               half_away
    4        new RNN                     floor                   floor
    5        old RNN                     half_up and half_even   half_dpu5
    6                                    half_down               half_zero, whatever it is called
    7                                    ceil                    ceil
    8                                    half_even               half_even
    codes    -val_max .. val_max - 1     val_min .. val_max
    zero                                 added after the rounding, before the clamp

Vitis-AI's tqt_ops.py holds a "Python equivalent" of method 2 that rounds positive ties by torch.round, to even: it is
method 5.

PPQ has each policy up to three times, and they differ. `numerical` (Python's decimal) rounds zero points and exponents,
`tensor` (PyTorch) and `cuda` round tensors:

    policy                numerical     tensor      cuda
    HALF_EVEN             half_even     half_even   half_even
    HALF_UP               half_up       sum_up      half_up
    HALF_DOWN             half_down     sum_down    half_down
    HALF_TOWARDS_ZERO     half_down     sum_zero    half_zero      so numerical(-0.5) is -1, not 0
    HALF_FAR_FORM_ZERO    half_up       sum_away    half_away      so numerical(-0.5) is 0, not -1
    TO_NEAR_INT           sum_away      refused     half_away
    UP                    ceil          ceil        ceil
    DOWN                                            floor
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches

import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.profile import Codes, Nan, Overflow, Profile, Ratio, Zero
from halfeven.numerics.rounding import Rounding

DPU_METHODS: Mapping[int, Rounding] = {
    2: Rounding.HALF_UP,
    3: Rounding.HALF_AWAY,
    4: Rounding.FLOOR,
    5: Rounding.HALF_DPU5,
    6: Rounding.HALF_ZERO,
    7: Rounding.CEIL,
    8: Rounding.HALF_EVEN,
}
FIX_NEURON_V2_METHODS: Mapping[int, str] = {
    2: "special round for -x.5",
    3: "standard round",
    4: "new RNN",
    5: "old RNN",
}
PPQ_POLICIES: Mapping[str, Mapping[str, Rounding]] = {
    "numerical": {
        "HALF_EVEN": Rounding.HALF_EVEN,
        "HALF_UP": Rounding.HALF_UP,
        "HALF_DOWN": Rounding.HALF_DOWN,
        "HALF_TOWARDS_ZERO": Rounding.HALF_DOWN,
        "HALF_FAR_FORM_ZERO": Rounding.HALF_UP,
        "TO_NEAR_INT": Rounding.SUM_AWAY,
        "UP": Rounding.CEIL,
    },
    "tensor": {
        "HALF_EVEN": Rounding.HALF_EVEN,
        "HALF_UP": Rounding.SUM_UP,
        "HALF_DOWN": Rounding.SUM_DOWN,
        "HALF_TOWARDS_ZERO": Rounding.SUM_ZERO,
        "HALF_FAR_FORM_ZERO": Rounding.SUM_AWAY,
        "UP": Rounding.CEIL,
    },
    "cuda": {
        "HALF_EVEN": Rounding.HALF_EVEN,
        "HALF_UP": Rounding.HALF_UP,
        "HALF_DOWN": Rounding.HALF_DOWN,
        "HALF_TOWARDS_ZERO": Rounding.HALF_ZERO,
        "HALF_FAR_FORM_ZERO": Rounding.HALF_AWAY,
        "TO_NEAR_INT": Rounding.HALF_AWAY,
        "UP": Rounding.CEIL,
        "DOWN": Rounding.FLOOR,
    },
}

_LITERT = "LiteRT 2.3, measured: "
_TABLE = (
    Profile("onnx", "ONNX operator QuantizeLinear, opset 10 to 25; silent on NaN"),
    Profile("onnxruntime", "ONNX Runtime 1.31 QuantizeLinear on CPU, measured", nan=Nan.LOW),
    Profile(
        "openvino",
        "OpenVINO 2026.4 CPU in f32, QuantizeLinear that becomes a FakeQuantize of its own, measured; fused into a "
        "convolution before it, or feeding one, it may differ",
        ratio=Ratio.AFFINE,
        zero=Zero.INSIDE,
        nan=Nan.LOW,
    ),
    Profile("tensorrt", "TensorRT NvInfer.h, IQuantizeLayer: clamp(round(x / scale)), half to even", zero=Zero.ABSENT),
    Profile(
        "tflite-reference",
        _LITERT + "QUANTIZE of the reference kernels; TensorFlow Lite Micro likewise",
        Rounding.HALF_AWAY,
        overflow=Overflow.INT32_X86,
        nan=Nan.CONVERTED,
    ),
    Profile(
        "tflite-optimized",
        _LITERT + "QUANTIZE of the optimized kernels on x86: eight at a time, and the rest one by one in double",
        ratio=Ratio.RECIPROCAL,
        overflow=Overflow.INT32_X86,
        nan=Nan.CONVERTED,
        block=8,
        tail=Profile(
            "tflite-optimized, tail",
            _LITERT + "the last n % 8 elements",
            Rounding.HALF_AWAY,
            overflow=Overflow.INT32_X86,
            nan=Nan.CONVERTED,
            dtype="float64",
        ),
    ),
    Profile("xnnpack", _LITERT + "QUANTIZE by its default delegate", ratio=Ratio.RECIPROCAL, nan=Nan.HIGH),
    Profile(
        "torch-quantize",
        "PyTorch 2.13 quantize_per_tensor on x86 CPU (FBGEMM), measured",
        ratio=Ratio.FUSED,
        zero=Zero.INSIDE,
        nan=Nan.HIGH,
    ),
    Profile(
        "torch-fake-quantize",
        "PyTorch 2.13 fake_quantize_per_tensor_affine on CPU, measured",
        ratio=Ratio.RECIPROCAL,
        nan=Nan.LOW,
    ),
    Profile(
        "ncnn",
        "ncnn 1.0.20261020 Quantize on x86, measured: in each row and thread four at a time, the rest one by one",
        Rounding.SUM_AWAY,
        ratio=Ratio.MULTIPLY,
        zero=Zero.ABSENT,
        overflow=Overflow.INT32_X86,
        nan=Nan.CONVERTED,
        block=4,
        tail=Profile(
            "ncnn, tail",
            "ncnn 1.0.20261020, measured: the last n % 4 elements",
            Rounding.HALF_AWAY,
            ratio=Ratio.MULTIPLY,
            zero=Zero.ABSENT,
            overflow=Overflow.INT32_X86,
            nan=Nan.CONVERTED,
        ),
    ),
    Profile(
        "qnnpack",
        "QNNPACK 7d2a4e9 src/requantization/fp32: clamped, then the bits of v + 12582912 less 0x4B400000, which is "
        "half to even for |v| < 2**22",
        ratio=Ratio.RECIPROCAL,
        nan=Nan.LOW,
    ),
    Profile("ppq", "PPQ e39eecb quantization/qfunction/linear.py on PyTorch"),
    Profile("ppq-cuda", "PPQ e39eecb csrc/cuda/linear.cu", overflow=Overflow.INT32_CUDA, nan=Nan.CONVERTED),
    Profile("journey6<3.0.31", "seed 004: floor(x + 0.5) before OE 3.0.31", Rounding.SUM_UP, zero=Zero.INSIDE),
    Profile("journey6>=3.0.31", "seed 004: nearbyint(x / scale + zero_point) since OE 3.0.31", zero=Zero.INSIDE),
    Profile(
        "vitis-dpu",
        "Vitis-AI 3.5 nndct/include/cuda/nndct_fix_kernels.cuh; method 2, that of feature maps",
        Rounding.HALF_UP,
        ratio=Ratio.MULTIPLY,
        overflow=Overflow.INT32_CUDA,
        nan=Nan.CONVERTED,
    ),
    Profile("seed-affine-inside", "seed 002, 4.1.4: round(value / scale + offset)", zero=Zero.INSIDE),
)
PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in _TABLE}
VERSIONS: Mapping[str, tuple[tuple[tuple[int, ...], str], ...]] = {
    "journey6": (((0,), "journey6<3.0.31"), ((3, 0, 31), "journey6>=3.0.31")),
}


def profile_named(name: str) -> Profile:
    """The profile of the table.

    Raises:
        BadOption: there is none of that name, or it needs a version.
    """
    if name in PROFILES:
        return PROFILES[name]
    if name in VERSIONS:
        names = ", ".join(repr(one) for _, one in VERSIONS[name])
        raise BadOption(f"Profile {name!r} depends on the version. Give one to profile_for, or choose from {names}.")
    near = get_close_matches(name, [*PROFILES, *VERSIONS], 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(PROFILES)}."
    raise BadOption(f"There is no profile {name!r}. {hint}")


def profile_for(tool: str, *, version: str = "", method: int | None = None, policy: str = "") -> Profile:
    """The profile of `tool`, as its `version` rounds, or as a DPU `method` or a PPQ `policy` says.

    Raises:
        BadOption: no such tool, version, method or policy, or the tool has none.
    """
    profile = profile_named(_of_version(tool, version) if version else tool)
    if method is not None:
        if tool != "vitis-dpu":
            raise BadOption(f"Profile {tool!r} knows no methods; vitis-dpu does.")
        profile = replace(profile, rounding=_method(method))
    if policy:
        kinds = {"ppq": "tensor", "ppq-cuda": "cuda"}
        if tool not in kinds:
            raise BadOption(f"Profile {tool!r} knows no policies; {' and '.join(kinds)} do.")
        rules = PPQ_POLICIES[kinds[tool]]
        if policy not in rules:
            raise BadOption(f"Profile {tool!r} has no policy {policy!r}; it has {', '.join(rules)}.")
        profile = replace(profile, rounding=rules[policy])
    return profile


def fix_neuron(
    x: npt.ArrayLike, amplitude: npt.ArrayLike, low: int, high: int, method: int, zero_point: npt.ArrayLike = 0
) -> Codes:
    """Vitis-AI 3.5's fix_neuron: round x * amplitude by `method`, add the zero point, clamp; int64 of `x`'s shape.

    Raises:
        BadOption: no such method, or an amplitude that is not positive and finite.
    """
    return profile_for("vitis-dpu", method=method).quantize(x, amplitude, zero_point, low, high)


def fix_neuron_v2(x: npt.ArrayLike, amplitude: npt.ArrayLike, top: int, method: int) -> Codes:
    """The older function of seed 002, with val_max = `top`: codes -top..top - 1, no zero point, methods 2 to 5."""
    if method not in FIX_NEURON_V2_METHODS:
        raise BadOption(f"fix_neuron_v2 has no method {method}; it has {', '.join(map(str, FIX_NEURON_V2_METHODS))}.")
    return fix_neuron(x, amplitude, -top, top - 1, method)


def _method(number: int) -> Rounding:
    if number not in DPU_METHODS:
        raise BadOption(f"The DPU has no rounding method {number}; it has {', '.join(map(str, DPU_METHODS))}.")
    return DPU_METHODS[number]


def _of_version(tool: str, version: str) -> str:
    """The name of the profile that `tool` has since the latest change not after `version`."""
    if tool not in VERSIONS:
        profile_named(tool)
        raise BadOption(f"Profile {tool!r} does not depend on a version; leave it out.")
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise BadOption(f"{version!r} is no version of {tool}; write it as in '3.0.31'.")
    number = tuple(int(part) for part in version.split("."))
    return [name for since, name in VERSIONS[tool] if since <= number][-1]
