"""Conventions: parameters survive the way there and back wherever that can be, and where it cannot they are refused or,
if asked, changed; each convention's fields mean to its own quantizer what ours mean to ours.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics import conventions
from halfeven.numerics.conventions import (
    CONVENTIONS,
    Canonical,
    from_canonical,
    narrowed,
    placement_difference,
    recoded,
    to_canonical,
    widened,
)
from halfeven.numerics.profiles import profile_named
from halfeven.numerics.rounding import Rounding

SCALES = st.floats(2.0**-100, 2.0**100, width=32)
CODES = st.sampled_from([(-128, 127), (-127, 127), (0, 255), (-8, 7), (-32768, 32767), (0, 65535)])
ALWAYS = ["onnx", "tflite", "ppq", "offset-added", "aimet", "ppl", "min-max"]
SYMMETRIC = [name for name, known in CONVENTIONS.items() if known.symmetric]


@st.composite
def params(draw: st.DrawFn) -> Canonical:
    low, high = draw(CODES)
    return Canonical(draw(SCALES), draw(st.integers(low, high)), low, high)


def test_the_docstring_has_every_convention() -> None:
    assert conventions.__doc__ is not None
    lines = [line for line in conventions.__doc__.splitlines() if line.startswith("    ") and line[4] != " "]
    names = [name for line in lines for name in line[4:20].replace(",", " ").split()]
    assert [name for name in names if name in CONVENTIONS] == list(CONVENTIONS)


@pytest.mark.parametrize("name", ALWAYS)
@given(known=params())
def test_the_way_there_and_back_is_the_identity(name: str, known: Canonical) -> None:
    fields = from_canonical(name, known)
    assert to_canonical(name, fields, low=known.low, high=known.high) == known


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-amax"])
@given(scale=SCALES)
def test_tensorrt_s_cache_and_amax_are_exact(name: str, scale: float) -> None:
    known = Canonical(scale)
    assert to_canonical(name, from_canonical(name, known)) == known


@given(scale=SCALES)
def test_a_cache_s_bits_come_back_whatever_they_are(scale: float) -> None:
    digits = np.float32(scale).view(np.uint32)
    fields = {"cache": f"{digits:08x}"}
    assert from_canonical("tensorrt", to_canonical("tensorrt", fields)) == fields
    assert to_canonical("tensorrt", {"cache": f"{digits:08X}"}).scale == scale


@pytest.mark.parametrize("name", CONVENTIONS)
@given(known=params(), symmetric=st.booleans())
def test_what_is_not_refused_comes_back_unchanged(name: str, known: Canonical, symmetric: bool) -> None:
    if symmetric:
        known = Canonical(known.scale, 0, known.low, known.high)
    try:
        fields = from_canonical(name, known)
    except BadOption:
        return
    assert to_canonical(name, fields, low=known.low, high=known.high, lossy=True) == known


@pytest.mark.parametrize("name", ["ncnn", "ncnn-table", "tensorrt-range", "openvino"])
def test_a_loss_is_refused_unless_it_is_allowed(name: str) -> None:
    scales = np.random.default_rng(7).uniform(1e-3, 1e-1, 400).astype(np.float32).tolist()
    lost = 0
    for scale in scales:
        known = Canonical(scale, 37 if name == "openvino" else 0)
        fields = from_canonical(name, known, lossy=True)
        back = to_canonical(name, fields, lossy=True)
        if back != known:
            lost += 1
            with pytest.raises(BadOption, match=f"Convention '{name}' would give back .*lossy=True"):
                from_canonical(name, known)
        assert back.scale == pytest.approx(scale, rel=1e-3)
    assert 0 < lost <= len(scales)


def test_every_significand_below_the_root_of_two_survives_the_reciprocal_and_17_percent_of_all_do_not() -> None:
    scale = np.arange(0x3F800000, 0x40000000, dtype=np.uint32).view(np.float32)
    one = np.float32(1)
    lost = scale[one / (one / scale) != scale]
    assert lost.size == 1_439_258
    assert lost.min() > math.sqrt(2)


@given(scale=st.floats(2.0**-100, 2.0**100, width=32))
def test_the_rule_of_the_reciprocal_holds_at_any_exponent(scale: float) -> None:
    mantissa = math.frexp(scale)[0] * 2
    fields = from_canonical("ncnn", Canonical(scale, 0, -127, 127), lossy=True)
    back = to_canonical("ncnn", fields, low=-127, high=127, lossy=True)
    if mantissa < math.sqrt(2):
        assert back.scale == scale
    assert abs(back.scale - scale) <= 2.0**-23 * scale


def test_a_reciprocal_that_would_be_another_is_refused_on_reading() -> None:
    lost = float(np.float32(1.9999999))
    with pytest.raises(BadOption, match=r"Convention 'ncnn': scale = 1\.9999998.* is written"):
        to_canonical("ncnn", {"scale": lost})
    assert to_canonical("ncnn", {"scale": lost}, lossy=True).scale == float(np.float32(1 / lost))


@given(known=params())
def test_aimet_s_offset_is_never_positive_and_its_codes_count_from_0(known: Canonical) -> None:
    """AIMET's own arithmetic: real = (code + offset) * scale for codes 0..2**bitwidth - 1."""
    fields = from_canonical("aimet", known)
    offset, scale = int(fields["offset"]), float(fields["scale"])
    assert -(known.high - known.low) <= offset <= 0
    for code in (known.low, known.zero_point, known.high):
        assert (code - known.low + offset) * scale == (code - known.zero_point) * known.scale
    assert (fields["min"], fields["max"]) == (offset * scale, (offset + known.high - known.low) * scale)


