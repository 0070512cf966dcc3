"""Matrix product and convolution of one- and two-bit codes: exclusive or, and, and counting of ones.

    coding     codes       positive plane      nonzero plane      dot product over K
    sign       -1, 1       1 where +1          all                K - 2 popcount(a ^ b)       (XNOR: K - 2 popcount of
    unit       0, 1        1 where 1           the same           popcount(a & b)             what differs)
    ternary    -1, 0, 1    1 where +1          1 where not 0      popcount(m) - 2 popcount((a ^ b) & m)

where a, b are the positive planes and m = nonzero(a) & nonzero(b). The last formula holds for any two codings, as m
counts the products that are not 0 and (a ^ b) & m those that are -1; the first two are what becomes of it when m is all
ones, or when a ^ b is 0 wherever m is 1.

`matmul` runs in C++ (cpp/include/halfeven/bits.hpp) where it was built; the definition is here, and the sums are exact.

Bits are packed along the last axis, the first element in the lowest bit, into 64-bit words; the bits beyond K are 0.

Padding. Codes of ±1 have no zero, so a convolution must say what its pads are: -1 or 1 (a bit, as the fastest kernels
do: Larq Compute Engine's "one" padding), or 0, exact, in which the pads leave the nonzero plane.

Equal to floats. With weights alpha * ±1, alpha a float32, every partial sum of the float product is k * alpha with
|k| <= K. It fits float64 if K < 2**29 (24 bits of alpha, 29 of k), so the product in float64 is exact in any order, and
rounding it to float32 gives float32(k) * alpha, one rounding of the same real number: `scaled`, for K up to 2**24.

Sources: Rastegari et al. 2016, XNOR-Net, arXiv:1603.05279, section 3 (alpha = mean of |w|); Li et al. 2016, Ternary
weight networks, arXiv:1605.04711; Larq Compute Engine, core/bconv2d.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.integer_ops import AnyCodes, patches
from halfeven.numerics.native import native_module
from halfeven.numerics.shifts import Integers

Words: TypeAlias = npt.NDArray[np.uint64]

_LEAST = {"sign": -1, "unit": 0, "ternary": -1}


class Coding(StrEnum):
    """What the codes are. The table above is its definition."""

    SIGN = "sign"
    UNIT = "unit"
    TERNARY = "ternary"


_KINDS = tuple(Coding)  # in the order of BitCodes in cpp/include/halfeven/bits.hpp


@dataclass(frozen=True, eq=False)
class Packed:
    """Codes along the last axis as bits.

    Holds: both planes have shape (..., ceil(length / 64)); a positive bit is also nonzero; bits beyond `length` are 0.
    """

    coding: Coding
    positive: Words
    nonzero: Words
    length: int


def pack(codes: AnyCodes, coding: Coding) -> Packed:
    """`codes` (..., K) as bits.

    Raises:
        BadOption: a code is not one of `coding`.
    """
    signs = coding is Coding.SIGN
    if codes.size and (codes.min() < _LEAST[coding] or codes.max() > 1 or (signs and not codes.all())):
        bad = (codes < _LEAST[coding]) | (codes > 1) | ((codes == 0) & signs)
        raise BadOption(f"Pack: {codes[bad].ravel()[0]} was found, which is no code of coding '{coding}'.")
    positive = _words(codes > 0)
    if coding is Coding.UNIT:
        return Packed(coding, positive, positive, codes.shape[-1])
    full = _words(np.ones(codes.shape[-1], np.bool_)) if signs else _words(codes != 0)
    return Packed(coding, positive, np.broadcast_to(full, positive.shape), codes.shape[-1])


def unpack(packed: Packed) -> npt.NDArray[np.int8]:
    """The codes, int8, that `pack` was given."""
    positive, nonzero = (_bits(plane, packed.length) for plane in (packed.positive, packed.nonzero))
    return 2 * positive - nonzero


def matmul(a: Packed, b: Packed) -> Integers:
    """Dot products of each row of `a` (M, K) with each row of `b` (N, K): int64, shape (M, N).

    Raises:
        BadOption: the rows differ in length.
    """
    if a.length != b.length:
        raise BadOption(f"Bitwise matmul: rows of {a.length} and {b.length} codes do not multiply.")
    shape = len(a.positive), len(b.positive)
    if (module := native_module()) is None:
        return np.array([_dots(a, b, row) for row in range(shape[0])], np.int64).reshape(shape)
    dots = np.empty(shape, np.int64)
    planes = (np.ravel(plane) for packed in (a, b) for plane in (packed.positive, packed.nonzero))
    module.bit_product(*planes, (*shape, a.length), _KINDS.index(_kind(a, b)), dots.reshape(-1))
    return dots


def conv2d(
    x: AnyCodes,
    weight: AnyCodes,
    x_coding: Coding,
    weight_coding: Coding,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> Integers:
    """Dot products, int64 (N, O, H', W'), of codes `x` (N, C, H, W) and `weight` (O, C / groups, R, S), on packed bits.

    `pads` are (top, left, bottom, right). `pad_value` is what they hold: -1, 0 or 1; 0 is no code of `SIGN`, and makes
    what a sign kernel sees ternary.

    Raises:
        BadOption: shapes that do not fit, codes that are not of their coding, or another pad value.
    """
    if pad_value not in (-1, 0, 1) or (pad_value < 0 and x_coding is Coding.UNIT):
        raise BadOption(f"Bitwise conv2d: pads of {pad_value} were asked for, which coding '{x_coding}' does not hold.")
    pack(x, x_coding)  # refuses codes of another coding, before the pads join them
    seen = patches(x, weight.shape, strides, pads, dilations, groups, pad_value)
    padded_coding = Coding.TERNARY if x_coding is Coding.SIGN and pad_value == 0 and any(pads) else x_coding
    n, _, taps, height, width = seen.shape
    rows = seen.transpose(1, 0, 3, 4, 2).reshape(groups, -1, taps)
    kernels = weight.reshape(groups, -1, taps)
    dots = [matmul(pack(r, padded_coding), pack(k, weight_coding)) for r, k in zip(rows, kernels, strict=True)]
    return np.stack(dots).reshape(groups, n, height, width, -1).transpose(1, 0, 4, 2, 3).reshape(n, -1, height, width)


def scaled(dots: Integers, alpha: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """float32(dots) * alpha; `alpha` broadcasts: (N,) after a matmul, (O, 1, 1) after a convolution."""
    return np.asarray(dots.astype(np.float32) * np.asarray(alpha, np.float32), np.float32)


def popcount(words: Words) -> Integers:
    """How many bits of each 64-bit word are 1: pairs, nibbles and bytes are added side by side, bytes by a multiply."""
    x = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    counts: Integers = ((x * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)
    return counts


def _kind(a: Packed, b: Packed) -> Coding:
    """Whose formula holds: that of one coding if both have it, else the one of any two."""
    return a.coding if a.coding is b.coding else Coding.TERNARY


def _dots(a: Packed, b: Packed, row: int) -> Integers:
    """One row of `a` with all rows of `b`."""
    kind = _kind(a, b)
    if kind is Coding.SIGN:
        return np.asarray(a.length - 2 * popcount(a.positive[row] ^ b.positive).sum(-1), np.int64)
    if kind is Coding.UNIT:
        return np.asarray(popcount(a.positive[row] & b.positive).sum(-1), np.int64)
    both = a.nonzero[row] & b.nonzero
    negative = (a.positive[row] ^ b.positive) & both
    return np.asarray(popcount(both).sum(-1) - 2 * popcount(negative).sum(-1), np.int64)


def _words(bits: npt.NDArray[np.bool_]) -> Words:
    packed = np.packbits(bits, axis=-1, bitorder="little")
    missing = -packed.shape[-1] % 8
    widths = [(0, 0)] * (bits.ndim - 1) + [(0, missing)]
    return np.ascontiguousarray(np.pad(packed, widths)).view("<u8").astype(np.uint64)


def _bits(words: Words, length: int) -> npt.NDArray[np.int8]:
    octets = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=length, bitorder="little").astype(np.int8)
