"""Formulas: from a range to scale and zero point, as each ecosystem computes them.

    low <= x <= high is the observed range; codes run from a to b, n = b - a; f32(.) rounds to float32, else doubles.
    widened    low = min(low, 0), high = max(high, 0)             absmax = max(|low|, |high|)

    name            scale                              zero point                       all zeros     grids
    halfeven        widened (high - low) / n           clip(rne(a - low / scale))       1, 0          any
       symmetric    absmax / b                         0                                1, 0
    onnx-dynamic    f32((high - low) / 255), widened   rne(clip(0 - f32(low / scale)))  1, 0          uint8
    onnxruntime     (high - low) / n, widened          rne(a - low / scale)             1, 0          any
       symmetric    2 absmax / n                       rne((a + b) / 2)
    tflite          (high - low) / n                   rha(clip(a - low / scale, or     0, 0          any
                                                       b - high / scale))
       symmetric    f32(absmax / b), narrow            0                                1, 0          signed
    tf-fake-quant   f32((high - low) / n)              rha(clip(f32(a - low / scale)))  error         unsigned
    ppq             max((high - low) / n, 1e-8)        rne(-low / scale)                1e-8, 0       unsigned
       symmetric    max(2 absmax / n, 1e-8)            0                                1e-8, 0       signed
    torch           f32((high - low) / n), widened     clip(a - rne(f32(low / scale)))  2**-23, a     any
       symmetric    f32(absmax / (n / 2))              0, or 2**(bits - 1) if unsigned  2**-23
    tensorrt        f32(absmax / b)                    0                                error         int8
    ncnn            f32(b / absmax): the reciprocal    none                             1 or error    signed
    power-of-two    2**ceil(log2(absmax / b))          0                                error         signed
    ristretto       2**-fl, fl = bits - ceil(log2(absmax) + 1)   0                      error         signed
    seed-001        (high - low) / n, not widened      half_down(b - high / scale)      error         any

rne is half_even, rha half_away. Whatever the arithmetic, the scale that is returned is a float32, as all of them store
one. Ranges that are not finite, or empty (low > high), are an error in each, whatever the tool would do in silence.

What else they do: `onnxruntime` gives 1, 0 to scales below float32's smallest normal number; has narrower grids when
symmetric (int8: -127..127, int16 likewise; uint8 keeps 0..255, so 128 is its zero) or with `reduce_range` (uint8
0..127, int8 -64..64, uint16 0..32767, int16 -16384..16384, uint4 0..7, int4 -4..3); `min_real_range` widens upwards.
`tflite` wants 0 in the range, and takes of its two zero points the one whose terms are smaller: |a| + |low / scale| <
|b| + |high / scale| takes the first. `ppq` has no term a, so it is for codes that start at 0; with `power_of_two` the
scale grows to the next power of two *after* the zero point was computed from the smaller one. `tf-fake-quant` does not
widen: the zero point is clipped, which shifts the range. `ncnn` at 6 bits is what 3x3 convolutions of stride 1 get, for
int8 Winograd; for all zeros its convolutions would store inf, its other layers 1. `seed-001` is the article of the
first founding document: its zero point may be off the grid where 0 is not in the range. All others are exact at 0.

Sources: ONNX operator DynamicQuantizeLinear-11; onnxruntime/python/tools/quantization/quant_utils.py compute_scale_zp
(1.31); TensorFlow Lite kernels/internal/quantization_util.h ChooseQuantizationParams, tensor_utils
SymmetricQuantizeFloats; TensorFlow core/kernels/fake_quant_ops_functor.h; PPQ quantization/observer/range.py
minmax_to_scale_offset; torch/ao/quantization/observer.py; ncnn tools/quantize/ncnn2table.cpp; Gysel 2016 (Ristretto),
arXiv:1605.06402.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction

import numpy as np

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.rounding import Rounding

TINY = float(np.finfo(np.float32).tiny)
EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Parameters:
    """What a formula gives: codes `low..high`, and the scale (float32) as the tool stores it; ncnn stores 1 / scale."""

    scale: float
    zero_point: int
    low: int
    high: int
    reciprocal: bool = False


@dataclass(frozen=True)
class Wish:
    """What is asked of a formula; see `parameters`."""

    name: str
    low: float
    high: float
    bits: int
    signed: bool
    symmetric: bool
    narrow: bool
    reduce_range: bool
    min_real_range: float
    power_of_two: bool
    layer: str

    @property
    def first(self) -> int:
        """The lowest code, a."""
        return (-(1 << (self.bits - 1)) if self.signed else 0) + self.narrow

    @property
    def last(self) -> int:
        """The highest code, b."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def widened(self) -> tuple[float, float]:
        """The range with 0 in it."""
        return min(self.low, 0.0), max(self.high, 0.0)

    @property
    def absmax(self) -> float:
        """The larger magnitude."""
        return max(abs(self.low), abs(self.high))

    def need(self, true: bool, what: str) -> None:
        """Raise BadOption unless `true`."""
        if not true:
            raise BadOption(f"Formula {self.name!r} {what}.")

    def nonzero(self, what: str) -> None:
        """Raise BadCalibration if the range is [0, 0]."""
        if self.absmax == 0:
            raise BadCalibration(f"Formula {self.name!r}: a range of zeros only {what}.")


