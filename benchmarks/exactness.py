"""Count the integers in which the simulator and ONNX Runtime differ, operator by operator, on random data.

    python benchmarks/exactness.py [--elements 10000000] [--machine onnxruntime@x86-vnni] [--operators Conv,Add]
    python benchmarks/exactness.py --model network.onnx --samples 4         every quantized tensor of a network

Operators are the tiny models of `onnx_graphs`. The runtime is whatever is installed, on the instruction set that it
runs on: name the machine that this is.

For another instruction set, run this under an emulator. Without VNNI:

    qemu-x86_64 -cpu Haswell python benchmarks/exactness.py --machine onnxruntime@x86-avx2

For Arm: `qemu-aarch64 -cpu cortex-a76` with a Python and the wheels of its requirements for aarch64.

The table says how many integers were compared, how many differ, and by how much at most.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).parent))
from onnx_graphs import OPERATORS, Array, Builder

from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machine import Machine
from halfeven.run.integer.machines import MACHINES, machine_named
from halfeven.run.ort import OrtExecutor
from halfeven.run.specs import input_specs


@dataclass
class Count:
    """Integers (and real numbers) compared, those that differ, by how much at most; models that ran."""

    elements: int = 0
    differing: int = 0
    step: float = 0.0
    models: int = 0
    first: str = ""

    def add(self, name: str, ours: Array, theirs: Array) -> None:
        """Compare two arrays, which must agree in type and shape too."""
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        wrong = (ours != theirs) & ~((ours != ours) & (theirs != theirs))
        self.elements += ours.size
        self.differing += int(wrong.sum())
        if wrong.any():
            gap = np.abs(ours[wrong].astype(np.float64) - theirs[wrong].astype(np.float64)).max()
            self.step, self.first = max(self.step, float(gap)), self.first or name


def compare(model: ir.Model, feeds: dict[str, Array], machine: Machine, count: Count, signed: bool) -> None:
    """Run both on the feeds; all coded tensors and outputs."""
    executor = IntegerExecutor(lower(model), machine, threads=1)
    made = {v.name for node in model.graph for v in node.outputs}
    watch = tuple(name for name, t in executor.tensors.items() if t.coded and name in made)
    theirs = OrtExecutor(model, watch, threads=1, signed=signed)(feeds)
    ours = executor(feeds, watch)
    for name, array in theirs.items():
        count.add(name, np.asarray(ours[name]), np.asarray(array))
    count.models += 1


def measured(
    operator: str, elements: int, machine: Machine, seed: int, signed: bool, int8: bool | None = None
) -> Count:
    """Random models of an operator, until so many elements were compared.

    `signed`: the runtime is told to take signed activations too. `int8`: the models have them; None: as `signed`.
    """
    either = signed if int8 is None else int8
    rng, count = np.random.default_rng(seed), Count()
    while count.elements < elements:
        builder = Builder(rng, either and bool(rng.integers(0, 2)), bool(rng.integers(0, 2)))
        model = ir.from_proto(OPERATORS[operator](builder))
        for turn in range(1 if count.models == 0 else 1 + int(min(40, elements // 50_000))):
            feeds = builder.feeds if turn == 0 else {n: again(builder, x) for n, x in builder.feeds.items()}
            compare(model, feeds, machine, count, signed)
    return count


def again(builder: Builder, x: Array) -> Array:
    """Other numbers for the same model."""
    if x.dtype.kind == "f":
        return builder.rng.permutation(x.ravel()).reshape(x.shape)
    return builder.codes(x.shape, np.int8 if x.dtype == np.int8 else np.uint8)


def network_feeds(model: ir.Model, samples: int, size: int, seed: int) -> Iterator[dict[str, Array]]:
    """Random inputs; open axes have the length `size`, a batch's is 1."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        feeds = {}
        for spec in input_specs(model):
            dims = [d if isinstance(d, int) else (1 if axis == 0 else size) for axis, d in enumerate(spec.shape or ())]
            real = spec.dtype.kind == "f"
            feeds[spec.name] = (rng.standard_normal(dims) if real else rng.integers(0, 9, dims)).astype(spec.dtype)
        yield feeds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=10_000_000, help="to compare for each operator")
    parser.add_argument("--machine", default="onnxruntime@x86-vnni", choices=list(MACHINES))
    parser.add_argument("--operators", default=";".join(OPERATORS), help="of the table, separated by semicolons")
    parser.add_argument("--int8", action="store_true", help="int8 activations too, with the session's defaults")
    parser.add_argument("--model", default="", help="a QDQ network instead of operators")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--size", type=int, default=160, help="length of a network's open axes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    machine = machine_named(options.machine)
    print(f"{machine.name}: {machine.source}\n\n| | compared | differ | step | models | s |\n|---|---|---|---|---|---|")
    if options.model:
        start, count, model = time.perf_counter(), Count(), load(options.model)
        for feeds in network_feeds(model, options.samples, options.size, options.seed):
            compare(model, feeds, machine, count, machine.name.endswith("+int8"))
        show(options.model, count, start)
        return
    for operator in options.operators.split(";"):
        start = time.perf_counter()
        signed = machine.name.endswith(("arm64", "+int8"))
        int8 = signed or options.int8
        show(operator, measured(operator, options.elements, machine, options.seed, signed, int8), start)


def show(name: str, count: Count, start: float) -> None:
    """One row."""
    seconds, where = time.perf_counter() - start, f" (first in {count.first})" if count.first else ""
    row = f"{count.elements:,} | {count.differing:,}{where} | {count.step:g} | {count.models} | {seconds:.0f}"
    print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
