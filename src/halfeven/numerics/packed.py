"""Layers of 8-bit codes in C++: weights packed once, sums or codes of a call. None where C++ does not run.

`cpp/include/halfeven/layer.hpp` computes what `integer_ops.conv2d` and `requant.requantize` define, bit for bit, on any
processor: products of 16-bit offsets, added in pairs into 32 bits, do not saturate.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.numerics.integer_ops import AnyCodes
from halfeven.numerics.native import cut, native_module
from halfeven.numerics.requant import Requant
from halfeven.numerics.windows import Window

Sums = npt.NDArray[np.int32]
_FLAVOURS = tuple(flavour for flavour in Requant if not flavour.startswith("shift_"))
_EIGHT = (np.dtype(np.int8), np.dtype(np.uint8))
_NO_BIAS = np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class Settled:
    """How sums become codes: one multiplier for each channel, and the limits of `dtype` or of a clamp."""

    multiplier: npt.NDArray[np.float64]
    flavour: Requant
    zero_point: int
    limits: tuple[int, int]
    dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class PackedLayer:
    """Weights of a convolution in two dimensions, as C++ wants them."""

    packed: Any
    channels: int
    kernel: tuple[int, int]

    def __call__(
        self,
        x: AnyCodes,
        zero: int,
        bias: Sums | None,
        window: Window,
        settled: Settled | None = None,
        threads: int = 1,
    ) -> AnyCodes | None:
        """Of codes `x` (N, C, H, W): sums (N, O, H', W'), int32, or codes. None: the types have no form."""
        module = native_module()
        if module is None or x.dtype not in _EIGHT or window.ceil_mode:
            return None
        made = window.sizes(x.shape[2:])
        if min(made) < 1 or min(window.pads) < 0:
            return None
        shape = (len(x), self.channels, *made)
        sizes = (len(x), x.shape[2], x.shape[3])
        numbers = [*window.strides, *window.dilations, *window.pads]
        added = _NO_BIAS if bias is None else np.ascontiguousarray(bias, np.int32).ravel()
        flat = np.ravel(x)
        if settled is None:
            sums = np.empty(shape, np.int32)
            module.layer_sums(self.packed, flat, sizes, numbers, zero, added, threads, sums.reshape(-1))
            return sums
        if settled.flavour not in _FLAVOURS or settled.dtype not in _EIGHT:
            return None
        codes = np.empty(shape, settled.dtype)
        by = settled.multiplier
        if by.shape != (self.channels,) or not by.flags.c_contiguous:
            by = np.ascontiguousarray(np.broadcast_to(by.ravel(), (self.channels,)), np.float64)
        how = (by, _FLAVOURS.index(settled.flavour), settled.zero_point, *settled.limits)
        done = module.layer_codes(self.packed, flat, sizes, numbers, zero, added, *how, threads, codes.reshape(-1))
        return codes if done else None


def packed_layer(
    weight: AnyCodes, zero_point: npt.NDArray[np.int32], groups: int = 1, most: int = 3
) -> PackedLayer | None:
    """`weight` (O, C / groups, R, S) of 8 bits, packed. `most` limits the instruction set, for tests."""
    module = native_module()
    if module is None or weight.dtype not in _EIGHT or weight.size == 0 or len(weight) % groups:
        return None
    zeros = np.ascontiguousarray(np.broadcast_to(zero_point, (len(weight),)), np.int32)
    shape = (weight.shape[0], weight.shape[1], weight.shape[2], weight.shape[3])
    packed = module.PackedWeights(np.ravel(weight), zeros, shape, groups, most)
    return PackedLayer(packed, len(weight), shape[2:])


def packed_codes(sums: Sums, settled: Settled, axis: int) -> AnyCodes | None:
    """Codes of sums whose channels, if the multiplier has several, lie along `axis`."""
    module = native_module()
    by = np.ascontiguousarray(settled.multiplier, np.float64).ravel()
    form = tuple(by.size if i == axis % sums.ndim else 1 for i in range(sums.ndim)) if by.size > 1 else ()
    parts = cut(sums.shape, form)
    wide = settled.dtype not in (*_EIGHT, np.dtype(np.int16))
    if module is None or parts is None or wide or settled.flavour not in _FLAVOURS or sums.dtype != np.int32:
        return None
    codes = np.empty(sums.shape, settled.dtype)
    how = (by, _FLAVOURS.index(settled.flavour), settled.zero_point, *settled.limits)
    return codes if module.requantize(np.ravel(sums), parts, *how, codes.reshape(-1)) else None


def paired_sums(a: AnyCodes, b: AnyCodes) -> Sums | None:
    """uint8 `a` (M, K) times int8 `b` (K, N) in saturating pairs: `integer_ops.matmul_saturating_pairs`."""
    module = native_module()
    if module is None:
        return None
    odd = a.shape[1] % 2
    rows = np.pad(a, ((0, 0), (0, odd))) if odd else a
    columns = np.pad(b.T, ((0, 0), (0, odd))) if odd else b.T
    acc = np.empty((len(a), b.shape[1]), np.int32)
    module.gemm_paired(np.ravel(rows), np.ravel(columns), (len(a), b.shape[1], rows.shape[1]), acc.reshape(-1))
    return acc


def look_up_pairs(a: AnyCodes, b: AnyCodes, table: AnyCodes) -> AnyCodes:
    """table[byte of a, byte of b] for two arrays of 8-bit codes of one shape; `table` (256, 256), 8 bits."""
    module = native_module()
    left, right = np.ravel(a).view(np.uint8), np.ravel(b).view(np.uint8)
    if module is None:
        found: AnyCodes = table.reshape(-1)[left.astype(np.intp) * 256 + right].reshape(a.shape)
        return found
    out = np.empty(a.shape, table.dtype)
    module.look_up_pairs(left, right, np.ravel(table).view(np.uint8), out.reshape(-1).view(np.uint8))
    return out
