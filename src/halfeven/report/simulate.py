"""Simulate: the integers that a machine will compute, and where two machines part.

A `Simulation` has the outputs of each sample; if there is a second machine, of each coded tensor how many codes differ
and by how many steps at most, in the order of computation; and the layers in which some pair of products can leave 16
bits (`paired_layers`): `saturating` where one of the machines is x86 without VNNI, `wrapping` where it is ONNX Runtime
on Arm64. Each is found in the network that this machine runs, where int8 codes may have become uint8.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from halfeven.draft import Batch, Samples
from halfeven.errors import BadOption
from halfeven.report.paired_layers import float_operator, layer_of, saturating_layers, wrapping_layers
from halfeven.report.sides import Side, Source, in_order, pairs, sides
from halfeven.wording import counted, share

AVX2, ARM64 = "onnxruntime@x86-avx2", "onnxruntime@arm64"


@dataclass
class Divergence:
    """Codes of one tensor: how many were compared, how many differ, by how many steps at most; who made it."""

    tensor: str
    layer: str
    compared: int = 0
    differing: int = 0
    step: int = 0

    @property
    def rate(self) -> float:
        """The share that differs."""
        return self.differing / max(self.compared, 1)


@dataclass
class Simulation:
    """What a machine computes. `tensors`: by name, in order, empty without a second machine.

    `saturating_on`: which of the two machines, both if they are one. `operators`: of each saturating layer the operator
    in the float network, empty where a file does not tell.
    """

    profile: str
    against: str
    evidence: str
    outputs: list[Batch] = field(default_factory=list)
    tensors: dict[str, Divergence] = field(default_factory=dict)
    saturating: Mapping[str, int] = field(default_factory=dict)
    wrapping: Mapping[str, int] = field(default_factory=dict)
    saturating_on: tuple[str, ...] = ()
    operators: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[int, int] = (0, 0)
    """Of the network's operators from codes to codes: those that an integer kernel of the machine computes, and all."""

    @property
    def without_vnni(self) -> list[str]:
        """Which of the two machines are x86 without VNNI."""
        return [name for name in (self.profile, self.against) if name.startswith(AVX2)]

    @property
    def first(self) -> Divergence | None:
        """The first tensor that differs."""
        return next((d for d in self.tensors.values() if d.differing), None)

    @property
    def sentence(self) -> str:
        """What was found, in one."""
        if not self.against:
            return f"{self.profile}: {counted(len(self.outputs), 'sample')} computed."
        if not sum(d.compared for d in self.tensors.values()):
            return f"{self.profile} and {self.against}: no quantized tensor is in both; nothing was compared."
        if self.first is None:
            return f"{self.profile} and {self.against} compute the same integers."
        parted = sum(d.differing > 0 for d in self.tensors.values())
        all_of_them = counted(len(self.tensors), "quantized tensor")
        codes = share(self.first.differing, self.first.compared)
        return (
            f"{self.profile} and {self.against} part first at '{self.first.layer}' ({codes} of its codes, by "
            f"{self.first.step} at most); {parted} of {all_of_them} differ."
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not compared."""
        return tuple(
            f"the codes of '{d.tensor}' were not compared: the two machines give them in different shapes"
            for d in self.tensors.values()
            if self.outputs and not d.compared
        )


def simulate(model: Source, data: Samples, profile: str, against: str = "", threads: int = 0) -> Simulation:
    """Run a quantized `model` on `data`, pairs of a label and a feed, as `profile` does.

    `model` is ONNX with QuantizeLinear and DequantizeLinear or with ONNX's operators on codes, or a .tflite file. A
    machine of LiteRT or TFLite Micro runs what a .tflite file of the model holds (`sides`).

    Raises:
        BadOption: there is no such profile, no sample, or what writes a .tflite file is not installed.
        UnsupportedModel: the model cannot be read, holds no codes, or holds others than the machine's.
        UnsupportedByTarget: the model cannot be written as a .tflite file.
    """
    samples = list(data)
    if not samples:
        raise BadOption("There are no samples to simulate with: pairs of a label and a feed were expected, found none.")
    held = sides(model, [profile, *([against] if against else [])], samples[:1], threads)
    own = held[0]
    found = Simulation(profile, against, own.executor.machine.evidence, layers=_layers(own))
    networks = {side.executor.machine.name: side.network for side in held}
    for name in found.without_vnni:
        if layers := saturating_layers(networks[name]):
            found.saturating = {**found.saturating, **layers}
            found.saturating_on += (name,)
            named = {layer_of(op): op for op in networks[name].ops}
            found.operators = {
                layer: "" if own.of_file else float_operator(named[layer])
                for layer in found.saturating
                if layer in named
            }
    if ARM64 in networks:
        found.wrapping = wrapping_layers(networks[ARM64])
    common = pairs(own, held[1]) if against else {}
    for name in common:
        maker = own.network.maker(name)
        found.tensors[name] = Divergence(name, name if maker is None else maker.name)
    for _, feeds in samples:
        outputs, ours = own(feeds, list(common))
        found.outputs.append(outputs)
        if against:
            _compare(found, held, common, ours, held[1](feeds, list(common.values()))[1])
    return found


def _layers(side: Side) -> tuple[int, int]:
    known = {id(op) for op in side.executor.integer_ops}
    integer = [op for op in side.network.ops if op.integer]
    return sum(id(op) in known for op in integer), len(integer)


def _compare(found: Simulation, held: list[Side], common: Mapping[str, str], ours: Batch, theirs: Batch) -> None:
    """Count what differs in one sample."""
    for name, other in common.items():
        mine = held[0].offsets(name, ours[name])
        seen, turned = found.tensors[name], in_order(mine, held[1].offsets(other, theirs[other]))
        if turned is None:
            continue
        gap = np.abs(mine - turned)
        seen.compared += gap.size
        seen.differing += int((gap > 0).sum())
        seen.step = max(seen.step, int(gap.max(initial=0)))