def parameters(
    name: str,
    low: float,
    high: float,
    *,
    bits: int = 8,
    signed: bool = True,
    symmetric: bool = False,
    narrow: bool = False,
    reduce_range: bool = False,
    min_real_range: float = 0.0,
    power_of_two: bool = False,
    layer: str = "conv",
) -> Parameters:
    """Scale and zero point that the ecosystem `name` computes for the range `[low, high]`, and the codes they are for.

    Raises:
        BadOption: no such formula, or it does not know what is asked for.
        BadCalibration: the range is not finite, is empty, or has no parameters under this formula.
    """
    if name not in FORMULAS:
        near = get_close_matches(name, FORMULAS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(FORMULAS)}."
        raise BadOption(f"There is no formula {name!r}. {hint}")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise BadCalibration(f"Formula {name!r}: [{low}, {high}] is no range; both ends must be finite, in this order.")
    grid = (bits, signed, symmetric, narrow)
    wish = Wish(name, float(low), float(high), *grid, reduce_range, min_real_range, power_of_two, layer)
    wish.need(2 <= bits <= 32, f"was asked for {bits} bits; 2 to 32 exist")
    wish.need(signed or not narrow or name == "tf-fake-quant", "narrows signed grids only")
    wish.need(not (reduce_range or min_real_range) or name == "onnxruntime", "has no reduced or least range")
    wish.need(not power_of_two or name == "ppq", "has no option of powers of two")
    formula = FORMULAS[name]
    wish.need(formula.affine or symmetric, "is for symmetric grids; ask for symmetric=True")
    wish.need(formula.symmetric or not symmetric, "is for affine grids; ask for symmetric=False")
    found = formula.compute(wish)
    if not math.isfinite(found.scale) or (found.scale == 0 and wish.absmax > 0):
        way = "underflows" if found.scale == 0 else "overflows"
        raise BadCalibration(f"Formula {name!r}: the scale of [{low}, {high}] {way} float32.")
    return found


