"""The values of grids that are no integers, at scale 1: what `grid.decode(grid.encode(ratio))` is, as tensors.

Codes are not made. A float is rounded in steps of its own exponent, and the largest number, infinity and NaN are told
apart by value; a logarithm's and a codebook's value is looked up among midpoints. `numerics` has the formulas, in
float64, and these give its bits; what is exact in float32 as well is done in it. Powers of two are made from their bit
pattern, as pow and exp2 need not be exact on every device. NaN has no sign and no payload here.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from halfeven.errors import BadOption
from halfeven.numerics.codebook import CodebookGrid
from halfeven.numerics.floats import FloatGrid, Specials
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.rounding import Rounding
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.rounding import How, rounded

ValueGrid = FloatGrid | LogGrid | CodebookGrid


def values_of(ratio: Tensor, grid: ValueGrid, how: How = Rounding.HALF_EVEN) -> Tensor:
    """The values at scale 1, float32, of `ratio` = x / scale; of `ratio`'s shape.

    Raises:
        BadOption: a rounding for codes that have no ties.
    """
    if isinstance(grid, FloatGrid):
        return _floats(ratio, grid, how)
    if how is not Rounding.HALF_EVEN:
        raise BadOption(f"fake_quantize: {grid} codes are the nearest; there are no ties for a rounding to break.")
    return _logarithms(ratio, grid) if isinstance(grid, LogGrid) else _entries(ratio, grid)


def ends_of(grid: ValueGrid) -> tuple[float, float]:
    """The lowest and the highest finite value at scale 1."""
    if isinstance(grid, CodebookGrid):
        return grid.values[0], grid.values[-1]
    if isinstance(grid, LogGrid):
        return (-1.0 if grid.signed else float(grid.magnitudes()[0 if grid.zero else 1])), 1.0
    return (-grid.high if grid.signed else float(grid.decode(np.zeros((), np.uint8)))), grid.high


def _floats(ratio: Tensor, grid: FloatGrid, how: How) -> Tensor:
    wide = ratio if _in_float32(ratio, grid, how) else ratio.double()
    number = torch.where(wide.isfinite(), wide, 0.0)
    integers, fraction, bias = _FIELDS[wide.dtype]
    exponent = ((number.view(integers) >> fraction) & (2 * bias + 1)) - bias  # of a subnormal too low, as is the least
    exponent = exponent.clamp_min(grid.least_exponent)
    steps = rounded(_shifted(number, grid.mantissa - exponent), how)
    size = _shifted(steps.abs(), exponent - grid.mantissa)
    if not grid.signed:
        size = size.clamp_min(2.0**grid.least_exponent)
    size = _within(wide, size, grid, how)
    if not grid.signed:
        return torch.where(wide > 0, size, torch.nan).float()
    value = torch.copysign(size, wide)
    if grid.specials is Specials.FNUZ:
        value = value + 0.0  # no negative zero
    lost = -0.0 if grid.nan_code is None else torch.nan
    return torch.where(wide.isnan(), lost, value).float()


def _in_float32(ratio: Tensor, grid: FloatGrid, how: How) -> bool:
    """Whether steps and powers of two are normal float32 numbers; the sums of the `sum_` rules round by the dtype."""
    ends = -100 <= grid.least_exponent <= grid.mantissa and 1 <= grid.mantissa <= 22 and grid.signed
    sums = not isinstance(how, Rounding) or how.startswith("sum_")
    return ratio.dtype == torch.float32 and ends and not sums


def _within(x: Tensor, size: Tensor, grid: FloatGrid, how: How) -> Tensor:
    """Give a magnitude to what is too large or infinite."""
    if grid.saturate or grid.nan_code is None:
        beyond = grid.high
    else:
        beyond = torch.inf if grid.specials is Specials.IEEE else torch.nan
    over = size > grid.high
    size = torch.where(over, beyond, size)  # one after the other: where() of two numbers would be float32
    size = torch.where(over & _inward(x, how), grid.high, size)
    return torch.where(x.isinf(), beyond, size)


def _inward(x: Tensor, how: How) -> Tensor:
    """Where a rule never steps over the largest number: 0.75 goes to 0 on this side of zero."""
    if not isinstance(how, Rounding):
        return torch.zeros_like(x, dtype=torch.bool)
    below, above = how(np.array([-0.75, 0.75])) == 0
    return torch.signbit(x) & bool(below) | ~torch.signbit(x) & bool(above)


def _shifted(x: Tensor, exponent: Tensor) -> Tensor:
    """`x` * 2**exponent; what the exponents are held to takes nothing that is a float32."""
    _, fraction, bias = _FIELDS[x.dtype]
    return x * ((exponent.clamp(1 - bias, bias - 1) + bias) << fraction).view(x.dtype)


def _logarithms(ratio: Tensor, grid: LogGrid) -> Tensor:
    midpoints, table = _log_tables(grid, ratio.device)
    mantissa, exponent = torch.frexp(ratio.abs().double().contiguous())
    size = (exponent.long() - 1) * grid.steps + torch.searchsorted(midpoints, mantissa) + grid.levels
    size = torch.where(ratio.isinf(), grid.levels, size)  # whose exponent frexp leaves open
    size = torch.where(size < 1, 0 if grid.flush and grid.zero else 1, size.clamp_max(grid.levels))
    size = torch.where(ratio == 0, 0 if grid.zero else 1, size)
    lowest = -grid.levels if grid.signed else 1 - grid.zero
    code = torch.where(ratio < 0, -size if grid.signed else lowest, size)
    code = torch.where(ratio.isnan(), lowest, code)
    return code.sign() * table[code.abs()]


def _entries(ratio: Tensor, grid: CodebookGrid) -> Tensor:
    midpoints, table = _codebook_tables(grid, ratio.device)
    codes = torch.searchsorted(midpoints, ratio.double().contiguous())
    return table[torch.where(ratio.isnan(), 0, codes)]


_FIELDS = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}
"""Of a dtype: the integers of its width, its fraction bits, and its exponent bias."""


@lru_cache(maxsize=64)
def _log_tables(grid: LogGrid, device: Any) -> tuple[Tensor, Tensor]:
    return torch.tensor(grid.midpoints(), device=device), torch.tensor(grid.magnitudes(), device=device)


@lru_cache(maxsize=64)
def _codebook_tables(grid: CodebookGrid, device: Any) -> tuple[Tensor, Tensor]:
    table = np.array(grid.values, np.float64)
    middle = (table[1:] + table[:-1]) / 2
    return torch.tensor(middle, device=device), torch.tensor(table.astype(np.float32), device=device)
