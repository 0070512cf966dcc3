"""Accuracy of quantization-aware training on Fashion-MNIST, beside PTQ and other libraries.

Each tool gets the same float network, pictures, order, epochs, loss and rates. Halfeven's score is that of the exported
file, run by ONNX Runtime over all 10,000 test pictures; that of the network that was trained stands beside it. Others
are scored as what their library makes of what it trained. Rows go to results/training_accuracy.json as they are made;
those that are there are not made again unless --again is given.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import measure
import networks
import torch
import training_peers as peers
from training_networks import Array, file_score, module_score, pictures

FILE = "training_accuracy.json"
KEY = ("network", "bits", "tool", "pictures", "epochs", "batch", "seed")
NAMES = ("fmnist_mbv2", "fmnist_resnet")
BITS = {"W8A8": (8, 8), "W4A4": (4, 4), "W2A2": (2, 2), "W1A8": (1, 8)}
TOOLS = ("ptq", "halfeven", *peers.MODULES)
EXAMPLES = """examples:
  apt-get install dataset-fashion-mnist
  python benchmarks/training_accuracy.py --data /usr/share/datasets/fashion-mnist --assets DIR
  python benchmarks/training_accuracy.py --data DIR --tools halfeven brevitas --bits W4A4 --pictures 6000 --epochs 1
  python benchmarks/training_accuracy.py --markdown                  # print the kept results, measure nothing