def _f32(value: float) -> float:
    """`value` rounded to float32."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.float32(value))


def _rha(value: float) -> int:
    return int(Rounding.HALF_AWAY(np.array(value)))


def _clipped(value: float, low: int, high: int) -> float:
    return min(max(value, low), high)


def _stored(wish: Wish, scale: float, zero_point: int) -> Parameters:
    return Parameters(_f32(scale), zero_point, wish.first, wish.last)


def _halfeven(wish: Wish) -> Parameters:
    low, high = wish.widened
    scale = wish.absmax / wish.last if wish.symmetric else (high - low) / (wish.last - wish.first)
    if scale < TINY:
        return _stored(wish, 1.0, 0)
    zero = 0 if wish.symmetric else round(_clipped(wish.first - low / scale, wish.first, wish.last))
    return _stored(wish, scale, zero)


def _onnx_dynamic(wish: Wish) -> Parameters:
    wish.need(wish.bits == 8 and not wish.signed, "gives uint8 only; ask for signed=False")
    low, high = (np.float32(end) for end in wish.widened)
    if low == high:
        return _stored(wish, 1.0, 0)
    with np.errstate(over="ignore", under="ignore"):
        scale = (high - low) / np.float32(255)
    if scale == 0:
        raise BadCalibration(f"Formula {wish.name!r}: the scale of [{low}, {high}] underflows to 0 in float32.")
    zero = round(_clipped(float(np.float32(0) - low / scale), 0, 255)) if np.isfinite(scale) else 0
    return _stored(wish, float(scale), zero)


REDUCED = {
    (8, False): (0, 127),
    (8, True): (-64, 64),
    (16, False): (0, 32767),
    (16, True): (-16384, 16384),
    (4, False): (0, 7),
    (4, True): (-4, 3),
}


def _onnxruntime(wish: Wish) -> Parameters:
    first, last = wish.first, wish.last
    if wish.reduce_range:
        wish.need((wish.bits, wish.signed) in REDUCED, "has no reduced range for these bits")
        first, last = REDUCED[wish.bits, wish.signed]
    elif wish.symmetric and wish.signed and wish.bits in (8, 16):
        first = -last
    low, high = (np.float32(end) for end in wish.widened)
    if wish.min_real_range:
        high = max(high, low + np.float32(wish.min_real_range))
    if wish.symmetric:
        high = max(-low, high)
        low = -high
    scale = (float(high) - float(low)) / (last - first)
    if scale < TINY:
        return Parameters(1.0, 0, first, last)
    zero = (first + last) / 2 if wish.symmetric else first - float(low) / scale
    return Parameters(_f32(scale), round(zero), first, last)


def _tflite(wish: Wish) -> Parameters:
    if wish.symmetric:
        wish.need(wish.signed and wish.narrow, "is symmetric on narrow signed grids only; ask for narrow=True")
        return _stored(wish, _f32(wish.absmax) / wish.last if wish.absmax else 1.0, 0)
    if not wish.low <= 0 <= wish.high:
        raise BadCalibration(f"Formula 'tflite': [{wish.low}, {wish.high}] must hold 0; widen it first.")
    if wish.low == wish.high:
        return _stored(wish, 0.0, 0)
    scale = (wish.high - wish.low) / (wish.last - wish.first)
    if scale == 0:
        raise BadCalibration(f"Formula 'tflite': the scale of [{wish.low}, {wish.high}] underflows.")
    below, above = wish.low / scale, wish.high / scale
    first = abs(wish.first) + abs(below) < abs(wish.last) + abs(above)
    zero = wish.first - below if first else wish.last - above
    return _stored(wish, scale, _rha(_clipped(zero, wish.first, wish.last)))


def _tf_fake_quant(wish: Wish) -> Parameters:
    wish.need(not wish.signed, "gives unsigned codes; ask for signed=False")
    wish.nonzero("has no parameters: the operator then gives zeros")
    low, high = np.float32(wish.low), np.float32(wish.high)
    with np.errstate(over="ignore", under="ignore"):
        scale = (high - low) / np.float32(wish.last - wish.first)
    if scale == 0 or not np.isfinite(scale):
        raise BadCalibration(f"Formula {wish.name!r}: the scale of [{low}, {high}] is {scale} in float32.")
    with np.errstate(over="ignore"):
        zero = float(np.float32(wish.first) - low / scale)
    return _stored(wish, float(scale), _rha(_clipped(zero, wish.first, wish.last)))


def _ppq(wish: Wish) -> Parameters:
    wish.need(wish.symmetric or not wish.signed, "has no term for the lowest code when affine; ask for signed=False")
    wish.need(not wish.symmetric or wish.signed, "is symmetric on signed grids; ask for signed=True")
    low, high = wish.widened
    span = 2 * wish.absmax if wish.symmetric else high - low
    scale = max(span / (wish.last - wish.first), 1e-8)
    zero = 0 if wish.symmetric else round(-low / scale)
    return _stored(wish, _power_above(scale) if wish.power_of_two else scale, zero)


def _torch(wish: Wish) -> Parameters:
    low, high = (np.float32(end) for end in wish.widened)
    steps = wish.last - wish.first
    with np.errstate(over="ignore", under="ignore"):
        scale = max(-low, high) / np.float32(steps / 2) if wish.symmetric else (high - low) / np.float32(steps)
    scale = max(scale, np.float32(EPS))
    if wish.symmetric:
        return _stored(wish, float(scale), 0 if wish.signed else 1 << (wish.bits - 1))
    zero = wish.first - int(np.rint(low / scale))
    return _stored(wish, float(scale), int(_clipped(zero, wish.first, wish.last)))


def _tensorrt(wish: Wish) -> Parameters:
    wish.need(wish.bits == 8 and wish.signed, "gives int8 only")
    wish.nonzero("has no scale: TensorRT asks for a positive one")
    return _stored(wish, _f32(wish.absmax) / wish.last, 0)


def _ncnn(wish: Wish) -> Parameters:
    wish.need(wish.signed and wish.bits in (6, 8), "gives int8, or 6 bits for Winograd")
    wish.need(wish.layer in ("conv", "embed", "rnn", "attention"), f"knows no layer {wish.layer!r}")
    if wish.layer == "conv":
        wish.nonzero("gives a convolution the scale inf")
    scale = _f32(wish.last / _f32(wish.absmax)) if wish.absmax else 1.0
    return Parameters(scale, 0, -wish.last, wish.last, reciprocal=True)


def _power_above(value: float) -> float:
    """The least power of two not below `value`; exact, from the bits."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(1.0, exponent - (mantissa == 0.5))


