"""The end of a detector: boxes in pixels and scores up to 1, joined, must not share a scale.

    Concat behind the last layers, of parts whose sizes in one run are more than 16 times apart    stays float, and so
    NonMaxSuppression, TopK, RoiAlign, ... (`ops.POST_OPS`)                                        does what leads from
                                                                                                   the last layers to it
                                                                                                   and all that follows

A Concat has one scale for all that it joins: of parts 16 times apart the smaller keeps 4 of 8 bits, and boxes up to 640
leave scores none. One that a layer reads is no end: its channels were trained to be read together.
"""

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from halfeven.graph import ops
from halfeven.targets.target import Target

APART = 16.0


def joined_at_the_end(model: ir.Model) -> Iterator[tuple[ir.Node, list[str]]]:
    """Each Concat behind the last layers, with the names of the values that it joins, constants left out."""
    for node in model.graph:
        values = [v.name for v in node.inputs if v is not None and v.name and ops.constant_of(v) is None]
        if node.op_type == "Concat" and len(values) > 1 and not any(map(ops.is_layer, _reached(node, forward=True))):
            yield node, values


def heads(model: ir.Model, sizes: Mapping[str, float]) -> dict[str, str]:
    """The nodes of a model's end that stay float, with the reason; `sizes`: of values, in one run."""
    ends = {
        node: f"post-processing around {node.op_type} '{node.name}': boxes and scores must not share a scale"
        for node in model.graph
        if node.op_type in ops.POST_OPS
    }
    for node, values in joined_at_the_end(model):
        known = [sizes[name] for name in values if sizes.get(name, 0.0) > 0]
        if known and max(known) > APART * min(known):
            ends[node] = (
                f"the end of the network: Concat '{node.name}' joins values of up to {max(known):.3g} and of up to "
                f"{min(known):.3g}, which must not share a scale"
            )
    found: dict[str, str] = {}
    for end, reason in ends.items():
        for forward in (False, True):
            for node in (end, *(n for n in _reached(end, forward=forward) if not ops.is_layer(n))):
                found.setdefault(node.name or "", reason)
    return found


def mixed_joins(model: ir.Model, target: Target) -> dict[str, str]:
    """Operators that join, on one scale, a value whose scale the target fixes with others; they stay float, and why.

    LiteRT gives Sigmoid 1/256: joined with what a layer makes, one of the two could not have its scale.
    """
    found: dict[str, str] = {}
    fixed: dict[ir.Value, tuple[float, int]] = {}
    for node in model.graph:
        rule = target.rule(node.op_type)
        if rule is None:
            continue
        values = [v for v in node.inputs if v is not None and ops.constant_of(v) is None]
        kept = {fixed.get(value) for value in values} if rule.output == "as_input" else {rule.fixed}
        if len(kept) > 1:
            name = next(v.name for v in values if v in fixed)
            found[node.name or ""] = f"'{name}' has the one scale that {target.name} gives it, the other values another"
        elif kept and (scale := kept.pop()) is not None:
            fixed.update(dict.fromkeys(node.outputs, scale))
    return found


def _reached(start: ir.Node, *, forward: bool) -> list[ir.Node]:
    """What follows a node, or leads to it, as far as the next layers, which are included."""
    seen, queue = {start: None}, [start]
    while queue:
        node = queue.pop()
        for near in node.successors() if forward else node.predecessors():
            if near not in seen:
                seen[near] = None
                if not ops.is_layer(near):
                    queue.append(near)
    del seen[start]
    return list(seen)
