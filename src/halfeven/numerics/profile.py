"""Profiles: how one tool, in one version, turns real numbers into codes and back, bit for bit.

    ratio     v = x / s           divide        f32 division, as ONNX says
              v = x * f32(1/s)    reciprocal    what vector kernels do; not the same in one of some hundred quotients
              v = x * s           multiply      the tool stores 1/s itself (ncnn's scale, the DPU's amplitude)
              v = fma(x, f32(1/s), z)   fused   one rounding, of the sum (PyTorch)
              v = f32(f32(x * isc) + ish)       affine   of FakeQuantize's limits (OpenVINO), see `fake_quantize`
    zero      outside   round(v) + z            ONNX
              inside    round(f32(v + z))       differs on ties where z is odd or not whole, and next to them
              absent    z must be 0
    overflow  clamp     the code is clamped in float: infinities go to the ends. (Before or after the rounding is one,
                        as every rule is monotone and keeps whole numbers.)
              int32_x86   the float becomes an int32 as x86 converts: NaN, infinities and what does not fit give -2**31;
                        z is added in 32 bits, wrapping; then it is clamped. So +inf gives the lowest code, or the
                        highest if z < 0
              int32_cuda  likewise, but the conversion saturates, and NaN gives 0
    nan       low, high   the code that NaN gets; `converted`: what `overflow` makes of it; `refused`: the source does
                        not say, so it is an error

The rounded number is held exactly, whatever its dtype. Vector kernels treat what is left after the last whole block
by another formula; that is the profile's `tail`, and depends on the position in the flattened array.

The table of profiles is `profiles`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.fake_quantize import openvino_limits
from halfeven.numerics.fused import fma
from halfeven.numerics.rounding import Floats, Rounding

Codes: TypeAlias = npt.NDArray[np.int64]
Doubles: TypeAlias = npt.NDArray[np.float64]


class Ratio(StrEnum):
    """How x is divided by the scale; the module's first table."""

    DIVIDE = "divide"
    RECIPROCAL = "reciprocal"
    MULTIPLY = "multiply"
    FUSED = "fused"
    AFFINE = "affine"


class Zero(StrEnum):
    """Where the zero point is added."""

    OUTSIDE = "outside"
    INSIDE = "inside"
    ABSENT = "absent"


class Overflow(StrEnum):
    """How the rounded number becomes a code."""

    CLAMP = "clamp"
    INT32_X86 = "int32_x86"
    INT32_CUDA = "int32_cuda"


class Nan(StrEnum):
    """What NaN becomes."""

    LOW = "low"
    HIGH = "high"
    CONVERTED = "converted"
    REFUSED = "refused"


