"""A real multiplier as an integer and a shift: what is settled before the first accumulator is seen.

Requantization multiplies an accumulator by M = input_scale * weight_scale / output_scale, the only number in it that
is no integer (Jacob et al. 2018, arXiv:1712.05877, equations 5 to 7). Here M becomes

    M  ≈  mantissa * 2**-shift          Multiplier(mantissa, shift)

    function                 mantissa                 shift          of
    paper_multiplier         2**30 .. 2**31 - 1       31 + n         M = 2**-n M0 of the paper, M in (0, 1), M0 >= 0.5
    litert_multiplier        half_away(q * 2**31)     31 - e         M = q * 2**e, q in [0.5, 1): QuantizeMultiplier
    float_free_multiplier    bits 52..22 of M         31 - e         the same under TFLITE_EMULATE_FLOAT
    int16x8_multiplier       litert's, to 15 bits     15 - e         LiteRT, 16-bit activations and 64-bit accumulators
    rndnu_multiplier         24 bits of float32(M)    23 - exponent  XNNPACK "rndnu"; exact
    qnnpack_multiplier       those << 7               30 - exponent  QNNPACK; exact, M in [2**-32, 1)
    rndnu16_multiplier       those to 15 bits         14 - exponent  XNNPACK "rndnu16"
    q8_8_multiplier          half_even(256 * M)       8              XNNPACK convert and leaky ReLU
    shift_multiplier         1                        k              M = 2**-k: Vitis DPU and other power-of-two targets

ncnn and ONNX Runtime have none: they multiply by a float32. What M itself is also differs: LiteRT computes it in
float64, ONNX Runtime, XNNPACK and QNNPACK in float32 (`real_multiplier`, `float_multiplier`).

litert_multiplier: half_away may carry q * 2**31 to 2**31, which becomes 2**30 with e + 1. If e < -31, all is 0 (the
flush), so M below 2**-32 gives 0. Builds with TFLITE_SINGLE_ROUNDING also limit e to 30, with the greatest mantissa.
float_free_multiplier rounds up only when what is dropped is strictly more than a half, so it is half_zero, and keeps 30
fraction bits of M's significand in [1, 2), which are 31 with the hidden one; then the same carry and flush.
int16x8_multiplier: (q31 + 2**15) >> 16, but 0x7FFF from 0x7FFF0000 on, lest it becomes 2**15.

Sources: LiteRT tflite/kernels/internal/quantization_util.cc, common.cc; XNNPACK src/xnnpack/requantization.h; QNNPACK
src/qnnpack/requantization.h.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shifts import MOST_SHIFT, Integers

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Multiplier:
    """mantissa * 2**-shift.

    Holds: both are int64 of one shape; shift may be negative (then the accumulator is shifted left).
    """

    mantissa: Integers
    shift: Integers

    @property
    def real(self) -> Doubles:
        """The multiplier that this stands for, exact in float64."""
        return np.ldexp(self.mantissa.astype(np.float64), -self.shift.astype(np.int32))


def real_multiplier(input_scale: npt.ArrayLike, weight_scale: npt.ArrayLike, output_scale: npt.ArrayLike) -> Doubles:
    """Input times weight over output, of float32 scales, in float64: LiteRT's convolutions and fully connected."""
    product = np.asarray(input_scale, np.float64) * np.asarray(weight_scale, np.float64)
    return np.asarray(product / np.asarray(output_scale, np.float64), np.float64)


def float_multiplier(input_scale: npt.ArrayLike, weight_scale: npt.ArrayLike, output_scale: npt.ArrayLike) -> Doubles:
    """The same in float32, each step rounded, held as float64: ONNX Runtime, XNNPACK, QNNPACK, LiteRT's MUL."""
    product = np.asarray(input_scale, np.float32) * np.asarray(weight_scale, np.float32)
    return np.asarray(product / np.asarray(output_scale, np.float32), np.float64)


def checked(real: npt.ArrayLike) -> Doubles:
    """`real` as float64.

    Raises:
        BadOption: a multiplier is not positive, or not finite in float32.
    """
    m = np.asarray(real, np.float64)
    if not ((m > 0) & (m <= float(np.finfo(np.float32).max))).all():
        raise BadOption(f"A multiplier of {m.ravel()[:3]} was found; it is a quotient of scales, positive and finite.")
    return m


def litert_multiplier(real: npt.ArrayLike, single_rounding: bool = False) -> Multiplier:
    """LiteRT's QuantizeMultiplier; `single_rounding` is a build with TFLITE_SINGLE_ROUNDING."""
    fraction, exponent = np.frexp(checked(real))
    mantissa = Rounding.HALF_AWAY(fraction * 2.0**31).astype(np.int64)
    return _carried(mantissa, exponent.astype(np.int64), single_rounding)


