"""Schemes by the names that other tools and texts give them.

PPQ combines flags of `QuantizationProperty`; the eight policies are

    SYMMETRICAL  | LINEAR | PER_TENSOR   or PER_CHANNEL      [| POWER_OF_2]     int8, zero point 0
    ASYMMETRICAL | LINEAR | PER_TENSOR   or PER_CHANNEL      [| POWER_OF_2]     uint8, zero point free

and with DYNAMIC the parameters are those of each tensor at run time: the same scheme, used by `dynamic_quantize`.
A power-of-two scale is 2**ceil(log2(scale)). PPQ leaves the code range to the platform; int8 is -128..127 here.

The triple of type, algorithm and weight granularity:

    SYMMETRIC      int8, zero point 0        MINMAX  "minmax"      per-layer    one scale
    NON-SYMMETRIC  uint8, zero point free    KL      "entropy"     per-channel  one for each index along the axis
                                             ADMM    "admm"

Ristretto's minifloat is a format of values rather than of codes: every exponent field is a normal number (the lowest
has no subnormals, the highest no infinity), zero comes besides, and the fraction rounds half away from zero, where the
carry out of the highest exponent is not caught. Its exponent bits are ceil(log2(log2(absmax) - 1) + 1), at least 4.

Sources: PPQ, ppq/core/quant.py (QuantizationPolicy) and ppq/quantization/observer/range.py; Gysel 2016,
arXiv:1605.06402, section 6.2, and Ristretto's quantization.cpp and base_ristretto_layer.cpp (Trim2MiniFloat). There a
zero ends the loop over the tensor, so that what follows it stays float; that is a defect and is not done here.
"""

from math import ceil, log2

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.grid import INT8, UINT8
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import PER_TENSOR, ScaleRule, Scheme, Tiling, ZeroRule, per_channel

SYMMETRY = {"SYMMETRICAL": ZeroRule.NONE, "ASYMMETRICAL": ZeroRule.FREE}
GRAINS = ("PER_TENSOR", "PER_CHANNEL")
FLAGS = (*SYMMETRY, *GRAINS, "LINEAR", "POWER_OF_2", "DYNAMIC")
POLICIES = tuple(
    f"{symmetry} | LINEAR | {grain}{rule}"
    for symmetry in SYMMETRY
    for grain in GRAINS
    for rule in ("", " | POWER_OF_2")
)
ALGORITHMS = {"MINMAX": "minmax", "KL": "entropy", "ADMM": "admm"}


def ppq_policy(name: str, axis: int = 0) -> Scheme:
    """The scheme of a PPQ policy, such as `ASYMMETRICAL | LINEAR | PER_CHANNEL | POWER_OF_2`, in any order of flags.

    `axis` is the channel axis. DYNAMIC changes when parameters are found, not which: see `dynamic_quantize`.

    Raises:
        BadOption: an unknown flag, or flags that are no policy.
    """
    flags = [word.strip().removeprefix("QuantizationProperty.") for word in name.split("|")]
    unknown = [flag for flag in flags if flag not in FLAGS]
    if unknown:
        raise BadOption(f"PPQ policy '{name}': there is no flag '{unknown[0]}'. There are {', '.join(FLAGS)}.")
    symmetry, grain = [flag for flag in flags if flag in SYMMETRY], [flag for flag in flags if flag in GRAINS]
    if len(symmetry) != 1 or len(grain) != 1 or "LINEAR" not in flags or len(set(flags)) != len(flags):
        raise BadOption(f"PPQ policy '{name}': expected one of {'; '.join(POLICIES)}; DYNAMIC can be added.")
    scale = ScaleRule.POWER_OF_TWO if "POWER_OF_2" in flags else ScaleRule.FREE
    return _scheme(SYMMETRY[symmetry[0]], grain[0] == "PER_CHANNEL", scale, axis)


def config_scheme(kind: str, algorithm: str, granularity: str, axis: int = 0) -> tuple[Scheme, str]:
    """Scheme and calibration method of a triple such as `("NON-SYMMETRIC", "KL", "per-channel")`.

    Raises:
        BadOption: one of the three is not known.
    """
    kinds = {"SYMMETRIC": ZeroRule.NONE, "NON-SYMMETRIC": ZeroRule.FREE}
    grains = {"per-layer": False, "per-channel": True}
    for word, known in ((kind, kinds), (algorithm, ALGORITHMS), (granularity, grains)):
        if word not in known:
            raise BadOption(f"Quantization triple: '{word}' is not known; choose one of {', '.join(known)}.")
    return _scheme(kinds[kind], grains[granularity], ScaleRule.FREE, axis), ALGORITHMS[algorithm]


def _scheme(zero: ZeroRule, channels: bool, scale: ScaleRule, axis: int) -> Scheme:
    tiling: Tiling = per_channel(axis) if channels else PER_TENSOR
    return Scheme(INT8 if zero is ZeroRule.NONE else UINT8, tiling, scale, zero)


def minifloat_exponent(absmax: float) -> int:
    """Ristretto's exponent bits for activations up to `absmax`."""
    return 4 if absmax <= 4 else max(4, ceil(log2(log2(absmax) - 1) + 1))


def ristretto_minifloat(x: npt.NDArray[np.float32], bits: int, exponent: int) -> npt.NDArray[np.float32]:
    """`x` as Ristretto's minifloat of 1 sign, `exponent` and `bits - 1 - exponent` fraction bits expresses it.

    Raises:
        BadOption: no fraction or exponent bit is left.
    """
    fraction = bits - 1 - exponent
    if exponent < 1 or not 0 < fraction <= 22:
        raise BadOption(
            f"Minifloat: {bits} bits with {exponent} for the exponent leave {fraction}; 1 to 22 are needed."
        )
    bias = (1 << (exponent - 1)) - 1
    mantissa, power = np.frexp(np.abs(x).astype(np.float64))
    power, top = power - 1, (1 << exponent) - 1 - bias
    steps = Rounding.HALF_AWAY(np.ldexp(2 * mantissa - 1, fraction))
    over = power > top
    steps = np.where(over, (1 << fraction) - 1, steps)
    size = np.ldexp(1 + np.ldexp(steps, -fraction), np.where(over, top, power))
    size = np.where((power < -bias) | (np.abs(x) < np.finfo(np.float32).tiny), 0.0, size)
    return np.copysign(size, x).astype(np.float32)
