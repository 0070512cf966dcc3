"""Fused multiply-add in float32, exact, for machines and libraries that have none.

    fma(a, b, c) = f32(a * b + c)          one rounding, of the exact sum

Two float32 have 24 bits each, so their product is exact in a double's 53. The sum with c may not be; were it rounded to
nearest, the second rounding, to float32, could land on the wrong side of a tie. So it is rounded to odd: where the
double is not the exact sum and its last bit is 0, the neighbour on the other side of the exact sum is taken, whose last
bit is 1. Rounding that to float32 is right, as the double has at least two bits more (Boldo and Melquiond 2008,
"Emulation of a FMA and correctly rounded sums", theorem 2). The error of the sum is Knuth's two-sum.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats32: TypeAlias = npt.NDArray[np.float32]


def fma(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Floats32:
    """`a * b + c` rounded once to float32; the arguments are float32 or exact in it, and broadcast."""
    x, y, z = (np.asarray(one, np.float32).astype(np.float64) for one in (a, b, c))
    with np.errstate(over="ignore", invalid="ignore"):
        product = x * y
        total = np.asarray(product + z)
        back = total - product
        error = (product - (total - back)) + (z - back)
        bits = total.view(np.int64)
        inexact = (error != 0) & np.isfinite(total) & (bits & 1 == 0)
        odd = (bits + np.where((error > 0) == (total > 0), 1, -1)).view(np.float64)
        return np.where(inexact, odd, total).astype(np.float32)
