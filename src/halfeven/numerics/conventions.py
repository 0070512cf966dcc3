"""Conventions: the same parameters as each tool writes them down.

Ours is real = (code - zero_point) * scale, codes low..high, scale a float32. z, s, n = high - low below are ours.

    convention      written as                                     exact
    onnx, tflite    scale = s, zero_point = z                      always
    ppq             scale = s, offset = z                          always
    offset-added    scale = s, offset = -z: (code + offset) s      always; QNN; seed 002's round(v / s) - offset
    aimet           scale = s, offset = low - z <= 0, min = s offset, max = s (offset + n); codes 0..n     always
    ppl             scale, zero_point, q_min, q_max, tensor_min = s (low - z), tensor_max = s (high - z)    always
    min-max         min = s (low - z), max = s (high - z), doubles                  up to 28 bits: 24 + 29 bits fit
    openvino        input_low, input_high: the same, float32                        if the width divides back to s
    tensorrt        cache: the eight hex digits of s as float32, big-endian         if z = 0
    tensorrt-amax   amax = 127 s, a double (PPQ's JSON)                             if z = 0
    tensorrt-range  amax = f32(127 s) (setDynamicRange)                             if z = 0 and it divides back
    ncnn            scale = f32(1 / s), codes -127..127                             if z = 0, and see below
    ncnn-table      the same as text, %f: six decimals                              if z = 0 and the text reads back
    shift           shift: s = 2**-shift                                            if z = 0 and s is a power of two
    shift-doubled   shift: s = 2**-(shift + 1), as 2 << shift in seed 002           likewise

The reciprocal, r = f32(1 / s). With s = m 2**e, 1 <= m < 2, r is off by at most half a unit, 2**-25 2**-e; relative to
1 / s that is m 2**-25, so 1 / r is off from s by m**2 2**-25 2**e, and half a unit of s is 2**-24 2**e. Hence s comes
back if m < sqrt(2) and 1 / s is normal. Beyond, it may not: of the 2**23 significands 1 439 258 are lost (17 %).

Nothing is lost in silence: a conversion whose way back gives other numbers is refused, or, with `lossy=True`, done.

The zero point inside or outside the rounding is no matter of notation: round(v + z) and round(v) + z are different
functions (`placement_difference` says when they agree). A zero point that is not whole is refused everywhere: zero
would have no code.

Sources: ONNX QuantizeLinear; TensorFlow Lite quantization specification; PPQ parser/*_exporter.py; AIMET encodings
0.6.1; Qualcomm QNN Qnn_ScaleOffset_t; TensorRT calibration cache; ncnn tools/quantize; OpenVINO FakeQuantize-1.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.rounding import Rounding

Fields: TypeAlias = dict[str, float | int | str]


@dataclass(frozen=True)
class Canonical:
    """Parameters in our convention.

    Holds: `scale` is positive, finite and a float32; low < high; `zero_point` is one of the codes, or 0.
    """

    scale: float
    zero_point: int = 0
    low: int = -128
    high: int = 127

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):
            stored = float(np.float32(self.scale))
        if not (0 < stored < math.inf and stored == self.scale):
            raise BadOption(f"A scale is a positive, finite float32; {self.scale!r} is not.")
        if self.low >= self.high:
            raise BadOption(f"Codes {self.low}..{self.high} are none.")
        if self.zero_point != 0 and not self.low <= self.zero_point <= self.high:
            raise BadOption(f"A zero point is 0 or one of the codes {self.low}..{self.high}, not {self.zero_point}.")


@dataclass(frozen=True)
class Convention:
    """How to write parameters, and read them back for given codes; the other `keys` written only repeat these."""

    write: Callable[[Canonical], Fields]
    read: Callable[[Fields, int, int], Canonical]
    keys: tuple[str, ...]
    symmetric: bool = False


def from_canonical(convention: str, params: Canonical, *, lossy: bool = False) -> Fields:
    """`params` as `convention` writes them.

    Raises:
        BadOption: there is no such convention, or it cannot hold them; or it gives others back and `lossy` is False.
    """
    known = _known(convention)
    if known.symmetric and params.zero_point != 0:
        raise BadOption(f"Convention {convention!r} has no zero point; {params.zero_point} cannot be written.")
    fields = known.write(params)
    if not lossy and (back := known.read(fields, params.low, params.high)) != params:
        raise BadOption(
            f"Convention {convention!r} would give back {back}, not {params}. Allow it with lossy=True, or change the "
            "scale to one that survives."
        )
    return fields


def to_canonical(
    convention: str, fields: Fields, *, low: int = -128, high: int = 127, lossy: bool = False
) -> Canonical:
    """What `fields`, written in `convention` for codes `low..high`, mean in ours.

    Raises:
        BadOption: there is no such convention, a field is missing or contradicts the others, the zero point is not
            whole; or writing it again gives other fields and `lossy` is False.
    """
    known = _known(convention)
    missing = [key for key in known.keys if key not in fields]
    if missing:
        raise BadOption(
            f"Convention {convention!r} needs {', '.join(missing)}; found {', '.join(fields) or 'nothing'}."
        )
    params = known.read(fields, low, high)
    if not lossy:
        again = known.write(params)
        changed = [key for key in known.keys if not _same(again[key], fields[key])]
        if changed:
            key = changed[0]
            raise BadOption(
                f"Convention {convention!r}: {key} = {fields[key]!r} means {params}, which is written {again[key]!r}. "
                "Allow it with lossy=True."
            )
    return params


def recoded(params: Canonical, by: int) -> Canonical:
    """Each code moved by `by`, same values: signed to unsigned with 2**(bits - 1), and back."""
    return replace(params, zero_point=params.zero_point + by, low=params.low + by, high=params.high + by)


def narrowed(params: Canonical, codes: npt.NDArray[np.integer]) -> Canonical:
    """The same scale without the lowest code, for `codes` that do not use it.

    Raises:
        BadOption: some code is the lowest, or is the zero point.
    """
    used = int((np.asarray(codes) == params.low).sum())
    if used or params.zero_point == params.low:
        raise BadOption(
            f"{used or 'No'} codes and the zero point {params.zero_point} use {params.low}, which the narrow grid "
            "lacks. Quantize again on the narrow grid."
        )
    return replace(params, low=params.low + 1)


def widened(params: Canonical) -> Canonical:
    """The same parameters with one more code below; nothing changes its value."""
    return replace(params, low=params.low - 1)


_COMMUTING = {Rounding.HALF_UP, Rounding.HALF_DOWN, Rounding.FLOOR, Rounding.CEIL}


def placement_difference(rounding: Rounding, zero_point: float, *, exact: bool = False) -> str:
    """Why round(v + z) differs from round(v) + z for some v, or "" if it never does.

    In float32 the sum v + z is itself rounded, so that any z but 0 makes a difference, next to where the rule jumps.
    With `exact`, v + z is exact.
    """
    if zero_point == 0:
        return ""
    if zero_point != math.floor(zero_point):
        return f"A zero point of {zero_point} is not whole: outside the rounding it would leave codes that are not."
    if not exact:
        return f"In float32 v + {zero_point:g} is rounded before {rounding} sees it, which moves some v onto a jump."
    if rounding in _COMMUTING or (rounding is Rounding.HALF_EVEN and zero_point % 2 == 0):
        return ""
    if rounding is Rounding.HALF_EVEN:
        return f"The zero point {zero_point:g} is odd: it turns even neighbours of ties into odd ones."
    return f"{rounding} depends on the sign of what it rounds, which adding {zero_point:g} changes."


def _known(name: str) -> Convention:
    if name not in CONVENTIONS:
        near = get_close_matches(name, CONVENTIONS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(CONVENTIONS)}."
        raise BadOption(f"There is no convention {name!r}. {hint}")
    return CONVENTIONS[name]


def _f32(value: float) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def _same(one: float | int | str, other: float | int | str) -> bool:
    """Whether two fields are one number, or texts of one."""
    mine, theirs = str(one).lower(), str(other).lower()
    return one == other or mine == theirs or ("." in mine and float(mine) == float(theirs))


def _number(fields: Fields, key: str) -> float:
    try:
        value = float(fields[key])
    except (ValueError, TypeError, OverflowError) as error:
        raise BadOption(f"{key} is {fields[key]!r}; a number is wanted.") from error
    if not math.isfinite(value):
        raise BadOption(f"{key} is {value}; a finite number is wanted.")
    return value


def _whole(fields: Fields, key: str) -> int:
    value = _number(fields, key)
    if value != math.floor(value):
        raise BadOption(f"{key} is {value}; it must be whole, or zero has no code.")
    return int(value)


def _divided(value: float, by: float, what: str) -> float:
    if not (value > 0 and by > 0):
        raise BadOption(f"{what} must be positive; found {value} / {by}.")
    return _f32(value / by)


def _with_offset(key: str, sign: int) -> Convention:
    def write(p: Canonical) -> Fields:
        return {"scale": p.scale, key: sign * p.zero_point}

    def read(fields: Fields, low: int, high: int) -> Canonical:
        return Canonical(_number(fields, "scale"), sign * _whole(fields, key), low, high)

    return Convention(write, read, ("scale", key))


def _write_aimet(p: Canonical) -> Fields:
    offset, steps = p.low - p.zero_point, p.high - p.low
    symmetric = str(p.zero_point == 0 and p.low < 0)
    ends: Fields = {"min": p.scale * offset, "max": p.scale * (offset + steps)}
    bits: Fields = {"bitwidth": steps.bit_length(), "dtype": "int", "is_symmetric": symmetric}
    return {**bits, **ends, "offset": offset, "scale": p.scale}


def _read_aimet(fields: Fields, low: int, high: int) -> Canonical:
    scale, offset, bits = _number(fields, "scale"), _whole(fields, "offset"), _whole(fields, "bitwidth")
    if offset > 0:
        raise BadOption(f"AIMET's offset is 0 or negative; found {offset}. A positive one is another convention's.")
    if bits != (high - low).bit_length():
        raise BadOption(f"AIMET: a bitwidth of {bits} does not go with the codes {low}..{high}.")
    if "min" in fields and abs(_number(fields, "min") - scale * offset) > scale / 2:
        raise BadOption(f"AIMET: min = {fields['min']} contradicts scale * offset = {scale * offset}.")
    return Canonical(scale, low - offset, low, high)


def _ends(p: Canonical) -> tuple[float, float]:
    """The values of the lowest and the highest code, exact in doubles."""
    return p.scale * (p.low - p.zero_point), p.scale * (p.high - p.zero_point)


def _write_ppl(p: Canonical) -> Fields:
    least, most = _ends(p)
    codes: Fields = {"bit_width": (p.high - p.low).bit_length(), "q_min": p.low, "q_max": p.high}
    return {**codes, "scale": p.scale, "zero_point": p.zero_point, "tensor_min": least, "tensor_max": most}


def _read_ppl(fields: Fields, low: int, high: int) -> Canonical:
    if (stated := (_whole(fields, "q_min"), _whole(fields, "q_max"))) != (low, high):
        raise BadOption(f"PPL states codes {stated[0]}..{stated[1]}, not {low}..{high}; pass low and high as stated.")
    return Canonical(_number(fields, "scale"), _whole(fields, "zero_point"), low, high)


def _limits(least: str, most: str, stored: Callable[[float], float]) -> Convention:
    def write(p: Canonical) -> Fields:
        return dict(zip((least, most), map(stored, _ends(p)), strict=True))

    def read(fields: Fields, low: int, high: int) -> Canonical:
        bottom, top = _number(fields, least), _number(fields, most)
        scale = _divided(top - bottom, high - low, "The width of a range")
        return Canonical(scale, round(low - bottom / scale) if scale else 0, low, high)

    return Convention(write, read, (least, most))


def _of_scale(key: str, write: Callable[[float], float | int | str], read: Callable[[Fields], float]) -> Convention:
    """A convention without zero point, whose one field `key` holds the scale."""
    return Convention(
        lambda p: {key: write(p.scale)}, lambda fields, low, high: Canonical(read(fields), 0, low, high), (key,), True
    )


def _read_cache(fields: Fields) -> float:
    text = str(fields["cache"])
    try:
        return float(struct.unpack(">f", bytes.fromhex(text))[0])
    except (ValueError, struct.error) as error:
        raise BadOption(f"TensorRT's cache holds eight hex digits a tensor; found {text!r}.") from error


def _shift_of(doubled: int) -> Convention:
    def write(scale: float) -> int:
        mantissa, exponent = math.frexp(scale)
        if mantissa != 0.5:
            raise BadOption(f"A scale of {scale} is no power of two, so it is no shift.")
        return 1 - exponent - doubled

    return _of_scale("shift", write, lambda fields: _power(-_whole(fields, "shift") - doubled))


def _power(exponent: int) -> float:
    if not -149 <= exponent <= 127:
        raise BadOption(f"A scale of 2**{exponent} is out of float32's range.")
    return 2.0**exponent


_PLAIN = _with_offset("zero_point", 1)

CONVENTIONS: Mapping[str, Convention] = {
    "onnx": _PLAIN,
    "tflite": _PLAIN,
    "ppq": _with_offset("offset", 1),
    "offset-added": _with_offset("offset", -1),
    "aimet": Convention(_write_aimet, _read_aimet, ("bitwidth", "offset", "scale")),
    "ppl": Convention(_write_ppl, _read_ppl, ("scale", "zero_point", "q_min", "q_max")),
    "min-max": _limits("min", "max", float),
    "openvino": _limits("input_low", "input_high", _f32),
    "tensorrt": _of_scale("cache", lambda s: struct.pack(">f", s).hex(), _read_cache),
    "tensorrt-amax": _of_scale("amax", lambda s: 127 * s, lambda f: _divided(_number(f, "amax"), 127, "amax")),
    "tensorrt-range": _of_scale("amax", lambda s: _f32(127 * s), lambda f: _divided(_number(f, "amax"), 127, "amax")),
    "ncnn": _of_scale("scale", lambda s: _f32(1 / s), lambda f: _divided(1, _number(f, "scale"), "A reciprocal")),
    "ncnn-table": _of_scale(
        "scale", lambda s: f"{_f32(1 / s):f}", lambda f: _divided(1, _number(f, "scale"), "A reciprocal")
    ),
    "shift": _shift_of(0),
    "shift-doubled": _shift_of(1),
}
