"""Formulas: each ecosystem's scale and zero point, against the ecosystem itself where it is installed, else against the
formula in exact fractions; degenerate ranges give what is documented; zero is exact, but where it is said not to be.
"""

import math
from fractions import Fraction

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.quantization.quant_utils import compute_scale_zp, get_qmin_qmax_for_qType

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics import formulas
from halfeven.numerics.fake_quantize import openvino_limits, tensorflow_limits
from halfeven.numerics.formulas import FORMULAS, Parameters, parameters
from halfeven.numerics.grid import UINT8, IntGrid
from halfeven.numerics.profiles import profile_named
from halfeven.numerics.quantize import params_for
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import Scheme, ZeroRule

F32 = st.floats(-(2.0**80), 2.0**80, width=32)
RANGES = st.lists(F32, min_size=2, max_size=2).map(sorted)
KINDS = {
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
    (16, True): TensorProto.INT16,
    (16, False): TensorProto.UINT16,
}


def f32(value: float) -> float:
    return float(np.float32(value))


# Every option that a formula takes, so that the tests below run over all of them.
VARIANTS = [
    ("halfeven", {"signed": False}),
    ("halfeven", {"symmetric": True, "narrow": True}),
    ("onnx-dynamic", {"signed": False}),
    ("onnxruntime", {"signed": False}),
    ("onnxruntime", {"symmetric": True}),
    ("onnxruntime", {"signed": False, "symmetric": True}),
    ("onnxruntime", {"bits": 16}),
    ("onnxruntime", {"reduce_range": True}),
    ("onnxruntime", {"signed": False, "min_real_range": 0.5}),
    ("tflite", {}),
    ("tflite", {"bits": 16, "symmetric": True, "narrow": True}),
    ("tflite", {"symmetric": True, "narrow": True}),
    ("tf-fake-quant", {"signed": False}),
    ("tf-fake-quant", {"signed": False, "narrow": True, "bits": 4}),
    ("ppq", {"signed": False}),
    ("ppq", {"symmetric": True}),
    ("ppq", {"symmetric": True, "power_of_two": True}),
    ("torch", {}),
    ("torch", {"signed": False}),
    ("torch", {"symmetric": True}),
    ("torch", {"signed": False, "symmetric": True}),
    ("tensorrt", {"symmetric": True}),
    ("ncnn", {"symmetric": True}),
    ("ncnn", {"symmetric": True, "bits": 6}),
    ("power-of-two", {"symmetric": True}),
    ("ristretto", {"symmetric": True}),
]


def test_the_docstring_has_every_formula() -> None:
    assert formulas.__doc__ is not None
    names = [line.split()[0] for line in formulas.__doc__.splitlines() if line.startswith("    ") and line[4] != " "]
    assert [name for name in names if name in FORMULAS] == list(FORMULAS)
    assert {name for name, _ in VARIANTS} == {name for name, one in FORMULAS.items() if one.zero_exact}


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@settings(max_examples=40)
@given(bounds=RANGES)
def test_zero_is_exact_and_the_zero_point_is_a_code(name: str, options: dict, bounds: list[float]) -> None:
    """X3: one document does not want zero to be exact, two others do; it is."""
    low, high = (min(bounds[0], 0.0), max(bounds[1], 0.0)) if name == "tflite" else bounds
    try:
        found = parameters(name, low, high, **options)
    except BadCalibration:
        assume(False)
    assert found.low <= found.zero_point <= found.high
    assert isinstance(found.zero_point, int)
    assert f32(found.scale) == found.scale
    codes = profile_named("ncnn" if found.reciprocal else "onnx")
    if 0 < found.scale < math.inf:
        assert codes.quantize([0.0], found.scale, found.zero_point, found.low, found.high) == [found.zero_point]
        assert codes.dequantize([found.zero_point], found.scale, found.zero_point) == [0.0]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@settings(max_examples=40)
