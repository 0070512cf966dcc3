"""The arithmetic of accelerators whose scales are powers of two: integers and shifts, as Vitis AI documents the DPU's.

value = code * 2**-f, f the fix position; `rule` is a rounding of `numerics.rounding`, for the DPU by method number
(`profiles.DPU_METHODS`). Everything is computed exactly in integers and rounded once:

    rescale          rule(acc / 2**(f - fy)), f the fraction bits of acc; a negative shift goes to the left; clamped
    layers           acc = sum x w + bias, f = fx + fw; a bias of fb fraction bits is shifted to f, rounded where f < fb
    add              (a << (f - fa)) + (b << (f - fb)), f = max(fa, fb)
    multiply         a b, f = fa + fb
    mean of k codes  sum times m, f = fx + n:  m / 2**n stands for 1 / k
                     3x3  7 / 64    5x5  10 / 256    6x6  7 / 256    7x7  21 / 1024    14x14  21 / 4096
                     else of n = 0 .. ceil(log2(128 k)) - 1 the first whose m = half_even(2**n / k) is nearest to 1 / k
    leaky ReLU       x above zero, f = fx; else x times m, f = fx + 8, m = half_even(256 alpha): 26 for 0.1

Sources: Vitis AI 3.5, nndct/include/cuda/nndct_fix_kernels.cuh, pytorch_nndct/nn/modules/avgpool.py (coefficients of
means), UG1414. No device was at hand: what a DPU does inside is as documented, not as measured.
"""

from math import ceil, log2

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.elementwise import Output
from halfeven.numerics.multiplier import shift_multiplier
from halfeven.numerics.requant import Codes
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shifts import MOST_SHIFT, Integers, rounding_shift

AnyCodes = npt.NDArray[np.integer]
MEANS = {
    (3, 3): (7, 6),
    (5, 5): (10, 8),
    (6, 6): (7, 8),
    (7, 7): (21, 10),
    (14, 14): (21, 12),
}
SLOPE_BITS = 8


def fix_position(scale: float) -> int:
    """The f of a scale 2**-f.

    Raises:
        BadOption: the scale is no power of two.
    """
    return int(shift_multiplier(scale).shift)


def shifted(acc: Integers, places: int, rule: Rounding) -> Integers:
    """`acc` / 2**places, rounded by `rule`; to the left where `places` is negative."""
    if not -MOST_SHIFT <= places <= MOST_SHIFT:
        raise BadOption(f"A shift by {places} was asked for; {MOST_SHIFT} places to either side exist.")
    return rounding_shift(np.left_shift(acc, max(-places, 0)), max(places, 0), rule)


def rescale(acc: Integers, fraction: int, out: Output, rule: Rounding) -> Codes:
    """Codes of sums with `fraction` bits; int32."""
    codes = shifted(acc, fraction - fix_position(out.affine.scale), rule)
    return np.clip(codes, out.low, out.high).astype(np.int32)


def add(a: AnyCodes, b: AnyCodes, scales: tuple[float, float], out: Output, rule: Rounding, sign: int = 1) -> Codes:
    """Codes of `a` + `b`, or with `sign` -1 of `a` - `b`, which broadcast; int32."""
    places = [fix_position(scale) for scale in scales]
    common = max(places)
    wide = [np.left_shift(x.astype(np.int64), common - f) for x, f in zip((a, b), places, strict=True)]
    return rescale(wide[0] + sign * wide[1], common, out, rule)


def multiply(a: AnyCodes, b: AnyCodes, scales: tuple[float, float], out: Output, rule: Rounding) -> Codes:
    """Codes of `a` * `b`, which broadcast; int32."""
    return rescale(a.astype(np.int64) * b.astype(np.int64), sum(map(fix_position, scales)), out, rule)


def mean_factor(kernel: tuple[int, ...]) -> tuple[int, int]:
    """Give m and n: m / 2**n stands for one over the size of a window."""
    if kernel in MEANS:
        return MEANS[kernel]
    count = int(np.prod(kernel))
    most = ceil(log2(count * 128))
    factors = [int(np.rint(2**n / count)) for n in range(most)]
    errors = [abs(m / 2**n - 1 / count) for n, m in enumerate(factors)]
    n = int(np.argmin(errors))
    return factors[n], n


def mean(sums: Integers, kernel: tuple[int, ...], scale: float, out: Output, rule: Rounding) -> Codes:
    """Codes of means, from sums over windows of shape `kernel`; int32."""
    m, n = mean_factor(kernel)
    return rescale(sums * m, fix_position(scale) + n, out, rule)


def leaky_relu(x: AnyCodes, alpha: float, scale: float, out: Output, rule: Rounding) -> Codes:
    """Codes of LeakyRelu; int32."""
    wide, f = x.astype(np.int64), fix_position(scale)
    m = int(np.rint(alpha * (1 << SLOPE_BITS)))
    return np.where(wide >= 0, rescale(wide, f, out, rule), rescale(wide * m, f + SLOPE_BITS, out, rule))
