"""Set the searches for a range against plain loops: entropy against C++, the squared error of two ends against NumPy.

    python benchmarks/estimators.py [--distributions 1000] [--repeat 15] [--compiler c++]
    python benchmarks/estimators.py --markdown

Entropy: `naive_kl.cpp`, the slides' procedure bin by bin (2048 bins, 128 levels, 1921 thresholds), compiled here with
-O2, against `stats.entropy.divergences`, on histograms of random distributions; both must name the same threshold.
Squared error: 100 x 100 pairs of ends, each with its rounded zero point, over 2048 bins by their middles, in NumPy, 100
pairs at once, against the same pairs judged by `stats.density.Errors` (exact integrals), and against the whole search.

One thread, CPU time, by turns; the ratio is the median over turns. Rows are kept in results/estimators.json.
"""

import argparse
import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from measure import Row, keep, markdown, rows_of

from halfeven.numerics.grid import UINT8
from halfeven.numerics.native import BUILT
from halfeven.numerics.scheme import Scheme, ZeroRule
from halfeven.stats.density import Density, Errors, expected_error
from halfeven.stats.entropy import divergences
from halfeven.stats.histogram import Histogram
from halfeven.stats.search import least_error_range

Doubles = npt.NDArray[np.float64]
Work = Callable[[], object]

FILE = "estimators.json"
BINS, LEVELS, ENDS = 2048, 128, 100
AFFINE = Scheme(UINT8, zero_point=ZeroRule.FREE)
HEAD = ("search", "set against", "ms", "ms, plain", "ratio", "result")