@given(bounds=st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=2).map(sorted))
def test_the_range_fits_on_the_codes(name: str, options: dict, bounds: list[float]) -> None:
    """Both ends, widened to hold 0, are less than one step and a half from a code; a half is lost to the zero point.

    Where the scale is too small for the arithmetic (and for PPQ's power of two) it is larger than need be.
    """
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    assume(high - low > 1e-3)
    found = parameters(name, low, high, **options)
    step = 1 / found.scale if found.reciprocal else found.scale
    bottom, top = ((code - found.zero_point) * step for code in (found.low, found.high))
    assert bottom - 1.51 * step <= low
    assert high <= top + 1.51 * step


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("least", [0.0, 0.25])
@pytest.mark.parametrize(("bits", "signed"), KINDS)
@settings(max_examples=40)
@given(bounds=RANGES)
def test_onnx_runtime_s_quantizer_computes_the_same(
    symmetric: bool, reduce_range: bool, least: float, bits: int, signed: bool, bounds: list[float]
) -> None:
    ends = get_qmin_qmax_for_qType(KINDS[bits, signed], reduce_range, symmetric)
    low, high = (np.array(bound, np.float32) for bound in bounds)
    zero, scale = compute_scale_zp(low, high, *ends, symmetric, least or None)
    options = {"reduce_range": reduce_range, "min_real_range": least, "symmetric": symmetric}
    ours = parameters("onnxruntime", *bounds, bits=bits, signed=signed, **options)
    assert ours == Parameters(float(scale), int(zero), int(ends[0]), int(ends[1]))


@pytest.fixture(scope="module")
def dynamic() -> onnxruntime.InferenceSession:
    """x -> scale and zero point, by ONNX Runtime's DynamicQuantizeLinear."""
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    kinds = [("y", TensorProto.UINT8, ["n"]), ("scale", TensorProto.FLOAT, []), ("zero", TensorProto.UINT8, [])]
    outputs = [helper.make_tensor_value_info(*kind) for kind in kinds]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


DEGENERATE = [(0, 0), (3, 3), (-3, -3), (1, 5), (-1, 1), (1e-40, 1e-40), (-1e-38, 1e-38), (-1e38, 1e38), (-0.0, 0.0)]


def test_dynamic_quantize_linear_computes_the_same(dynamic: onnxruntime.InferenceSession) -> None:
    rng = np.random.default_rng(8)
    drawn = np.sort(rng.standard_normal((2000, 2)) * 10.0 ** rng.integers(-20, 20, (2000, 1)), axis=1)
    for low, high in [*DEGENERATE, *drawn.astype(np.float32).tolist()]:
        x = np.array([low, high], np.float32)
        _, scale, zero = dynamic.run(None, {"x": x})
        ours = parameters("onnx-dynamic", float(x[0]), float(x[1]), signed=False)
        assert (ours.scale, ours.zero_point) == (float(scale), int(zero)), (low, high)


@pytest.mark.filterwarnings("ignore")  # of PyTorch, that quantized tensors are to move elsewhere
def test_pytorch_s_observer_computes_the_same() -> None:
    torch = pytest.importorskip("torch")
    observer = pytest.importorskip("torch.ao.quantization.observer")
    kinds = {True: torch.qint8, False: torch.quint8}
    schemes = {True: torch.per_tensor_symmetric, False: torch.per_tensor_affine}
    rng = np.random.default_rng(8)
    drawn = np.sort(rng.standard_normal((50, 2)) * 10.0 ** rng.integers(-8, 8, (50, 1)), axis=1).astype(np.float32)
    for low, high in [(0, 0), (3, 3), (-3, -3), (1, 5), (-1, 1), *drawn.tolist()]:
        for signed in (True, False):
            for symmetric in (True, False):
                watch = observer.MinMaxObserver(dtype=kinds[signed], qscheme=schemes[symmetric])
                watch(torch.tensor([low, high], dtype=torch.float32))
                scale, zero = watch.calculate_qparams()
                ours = parameters("torch", low, high, signed=signed, symmetric=symmetric)
                assert (ours.scale, ours.zero_point) == (float(scale), int(zero)), (low, high, signed, symmetric)


