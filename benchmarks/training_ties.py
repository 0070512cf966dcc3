"""Does training by the device's rule for ties give a better network on that device than training by the file's?

    python benchmarks/training_ties.py [--seeds 0 1 2] [--samples 1000]

The shipped network is prepared for `vitis-dpu`, whose scales are powers of two and whose ties go up. First, of 100
pictures: of how many codes of its feature maps the rules make different ones from the same number, in all and in the
worst map, and how many outputs differ then. After that it is trained from each seed with each rule, on the 200 pictures
that the package ships for calibration, by the loop of `halfeven train` with its defaults, and its file run on the
simulated DPU: SQNR to the float network and top-1. Beside them the share of outputs that the trained network gives to
the bit as the simulated DPU does, and as ONNX Runtime does when told to optimize nothing. Nothing is kept.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import markdown, session, sqnr_db
from training_bits import DEMO, Array, reading, shipped

import halfeven
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.numerics.rounding import Rounding
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.ort import OrtExecutor
from halfeven.training.loop import Recipe, fit

Call = Callable[..., torch.Tensor]
TARGET = "vitis-dpu"
BATCH = 100
RULES = ("file", "device")
HEAD = ("trained with", "seed", "SQNR, dB", "top-1", "as the DPU", "as ONNX Runtime")


def prepared(model: Path, known: Array) -> Any:
    """The network before training, calibrated on the first 64 pictures; in evaluation, where statistics stay."""
    return halfeven.prepare(model, data=known[:64], target=TARGET).eval()


def ties(network: Any, x: Array) -> str:
    """What the rule alone changes, in a sentence."""
    shares: list[float] = []
    sizes: list[int] = []

    def counting(rounded: Call) -> Call:
        def forward(x: torch.Tensor, clamp: Any, stretch: Any, rule: Rounding) -> torch.Tensor:
            found = rounded(x, clamp, stretch, rule)
            if rule is not Rounding.HALF_EVEN:  # a feature map, not a constant
                shares.append(float((found != rounded(x, clamp, stretch, Rounding.HALF_EVEN)).double().mean()))
                sizes.append(found.numel())
            return found

        return forward

    with torch.no_grad():
        network.rounding = "file"
        by_file = network(torch.from_numpy(x))
        network.rounding = "device"
        for quantizer in network.quantizers.values():
            quantizer.forward = counting(quantizer.forward)
        apart = (network(torch.from_numpy(x)) != by_file).double().mean()
    total = np.average(shares, weights=sizes)
    return (
        f"{len(x)} pictures: of the codes of {len(shares)} feature maps {total:.1%} are others by the device's rule, "
        f"of the worst map {max(shares):.0%}; {apart:.0%} of the outputs differ"
    )


def judged(network: Any, x: Array, labels: Array, wanted: Array) -> list[str]:
    """The cells of `HEAD` behind the seed."""
    name = network.program.inputs[0]
    with tempfile.TemporaryDirectory() as folder:
        halfeven.export(network, Path(folder) / "m.onnx")
        held = load(str(Path(folder) / "m.onnx"))
    sides = (IntegerExecutor(lower(held), machine_named(TARGET)), OrtExecutor(held, optimize=False))
    parts = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
    device, file = (np.concatenate([next(iter(run({name: part}).values())) for part in parts]) for run in sides)
    with torch.no_grad():
        ours = np.concatenate([network(torch.from_numpy(part)).numpy() for part in parts])
    same = [f"{np.mean(ours == other):.1%}" for other in (device, file)]
    return [f"{sqnr_db(wanted, device):.1f}", f"{np.mean(device.argmax(1) == labels):.1%}", *same]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="of training (0 1 2)")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="to judge with (default: 1000)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # with others sums of gradients, and so the trained networks, differ in their last bits
    model, known, unseen = shipped(200, args.samples)
    with np.load(DEMO / "test.npz") as stored:
        labels = stored["y"][: args.samples]
    run = session(model, 1)
    wanted = run.run(None, {"input": unseen})[0]
    network = prepared(model, known)
    rows: list[tuple[object, ...]] = [("untrained", "", *judged(network, unseen, labels, wanted))]
    print(ties(network, unseen[:100]), flush=True)
    for rule in RULES:
        for seed in args.seeds:
            network = prepared(model, known)
            network.rounding = rule
            fit(network, reading(network.program.inputs[0], known), Recipe(seed=seed))
            rows.append((f"the {rule}'s rule", seed, *judged(network, unseen, labels, wanted)))
            print(rows[-1], flush=True)
    print(markdown(HEAD, rows))


if __name__ == "__main__":
    main()
