"""Random operators of int8 codes, and products of int16, in LiteRT's kernels and TFLite Micro, beside their simulators.

    python benchmarks/exactness_litert.py --elements 10000000 [--operators CONV_2D,ADD] [--machines litert@reference]
                                          [--seed 1] [--results counts.json] [--through COMMAND]

The graphs are those of `litert_graphs`: .tflite files of one operator. Each is read back and computed by the machine of
a set of kernels; what is printed is how many integers of how many differ, and by how much.

`--results`: a file of counts, written every few seconds; a run that was stopped goes on from there, and what is counted
already is not run again. `--through`: the command of a Python on another processor that runs LiteRT there, while the
simulator runs here. For Arm, with a Python for it and the wheels of NumPy and ai-edge-litert:

    --machines litert@optimized-arm64 --through "qemu-aarch64 -cpu cortex-a76 -L ROOT ROOT/usr/bin/python3.11"
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from litert_graphs import OPERATORS, Array, Draw

from halfeven.exporters.litert.flatbuffer import FileGraph, to_bytes
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.importers.litert.reader import import_tflite
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.litert import KERNELS, open_litert
from halfeven.run.tflite_micro import open_tflite_micro

MACHINES = {
    "litert@reference": "reference",
    "litert@optimized-x86": "optimized",
    "litert@xnnpack": "xnnpack",
    "tflite-micro": "micro",
}
ELSEWHERE = {"litert@optimized-arm64": "optimized", "litert@xnnpack-arm64": "xnnpack"}
"""Machines of another processor, with the kernels that are asked for there."""

SAVED_EVERY = 5.0  # seconds


@dataclass
class Count:
    """Integers compared, how many differ, by how many steps at most; graphs, operators without a kernel, the first."""

    elements: int = 0
    differing: int = 0
    step: int = 0
    graphs: int = 0
    real: int = 0
    first: str = ""


@dataclass
class Elsewhere:
    """LiteRT in another process, of `litert_elsewhere`."""

    command: str
    kernels: str

    def __post_init__(self) -> None:
        script = Path(__file__).with_name("litert_elsewhere.py")
        asked = [*shlex.split(self.command), str(script), KERNELS[self.kernels]]
        self.process = subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, path: Path, feeds: list[Array]) -> Array:
        """The first output."""
        from litert_elsewhere import received, sent

        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"model": np.frombuffer(path.read_bytes(), np.uint8)} | {str(i): x for i, x in enumerate(feeds)}
        sent(self.process.stdin, asked)
        found = received(self.process.stdout)
        if found is None:
            raise SystemExit(f"The process of {self.command!r} has ended.")
        if "error" in found:
            raise RuntimeError(str(found["error"]))
        return np.asarray(found["0"])


def measured(
    operator: str, elements: int, name: str, seed: int = 1, count: Count | None = None, through: Elsewhere | None = None
) -> Count:
    """Compare a machine with the runtime on random graphs of one operator until so many integers were compared.

    `count` is gone on with.
    """
    count = Count() if count is None else count
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.tflite"
        while count.elements < elements:
            compare_one(path, operator, name, seed, count, through)
    return count


def compare_one(path: Path, operator: str, name: str, seed: int, count: Count, through: Elsewhere | None) -> None:
    """One more graph: the one of that number, whatever was counted before."""
    d = Draw(np.random.default_rng([seed, count.graphs]), count.graphs % 2 == 1)
    made = OPERATORS[operator](d)
    path.write_bytes(to_bytes(made))
    label = f"{operator} {count.graphs} of seed {seed}"
    count.graphs += 1
    model = import_tflite(memoryview(path.read_bytes()), str(path)).model
    name_everything(model)
    network = lower(model)
    machine = IntegerExecutor(network, machine_named(name), 1)
    count.real += len(network.ops) - len(machine.integer_ops)
    feeds = fed(made, d)
    (ours,) = machine(feeds).values()
    theirs = _theirs(path, list(feeds.values()), feeds, name, through)
    gap = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    count.elements += gap.size
    count.differing += int((gap > 0).sum())
    count.step = max(count.step, int(np.ceil(gap.max(initial=0))))
    if gap.any() and not count.first:
        count.first = label


def fed(made: FileGraph, d: Draw) -> dict[str, Array]:
    """Random codes, or real numbers, for the inputs of a graph."""
    feeds: dict[str, Array] = {}
    for index in made.inputs:
        tensor = made.tensors[index]
        if tensor.scale is None:
            step = made.tensors[made.outputs[0]].scale
            assert step is not None
            feeds[tensor.name] = d.reals(tensor.shape, float(step[0]))
        else:
            feeds[tensor.name] = d.codes(tensor.shape, tensor.dtype)
    return feeds


def _theirs(path: Path, arrays: list[Array], feeds: dict[str, Array], name: str, through: Elsewhere | None) -> Array:
    if through is not None:
        return through(path, arrays)
    if MACHINES[name] != "micro":
        (found,) = open_litert(path, MACHINES[name])(feeds).values()
        return found
    one = open_tflite_micro(path)._interpreter()
    for place, array in enumerate(arrays):
        one.set_input(array, place)
    one.invoke()
    return np.asarray(one.get_output(0))


def main() -> None:
    """Measure, save and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=100_000)
    parser.add_argument("--operators", default=",".join(OPERATORS).replace(", ", "; "))
    parser.add_argument("--machines", default=",".join(MACHINES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--through", default="")
    args = parser.parse_args()
    held = json.loads(args.results.read_text()) if args.results and args.results.exists() else {}
    for operator in (one.replace("; ", ", ") for one in args.operators.split(",")):
        for name in args.machines.split(","):
            through = Elsewhere(args.through, ELSEWHERE[name]) if name in ELSEWHERE else None
            key = f"{operator} | {name} | {args.seed}"
            count, saved = Count(**held.get(key, {})), time.monotonic()
            while count.elements < args.elements:
                measured(operator, min(count.elements + 200_000, args.elements), name, args.seed, count, through)
                held[key] = asdict(count)
                if args.results and (time.monotonic() - saved > SAVED_EVERY or count.elements >= args.elements):
                    saved = time.monotonic()
                    args.results.write_text(json.dumps(held, indent=1))
                    print(f"\r{key}: {count.elements:,}", end="", file=sys.stderr, flush=True)
            print(
                f"{operator:20} {name:24} {count.differing:8} of {count.elements:10} in {count.graphs} graphs, "
                f"step {count.step}, real {count.real} {count.first}",
                flush=True,
            )


if __name__ == "__main__":
    main()
