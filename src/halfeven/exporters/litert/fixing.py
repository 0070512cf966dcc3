"""A draft as a network whose shapes are settled, as LiteRT's kernels are prepared before any data is seen.

Symbolic axes get the lengths of the sample that the draft was traced with. The first axis, the batch, may stay open:
the network is made once for a batch of 1 and once for 2, and where both have the same operators and constants, and
shapes that differ in one axis at most, that axis is open. Shapes of constants (the target of a Reshape) may differ, as
the writer derives them from the values' shapes.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.onnx import to_qdq
from halfeven.graph import ops
from halfeven.graph.constants import fold_constants
from halfeven.graph.lower import lower
from halfeven.graph.network import Network, Op
from halfeven.graph.plan import Plan
from halfeven.graph.shapes import infer_shapes

SHAPED = {"Reshape": (1,), "Expand": (1,)}


def fixed(draft: Draft, batch: int | None) -> Network:
    """The network of a draft with all shapes settled; `batch` None: as in the traced sample.

    Raises:
        UnsupportedByTarget: an input's shape is not known.
    """
    model = draft.model.clone()
    for value in model.graph.inputs:
        value.shape = ir.Shape(_sizes(value, draft, batch))
    for value in model.graph.outputs:
        if value.producer() is not None:
            value.shape = None
    fold_constants(model)
    infer_shapes(model)
    nodes = {node.name for node in model.graph}
    values = {v.name for v in model.graph.inputs} | {v.name for node in model.graph for v in node.outputs}
    values |= set(model.graph.initializers)
    sites = {s: g for s, g in draft.plan.sites.items() if s.value in values and (not s.consumer or s.consumer in nodes)}
    return lower(to_qdq(replace(draft, model=model, plan=replace(draft.plan, sites=sites))))


def _sizes(value: ir.Value, draft: Draft, batch: int | None) -> list[int]:
    traced = draft.shapes.get(value.name or "")
    declared = None if value.shape is None else list(value.shape)
    if declared is None and traced is None:
        raise UnsupportedByTarget(f"Input '{value.name}' has no known shape; trace the model on a sample first.")
    found: list[int] = []
    for axis, dim in enumerate(declared if declared is not None else traced or ()):
        if isinstance(dim, int):
            found.append(dim)
        elif axis == 0 and batch is not None and _batch_name(draft) in (None, str(dim)):
            found.append(batch)
        elif traced is not None:
            found.append(traced[axis])
        else:
            raise UnsupportedByTarget(
                f"Axis {axis} of input '{value.name}' is open; trace the model on a sample first."
            )
    return found


def _batch_name(draft: Draft) -> str | None:
    """The name of the first open first axis."""
    for value in draft.model.graph.inputs:
        if value.shape is not None and len(value.shape) and not isinstance(value.shape[0], int):
            return str(value.shape[0])
    return None


def has_batch(draft: Draft) -> bool:
    """Whether an input's first axis is open."""
    return any(
        v.shape is not None and len(v.shape) and not isinstance(v.shape[0], int) for v in draft.model.graph.inputs
    )


def open_axes(one: Network, two: Network) -> Mapping[str, int] | None:
    """Of each value, the axis that grows with the batch; None where the network is made for one batch only."""
    if [op.name for op in one.ops] != [op.name for op in two.ops]:
        return None
    found: dict[str, int] = {}
    pairs = list(zip(one.inputs, two.inputs, strict=True))
    for a, b in zip(one.ops, two.ops, strict=True):
        if not _same_constants(a, b):
            return None
        pairs += zip(a.outputs, b.outputs, strict=True)
    for small, large in pairs:
        shapes = small.shape, large.shape
        if None in shapes or len(small.shape or ()) != len(large.shape or ()):
            return None
        grown = [i for i, (m, n) in enumerate(zip(small.shape or (), large.shape or (), strict=True)) if m != n]
        if not grown:
            continue
        if len(grown) > 1 or (small.shape or ())[grown[0]] != 1 or (large.shape or ())[grown[0]] != 2:
            return None
        found[small.name] = grown[0]
    return found or None


def _same_constants(a: Op, b: Op) -> bool:
    """Whether small integer constants are equal, but for the shapes that a Reshape is given."""
    for port, (x, y) in enumerate(zip(a.inputs, b.inputs, strict=True)):
        if x is None or x.constant is None or x.coded or x.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            continue
        if port in SHAPED.get(a.kind, ()):
            continue
        if y is None or y.constant is None or not np.array_equal(x.constant.numpy(), y.constant.numpy()):
            return False
    return True


def without_plan(draft: Draft) -> Draft:
    """The draft with everything in real numbers."""
    return replace(draft, plan=Plan())


def weights_only(draft: Draft) -> Draft:
    """The draft with the weights of its layers in codes, and all else in real numbers."""
    ports = {node.name: _weight_ports(node) for node in draft.model.graph if node.op_type != "Gather"}
    keep = {site: group for site, group in draft.plan.sites.items() if site.port in ports.get(site.consumer, ())}
    groups = {group: draft.plan.groups[group] for group in set(keep.values())}
    return replace(draft, plan=replace(draft.plan, sites=keep, groups=groups))


def _weight_ports(node: ir.Node) -> tuple[int, ...]:
    """The ports of a layer that hold its weights; a recurrent one has those of inputs and of states."""
    if node.op_type in ops.RECURRENT_OPS:
        return (1, 2)
    port = ops.weight_port(node)
    return () if port is None else (port,)
