"""What is gained where each weight has a width of its own, searched, over one width for all of the same bits?

    python benchmarks/searched_bits.py [--budgets 3 4] [--bits 2,3,4,6,8] [--epochs 3] [--seeds 0 1]
    python benchmarks/searched_bits.py --model MODEL --data DATA --holdout DATA [--labels FILE] --preprocess PRESET
                                       --budgets 4 --bits 2,4,8 2,3,4,5,6,8 --epochs 0

By default the shipped network and its pictures, of which 1000 judge. For each budget, one width for all and what a
search of each list of widths finds: SQNR of weights alone, as the search measures it on what it holds out; SQNR and
top-1 of what `quantize` makes of the plan, with activations of 8 bits; and of what `train` makes of it from each seed,
with BatchNormalization frozen. A budget that is no whole number has no one width beside it.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import markdown
from training_bits import DEMO

import halfeven
from halfeven.bit_search import Search
from halfeven.report.verify import Verification

HEAD = ("bits", "weights", "alone, dB", "quantized, dB", "top-1", "trained, dB", "top-1")


def of_one_width(plan: halfeven.Plan, bits: int) -> halfeven.Plan:
    """The plan with so many bits for each weight."""
    groups = {
        g: replace(q, bits=bits if bits < q.scheme.grid.bits else None) if q.role == "weight" else q
        for g, q in plan.groups.items()
    }
    return replace(plan, groups=groups)


def top1(found: Verification) -> str:
    """The share of right classes, if classes are known."""
    return "" if found.accuracy is None else f"{100 * found.accuracy[1]:.1f} %"


def row(args: argparse.Namespace, given: dict[str, Any], name: str, plan: halfeven.Plan, found: list[str]) -> list[str]:
    """A plan as `quantize` and `train` have it."""
    made = halfeven.quantize(args.model, args.data, plan=plan, **given).verification
    assert made is not None
    trained = []
    for seed in args.seeds if args.epochs else ():
        recipe = {"epochs": args.epochs, "seed": seed}
        result, _ = halfeven.train(args.model, args.data, plan=plan, batchnorm="frozen", recipe=recipe, **given)
        assert result.verification is not None
        trained.append(result.verification)
    judged = [f"{made.sqnr_db:.1f}", top1(made)]
    shown = [", ".join(f"{v.sqnr_db:.1f}" for v in trained), ", ".join(top1(v) for v in trained)]
    return [found[0], name, found[1], *judged, *shown]


def search(args: argparse.Namespace, bits: str, budget: float, kept: Path) -> Search:
    """The search, judged on what it holds out of its own data."""
    widths = [int(part) for part in bits.split(",")]
    told = {"preprocess": args.preprocess, "sensitivities": kept}
    return halfeven.search(args.model, args.data, bits=widths, budget=budget, **told)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO / "fashion_mnist_mbv2.onnx"))
    parser.add_argument("--data", default=str(DEMO / "calibration.npz"))
    parser.add_argument("--holdout", default=str(DEMO / "test.npz"))
    parser.add_argument("--labels")
    parser.add_argument("--preprocess", default="fashion-mnist")
    parser.add_argument("--budgets", type=float, nargs="+", default=[3, 4])
    parser.add_argument("--bits", nargs="+", default=["2,3,4,6,8"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    given = {"preprocess": args.preprocess, "holdout": args.holdout, "labels": args.labels}
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for budget in args.budgets:
            for bits in args.bits:
                found = search(args, bits, budget, Path(folder) / "sensitivities.json")
                uniform = next((p for p in found.uniform if p.bits == budget and bits == args.bits[0]), None)
                if uniform is not None:
                    told = [f"{budget:g}", f"{uniform.measured_db:.1f}"]
                    rows.append(
                        row(args, given, uniform.name + " for all", of_one_width(found.plan, int(budget)), told)
                    )
                told = [f"{found.chosen.bits:.2f}", f"{found.chosen.measured_db:.1f}"]
                rows.append(row(args, given, f"mixed, of {bits}", found.plan, told))
    print(markdown(HEAD, rows))


if __name__ == "__main__":
    main()
