"""Accumulators of whole layers, and codes of them, as fast as may be: C++ if it was built, else the definitions.

    conv_sums, matrix_sums   int32 sums of products, modulo 2**32      `integer_ops.conv2d`, `matmul`
    the same, saturating     uint8 times int8 by VPMADDUBSW: each sum of two products saturates to 16 bits, in the order
                             in which kernels for channels-last data read them: (row, column, channel) for Conv, K for
                             matrices; zero points are taken off afterwards  `integer_ops.matmul_saturating_pairs`
    the same, wrapping       depthwise int8: where two products overflow 16 bits, 2**16 is lost  `product_pairs`
    codes_of                 requantized codes in the dtype of the grid      `requant.requantize`
    conv_codes               both at once

A convolution in three dimensions is a sum over the taps of its first axis of convolutions in two.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.integer_ops import AnyCodes, conv2d, matmul, matmul_saturating_pairs, patches
from halfeven.numerics.packed import PackedLayer, Settled, packed_codes, packed_layer, paired_sums
from halfeven.numerics.product_pairs import LOST, Pairs, depthwise, overflows, wrapping_pairs
from halfeven.numerics.requant import requantize
from halfeven.numerics.shifts import wrap
from halfeven.numerics.windows import Window

Sums = npt.NDArray[np.int32]
_CHUNK = 1 << 22  # products held at once where pairs saturate
_POINT = Window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))


@dataclass(frozen=True, eq=False)
class Weights:
    """A layer's weights: (O, C / groups, ...) of a convolution, or (K, N) of a matrix; zero points one, or one each.

    They are packed once for C++, so keep what stays. `pairs`: how two products are added, where the types are those it
    matters for. `threads` changes no bit.
    """

    codes: AnyCodes
    zero_point: npt.NDArray[np.int32]
    groups: int = 1
    pairs: Pairs = Pairs.EXACT
    threads: int = 1

    @cached_property
    def packed(self) -> PackedLayer | None:
        """For convolutions of one or two axes, and matrices, unless they may saturate."""
        if self.codes.ndim == 2:
            return packed_layer(np.ascontiguousarray(self.codes.T)[:, :, None, None], self.zero_point.ravel())
        if self.codes.ndim not in (3, 4):
            return None
        flat = self.codes[:, :, None] if self.codes.ndim == 3 else self.codes
        return packed_layer(flat, self.zero_point.ravel(), self.groups)

    def saturating(self, x: AnyCodes) -> bool:
        """Whether products with `x` saturate. Depthwise kernels multiply in 16 bits and add in 32."""
        kinds = x.dtype == np.uint8 and self.codes.dtype == np.int8
        return self.pairs is Pairs.SATURATING and kinds and not depthwise(self.codes, self.groups)

    def wrapping(self, x: AnyCodes) -> bool:
        """Whether sums of products with `x` may wrap."""
        return self._wraps and x.dtype.itemsize == 1

    @cached_property
    def _wraps(self) -> bool:
        return self.pairs is Pairs.WRAPPING and bool(wrapping_pairs(self.codes, self.zero_point, self.groups))

    @cached_property
    def exact(self) -> "Weights":
        """The same, where no sum wraps."""
        return replace(self, pairs=Pairs.EXACT) if self.pairs is Pairs.WRAPPING else self


def matrix_sums(a: AnyCodes, weights: Weights, zero: int, bias: Sums | None = None) -> Sums:
    """int32 sums of codes `a` (..., M, K) and weights (..., K, N), plus `bias`, which broadcasts."""
    b = weights.codes
    sums = _products(a, weights, zero)
    if bias is not None:
        sums = (sums.astype(np.int64) + bias).astype(np.int32)
    return sums.reshape(*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])


def _products(a: AnyCodes, weights: Weights, zero: int) -> Sums:
    b, zeros = weights.codes, weights.zero_point
    if not weights.saturating(a):
        fast = _points(a, weights, zero, None, None)
        if fast is not None:
            return np.asarray(fast, np.int32)
        return matmul(a, b, zero, zeros if zeros.size > 1 else zeros.ravel()[0]).astype(np.int32)
    if b.ndim == 2:
        return _paired(a.reshape(-1, a.shape[-1]), b, zero, zeros.ravel())
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    wide_a, wide_b = np.broadcast_to(a, outer + a.shape[-2:]), np.broadcast_to(b, outer + b.shape[-2:])
    return np.stack([_paired(wide_a[at], wide_b[at], zero, zeros.ravel()) for at in np.ndindex(*outer)])


def _points(a: AnyCodes, weights: Weights, zero: int, bias: Sums | None, settled: Settled | None) -> AnyCodes | None:
    """A product as a convolution of K channels at M positions: (M, N), sums or codes."""
    if weights.codes.ndim != 2 or not a.size or weights.packed is None:
        return None
    columns = np.ascontiguousarray(a.reshape(-1, a.shape[-1]).T)[None, :, None]
    found = weights.packed(columns, zero, bias, _POINT, settled, weights.threads)
    return None if found is None else np.ascontiguousarray(found[0, :, 0].T)


def _paired(a: AnyCodes, b: AnyCodes, zero_a: int, zero_b: npt.ArrayLike) -> Sums:
    """One product of matrices by saturating pairs."""
    fast = paired_sums(a, b)
    if fast is None:
        rows = max(1, _CHUNK // max(b.size, 1))
        parts = [matmul_saturating_pairs(a[at : at + rows], b) for at in range(0, len(a), rows)]
        raw = np.concatenate(parts) if parts else np.zeros((0, b.shape[1]), np.int64)
    else:
        raw = fast.astype(np.int64)
    zero = np.asarray(zero_b, np.int64)
    down, across = b.astype(np.int64).sum(0), a.astype(np.int64).sum(1, keepdims=True)
    return wrap(raw - zero_a * down - zero * across + len(b) * zero_a * zero, 32).astype(np.int32)


def conv_sums(x: AnyCodes, weights: Weights, zero: int, window: Window, bias: Sums | None = None) -> Sums:
    """int32 sums of codes `x` (N, C, ...) and weights, plus `bias` (O,), for one to three spatial axes.

    Raises:
        BadOption: more axes, or shapes that do not fit.
    """
    if weights.wrapping(x):
        return conv_sums(x, weights.exact, zero, window, bias) - LOST * overflows(x, weights.codes, zero, window)
    if x.ndim == 5:
        return _deep(x, weights.exact, zero, window, bias)
    if x.ndim not in (3, 4):
        raise BadOption(f"Convolution of codes: {x.ndim - 2} spatial axes were given; there are kernels for 1 to 3.")
    flat, two = (x[:, :, None], window.as_2d()) if x.ndim == 3 else (x, window)
    sums = _plane_sums(flat, weights, zero, two, bias)
    return sums[:, :, 0] if x.ndim == 3 else sums


def _plane_sums(x: AnyCodes, weights: Weights, zero: int, window: Window, bias: Sums | None) -> Sums:
    """In two dimensions; weights of one axis get a row."""
    saturating = weights.saturating(x)
    if (
        not saturating
        and x.shape[1] == weights.codes.shape[1] * weights.groups
        and (fast := weights.packed) is not None
    ):
        found = fast(x, zero, bias, window, threads=weights.threads)
        if found is not None:
            return np.asarray(found, np.int32)
    codes = weights.codes[:, :, None] if weights.codes.ndim == 3 else weights.codes
    added, groups, shape = (0 if bias is None else bias), weights.groups, codes.shape
    if not saturating:
        given = (window.strides, window.pads, window.dilations, groups)
        return conv2d(x, codes, zero, weights.zero_point.ravel() if weights.zero_point.size > 1 else
                      weights.zero_point.ravel()[0], added, *given).astype(np.int32)  # fmt: skip
    seen = patches(x, shape, window.strides, window.pads, window.dilations, groups, zero)
    n, _, _, height, width = seen.shape
    taps, made = shape[2] * shape[3], shape[0] // groups
    last = seen.reshape(n, groups, shape[1], taps, -1).transpose(1, 0, 4, 3, 2).astype(np.uint8)
    rows = codes.reshape(groups, made, shape[1], taps).transpose(0, 3, 2, 1)
    zeros = np.broadcast_to(weights.zero_point.ravel(), (shape[0],)).reshape(groups, made)
    parts = [
        _paired(last[g].reshape(-1, taps * shape[1]), rows[g].reshape(-1, made), zero, zeros[g]) for g in range(groups)
    ]
    sums = np.stack([p.reshape(n, height, width, made) for p in parts], 1)  # n, groups, height, width, made
    return wrap(
        np.moveaxis(sums, -1, 2).reshape(n, shape[0], height, width).astype(np.int64)
        + np.broadcast_to(np.asarray(added, np.int64), (shape[0],)).reshape(-1, 1, 1),
        32,
    ).astype(np.int32)


def _deep(x: AnyCodes, weights: Weights, zero: int, window: Window, bias: Sums | None) -> Sums:
    begin, end = window.pads[0], window.pads[3]
    padded = np.pad(x, ((0, 0), (0, 0), (begin, end), (0, 0), (0, 0)), constant_values=zero)
    flat = Window(window.kernel[1:], window.strides[1:], window.pads[1:3] + window.pads[4:], window.dilations[1:])
    outputs = window.sizes(x.shape[2:])[0]
    total: Any = 0
    for tap in range(window.kernel[0]):
        at = tap * window.dilations[0]
        slices = padded[:, :, at : at + (outputs - 1) * window.strides[0] + 1 : window.strides[0]]
        merged = np.moveaxis(slices, 2, 1).reshape(-1, x.shape[1], *x.shape[3:])
        part = Weights(weights.codes[:, :, tap], weights.zero_point, weights.groups, weights.pairs, weights.threads)
        total = total + conv_sums(merged, part, zero, flat, bias if tap == 0 else None).astype(np.int64)
    sums = wrap(total, 32).astype(np.int32).reshape(len(x), outputs, *total.shape[1:])
    return np.moveaxis(sums, 1, 2)


def codes_of(sums: npt.NDArray[np.integer], settled: Settled, axis: int = -1) -> AnyCodes:
    """Codes of accumulators whose channels, if there are several multipliers, lie along `axis`."""
    fast = packed_codes(np.asarray(sums, np.int32), settled, axis) if sums.dtype == np.int32 else None
    if fast is not None:
        return fast
    by = settled.multiplier
    if by.size > 1:
        by = by.reshape((-1,) + (1,) * (sums.ndim - 1 - axis % sums.ndim))
    codes: AnyCodes = requantize(sums, by, settled.zero_point, *settled.limits, settled.flavour).astype(settled.dtype)
    return codes


def conv_codes(
    x: AnyCodes, weights: Weights, zero: int, window: Window, bias: Sums | None, settled: Settled
) -> AnyCodes:
    """Codes of `conv_sums`."""
    plain = not weights.saturating(x) and not weights.wrapping(x)
    if x.ndim == 4 and plain and x.shape[1] == weights.codes.shape[1] * weights.groups:
        fast = None if weights.packed is None else weights.packed(x, zero, bias, window, settled, weights.threads)
        if fast is not None:
            return fast
    return codes_of(conv_sums(x, weights, zero, window, bias), settled, 1)


def matrix_codes(a: AnyCodes, weights: Weights, zero: int, bias: Sums | None, settled: Settled) -> AnyCodes:
    """Codes of `matrix_sums`."""
    plain = bias is None or bias.shape == weights.codes.shape[-1:]
    if plain and not weights.saturating(a):
        fast = _points(a, weights, zero, bias, settled)
        if fast is not None:
            return fast.reshape(*a.shape[:-1], fast.shape[-1])
    return codes_of(matrix_sums(a, weights, zero, bias), settled)
