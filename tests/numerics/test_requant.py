"""Each flavour of requantization equals its formula in Python's integers and fractions, everywhere; how often they differ.

The primitives are tested in test_shifts.py, the multipliers, which the oracles here take as given, in
test_multiplier.py. The numbers come from hypothesis and from golden_vectors.accumulators: ties and their neighbours,
where float32 ends being exact, the ends of 32 bits.
"""

import importlib.util
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics import requant
from halfeven.numerics.multiplier import (
    Multiplier,
    float_multiplier,
    int16x8_multiplier,
    litert_multiplier,
    qnnpack_multiplier,
    rndnu16_multiplier,
    rndnu_multiplier,
)
from halfeven.numerics.requant import Requant, requantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shifts import SHIFT_RULES

ROOT = Path(__file__).parents[2]
INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VECTORS = loaded(ROOT / "tools" / "golden_vectors.py")


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# ---- oracles ---------------------------------------------------------------------------------------------------------

half = Fraction(1, 2)
ROUND: dict[Rounding, Callable[[Fraction], int]] = {
    Rounding.HALF_EVEN: round,
    Rounding.HALF_UP: lambda x: math.floor(x + half),
    Rounding.HALF_DOWN: lambda x: math.ceil(x - half),
    Rounding.HALF_AWAY: lambda x: math.floor(x + half) if x >= 0 else math.ceil(x - half),
    Rounding.HALF_ZERO: lambda x: math.ceil(x - half) if x >= 0 else math.floor(x + half),
    Rounding.HALF_DPU5: lambda x: round(x) if x >= 0 else math.floor(x + half),
    Rounding.FLOOR: math.floor,
    Rounding.CEIL: math.ceil,
    Rounding.TRUNC: math.trunc,
}


def float32(x: Fraction) -> Fraction:
    """The nearest float32, ties to even; no float is double-rounded on the way. Normal range only."""
    if x == 0:
        return x
    e = math.frexp(abs(x.numerator) / x.denominator)[1] - 24
    unit = Fraction(2) ** e
    if abs(round(x / unit)) < 1 << 23:
        unit /= 2
    return round(x / unit) * unit


def up(x: int, n: int) -> int:
    return math.floor(Fraction(x, 1 << n) + half)


def limited(x: int, low: int, high: int) -> int:
    return max(low, min(high, x))


def twice(acc: int, by: Multiplier, rule: Rounding) -> int:
    """Shift left in 32 bits, the doubling high multiply, shift right by `rule`."""
    m, s = int(by.mantissa), int(by.shift)
    shifted = ((acc << max(31 - s, 0)) + (1 << 31)) % (1 << 32) - (1 << 31)
    return ROUND[rule](Fraction(limited(up(shifted * m, 31), INT_MIN, INT_MAX), 1 << max(s - 31, 0)))


def once(acc: int, by: Multiplier) -> int:
    return up(acc * int(by.mantissa), int(by.shift))


def in_16_bits(acc: int, by: Multiplier) -> int:
    p = int(by.shift) - 15
    ready = up(acc, p) if p > 0 else acc << -p
    return up(limited(ready, -32768, 32767) * int(by.mantissa), 15)


def rounded_twice_to_float(acc: int, m: float) -> Fraction:
    return float32(Fraction(acc)) * float32(Fraction(m))


ORACLE: dict[Requant, Callable[[int, float], int]] = {
    Requant.DOUBLE_ROUNDING: lambda acc, m: twice(acc, litert_multiplier(m), Rounding.HALF_AWAY),
    Requant.NEON: lambda acc, m: twice(acc, litert_multiplier(m), Rounding.HALF_UP),
    Requant.SINGLE_ROUNDING: lambda acc, m: once(acc, litert_multiplier(m)),
    Requant.INT16X8: lambda acc, m: once(acc, int16x8_multiplier(m)),
    Requant.FLOAT64_HALF_AWAY: lambda acc, m: ROUND[Rounding.HALF_AWAY](Fraction(float(acc) * m)),
    Requant.FLOAT32_HALF_EVEN: lambda acc, m: round(float32(rounded_twice_to_float(acc, m))),
    Requant.RNDNU: lambda acc, m: once(acc, rndnu_multiplier(m)),
    Requant.RNDNU16: lambda acc, m: in_16_bits(acc, rndnu16_multiplier(m)),
    Requant.QNNPACK: lambda acc, m: twice(acc, qnnpack_multiplier(m), Rounding.HALF_AWAY),
    Requant.Q8_8: lambda acc, m: up(acc * round(float32(Fraction(m)) * 256), 8),
}
# These round the zero point in.
ORACLE_INSIDE: dict[Requant, Callable[[int, float, int], int]] = {
    Requant.FLOAT32_INSIDE: lambda acc, m, z: round(float32(float32(rounded_twice_to_float(acc, m)) + z)),
    Requant.FLOAT32_FUSED: lambda acc, m, z: round(float32(rounded_twice_to_float(acc, m) + z)),
}


