"""Should short trainings keep the statistics of BatchNormalization from the first step on?

    python benchmarks/training_frozen.py [--seeds 0 1] [--samples 1000] [--frozen 0.3 1]

The shipped network is prepared with codes of several widths and trained by the loop of `halfeven train` with its
defaults, on the 200 pictures that the package ships for calibration, without labels, once for each share of steps at
the end in which statistics stay (`--frozen`). Printed: SQNR to the float network and top-1 of what was trained, on test
pictures. Nothing is kept.
"""

import argparse
from typing import Any

import numpy as np
import torch
from measure import markdown, session, sqnr_db
from training_bits import DEMO, reading, shipped

import halfeven
from halfeven.training.loop import Recipe, fit

BATCH = 100
WIDTHS: dict[str, dict[str, Any]] = {
    "W8A8": {},
    "W4A4": {"weight_bits": 4, "activation_bits": 4},
    "W2A2": {"weight_bits": 2, "activation_bits": 2},
    "W1A8": {"weight_bits": "binary"},
    "W8A8, vitis-dpu": {"target": "vitis-dpu"},
}
HEAD = ("codes", "frozen", "seed", "SQNR, dB", "top-1")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="N", help="of training (0 1)")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="to judge with (default: 1000)")
    parser.add_argument("--frozen", type=float, nargs="+", default=[0.3, 1.0], metavar="SHARE", help="(0.3 1)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # with others sums of gradients, and so the trained networks, differ in their last bits
    model, known, unseen = shipped(200, args.samples)
    with np.load(DEMO / "test.npz") as stored:
        labels = stored["y"][: args.samples]
    wanted = session(model, 1).run(None, {"input": unseen})[0]
    rows: list[tuple[object, ...]] = []
    for name, options in WIDTHS.items():
        for frozen in args.frozen:
            for seed in args.seeds:
                network = halfeven.prepare(model, data=known[:64], **options)
                fit(network, reading(network.program.inputs[0], known), Recipe(seed=seed, frozen=frozen))
                with torch.no_grad():
                    parts = [
                        network(torch.from_numpy(x)).numpy() for x in np.split(unseen, range(BATCH, len(unseen), BATCH))
                    ]
                found = np.concatenate(parts)
                score = f"{np.mean(found.argmax(1) == labels):.1%}"
                rows.append((name, frozen, seed, f"{sqnr_db(wanted, found):.1f}", score))
                print(rows[-1], flush=True)
    print(markdown(HEAD, rows))


if __name__ == "__main__":
    main()
