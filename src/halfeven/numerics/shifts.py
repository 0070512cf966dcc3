"""The integer primitives of which requantization is made, as the instructions and libraries define them.

All take and give int64 arrays that hold values of the stated width, so that no NumPy promotion decides anything.

    rounding_shift(x, n, rule)   x / 2**n, rounded by `rule`
                                 half_up    (x + 2**(n-1)) >> n    Arm SRSHL/VRSHL by -n, Vitis DPU, most accelerators
                                 half_away  gemmlowp's RoundingDivideByPOT:
                                            (x >> n) + ((x & mask) > (mask >> 1) + (x < 0)),  mask = 2**n - 1
                                 floor      an arithmetic shift with nothing added
    high_multiply(a, b, bits)    saturate((a * b + 2**(bits-2)) >> (bits-1)), half_up
                                 Arm SQRDMULH, NEON vqrdmulh; gemmlowp's SaturatingRoundingDoublingHighMul, which is
                                 written trunc((a * b + nudge) / 2**31) with nudge = 2**30, or 1 - 2**30 if a * b < 0.
                                 -2**31 times itself is the one product that saturates, to 2**31 - 1
    multiply_high_scaled(a, b)   wrap16((a * b + 2**14) >> 15), half_up: x86 PMULHRSW, where -2**15 squared wraps

gemmlowp's formula is half_up although its nudge is symmetric: for a * b < 0 the division truncates towards zero, that
is upward, and -k - 1/2 becomes (-k * 2**31 - 2**30 + 1 - 2**30) / 2**31, truncated: -k.

Sources: gemmlowp fixedpoint/fixedpoint.h; Arm Architecture Reference Manual (SQRDMULH, SRSHL); Intel SDM (PMULHRSW).
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.rounding import Rounding

Integers: TypeAlias = npt.NDArray[np.int64]
Ties: TypeAlias = Callable[[Integers, Integers], npt.NDArray[np.bool_]]

MOST_SHIFT = 62

# Whether a tie goes up, given x and floor(x / 2**n).
_TIES: dict[Rounding, Ties] = {
    Rounding.HALF_EVEN: lambda x, below: below % 2 == 1,
    Rounding.HALF_UP: lambda x, below: np.ones_like(x, np.bool_),
    Rounding.HALF_DOWN: lambda x, below: np.zeros_like(x, np.bool_),
    Rounding.HALF_AWAY: lambda x, below: x >= 0,
    Rounding.HALF_ZERO: lambda x, below: x < 0,
    Rounding.HALF_DPU5: lambda x, below: (x < 0) | (below % 2 == 1),
}
# Whether what is not whole goes up, given x.
_DIRECTED: dict[Rounding, Callable[[Integers], npt.NDArray[np.bool_]]] = {
    Rounding.FLOOR: lambda x: np.zeros_like(x, np.bool_),
    Rounding.CEIL: lambda x: np.ones_like(x, np.bool_),
    Rounding.TRUNC: lambda x: x < 0,
}
SHIFT_RULES = (*_TIES, *_DIRECTED)


def saturate(x: Integers, bits: int) -> Integers:
    """`x`, limited to the signed integers of `bits` bits."""
    return np.clip(x, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def wrap(x: Integers, bits: int) -> Integers:
    """The low `bits` (up to 64) of `x`, read as a signed integer: two's complement overflow."""
    lost = 64 - bits
    return (x << lost) >> lost


def shift_left(x: Integers, n: npt.ArrayLike) -> Integers:
    """`x` * 2**n for 0 <= n <= 31, wrapped to 32 bits, as C and NEON vshl do in practice."""
    return wrap(np.left_shift(x, np.asarray(n, np.int64)), 32)


def rounding_shift(x: Integers, n: npt.ArrayLike, rule: Rounding = Rounding.HALF_UP) -> Integers:
    """`x` / 2**n rounded to integers by `rule`, exactly; `n`, 0 to 62, broadcasts against `x`.

    Raises:
        BadOption: a shift beyond 62, or a `sum_` rule, which is defined on floats alone.
    """
    shift = np.asarray(n, np.int64)
    if shift.size and not (shift.min() >= 0 and shift.max() <= MOST_SHIFT):
        raise BadOption(f"A right shift of {shift.ravel()[:3]} was asked for; 0 to {MOST_SHIFT} exist.")
    if rule not in SHIFT_RULES:
        raise BadOption(f"'{rule}' is no rule to shift by; use one of {', '.join(SHIFT_RULES)}.")
    wide, shift = np.broadcast_arrays(np.asarray(x, np.int64), shift)
    below = wide >> shift
    rest = wide - (below << shift)
    if rule in _DIRECTED:
        return np.asarray(below + ((rest > 0) & _DIRECTED[rule](wide)), np.int64)
    twice, one = rest * 2, np.left_shift(np.int64(1), shift)
    return np.asarray(below + ((twice > one) | ((twice == one) & _TIES[rule](wide, below))), np.int64)


def high_multiply(a: Integers, b: Integers, bits: int = 32) -> Integers:
    """Doubling multiply, upper half, half_up, saturated: SQRDMULH on `bits`-wide `a` and `b`, which broadcast."""
    return saturate(rounding_shift(np.asarray(a * b, np.int64), bits - 1), bits)


def multiply_high_scaled(a: Integers, b: Integers) -> Integers:
    """PMULHRSW on 16-bit `a` and `b`, which broadcast."""
    return wrap(rounding_shift(np.asarray(a * b, np.int64), 15), 16)
