"""What one number is in each format: the nearest code, its bits, its neighbours, and the error.

    read as               formats
    a decimal number      float64, float32, float16, bfloat16, the float8, float6 and float4 formats
    with a Q format       that fixed-point format alone
    with a scale          int8 and uint8, code = clip(round(x / scale) + zero_point), in float32 as a runtime does
    a bit pattern (hex)   those formats whose codes have as many hex digits; with a Q format that one

A decimal number is rounded once, from its exact value, never through another format. A value is written with as few
digits as tell it from its neighbours.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from halfeven.errors import BadOption
from halfeven.numerics import floats
from halfeven.numerics.fields import Fields, fields_of, nearest_code, neighbours
from halfeven.numerics.floats import FloatGrid
from halfeven.numerics.grid import INT8, UINT8, IntGrid
from halfeven.numerics.qformat import QFormat, from_positional, read_decimal, to_decimal
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule

FORMATS: dict[str, FloatGrid] = {
    "float64": floats.FLOAT64,
    "float32": floats.FLOAT32,
    "float16": floats.FLOAT16,
    "bfloat16": floats.BFLOAT16,
    "float8e4m3fn": floats.FLOAT8_E4M3FN,
    "float8e4m3fnuz": floats.FLOAT8_E4M3FNUZ,
    "float8e5m2": floats.FLOAT8_E5M2,
    "float8e5m2fnuz": floats.FLOAT8_E5M2FNUZ,
    "float8e8m0": floats.FLOAT8_E8M0,
    "float6e2m3": floats.FLOAT6_E2M3,
    "float6e3m2": floats.FLOAT6_E3M2,
    "float4e2m1": floats.FLOAT4_E2M1,
}
SHORT = 12  # characters that a value may have to be written out in full
SPECIAL = {"inf": np.inf, "+inf": np.inf, "infinity": np.inf, "-inf": -np.inf, "-infinity": -np.inf, "nan": np.nan}


@dataclass(frozen=True)
class Spelled:
    """A number in one format; texts that are ready to be shown.

    `error` is value - number, None where one of them is not finite; `below` and `above` are empty where nothing comes;
    `bits` has spaces between sign, exponent and fraction, or a point; `formula` says how bits make the value.
    """

    format: str
    value: str
    error: float | None
    hex: str
    bits: str
    below: str
    above: str
    formula: str


def spell(text: str, *, q: str | None = None, pattern: bool = False) -> tuple[Spelled, ...]:
    """The number that `text` says, in the formats of the module's table; `pattern` reads it as hexadecimal.

    Raises:
        BadOption: the text is no number, the Q format none, or a pattern has as many bits as no format.
    """
    if pattern and "." not in text:
        return _of_pattern(text, q)
    number = from_positional(text, 16) if pattern else _number(text)
    if q is not None:
        form = QFormat.parse(q)
        if isinstance(number, float):
            raise BadOption(f"'{text}' has no code in {form}; fixed point holds finite numbers only.")
        return (_fixed(form, form.encode(number), number),)
    return tuple(_floating(name, grid, _code(number, grid, text), number) for name, grid in FORMATS.items())


def spell_quantized(text: str, scale: float, zero_point: int | None = None) -> tuple[Spelled, ...]:
    """The number in int8 and uint8 with this scale and zero point; without one, 0 and 128.

    Raises:
        BadOption: the text is no number, the scale not above 0, or the zero point on neither grid.
    """
    number = _number(text)
    kept = np.array([scale], np.float64).astype(np.float32)
    if not (np.isfinite(kept).all() and kept[0] > 0):
        raise BadOption(f"--scale {scale}: a scale is a float32 above 0, and finite.")
    grids = [(grid, usual) for grid, usual in ((INT8, 0), (UINT8, 128))]
    fitting = [(g, z if zero_point is None else zero_point) for g, z in grids]
    fitting = [(g, z) for g, z in fitting if g.low <= z <= g.high]
    if not fitting:
        raise BadOption(f"--zero-point {zero_point}: int8 has codes from -128 to 127, uint8 from 0 to 255.")
    return tuple(_quantized(grid, kept, zero, number) for grid, zero in fitting)


def _number(text: str) -> Fraction | float:
    """An exact value, or one of infinity, -infinity and NaN."""
    special = SPECIAL.get(text.strip().lower())
    return read_decimal(text) if special is None else special


def _code(number: Fraction | float, grid: FloatGrid, text: str) -> int:
    if isinstance(number, float):
        return int(grid.encode(np.array([number]))[0])
    if number == 0 and text.strip().startswith("-"):
        return int(grid.encode(np.array([-0.0]))[0])
    return nearest_code(number, grid)


def _of_pattern(text: str, q: str | None) -> tuple[Spelled, ...]:
    digits = text.strip().lower().removeprefix("0x")
    code = from_positional(digits, 16)
    if code < 0 or code.denominator != 1:
        raise BadOption(f"'{text}' is no bit pattern; expected hexadecimal digits such as 42F6E666.")
    if q is not None:
        form = QFormat.parse(q)
        return (_fixed(form, form.from_pattern(int(code)), None),)
    width = 4 * len(digits)
    found = tuple(
        _floating(name, grid, int(code), None)
        for name, grid in FORMATS.items()
        if -(-grid.bits // 4) * 4 == width and int(code) < 1 << grid.bits
    )
    if not found:
        raise BadOption(
            f"'{text}' has {len(digits)} hexadecimal digits; float patterns have 1, 2, 4, 8 or 16. "
            "Add zeros in front, or say the format with --q."
        )
    return found


def _floating(name: str, grid: FloatGrid, code: int, number: Fraction | float | None) -> Spelled:
    parts = fields_of(code, grid)
    bits = f"{code:0{grid.bits}b}"
    cut = [bits[: grid.signed], bits[grid.signed : grid.signed + grid.exponent], bits[grid.signed + grid.exponent :]]
    below, above = (_value(one, grid) if one is not None else "" for one in neighbours(code, grid))
    return Spelled(
        name,
        _value(code, grid),
        _error(parts.value, number),
        f"0x{code:0{-(-grid.bits // 4)}X}",
        " ".join(part for part in cut if part),
        below,
        above,
        _formula(parts),
    )


def _formula(parts: Fields) -> str:
    """`1.9289062023162842 * 2^6`, or what it is instead of a number."""
    if parts.kind in ("infinity", "nan", "zero"):
        return parts.kind
    tail = " (subnormal)" if parts.kind == "subnormal" else ""
    return f"{'-' if parts.sign else ''}{float(parts.significand)!r} * 2^{parts.power}{tail}"


def _value(code: int, grid: FloatGrid) -> str:
    """All digits if they are few, else the shortest decimal whose nearest code this is."""
    value = float(grid.decode(np.array([code], grid.dtype))[0])
    if not np.isfinite(value) or value == 0:
        return str(value)
    exact = to_decimal(Fraction(value))
    if len(exact) <= SHORT:
        return exact
    texts = (f"{value:.{digits}g}" for digits in range(1, 18))
    return next((text for text in texts if nearest_code(Fraction(text), grid) == code), repr(value))


def _error(value: Fraction | None, number: Fraction | float | None) -> float | None:
    if value is None or not isinstance(number, Fraction):
        return None
    try:
        return float(value - number)
    except OverflowError:
        return None


def _fixed(form: QFormat, code: int, number: Fraction | None) -> Spelled:
    value, step = form.decode(code), to_decimal(form.decode(1))
    below, above = (to_decimal(form.decode(c)) if form.low <= c <= form.high else "" for c in (code - 1, code + 1))
    formula = f"{code} * {step}"
    return Spelled(
        str(form), to_decimal(value), _error(value, number), form.hex(code), form.binary(code), below, above, formula
    )


def _quantized(grid: IntGrid, scale: np.ndarray, zero: int, number: Fraction | float) -> Spelled:
    params = QParams(Scheme(grid, zero_point=ZeroRule.FREE), scale, np.array([zero], np.int32))
    try:
        x = np.array([float(number)], np.float64)
    except OverflowError:
        x = np.array([np.copysign(np.inf, 1.0 if number > 0 else -1.0)])
    with np.errstate(over="ignore"):
        code = int(quantize(x.astype(np.float32), params)[0])

    def said(code: int) -> str:
        return str(dequantize(np.array([code]), params)[0]) if grid.low <= code <= grid.high else ""

    value = Fraction(float(dequantize(np.array([code]), params)[0]))
    pattern = code % 256
    return Spelled(
        str(grid),
        said(code),
        _error(value, number),
        f"0x{pattern:02X}",
        f"{pattern:08b}",
        said(code - 1),
        said(code + 1),
        f"({code} - {zero}) * {scale[0]}",
    )
