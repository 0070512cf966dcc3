"""Writes the vectors of integer arithmetic that Python, C++ and PyTorch share; run it from anywhere.

    tests/golden/requantize.json    {"cases": [{"flavour", "acc": [...], "multiplier": a float64 in hex, "zero_point",
                                    "low", "high", "codes": [...]}, ...]}
    tests/golden/integer_ops.json   {"matmul": [{"a", "b", "a_zero_point", "b_zero_point", "bias", "acc"}, ...],
                                    "conv2d": [{"x", "weight", "x_zero_point", "weight_zero_point", "bias", "strides",
                                    "pads", "dilations", "groups", "acc"}, ...]}; a tensor is {"shape", "codes"}

The NumPy definition in `halfeven.numerics` computes them. Accumulators lie on and beside ties, where float32 ends
being exact, at the ends of 32 bits (48 for int16x8), and anywhere.
"""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from halfeven.numerics.integer_ops import conv2d, matmul
from halfeven.numerics.requant import Requant, requantize

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
ODD = [0.3, 0.0021, 1.7e-5, 0.99999999, 1.9]
ROUND = [0.5, 0.25, 2.0**-9, 2.0**-20]
# Multipliers that the flavour can express, and the types of the codes.
MULTIPLIERS: dict[Requant, list[float]] = {
    Requant.DOUBLE_ROUNDING: [*ODD, *ROUND, 1.0, 37.5, 2.0**-31, 2.0**-33],
    Requant.NEON: [*ODD, *ROUND, 1.0, 37.5, 2.0**-31, 2.0**-33],
    Requant.SINGLE_ROUNDING: [*ODD, *ROUND, 1.0, 37.5, 2.0**-31, 2.0**-33],
    Requant.INT16X8: [*ODD, *ROUND, 1.0, 0.5 - 2.0**-20, 2.0**-25],
    Requant.QNNPACK: [0.3, 0.0021, 1.7e-5, 0.9999999, 0.6, *ROUND],
    Requant.Q8_8: [0.3, 0.0041, 1.9, 0.721, 37.5, 0.5, 0.25, 1.0],
}
CODES = [(-128, 127, 3), (0, 255, 131), (-128, 127, -128), (-32768, 32767, 0)]


def accumulators(m: float, bits: int, rng: np.random.Generator) -> list[int]:
    """Forty-odd numbers of `bits` bits: ties of m and their neighbours, edges, and drawn ones."""
    most = (1 << (bits - 1)) - 1
    exact = Fraction(m)
    found = [0, 1, -1, 2, -3, most, -most - 1, most - 1]
    found += [sign * (2**24 + off) for sign in (1, -1) for off in (-1, 1, 3)]
    for k in (0, 1, 2, 5, 90, 126, 200):
        tie = round((k + Fraction(1, 2)) / exact)
        found += [sign * (tie + off) for sign in (1, -1) for off in (-1, 0, 1)]
    reach = min(float(most), 150 / m)
    found += [int(value) for value in rng.uniform(-reach, reach, 12)]
    return [value for value in found if -most - 1 <= value <= most]


def multipliers(flavour: Requant) -> list[float]:
    """Multipliers to try, all of which the flavour can express."""
    if flavour.startswith("shift_"):
        return [2.0**-k for k in (-3, 0, 1, 2, 5, 7, 11, 20, 31)]
    return MULTIPLIERS.get(flavour, [*ODD, *ROUND, 1.0])


def requantize_cases() -> Iterator[dict[str, Any]]:
    """The cases of requantize.json."""
    rng = np.random.default_rng(54)
    for flavour in Requant:
        for place, m in enumerate(multipliers(flavour)):
            low, high, zero_point = CODES[place % len(CODES)]
            acc = accumulators(m, {Requant.INT16X8: 48, Requant.Q8_8: 10}.get(flavour, 32), rng)
            codes = requantize(np.array(acc, np.int64), m, zero_point, low, high, flavour).tolist()
            yield {"flavour": str(flavour), "multiplier": m.hex(), "zero_point": zero_point, "low": low, "high": high,
                   "acc": acc, "codes": codes}  # fmt: skip


def array(x: np.ndarray) -> dict[str, list[int]]:
    """Shape and codes, in C order."""
    return {"shape": list(x.shape), "codes": x.ravel().tolist()}


def drawn(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Codes in `low..high`."""
    return rng.integers(low, high + 1, shape)


def matmul_cases() -> Iterator[dict[str, Any]]:
    """Sizes around the widths of vector registers; sums that wrap."""
    rng = np.random.default_rng(53)
    for m, k, n in [(1, 1, 1), (2, 3, 4), (3, 17, 5), (4, 64, 2), (1, 33, 16), (5, 15, 1)]:
        a, b = drawn(rng, (m, k), 0, 255), drawn(rng, (k, n), -128, 127)
        za, zb, bias = int(rng.integers(256)), drawn(rng, (n,), -128, 127), drawn(rng, (n,), -(2**31), 2**31 - 1)
        yield {"a": array(a), "b": array(b), "a_zero_point": za, "b_zero_point": zb.tolist(), "bias": bias.tolist(),
               "acc": array(matmul(a, b, za, zb, bias))}  # fmt: skip


def conv2d_cases() -> Iterator[dict[str, Any]]:
    """Plain, strided and dilated with groups, depthwise, pointwise, and an even kernel."""
    rng = np.random.default_rng(52)
    for channels, out, groups, kernel, strides, pads, dilations in [
        (3, 4, 1, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (4, 6, 2, (3, 2), (2, 1), (0, 1, 2, 3), (1, 2)),
        (5, 5, 5, (3, 3), (2, 2), (1, 0, 0, 1), (1, 1)),
        (2, 3, 1, (1, 1), (3, 2), (0, 0, 0, 0), (1, 1)),
        (2, 2, 1, (5, 4), (1, 1), (2, 2, 2, 1), (1, 1)),
    ]:
        x, weight = (
            drawn(rng, (2, channels, 7, 6), -128, 127),
            drawn(rng, (out, channels // groups, *kernel), -128, 127),
        )
        zx, zw, bias = int(rng.integers(-128, 128)), drawn(rng, (out,), -9, 9), drawn(rng, (out,), -(2**20), 2**20)
        acc = conv2d(x, weight, zx, zw, bias, strides, pads, dilations, groups)
        yield {"x": array(x), "weight": array(weight), "x_zero_point": zx, "weight_zero_point": zw.tolist(),
               "bias": bias.tolist(), "strides": strides, "pads": pads, "dilations": dilations, "groups": groups,
               "acc": array(acc)}  # fmt: skip


def lines(cases: Iterator[dict[str, Any]]) -> str:
    """One case a line."""
    return ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)


def files() -> dict[str, str]:
    """The text of each file, by its name."""
    return {
        "requantize.json": f'{{"cases":[\n{lines(requantize_cases())}\n]}}\n',
        "integer_ops.json": f'{{"matmul":[\n{lines(matmul_cases())}\n],\n"conv2d":[\n{lines(conv2d_cases())}\n]}}\n',
    }


def main() -> None:
    """Write the files."""
    for name, text in files().items():
        (GOLDEN / name).write_text(text, "utf-8", newline="\n")


if __name__ == "__main__":
    main()
