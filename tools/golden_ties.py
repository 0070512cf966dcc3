"""Writes tests/golden/ties.json: for each rounding rule, float32 numbers and what they round to, as bits.

    {"rules": {"half_even": [["3f000000", "00000000"], ...], ...}}        pairs of x and rounded x, eight hex digits

NaN is 7fc00000. The numbers are ties and their neighbours, both sides of every place where a rule or its arithmetic
changes, whole numbers beyond 2**23, subnormals, zeros of both signs, infinities, NaN, and some drawn at random.
"""

import json
from pathlib import Path

import numpy as np

from halfeven.numerics.rounding import Rounding

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "ties.json"


def adversaries() -> np.ndarray:
    """The numbers to round, float32."""
    whole = np.arange(0, 12, dtype=np.float32)
    ties = np.concatenate([whole + np.float32(0.5), np.float32([126.5, 127.5, 254.5, 255.5, 2**22 - 0.5, 2**23 - 0.5])])
    places = np.float32([0.25, 1 / 3, 1, 2, 3, 127, 128, 255, 256, 2**22, 2**23, 2**23 + 1, 2**23 + 3])
    far = np.float32([2**24, 2**24 - 1, 2**24 + 2, 2**31, 2**31 - 128, 2**53, 3e38, np.finfo(np.float32).max])
    near = np.float32([1e-45, np.finfo(np.float32).tiny, 1e-10, 2**-24, 2**-25])
    middle = np.concatenate([ties, places])
    around = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    positive = np.concatenate([middle, *around, far, near])
    rng = np.random.default_rng(2)
    drawn = (rng.integers(-4000, 4000, 60) / 8).astype(np.float32)
    special = np.float32([0, np.inf])
    return np.concatenate([positive, -positive, special, -special, [np.nan], drawn]).astype(np.float32)


def hexed(x: np.ndarray) -> list[str]:
    """The bits of float32 `x`, with one NaN for all."""
    bits = np.where(np.isnan(x), np.uint32(0x7FC00000), x.astype(np.float32).view(np.uint32))
    return [f"{word:08x}" for word in bits]


def main() -> None:
    """Write the file."""
    x = adversaries()
    rules = {str(rule): [list(pair) for pair in zip(hexed(x), hexed(rule(x)), strict=True)] for rule in Rounding}
    rows = [f'  "{rule}": {json.dumps(pairs, separators=(",", ":"))}' for rule, pairs in rules.items()]
    text = '{"rules": {\n' + ",\n".join(rows) + "\n}}\n"
    GOLDEN.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