def test_aimet_s_encoding_of_symmetric_int8() -> None:
    fields = from_canonical("aimet", Canonical(0.5))
    ends = {"min": -64.0, "max": 63.5, "offset": -128, "scale": 0.5}
    assert fields == {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", **ends}


def test_ppl_s_tensor_ends_are_the_values_of_the_end_codes() -> None:
    fields = from_canonical("ppl", Canonical(0.25, 3, 0, 255))
    ends = {"tensor_min": -0.75, "tensor_max": 63.0, "q_min": 0, "q_max": 255}
    assert fields == {"bit_width": 8, "scale": 0.25, "zero_point": 3, **ends}


def test_the_offset_of_one_slide_is_the_negative_of_the_other_s() -> None:
    """X5: round(v / s + offset), then round(v / s) - offset."""
    known = Canonical(0.5, 3, 0, 255)
    assert from_canonical("ppq", known)["offset"] == 3
    assert from_canonical("offset-added", known)["offset"] == -3
    x = np.array([1.1, -0.7, 100.0], np.float32)
    codes = profile_named("onnx").quantize(x, 0.5, 3, 0, 255)
    assert codes.tolist() == np.clip(np.rint(x / np.float32(0.5)) - -3, 0, 255).tolist()


def test_the_slide_s_asymmetric_dequantization_is_not_the_inverse() -> None:
    """X6: printed value * scale - offset; (value - offset) * scale is what undoes the quantization."""
    known = to_canonical("ppq", {"scale": 0.5, "offset": 3}, low=0, high=255)
    code = int(profile_named("ppq").quantize([10.0], known.scale, known.zero_point, known.low, known.high)[0])
    assert profile_named("ppq").dequantize([code], known.scale, known.zero_point).tolist() == [10.0]
    assert code * known.scale - known.zero_point != 10.0


@pytest.mark.parametrize("shift", [-3, 0, 1, 4, 20])
def test_two_shifted_by_the_shift_is_one_power_more_than_the_value_shifted(shift: int) -> None:
    """X7: value * (2 << shift) on one slide, value << shift on another: scales of 2**-(shift + 1) and 2**-shift."""
    assert to_canonical("shift", {"shift": shift}).scale == 2.0**-shift
    assert to_canonical("shift-doubled", {"shift": shift}).scale == 2.0 ** -(shift + 1)
    for name in ("shift", "shift-doubled"):
        assert from_canonical(name, to_canonical(name, {"shift": shift})) == {"shift": shift}


def test_the_slide_s_power_of_two_examples() -> None:
    doubled, plain = (to_canonical(name, {"shift": 1}).scale for name in ("shift-doubled", "shift"))
    assert profile_named("onnx").quantize([1.0], doubled).tolist() == [2 << 1]
    assert profile_named("onnx").quantize([1.0], plain).tolist() == [1 << 1]
    assert profile_named("onnx").quantize([1.3], to_canonical("shift", {"shift": 4}).scale).tolist() == [21]


@given(known=params(), by=st.integers(-(2**15), 2**15))
def test_recoding_keeps_every_value(known: Canonical, by: int) -> None:
    assume(known.low + by <= 0 <= known.high + by)
    moved = recoded(known, by)
    assert recoded(moved, -by) == known
    for code in (known.low, known.zero_point, known.high):
        assert (code + by - moved.zero_point) * moved.scale == (code - known.zero_point) * known.scale


def test_int8_recoded_is_uint8() -> None:
    assert recoded(Canonical(0.5), 128) == Canonical(0.5, 128, 0, 255)


def test_narrow_and_full_grids_share_their_codes_but_the_lowest() -> None:
    """X10: [-128, 127] in one place, [-127, 127] in another."""
    full = Canonical(0.5)
    assert narrowed(full, np.array([-127, 0, 127])) == Canonical(0.5, 0, -127, 127)
    assert widened(narrowed(full, np.array([3]))) == full
    with pytest.raises(BadOption, match=r"2 codes .* use -128, which the narrow grid lacks"):
        narrowed(full, np.array([-128, 5, -128]))
    with pytest.raises(BadOption, match="No codes and the zero point -128"):
        narrowed(Canonical(0.5, -128), np.array([5]))


# Inside or outside the rounding --------------------------------------------------------------------------------

EXACT_RULES = [rule for rule in Rounding if not rule.startswith("sum")]


@pytest.mark.parametrize("zero", [-3, -2, 0, 1, 2, 7])
@pytest.mark.parametrize("rule", EXACT_RULES)
def test_where_the_placements_are_said_to_agree_they_do_and_where_not_there_is_a_witness(
    rule: Rounding, zero: int
) -> None:
    v = np.arange(-400, 400) / 16  # ties, quarters and between, exact in doubles with any of these zero points
    agree = bool((rule(v + zero) == rule(v) + zero).all())
    assert (placement_difference(rule, zero, exact=True) == "") is agree


@pytest.mark.parametrize("zero", [-3, -2, 0, 1, 2, 7])
@pytest.mark.parametrize("rule", Rounding)
def test_in_float32_any_zero_point_inside_moves_what_is_next_to_a_jump(rule: Rounding, zero: int) -> None:
    jumps = np.arange(-20, 21, dtype=np.float32) / 2
    around = [np.nextafter(jumps, np.float32(side)) for side in (-np.inf, np.inf)]
    v = np.concatenate([jumps, *around, np.float32([1e-10, -1e-10])])
    z = np.float32(zero)
    agree = bool((rule(v + z) == rule(v) + z).all())
    assert (placement_difference(rule, zero) == "") is agree


def test_a_fractional_offset_has_no_canonical_form() -> None:
    assert "is not whole" in placement_difference(Rounding.FLOOR, 2.5, exact=True)
    for name, key in (("onnx", "zero_point"), ("ppq", "offset"), ("offset-added", "offset")):
        with pytest.raises(BadOption, match=rf"{key} is 2\.5; it must be whole, or zero has no code"):
            to_canonical(name, {"scale": 0.5, key: 2.5})


# Faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("onxn", {}, "Did you mean 'onnx'"),
        ("qqq", {}, "There are onnx, tflite"),
        ("onnx", {"scale": 1.0}, "needs zero_point; found scale"),
        ("onnx", {}, "needs scale, zero_point; found nothing"),
        ("onnx", {"scale": "a", "zero_point": 0}, "scale is 'a'; a number is wanted"),
        ("onnx", {"scale": 10**400, "zero_point": 0}, "a number is wanted"),
        ("onnx", {"scale": math.nan, "zero_point": 0}, "a finite number is wanted"),
        ("onnx", {"scale": -1.0, "zero_point": 0}, "a positive, finite float32; -1.0 is not"),
        ("onnx", {"scale": 0.1, "zero_point": 0}, "a positive, finite float32; 0.1 is not"),
        ("onnx", {"scale": 0.5, "zero_point": 300}, "one of the codes -128..127, not 300"),
        ("aimet", {"scale": 0.5, "offset": 3, "bitwidth": 8}, "AIMET's offset is 0 or negative; found 3"),
        ("aimet", {"scale": 0.5, "offset": -3, "bitwidth": 4}, "a bitwidth of 4 does not go with the codes"),
        ("aimet", {"scale": 0.5, "offset": -3, "bitwidth": 8, "min": 7.0}, "min = 7.0 contradicts"),
        ("ppl", {"scale": 0.5, "zero_point": 0, "q_min": 0, "q_max": 255}, "states codes 0..255, not -128..127"),
        ("tensorrt", {"cache": "3c01"}, "eight hex digits a tensor; found '3c01'"),
        ("tensorrt", {"cache": "xyzw1234"}, "eight hex digits"),
        ("tensorrt", {"cache": "7fc00000"}, "a positive, finite float32; nan is not"),
        ("tensorrt-amax", {"amax": 0.0}, "amax must be positive"),
        ("ncnn", {"scale": 0.0}, "A reciprocal must be positive"),
        ("ncnn", {"scale": 1e-42}, "a positive, finite float32; inf is not"),
        ("min-max", {"min": 1.0, "max": 1.0}, "The width of a range must be positive"),
        ("min-max", {"min": -1.0, "max": 1e-60}, "min = -1.0 means"),
        ("shift", {"shift": 2.5}, "must be whole"),
        ("shift", {"shift": 200}, "out of float32's range"),
    ],
)
def test_fields_that_mean_nothing_are_refused(name: str, fields: dict, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        to_canonical(name, fields)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_a_zero_point_is_not_dropped(name: str) -> None:
    with pytest.raises(BadOption, match="has no zero point; 3 cannot be written"):
        from_canonical(name, Canonical(0.5, 3), lossy=True)


def test_a_scale_that_is_no_power_of_two_is_no_shift() -> None:
    with pytest.raises(BadOption, match=r"0\.75 is no power of two"):
        from_canonical("shift", Canonical(0.75))


def test_codes_must_be_some() -> None:
    with pytest.raises(BadOption, match=r"Codes 5\.\.5 are none"):
        Canonical(0.5, 0, 5, 5)


def test_the_ncnn_table_keeps_six_decimals() -> None:
    assert from_canonical("ncnn-table", Canonical(2.0**-7)) == {"scale": "128.000000"}
    assert to_canonical("ncnn-table", {"scale": "128"}).scale == 2.0**-7
    with pytest.raises(BadOption, match="would give back"):
        from_canonical("ncnn-table", Canonical(3000.0))


@given(known=params())
def test_openvino_s_limits_hold_the_scale_to_a_few_units_in_the_last_place(known: Canonical) -> None:
    fields = from_canonical("openvino", known, lossy=True)
    back = to_canonical("openvino", fields, low=known.low, high=known.high, lossy=True)
    assert abs(Fraction(back.scale) - Fraction(known.scale)) <= Fraction(known.scale) / 2**22
    assert back.zero_point == known.zero_point
