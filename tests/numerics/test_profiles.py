"""Profiles have the bits of the tools they are named after: of those that are installed, run here, and of the others as
recorded; their tables are those of the docstring; DPU methods, PPQ policies and toolchain versions choose as documented.
"""

import json
import math
import re
from decimal import ROUND_HALF_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from halfeven.errors import BadOption
from halfeven.numerics import profiles
from halfeven.numerics.fused import fma
from halfeven.numerics.grid import INT8, UINT8
from halfeven.numerics.profile import Nan, Overflow, Profile, Ratio, Zero
from halfeven.numerics.profiles import (
    DPU_METHODS,
    FIX_NEURON_V2_METHODS,
    PPQ_POLICIES,
    PROFILES,
    fix_neuron,
    fix_neuron_v2,
    profile_for,
    profile_named,
)
from halfeven.numerics.quantize import quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "profiles.json").read_text("utf-8"))["cases"]
TIES = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
SCALES = [0.1, 0.5, 2.0**-7, 0.037, 7.77, 3e-5]


def floats(words: list[str]) -> np.ndarray:
    return np.array([int(word, 16) for word in words], np.uint32).view(np.float32)


def values(scale: float, seed: int, count: int = 3000) -> np.ndarray:
    """Ties and their neighbours, normal values, what overflows int32 and float32, and specials."""
    rng = np.random.default_rng(seed)
    ties = ((rng.integers(-400, 400, count) + 0.5) * scale).astype(np.float32)
    near = np.nextafter(ties, np.float32(np.inf) * rng.choice([-1, 1], count).astype(np.float32))
    normal = (rng.standard_normal(count) * 90 * scale).astype(np.float32)
    far = (np.array([3e9, -3e9, 2.2e9, -2.2e9, 1e19, -1e19]) * scale).astype(np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45], np.float32)
    return rng.permutation(np.concatenate([ties, near, normal, far, special]))[: -(seed % 8) or None]


@pytest.mark.parametrize("name", sorted({case["profile"] for case in GOLDEN}))
def test_the_recorded_codes_of_the_runtime_come_out(name: str) -> None:
    cases = [case for case in GOLDEN if case["profile"] == name]
    assert len(cases) >= 7
    for case in cases:
        scale = floats([case["scale"]])[0]
        codes = profile_named(name).quantize(floats(case["x"]), scale, case["zero_point"], case["low"], case["high"])
        np.testing.assert_array_equal(codes, case["codes"])


