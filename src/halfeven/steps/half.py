"""Half: what stays float is computed in float16 or bfloat16, where that loses little.

    stays in float32                                      why
    what the plan quantizes                               its scales and sums are not halved
    the operators of `PINNED`                             the table says why, of each
    a reduction of more than 1024 numbers                 a sum of as many loses what a 16-bit number holds
    a node that reads or makes numbers above              on the data; float16 ends at 65504 (bfloat16 does not)
    65504 / headroom
    a node with a weight that float16 cannot hold         beyond 65504, or so small that 16 bits lose more than 2**-10
                                                          of its norm (numbers below 2**-25 become 0)
    what `keep_fp32` names                                the user's choice

The result computes in both precisions, with a Cast at each border. On a CPU, ONNX Runtime computes float16 in float32
between casts: the file is half as large, the network not faster; GPUs and NPUs are what it is for. ONNX Runtime's CPU
provider has no kernels for bfloat16 at all.

Source of the table's choice: PyTorch, "Automatic Mixed Precision: ops that autocast to float32", extended by ONNX's
operators for indices and boxes. The crash: microsoft/onnxruntime issue 28392, seen here with 1.31.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from halfeven.draft import Draft, Progress, Samples
from halfeven.errors import BadOption
from halfeven.graph import ops
from halfeven.graph.half import KINDS, WORDS, half_ports, halvable, halved, to_half
from halfeven.graph.plan import Plan
from halfeven.run.ort import OrtExecutor
from halfeven.steps.patterns import named
from halfeven.wording import counted

LARGEST = 65504.0
LOSS = 2.0**-10
LONG = 1024
SUMS = "a sum of squares or exponentials, which leaves float16's range early"
STEEP = "small differences of what it reads become large ones"
ORDER = "orders numbers or makes indices, which ties and rounding change"
PLACES = "coordinates and positions need more than 11 bits"
PINNED: Mapping[str, str] = {
    **dict.fromkeys(
        ("Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization"), SUMS
    ),
    **dict.fromkeys(("RMSNormalization", "MeanVarianceNormalization", "LpNormalization", "LRN"), SUMS),
    **dict.fromkeys(("ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "ReduceLogSum", "ReduceProd"), SUMS),
    **dict.fromkeys(("Exp", "Log", "Pow", "Reciprocal", "Softplus", "Tan", "Acos", "Asin", "Cosh", "Sinh"), STEEP),
    **dict.fromkeys(("Range", "CumSum", "GridSample", "AffineGrid", "RoiAlign", "MaxRoiPool"), PLACES),
    **dict.fromkeys(("NonMaxSuppression", "TopK", "ArgMax", "ArgMin", "Unique"), ORDER),
}
"""Operators that stay in float32, with the reason."""
REDUCTIONS = frozenset({"ReduceSum", "ReduceMean", "ReduceL1", "GlobalAveragePool", "GlobalLpPool"})


@dataclass(frozen=True)
class Half:
    """Compute what stays float in 16 bits."""

    name: ClassVar[str] = "half"
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """The type of what is not quantized: fp32, fp16 (float16) or bf16 (bfloat16)."""
    keep_fp32: tuple[str, ...] = ()
    """Nodes that stay in float32: glob patterns on node names or operator types."""
    headroom: float = 2.0
    """fp16: how many times what the samples showed a number may become before it overflows."""
    samples: int = 16
    """fp16: how many samples are watched for overflow."""
    interface: Literal["fp32", "same"] = "fp32"
    """The type of float inputs and outputs: fp32, or the same as inside."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with a model of two precisions.

        Raises:
            BadOption: an unknown type, or a pattern of `keep_fp32` that fits no node.
        """
        if self.dtype == "fp32":
            return draft
        if self.dtype not in KINDS:
            raise BadOption(f"--float-dtype '{self.dtype}' is not known. Choose fp32, {' or '.join(KINDS)}.")
        kind = KINDS[self.dtype]
        pins = {**self._pins(draft, kind), **_kept(draft.model, self.keep_fp32)}
        open_nodes = [n for n in draft.model.graph if n.name not in pins and halvable(n, kind)]
        if kind is KINDS["fp16"]:
            pins.update(_overflows(draft, open_nodes, self, data, progress))
        chosen = {node.name or "" for node in open_nodes if node.name not in pins}
        model, count = to_half(draft.model, kind, chosen, interface=self.interface == "same")
        plan = _renamed(draft.plan, draft.model, model) if self.interface == "same" else draft.plan
        return replace(draft, model=model, plan=plan).noting(*_notes(draft.model, kind, count, pins))

    def _pins(self, draft: Draft, kind: ir.DataType) -> dict[str, str]:
        """Nodes that stay in float32 whatever the data are, with the reason; what is quantized without one."""
        found: dict[str, str] = {}
        for node in draft.model.graph:
            name = node.name or ""
            if draft.plan.groups and name not in draft.plan.floats:
                found[name] = ""
            elif node.op_type in PINNED:
                found[name] = PINNED[node.op_type]
            elif node.op_type in REDUCTIONS and (length := _reduced(node, draft.shapes)) > LONG:
                found[name] = f"it adds up {length} numbers"
            elif kind is KINDS["fp16"] and _crashes(node):
                found[name] = "ONNX Runtime 1.24 to 1.31 on x86-64 cannot load a float16 Transpose before a MatMul"
            elif kind is KINDS["fp16"] and (reason := _unfit(node)):
                found[name] = reason
        return found


def _renamed(plan: Plan, before: ir.Model, after: ir.Model) -> Plan:
    """The plan for a model whose 16-bit inputs and outputs have taken the names of what is quantized beside them."""
    nodes = {node.name: node for node in after.graph}
    makers = {v.name: (node.name, i) for node in before.graph for i, v in enumerate(node.outputs)}
    sites = {}
    for site, group in plan.sites.items():
        value = nodes[site.consumer].inputs[site.port] if site.consumer in nodes else None
        if value is None and site.value in makers:
            name, port = makers[site.value]
            value = nodes[name].outputs[port]
        sites[replace(site, value=value.name or "") if value is not None else site] = group
    return replace(plan, sites=sites)


def _reduced(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many numbers a reduction adds up; many where it is not known."""
    before = shapes.get(node.inputs[0].name or "") if node.inputs[0] is not None else None
    after = shapes.get(node.outputs[0].name or "")
    if before is None or after is None:
        return LONG + 1
    return prod(before) // max(prod(after), 1)


