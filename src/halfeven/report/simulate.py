"""Simulate: the integers that a machine will compute, and where two machines part.

A `Simulation` has the outputs of each sample; if there is a second machine, of each coded tensor how many codes differ
and by how many steps at most, in the order of computation; and the layers in which some pair of products can leave 16
bits: on x86 without VNNI those of uint8 times int8, by exact bounds over the input's codes, which need 7-bit weights;
in ONNX Runtime on Arm64 depthwise ones with two weights of -128, which need a narrow range.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from halfeven.draft import Batch, Samples
from halfeven.graph.network import Network, Op
from halfeven.numerics.grid import INT8, INT8_NARROW, UINT8
from halfeven.numerics.overflow import pair_ranges
from halfeven.numerics.product_pairs import overflowing
from halfeven.report.sides import Side, Source, in_order, pairs, sides
from halfeven.run.integer.machine import constant_codes
from halfeven.wording import counted


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
    """What a machine computes. `tensors`: by name, in order, empty without a second machine."""

    profile: str
    against: str
    evidence: str
    outputs: list[Batch] = field(default_factory=list)
    tensors: dict[str, Divergence] = field(default_factory=dict)
    saturating: Mapping[str, int] = field(default_factory=dict)
    wrapping: Mapping[str, int] = field(default_factory=dict)

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
        return (
            f"{self.profile} and {self.against} part first at '{self.first.layer}' ({self.first.rate:.2%} of its "
            f"codes, by {self.first.step} at most); {parted} of {all_of_them} differ."
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
        BadOption: there is no such profile, or what writes a .tflite file is not installed.
        UnsupportedModel: the model cannot be read, holds no codes, or holds others than the machine's.
        UnsupportedByTarget: the model cannot be written as a .tflite file.
    """
    samples = list(data)
    held = sides(model, [profile, *([against] if against else [])], samples[:1], threads)
    own = held[0]
    found = Simulation(profile, against, own.executor.machine.evidence)
    found.saturating, found.wrapping = saturating_layers(own.network), wrapping_layers(own.network)
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


def saturating_layers(network: Network) -> dict[str, int]:
    """Of each layer of uint8 times constant int8: how many pairs can saturate, where there are any."""
    return {op.name: count for op in network.ops if (count := _pairs(op))}


def _pairs(op: Op) -> int:
    if op.kind not in ("Conv", "MatMul", "Gemm") or len(op.inputs) < 2:
        return 0
    data, weight = op.inputs[:2]
    if data is None or data.params is None or weight is None or weight.params is None or weight.data is None:
        return 0
    if data.params.scheme.grid != UINT8 or weight.params.scheme.grid not in (INT8, INT8_NARROW):
        return 0
    codes = constant_codes(weight)
    if op.kind == "Conv":
        if 1 < len(codes) == op.attributes.get("group", 1) and codes.shape[1] == 1:
            return 0  # depthwise kernels do not add in 16 bits
        return sum(r.saturating_pairs for r in pair_ranges(np.moveaxis(codes, 1, -1)))
    rows = codes if op.kind == "Gemm" and op.attributes.get("transB", 0) else np.moveaxis(codes, -1, 0)
    return sum(r.saturating_pairs for r in pair_ranges(np.ascontiguousarray(rows)))


def wrapping_layers(network: Network) -> dict[str, int]:
    """Of each depthwise layer of constant int8: how many pairs of weights are both -128 (`product_pairs`), if any."""
    return {op.name: count for op in network.ops if (count := _lowest_pairs(op))}


def _lowest_pairs(op: Op) -> int:
    weight = op.inputs[1] if op.kind == "Conv" and len(op.inputs) > 1 else None
    if weight is None or weight.data is None or weight.params is None or weight.params.scheme.grid != INT8:
        return 0
    codes = constant_codes(weight)
    if not 1 < len(codes) == op.attributes.get("group", 1) or codes.shape[1] != 1 or weight.params.zero_point.any():
        return 0
    return sum(channels.size for channels in overflowing(codes).values())