@pytest.mark.parametrize("scheme", [Scheme(UINT8, zero_point=ZeroRule.FREE), Scheme(IntGrid(8, narrow=True))], ids=str)
@given(bounds=RANGES)
def test_halfeven_is_what_this_package_does(scheme: Scheme, bounds: list[float]) -> None:
    grid = scheme.grid
    ours = parameters("halfeven", *bounds, signed=grid.signed, symmetric=scheme.symmetric, narrow=grid.narrow)
    fitted = params_for(bounds[0], bounds[1], scheme, rank=1)
    assert (ours.scale, ours.zero_point) == (float(fitted.scale[0]), int(fitted.zero_point[0]))


@given(bounds=RANGES, signed=st.booleans())
def test_tensorflow_lite_takes_the_better_conditioned_end_and_rounds_away(bounds: list[float], signed: bool) -> None:
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    assume(high - low > 1e-30)
    first, last = (-128, 127) if signed else (0, 255)
    scale = (high - low) / 255
    zeros = [first - low / scale, last - high / scale]
    errors = [abs(first) + abs(low / scale), abs(last) + abs(high / scale)]
    chosen = zeros[0] if errors[0] < errors[1] else zeros[1]
    rounded = int(math.copysign(math.floor(abs(Fraction(chosen)) + Fraction(1, 2)), chosen))
    found = parameters("tflite", low, high, signed=signed)
    assert (found.scale, found.zero_point) == (f32(scale), min(max(rounded, first), last))


def test_tensorflow_lite_rounds_a_tied_zero_point_away_from_zero() -> None:
    assert parameters("tflite", -1.0, 1.0).zero_point == -1  # -0.5; half to even gives 0
    assert parameters("onnxruntime", -1.0, 1.0).zero_point == 0


def test_tensorflow_s_fake_quant_nudges_the_range_so_that_zero_is_a_code() -> None:
    found = parameters("tf-fake-quant", -0.1, 6.0, signed=False)
    assert found == Parameters(f32(np.float32(6.1) / np.float32(255)), 4, 0, 255)
    low, high = tensorflow_limits(found.scale, found.zero_point, found.low, found.high)
    assert low == f32(np.float32(-4) * np.float32(found.scale))
    assert high == f32(np.float32(251) * np.float32(found.scale))
    assert parameters("tf-fake-quant", 1.0, 5.0, signed=False).zero_point == 0  # a range beside 0 is shifted to it
    assert parameters("tf-fake-quant", -5.0, -1.0, signed=False).zero_point == 255
    assert parameters("tf-fake-quant", -1.0, 1.0, signed=False, narrow=True) == Parameters(f32(2 / 254), 128, 1, 255)


def test_ppq_computes_the_zero_point_before_the_scale_becomes_a_power_of_two() -> None:
    plain = parameters("ppq", -1.0, 2.0, signed=False)
    assert plain == Parameters(f32(3 / 255), 85, 0, 255)
    assert parameters("ppq", -1.0, 2.0, signed=False, power_of_two=True) == Parameters(2.0**-6, 85, 0, 255)
    assert parameters("ppq", -1.0, 0.5, symmetric=True).scale == f32(2 / 255)
    assert parameters("ppq", -1.0, 0.5, symmetric=True, narrow=True).scale == f32(2 / 254)


def test_symmetric_ranges_on_full_and_narrow_grids() -> None:
    """X10: [-max, max] onto -128..127 in one place and -127..127 in another: both exist, and the scales differ."""
    assert parameters("tensorrt", -2.0, 1.0, symmetric=True) == Parameters(f32(2 / 127), 0, -128, 127)
    assert parameters("tensorrt", -2.0, 1.0, symmetric=True, narrow=True) == Parameters(f32(2 / 127), 0, -127, 127)
    assert parameters("ppq", -2.0, 1.0, symmetric=True).scale == f32(4 / 255)
    assert parameters("onnxruntime", -2.0, 1.0, symmetric=True) == Parameters(f32(4 / 254), 0, -127, 127)


