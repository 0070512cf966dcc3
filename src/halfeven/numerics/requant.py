"""Requantization: from an accumulator to a code, in each way that a runtime does it.

    code = clip(round(accumulator * M) + zero_point, low, high)

where no two of the runtimes read `round` and `*` alike. All differences are of one code, on few outputs or many.

    flavour             round(acc * M); m and s of `halfeven.numerics.multiplier`, M ≈ m * 2**-s    used by
    double_rounding     half_away(high_multiply(acc << l, m) / 2**r)             LiteRT reference, TFLite Micro
    neon                half_up(high_multiply(acc << l, m) / 2**r)               LiteRT optimized on x86; depthwise
    single_rounding     half_up(acc * m / 2**s)                                  LiteRT optimized on Arm (ruy)
    int16x8             half_up(acc * m15 / 2**s), acc of 48 bits                LiteRT 16x8
    float64_half_away   half_away(float64(acc) * M)                              LiteRT reference FULLY_CONNECTED
    float32_half_even   half_even(float32(float32(acc) * float32(M))),           ONNX Runtime, XNNPACK, FBGEMM
                        clipped in float before
    float32_inside      half_even(float32(float32(acc * M) + zero_point))        ONNX Runtime's QLinearMul on x86
    float32_fused       half_even(fma(acc, M, zero_point))                       the same on Arm
    rndnu               half_up(acc * m24 / 2**s)                                XNNPACK on Arm
    rndnu16             multiply_high_scaled(saturate16(half_up(acc / 2**p)), m15)    XNNPACK
    qnnpack             half_away(high_multiply(acc, m) / 2**r)                  QNNPACK
    q8_8                half_up(acc * m8 / 2**8)                                 XNNPACK, code to code
    shift_RULE          RULE(acc / 2**k); a rule of `Rounding`, no sum           Vitis DPU, power-of-two accelerators

    l = max(31 - s, 0) and r = max(s - 31, 0): LiteRT's left and right shift;  p = s - 15

When it matters. With a right shift r, that is M in [2**-(r+1), 2**-r), the first of two roundings makes a tie of 2**-r
of all values, and sees none if r = 0. Half of the ties are resolved otherwise than by a single rounding, or by
half_away for half_up: of a convolution's outputs (M near 2**-9) a thousandth, of a change of scale's with M in
[1/4, 1/2) a quarter. `float32_half_even` is exact for |acc| < 2**24; beyond, float32(acc) rounds too. For
`float32_inside` and `float32_fused` the zero point takes part in the rounding, so an odd one turns ties.
acc << l wraps to 32 bits. ncnn and OpenVINO go on in float, with a float bias: they have no such step.

Sources: named in `halfeven.numerics.multiplier` and `halfeven.numerics.shifts`; LiteRT
reference/integer_ops/fully_connected.h; ruy apply_multiplier.cc; ONNX Runtime onnxruntime/core/mlas/lib/quantize.cpp,
qlmul.cpp. All but rndnu16, qnnpack and the shifts, which are read from the sources, were compared with codes recorded
from the runtime itself.
"""

from collections.abc import Callable
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.fused import fma
from halfeven.numerics.multiplier import (
    Doubles,
    Multiplier,
    checked,
    int16x8_multiplier,
    litert_multiplier,
    q8_8_multiplier,
    qnnpack_multiplier,
    rndnu16_multiplier,
    rndnu_multiplier,
    shift_multiplier,
)
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shifts import (
    Integers,
    high_multiply,
    multiply_high_scaled,
    rounding_shift,
    saturate,
    shift_left,
)

Codes = npt.NDArray[np.int32]


class Requant(StrEnum):
    """Names a way to requantize. The table above is its definition."""

    DOUBLE_ROUNDING = "double_rounding"
    NEON = "neon"
    SINGLE_ROUNDING = "single_rounding"
    INT16X8 = "int16x8"
    FLOAT64_HALF_AWAY = "float64_half_away"
    FLOAT32_HALF_EVEN = "float32_half_even"
    FLOAT32_INSIDE = "float32_inside"
    FLOAT32_FUSED = "float32_fused"
    RNDNU = "rndnu"
    RNDNU16 = "rndnu16"
    QNNPACK = "qnnpack"
    Q8_8 = "q8_8"
    SHIFT_HALF_EVEN = "shift_half_even"
    SHIFT_HALF_UP = "shift_half_up"
    SHIFT_HALF_DOWN = "shift_half_down"
    SHIFT_HALF_AWAY = "shift_half_away"
    SHIFT_HALF_ZERO = "shift_half_zero"
    SHIFT_HALF_DPU5 = "shift_half_dpu5"
    SHIFT_FLOOR = "shift_floor"
    SHIFT_CEIL = "shift_ceil"
    SHIFT_TRUNC = "shift_trunc"


WIDE = frozenset({Requant.INT16X8, Requant.FLOAT64_HALF_AWAY})
"""What sums of 16-bit codes go through, which pass 32 bits: up to 48."""


