"""Grids: the documented table holds, impossible grids are refused, clipping saturates and sends NaN to the lowest."""

import numpy as np
import pytest

from halfeven.errors import BadOption
from halfeven.numerics import grid
from halfeven.numerics.grid import INT8, INT16, UINT8, IntGrid


def documented_table() -> list[tuple[str, str, str, str, str]]:
    assert grid.__doc__ is not None
    lines = [line.replace("INT4 (packed on export)", "INT4") for line in grid.__doc__.splitlines()]
    rows = [line.replace("(8, narrow)", "(8,narrow=True)").split() for line in lines if line.startswith("    ")]
    return [tuple(row[:5]) for row in rows[1:]]  # type: ignore[misc]


def number(text: str) -> int:
    """`-2^31`, `2^31-1`, `127`."""
    return int(eval(text.replace("^", "**"), {}))


@pytest.mark.parametrize(("name", "low", "high", "levels", "dtype"), documented_table())
def test_documented_grids(name: str, low: str, high: str, levels: str, dtype: str) -> None:
    one = eval(name, vars(grid))
    assert (one.low, one.high, one.high - one.low + 1) == (number(low), number(high), number(levels))
    assert one.dtype == np.dtype(dtype)


@pytest.mark.parametrize("bits", range(2, 33))
@pytest.mark.parametrize(("signed", "narrow"), [(True, False), (True, True), (False, False)])
def test_every_code_fits_the_dtype(bits: int, signed: bool, narrow: bool) -> None:
    one = IntGrid(bits, signed, narrow)
    limits = np.iinfo(one.dtype)
    assert limits.min <= one.low <= 0 <= one.high <= limits.max
    assert one.high - one.low + 1 == 2**bits - narrow


@pytest.mark.parametrize("bits", [-1, 0, 33])
def test_widths_that_do_not_exist_are_refused(bits: int) -> None:
    with pytest.raises(BadOption, match=rf"IntGrid: {bits} bits asked for"):
        IntGrid(bits)


def test_a_narrow_grid_of_one_bit_is_refused() -> None:
    with pytest.raises(BadOption, match="leaves one code"):
        IntGrid(1, narrow=True)


def test_a_narrow_grid_without_sign_is_refused() -> None:
    with pytest.raises(BadOption, match="in an unsigned grid is 0"):
        IntGrid(8, signed=False, narrow=True)


def test_clip_saturates_and_sends_nan_to_the_lowest_code() -> None:
    x = np.array([-np.inf, -200, -128, 3, 127, 1e30, np.inf, np.nan], np.float32)
    clipped = INT8.clip(x)
    assert clipped.tolist() == [-128, -128, -128, 3, 127, 127, 127, -128]
    assert clipped.dtype == np.float32


def test_names() -> None:
    grids = (INT8, UINT8, INT16, IntGrid(4, narrow=True))
    assert [str(one) for one in grids] == [
        "int8",
        "uint8",
        "int16",
        "int4 narrow",
    ]
