"""Rounding: how a real number falls onto the integers.

All quantization in this package rounds here and nowhere else. The nearest-rules differ only on ties, but ties are
common: an integer rescaled by 2**-k is a tie once in 2**k times, and a rule that sends each upward biases the mean
by 2**-(k + 1) steps.

    rule        -2.5  -1.5  -0.5   0.5   1.5   2.5   in exact arithmetic
    half_even     -2    -2     0     0     2     2   nearest, ties to the even neighbour
    half_up       -2    -1     0     1     2     3   floor(x + 1/2)
    half_down     -3    -2    -1     0     1     2   ceil(x - 1/2)
    half_away     -3    -2    -1     1     2     3   sign(x) floor(|x| + 1/2)
    half_zero     -2    -1     0     0     1     2   sign(x) ceil(|x| - 1/2)
    half_dpu5     -2    -1     0     0     2     2   half_up below zero, half_even above
    floor         -3    -2    -1     0     1     2   towards -inf
    ceil          -2    -1     0     1     2     3   towards +inf
    trunc         -2    -1     0     0     1     2   towards zero
    sum_up        -2    -1     0     1     2     3   floor(fl(x + 1/2))              traps, see below
    sum_down      -3    -2    -1     0     1     2   ceil(fl(x - 1/2))
    sum_away      -3    -2    -1     1     2     3   sign(x) floor(fl(|x| + 1/2))
    sum_zero      -2    -1     0     0     1     2   sign(x) ceil(fl(|x| - 1/2))

Who uses them: `half_even` is ONNX QuantizeLinear, ONNX Runtime, OpenVINO, TensorRT and PyTorch; `half_away` is C's
round(), thus the TFLite reference QUANTIZE, and PPQ's TO_NEAR_INT (`NEAREST_INT` is an alias); `half_up` is the Arm
rounding shift and gemmlowp's doubling high multiply; `ceil` is PPQ's ROUND_UP; `half_dpu5` is method 5 of Xilinx'
fix_neuron.

The first nine rules work on the float as it is: none adds 0.5 to it, as that sum rounds. The `sum_` rules do add it, in
the dtype of `x` (fl is rounding to that dtype), and exist to reproduce tools that do: `sum_up` is Horizon's toolchain
before OE 3.0.31 and PPQ's HALF_UP on PyTorch, `sum_away` ncnn's SIMD kernels and PPQ's HALF_FAR_FORM_ZERO on PyTorch,
`sum_down` and `sum_zero` PPQ's two others. They differ from `half_` of the same name in two places, here in float32:

    0.49999997        sum_up, sum_away give 1        -0.49999997   sum_down, sum_away give -1
    odd x, 2**23 < |x| < 2**24: moved by one, the way the half was added, as the sum is itself a tie

NaN and infinities pass through. A zero that results from one of the first nine has the sign of `x`, as IEEE 754 asks of
roundToIntegral: half_up(-0.5) is -0. The `sum_` rules give the sign that their formula gives.

Stochastic rounding draws, so it is a function, not a rule: `stochastic(x, rng)` gives floor(x) + 1 with the probability
x - floor(x), else floor(x); the expectation is x. (Gupta et al. 2015, arXiv:1502.02551, section 3.)
"""

from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating]


class Rounding(StrEnum):
    """Names a rule. The table above is its definition, and its test."""

    HALF_EVEN = "half_even"
    HALF_UP = "half_up"
    HALF_DOWN = "half_down"
    HALF_AWAY = "half_away"
    HALF_ZERO = "half_zero"
    HALF_DPU5 = "half_dpu5"
    FLOOR = "floor"
    CEIL = "ceil"
    TRUNC = "trunc"
    SUM_UP = "sum_up"
    SUM_DOWN = "sum_down"
    SUM_AWAY = "sum_away"
    SUM_ZERO = "sum_zero"
    NEAREST_INT = "half_away"  # an alias: PPQ's name

    def __call__(self, x: Floats) -> Floats:
        """Round `x` to integers, still held as floats of the same dtype and shape."""
        return _RULES[self](x)


def stochastic(x: Floats, rng: np.random.Generator) -> Floats:
    """Round each element of `x` to one of its two neighbours at random, unbiased; same dtype and shape.

    Draws one double an element, so a seed fixes the result. Whole numbers, NaN and infinities pass through. The
    probability is right to 2**-53: for float32 that is exact unless |x| < 2**-29.
    """
    below = np.floor(x)
    with np.errstate(invalid="ignore"):  # inf - inf, where nothing is to be rounded
        chance = x.astype(np.float64) - below.astype(np.float64)
    rounded: Floats = np.copysign(below + (rng.random(x.shape) < chance), x)
    return rounded


def _half_up(x: Floats) -> Floats:
    below = np.floor(x)
    with np.errstate(invalid="ignore"):  # as above
        rounded: Floats = np.copysign(below + (x - below >= 0.5), x)
    return rounded


def _half_down(x: Floats) -> Floats:
    return -_half_up(-x)


def _half_dpu5(x: Floats) -> Floats:
    return np.where(x < 0, _half_up(x), np.rint(x))


def _mirrored(rule: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """Apply `rule` to the magnitude and give the sign back."""
    return lambda x: np.copysign(rule(np.abs(x)), x)


def _sum_up(x: Floats) -> Floats:
    total: Floats = x + x.dtype.type(0.5)
    return np.floor(total)


def _sum_down(x: Floats) -> Floats:
    total: Floats = x - x.dtype.type(0.5)
    return np.ceil(total)


_RULES: dict[Rounding, Callable[[Floats], Floats]] = {
    Rounding.HALF_EVEN: np.rint,
    Rounding.HALF_UP: _half_up,
    Rounding.HALF_DOWN: _half_down,
    Rounding.HALF_AWAY: _mirrored(_half_up),
    Rounding.HALF_ZERO: _mirrored(_half_down),
    Rounding.HALF_DPU5: _half_dpu5,
    Rounding.FLOOR: np.floor,
    Rounding.CEIL: np.ceil,
    Rounding.TRUNC: np.trunc,
    Rounding.SUM_UP: _sum_up,
    Rounding.SUM_DOWN: _sum_down,
    Rounding.SUM_AWAY: _mirrored(_sum_up),
    Rounding.SUM_ZERO: _mirrored(_sum_down),
}
