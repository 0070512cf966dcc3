"""Time what calibration does to each tensor: summaries in ns per element, range estimates in ms per tensor.

    python benchmarks/summaries.py [--elements 800000] [--repeat 30] [--onnxruntime]

One thread, CPU time, the least of `--repeat` interleaved turns, as noise only adds. `sum` is NumPy's sum of the same
array: what reading it once costs; the other rows are also given as multiples of it. "numpy" is Halfeven's own NumPy
definition, "np.histogram" NumPy's function with the range given. `--onnxruntime` times ONNX Runtime's collector and its
entropy search too (which solves another problem: two-sided, smoothed, and by default with one candidate; here with
2048 bins and 128 levels).
"""

import argparse
import contextlib
import io
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from halfeven.numerics.grid import INT8, UINT8
from halfeven.numerics.native import BUILT, use_numpy
from halfeven.numerics.scheme import Scheme, ZeroRule
from halfeven.stats.estimate import estimate
from halfeven.stats.histogram import Histogram
from halfeven.stats.summary import Extrema

Work = Callable[[], object]
Floats = npt.NDArray[np.float32]
SCHEMES = {"int8 symmetric": Scheme(INT8), "uint8 affine": Scheme(UINT8, zero_point=ZeroRule.FREE)}


def in_numpy(work: Work) -> Work:
    """The same work by the NumPy definitions."""

    def run() -> object:
        with use_numpy():
            return work()

    return run


def least_seconds(works: dict[str, Work], repeat: int) -> dict[str, float]:
    """CPU seconds of each, taken in turns; slow work gets fewer turns."""
    least = dict.fromkeys(works, float("inf"))
    for turn in range(repeat):
        for name, work in works.items():
            if turn > 2 and least[name] * turn > 2:
                continue
            start = time.process_time()
            work()
            least[name] = min(least[name], time.process_time() - start)
    return least


def summaries(x: Floats, repeat: int) -> Table:
    """Nanoseconds per element of each summary."""
    low, high = float(x.min()), float(x.max())
    works: dict[str, Work] = {
        "sum": lambda: x.sum(),
        "extrema": lambda: Extrema.of(x),
        "histogram": lambda: Histogram.of(x),
        "histogram, stride 4": lambda: Histogram.of(x, stride=4),
        "histogram, stride 7": lambda: Histogram.of(x, stride=7),
        "extrema, numpy": in_numpy(lambda: Extrema.of(x)),
        "histogram, numpy": in_numpy(lambda: Histogram.of(x)),
        "np.histogram": lambda: np.histogram(x, 2048, (low, high)),
    }
    least = least_seconds(works, repeat)
    table = Table("summary", "ns / element", "of sum", title=f"{x.size} elements")
    for name, seconds in least.items():
        table.add_row(name, f"{seconds / x.size * 1e9:.2f}", f"{seconds / least['sum']:.2f}")
    return table


def estimates(x: Floats, repeat: int) -> Table:
    """Milliseconds of each estimate, C++ and NumPy."""
    histogram = Histogram.of(x)
    table = Table("estimate", "scheme", "ms", "ms, numpy")
    for method in ("percentile", "entropy", "mse", "auto"):
        for name, scheme in SCHEMES.items():

            def work(method: str = method, scheme: Scheme = scheme) -> object:
                return estimate(method, histogram, scheme)

            least = least_seconds({"C++": work, "numpy": in_numpy(work)}, repeat)
            table.add_row(method, name, *(f"{seconds * 1e3:.2f}" for seconds in least.values()))
    return table


def onnxruntime_times(x: Floats) -> Table:
    """ONNX Runtime's own collector and searches, one call each."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    table = Table("ONNX Runtime", "ms", title=f"{x.size} elements")
    for method in ("percentile", "entropy"):
        collector = HistogramCollector(method, False, 2048, 128, 99.99, "same")
        with contextlib.redirect_stdout(io.StringIO()):
            start = time.process_time()
            collector.collect({"x": [x]})
            collected = time.process_time()
            collector.compute_collection_result()
            end = time.process_time()
        table.add_row("collect", f"{(collected - start) * 1e3:.1f}")
        table.add_row(method, f"{(end - collected) * 1e3:.1f}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=800_000)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--onnxruntime", action="store_true")
    arguments = parser.parse_args()
    console, rng = Console(), np.random.default_rng(0)
    console.print(f"C++ {'built' if BUILT else 'not built'}")
    normal = rng.standard_normal(arguments.elements, dtype=np.float32)
    for name, x in (("normal", normal), ("relu", np.maximum(normal, 0))):
        console.rule(name)
        console.print(summaries(x, arguments.repeat))
        console.print(estimates(x, arguments.repeat))
        if arguments.onnxruntime:
            console.print(onnxruntime_times(x))


if __name__ == "__main__":
    main()
