"""The integers that runtimes gave are the integers that we compute: no output differs, ties and saturation included.

The recordings are ONNX Runtime 1.31.1's on x86 with VNNI, on x86 with AVX2 alone and on Arm64, and LiteRT 2.3.0's on
x86 and Arm64 in its three kernel sets, and TFLite Micro's; see golden/README.md. LiteRT lays tensors out as NHWC.
"""

from pathlib import Path

import numpy as np
import pytest

from halfeven.numerics.elementwise import Addition, Affine, Output, add, convert, multiply
from halfeven.numerics.integer_ops import conv2d, matmul, matmul_saturating_pairs
from halfeven.numerics.litert import product_multiplier
from halfeven.numerics.multiplier import float_multiplier, real_multiplier
from halfeven.numerics.product_pairs import LOST, overflows
from halfeven.numerics.requant import Requant, requantize
from halfeven.numerics.windows import Window

Case = dict[str, np.ndarray]
GOLDEN = Path(__file__).parents[1] / "golden"


def recorded(file: str) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    with np.load(GOLDEN / file) as held:
        for key in held.files:
            case, field = key.rsplit("/", 1)
            cases.setdefault(case, {})[field] = held[key]
    return cases


ORT = recorded("ort_integer.npz")
LITERT = recorded("litert_integer.npz")


def limits(codes: np.ndarray) -> tuple[int, int]:
    return int(np.iinfo(codes.dtype).min), int(np.iinfo(codes.dtype).max)


def of_kind(cases: dict[str, Case], kind: str) -> list[str]:
    return sorted(name for name in cases if name.split("/")[1].startswith(kind))


@pytest.mark.parametrize("name", of_kind(ORT, "QLinearConv"))
def test_onnx_runtime_s_convolution(name: str) -> None:
    case = ORT[name]
    step, pad, dilation = (int(case[field]) for field in ("stride", "pad", "dil"))
    acc = conv2d(case["x"], case["w"], int(case["zx"]), case["zw"], case["b"],
                 (step, step), (pad,) * 4, (dilation, dilation), int(case["group"]))  # fmt: skip
    if "_wraps_" in name:
        window = Window(case["w"].shape[2:], (step, step), (pad,) * 4, (dilation, dilation))
        acc = acc - LOST * overflows(case["x"], case["w"], int(case["zx"]), window)
    m = float_multiplier(case["sx"], case["sw"], case["sy"])[:, None, None]
    codes = requantize(acc, m, case["zy"], *limits(case["y"]), Requant.FLOAT32_HALF_EVEN)
    np.testing.assert_array_equal(codes, case["y"])


@pytest.mark.parametrize("name", [*of_kind(ORT, "QLinearMatMul"), *of_kind(ORT, "QGemm")])
def test_onnx_runtime_s_matrix_product(name: str) -> None:
    case = ORT[name]
    bias = case["b"] if "QGemm" in name else 0
    acc = matmul(case["x"], case["w"], case["zx"], case["zw"], bias)
    m = float_multiplier(case["sx"], case["sw"], case["sy"])
    codes = requantize(acc, m, case["zy"], *limits(case["y"]), Requant.FLOAT32_HALF_EVEN)
    np.testing.assert_array_equal(codes, case["y"])


def operands(case: Case, a: str, b: str, y: str) -> tuple[np.ndarray, np.ndarray, Affine, Affine, Output]:
    in_a, in_b, of_c = (Affine(float(case["s" + t]), int(case["z" + t])) for t in "abc")
    return case[a], case[b], in_a, in_b, Output(of_c, *limits(case[y]))


@pytest.mark.parametrize("name", of_kind(ORT, "QLinearAdd"))
def test_onnx_runtime_s_addition(name: str) -> None:
    kernel = Addition.FIXED_HALF_AWAY if name.startswith("arm64") else Addition.FLOAT32_FUSED
    np.testing.assert_array_equal(add(*operands(ORT[name], "a", "b", "y"), kernel), ORT[name]["y"])