@dataclass(frozen=True)
class Profile:
    """One tool's quantizer. The fields are those of the module's docstring.

    Holds: a fused or affine ratio has the zero point inside; `converted` NaN goes with an int32 overflow; a tail has no
    tail and belongs to a block of at least 2.
    """

    name: str
    source: str
    rounding: Rounding = Rounding.HALF_EVEN
    ratio: Ratio = Ratio.DIVIDE
    zero: Zero = Zero.OUTSIDE
    overflow: Overflow = Overflow.CLAMP
    nan: Nan = Nan.REFUSED
    dtype: str = "float32"
    block: int = 0
    tail: "Profile | None" = None

    @property
    def stores_reciprocal(self) -> bool:
        """Whether the tool's scale is 1/s: codes per unit instead of units per code."""
        return self.ratio is Ratio.MULTIPLY

    def quantize(
        self, x: npt.ArrayLike, scale: npt.ArrayLike, zero_point: npt.ArrayLike = 0, low: int = -128, high: int = 127
    ) -> Codes:
        """Codes of `x`, int64, of `x`'s shape; `x` is taken as float32.

        `scale` is the number that the tool stores (see `stores_reciprocal`), a scalar or broadcast against `x`, as is
        `zero_point`; both are float32 or exact in it.

        Raises:
            BadOption: a scale is not positive and finite, a zero point is not one, the shapes do not fit, or `x` has a
                NaN which the source does not define.
        """
        with np.errstate(over="ignore"):
            values, step = np.asarray(x, np.float32), np.asarray(scale, np.float32)
        zero = np.asarray(zero_point, np.float64)
        self._check(step, zero, low, high)
        try:
            step, zero = np.broadcast_to(step, values.shape), np.broadcast_to(zero, values.shape)
        except ValueError as error:
            raise BadOption(
                f"Profile {self.name!r}: a scale of shape {step.shape} and a zero point of {zero.shape} do not "
                f"broadcast to values of {values.shape}."
            ) from error
        if self.tail is None:
            return self._codes(values, step, zero, low, high)
        flat, steps, zeros = values.reshape(-1), step.reshape(-1), zero.reshape(-1)
        whole = values.size // self.block * self.block
        body = self._codes(flat[:whole], steps[:whole], zeros[:whole], low, high)
        rest = self.tail._codes(flat[whole:], steps[whole:], zeros[whole:], low, high)
        return np.concatenate([body, rest]).reshape(values.shape)

    def dequantize(
        self, codes: npt.ArrayLike, scale: npt.ArrayLike, zero_point: npt.ArrayLike = 0
    ) -> npt.NDArray[np.float32]:
        """(code - zero_point) * scale in float32; times f32(1 / scale) where the tool stores the reciprocal."""
        step = np.asarray(scale, np.float32)
        if self.stores_reciprocal:
            step = np.float32(1) / step
        offset = np.asarray(codes, np.int64) - np.asarray(zero_point, np.int64)
        return np.asarray(offset.astype(np.float32) * step, np.float32)

    def _check(self, scale: Floats, zero: Doubles, low: int, high: int) -> None:
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise BadOption(f"Profile {self.name!r}: scales must be positive and finite, found {scale.ravel()[:3]}.")
        if not -(2**31) <= low < high < 2**32:
            raise BadOption(f"Profile {self.name!r}: codes {low}..{high} are no range of integers of up to 32 bits.")
        if self.zero is Zero.ABSENT and zero.any():
            raise BadOption(f"Profile {self.name!r} knows no zero point; it must be 0, found {zero.ravel()[:3]}.")
        if self.zero is not Zero.INSIDE and (zero != np.rint(zero)).any():
            raise BadOption(f"Profile {self.name!r}: a zero point is a whole number, found {zero.ravel()[:3]}.")

    def _codes(self, x: Floats, scale: Floats, zero: Doubles, low: int, high: int) -> Codes:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
            rounded = self._rounded(x, scale, zero, low, high).astype(np.float64)
        lost = np.isnan(rounded)
        if self.nan is Nan.REFUSED and lost.any():
            raise BadOption(f"Profile {self.name!r}: its source does not say what NaN becomes, and there is one.")
        outside = np.zeros_like(zero) if self.zero is Zero.INSIDE else zero
        if self.overflow is Overflow.CLAMP:
            codes = np.clip(np.where(lost, 0.0, rounded) + outside, low, high)
        else:
            codes = np.clip(_wrapped(self._converted(rounded) + outside), low, high)
        if self.nan is not Nan.CONVERTED:
            codes = np.where(lost, low if self.nan is Nan.LOW else high, codes)
        return codes.astype(np.int64)

    def _rounded(self, x: Floats, scale: Floats, zero: Doubles, low: int, high: int) -> Floats:
        """The rounded ratio, the zero point in it if it belongs inside."""
        wide = np.dtype(self.dtype).type
        x, scale = x.astype(wide), scale.astype(wide)
        match self.ratio:
            case Ratio.AFFINE:
                limits = openvino_limits(scale, zero, low, high)  # count from 0, the code `low`
                return self.rounding(x * limits.factor + limits.shift) + np.float32(low)
            case Ratio.FUSED:
                return self.rounding(fma(x, wide(1) / scale, zero))
            case Ratio.DIVIDE:
                ratio = x / scale
            case Ratio.RECIPROCAL:
                ratio = x * (wide(1) / scale)
            case _:  # MULTIPLY
                ratio = x * scale
        return self.rounding(ratio + zero.astype(wide) if self.zero is Zero.INSIDE else ratio)

    def _converted(self, rounded: Doubles) -> Doubles:
        """The int32 that the machine makes of a float, held in doubles."""
        least, most = -(2.0**31), 2.0**31 - 1
        if self.overflow is Overflow.INT32_CUDA:
            return np.clip(np.nan_to_num(rounded, nan=0.0, posinf=most, neginf=least), least, most)
        fits = (rounded >= least) & (rounded <= most)
        return np.where(fits, rounded, least)


def _wrapped(total: Doubles) -> Doubles:
    """A sum of two int32 as 32 bits hold it."""
    return (total + 2.0**31) % 2.0**32 - 2.0**31