def test_ncnn_stores_the_reciprocal() -> None:
    assert parameters("ncnn", -2.0, 1.0, symmetric=True) == Parameters(63.5, 0, -127, 127, reciprocal=True)
    assert parameters("ncnn", -2.0, 1.0, symmetric=True, bits=6) == Parameters(15.5, 0, -31, 31, reciprocal=True)


@pytest.mark.parametrize(
    ("absmax", "scale"), [(127.0, 1.0), (127.5, 2.0), (1.0, 2.0**-6), (254.0, 2.0), (0.9, 2.0**-7)]
)
def test_a_power_of_two_is_the_least_that_holds_the_range(absmax: float, scale: float) -> None:
    assert parameters("power-of-two", -absmax, 0.0, symmetric=True).scale == scale


@pytest.mark.parametrize("bits", range(2, 33))
def test_a_range_one_double_beyond_a_power_of_two_takes_the_next(bits: int) -> None:
    last = 2.0 ** (bits - 1) - 1
    assert parameters("power-of-two", 0.0, last, symmetric=True, bits=bits).scale == 1.0
    assert parameters("power-of-two", 0.0, math.nextafter(last, math.inf), symmetric=True, bits=bits).scale == 2.0


@given(absmax=st.floats(2.0**-60, 2.0**60, width=32), bits=st.integers(2, 16))
def test_a_power_of_two_is_exact(absmax: float, bits: int) -> None:
    scale = Fraction(parameters("power-of-two", -absmax, absmax, symmetric=True, bits=bits).scale)
    last = 2 ** (bits - 1) - 1
    assert scale * last >= Fraction(absmax) > scale / 2 * last


@pytest.mark.parametrize(
    ("absmax", "bits", "fraction"), [(1.0, 8, 7), (1.5, 8, 6), (0.3, 8, 8), (100.0, 8, 0), (3.0, 16, 13), (2.0, 8, 6)]
)
def test_ristretto_gives_the_integer_part_its_bits_and_the_fraction_the_rest(
    absmax: float, bits: int, fraction: int
) -> None:
    """il = ceil(log2(absmax) + 1) with the sign's bit, fl = bits - il: 1.0 needs il = 1, so fl = 7."""
    assert parameters("ristretto", -absmax, absmax, symmetric=True, bits=bits).scale == 2.0**-fraction


# The founding documents' examples ------------------------------------------------------------------------------


DOUBLES = ("halfeven", "onnxruntime", "tflite", "ppq")
SINGLES = ("onnx-dynamic", "tf-fake-quant", "torch")


def test_the_article_s_zero_point_127_is_half_down_of_127_5() -> None:
    """X4: qmax - xmax / scale and qmin - xmin / scale are one number, 127.5; the article takes 127, most tools 128.

    Those that divide in float32 give 127 for a reason of their own: their scale is above 2 / 255, so they see 127.49999.
    """
    article = parameters("seed-001", -1.0, 1.0, signed=False)
    assert article == Parameters(f32(2 / 255), 127, 0, 255)
    assert Rounding.HALF_DOWN(np.array(127.5)) == 127
    zeros = {name: parameters(name, -1.0, 1.0, signed=False).zero_point for name in (*DOUBLES, *SINGLES)}
    assert zeros == dict.fromkeys(DOUBLES, 128) | dict.fromkeys(SINGLES, 127)
    assert np.float32(-1.0) / np.float32(2 / 255) == np.float32(-127.49999)


