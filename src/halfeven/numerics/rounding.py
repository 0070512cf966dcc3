"""Rounding: how a real number falls onto the integers.

All quantization in this package rounds here and nowhere else. The nearest-rules differ only on ties, but ties are
common: an integer rescaled by 2**-k is a tie once in 2**k times, and a rule that sends each upward biases the mean
by 2**-(k + 1) steps.

    x      half_even  half_up  half_down  half_away  half_zero  floor  ceil  trunc
    -2.5          -2       -2         -3         -3         -2     -3    -2     -2
    -1.5          -2       -1         -2         -2         -1     -2    -1     -1
    -0.5           0        0         -1         -1          0     -1     0      0
     0.5           0        1          0          1          0      0     1      0
     1.5           2        2          1          2          1      1     2      1
     2.5           2        3          2          3          2      2     3      2

`half_even` is ONNX QuantizeLinear, ONNX Runtime, OpenVINO and TensorRT; `half_away` is C `round()`, thus ncnn and the
TFLite reference QUANTIZE; `half_up` is the Arm rounding shift, gemmlowp's doubling high multiply, and Horizon's
toolchain before OE 3.0.31.

Every rule works on the float as it is: none adds 0.5 to it, as that sum rounds and sends 0.49999997 to 1 and shifts
odd values beyond 2**23 (float32). NaN and infinities pass through; the sign of zero is kept where the rule keeps it.
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
    FLOOR = "floor"
    CEIL = "ceil"
    TRUNC = "trunc"

    def __call__(self, x: Floats) -> Floats:
        """Round `x` to integers, still held as floats of the same dtype and shape."""
        return _RULES[self](x)


def _half_up(x: Floats) -> Floats:
    below = np.floor(x)
    with np.errstate(invalid="ignore"):  # inf - inf, where nothing is to be rounded
        return below + (x - below >= 0.5)


def _half_down(x: Floats) -> Floats:
    return -_half_up(-x)


def _mirrored(rule: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """Apply `rule` to the magnitude and give the sign back."""
    return lambda x: np.copysign(rule(np.abs(x)), x)


_RULES: dict[Rounding, Callable[[Floats], Floats]] = {
    Rounding.HALF_EVEN: np.rint,
    Rounding.HALF_UP: _half_up,
    Rounding.HALF_DOWN: _half_down,
    Rounding.HALF_AWAY: _mirrored(_half_up),
    Rounding.HALF_ZERO: _mirrored(_half_down),
    Rounding.FLOOR: np.floor,
    Rounding.CEIL: np.ceil,
    Rounding.TRUNC: np.trunc,
}