@pytest.mark.parametrize("name", of_kind(ORT, "QLinearMul"))
def test_onnx_runtime_s_product(name: str) -> None:
    flavour = Requant.FLOAT32_FUSED if name.startswith("arm64") else Requant.FLOAT32_INSIDE
    np.testing.assert_array_equal(multiply(*operands(ORT[name], "a", "b", "y"), flavour), ORT[name]["y"])


def test_onnx_runtime_saturates_pairs_on_avx2_and_nowhere_else() -> None:
    case = ORT["x86_avx2/MatMulInteger_u8s8"]
    np.testing.assert_array_equal(matmul_saturating_pairs(case["x"], case["w"]), case["y"])
    exact = matmul(case["x"], case["w"])
    assert (exact != case["y"]).all()
    for isa in ("x86_vnni", "arm64"):
        np.testing.assert_array_equal(exact, ORT[isa + "/MatMulInteger_u8s8"]["y"])


def test_onnx_runtime_s_two_additions_differ_on_a_tenth_of_ties() -> None:
    """So nothing passes above by chance: the other instruction set's kernel would fail."""
    for dtype in ("uint8", "int8"):
        codes = [ORT[f"{isa}/QLinearAdd_{dtype}_ties"]["y"] for isa in ("x86_vnni", "arm64")]
        assert 0.05 < np.mean(codes[0] != codes[1]) < 0.2


# What each of LiteRT's outputs is made by. The optimized kernels of Arm are ruy's, but for the depthwise convolution.
CONV = {
    "x86/y_ref": Requant.DOUBLE_ROUNDING,
    "x86/y_opt": Requant.NEON,
    "x86/y_xnn": Requant.FLOAT32_HALF_EVEN,
    "x86/y_tflm": Requant.DOUBLE_ROUNDING,
    "arm64/y_opt": Requant.SINGLE_ROUNDING,
    "arm64/y_xnn": Requant.FLOAT32_HALF_EVEN,
}
FULLY_CONNECTED = CONV | {"x86/y_ref": Requant.FLOAT64_HALF_AWAY}


def litert_outputs(kind: str) -> list[tuple[str, str]]:
    return [(name, y) for name in of_kind(LITERT, kind) for y in sorted(LITERT[name]) if y.startswith("y_")]


def litert_codes(case: Case, acc: np.ndarray, y: str, flavour: Requant, relu: bool = False) -> np.ndarray:
    low, high = limits(case[y])
    low = max(low, int(case["zy"])) if relu else low
    m = (float_multiplier if flavour is Requant.FLOAT32_HALF_EVEN else real_multiplier)(
        case["sx"], case["sw"], case["sy"]
    )
    return requantize(acc, m, case["zy"], low, high, flavour)


def to_nchw(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2)


@pytest.mark.parametrize(("name", "y"), litert_outputs("CONV"))
def test_litert_s_convolution(name: str, y: str) -> None:
    case = LITERT[name]
    pads = (0, 0, 0, 0) if name.endswith("ties") else (1, 1, 1, 1)
    acc = conv2d(
        to_nchw(case["x0" if "x0" in case else "x"]), to_nchw(case["w"]), int(case["zx"]), 0, case["b"], pads=pads
    )
    flavour = CONV[f"{name.split('/')[0]}/{y}"]
    np.testing.assert_array_equal(litert_codes(case, acc.transpose(0, 2, 3, 1), y, flavour), case[y])


@pytest.mark.parametrize(("name", "y"), litert_outputs("DWCONV"))
def test_litert_s_depthwise_convolution_with_its_relu(name: str, y: str) -> None:
    case = LITERT[name]
    weight = case["w"].transpose(3, 0, 1, 2)
    acc = conv2d(to_nchw(case["x"]), weight, int(case["zx"]), 0, case["b"], pads=(1, 1, 1, 1), groups=len(weight))
    flavour = CONV[f"{name.split('/')[0]}/{y}"]
    np.testing.assert_array_equal(litert_codes(case, acc.transpose(0, 2, 3, 1), y, flavour, relu=True), case[y])