def test_the_article_s_zero_point_may_leave_the_codes() -> None:
    """Its range is not widened to hold 0, so 0 may have no code."""
    assert parameters("seed-001", 1.0, 5.0, signed=False).zero_point == -64
    assert not FORMULAS["seed-001"].zero_exact
    assert parameters("onnxruntime", 1.0, 5.0, signed=False) == Parameters(f32(5 / 255), 0, 0, 255)


@given(bounds=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2).map(sorted))
def test_both_ends_give_the_article_s_zero_point_but_for_ties(bounds: list[float]) -> None:
    low, high = map(Fraction, bounds)
    assume(high - low > 1e-30)
    scale = (high - low) / 255
    assert 255 - high / scale == 0 - low / scale
    assert parameters("seed-001", *bounds, signed=False).zero_point == math.ceil(-low / scale - Fraction(1, 2))


def test_the_article_s_clipped_range() -> None:
    """-0.9 to 0.8 chosen from [-1, 1]: what lies outside goes to codes 0 and 255."""
    found = parameters("onnxruntime", -0.9, 0.8, signed=False)
    assert found.zero_point == 135
    x = np.array([-1.0, -0.95, -0.9, 0.0, 0.8, 0.85, 1.0], np.float32)
    codes = profile_named("onnx").quantize(x, found.scale, found.zero_point, 0, 255)
    assert codes.tolist() == [0, 0, 0, 135, 255, 255, 255]


# Degenerate ranges ---------------------------------------------------------------------------------------------

U8 = {"signed": False}
SYM = {"symmetric": True}


@pytest.mark.parametrize(
    ("name", "options", "bounds", "scale", "zero"),
    [
        ("onnxruntime", U8, (0.0, 0.0), 1.0, 0),
        ("onnxruntime", U8, (3.0, 3.0), 3 / 255, 0),
        ("onnxruntime", U8, (-3.0, -3.0), 3 / 255, 255),
        ("onnxruntime", U8, (1.0, 5.0), 5 / 255, 0),
        ("onnxruntime", U8, (0.0, 1e-40), 1.0, 0),
        ("onnxruntime", U8, (-1e-38, 1e-38), 1.0, 0),
        ("onnxruntime", U8, (-3e38, 3e38), 6e38 / 255, 128),
        ("tflite", U8, (0.0, 0.0), 0.0, 0),
        ("tflite", U8, (0.0, 1e-40), f32(1e-40) / 255, 0),
        ("tflite", U8, (-3e38, 3e38), 6e38 / 255, 128),
        ("tflite", {**SYM, "narrow": True}, (0.0, 0.0), 1.0, 0),
        ("ppq", U8, (0.0, 0.0), 1e-8, 0),
        ("ppq", SYM, (0.0, 0.0), 1e-8, 0),
        ("ppq", U8, (3.0, 3.0), 3 / 255, 0),
        ("ppq", U8, (-3.0, -3.0), 3 / 255, 255),
        ("ppq", U8, (0.0, 1e-40), 1e-8, 0),
        ("ppq", U8, (-3e38, 3e38), 6e38 / 255, 128),
        ("torch", U8, (0.0, 0.0), 2.0**-23, 0),
        ("torch", {}, (0.0, 0.0), 2.0**-23, -128),
        ("ncnn", SYM, (3.0, 3.0), 127 / 3, 0),
        ("ncnn", {**SYM, "layer": "rnn"}, (0.0, 0.0), 1.0, 0),
        ("ncnn", {**SYM, "layer": "embed"}, (0.0, 0.0), 1.0, 0),
        ("halfeven", U8, (0.0, 0.0), 1.0, 0),
        ("halfeven", SYM, (0.0, 0.0), 1.0, 0),
    ],
)
def test_degenerate_ranges(name: str, options: dict, bounds: tuple[float, float], scale: float, zero: int) -> None:
    low, high = map(f32, bounds)
    found = parameters(name, low, high, **options)
    assert found.scale == pytest.approx(scale, rel=1e-6)
    assert found.zero_point == zero


