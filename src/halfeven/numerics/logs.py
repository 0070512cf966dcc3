"""Log grids: values are powers of two, or of a root of two, so that products become sums of exponents.

With `levels` magnitudes (2**(bits - signed), less one that zero takes) and s steps an octave,

    value = sign(code) * scale * 2**((|code| - levels) / s)      |code| = 1..levels;   code 0 is zero

so `scale` is the largest magnitude, codes are in the order of their values, and

    value(a) * value(b) = scale_a * scale_b * 2**((|a| + |b| - 2 * levels) / s)

is one addition of codes. The code of x is the nearest in the logarithm: |code| = levels + rne(s * log2(|x| / scale)),
at most levels. Below 1 it is zero (`flush`, as in Miyashita's Clip, which gives 0 below the range), or 1 (without
`flush`: clip(rne(log2|x|), lowest, highest), where only an exact 0 is zero). With steps > 1 this is the "exponential"
quantization of finer bases, 2**(1/s).

No float lies midway in the logarithm: the midpoints 2**((j + 1/2) / s) are irrational. Hence no logarithm is computed:
the mantissa of x / scale in [1/2, 1) is looked up among the s midpoints of an octave, which decides exactly, and alike
in every language.

`zero=False` leaves the zero code out; then 0 gets the least positive magnitude, as in Ristretto's multiplier-free
weights (exponents -8..-1 in 4 bits: LogGrid(4, zero=False) at scale 1/2).

Sources: Miyashita, Lee, Murmann 2016, arXiv:1603.01025, section 3.1 (LogQuant); Gysel 2016, arXiv:1605.06402,
section 6.3, and Trim2IntegerPowerOf2 in Ristretto's base_ristretto_layer.cpp.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption


@dataclass(frozen=True)
class LogGrid:
    """Signs and exponents; see the module for the value of a code. Without `zero`, `flush` has no meaning.

    Holds: 2 <= bits <= 16 if signed or with zero, else 1 <= bits; 1 <= steps <= 256.
    """

    bits: int
    signed: bool = True
    steps: int = 1
    zero: bool = True
    flush: bool = True

    def __post_init__(self) -> None:
        least = 1 + (self.signed or self.zero)
        if not least <= self.bits <= 16:
            raise BadOption(f"LogGrid: {self.bits} bits asked for; such a grid has {least} to 16.")
        if not 1 <= self.steps <= 256:
            raise BadOption(f"LogGrid: {self.steps} steps an octave asked for; there are 1 to 256.")

    @property
    def levels(self) -> int:
        """The number of magnitudes, zero not counted; also the highest code."""
        return (1 << (self.bits - self.signed)) - self.zero

    @property
    def high(self) -> float:
        """The largest value at scale 1."""
        return 1.0

    @property
    def dtype(self) -> np.dtype[np.signedinteger | np.unsignedinteger]:
        """The smallest NumPy integer that holds every code."""
        width = next(w for w in (8, 16, 32) if self.levels < 1 << (w - self.signed))
        return np.dtype(f"{'' if self.signed else 'u'}int{width}")

    def __str__(self) -> str:
        """`log4`, `ulog4`, `log8 1/4 octave`."""
        fine = "" if self.steps == 1 else f" 1/{self.steps} octave"
        return f"{'' if self.signed else 'u'}log{self.bits}{fine}{'' if self.zero else ' without zero'}"

    def magnitudes(self) -> npt.NDArray[np.float32]:
        """The value at scale 1 of codes 0..levels, shape (levels + 1,): 0, then each 2**((code - levels) / steps)."""
        table = np.exp2((np.arange(self.levels + 1) - self.levels) / self.steps)
        table[0] = 0.0
        return table.astype(np.float32)

    def midpoints(self) -> npt.NDArray[np.float64]:
        """The borders between the steps of the octave [1/2, 1), shape (steps,)."""
        return np.exp2((np.arange(self.steps) + 0.5) / self.steps - 1.0)

    def encode(self, ratio: npt.NDArray[np.floating]) -> npt.NDArray[np.signedinteger | np.unsignedinteger]:
        """Codes of `ratio` = x / scale; NaN gets the lowest code."""
        mantissa, exponent = np.frexp(np.abs(ratio).astype(np.float64))
        place = (exponent.astype(np.int64) - 1) * self.steps + np.searchsorted(self.midpoints(), mantissa)
        size = np.minimum(self.levels + place, self.levels)
        size = np.where(np.isinf(ratio), self.levels, size)
        size = np.where(size < 1, 0 if self.flush and self.zero else 1, size)
        size = np.where(ratio == 0, 0 if self.zero else 1, size)
        lowest = -self.levels if self.signed else 1 - self.zero
        codes = np.where(ratio < 0, -size if self.signed else lowest, size)
        return np.where(np.isnan(ratio), lowest, codes).astype(self.dtype)

    def decode(self, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Values at scale 1, in float32."""
        wide = codes.astype(np.int64)
        return (np.sign(wide) * self.magnitudes()[np.abs(wide)]).astype(np.float32)