@pytest.mark.parametrize(("kind", "low", "high"), [(TensorProto.INT8, -128, 127), (TensorProto.UINT8, 0, 255)])
def test_onnx_runtime_gives_the_codes_of_its_profile(kind: int, low: int, high: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"])
    ends = [("x", TensorProto.FLOAT, ["n"]), ("scale", TensorProto.FLOAT, []), ("zero", kind, [])]
    inputs = [helper.make_tensor_value_info(*end) for end in ends]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("codes", kind, ["n"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for seed, scale in enumerate(SCALES):
        x, zero = values(scale, seed), int(np.random.default_rng(seed).integers(low, high + 1))
        feeds = {"x": x, "scale": np.array(scale, np.float32), "zero": np.array(zero, dtype)}
        ours = profile_named("onnxruntime").quantize(x, scale, zero, low, high)
        np.testing.assert_array_equal(ours, session.run(None, feeds)[0])


@pytest.mark.filterwarnings("ignore")  # of PyTorch, that quantized tensors are to move elsewhere
def test_pytorch_gives_the_codes_of_its_profiles() -> None:
    torch = pytest.importorskip("torch")
    for seed, given_scale in enumerate(SCALES):
        scale = np.float32(given_scale)
        x = values(float(scale), seed)
        for dtype, low, high in ((torch.qint8, -128, 127), (torch.quint8, 0, 255)):
            zero = int(np.random.default_rng(seed).integers(low, high + 1))
            tensor = torch.from_numpy(x.copy())
            codes = torch.quantize_per_tensor(tensor, float(scale), zero, dtype).int_repr().numpy()
            ours = profile_named("torch-quantize").quantize(x, scale, zero, low, high)
            np.testing.assert_array_equal(ours, codes)
            faked = torch.fake_quantize_per_tensor_affine(tensor, float(scale), zero, low, high).numpy()
            fake = profile_named("torch-fake-quantize")
            ours = fake.dequantize(fake.quantize(x, scale, zero, low, high), scale, zero)
            np.testing.assert_array_equal(ours, faked)


@given(
    x=st.lists(st.floats(width=32), min_size=1, max_size=40),
    scale=st.floats(2.0**-100, 2.0**100, width=32),
    zero=st.integers(0, 255),
)
def test_the_profile_of_onnx_runtime_is_the_quantize_of_this_package(x: list[float], scale: float, zero: int) -> None:
    params = QParams(Scheme(UINT8, zero_point=ZeroRule.FREE), np.array([scale], np.float32), np.array([zero], np.int32))
    array = np.array(x, np.float32)
    np.testing.assert_array_equal(
        profile_named("onnxruntime").quantize(array, scale, zero, 0, 255), quantize(array, params)
    )


def test_the_journey_6_article_s_vector_before_and_after_oe_3_0_31() -> None:
    after, before = profile_for("journey6", version="3.0.31"), profile_for("journey6", version="3.0.30")
    assert after.quantize(TIES, 1.0).tolist() == [-2, -2, 0, 0, 2, 2]
    assert before.quantize(TIES, 1.0).tolist() == [-2, -1, 0, 1, 2, 3]
    trap = np.array([0.49999997, 8388609.0], np.float32)
    assert before.quantize(trap, 1.0, 0, -(2**31), 2**31 - 1).tolist() == [1, 8388610]
    assert after.quantize(trap, 1.0, 0, -(2**31), 2**31 - 1).tolist() == [0, 8388609]


def test_tensorflow_lite_s_reference_rounds_ties_away_from_zero() -> None:
    assert profile_named("tflite-reference").quantize(TIES, 1.0).tolist() == [-3, -2, -1, 1, 2, 3]
    assert profile_named("tflite-reference").quantize(TIES, 1.0, 128, 0, 255).tolist() == [125, 126, 127, 129, 130, 131]
    assert profile_named("xnnpack").quantize(TIES, 1.0).tolist() == [-2, -2, 0, 0, 2, 2]


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("3.0.30", "journey6<3.0.31"),
        ("2", "journey6<3.0.31"),
        ("3.0", "journey6<3.0.31"),
        ("3.0.31", "journey6>=3.0.31"),
        ("3.0.31.1", "journey6>=3.0.31"),
        ("3.1", "journey6>=3.0.31"),
        ("10", "journey6>=3.0.31"),
    ],
)
def test_a_version_chooses_the_profile(version: str, name: str) -> None:
    assert profile_for("journey6", version=version).name == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tool": "onnxruntimes"}, "Did you mean 'onnxruntime'"),
        ({"tool": "zzz"}, "There are onnx, "),
        ({"tool": "journey6"}, "depends on the version.*'journey6<3.0.31', 'journey6>=3.0.31'"),
        ({"tool": "journey6", "version": "OE 3"}, "'OE 3' is no version of journey6"),
        ({"tool": "journey7", "version": "3"}, "Did you mean 'journey6'"),
        ({"tool": "onnx", "version": "3"}, "does not depend on a version"),
        ({"tool": "onnx", "method": 2}, "knows no methods"),
        ({"tool": "journey6", "version": "3", "method": 2}, "knows no methods"),
        ({"tool": "vitis-dpu", "method": 9}, "no rounding method 9; it has 2, 3"),
        ({"tool": "onnx", "policy": "HALF_UP"}, "knows no policies"),
        ({"tool": "ppq", "policy": "TO_NEAR_INT"}, "no policy 'TO_NEAR_INT'; it has HALF_EVEN"),
    ],
)
def test_a_wrong_name_is_answered_with_what_there_is(arguments: dict, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        profile_for(**arguments)


# DPU methods -----------------------------------------------------------------------------------------------------


def documented(heading: str) -> list[list[str]]:
    """The rows of the docstring's table whose first column is `heading`, cells parted by two spaces or more."""
    assert profiles.__doc__ is not None
    lines = [*profiles.__doc__.splitlines(), ""]
    start = next(k for k, line in enumerate(lines) if line.startswith(f"    {heading}"))
    end = next(k for k in range(start, len(lines)) if not lines[k].strip())
    edges = [match.start() for match in re.finditer(r"(?<!\S)\S", re.sub(r"(?<=\S) (?=\S)", "_", lines[start]))]
    return [
        [line[a:b].strip() for a, b in zip(edges, [*edges[1:], None], strict=True)] for line in lines[start + 1 : end]
    ]


def test_the_documented_methods_are_those_of_the_table() -> None:
    rows = [row for row in documented("method") if row[0].isdigit()]
    assert {int(row[0]): row[3].split(",")[0] for row in rows} == {n: str(rule) for n, rule in DPU_METHODS.items()}
    assert {int(row[0]): row[1] for row in rows if row[1]} == dict(FIX_NEURON_V2_METHODS)


def by_the_kernel(v: float, method: int) -> int:
    """nndct_fix_kernels.cuh, as its branches read, on an exact number."""
    tie = v - math.floor(v) == 0.5
    nearest = int(math.copysign(math.floor(abs(v) + 0.5), v))
    match method:
        case 2:
            return math.ceil(v) if v < 0 and tie else nearest
        case 3:
            return nearest
        case 4:
            return math.floor(v)
        case 5:
            if not tie:
                return nearest
            return math.ceil(v) if v < 0 or math.floor(v) % 2 else math.floor(v)
        case 6:
            return (math.ceil(v) if v < 0 else math.floor(v)) if tie else nearest
        case 7:
            return math.ceil(v)
        case _:
            return round(v)


@pytest.mark.parametrize("method", DPU_METHODS)
def test_fix_neuron_rounds_adds_the_zero_point_and_then_clamps(method: int) -> None:
    x = np.arange(-4000, 4000, dtype=np.float32) / 64
    codes = fix_neuron(x, 8.0, -128, 127, method, zero_point=5)
    assert codes.tolist() == [min(max(by_the_kernel(float(v) * 8, method) + 5, -128), 127) for v in x]


@pytest.mark.parametrize("method", FIX_NEURON_V2_METHODS)
def test_the_older_fix_neuron_clamps_to_val_max_and_has_no_zero_point(method: int) -> None:
    x = np.arange(-4000, 4000, dtype=np.float32) / 64
    codes = fix_neuron_v2(x, 4.0, 128, method)
    assert codes.tolist() == [min(max(by_the_kernel(float(v) * 4, method), -128), 127) for v in x]


def test_the_older_fix_neuron_has_four_methods() -> None:
    with pytest.raises(BadOption, match="no method 6; it has 2, 3, 4, 5"):
        fix_neuron_v2(TIES, 1.0, 128, 6)


def test_the_python_equivalent_of_method_2_is_method_5() -> None:
    """tqt_ops.py: torch.where((x < 0) & (x - floor(x) == 0.5), ceil(x), torch.round(x))."""
    x = np.arange(-80, 80, dtype=np.float32) / 4
    equivalent = np.where((x < 0) & (x - np.floor(x) == 0.5), np.ceil(x), np.rint(x))
    assert fix_neuron(x, 1.0, -128, 127, 5).tolist() == equivalent.tolist()
    differs = fix_neuron(x, 1.0, -128, 127, 2) != equivalent
    assert x[differs].tolist() == [2 * k + 0.5 for k in range(10)]


# PPQ policies ----------------------------------------------------------------------------------------------------


def test_the_documented_policies_are_those_of_the_table() -> None:
    for column, kind in enumerate(("numerical", "tensor", "cuda"), 1):
        cells = {row[0]: row[column].split()[0] for row in documented("policy") if row[column].split()}
        cells.pop("TO_NEAR_INT" if kind == "tensor" else "", None)
        assert cells == {name: str(rule) for name, rule in PPQ_POLICIES[kind].items()}


def decimal_round(value: float, policy: str) -> int:
    """ppq/utils/round.py, ppq_numerical_round, as its branches read."""
    away, towards = ROUND_HALF_UP, ROUND_HALF_DOWN
    match policy:
        case "HALF_EVEN":
            rule = ROUND_HALF_EVEN
        case "HALF_UP" | "HALF_FAR_FORM_ZERO":
            rule = away if value > 0 else towards
        case "HALF_DOWN" | "HALF_TOWARDS_ZERO":
            rule = towards if value > 0 else away
        case "TO_NEAR_INT":
            return math.floor(value + 0.5) if value > 0 else math.ceil(value - 0.5)
        case _:
            return math.ceil(value)
    return int(Decimal(value).quantize(Decimal(1), rule))


@pytest.mark.parametrize("policy", PPQ_POLICIES["numerical"])
@given(value=st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6).map(lambda n: n / 2))
@example(value=0.49999999999999994)
@example(value=-0.49999999999999994)
def test_ppq_s_decimal_rounding_is_that_of_the_table(policy: str, value: float) -> None:
    assert int(PPQ_POLICIES["numerical"][policy](np.array(value))) == decimal_round(value, policy)


