"""Memory that a network of many gigabytes takes to quantize, beside what ONNX Runtime takes to run it once in float.

The network is a chain of MatMul and Relu with random float32 weights in an external file. Two processes run one after
the other: plain inference of one sample, and `halfeven quantize --no-verify`. Their memory is read from
/proc/PID/status every 20 ms: the peak of all resident pages (VmHWM), of those that belong to no file (RssAnon, which is
what a machine must have), and of mapped ones (RssFile, which the system can drop and read again).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import measure
import numpy as np
import onnx

FILE = "big_model.json"
MIB = 2**20
FIELDS = {"VmHWM": "peak_mib", "RssAnon": "anonymous_mib", "RssFile": "mapped_mib"}
EXAMPLES = """examples:
  python benchmarks/big_model.py --gib 3                  # 48 layers of 4096 x 4096
  python benchmarks/big_model.py --mib 192 --side 2048    # 12 layers of 2048 x 2048, for CI
"""


def build(folder: Path, layers: int, side: int, seed: int = 0) -> Path:
    """Write model.onnx and model.bin: `layers` weights of side x side, kept at unit gain; one layer in memory."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    with (folder / "model.bin").open("wb") as file:
        for i in range(layers):
            tensor = onnx.TensorProto(name=f"w{i}", data_type=onnx.TensorProto.FLOAT, dims=[side, side])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            length = 4 * side * side
            for key, value in (("location", "model.bin"), ("offset", file.tell()), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            file.write((rng.standard_normal((side, side), np.float32) * np.float32((2 / side) ** 0.5)).data)
            nodes.append(onnx.helper.make_node("MatMul", [f"r{i}", f"w{i}"], [f"m{i}"], name=f"layer{i}"))
            nodes.append(onnx.helper.make_node("Relu", [f"m{i}"], [f"r{i + 1}"], name=f"relu{i}"))
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", side])] for name in ("r0", f"r{layers}")
    )
    graph = onnx.helper.make_graph(nodes, "big", inputs, outputs, weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def watch(command: Sequence[str]) -> measure.Row:
    """Run a command to its end: seconds, and MiB at the peak of each kind of memory."""
    start = time.perf_counter()
    peaks = dict.fromkeys(FIELDS.values(), 0)
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen(command, stdout=words, stderr=words)
        while child.poll() is None:
            for key, kib in _status(child.pid).items():
                peaks[key] = max(peaks[key], kib // 1024)
            time.sleep(0.02)
        words.seek(0)
        said = words.read().decode(errors="replace").strip()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {said[-600:]}")
    return {**peaks, "wall_s": round(time.perf_counter() - start, 1)}


def _status(pid: int) -> dict[str, int]:
    """KiB of each kind of memory of a process, now; nothing of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {FIELDS[key]: int(value.split()[0]) for key, value in pairs if key in FIELDS}


def compare(folder: Path, layers: int, side: int, samples: int, options: Sequence[str]) -> measure.Row:
    """One row: the runtime's memory, Halfeven's, and the difference."""
    model = build(folder, layers, side)
    data = folder / "data.npy"
    np.save(data, np.random.default_rng(1).standard_normal((samples, side), np.float32))
    np.save(folder / "one.npy", np.load(data)[:1])
    plain = str(Path(__file__).resolve().parent / "plain_inference.py")
    runtime = watch([sys.executable, plain, str(model), str(folder / "one.npy")])
    output = folder / "quantized.onnx"
    ours = watch(
        [
            *(sys.executable, "-m", "halfeven", "quantize", str(model), "--data", str(data), "-o", str(output)),
            *("--no-verify", "--quiet", *options),
        ]
    )
    row: measure.Row = {"model_mib": round(layers * side * side * 4 / MIB), "layers": layers, "side": side}
    row |= {"samples": samples, "options": " ".join(options)}
    row |= {f"runtime_{key}": value for key, value in runtime.items()}
    row |= {f"halfeven_{key}": value for key, value in ours.items()}
    for key in FIELDS.values():
        row[f"over_{key}"] = int(ours[key]) - int(runtime[key])
    written = [output, output.with_name(output.name + ".data")]
    row["output_mib"] = round(sum(path.stat().st_size for path in written if path.exists()) / MIB)
    return row


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--gib", type=float, default=3, help="size of the weights in GiB (default: 3)")
    size.add_argument("--mib", type=float, help="the same in MiB")
    parser.add_argument("--side", type=int, default=4096, help="rows and columns of a weight (default: 4096)")
    parser.add_argument("--samples", type=int, default=4, help="samples to calibrate with (default: 4)")
    parser.add_argument("--folder", type=Path, help="where the files go; they need 1.3 times the size")
    parser.add_argument("--json", action="store_true", help="print the row and keep nothing")
    parser.add_argument("options", nargs="*", help="more options for `halfeven quantize`, after --")
    args = parser.parse_args()
    if not sys.platform.startswith("linux"):
        raise SystemExit("The kinds of memory are read from /proc, which only Linux has.")
    mib = args.gib * 1024 if args.mib is None else args.mib
    layers = max(1, round(mib * MIB / (4 * args.side**2)))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        row = compare(Path(folder), layers, args.side, args.samples, args.options)
    if not args.json:
        measure.keep(FILE, row, ("model_mib", "side", "samples", "options"))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