def float_free_multiplier(real: npt.ArrayLike) -> Multiplier:
    """LiteRT's QuantizeMultiplier in builds that define TFLITE_EMULATE_FLOAT."""
    fraction, exponent = np.frexp(checked(real))
    mantissa = Rounding.HALF_ZERO(fraction * 2.0**31).astype(np.int64)
    return _carried(mantissa, exponent.astype(np.int64), False)


def paper_multiplier(real: npt.ArrayLike) -> Multiplier:
    """M = 2**-n M0 with M0 in [0.5, 1) as a 31-bit fraction and n >= 0.

    Raises:
        BadOption: M is not in (0, 1).
    """
    m = checked(real)
    found = litert_multiplier(m)
    if not (m < 1).all() or not (found.shift >= 31).all():
        raise BadOption(
            f"A multiplier of {m.max()} was found; M = 2**-n M0 needs it in (0, 1). Widen the output range."
        )
    return found


def int16x8_multiplier(real: npt.ArrayLike) -> Multiplier:
    """LiteRT's multiplier for int64 accumulators: 15 bits of `litert_multiplier`."""
    wide = litert_multiplier(real)
    reduced = np.where(wide.mantissa < 0x7FFF0000, (wide.mantissa + (1 << 15)) >> 16, 0x7FFF)
    return Multiplier(reduced, wide.shift - 16)


def rndnu_multiplier(real: npt.ArrayLike) -> Multiplier:
    """XNNPACK's: the significand of float32(M), as an integer of 24 bits.

    Raises:
        BadOption: M is not in [2**-32, 256).
    """
    return _significand(real, 256.0, "XNNPACK")


def qnnpack_multiplier(real: npt.ArrayLike) -> Multiplier:
    """QNNPACK's: the significand of float32(M), as an integer of 31 bits.

    Raises:
        BadOption: M is not in [2**-32, 1).
    """
    exact = _significand(real, 1.0, "QNNPACK")
    return Multiplier(exact.mantissa << 7, exact.shift + 7)


def rndnu16_multiplier(real: npt.ArrayLike) -> Multiplier:
    """XNNPACK's for 16-bit multiplies: 15 bits of `rndnu_multiplier`, half_up, at most 32767.

    Raises:
        BadOption: M is not in [2**-32, 256).
    """
    exact = _significand(real, 256.0, "XNNPACK")
    return Multiplier(np.minimum((exact.mantissa + 256) >> 9, 32767), exact.shift - 9)


def q8_8_multiplier(real: npt.ArrayLike) -> Multiplier:
    """XNNPACK's for code to code: 256 * float32(M), half to even.

    Raises:
        BadOption: M is not in [2**-8, 2**7].
    """
    m = checked(real).astype(np.float32)
    if not ((m >= 2.0**-8) & (m <= 2.0**7)).all():
        raise BadOption(f"A multiplier of {m.ravel()[:3]} was found; 8.8 fixed point needs 2**-8 to 2**7.")
    return Multiplier(np.rint(m * np.float32(256)).astype(np.int64), np.full(m.shape, 8, np.int64))


def shift_multiplier(real: npt.ArrayLike) -> Multiplier:
    """M = 2**-k as the shift k, positive to the right.

    Raises:
        BadOption: M is no power of two, or not in [2**-62, 2**30].
    """
    m = checked(real)
    fraction, exponent = np.frexp(m)
    k = 1 - exponent.astype(np.int64)
    if not (fraction == 0.5).all():
        raise BadOption(f"A multiplier of {m[fraction != 0.5].ravel()[0]} was found; a shift needs powers of two. "
                        "Quantize with power-of-two scales.")  # fmt: skip
    if not ((k >= -30) & (k <= MOST_SHIFT)).all():
        raise BadOption(f"A multiplier of {m.ravel()[:3]} was found; a shift needs 2**-{MOST_SHIFT} to 2**30.")
    return Multiplier(np.ones_like(k), k)


def _carried(mantissa: Integers, exponent: Integers, single_rounding: bool) -> Multiplier:
    carry = mantissa == 1 << 31
    exponent = exponent + carry
    tiny = exponent < -31
    mantissa = np.where(tiny, 0, np.where(carry, 1 << 30, mantissa))
    exponent = np.where(tiny, 0, exponent)
    if single_rounding:
        mantissa = np.where(exponent > 30, (1 << 31) - 1, mantissa)
        exponent = np.minimum(exponent, 30)
    return Multiplier(mantissa, 31 - exponent)


def _significand(real: npt.ArrayLike, below: float, library: str) -> Multiplier:
    m = checked(real).astype(np.float32)
    if not ((m >= 2.0**-32) & (m < below)).all():
        raise BadOption(f"A multiplier of {m.ravel()[:3]} was found; {library} needs 2**-32 <= M < {below:g}.")
    bits = np.ascontiguousarray(m).view(np.uint32).reshape(m.shape).astype(np.int64)
    return Multiplier((bits & 0x7FFFFF) | 0x800000, 150 - (bits >> 23))
