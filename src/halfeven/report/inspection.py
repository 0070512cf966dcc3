"""Inspection: what will be quantized, what stays float and why, and how large the result will be."""

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from halfeven.draft import Draft
from halfeven.graph import ops
from halfeven.graph.bits import stored_grid
from halfeven.steps.regions import ESTIMATED


@dataclass(frozen=True)
class Inspection:
    """A placed draft, counted. Sizes are of the weights, in bytes."""

    target: str
    layers: tuple[int, int]
    nodes: tuple[int, int]
    weights: tuple[int, int]
    floats: dict[str, tuple[str, str]]
    groups: list[tuple[str, str, int]]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "target": self.target,
            "layers": {"quantized": self.layers[0], "all": self.layers[1]},
            "nodes": {"quantized": self.nodes[0], "all": self.nodes[1]},
            "weight_bytes": {"float": self.weights[0], "quantized": self.weights[1]},
            "floats": [{"node": n, "op": op, "reason": why} for n, (op, why) in self.floats.items()],
            "tensors": [{"tensor": t, "scheme": s, "group": g} for t, s, g in self.groups],
            "notes": list(self.notes),
        }

    def reasons(self) -> list[tuple[int, str, str]]:
        """How many float nodes there are for each reason, and the first few of them, most first.

        Nodes that stay float for want of a kernel for their operator are one reason, with all those operators.
        """
        counts: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        operators: dict[str, Counter[str]] = {}
        for name, (op, why) in self.floats.items():
            kind = why
            if why.startswith("does not pay"):
                kind = ESTIMATED if why.startswith(ESTIMATED) else "does not pay"
            elif why.endswith(f" for {op}"):
                kind = why.removesuffix(op)
                operators.setdefault(kind, Counter())[op] += 1
            counts[kind] += 1
            examples.setdefault(kind, []).append(f"{op} '{name}'")
        return [
            (
                n,
                why + ", ".join(op for op, _ in operators.get(why, Counter()).most_common()),
                ", ".join(examples[why][:2]),
            )
            for why, n in counts.most_common()
        ]


def inspect_draft(draft: Draft) -> Inspection:
    """Count a draft that has a plan."""
    plan, nodes = draft.plan, list(draft.model.graph)
    layers = [n for n in nodes if n.op_type in ops.COMPUTE_OPS | ops.RECURRENT_OPS]
    done = [n for n in layers if (n.name or "") not in plan.floats]
    before = sum(t.nbytes for v in draft.model.graph.initializers.values() if (t := v.const_value) is not None)
    saved = 0
    for value in {s.value for s, g in plan.sites.items() if plan.groups[g].role == "weight"}:
        tensor = draft.model.graph.initializers[value].const_value
        group = next(g for s, g in plan.sites.items() if s.value == value)
        if tensor is not None:
            saved += tensor.nbytes - prod(ops.dims_of(tensor)) * stored_grid(plan.groups[group].scheme.grid).bits // 8
    by_name = {n.name or "": n.op_type for n in draft.model.graph.all_nodes()}
    floats = {name: (by_name.get(name, ""), why) for name, why in plan.floats.items()}
    groups = [(str(s), str(plan.groups[g].scheme), g) for s, g in sorted(plan.sites.items())]
    return Inspection(
        draft.target.name,
        (len(done), len(layers)),
        (len(by_name) - len(floats), len(by_name)),
        (before, before - saved),
        floats,
        groups,
        draft.notes,
    )