def _crashes(node: ir.Node) -> bool:
    """Whether ONNX Runtime's layout pass may crash on it: a Transpose of three axes that a MatMul reads."""
    shape = node.outputs[0].shape
    if node.op_type != "Transpose" or (shape is not None and len(shape) != 3):
        return False
    return any(use.node.op_type == "MatMul" for use in node.outputs[0].uses())


def _unfit(node: ir.Node) -> str:
    """Why the constants of a node do not fit in float16; empty if they do."""
    for port in half_ports(node, KINDS["fp16"]):
        tensor, value = ops.constant_of(node.inputs[port]), node.inputs[port]
        if tensor is None or value is None or tensor.size == 0:
            continue
        x = tensor.numpy().astype(np.float32)
        found, finite = halved(x, KINDS["fp16"]).astype(np.float32), np.isfinite(x)
        most = float(np.max(np.abs(x[finite]), initial=0.0))
        if most > LARGEST:
            return f"its constant '{value.name}' reaches {most:.3g}, above float16's {LARGEST:g}"
        lost = int(((found == 0) & (x != 0)).sum())
        error, norm = (
            float(np.linalg.norm(v[finite].astype(np.float64))) for v in (found - np.where(finite, x, found), x)
        )
        if error > LOSS * norm:
            return f"its constant '{value.name}' is too small for float16: {lost} of {x.size} numbers would become 0"
    return ""


def _kept(model: ir.Model, patterns: Sequence[str]) -> dict[str, str]:
    found = named(model.graph, patterns, "--keep-fp32")
    return {name: f"kept in float32 by --keep-fp32 '{pattern}'" for name, pattern in found.items()}


def _overflows(
    draft: Draft, nodes: Sequence[ir.Node], options: Half, data: Samples, progress: Progress
) -> dict[str, str]:
    """Of `nodes`, those that read or make numbers too large for float16 on the data."""
    floats = {v.name or "" for n in nodes for v in (*n.inputs, *n.outputs)
              if v is not None and v.dtype is ir.DataType.FLOAT and ops.constant_of(v) is None}  # fmt: skip
    fed = {v.name or "" for v in draft.model.graph.inputs}
    run = OrtExecutor(draft.model, tuple(sorted(floats - fed)), optimize=False)
    most: dict[str, float] = {}
    for i, (label, feeds) in enumerate(islice(data, options.samples)):
        for name, x in {**feeds, **run(feeds, label)}.items():
            if name in floats and isinstance(x, np.ndarray) and x.size:
                size = float(np.max(np.abs(np.where(np.isfinite(x), x, 0))))
                most[name] = max(most.get(name, 0.0), size)
        progress("look for overflow", i + 1, options.samples)
    limit = LARGEST / options.headroom
    found: dict[str, str] = {}
    for node in nodes:
        for value in (*node.inputs, *node.outputs):
            if value is not None and (size := most.get(value.name or "", 0.0)) > limit:
                found[node.name or ""] = f"'{value.name}' reaches {size:.3g}; float16 ends at {LARGEST:g}"
    return found


def _notes(model: ir.Model, kind: ir.DataType, count: int, pins: Mapping[str, str]) -> list[str]:
    """How many nodes are in 16 bits, and which stay in float32 for which reason."""
    by_reason: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        if reason := pins.get(node.name or ""):
            by_reason.setdefault(reason, []).append(node)
    notes = [f"{counted(count, 'node')} compute in {WORDS[kind]}"]
    for reason, nodes in by_reason.items():
        first = f"{nodes[0].op_type} '{nodes[0].name}'"
        which = first if len(nodes) == 1 else f"{counted(len(nodes), 'node')}, the first being {first},"
        notes.append(f"{which} in float32: {reason}")
    if kind is KINDS["bf16"]:
        notes.append("ONNX Runtime's CPU provider has no bfloat16 kernels: run the file where there are")
    return notes
