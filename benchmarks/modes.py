"""Size and time of a network as each mode and ONNX format leaves it, over those of the float network.

    python benchmarks/modes.py                                              # the demo network
    python benchmarks/modes.py --assets DIR --networks mobilenet_v2 sentence_encoder silero_vad
    python benchmarks/modes.py --markdown                                   # print the kept results

Each row is one `halfeven quantize` with the options shown, and the calibration data of the network where it takes any.
Time is CPU time of one thread in ONNX Runtime, median over turns that alternate with the float network. What `quantize`
refuses has no figure.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import networks

FILE = "modes.json"
DATA = ("static", "float")  # modes that calibrate, or check for overflow on data
MODES: dict[str, tuple[str, ...]] = {
    "`static`, `qdq`": (),
    "`static`, `qoperator`": ("--format", "qoperator"),
    "`dynamic`": ("--mode", "dynamic"),
    "`dynamic --prefer size`": ("--mode", "dynamic", "--prefer", "size"),
    "`weight-only`, 8 bits, `qdq`": ("--mode", "weight-only"),
    "`weight-only`, 4 bits, blocks of 32, `qdq`": ("--mode", "weight-only", "--bits", "4", "--block", "32"),
    "the same, `matmulnbits`": ("--mode", "weight-only", "--bits", "4", "--block", "32", "--format", "matmulnbits"),
    "the same, `matmulnbits-int8`": (
        *("--mode", "weight-only", "--bits", "4", "--block", "32", "--format", "matmulnbits-int8"),
    ),
    "`float --float-dtype fp16`": ("--mode", "float", "--float-dtype", "fp16"),
}


def made(network: networks.Network, options: tuple[str, ...], folder: Path) -> tuple[Path | None, str]:
    """The file that `halfeven quantize` writes, or None and what it said."""
    output = folder / "made.onnx"
    command = [sys.executable, "-m", "halfeven", "quantize", str(network.model), "-o", str(output), "--no-verify"]
    mode = options[options.index("--mode") + 1] if "--mode" in options else "static"
    if mode in DATA:
        command += ["--data", str(network.data), "--limit", str(network.samples)]
        command += ["--preprocess", network.preprocess] * bool(network.preprocess)
    done = subprocess.run([*command, *options, "--quiet"], capture_output=True, text=True)
    return (None, done.stderr.strip()) if done.returncode else (output, "")


def row_of(network: networks.Network, title: str, folder: Path, seconds: float) -> measure.Row:
    """One row."""
    row: measure.Row = {"network": network.name, "mode": title}
    path, said = made(network, MODES[title], folder)
    if path is None:
        return {**row, "refused": said}
    sample = list(networks.feeds(network, 0, network.batch, network.batch))
    sizes = [p.stat().st_size / 1e6 for p in (network.model, path)]
    ratio = measure.latency(network.model, path, sample, seconds)["cpu_ratio"]
    return {**row, "ratio": ratio, "float_mb": round(sizes[0], 2), "mb": round(sizes[1], 2)}


def table() -> str:
    """The kept rows: networks across, modes down."""
    rows = {(r["network"], r["mode"]): r for r in measure.rows_of(FILE)}
    names = list(dict.fromkeys(network for network, _ in rows))
    first = [next(r for (n, _), r in rows.items() if n == name and "mb" in r) for name in names]
    lines = [["size in float, MB", *(f"{r['float_mb']:.2f}" for r in first)]]
    for title in MODES:
        found = [rows.get((name, title), {}) for name in names]
        lines.append([title, *(f"{r['ratio']:.2f} ({r['mb']:.2f} MB)" if "mb" in r else "" for r in found)])
    return measure.markdown(["", *names], lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks.add_options(parser)
    parser.add_argument("--seconds", type=float, default=6.0, help="of turns for each row (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="only print the kept results as a table")
    args = parser.parse_args()
    if args.markdown:
        print(table())
        return
    for network in networks.find(args.assets, args.sentence_encoder, args.networks):
        for title in MODES:
            with tempfile.TemporaryDirectory() as folder:
                row = row_of(network, title, Path(folder), args.seconds)
            measure.keep(FILE, row, ("network", "mode"))
            print(row, flush=True)


if __name__ == "__main__":
    main()