def test_ppq_rounds_one_policy_in_up_to_three_ways() -> None:
    """X8: of the slides' assertions the one that PPQ itself fails is HALF_TOWARDS_ZERO(-0.5) == 0."""
    half = np.array(-0.5, np.float32)
    ways = [int(PPQ_POLICIES[kind]["HALF_TOWARDS_ZERO"](half)) for kind in ("numerical", "tensor", "cuda")]
    assert ways == [-1, 0, 0]
    below = np.array([0.49999997], np.float32)
    assert profile_for("ppq", policy="HALF_UP").quantize(below, 1.0).tolist() == [1]
    assert profile_for("ppq-cuda", policy="HALF_UP").quantize(below, 1.0).tolist() == [0]


# The slides of seed 002 ----------------------------------------------------------------------------------------


def test_the_slides_example_per_tensor_and_per_channel() -> None:
    """15.7 at scale 1 is 16 under every nearest rule; the slide prints 15, which only truncation gives."""
    x = np.array([-0.3, 2.1, 13.2, 15.7], np.float32)
    assert profile_named("ppq").quantize(x, 0.1).tolist() == [-3, 21, 127, 127]
    scales = np.array([0.1, 0.1, 1.0, 1.0], np.float32)
    assert profile_named("ppq").quantize(x, scales).tolist() == [-3, 21, 13, 16]
    for rule in Rounding:
        last = Profile("slide", "seed 002", rule).quantize(x, scales)[3]
        assert last == (15 if rule in (Rounding.FLOOR, Rounding.TRUNC) else 16)


