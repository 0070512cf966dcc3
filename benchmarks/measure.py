"""What is measured of a pair of models: latency, integer share of the graph, score; and how results are kept.

Latency is a ratio, taken in one process by turns (float, INT8, float, INT8, ...), so that another load on the machine
falls on both: the median over pairs of turns of INT8 time over float time. CPU time with one thread is the number to
trust on a busy machine; wall time with ONNX Runtime's default threads is what a user feels.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from networks import Feeds, Network, feeds

RESULTS = Path(__file__).resolve().parent / "results"

# Operators of ONNX Runtime's optimised graphs that multiply matrices or convolve, on integers and on floats.
INTEGER = {
    "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM", "QGemm", "QAttention", "MatMulNBits",
}  # fmt: skip
FLOATING = {
    "Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "LSTM", "GRU", "RNN",
    "Attention", "MultiHeadAttention",
}  # fmt: skip

Feed = Sequence[Feeds]
Row = dict[str, Any]


def session(model: Path, threads: int = 0, optimized: Path | None = None) -> ort.InferenceSession:
    """A CPU session with `threads` threads (0: ONNX Runtime's default), quiet; `optimized` receives its final graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if threads == 1:
        options.inter_op_num_threads = 1
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def sqnr_db(reference: npt.ArrayLike, output: npt.ArrayLike) -> float:
    """Signal to quantization noise in dB: 10 log10(sum r**2 / sum (r - o)**2)."""
    r, o = np.asarray(reference, np.float64).ravel(), np.asarray(output, np.float64).ravel()
    return round(float(10 * np.log10((r**2).sum() / max(((r - o) ** 2).sum(), 1e-30))), 2)


def latency(reference: Path, model: Path, samples: Feed, seconds: float = 6.0, turn_s: float = 0.03) -> Row:
    """INT8 over float latency: `cpu_ratio` (one thread, CPU time) and `wall_ratio` (default threads).

    A turn runs `samples` in order, as often as fills `turn_s`; turns alternate for `seconds` in all, 15 pairs at least.
    """
    cpu = _ratio(reference, model, samples, 1, time.process_time, seconds, turn_s)
    wall = _ratio(reference, model, samples, 0, time.perf_counter, seconds, turn_s)
    return {"cpu_ratio": cpu[0], "cpu_spread": cpu[1], "float_cpu_ms": cpu[2], "wall_ratio": wall[0]}


def _ratio(
    reference: Path, model: Path, samples: Feed, threads: int, clock: Callable[[], float], seconds: float, turn_s: float
) -> tuple[float, float, float]:
    """Median ratio over pairs of turns, its interquartile range, and milliseconds of one float call."""
    pair = (session(reference, threads), session(model, threads))
    names = [[i.name for i in s.get_inputs()] for s in pair]

    def turn(which: int, times: int) -> float:
        start = clock()
        for _ in range(times):
            for sample in samples:
                pair[which].run(None, {n: sample[n] for n in names[which]})
        return clock() - start

    turn(0, 1), turn(1, 1)  # the first call allocates
    times = max(1, round(turn_s / max(turn(0, 1), 1e-6)))
    rows: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(rows) < 15 or time.perf_counter() < end:
        first = len(rows) % 2  # who begins alternates as well
        both = {first: turn(first, times), 1 - first: turn(1 - first, times)}
        rows.append((both[0], both[1]))
    floats, ints = np.array(rows).T
    low, middle, high = (float(x) for x in np.percentile(ints / floats, [25, 50, 75]))
    one = float(np.median(floats)) / times / len(samples) * 1e3
    return round(middle, 3), round(high - low, 3), round(one, 3)


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
            for inner in attribute.graphs:
                yield from _nodes(inner)


def integer_nodes(model: Path) -> Row:
    """After ONNX Runtime's optimisation: nodes that multiply or convolve on integers, and all that do; both by type."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        session(model, optimized=optimized)
        kinds = [node.op_type for node in _nodes(onnx.load(optimized).graph)]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds) & (INTEGER | FLOATING))}
    integer = sum(n for kind, n in counts.items() if kind in INTEGER)
    return {"integer": integer, "matmul_conv": sum(counts.values()), "kinds": counts}


def score(network: Network, model: Path) -> Row:
    """The network's score: what its scorer prints, else the SQNR over its test file."""
    if network.scorer:
        command = [sys.executable, str(network.scorer), network.name, str(model)]
        if network.name == "sentence_encoder":
            command += ["--float", str(network.model)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1][:300]}
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    if network.test is None:
        return {"error": "no scorer and no test data"}
    held_out = list(feeds(replace(network, data=network.test), 0, 10**9, network.batch))
    reference, output = (
        np.concatenate([np.asarray(s.run(None, f)[0]).ravel() for f in held_out])
        for s in (session(network.model), session(model))
    )
    return {
        "name": network.name,
        "sqnr_db": sqnr_db(reference, output),
        "count": sum(len(next(iter(f.values()))) for f in held_out),
    }


def environment() -> Row:
    """Processor, Python and the versions that decide the numbers."""
    wanted = ("onnxruntime", "onnx", "numpy", "halfeven", "nncf")
    versions = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"] in wanted}
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    facts = dict(reversed([(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]))
    cpu = facts.get("model name", platform.processor())
    isa = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if f in facts.get("flags", "").split()]
    return {"python": platform.python_version(), "machine": platform.machine(), "cpu": cpu, "isa": isa, **versions}


def keep(file: str, row: Row, key: Sequence[str]) -> None:
    """Put `row` into results/`file`, in place of the one with the same values under `key`.

    The environment of the file is this one; a row that was measured in another says where that differs.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / file
    old = json.loads(path.read_text()) if path.exists() else {"environment": {}, "rows": []}
    here = environment()
    rows = [
        _placed(r, {**old["environment"], **r.get("environment", {})}, here)
        for r in old["rows"]
        if any(r.get(k) != row.get(k) for k in key)
    ]
    path.write_text(json.dumps({"environment": here, "rows": [*rows, row]}, indent=1) + "\n")


def _placed(row: Row, there: Row, here: Row) -> Row:
    """A row with what its environment has that this one has not."""
    other = {name: value for name, value in there.items() if here.get(name) != value}
    plain = {name: value for name, value in row.items() if name != "environment"}
    return {**plain, "environment": other} if other else plain


def rows_of(file: str) -> list[Row]:
    """The rows kept in results/`file`."""
    path = RESULTS / file
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