"""


def settings_of(bits: tuple[int, int]) -> dict[str, Any]:
    """The options of `prepare` for codes of so many bits."""
    names = ("weight_bits", "activation_bits")
    return {name: count for name, count in zip(names, bits, strict=True) if count != 8}


def post_training(model: Path, bits: tuple[int, int], x: Array, output: Path) -> float:
    """What quantizing without training gives, exported; of fewer bits than 8, what training begins with."""
    import halfeven

    data = [{"input": x[i : i + 1]} for i in range(min(peers.CALIBRATION, len(x)))]
    if bits == (8, 8):
        halfeven.quantize(model, data, verify=False).save(output)
    else:
        halfeven.export(halfeven.prepare(model, data=data, **settings_of(bits)), output)
    return 0.0


def train(model: Path, bits: tuple[int, int], x: Array, y: Array, schedule: peers.Schedule) -> tuple[Any, float]:
    """What `halfeven train` does, of pictures in memory: the trained network, and seconds a step."""
    import time

    from halfeven import qat
    from halfeven.training.loop import Recipe, fit

    data = [{"input": x[i : i + 1]} for i in range(min(peers.CALIBRATION, len(x)))]
    network = qat.prepare(model, data=data, **settings_of(bits))
    readers = [lambda i=i: ({"input": x[i : i + 1]}, int(y[i])) for i in range(len(x))]
    start = time.perf_counter()
    history = fit(network, readers, Recipe(**asdict(schedule)))
    return network, (time.perf_counter() - start) / len(history.losses)


def measured(name: str, width: str, tool: str, data: Any, args: argparse.Namespace) -> measure.Row:
    """One row."""
    model, bits, schedule = model_of(name, args.assets), BITS[width], args.schedule
    (x, y), (test_x, test_y) = data
    row: measure.Row = {"network": name, "bits": width, "tool": tool, "pictures": len(x), **asdict(schedule)}
    row["float"] = file_score(model, test_x, test_y)
    torch.manual_seed(schedule.seed)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "trained.onnx"
        if tool == "ptq":
            post_training(model, bits, x, output)
        elif tool == "halfeven":
            import halfeven

            network, row["step_s"] = train(model, bits, x, y, schedule)
            row["module"] = module_score(network, test_x, test_y)
            halfeven.export(network, output)
        else:
            network, finish = peers.prepared(tool, name, model, bits, x)
            row["step_s"] = peers.trained(network, peers.teacher_of(name, model), x, y, schedule)
            row["score"] = module_score(finish(network), test_x, test_y)
        if output.exists():
            row["score"] = file_score(output, test_x, test_y)
    package = {"ptq": "halfeven"}.get(tool, peers.MODULES.get(tool, tool))
    return {**row, "version": f"{package} {metadata.version(package)}"}


def model_of(name: str, assets: Path | None) -> Path:
    """The float file; that of fmnist_mbv2 is the demo network, too."""
    if assets is not None:
        return Path(assets).resolve() / "models" / name / "model.onnx"
    if name == "fmnist_mbv2":
        return networks.demo().model
    raise SystemExit(f"{name}: give --assets DIR, with models/{name}/model.onnx")


def table() -> str:
    """The kept rows: a line for each network, bits and amount of training."""
    rows = measure.rows_of(FILE)
    groups: dict[tuple[Any, ...], dict[str, measure.Row]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["bits"], row["pictures"], row["epochs"]), {})[row["tool"]] = row
    order = sorted(groups, key=lambda key: (NAMES.index(key[0]), list(BITS).index(key[1]), key[2:]))
    lines = []
    for key in order:
        found = groups[key]
        cells = [f"{found[tool]['score']:.4f}" if tool in found else "-" for tool in TOOLS]
        ours = found.get("halfeven", {})
        if "module" in ours:
            cells[1] += f" ({ours['module'] - ours['score']:+.4f})"
        lines.append([key[0], key[1], f"{key[2]} x {key[3]}", next(iter(found.values()))["float"], *cells])
    head = ["network", "bits", "pictures x epochs", "float", "PTQ", "Halfeven", "float, trained on", *TOOLS[3:]]
    return measure.markdown(head, lines)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("HALFEVEN_ASSETS")
    parser.add_argument(
        "--assets", type=Path, default=default, metavar="DIR", help="folder with models/NAME/model.onnx"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the idx files of Fashion-MNIST")
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS, metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("--bits", nargs="+", choices=list(BITS), default=list(BITS), metavar="WxAy", help="of these")
    parser.add_argument("--pictures", type=int, default=60000, help="how many to train with (default: all 60,000)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: 3)")
    parser.add_argument("--batch", type=int, default=32, help="(default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and the order of pictures (default: 0)")
    parser.add_argument("--quick", action="store_true", help="64 pictures, 100 test pictures, kept nowhere")
    parser.add_argument("--again", action="store_true", help="make rows that are there again")
    parser.add_argument("--markdown", action="store_true", help="only print the kept results as a table")
    return parser


def main() -> None:
    """Measure what the options choose, or print what was measured."""
    parser = options()
    args = parser.parse_args()
    if args.markdown:
        print(table())
        return
    if args.data is None:
        parser.error("--data DIR is needed; `apt-get install dataset-fashion-mnist` brings the files")
    torch.set_num_threads(1)
    count = 64 if args.quick else args.pictures
    args.schedule = peers.Schedule(epochs=1 if args.quick else args.epochs, batch=args.batch, seed=args.seed)
    x, y = pictures(args.data, "train")
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(args.seed)).numpy()[:count]
    test = pictures(args.data, "t10k")
    data = (x[chosen], y[chosen]), tuple(part[:100] for part in test) if args.quick else test
    known = {tuple(row[k] for k in KEY) for row in measure.rows_of(FILE)}
    for name, width, tool in ((n, w, t) for n in args.networks for w in args.bits for t in args.tools):
        key = (name, width, tool, len(chosen), args.schedule.epochs, args.schedule.batch, args.schedule.seed)
        if tool in peers.MODULES and peers.missing(tool):
            print(f"{tool}: not installed, left out", file=sys.stderr)
        elif (args.again or args.quick or key not in known) and peers.offers(tool, BITS[width]):
            row = measured(name, width, tool, data, args)
            if not args.quick:
                measure.keep(FILE, row, KEY)
            print(row, flush=True)


if __name__ == "__main__":
    main()
