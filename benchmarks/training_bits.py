"""How many codes and outputs differ between a network in training, its exported file, and integer arithmetic.

    python benchmarks/training_bits.py [--assets DIR] [--targets onnxruntime litert integer] [--samples 64] [--steps 8]

A network is prepared for each target, trained a few steps by the loop of `halfeven train`, and run in evaluation on
samples that it has not seen. The same samples go through

    file       the QDQ file that `halfeven.export` writes, in ONNX Runtime told to optimize nothing: floats throughout
    integers   the simulator of ONNX Runtime's integer kernels on this processor, on that file

Compared are the codes of every quantized activation that both have. A code that differs changes those behind it, so
"first" counts, in each sample, only those of the first tensor in which any does, and "alike" the samples without any.
Of the outputs are counted those equal to the bit, and those further apart than 1e-5 of the largest of the sample.
Without assets the network is the shipped one, with them MobileNetV2 too. Nothing is kept.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from distillation import photos
from measure import markdown

import halfeven
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import this_machine
from halfeven.run.ort import OrtExecutor
from halfeven.training.batches import Reader
from halfeven.training.features import features_of
from halfeven.training.loop import Recipe, fit

DEMO = Path(halfeven.__file__).parent / "demo"
HEAD = (
    "network",
    "target",
    "beside",
    "codes",
    "differ",
    "first",
    "samples",
    "alike",
    "outputs",
    "bit-equal",
    "beyond 1e-5",
)
Array: TypeAlias = npt.NDArray[Any]
Codes: TypeAlias = dict[str, Array]


def shipped(known: int, unseen: int) -> tuple[Path, Array, Array]:
    """The shipped network, so many pictures to train with and so many others to judge with."""

    def read(name: str) -> Array:
        with np.load(DEMO / name) as stored:
            return np.asarray((stored["x"][:, None].astype(np.float32) / 255 - 0.2860) / 0.3530, np.float32)

    return DEMO / "fashion_mnist_mbv2.onnx", read("calibration.npz")[:known], read("test.npz")[:unseen]


def reading(name: str, x: Array) -> list[Reader]:
    """A call that reads each sample."""

    def one(i: int) -> Reader:
        return lambda: ({name: x[i : i + 1]}, None)

    return [one(i) for i in range(len(x))]


def quantized(network: Any) -> dict[str, int]:
    """Tensors that are read through a quantizer of activations, and its group."""
    found: dict[str, int] = {}
    made = {name for one in network.program.instructions for name in one.outputs} | {*network.program.inputs}
    for instruction in network.program.instructions:
        for name, group in zip(instruction.inputs, instruction.groups, strict=True):
            if group is not None and name in made:
                found.setdefault(name, group)
    return found


def in_training(network: Any, feeds: Mapping[str, Array]) -> tuple[list[Array], Codes]:
    """The outputs, and the codes of quantized tensors that nodes compute."""
    groups = {name: group for name, group in quantized(network).items() if name not in network.program.inputs}
    features = features_of(network, list(groups))
    with torch.no_grad():
        found = network.outputs_of(features.program, {name: torch.from_numpy(x) for name, x in feeds.items()})
    count, codes = len(network.program.outputs), {}
    for name, values in zip(features.names, found[count:], strict=True):
        params = network.quantizer(groups[name]).to_params()
        scale, zero = (part.ravel()[0] for part in (params.scale, params.zero_point))
        codes[name] = np.rint(values.numpy() / scale).astype(np.int64) + zero
    return [t.numpy() for t in found[:count]], codes


def compared(network: Any, x: Array) -> dict[str, list[object]]:
    """For "file" and "integers": the cells of `HEAD` behind it."""
    name = network.program.inputs[0]
    with tempfile.TemporaryDirectory() as folder:
        halfeven.export(network, Path(folder) / "m.onnx")
        held = load(str(Path(folder) / "m.onnx"))
    machine = IntegerExecutor(lower(held), this_machine())
    rounding = [node for node in reversed(held.graph) if node.op_type == "QuantizeLinear"]
    made = {real.name or "": node.outputs[0].name or "" for node in rounding if (real := node.inputs[0]) is not None}
    watch = tuple(code for code in made.values() if code in machine.tensors)
    run = OrtExecutor(held, watch, optimize=False)
    sides: dict[str, Callable[[Codes], Mapping[str, Any]]] = {
        "file": run,
        "integers": lambda feeds: machine(feeds, watch),
    }
    counts = {side: np.zeros(8, np.int64) for side in sides}
    for one in x:
        feeds = {name: one[None]}
        outputs, codes = in_training(network, feeds)
        for side, call in sides.items():
            there = call(feeds)
            found = [codes[t] != there[made[t]] for t in codes if made.get(t) in watch]  # in order of computation
            differ = [int(part.sum()) for part in found]
            first = next(filter(None, differ), 0)
            counts[side][:5] += sum(part.size for part in found), sum(differ), first, 1, first == 0
            for ours, output in zip(outputs, network.program.outputs, strict=True):
                theirs = there[output]
                far = np.abs(ours - theirs) > 1e-5 * np.abs(ours).max()
                counts[side][5:] += ours.size, int((ours == theirs).sum()), int(far.sum())
    return {side: _row(*(int(n) for n in count)) for side, count in counts.items()}


def _row(*counts: int) -> list[object]:
    *codes, outputs, equal, far = counts
    return [*codes, outputs, f"{equal / outputs:.2%}", f"{far / outputs:.2%}"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, metavar="DIR", help="folder with models/ and data/")
    parser.add_argument("--targets", nargs="+", default=["onnxruntime", "litert", "openvino", "integer"])
    parser.add_argument("--samples", type=int, default=64, help="to judge with (default: 64)")
    parser.add_argument("--steps", type=int, default=8, help="of training, with 8 samples each (default: 8)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # with others sums of gradients, and so the trained network, differ in their last bits
    cases = {"shipped": shipped(64, args.samples)}
    if args.assets:
        unlabelled, labelled, _ = photos(args.assets)
        cases["mobilenet_v2"] = (
            args.assets / "models/mobilenet_v2/model.onnx",
            unlabelled[:64],
            labelled[: args.samples],
        )
    rows = []
    for label, (model, known, unseen) in cases.items():
        for target in args.targets:
            network = halfeven.prepare(model, data=known, target=target)
            fit(network, reading(network.program.inputs[0], known[: 8 * args.steps]), Recipe(epochs=1, batch=8))
            for beside, row in compared(network, unseen).items():
                rows.append((label, target, beside, *row))
                print(rows[-1], flush=True)
    print(markdown(HEAD, rows))


if __name__ == "__main__":
    main()