def _power_of_two(wish: Wish) -> Parameters:
    wish.need(wish.signed, "gives signed codes")
    wish.nonzero("has no scale")
    # The quotient is rounded, but never down to a power of two: next above b = 2**k - 1 comes b + 2**(k - 53), and that
    # divided by b is above 1 + 2**-53.
    return _stored(wish, _power_above(wish.absmax / wish.last), 0)


def _ristretto(wish: Wish) -> Parameters:
    wish.need(wish.signed and not wish.narrow, "gives full signed codes")
    wish.nonzero("has no integer part")
    integer = int(math.log2(_power_above(wish.absmax))) + 1
    return _stored(wish, 2.0 ** (integer - wish.bits), 0)


def _seed_001(wish: Wish) -> Parameters:
    if wish.low == wish.high:
        raise BadCalibration(f"Formula 'seed-001': [{wish.low}, {wish.high}] has no width, so no scale.")
    scale = (Fraction(wish.high) - Fraction(wish.low)) / (wish.last - wish.first)
    zero = math.ceil(wish.last - Fraction(wish.high) / scale - Fraction(1, 2))
    return _stored(wish, float(scale), zero)


@dataclass(frozen=True)
class Formula:
    """One row of the module's table. `zero_exact`: the zero point is always a code, so 0 is computed without error."""

    compute: Callable[[Wish], Parameters]
    affine: bool = True
    symmetric: bool = True
    zero_exact: bool = True


FORMULAS: Mapping[str, Formula] = {
    "halfeven": Formula(_halfeven),
    "onnx-dynamic": Formula(_onnx_dynamic, symmetric=False),
    "onnxruntime": Formula(_onnxruntime),
    "tflite": Formula(_tflite),
    "tf-fake-quant": Formula(_tf_fake_quant, symmetric=False),
    "ppq": Formula(_ppq),
    "torch": Formula(_torch),
    "tensorrt": Formula(_tensorrt, affine=False),
    "ncnn": Formula(_ncnn, affine=False),
    "power-of-two": Formula(_power_of_two, affine=False),
    "ristretto": Formula(_ristretto, affine=False),
    "seed-001": Formula(_seed_001, symmetric=False, zero_exact=False),
}
