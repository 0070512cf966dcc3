"""What weights of 7 bits (`--reduce-range`) cost with VNNI, and what they save without it.

Each network is quantized for ONNX Runtime with nothing but its data, then with 7 bits in the layers that `simulate`
names because their sums can saturate without VNNI, then with 7 bits in all. The simulators of both kinds of x86 run
each on data that did not calibrate. Printed: the layers named, of all with weights; SQNR against the float network and
how many samples keep its top-1; of the 7-bit networks how many integers of one machine differ from the other's, and how
many layers can still saturate. Where none differs, both machines have the figures that are shown.

With --runtime the files that --keep wrote run in ONNX Runtime on this processor instead. Printed: how many integers and
outputs differ from those of the simulator of this processor, and in how many samples the outputs differ from those of
the simulator with VNNI, by how much at most.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from exactness import Count, compare
from measure import markdown, sqnr_db
from networks import Feeds, Network, add_options, find, held_out
from numpy import typing as npt

import halfeven
from halfeven.graph.model import load
from halfeven.report.simulate import Simulation, simulate
from halfeven.run.integer.machines import this_machine
from halfeven.run.ort import OrtExecutor

AVX2, VNNI = "onnxruntime@x86-avx2", "onnxruntime@x86-vnni"
DEFAULT = ("mobilenet_v2", "fmnist_mbv2", "fmnist_resnet")
SAMPLES = {"mobilenet_v2": 40}
KEPT = ("8bit", "7bit")
HEAD = (
    "network",
    "samples",
    "layers named",
    "8 bits, with VNNI",
    "8 bits, without",
    "named layers 7",
    "all layers 7",
    "integers of these",
    "differ",
    "still saturating",
)
BESIDE = (
    "network",
    "samples",
    "weights",
    "machine",
    "integers and outputs",
    "differ",
    "samples whose outputs differ",
    "at most",
)
EXAMPLES = """examples:
  python benchmarks/reduced_range.py                                           # the demo network
  python benchmarks/reduced_range.py --keep files --samples 20
  qemu-x86_64 -cpu Haswell python benchmarks/reduced_range.py --runtime files --samples 20
  python benchmarks/reduced_range.py --assets DIR
"""
Outputs = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Variants:
    """A network in 8 bits, with the named layers in 7, and with all in 7; their names, and how many layers it has."""

    plain: halfeven.Result
    named: halfeven.Result
    every: halfeven.Result
    layers: tuple[str, ...]
    of: int


def quantized(network: Network, reduce_range: tuple[str, ...] = ()) -> halfeven.Result:
    """As `halfeven quantize MODEL --data DATA --limit N` with nothing but the patterns does it."""
    return halfeven.quantize(
        network.model,
        network.data,
        preprocess=network.preprocess or None,
        limit=network.samples,
        verify=False,
        reduce_range=reduce_range,
    )


def variants(network: Network, sample: Feeds) -> Variants:
    """The three networks."""
    plain = quantized(network)
    layers = tuple(simulate(plain.model, [("a sample", sample)], AVX2).saturating)
    plan = plain.plan
    weights = [site for site, group in plan.sites.items() if site.consumer and plan.groups[group].role == "weight"]
    named = quantized(network, layers) if layers else plain
    return Variants(plain, named, quantized(network, ("*",)), layers, len(weights))


def simulated(model: ir.Model, samples: list[Feeds], machine: str, against: str = "") -> Simulation:
    """The simulation of all samples."""
    return simulate(model, [(f"sample {i}", feeds) for i, feeds in enumerate(samples)], machine, against)


def first_outputs(batches: list[Feeds]) -> Outputs:
    """The first output of each sample, flat, [samples, numbers]."""
    return np.stack([np.asarray(next(iter(batch.values())), np.float64).ravel() for batch in batches])


def cell(wanted: Outputs, batches: list[Feeds]) -> str:
    """SQNR, and how many have the same top-1."""
    found = first_outputs(batches)
    return f"{sqnr_db(wanted, found):.2f} dB, {(wanted.argmax(1) == found.argmax(1)).sum()}"


def row(network: Network, made: Variants, samples: list[Feeds]) -> list[object]:
    """One line of the first table."""
    run = OrtExecutor(network.model)
    wanted = first_outputs([run(feeds) for feeds in samples])
    cells = [cell(wanted, simulated(made.plain.model, samples, machine).outputs) for machine in (VNNI, AVX2)]
    sevens = [simulated(one.model, samples, AVX2, VNNI) for one in (made.named, made.every)]
    codes = [d for one in sevens for d in one.tensors.values()]
    return [
        *(network.name, len(samples), f"{len(made.layers)} of {made.of}", *cells),
        *(cell(wanted, one.outputs) for one in sevens),
        *(f"{sum(d.compared for d in codes):,}", sum(d.differing for d in codes)),
        sum(len(one.saturating) for one in sevens),
    ]


def beside(network: Network, folder: Path, samples: list[Feeds]) -> list[list[object]]:
    """Lines of the second table, of the files that are kept in the folder."""
    machine, rows = this_machine(), []
    for kind in KEPT:
        model = load(folder / f"{network.name}.{kind}.onnx")
        count, run = Count(), OrtExecutor(model, threads=1)
        for feeds in samples:
            compare(model, feeds, machine, count, signed=False)
        found = first_outputs([run(feeds) for feeds in samples])
        apart = np.abs(found - first_outputs(simulated(model, samples, VNNI).outputs)).max(1)
        counts = (f"{count.elements:,}", count.differing, int((apart > 0).sum()), f"{apart.max():.2f}")
        rows.append([network.name, len(samples), kind, machine.name, *counts])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--samples", type=int, metavar="N", help="to judge with (default: 1000; 40 of mobilenet_v2)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the files of 8 bits, and of 7 in all layers, here"
    )
    parser.add_argument("--runtime", type=Path, metavar="DIR", help="run kept files in ONNX Runtime instead")
    args = parser.parse_args()
    rows = []
    for network in find(args.assets, args.sentence_encoder, args.networks or list(DEFAULT)):
        samples = held_out(network, args.samples or SAMPLES.get(network.name, 1000))
        if args.runtime:
            rows += beside(network, args.runtime, samples)
            continue
        made = variants(network, samples[0])
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            for kind, result in zip(KEPT, (made.plain, made.every), strict=True):
                result.save(args.keep / f"{network.name}.{kind}.onnx")
        rows.append(row(network, made, samples))
        print(rows[-1], flush=True)
    print(markdown(BESIDE if args.runtime else HEAD, rows))


if __name__ == "__main__":
    main()
