"""Products without a multiplier: logarithmic codes are added, powers of two are shifts.

A logarithmic code is a sign (-1, 0 or 1) and an integer exponent: value = sign * 2**(exponent / steps), with `steps`
codes an octave. A product is then an addition of exponents; only the sum over k remains, which is done in three ways:

    log_matmul             exact: each product is 1 << (ea + eb - least), or with steps > 1 a table's entry
                           T[f] = half_even(2**fraction_bits * 2**(f / steps)), f = (ea + eb) mod steps, shifted
    log_matmul_by_table    the sum stays logarithmic too: for d = |difference of the exponents|, in steps,
                           log(A + B) = max + plus[d],     plus[d]  = half_even(steps * log2(1 + 2**(-d / steps)))
                           log(A - B) = max + minus[d],    minus[d] = half_even(steps * log2(1 - 2**(-d / steps)))
                           with plus[d] = 0, minus[d] = 0 beyond the table's end, where the formulas give less than 1/2
    shift_matmul           integer codes times powers of two: x << (e - least), added

Equal to floats. Let `spread` be the largest product exponent less the least one (for `shift_matmul`: the bits of the
widest x, plus the largest weight exponent, less the least). All products, and all partial sums, are integers times
2**least, below 2**(spread + 1 + log2 K); if that is at most 2**53, float64 holds each of them, so the float64 product
of the dequantized operands is exact in any order, and equal to `Scaled.values`, bit for bit. Up to 2**62 the integer
sum is still exact, where the float's is not. With steps > 1 each product is off by a half unit of the table at most, a
relative 2**-(fraction_bits + 1).
The table's sum equals rounding each partial sum's logarithm to whole steps: max is whole, so half_even(max + y) = max +
half_even(y).

Sources: Miyashita et al. 2016, Convolutional neural networks using logarithmic data representation, arXiv:1603.01025,
section 3 (its accumulation approximates log2(1 + x) by x; the table has no such error); Kingsbury and Rayner 1971,
Digital filtering using logarithmic arithmetic (plus and minus tables); Zhou et al. 2017, Incremental network
quantization, arXiv:1702.03044 (power-of-two weights); Gysel 2016, Ristretto, arXiv:1605.06402 (multiplier-free).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.shifts import Integers

_ROOM = 62


@dataclass(frozen=True, eq=False)
class LogCodes:
    """value = sign * 2**(exponent / steps).

    Holds: `sign` in {-1, 0, 1} and `exponent` are int64 of one shape; where sign is 0, so is the value.
    """

    sign: Integers
    exponent: Integers
    steps: int = 1

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """What the codes stand for, in float64; exact if `steps` is 1."""
        return np.asarray(self.sign * np.exp2(self.exponent / self.steps), np.float64)


@dataclass(frozen=True, eq=False)
class Scaled:
    """Integers on a power-of-two scale: value = mantissa * 2**exponent."""

    mantissa: Integers
    exponent: int

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """What the integers stand for, in float64; exact below 2**53."""
        return np.ldexp(self.mantissa.astype(np.float64), self.exponent)


def of_grid(codes: npt.NDArray[np.integer], grid: LogGrid) -> LogCodes:
    """Codes of a `LogGrid`, whose scale stays outside: a product's scale is the product of the scales."""
    wide = codes.astype(np.int64)
    return LogCodes(np.sign(wide), np.where(wide == 0, 0, np.abs(wide) - grid.levels), grid.steps)


