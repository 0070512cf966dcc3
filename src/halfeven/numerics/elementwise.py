"""Sum, product and change of scale of quantized tensors, in each way that a runtime computes them.

`multiply` is `requantize` of the product of offsets; its multiplier is that of eq. 5-10 of Jacob et al. 2018, known
before any data: float32(float32(sa * sb) / sc). Which flavour a runtime uses:

    LiteRT reference, optimized, TFLite Micro   double_rounding        XNNPACK on x86   float32_half_even
    ONNX Runtime on x86   float32_inside        on Arm float32_fused   XNNPACK on Arm   rndnu

`convert` changes scale and zero point (TFLite's QUANTIZE of codes), with M = sa / sc:

    LiteRT reference, TFLite Micro   double_rounding                   XNNPACK          q8_8
    LiteRT optimized on x86          neon for whole blocks of 16 elements, double_rounding for the rest

`add`, with offsets da = a - za, db = b - zb, ratios ra = sa / sc, rb = sb / sc:

    double_rounding   both offsets << 20 times sa / t and sb / t, where t = 2 max(sa, sb); their sum times
                      t / (2**20 sc); each product as the flavour of that name    LiteRT in all its own kernels, int8
    double_rounding_16   the same with 15 for 20                                          LiteRT in all its own, int16
    fixed_half_up     (da A + db B) / 2**n, half_up;  n = 20 - floor(log2(max(ra, rb))), A = half_even(ra 2**n)  XNNPACK
    fixed_half_away   the same, half_away, with 21 for 20        ONNX Runtime on Arm, QNNPACK
                      where ra or rb is below 2**-14 or not below 256, ONNX Runtime adds real numbers, in float32:
                      half_even(clip((sa da + sb db) / sc) + zc)
    float32_fused     half_even(fma(a, ra, fma(b, rb, zc - fma(ra, za, rb * zb))))     ONNX Runtime on x86
                      for one b along the innermost axis, `scalar`: fma(a, ra, (zc - fma(ra, za, rb * zb)) + b * rb)

All then add the zero point (`float32_fused` has done so) and clip. With power-of-two scales, where ties are common,
ONNX Runtime's own two kernels differ by one code on a tenth of the outputs.

Sources: LiteRT tflite/kernels/add.cc, mul.cc, quantize.cc; XNNPACK src/microparams-init.c, reference/packing;
QNNPACK src/qnnpack/requantization.h; ONNX Runtime onnxruntime/core/mlas/lib/qladd.cpp, qlmul.cpp.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.fused import fma
from halfeven.numerics.multiplier import float_multiplier
from halfeven.numerics.requant import Codes, Requant, requantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shifts import Integers, rounding_shift

AnyCodes = npt.NDArray[np.integer]


class Addition(StrEnum):
    """Names a way to add. The table above is its definition."""

    DOUBLE_ROUNDING = "double_rounding"
    DOUBLE_ROUNDING_16 = "double_rounding_16"
    FIXED_HALF_UP = "fixed_half_up"
    FIXED_HALF_AWAY = "fixed_half_away"
    FLOAT32_FUSED = "float32_fused"


@dataclass(frozen=True)
class Affine:
    """value = (code - zero_point) * scale, for a whole tensor; `scale` is a float32."""

    scale: float
    zero_point: int = 0


@dataclass(frozen=True)
class Output:
    """What the result is stored as: its affine map and its limits, those of the type or of a fused activation."""

    affine: Affine
    low: int
    high: int


def multiply(a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Output, flavour: Requant) -> Codes:
    """Codes of the product of `a` and `b`, which broadcast; int32."""
    product = _offsets(a, in_a) * _offsets(b, in_b)
    m = float_multiplier(in_a.scale, in_b.scale, out.affine.scale)
    return requantize(product, m, out.affine.zero_point, out.low, out.high, flavour)


def convert(
    codes: AnyCodes, given: Affine, out: Output, flavour: Requant, tail: Requant | None = None, block: int = 16
) -> Codes:
    """`codes` on another scale and zero point; int32, of their shape.

    `tail` is the flavour of the elements, in C order, after the last whole `block`: vector kernels leave those to
    scalar code. Without it `flavour` serves all.
    """
    m = np.float64(np.float32(given.scale)) / np.float64(np.float32(out.affine.scale))
    flat = _offsets(codes, given).ravel()
    cut = flat.size if tail is None else flat.size // block * block
    parts = [(flat[:cut], flavour), (flat[cut:], tail or flavour)]
    done = [requantize(part, m, out.affine.zero_point, out.low, out.high, way) for part, way in parts]
    return np.concatenate(done).reshape(codes.shape)


def add(
    a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Output, kernel: Addition, scalar: bool = False
) -> Codes:
    """Codes of the sum of `a` and `b`, which broadcast; int32. `scalar`: one `b` serves a whole run of `a`.

    Raises:
        BadOption: the ratio of an input's scale to the output's is beyond what XNNPACK's kernel can hold.
    """
    if kernel is Addition.FLOAT32_FUSED:
        return np.clip(_fused_sum(a, b, in_a, in_b, out.affine, scalar), out.low, out.high).astype(np.int32)
    da, db = _offsets(a, in_a), _offsets(b, in_b)
    if kernel in (Addition.DOUBLE_ROUNDING, Addition.DOUBLE_ROUNDING_16):
        left = 20 if kernel is Addition.DOUBLE_ROUNDING else 15
        total = _doubly_rounded_sum(da, db, in_a, in_b, out.affine, left)
    elif kernel is Addition.FIXED_HALF_UP:
        if not _held(in_a, in_b, out.affine, 2.0**-10):
            ratios = _ratios(in_a, in_b, out.affine)
            raise BadOption(f"An addition's input scales are {ratios} of its output's; the kernel holds 2**-10 to 256.")
        total = _fixed_sum(da, db, in_a, in_b, out.affine, 20, Rounding.HALF_UP)
    elif _held(in_a, in_b, out.affine, 2.0**-14):
        total = _fixed_sum(da, db, in_a, in_b, out.affine, 21, Rounding.HALF_AWAY)
    else:
        return _real_sum(da, db, in_a, in_b, out)
    return np.clip(total + out.affine.zero_point, out.low, out.high).astype(np.int32)


def _float32s(*numbers: float) -> npt.NDArray[np.float32]:
    return np.array(numbers, np.float32)


def _offsets(codes: AnyCodes, given: Affine) -> Integers:
    return codes.astype(np.int64) - given.zero_point


def _doubly_rounded_sum(da: Integers, db: Integers, in_a: Affine, in_b: Affine, out: Affine, left: int) -> Integers:
    sa, sb, sc = (np.float64(np.float32(given.scale)) for given in (in_a, in_b, out))
    twice_max = 2 * max(sa, sb)

    def scaled(x: Integers, m: np.float64) -> Integers:
        found = requantize(x, m, 0, -(1 << 31), (1 << 31) - 1, Requant.DOUBLE_ROUNDING)
        return found.astype(np.int64)

    total = scaled(da << left, sa / twice_max) + scaled(db << left, sb / twice_max)
    return scaled(total, twice_max / (2.0**left * sc))


def _fixed_sum(
    da: Integers, db: Integers, in_a: Affine, in_b: Affine, out: Affine, bits: int, rule: Rounding
) -> Integers:
    ratios = _ratios(in_a, in_b, out)
    n = bits + 1 - int(np.frexp(ratios.max())[1])
    ma, mb = np.rint(np.ldexp(ratios, n)).astype(np.int64)
    return rounding_shift(da * ma + db * mb, n, rule)


def _ratios(in_a: Affine, in_b: Affine, out: Affine) -> npt.NDArray[np.float32]:
    return _float32s(in_a.scale, in_b.scale) / np.float32(out.scale)


def _held(in_a: Affine, in_b: Affine, out: Affine, least: float) -> bool:
    """Whether multipliers of fixed point hold the ratios of the scales."""
    ratios = _ratios(in_a, in_b, out)
    return bool(((ratios >= least) & (ratios < 256)).all())


def _real_sum(da: Integers, db: Integers, in_a: Affine, in_b: Affine, out: Output) -> Codes:
    sa, sb, sc, zc = _float32s(in_a.scale, in_b.scale, out.affine.scale, out.affine.zero_point)
    low, high = _float32s(out.low - out.affine.zero_point, out.high - out.affine.zero_point)
    total = (sa * da.astype(np.float32) + sb * db.astype(np.float32)) / sc
    codes: Codes = np.rint(np.clip(total, low, high) + zc).astype(np.int32)
    return codes


def _fused_sum(a: AnyCodes, b: AnyCodes, in_a: Affine, in_b: Affine, out: Affine, scalar: bool) -> Integers:
    ra, rb = _ratios(in_a, in_b, out)
    za, zb, zc = _float32s(in_a.zero_point, in_b.zero_point, out.zero_point)
    fixed = zc - fma(ra, za, rb * zb)
    real_b = b.astype(np.float32)
    inner = fixed + real_b * rb if scalar else fma(real_b, rb, fixed)
    return np.rint(fma(a.astype(np.float32), ra, inner)).astype(np.int64)
