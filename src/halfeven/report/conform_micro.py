"""TensorFlow Lite Micro beside the simulator of its kernels.

It shows its outputs alone. Where an output is what a DEQUANTIZE made of codes, they are found again, half to even, from
the real numbers: neighbours lie a whole scale apart, so none is mistaken. Other real outputs are compared as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.graph.network import Network, Tensor
from halfeven.importers.litert.reader import load_tflite
from halfeven.numerics.quantize import quantize
from halfeven.report.beside import Beside, Effect
from halfeven.report.sides import Ported
from halfeven.run.integer.borders import ranked
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.litert import Port
from halfeven.run.runtimes import RUNTIMES, Fitted
from halfeven.run.tflite_micro import MicroExecutor, open_tflite_micro

MICRO = "tflite-micro"


@dataclass(frozen=True, eq=False)
class Numbered:
    """Micro, whose inputs and outputs have numbers, under the names that the file gives them."""

    run: MicroExecutor
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def __call__(self, feeds: Batch) -> Batch:
        """Run once."""
        found = self.run(*(feeds[port.name] for port in self.inputs), outputs=len(self.outputs))
        return {port.name: array for port, array in zip(self.outputs, found, strict=True)}


def beside_micro(
    path: Path, model: ir.Model, data: Sequence[tuple[str, Batch]], threads: int
) -> tuple[Beside, list[Batch]]:
    """The .tflite file at `path` in Micro beside the machine; its outputs by `model`'s names."""
    read = load_tflite(path).model
    name_everything(read)
    network = lower(read)
    machine = machine_named(MICRO)
    beside = Beside(MICRO, MICRO, machine.evidence, inner=False)
    ported = Ported(IntegerExecutor(network, machine, threads), (), {})
    micro = Numbered(open_tflite_micro(path), ported.inputs, ported.outputs)
    names = [tuple(v.name or "" for v in values) for values in (model.graph.inputs, model.graph.outputs)]
    takes = tuple(name for name in names[0] if name not in model.graph.initializers)
    run, coded = Fitted(micro, RUNTIMES[".tflite"], takes, names[1]), _coded(network)
    outputs, real = [], Effect()
    for label, feeds in data:
        fed = run.fed(feeds)
        ours, theirs = ported(fed), micro(fed)
        for name, tensor in coded.items():
            beside.add(name, name, label, *(_codes(found[name], tensor) for found in (ours, theirs)))
        real.add(ours, theirs, None)
        outputs.append(dict(zip(names[1], run(feeds).values(), strict=True)))
    if not coded and real.fidelity is not None:
        db = real.fidelity.sqnr_db
        beside.notes = (f"its outputs, real numbers, are {_alike(db)} those of the machine",)
    return beside, outputs


def _alike(db: float) -> str:
    return "equal to" if db == float("inf") else f"at {db:.1f} dB beside"


def _coded(network: Network) -> dict[str, Tensor]:
    """The outputs that are codes, or were, with the tensor that says how they are meant."""
    found = {}
    for tensor in network.outputs:
        maker = network.maker(tensor.name)
        source = maker.inputs[0] if maker is not None and maker.kind == "DequantizeLinear" else tensor
        if source is not None and source.params is not None:
            found[tensor.name] = source
    return found


def _codes(found: np.ndarray, tensor: Tensor) -> np.ndarray:
    assert tensor.params is not None
    if found.dtype.kind != "f":
        return found
    return np.asarray(quantize(found.astype(np.float32), ranked(tensor.params, found.ndim)))