@pytest.mark.parametrize(("name", "y"), litert_outputs("FC"))
def test_litert_s_fully_connected(name: str, y: str) -> None:
    case = LITERT[name]
    acc = matmul(case["x0" if "x0" in case else "x"], case["w"].T, case["zx"], 0, case["b"])
    flavour = FULLY_CONNECTED[f"{name.split('/')[0]}/{y}"]
    np.testing.assert_array_equal(litert_codes(case, acc, y, flavour), case[y])


@pytest.mark.parametrize(("name", "y"), litert_outputs("ADD"))
def test_litert_s_addition(name: str, y: str) -> None:
    kernel = Addition.FIXED_HALF_UP if y == "y_xnn" else Addition.DOUBLE_ROUNDING
    np.testing.assert_array_equal(add(*operands(LITERT[name], "x0", "x1", y), kernel), LITERT[name][y])


@pytest.mark.parametrize(("name", "y"), litert_outputs("MUL"))
def test_litert_s_product(name: str, y: str) -> None:
    xnnpack = Requant.RNDNU if name.startswith("arm64") else Requant.FLOAT32_HALF_EVEN
    flavour = xnnpack if y == "y_xnn" else Requant.DOUBLE_ROUNDING
    np.testing.assert_array_equal(multiply(*operands(LITERT[name], "x0", "x1", y), flavour), LITERT[name][y])


@pytest.mark.parametrize(("name", "y"), litert_outputs("QUANTIZE"))
def test_litert_s_change_of_scale(name: str, y: str) -> None:
    case = LITERT[name]
    given, made = (Affine(float(case["s" + t]), int(case["z" + t])) for t in "xy")
    flavour = {"y_opt": Requant.NEON, "y_xnn": Requant.Q8_8}.get(y, Requant.DOUBLE_ROUNDING)
    tail = Requant.DOUBLE_ROUNDING if y == "y_opt" else None
    codes = convert(case["x0"], given, Output(made, *limits(case[y])), flavour, tail)
    np.testing.assert_array_equal(codes, case[y])


def test_litert_s_change_of_scale_differs_between_its_own_kernels() -> None:
    """So nothing passes above by chance: another kernel's flavour would fail."""
    case = LITERT["x86/QUANTIZE_0"]
    for other in ("y_opt", "y_xnn"):
        assert 0.05 < np.mean(case["y_ref"] != case[other]) < 0.25


@pytest.mark.parametrize(("name", "y"), litert_outputs("INT16X8"))
def test_litert_s_convolution_of_16_by_8_bits(name: str, y: str) -> None:
    case = LITERT[name]
    acc = conv2d(to_nchw(case["x"]), to_nchw(case["w"]), 0, 0, case["b"], accumulator_bits=64)
    codes = litert_codes(case, acc.transpose(0, 2, 3, 1), y, Requant.INT16X8)
    np.testing.assert_array_equal(codes, case[y])
    nhwc = acc.transpose(0, 2, 3, 1)
    if name.endswith("_1"):  # no powers of two: 15 bits of multiplier are not 31
        assert (litert_codes(case, nhwc, y, Requant.SINGLE_ROUNDING) != codes).any()


def test_litert_multiplies_by_a_single_column_with_two_roundings_on_arm64() -> None:
    with np.load(GOLDEN / "litert_gemv.npz") as case:
        m = product_multiplier(case["sx"], case["sw"], case["sy"])
        acc = matmul(case["x"], case["w"].T, case["zx"], 0, case["b"])
        found = {way: requantize(acc, m, case["zy"], -128, 127, way) for way in (Requant.NEON, Requant.SINGLE_ROUNDING)}
        np.testing.assert_array_equal(found[Requant.NEON], case["y"])
        assert 0 < np.sum(found[Requant.SINGLE_ROUNDING] != case["y"]) < 100
