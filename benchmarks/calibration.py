"""Time and memory of calibration over plain float inference of the same samples.

Both are whole processes, run by turns; ratios are medians over turns. A short run is mostly start-up, so the table
also has the marginal ratio: the extra CPU seconds of the long run over the short one, calibration over inference.
Memory that does not grow with the samples shows as equal peaks in the rows of one network.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import measure
import networks
import numpy as np
import process
import random_resnet

FILE = "calibration.json"
SIDE = 224
EXAMPLES = """examples:
  python benchmarks/calibration.py                                   # the random ResNet-50, 32 and 2048 samples
  python benchmarks/calibration.py --assets DIR --samples 32 256 --turns 5
  python benchmarks/calibration.py --markdown
"""


def halfeven_command(model: Path, data: Path, output: Path) -> list[str]:
    """Calibration as a user starts it: every estimator asked at once, so every summary is gathered."""
    return [
        *(sys.executable, "-m", "halfeven", "calibrate", str(model)),
        *("--data", str(data), "-o", str(output)),
    ]


def inference_command(model: Path, data: Path, batch: int) -> list[str]:
    """Plain float inference of the same file."""
    script = str(Path(__file__).resolve().parent / "plain_inference.py")
    return [sys.executable, script, str(model), str(data), "--batch", str(batch)]


def write_pictures(path: Path, count: int, seed: int = 0) -> Path:
    """`count` random pictures, float32 [count, 3, 224, 224], to an .npy mapped while it is written."""
    rng = np.random.default_rng(seed)
    pictures = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, 3, SIDE, SIDE))
    for i in range(count):
        coarse = rng.standard_normal((3, SIDE // 8, SIDE // 8), np.float32)
        fine = rng.standard_normal((3, SIDE, SIDE), np.float32)
        pictures[i] = np.kron(coarse, np.ones((8, 8), np.float32)) + fine / 4
    pictures.flush()
    return path


def compare(name: str, model: Path, count: int, turns: int, batch: int, folder: Path) -> measure.Row:
    """One row: both processes by turns over the same `count` samples."""
    data = write_pictures(folder / "pictures.npy", count)
    plain, calibrated = [], []
    for _ in range(turns):
        plain.append(process.run(inference_command(model, data, batch)))
        calibrated.append(process.run(halfeven_command(model, data, folder / "stats.json")))
    data.unlink()
    row: measure.Row = {"network": name, "samples": count, "turns": turns, "batch": batch}
    failed = next((c for c in plain + calibrated if c.status), None)
    if failed:
        return {**row, "error": failed.last_line or "failed without a word"}
    for field in ("cpu_s", "wall_s", "peak_mb"):
        pairs = [(getattr(p, field), getattr(c, field)) for p, c in zip(plain, calibrated, strict=True)]
        row[f"plain_{field}"] = round(statistics.median(p for p, _ in pairs), 3)
        row[f"calibration_{field}"] = round(statistics.median(c for _, c in pairs), 3)
        row[f"{field}_ratio"] = round(statistics.median(c / p for p, c in pairs), 3)
    return row


def marginal(rows: list[measure.Row]) -> float | None:
    """Extra CPU seconds from the fewest to the most samples of one network, calibration over plain inference."""
    good = sorted((r for r in rows if "error" not in r), key=lambda r: int(r["samples"]))
    if len(good) < 2:
        return None
    ours, plain = (float(good[-1][key]) - float(good[0][key]) for key in ("calibration_cpu_s", "plain_cpu_s"))
    return round(ours / plain, 3)


def table() -> str:
    """The kept rows as a markdown table."""
    head = ["network", "samples", "plain CPU s", "calibration CPU s", "CPU ratio", "wall ratio"]
    head += ["plain peak MB", "calibration peak MB", "marginal CPU ratio", "note"]
    rows = sorted(measure.rows_of(FILE), key=lambda r: (r["network"], r["samples"]))
    keys = ["plain_cpu_s", "calibration_cpu_s", "cpu_s_ratio", "wall_s_ratio", "plain_peak_mb", "calibration_peak_mb"]
    lines = []
    for row in rows:
        same = [r for r in rows if r["network"] == row["network"]]
        cells = [row.get(k, "-") for k in keys]
        last = marginal(same) if row is same[-1] else None
        lines.append([row["network"], row["samples"], *cells, last or "", row.get("error", "")])
    return measure.markdown(head, lines)


def main() -> None:
    """Measure MobileNetV2 (when the assets are there) and the random ResNet-50."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks.add_options(parser)
    parser.add_argument("--samples", type=int, nargs="+", default=[32, 2048], metavar="N", help="default: 32 2048")
    parser.add_argument("--turns", type=int, default=3, help="turns of both processes for each row (default: 3)")
    parser.add_argument("--batch", type=int, default=1, help="samples a call of plain inference (default: 1)")
    parser.add_argument("--markdown", action="store_true", help="only print the kept results as a table")
    args = parser.parse_args()
    if args.markdown:
        print(table())
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models: dict[str, Path] = {}
        if args.assets:
            models["mobilenet_v2"] = args.assets / "models" / "mobilenet_v2" / "model.onnx"
        models["random_resnet50"] = random_resnet.build(folder / "random_resnet50.onnx")
        for name, model in models.items():
            if args.networks and name not in args.networks:
                continue
            for count in args.samples:
                row = compare(name, model, count, args.turns, args.batch, folder)
                measure.keep(FILE, row, ("network", "samples"))
                print(row, flush=True)


if __name__ == "__main__":
    main()
