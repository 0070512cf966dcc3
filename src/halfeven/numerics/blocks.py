"""Block formats: a scale for each run of elements along the last axis, itself a small code.

    format        element        run   scale of a run    a run's absmax maps to        scale of the scales
    MXFP8_E4M3    float8 e4m3fn  32    e8m0              2**8 <= . < 2**9, saturating  none
    MXFP8_E5M2    float8 e5m2    32    e8m0              2**15 <= . < 2**16            none
    MXFP6_E3M2    float6 e3m2    32    e8m0              2**4 <= . < 2**5              none
    MXFP6_E2M3    float6 e2m3    32    e8m0              2**2 <= . < 2**3              none
    MXFP4         float4 e2m1    32    e8m0              2**2 <= . < 2**3              none
    MXINT8        int8, unit     32    e8m0              1 <= . < 2                    none
                  1 / 64
    NVFP4         float4 e2m1    16    float8 e4m3fn     6                             float32, one for the tensor
    INT4_INT8     int4           32    int8, above 0     7                             float32, one for each row
    NF4_DOUBLE    NF4            64    uint8             1                             float32, one for 256 scales

Two levels in general: ideal = absmax / full (float64), outer = max of ideal over its tile / high of the scale's grid
(float32, or 1 where there is none), and

    scale code = scale_grid.encode(ideal / outer)      rounded down to a power of two in MX, else to nearest
    scale      = value of the scale code * outer * unit    float32, the scale of `dequantize`; unit 1 but for MXINT8
    code       = quantize(x, scale)                    value = dequantize(code, scale)

In MX `full` is 2**emax with emax the element's largest exponent, thus scale = 2**(floor(log2(absmax)) - emax). A run of
zeros, or one so small that its scale would be 0, gets the least scale above 0. Infinity and NaN are refused: the
standard leaves to the implementation what becomes of their neighbours. Products are in float32, block scale times outer
scale first, as two DequantizeLinear in a row compute them. QLoRA flattens a weight before NF4_DOUBLE cuts it.

Sources: OCP Microscaling Formats (MX) 1.0, sections 5 and 6.3; NVIDIA, "Pretraining large language models with NVFP4",
arXiv:2509.25149, appendix; Dai et al. 2021, VS-Quant, arXiv:2102.04503 (two-level integer scales); Dettmers et al.
2023, arXiv:2305.14314, section 3 (double quantization; there the scales' mean is subtracted first, here it is not).
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.codebook import NF4, CodebookGrid
from halfeven.numerics.floats import (
    FLOAT4_E2M1,
    FLOAT6_E2M3,
    FLOAT6_E3M2,
    FLOAT8_E4M3FN,
    FLOAT8_E5M2,
    FLOAT8_E8M0,
    FloatGrid,
)
from halfeven.numerics.grid import INT8, UINT8, IntGrid
from halfeven.numerics.packing import packed_size
from halfeven.numerics.quantize import Array, dequantize, quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, Tiling, per_group

Codes = npt.NDArray[np.integer]
Element = IntGrid | FloatGrid | CodebookGrid


@dataclass(frozen=True)
class BlockFormat:
    """How a tensor is cut into runs, and how elements and scales are coded.

    Holds: `full` is what the absmax of a run maps to, on the element's grid; `outer` is the tiling of the array of
    scales whose float32 scale is found, None where there is none.
    """

    name: str
    element: Element
    length: int
    scale: IntGrid | FloatGrid
    full: float
    rounding: Rounding = Rounding.HALF_EVEN
    outer: Tiling | None = None
    unit: float = 1.0

    def scheme(self, rank: int) -> "Scheme[Element]":
        """The scheme of the elements of a tensor of `rank` axes."""
        return Scheme(self.element, per_group(rank, -1, self.length))

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """The bytes that a tensor of `shape` takes: packed codes, packed scale codes, float32 outer scales."""
        scales = self.scheme(len(shape)).tiling.scale_shape(shape)
        outer = 0 if self.outer is None else 4 * prod(self.outer.scale_shape(scales))
        return packed_size(prod(shape), self.element.bits) + packed_size(prod(scales), self.scale.bits) + outer


@dataclass(frozen=True, eq=False)
class Blocks:
    """A tensor in a block format.

    Holds: `codes` of the tensor's shape; `scales` codes of the scale's grid, of the scale's shape; `outer` float32, of
    the outer tiling's scale shape, all ones where the format has none.
    """

    format: BlockFormat
    codes: Codes
    scales: Codes
    outer: Array

    @property
    def params(self) -> "QParams[Element]":
        """Scales in float32, as `dequantize` takes them."""
        return _params(self.format, self.scales, self.outer)

    def decode(self) -> Array:
        """The values, float32."""
        return dequantize(self.codes, self.params)


def encode_blocks(x: Array, form: BlockFormat) -> Blocks:
    """The tensor `x` in a block format.

    Raises:
        BadOption: the last axis is no multiple of the run, or `x` has no axis.
        BadCalibration: `x` has infinities or NaN.
    """
    if x.ndim == 0:
        raise BadOption(f"{form.name}: a single number has no axis to cut into runs of {form.length}.")
    if not np.isfinite(x).all():
        raise BadCalibration(f"{form.name}: infinities and NaN would spoil their whole run; remove them first.")
    shape = form.scheme(x.ndim).tiling.scale_shape(x.shape)
    ideal = np.abs(x.astype(np.float64)).reshape(*shape, form.length).max(-1, initial=0.0) / form.full
    outer = _outer(ideal, form)
    scales = _scale_codes(ideal / _spread(outer, shape), form)
    return Blocks(form, quantize(x, _params(form, scales, outer)), scales, outer)


def _outer(ideal: npt.NDArray[np.float64], form: BlockFormat) -> Array:
    """The scale of the scales, float32; 1 where all are zero or the format has none."""
    if form.outer is None:
        return np.ones((1,) * ideal.ndim, np.float32)
    tiles = form.outer.scale_shape(ideal.shape)
    cut = ideal.reshape([d for n, size in zip(tiles, ideal.shape, strict=True) for d in (n, size // n if n else 0)])
    largest = (cut.max(tuple(range(1, cut.ndim, 2)), initial=0.0) / form.scale.high).astype(np.float32)
    return np.where(largest > 0, largest, 1).astype(np.float32)


def _scale_codes(ratio: npt.NDArray[np.float64], form: BlockFormat) -> Codes:
    """The codes of scales, at least the least above zero."""
    if isinstance(form.scale, FloatGrid):
        codes = form.scale.encode(np.minimum(ratio, form.scale.high), form.rounding)
        if form.scale.signed:
            return np.maximum(codes, 1).astype(form.scale.dtype)
        return np.where(ratio > 0, codes, 0).astype(form.scale.dtype)  # e8m0 has no zero: code 0 is its least
    return np.clip(form.rounding(ratio), 1, form.scale.high).astype(form.scale.dtype)


def _params(form: BlockFormat, scales: Codes, outer: Array) -> "QParams[Element]":
    values = form.scale.decode(scales) if isinstance(form.scale, FloatGrid) else scales
    tiny = np.finfo(np.float32).smallest_subnormal
    product = values.astype(np.float32) * _spread(outer, scales.shape) * np.float32(form.unit)
    return QParams(form.scheme(scales.ndim), np.maximum(product, tiny), np.zeros(scales.shape, np.int32))


def _spread(outer: Array, shape: tuple[int, ...]) -> Array:
    """Repeat the scales of scales along their tiles."""
    for axis, (n, size) in enumerate(zip(outer.shape, shape, strict=True)):
        outer = np.repeat(outer, size // n, axis) if n not in (1, size) else outer
    return outer


def _mx(name: str, element: FloatGrid) -> BlockFormat:
    return BlockFormat(name, element, 32, FLOAT8_E8M0, 2.0**element.emax, Rounding.FLOOR)


MXFP8_E4M3 = _mx("MXFP8_E4M3", FLOAT8_E4M3FN)
MXFP8_E5M2 = _mx("MXFP8_E5M2", FLOAT8_E5M2)
MXFP6_E3M2 = _mx("MXFP6_E3M2", FLOAT6_E3M2)
MXFP6_E2M3 = _mx("MXFP6_E2M3", FLOAT6_E2M3)
MXFP4 = _mx("MXFP4", FLOAT4_E2M1)
MXINT8 = BlockFormat("MXINT8", INT8, 32, FLOAT8_E8M0, 1.0, Rounding.FLOOR, unit=1 / 64)
NVFP4 = BlockFormat("NVFP4", FLOAT4_E2M1, 16, FLOAT8_E4M3FN, 6.0, outer=PER_TENSOR)
INT4_INT8 = BlockFormat("INT4_INT8", IntGrid(4), 32, INT8, 7.0, outer=Tiling(((0, 1),)))
NF4_DOUBLE = BlockFormat("NF4_DOUBLE", NF4, 64, UINT8, 1.0, outer=Tiling(((-1, 256),)))