def test_the_zero_point_inside_the_rounding_differs_on_ties_where_it_is_odd() -> None:
    """X5: round(v + offset) on one slide, round(v) - offset on the next; equal for even offsets, but for the sign."""
    inside, outside = profile_named("seed-affine-inside"), profile_named("ppq")
    assert inside.quantize(TIES, 1.0, 3, 0, 255).tolist() == [0, 2, 2, 4, 4, 6]
    assert outside.quantize(TIES, 1.0, 3, 0, 255).tolist() == [1, 1, 3, 3, 5, 5]
    assert inside.quantize(TIES, 1.0, 4, 0, 255).tolist() == outside.quantize(TIES, 1.0, 4, 0, 255).tolist()
    assert inside.quantize(TIES, 1.0, 3.5, 0, 255).tolist() == [1, 2, 3, 4, 5, 6]


# Arithmetic ------------------------------------------------------------------------------------------------------

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def rounded_once(exact: Fraction) -> float:
    """The float32 nearest to `exact`, ties to even, by neighbours."""
    guess = np.float32(float(exact))
    near = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    best = min(near, key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(np.uint32)) & 1))
    return float(best)


@given(a=FLOATS, b=st.floats(-(2.0**20), 2.0**20, width=32), c=FLOATS | st.integers(-255, 255).map(float))
@example(a=1.0 + 2.0**-23, b=1.0 + 2.0**-23, c=2.0**-80)
@example(a=1.0, b=1.0 + 2.0**-23, c=2.0**-24 + 2.0**-47)
@example(a=2.0**-30, b=2.0**-30, c=1.0 + 2.0**-23)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assert float(fma(a, b, c)) == rounded_once(exact)


def test_rounding_to_double_and_then_to_float_would_be_wrong() -> None:
    """The exact sum is 2**-60 below a tie of floats; the double nearest to it is that tie, which goes up, to even."""
    a, b, c = np.float32(2.0**-24 * (1 + 2.0**-18)), np.float32(1 - 2.0**-18), np.float32(1 + 2.0**-23)
    twice = np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    assert (float(twice), float(fma(a, b, c))) == (1 + 2.0**-22, 1 + 2.0**-23)


def test_fma_passes_infinities_and_nan() -> None:
    assert fma(np.array([np.inf, -np.inf, 1.0]), 1.0, 3.0).tolist() == [np.inf, -np.inf, 4.0]
    assert np.isnan(fma([np.nan, np.inf], 1.0, [0.0, -np.inf])).all()
    assert float(fma(3e38, 3e38, 1.0)) == np.inf


def test_qnnpack_s_magic_number_rounds_half_to_even_below_2_to_the_22() -> None:
    rng = np.random.default_rng(4)
    ties = np.arange(-40000, 40000, dtype=np.float32) / 2
    v = np.concatenate(
        [ties, np.nextafter(ties, np.float32(0)), rng.uniform(-(2**22), 2**22, 100_000).astype(np.float32)]
    )
    magic = (v + np.float32(12582912.0)).view(np.int32) - np.int32(0x4B400000)
    np.testing.assert_array_equal(magic, np.rint(v))


