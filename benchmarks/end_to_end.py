"""Seconds from a float file and a folder of pictures to an INT8 file: halfeven and ONNX Runtime's min-max, by turns.

MobileNetV2 and 128 pictures, whole processes, nothing kept between runs. Without assets: the demo network.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import accuracy
import measure
import networks
import process

FILE = "end_to_end.json"
PEER = "ort-minmax"
EXAMPLES = """examples:
  python benchmarks/end_to_end.py --assets DIR
  python benchmarks/end_to_end.py --assets DIR --turns 7 --networks fmnist_resnet
"""


def compare(network: networks.Network, args: argparse.Namespace) -> measure.Row:
    """One row: both tools by turns, medians over turns."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "int8.onnx"
        ours = accuracy.halfeven_command(network, output)
        theirs = [*accuracy.peer_command(PEER, network, output, args, 0), "--samples", str(network.samples)]
        pairs = [(process.run(ours), process.run(theirs)) for _ in range(args.turns)]
    row: measure.Row = {"network": network.name, "samples": network.samples, "turns": args.turns}
    failed = next((cost for pair in pairs for cost in pair if cost.status), None)
    if failed:
        return {**row, "error": failed.last_line or "failed without a word"}
    for field in ("wall_s", "cpu_s", "peak_mb"):
        values = [(getattr(a, field), getattr(b, field)) for a, b in pairs]
        row[f"halfeven_{field}"] = round(statistics.median(a for a, _ in values), 3)
        row[f"ort_{field}"] = round(statistics.median(b for _, b in values), 3)
        row[f"{field}_ratio"] = round(statistics.median(a / b for a, b in values), 3)
    return row


def main() -> None:
    """Measure and print the kept rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks.add_options(parser)
    parser.add_argument("--samples", type=int, default=128, help="samples of the peer (default: 128)")
    parser.add_argument("--turns", type=int, default=3, help="default: 3")
    parser.add_argument("--opset", type=int, default=17, help="peer: raise older models to this opset (0: leave)")
    parser.add_argument("--markdown", action="store_true", help="only print the kept results as a table")
    args = parser.parse_args()
    if not args.markdown:
        for network in networks.find(args.assets, args.sentence_encoder, args.networks or ["mobilenet_v2"]):
            row = compare(networks.with_samples(network, args.samples), args)
            measure.keep(FILE, row, ("network",))
    keys = ["network", "samples", "halfeven_wall_s", "ort_wall_s", "wall_s_ratio"]
    keys += ["halfeven_cpu_s", "ort_cpu_s", "cpu_s_ratio", "halfeven_peak_mb", "ort_peak_mb", "error"]
    print(measure.markdown(keys, [[row.get(k, "-") for k in keys] for row in measure.rows_of(FILE)]))


if __name__ == "__main__":
    main()