def expected(acc: int, m: float, zero_point: int, flavour: Requant) -> int:
    if flavour in ORACLE_INSIDE:
        return ORACLE_INSIDE[flavour](acc, m, zero_point)
    if flavour.startswith("shift_"):
        return ROUND[Rounding(flavour.removeprefix("shift_"))](acc * Fraction(m)) + zero_point
    return ORACLE[flavour](acc, m) + zero_point


# ---- flavours --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", Requant)
def test_adversarial_accumulators(flavour: Requant) -> None:
    """Beyond 32 bits of result the flavours' sources differ or are undefined; we limit. So wide results are dropped."""
    rng = np.random.default_rng(3)
    tried = 0
    for m in VECTORS.multipliers(flavour):
        for low, high, zero_point in VECTORS.CODES:
            bits = {Requant.INT16X8: 48, Requant.Q8_8: 10}.get(flavour, 32)
            acc = VECTORS.accumulators(m, bits, rng)
            codes = requantize(ints(*acc), m, zero_point, low, high, flavour)
            want = [limited(expected(a, m, zero_point, flavour), low, high) for a in acc]
            assert codes.tolist() == want
            tried += len(acc)
    assert tried >= 300


@pytest.mark.parametrize("flavour", [*ORACLE, *ORACLE_INSIDE])
@given(acc=st.integers(-(2**28), 2**28), m=st.floats(2.0**-14, 0.99), zero_point=st.integers(-128, 127))
def test_any_accumulator_and_multiplier(flavour: Requant, acc: int, m: float, zero_point: int) -> None:
    if flavour is Requant.Q8_8:
        acc, m = acc % 511 - 255, max(m, 2.0**-8)
    code = requantize(ints(acc), m, zero_point, -(2**31), 2**31 - 1, flavour)
    assert code.tolist() == [expected(acc, m, zero_point, flavour)]


@pytest.mark.parametrize("flavour", Requant)
def test_one_multiplier_a_channel_is_that_channel_by_itself(flavour: Requant) -> None:
    m = VECTORS.multipliers(flavour)[:4]
    acc = np.random.default_rng(0).integers(-200, 200, (2, 4, 5))
    zero = np.array([1, -2, 3, 0])
    together = requantize(acc, np.array(m)[:, None], zero[:, None], -128, 127, flavour)
    assert together.dtype == np.int32
    for c in range(4):
        np.testing.assert_array_equal(together[:, c], requantize(acc[:, c], m[c], zero[c], -128, 127, flavour))


def test_every_flavour_is_in_the_documented_table() -> None:
    assert requant.__doc__ is not None
    rows = {line.split()[0] for line in requant.__doc__.splitlines() if line.startswith("    ") and line.split()}
    assert {str(f) for f in Requant if not f.startswith("shift_")} | {"shift_RULE"} <= rows
    assert {f.removeprefix("shift_") for f in Requant if f.startswith("shift_")} == set(SHIFT_RULES)


def test_float32_rounds_the_accumulator_from_2_to_the_24_on() -> None:
    acc = ints(2**24 - 1, 2**24 + 1, 2**24 + 3)
    codes = requantize(acc, 1.0, 0, INT_MIN, INT_MAX, Requant.FLOAT32_HALF_EVEN)
    assert codes.tolist() == [2**24 - 1, 2**24, 2**24 + 4]
    assert requantize(acc, 1.0, 0, INT_MIN, INT_MAX, Requant.SINGLE_ROUNDING).tolist() == acc.tolist()


def test_a_zero_point_inside_the_rounding_turns_ties_if_it_is_odd() -> None:
    acc = ints(-3, -1, 1, 3)
    inside, outside = (
        requantize(acc, 0.5, 3, -128, 127, f) for f in (Requant.FLOAT32_INSIDE, Requant.FLOAT32_HALF_EVEN)
    )
    assert inside.tolist() == [2, 2, 4, 4]
    assert outside.tolist() == [1, 3, 3, 5]


def test_a_fused_relu_is_the_lower_limit() -> None:
    codes = requantize(ints(-50, -1, 0, 7, 9999), 0.5, -10, -10, 100, Requant.DOUBLE_ROUNDING)
    assert codes.tolist() == [-10, -10, -10, -6, 100]