def log_matmul(a: LogCodes, b: LogCodes, fraction_bits: int = 15) -> Scaled:
    """Product of `a` (M, K) and `b` (K, N), summed as integers; `fraction_bits` matter if there are steps in an octave.

    Raises:
        BadOption: the shapes or steps differ, or the exponents spread beyond 62 bits.
    """
    _check(a, b)
    table = _powers(a.steps, fraction_bits)
    bits = fraction_bits if a.steps > 1 else 0
    least = (_least(a) + _least(b)) // a.steps
    spread = (_most(a) + _most(b)) // a.steps - least
    _check_room(spread + bits, a.sign.shape[1])
    total = np.zeros((a.sign.shape[0], b.sign.shape[1]), np.int64)
    for k in range(a.sign.shape[1]):
        exponent = a.exponent[:, k, None] + b.exponent[k]
        product = table[exponent % a.steps] << np.clip(exponent // a.steps - least, 0, spread)
        total += _signed(product, a.sign[:, k, None], b.sign[k])
    return Scaled(total, least - bits)


def shift_matmul(x: npt.NDArray[np.integer], weight: LogCodes, x_zero_point: int = 0) -> Scaled:
    """Product of integer codes `x` (M, K), less their zero point, and powers of two `weight` (K, N): shifts and sums.

    Raises:
        BadOption: the shapes do not fit, the weight is no power of two, or the sums need more than 62 bits.
    """
    if weight.steps != 1 or x.ndim != 2 or weight.sign.ndim != 2 or x.shape[1] != weight.sign.shape[0]:
        raise BadOption(
            f"Shift matmul: shapes {x.shape} and {weight.sign.shape} of {weight.steps} steps an octave do not multiply."
        )
    offsets = x.astype(np.int64) - x_zero_point
    least, width = _least(weight), int(np.abs(offsets).max(initial=0)).bit_length()
    spread = _most(weight) - least
    _check_room(spread + width, x.shape[1])
    total = np.zeros((x.shape[0], weight.sign.shape[1]), np.int64)
    for k in range(x.shape[1]):
        shifted = offsets[:, k, None] << np.clip(weight.exponent[k] - least, 0, spread)
        total += _signed(shifted, weight.sign[k], np.int64(1))
    return Scaled(total, least)


def log_matmul_by_table(a: LogCodes, b: LogCodes) -> LogCodes:
    """Product of `a` (M, K) and `b` (K, N) whose sums, from k = 0 on, are looked up; (M, N), with their steps.

    Raises:
        BadOption: the shapes or steps differ.
    """
    _check(a, b)
    shape = (a.sign.shape[0], b.sign.shape[1])
    total = LogCodes(np.zeros(shape, np.int64), np.zeros(shape, np.int64), a.steps)
    for k in range(a.sign.shape[1]):
        product = LogCodes(a.sign[:, k, None] * b.sign[k], a.exponent[:, k, None] + b.exponent[k], a.steps)
        total = log_add(total, product)
    return total


def log_add(a: LogCodes, b: LogCodes) -> LogCodes:
    """Sum of `a` and `b`, of one shape, as the nearest logarithmic code (nearest in the logarithm).

    Raises:
        BadOption: their steps differ.
    """
    if a.steps != b.steps:
        raise BadOption(f"Logarithmic sum: {a.steps} and {b.steps} steps an octave do not add.")
    plus, minus = tables(a.steps)
    a_larger = (b.sign == 0) | ((a.sign != 0) & (a.exponent >= b.exponent))
    sign, top = np.where(a_larger, a.sign, b.sign), np.where(a_larger, a.exponent, b.exponent)
    apart = np.minimum(np.abs(a.exponent - b.exponent), len(plus) - 1)
    change = np.where(a.sign == b.sign, plus[apart], minus[apart])
    alone = (a.sign == 0) | (b.sign == 0)
    gone = ~alone & (a.sign != b.sign) & (a.exponent == b.exponent)
    return LogCodes(np.where(gone, 0, sign), np.where(gone, 0, top + np.where(alone, 0, change)), a.steps)


@cache
def tables(steps: int) -> tuple[Integers, Integers]:
    """`plus` and `minus` for 0, 1, 2... steps apart, up to the first that is 0 in both; minus[0] is not used, and 0."""
    last = int(np.ceil(steps * np.log2(2 * steps / np.log(2)))) + 1  # log2(1 + y) < y / ln 2; minus is hardly longer
    apart = np.exp2(-np.arange(last + 1) / steps)
    plus = np.rint(steps * np.log1p(apart) / np.log(2)).astype(np.int64)
    minus = np.zeros_like(plus)
    minus[1:] = np.rint(steps * np.log1p(-apart[1:]) / np.log(2)).astype(np.int64)
    plus.flags.writeable = minus.flags.writeable = False
    return plus, minus


def _powers(steps: int, fraction_bits: int) -> Integers:
    """half_even(2**fraction_bits * 2**(f / steps)) for f in 0..steps - 1; [1] for one step."""
    if steps == 1:
        return np.ones(1, np.int64)
    return np.rint(np.ldexp(np.exp2(np.arange(steps) / steps), fraction_bits)).astype(np.int64)


def _signed(x: Integers, a: Integers, b: Integers | np.int64) -> Integers:
    return np.where((a == 0) | (b == 0), 0, np.where(a == b, x, -x))


def _least(codes: LogCodes) -> int:
    return int(codes.exponent[codes.sign != 0].min()) if codes.sign.any() else 0


def _most(codes: LogCodes) -> int:
    return int(codes.exponent[codes.sign != 0].max()) if codes.sign.any() else 0


def _check(a: LogCodes, b: LogCodes) -> None:
    if a.sign.ndim != 2 or b.sign.ndim != 2 or a.sign.shape[1] != b.sign.shape[0]:
        raise BadOption(f"Logarithmic matmul: shapes {a.sign.shape} and {b.sign.shape} do not multiply.")
    if a.steps != b.steps:
        raise BadOption(f"Logarithmic matmul: {a.steps} and {b.steps} steps an octave do not multiply.")


def _check_room(bits: int, depth: int) -> None:
    needed = bits + 1 + max(depth - 1, 0).bit_length()
    if needed > _ROOM:
        raise BadOption(
            f"Exponents spread so far that sums need {needed} bits; {_ROOM} exist. Clip the small ones to 0."
        )
