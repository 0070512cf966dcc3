"""Accuracy, speed and cost of INT8 models, tool by tool, network by network.

Each tool makes its INT8 file in a process of its own, whose CPU seconds and peak memory count. The file is then
scored against the float model on held-out data, timed against it by turns, and its optimised graph is counted.
Rows go to results/accuracy.json as they are made; a row made again replaces the old one.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import measure
import networks
import peers
import process

FILE = "accuracy.json"
TOOLS = ["halfeven", *peers.MODULES]
HISTOGRAMS = ("ort-percentile", "ort-entropy")  # hold every activation of every sample, in one array of equal shapes
EXAMPLES = """examples:
  python benchmarks/accuracy.py                                      # the demo network, every installed tool
  python benchmarks/accuracy.py --assets DIR --tools halfeven ort-minmax --networks mobilenet_v2
  python benchmarks/accuracy.py --markdown                           # print the kept results, measure nothing
"""


def halfeven_command(network: networks.Network, output: Path) -> list[str]:
    """The command line that a user would type, with no option beyond the data."""
    preprocess = ["--preprocess", network.preprocess] if network.preprocess else []
    return [
        *(sys.executable, "-m", "halfeven", "quantize", str(network.model)),
        *("--data", str(network.data), *preprocess, "-o", str(output)),
    ]


def peer_command(
    tool: str, network: networks.Network, output: Path, args: argparse.Namespace, stride: int
) -> list[str]:
    """The process of a peer: this folder's peers.py."""
    where = ["--assets", str(args.assets), "--networks", network.name] if args.assets else []
    if args.sentence_encoder:
        where += ["--sentence-encoder", str(args.sentence_encoder)]
    script = str(Path(__file__).resolve().parent / "peers.py")
    return [
        *(sys.executable, script, tool, str(output), *where),
        *("--opset", str(args.opset), "--stride", str(stride)),
    ]


def make(tool: str, network: networks.Network, output: Path, args: argparse.Namespace) -> measure.Row:
    """Make the INT8 file; the cost part of the row.

    ONNX Runtime's histograms fail on samples of unequal shape and under a memory limit: they get a second run.
    """
    if tool == "halfeven":
        cost, note = process.run(halfeven_command(network, output), args.memory_limit_gb), ""
    else:
        cost, note = process.run(peer_command(tool, network, output, args, args.stride), args.memory_limit_gb), ""
        if cost.status and tool in HISTOGRAMS and not args.stride:
            note = f"failed at first ({cost.last_line}); run again one sample at a time"
            cost = process.run(peer_command(tool, network, output, args, 1), args.memory_limit_gb)
    row: measure.Row = {"cpu_s": cost.cpu_s, "wall_s": cost.wall_s, "peak_mb": cost.peak_mb, "status": cost.status}
    if cost.status or not output.exists():
        row["error"] = cost.last_line or "no file written"
    return {**row, "note": note} if note else row


def measured(tool: str, network: networks.Network, args: argparse.Namespace) -> measure.Row:
    """One row: cost of making the file, size, score, latency, integer nodes."""
    row: measure.Row = {"network": network.name, "tool": tool, "opset": args.opset if tool in peers.MODULES else "own"}
    with tempfile.TemporaryDirectory() as folder:
        output = (args.keep or Path(folder)) / f"{network.name}.{tool}.onnx"
        output.unlink(missing_ok=True)
        row |= make(tool, network, output, args)
        if "error" in row:
            return row
        row["size_ratio"] = round(output.stat().st_size / network.model.stat().st_size, 3)
        try:
            row |= {k: v for k, v in measure.score(network, output).items() if k != "name"}
            row |= measure.integer_nodes(output)
            samples = list(networks.feeds(network, 0, network.batch, network.batch))
            row |= {"batch": network.batch, **measure.latency(network.model, output, samples, args.seconds)}
        except Exception as error:  # ONNX Runtime has no public base class for its errors
            row["error"] = f"the file does not run: {error}".replace(f"{output.parent}/", "")[:300]
    return row


def table() -> str:
    """The kept rows as a markdown table."""
    head = ["network", "tool", "opset", "SQNR dB", "metric", "latency/float (CPU, 1 thread)", "latency/float (wall)"]
    head += ["size/float", "integer nodes", "CPU s", "peak MB", "note"]
    lines = []
    for r in sorted(measure.rows_of(FILE), key=lambda r: (r["network"], TOOLS.index(r["tool"]))):
        metric = f"{r['metric']} {r['value']:.4g}" if "metric" in r else "-"
        metric += f", agree {r['agree']:.3f}" if "agree" in r else ""
        cells = [r.get(k, "-") for k in ("cpu_ratio", "wall_ratio", "size_ratio")]
        share = f"{r['integer']}/{r['matmul_conv']}" if "integer" in r else "-"
        note = str(r.get("error", r.get("note", ""))).replace("\n", " ").replace("|", "/")[-120:]
        score = [r.get("sqnr_db", "-"), metric]
        lines.append([r["network"], r["tool"], r["opset"], *score, *cells, share, r["cpu_s"], r["peak_mb"], note])
    return measure.markdown(head, lines)


def main() -> None:
    """Measure what the options choose, or print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks.add_options(parser)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS, metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("--opset", type=int, default=17, help="peers: raise older models to this opset (0: leave)")
    parser.add_argument("--stride", type=int, default=0, help="ORT: samples held in memory at a time (0: all)")
    parser.add_argument("--memory-limit-gb", type=float, default=0.0, help="bound on a tool's memory (default: none)")
    parser.add_argument("--seconds", type=float, default=6.0, help="wall time of each latency measurement (default: 6)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the INT8 files in this folder")
    parser.add_argument("--markdown", action="store_true", help="only print the kept results as a table")
    args = parser.parse_args()
    if args.markdown:
        print(table())
        return
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    for network in networks.find(args.assets, args.sentence_encoder, args.networks):
        for tool in args.tools:
            if tool in peers.MODULES and peers.missing(tool):
                print(f"{tool}: not installed, left out", file=sys.stderr)
                continue
            row = measured(tool, network, args)
            measure.keep(FILE, row, ("network", "tool", "opset"))
            print({k: v for k, v in row.items() if k != "kinds"}, flush=True)


if __name__ == "__main__":
    main()
