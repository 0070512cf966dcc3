"""OpenVINO and ncnn beside the simulators of their arithmetic: the codes that their layers hand on.

OpenVINO    the model as ONNX with the codes as outputs more; the IR gives the outputs. Where the two differ in an
            output, being watched has changed what is computed, and it is said. What a sum of codes reads is not
            watched: the sum then could not become part of the layer before it
ncnn        the int8 blobs of the .param file, by the layers that make them
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch, Draft
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.graph.network import Network
from halfeven.graph.saving import save
from halfeven.report.beside import Beside
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machine import Machine
from halfeven.run.integer.machines import machine_named
from halfeven.run.integer.ncnn import NCNN_X86, NCNN_X86_AMD, this_ncnn
from halfeven.run.integer.openvino import hidden
from halfeven.run.ncnn import open_ncnn
from halfeven.run.openvino import open_openvino
from halfeven.run.processor import INTEL, SAID, family, vendor
from halfeven.run.runtimes import open_file

Data = Sequence[tuple[str, Batch]]
CPU = "openvino@cpu"
CHANGED = "Being watched changes outputs of OpenVINO; the inner codes are those of the network that is watched."
OTHER = (
    "{machine} is measured on {measured}, and this processor does not say that it is one: the approximate reciprocal "
    "of depthwise layers may differ."
)
ZEN_5 = 26
"""The family of AMD's processors whose reciprocals were read out."""


def beside_openvino(
    path: Path, draft: Draft, model: ir.Model, data: Data, threads: int
) -> tuple[Beside, list[Batch], tuple[str, ...]]:
    """The IR at `path`, written of `draft`, beside the machine; its outputs by `model`'s names, and what is to say."""
    quantized = to_qdq(draft)
    name_everything(quantized)
    network = lower(quantized)
    watch = tuple(name for name in _made(network) if name not in hidden(network))
    save(quantized, path.with_suffix(".onnx"))
    machine = IntegerExecutor(network, machine_named(CPU), threads)
    beside = Beside("openvino", CPU, machine.machine.evidence, inner=True)
    run, watched = open_file(path, model), open_openvino(path.with_suffix(".onnx"), watch=watch)
    outputs: list[Batch] = []
    alike = True
    for label, feeds in data:
        outputs.append(run(feeds, label))
        theirs, ours = watched(feeds, label), machine(feeds, watch)
        _count(beside, network, label, ours, {name: theirs[name] for name in watch})
        alike &= all(np.array_equal(outputs[-1][t.name], theirs[t.name], equal_nan=True) for t in network.outputs)
    return beside, outputs, () if alike else (CHANGED,)


def beside_ncnn(path: Path, draft: Draft, model: ir.Model, data: Data, threads: int) -> tuple[Beside, list[Batch]]:
    """The .param file at `path`, written of `draft`, beside the machine of this processor; its outputs."""
    quantized = to_qdq(draft)
    name_everything(quantized)
    network = lower(quantized)
    machine = IntegerExecutor(network, this_ncnn(), threads)
    beside = Beside(
        "ncnn", machine.machine.name, machine.machine.evidence, inner=True, notes=unmeasured(machine.machine)
    )
    run, held = open_file(path, model), open_ncnn(path)
    outputs = []
    for label, feeds in data:
        outputs.append(run(feeds, label))
        blobs = held.codes(run.fed(feeds), label)
        found = {name: blobs[layer] for name in _made(network) if (layer := _layer_of(network, name, blobs))}
        _count(beside, network, label, machine(feeds, list(found)), found)
    return beside, outputs


def unmeasured(machine: Machine, said: Path = SAID) -> tuple[str, ...]:
    """What is to say where a machine of x86-64 is not that of a processor on which it was measured."""
    if machine is NCNN_X86 and vendor(said) != INTEL:
        return (OTHER.format(machine=machine.name, measured="processors of Intel"),)
    if machine is NCNN_X86_AMD and family(said) != ZEN_5:
        return (OTHER.format(machine=machine.name, measured=f"AMD's processors of family {ZEN_5} (Zen 5)"),)
    return ()


def _made(network: Network) -> list[str]:
    """The codes that a network computes, in order."""
    return [t.name for op in network.ops for t in op.outputs if t.coded and t.name]


def _layer_of(network: Network, name: str, blobs: Batch) -> str:
    """The layer of ncnn that makes a tensor's codes: a Quantize of its name, or the operator itself; none: ''."""
    maker = network.maker(name)
    candidates = [name] if maker is None else [name, maker.name]
    return next((title for title in candidates if title in blobs), "")


def _count(beside: Beside, network: Network, label: str, ours: Batch, theirs: Batch) -> None:
    for name, codes in theirs.items():
        simulated, maker = np.asarray(ours[name]), network.maker(name)
        if codes.size == simulated.size:
            title = name if maker is None else maker.name
            beside.add(name, title, label, simulated, codes.reshape(simulated.shape))  # type: ignore[arg-type]
