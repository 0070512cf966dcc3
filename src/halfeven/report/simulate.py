"""Simulate: the integers that a machine will compute, and where two machines part.

A `Simulation` has the outputs of each sample; if there is a second machine, of each coded tensor how many codes differ
and by how many steps at most, in the order of computation; and the layers of uint8 times int8 in which some pair of
products can leave 16 bits on x86 without VNNI, by exact bounds over the input's codes: those need 7-bit weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch, Samples
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.graph.names import name_everything
from halfeven.graph.network import Network, Op
from halfeven.numerics.grid import INT8, INT8_NARROW, UINT8
from halfeven.numerics.overflow import pair_ranges
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machine import constant_codes
from halfeven.run.integer.machines import machine_named
from halfeven.wording import counted

Source = str | PathLike[str] | ir.Model


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

    @property
    def first(self) -> Divergence | None:
        """The first tensor that differs."""
        return next((d for d in self.tensors.values() if d.differing), None)

    @property
    def sentence(self) -> str:
        """What was found, in one."""
        if not self.against:
            return f"{self.profile}: {counted(len(self.outputs), 'sample')} computed."
        if self.first is None:
            return f"{self.profile} and {self.against} compute the same integers."
        parted = sum(d.differing > 0 for d in self.tensors.values())
        all_of_them = counted(len(self.tensors), "quantized tensor")
        return (
            f"{self.profile} and {self.against} part first at '{self.first.layer}' ({self.first.rate:.2%} of its "
            f"codes, by {self.first.step} at most); {parted} of {all_of_them} differ."
        )


def simulate(model: Source, data: Samples, profile: str, against: str = "", threads: int = 0) -> Simulation:
    """Run a quantized `model` (QDQ or ONNX's operators on codes) on `data`, pairs of a label and a feed.

    Raises:
        BadOption: there is no such profile.
        UnsupportedModel: the model cannot be read.
    """
    machine = machine_named(profile)
    held = load(str(model) if isinstance(model, PathLike) else model).clone()
    name_everything(held)
    network = lower(held)
    runs = [IntegerExecutor(network, machine, threads)]
    if against:
        runs.append(IntegerExecutor(network, machine_named(against), threads))
    made = [(t.name, op.name) for op in network.ops for t in op.outputs if t.coded and t.name]
    watch = [name for name, _ in made] if against else []
    found = Simulation(profile, against, machine.evidence, saturating=saturating_layers(network))
    found.tensors = {name: Divergence(name, layer) for name, layer in made} if against else {}
    for _, feeds in data:
        values = [run(feeds, watch) for run in runs]
        found.outputs.append({t.name: values[0][t.name] for t in network.outputs})
        for name, seen in found.tensors.items():
            gap = np.abs(values[0][name].astype(np.int64) - values[1][name].astype(np.int64))
            seen.compared += gap.size
            seen.differing += int((gap > 0).sum())
            seen.step = max(seen.step, int(gap.max(initial=0)))
    return found


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