def seconds(work: Work) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compiled(compiler: str, folder: Path) -> Callable[[Doubles], tuple[int, Doubles]]:
    """The plain loop: counts to the threshold in bins, and all divergences."""
    source, library = Path(__file__).with_name("naive_kl.cpp"), folder / "naive_kl.so"
    command = [compiler, "-O2", "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).naive_kl
    pointer = np.ctypeslib.ndpointer(np.float64, flags="C")
    function.argtypes, function.restype = [pointer, ctypes.c_int, ctypes.c_int, pointer], ctypes.c_int

    def run(counts: Doubles) -> tuple[int, Doubles]:
        found = np.empty(counts.size - LEVELS + 1)
        return function(counts, counts.size, LEVELS, found), found

    return run


def random_counts(rng: np.random.Generator) -> Doubles:
    """Counts of |x| of a random kind, size, tail and outliers, over 2048 bins."""
    size, kind = int(10 ** rng.uniform(3, 5.5)), rng.integers(5)
    if kind == 0:
        x = rng.standard_t(rng.uniform(1.5, 8), size)
    elif kind == 1:
        x = rng.laplace(size=size)
    elif kind == 2:
        x = rng.lognormal(sigma=rng.uniform(0.2, 1.5), size=size)
    elif kind == 3:
        x = rng.uniform(size=size) ** rng.uniform(1, 6)
    else:
        x = np.where(rng.random(size) < 0.9, 1, rng.uniform(1, 30)) * rng.standard_normal(size)
    return np.histogram(np.abs(x), BINS, (0, float(np.abs(x).max())))[0].astype(np.float64)


def entropy_row(distributions: int, compiler: str) -> Row:
    """The ratio over random distributions, and on how many both name the same threshold."""
    rng, thresholds = np.random.default_rng(0), np.arange(LEVELS, BINS + 1)
    times: list[tuple[float, float]] = []
    same, gap = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        plain = compiled(compiler, Path(folder))
        for _ in range(distributions):
            counts = random_counts(rng)
            best, expected = plain(counts)
            found = divergences(counts, LEVELS, thresholds)
            same += best == int(thresholds[np.argmin(found)])
            finite = np.isfinite(expected)
            gap = max(gap, float(np.abs(found[finite] - expected[finite]).max(initial=0.0)))
            times.append((seconds(partial(divergences, counts, LEVELS, thresholds)), seconds(partial(plain, counts))))
    fast, slow = np.array(times).T
    return {
        "search": "entropy",
        "against": "plain loop in C++",
        "ms": round(float(np.median(fast)) * 1e3, 3),
        "plain_ms": round(float(np.median(slow)) * 1e3, 2),
        "ratio": round(float(np.median(slow / fast)), 1),
        "distributions": distributions,
        "same_threshold": same,
        "largest_difference": gap,
        "native": BUILT,
    }


def plain_errors(counts: Doubles, middles: Doubles, lows: Doubles, highs: Doubles) -> Doubles:
    """Squared error of all pairs of ends, shape (lows, highs), values at the middles of their bins."""
    errors = np.empty((lows.size, highs.size))
    for row, low in enumerate(lows):
        scale = ((highs - low) / 255)[:, None]
        zero = np.rint(-low / scale)
        codes = np.clip(np.rint(middles / scale) + zero, 0, 255)
        errors[row] = (counts * ((codes - zero) * scale - middles) ** 2).sum(axis=1)
    return np.asarray(errors / counts.sum())


def squares_rows(repeat: int) -> list[Row]:
    """The ratio over the same pairs, and of the whole search to the plain one."""
    x = np.random.default_rng(0).gumbel(size=200_000).astype(np.float32)
    histogram, low, high = Histogram.of(x), float(x.min()), float(x.max())
    counts, edges = np.histogram(x, BINS, (low, high))
    heights, middles = counts.astype(np.float64), (edges[1:] + edges[:-1]) / 2
    shares = np.arange(1, ENDS + 1) / ENDS
    a, b = (one.ravel() for one in np.meshgrid(shares, shares, indexing="ij"))

    def plain() -> Doubles:
        return plain_errors(heights, middles, shares * low, shares * high)

    works: dict[str, Work] = {
        "the same pairs": lambda: Errors(Density.of(histogram), AFFINE)(a * low, b * high),
        "its own pairs": lambda: least_error_range(histogram, AFFINE),
    }
    best = np.unravel_index(np.argmin(plain()), (ENDS, ENDS))
    reached = expected_error(histogram, shares[best[0]] * low, shares[best[1]] * high, AFFINE)
    ours = expected_error(histogram, *least_error_range(histogram, AFFINE), AFFINE)
    times: dict[str, list[float]] = {name: [] for name in (*works, "plain")}
    for _ in range(repeat):
        for name, work in {**works, "plain": plain}.items():
            times[name].append(seconds(work))
    return [
        {
            "search": f"squared error, {name}",
            "against": "100 x 100 pairs in NumPy",
            "ms": round(float(np.median(times[name])) * 1e3, 3),
            "plain_ms": round(float(np.median(times["plain"])) * 1e3, 1),
            "ratio": round(float(np.median(np.array(times["plain"]) / np.array(times[name]))), 1),
            "error_of_plain_s": round(ours / reached, 4),
            "native": BUILT,
        }
        for name in works
    ]


def table() -> str:
    """What is kept, as markdown."""
    rows = []
    for row in rows_of(FILE):
        same = f"the same threshold on {row.get('same_threshold')} of {row.get('distributions')} distributions"
        result = same if "distributions" in row else f"{row['error_of_plain_s']} of the plain search's error"
        rows.append((row["search"], row["against"], row["ms"], row["plain_ms"], row["ratio"], result))
    return markdown(HEAD, rows)


def main() -> None:
    """Measure, keep, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--distributions", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--compiler", default=shutil.which("c++") or "g++")
    parser.add_argument("--markdown", action="store_true", help="print what is kept, measure nothing")
    arguments = parser.parse_args()
    if not arguments.markdown:
        for row in (entropy_row(arguments.distributions, arguments.compiler), *squares_rows(arguments.repeat)):
            keep(FILE, row, ("search",))
    print(table())


if __name__ == "__main__":
    main()