def test_what_overflows_int32_on_x86_wraps_around_the_zero_point() -> None:
    """-2**31 plus a negative zero point is, in 32 bits, large: TensorFlow Lite's kernels give the highest code."""
    x = np.array([np.inf, -np.inf, np.nan, 3e38], np.float32)
    for name in ("tflite-reference", "tflite-optimized"):
        assert profile_named(name).quantize(x, 1.0, 7).tolist() == [-128] * 4
        assert profile_named(name).quantize(x, 1.0, -7).tolist() == [127] * 4
    assert profile_named("xnnpack").quantize(x, 1.0, -7).tolist() == [127, -128, 127, 127]


def test_what_overflows_int32_on_cuda_saturates_and_nan_is_zero() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 3e38, -3e38], np.float32)
    assert fix_neuron(x, 1.0, -128, 127, 3).tolist() == [127, -128, 0, 127, -128]
    assert fix_neuron(x, 1.0, -128, 127, 3, zero_point=5).tolist() == [-128, -128, 5, -128, -128]  # 2**31 - 1 + 5 wraps


def test_ncnn_rounds_blocks_of_four_by_a_sum_and_the_rest_by_c_s_round() -> None:
    x = np.full(7, 0.49999997, np.float32)
    ncnn = profile_named("ncnn")
    assert ncnn.quantize(x, 1.0, 0, -127, 127).tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert ncnn.quantize(x[:6].reshape(2, 3), 1.0, 0, -127, 127).tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ncnn.stores_reciprocal
    assert ncnn.quantize(np.array([2.0]), 10.0, 0, -127, 127).tolist() == [20]
    assert ncnn.dequantize([20], 10.0).tolist() == [np.float32(20) * np.float32(0.1)]


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_keeps_the_shape_and_the_range_and_undoes_its_own_codes(name: str) -> None:
    profile = PROFILES[name]
    low, high, zero = -127, 127, 0 if profile.zero is Zero.ABSENT else 3
    codes = np.arange(low, high + 1).reshape(3, 85)
    x = profile.dequantize(codes, 0.25, zero)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(profile.quantize(x, 0.25, zero, low, high), codes)
    assert profile.quantize(np.array([[1e6], [-1e6]]), 0.25, zero, low, high).tolist() == [[high], [low]]
    assert profile.quantize(np.zeros((0, 4)), 0.25, zero, low, high).shape == (0, 4)
    assert profile.source


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.nan is Nan.REFUSED])
def test_nan_is_refused_where_the_source_is_silent(name: str) -> None:
    with pytest.raises(BadOption, match="does not say what NaN becomes"):
        PROFILES[name].quantize([1.0, np.nan], 1.0)


def test_the_fields_of_every_profile_hold_together() -> None:
    for profile in [*PROFILES.values(), *(one.tail for one in PROFILES.values() if one.tail)]:
        assert profile.ratio not in (Ratio.FUSED, Ratio.AFFINE) or profile.zero is Zero.INSIDE
        assert (profile.nan is Nan.CONVERTED) == (profile.overflow is not Overflow.CLAMP)
        assert (profile.tail is not None) == (profile.block >= 2)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("onnx", {"scale": 0.0}, "scales must be positive and finite"),
        ("onnx", {"scale": [1.0, -1.0]}, "scales must be positive"),
        ("onnx", {"scale": 1e300}, "scales must be positive and finite"),
        ("onnx", {"scale": np.nan}, "scales must be positive and finite"),
        ("onnx", {"scale": 1.0, "zero_point": 0.5}, "a zero point is a whole number"),
        ("tensorrt", {"scale": 1.0, "zero_point": 3}, "knows no zero point"),
        ("onnx", {"scale": 1.0, "low": 5, "high": 5}, "no range of integers"),
        ("onnx", {"scale": [1.0, 2.0, 3.0]}, "do not broadcast to values of"),
    ],
)
def test_parameters_that_are_none_are_refused(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        profile_named(name).quantize([1.0, 2.0], **arguments)


def test_dividing_and_multiplying_by_the_reciprocal_differ_and_each_profile_does_its_own() -> None:
    scale = np.float32(0.037)
    x = ((np.arange(-128, 127) + 0.5) * np.float64(scale)).astype(np.float32)
    divided = profile_named("onnx").quantize(x, scale)
    multiplied = profile_named("torch-fake-quantize").quantize(x, scale)
    assert 0 < (divided != multiplied).sum() < x.size / 4
    assert np.abs(divided - multiplied).max() == 1


def test_int8_is_the_default_range() -> None:
    assert profile_named("onnx").quantize([1e9, -1e9], 1.0).tolist() == [INT8.high, INT8.low]