@pytest.mark.parametrize(
    ("name", "options", "bounds", "message"),
    [
        ("ncnn", SYM, (0.0, 0.0), "gives a convolution the scale inf"),
        ("ncnn", SYM, (0.0, 1e-40), "overflows float32"),
        ("tensorrt", SYM, (0.0, 0.0), "asks for a positive one"),
        ("tf-fake-quant", U8, (0.0, 0.0), "the operator then gives zeros"),
        ("tf-fake-quant", U8, (3.0, 3.0), "the scale .* is 0.0 in float32"),
        ("tf-fake-quant", U8, (-3e38, 3e38), "is inf in float32"),
        ("onnx-dynamic", U8, (0.0, 1e-45), "underflows to 0"),
        ("onnx-dynamic", U8, (-3e38, 3e38), "overflows float32"),
        ("tflite", U8, (3.0, 3.0), "must hold 0; widen it first"),
        ("tflite", U8, (0.0, 5e-324), "underflows"),
        ("tflite", U8, (0.0, 1e-44), "underflows float32"),
        ("seed-001", U8, (0.0, 1e-44), "underflows float32"),
        ("ristretto", SYM, (0.0, 0.0), "has no integer part"),
        ("power-of-two", SYM, (0.0, 0.0), "has no scale"),
        ("seed-001", U8, (2.0, 2.0), "has no width"),
    ],
)
def test_ranges_without_parameters(name: str, options: dict, bounds: tuple[float, float], message: str) -> None:
    with pytest.raises(BadCalibration, match=message):
        parameters(name, *bounds, **options)


@pytest.mark.parametrize("bounds", [(np.nan, 1.0), (0.0, np.nan), (-np.inf, 1.0), (0.0, np.inf), (2.0, 1.0)])
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_ranges_that_are_none(name: str, options: dict, bounds: tuple[float, float]) -> None:
    with pytest.raises(BadCalibration, match="is no range"):
        parameters(name, *bounds, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("onnxruntimes", {}, "Did you mean 'onnxruntime'"),
        ("xyz", {}, "There are halfeven, onnx-dynamic"),
        ("onnx-dynamic", {}, "gives uint8 only"),
        ("onnx-dynamic", {**U8, **SYM}, "is for affine grids"),
        ("tensorrt", {}, "is for symmetric grids"),
        ("tensorrt", {**SYM, "bits": 4}, "gives int8 only"),
        ("ppq", {}, "no term for the lowest code"),
        ("ppq", {**SYM, **U8}, "symmetric on signed grids"),
        ("tf-fake-quant", {}, "gives unsigned codes"),
        ("tflite", SYM, "narrow signed grids only"),
        ("ncnn", {**SYM, "bits": 7}, "gives int8, or 6 bits"),
        ("ncnn", {**SYM, "layer": "dense"}, "knows no layer 'dense'"),
        ("onnxruntime", {"bits": 12, "reduce_range": True}, "no reduced range for these bits"),
        ("tflite", {"reduce_range": True}, "has no reduced or least range"),
        ("torch", {"power_of_two": True}, "has no option of powers of two"),
        ("halfeven", {"bits": 1}, "2 to 32 exist"),
        ("halfeven", {**U8, "narrow": True}, "narrows signed grids only"),
    ],
)
def test_what_a_formula_does_not_know_is_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        parameters(name, -1.0, 1.0, **options)


def test_openvino_s_step_may_differ_from_the_scale() -> None:
    limits = openvino_limits(0.1, 3, 0, 255)
    assert limits.low == np.float32(0.1) * np.float32(-3)
    assert limits.high == np.float32(0.1) * np.float32(252)
    scales = np.random.default_rng(3).uniform(1e-3, 1, 1000).astype(np.float32)
    steps = np.float32(1) / openvino_limits(scales, np.full(1000, 7), -128, 127).factor
    assert 0 < (steps != scales).sum() < 1000
    np.testing.assert_allclose(steps, scales, rtol=3e-7)