def requantize(
    acc: npt.NDArray[np.integer],
    real_multiplier: npt.ArrayLike,
    zero_point: npt.ArrayLike,
    low: int,
    high: int,
    flavour: Requant,
) -> Codes:
    """Codes in `low..high` of accumulators `acc`, in the way of `flavour`; int32, of the broadcast shape.

    `acc` holds 32 bits (48 for those of `WIDE`). `real_multiplier`, in the precision the runtime computes it in, and
    `zero_point` broadcast against `acc`: give (C, 1, 1) or (C,) for one a channel. `low` and `high` are the limits of
    the type or of the fused activation. An accumulator that M carries beyond 32 bits is limited like any other.

    Raises:
        BadOption: the multiplier is not one that the flavour can express, `acc` is too wide, or `low` > `high`.
    """
    bits = 48 if flavour in WIDE else 32
    wide = np.asarray(acc).astype(np.int64)
    if not np.array_equal(saturate(wide, bits), wide):
        raise BadOption(f"Requantize '{flavour}': an accumulator needs more than its {bits} bits.")
    if low > high:
        raise BadOption(f"Requantize '{flavour}': no code lies between {low} and {high}.")
    zero = np.asarray(zero_point, np.int64)
    m = checked(real_multiplier)
    if flavour in _FLOAT:
        with np.errstate(over="ignore"):  # an infinite product is limited like any other
            codes = _FLOAT[flavour](wide, m, zero, low, high)
    else:
        codes = np.clip(_scaled(wide, m, flavour) + zero, low, high)
    return np.asarray(codes, np.int32)


def _scaled(acc: Integers, m: Doubles, flavour: Requant) -> Integers:
    """The flavours that add the zero point after the rounding and clip integers."""
    if flavour in _EXACT:
        return _EXACT[flavour](acc, m)
    by = shift_multiplier(m).shift
    rule = Rounding(flavour.removeprefix("shift_"))
    return rounding_shift(np.left_shift(acc, np.maximum(-by, 0)), np.maximum(by, 0), rule)


def _twice(acc: Integers, by: Multiplier, rule: Rounding) -> Integers:
    left, right = np.maximum(31 - by.shift, 0), np.maximum(by.shift - 31, 0)
    if (left > 31).any():
        raise BadOption(f"A multiplier of {by.real.max()} was found; a left shift needs it below 2**31.")
    return rounding_shift(high_multiply(shift_left(acc, left), by.mantissa), right, rule)


def _once(acc: Integers, by: Multiplier) -> Integers:
    return rounding_shift(acc * by.mantissa, by.shift)


def _int16x8(acc: Integers, m: Doubles) -> Integers:
    by = int16x8_multiplier(m)
    if (by.shift < 1).any():
        raise BadOption(f"Requantize 'int16x8': a multiplier of {m.max()} was found; the shift needs it below 2**14.")
    return saturate(_once(acc, by), 32)


def _single(acc: Integers, m: Doubles) -> Integers:
    return _once(acc, litert_multiplier(m, single_rounding=True))


def _rndnu16(acc: Integers, m: Doubles) -> Integers:
    by = rndnu16_multiplier(m)
    left, right = np.maximum(15 - by.shift, 0), np.maximum(by.shift - 15, 0)
    ready = saturate(rounding_shift(np.left_shift(acc, left), right), 16)
    return multiply_high_scaled(ready, by.mantissa)


def _float64_half_away(acc: Integers, m: Doubles) -> Integers:
    scaled = Rounding.HALF_AWAY(acc.astype(np.float64) * m)
    return np.clip(scaled, -(2.0**31), 2.0**31).astype(np.int64)


_EXACT: dict[Requant, Callable[[Integers, Doubles], Integers]] = {
    Requant.DOUBLE_ROUNDING: lambda acc, m: _twice(acc, litert_multiplier(m), Rounding.HALF_AWAY),
    Requant.NEON: lambda acc, m: _twice(acc, litert_multiplier(m), Rounding.HALF_UP),
    Requant.SINGLE_ROUNDING: _single,
    Requant.INT16X8: _int16x8,
    Requant.FLOAT64_HALF_AWAY: _float64_half_away,
    Requant.RNDNU: lambda acc, m: _once(acc, rndnu_multiplier(m)),
    Requant.RNDNU16: _rndnu16,
    Requant.QNNPACK: lambda acc, m: _twice(acc, qnnpack_multiplier(m), Rounding.HALF_AWAY),
    Requant.Q8_8: lambda acc, m: _once(acc, q8_8_multiplier(m)),
}


def _float32_half_even(acc: Integers, m: Doubles, zero: Integers, low: int, high: int) -> Integers:
    scaled = acc.astype(np.float32) * m.astype(np.float32)
    limited = np.clip(scaled, (low - zero).astype(np.float32), (high - zero).astype(np.float32))
    return np.rint(limited).astype(np.int64) + zero


def _float32_inside(acc: Integers, m: Doubles, zero: Integers, low: int, high: int) -> Integers:
    total = acc.astype(np.float32) * m.astype(np.float32) + zero.astype(np.float32)
    return np.clip(np.rint(total), low, high).astype(np.int64)


def _float32_fused(acc: Integers, m: Doubles, zero: Integers, low: int, high: int) -> Integers:
    total = fma(acc.astype(np.float32), m.astype(np.float32), zero.astype(np.float32))
    return np.clip(np.rint(total), low, high).astype(np.int64)


_FLOAT: dict[Requant, Callable[[Integers, Doubles, Integers, int, int], Integers]] = {
    Requant.FLOAT32_HALF_EVEN: _float32_half_even,
    Requant.FLOAT32_INSIDE: _float32_inside,
    Requant.FLOAT32_FUSED: _float32_fused,
}
