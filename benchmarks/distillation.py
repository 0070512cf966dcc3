"""MobileNetV2 with 4-bit weights learns from its float network, by photos without labels: SQNR and top-1 beside PTQ.

    python benchmarks/distillation.py --assets DIR [--epochs 12] [--batch 8] [--rate 1e-4] [--frozen 1] [--features 1]

It trains with the photos of DIR/data/photos that have no label, each as it is and mirrored, by the loop of
`halfeven train` with its defaults but for the options above; it is judged on those that have one, which it has not
seen.
Beside it, on the same photos: `halfeven quantize --conv-bits 4` and what training begins with, whose first and last
layer have 8 bits. All are exported files, run by ONNX Runtime. Rows go to results/distillation.json.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, TypeAlias

import measure
import numpy as np
import numpy.typing as npt
import torch
from networks import imagenet_stretch
from rich.progress import Progress

import halfeven
from halfeven.training.loop import Recipe, fit

FILE = "distillation.json"
CALIBRATION = 128
CHOSEN = ("epochs", "batch", "rate", "frozen", "distill", "features")
Array: TypeAlias = npt.NDArray[Any]


def photos(assets: Path) -> tuple[Array, Array, list[list[int]]]:
    """Photos without labels and with them, float32 [n, 3, 224, 224]; the classes of the latter."""
    folder = assets / "data" / "photos"
    labels: dict[str, list[int]] = json.loads((folder / "test_labels.json").read_text())
    test = sorted((folder / "test").iterdir())
    plain = [*sorted((folder / "calib").iterdir()), *(path for path in test if path.name not in labels)]
    judged = [path for path in test if path.name in labels]
    read = [np.stack([imagenet_stretch(path) for path in paths]) for paths in (plain, judged)]
    return read[0], read[1], [labels[path.name] for path in judged]


def scores(model: Path, x: Array) -> Array:
    """The logits of each photo, by ONNX Runtime."""
    session = measure.session(model)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[i : i + 1]})[0] for i in range(len(x))])


def judged(file: Path, wanted: Array, x: Array, classes: list[list[int]]) -> dict[str, float]:
    """SQNR in dB of all logits together, and top-1."""
    found = scores(file, x)
    sqnr = 10 * np.log10(np.sum(wanted.astype(np.float64) ** 2) / np.sum((wanted - found).astype(np.float64) ** 2))
    hits = [int(row.argmax()) in right for row, right in zip(found, classes, strict=True)]
    return {"sqnr_db": round(float(sqnr), 2), "top1": round(float(np.mean(hits)), 4)}


def trained(model: Path, x: Array, recipe: Recipe, output: Path) -> float:
    """Train and export; seconds."""
    network = halfeven.prepare(model, data=[{"input": x[i : i + 1]} for i in range(CALIBRATION)], weight_bits=4)
    both = [x, np.ascontiguousarray(x[..., ::-1])]
    readers = [lambda a=a, i=i: ({"input": a[i : i + 1]}, None) for a in both for i in range(len(x))]
    start = time.perf_counter()
    with Progress() as progress:
        task = progress.add_task("train")
        fit(network, readers, recipe, lambda _, done, total: progress.update(task, completed=done, total=total))
    halfeven.export(network, output)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print the kept rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, metavar="DIR", help="folder with models/ and data/")
    parser.add_argument("--epochs", type=int, default=12, help="(default: 12)")
    parser.add_argument("--batch", type=int, default=8, help="(default: 8)")
    parser.add_argument("--rate", type=float, default=1e-4, help="of weights (default: 1e-4)")
    parser.add_argument("--frozen", type=float, default=1.0, help="share of steps with BatchNormalization frozen (1)")
    parser.add_argument("--distill", type=float, default=1.0, help="weight of learning from the float outputs (1)")
    parser.add_argument("--features", type=float, default=0.0, help="weight of learning from tensors inside (0)")
    parser.add_argument("--markdown", action="store_true", help="only print the kept results as a table")
    args = parser.parse_args()
    if not args.markdown:
        if args.assets is None:
            parser.error("--assets DIR is needed")
        torch.manual_seed(0)
        run(args)
    keys = ["tool", *CHOSEN, "photos", "judged", "sqnr_db", "top1"]
    print(measure.markdown(keys, [[row.get(key, "-") for key in keys] for row in measure.rows_of(FILE)]))


def run(args: argparse.Namespace) -> None:
    """One row each: float, PTQ, what training begins with, training."""
    model = args.assets / "models" / "mobilenet_v2" / "model.onnx"
    x, test, classes = photos(args.assets)
    wanted = scores(model, test)
    some = [{"input": x[i : i + 1]} for i in range(CALIBRATION)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "w4a8.onnx"

        def keep(tool: str, **more: object) -> None:
            row = {"tool": tool, "judged": len(test), **more, **judged(output, wanted, test, classes)}
            measure.keep(FILE, row, ("tool", *CHOSEN))
            print(row, flush=True)

        halfeven.quantize(model, some, conv_bits=4, verify=False).save(output)
        keep("PTQ", photos=CALIBRATION)
        halfeven.export(halfeven.prepare(model, data=some, weight_bits=4), output)
        keep("before training", photos=CALIBRATION)
        chosen = {name: getattr(args, name) for name in CHOSEN}
        seconds = trained(model, x, Recipe(**chosen), output)
        keep("trained", **chosen, photos=len(x), seconds=round(seconds))


if __name__ == "__main__":
    main()