def test_a_negative_tie_of_the_second_rounding_tells_the_flavours_apart() -> None:
    """-3 / 4 is nearer to -1; the first rounding makes -1.5 of it by -1, a tie."""
    acc, m = ints(-3, 3), 0.25
    flavours = (Requant.DOUBLE_ROUNDING, Requant.NEON, Requant.SINGLE_ROUNDING)
    codes = {f: requantize(acc, m * 1.0, 0, -128, 127, f).tolist() for f in flavours}
    assert codes == {f: [ORACLE[f](a, m) for a in (-3, 3)] for f in flavours}
    assert codes[Requant.NEON][0] != codes[Requant.DOUBLE_ROUNDING][0]


def test_what_cannot_be_requantized_is_refused() -> None:
    with pytest.raises(BadOption, match="more than its 32 bits"):
        requantize(ints(1 << 31), 0.5, 0, -128, 127, Requant.RNDNU)
    with pytest.raises(BadOption, match="more than its 48 bits"):
        requantize(ints(1 << 47), 0.5, 0, -128, 127, Requant.INT16X8)
    with pytest.raises(BadOption, match="no code lies between 1 and 0"):
        requantize(ints(1), 0.5, 0, 1, 0, Requant.NEON)
    with pytest.raises(BadOption, match="positive and finite"):
        requantize(ints(1), math.nan, 0, 0, 1, Requant.FLOAT32_HALF_EVEN)
    with pytest.raises(BadOption, match="left shift needs"):
        requantize(ints(1), 2.0**40, 0, 0, 1, Requant.DOUBLE_ROUNDING)
    with pytest.raises(BadOption, match="the shift needs it below"):
        requantize(ints(1), 2.0**20, 0, 0, 1, Requant.INT16X8)


def test_nothing_may_be_requantized() -> None:
    assert requantize(np.zeros((0, 3), np.int32), [0.1, 0.2, 0.3], 0, 0, 1, Requant.RNDNU).shape == (0, 3)


# ---- when it matters -------------------------------------------------------------------------------------------------


def share(acc: np.ndarray, m: np.ndarray, one: Requant, other: Requant) -> float:
    codes = [requantize(acc, m, 0, -128, 127, flavour) for flavour in (one, other)]
    assert np.abs(codes[0] - codes[1]).max() <= 1
    return float(np.mean(codes[0] != codes[1]))


@pytest.mark.parametrize("shift", range(10))
def test_the_share_of_outputs_that_a_second_rounding_changes_is_the_documented_one(shift: int) -> None:
    """2**-(r + 1), and 0 without a right shift: a quarter at M = 0.3, a thousandth at M = 0.002."""
    rng = np.random.default_rng(shift)
    m = rng.uniform(2.0 ** -(shift + 1), 2.0**-shift, 8000)
    acc = (rng.uniform(-120, 120, (200, 8000)) / m).astype(np.int64)
    law = 2.0 ** -(shift + 1) if shift else 0.0
    for pair in [(Requant.DOUBLE_ROUNDING, Requant.SINGLE_ROUNDING), (Requant.DOUBLE_ROUNDING, Requant.NEON)]:
        assert share(acc, m, *pair) == pytest.approx(law, rel=0.1)


def test_float32_and_one_integer_rounding_agree_but_for_ties() -> None:
    rng = np.random.default_rng(2)
    m = float_multiplier(rng.uniform(0.001, 0.1, 3000), rng.uniform(0.001, 0.1, 3000), rng.uniform(0.01, 0.1, 3000))
    acc = (rng.uniform(-120, 120, (100, 3000)) / m).astype(np.int64)
    acc = np.clip(acc, -(2**24), 2**24)
    assert share(acc, m, Requant.FLOAT32_HALF_EVEN, Requant.RNDNU) < 1e-4
    ties = np.arange(-200, 200)[:, None] * np.ones(1, np.int64)
    assert share(ties, np.array([0.5]), Requant.FLOAT32_HALF_EVEN, Requant.RNDNU) == 0.25


# ---- the shared vectors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requantize.json", "integer_ops.json"])
def test_the_shared_vectors_are_what_the_script_writes(name: str) -> None:
    assert (ROOT / "tests" / "golden" / name).read_text("utf-8") == VECTORS.files()[name]


def test_the_shared_vectors_hold_every_flavour_and_the_oracle_agrees() -> None:
    cases = json.loads((ROOT / "tests" / "golden" / "requantize.json").read_text("utf-8"))["cases"]
    counts = dict.fromkeys(Requant, 0)
    for case in cases:
        flavour, m, zero_point = Requant(case["flavour"]), float.fromhex(case["multiplier"]), case["zero_point"]
        want = [limited(expected(acc, m, zero_point, flavour), case["low"], case["high"]) for acc in case["acc"]]
        assert case["codes"] == want
        counts[flavour] += len(want)
    assert min(counts.values()) >= 300
