"""What tensors hold, concluded from the BatchNormalization that was folded: distributions and means without data.

    value                               distribution of channel c                        mean of channel c
    behind a BatchNormalization         N(beta_c, gamma_c^2)                             beta_c
    Relu, Clip, Min with constants      the same, clipped (stats/clipped.py)             of the clipped normal
    Add of two of these                 N(sum of means, sum of variances)                the sum
    Identity                            the same                                         the same
    average over positions              none: its variance depends on neighbours         the same
    Reshape, Flatten .. of one position none                                             the same
    all else                            none                                             none

(Nagel et al. 2019, arXiv:1906.04721, sections 4.2 and 4.3. The sum takes both summands for independent, which a skip
connection and what is added to it nearly are.)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.clamps import clamp_bounds
from halfeven.graph.normals import normals_now
from halfeven.graph.weights import array_at
from halfeven.stats.clipped import Clipped

Doubles = npt.NDArray[np.float64]
AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
MOVES = frozenset({"Reshape", "Flatten", "Squeeze", "Dropout"})


@dataclass
class Expected:
    """Distributions and means of values by name; means of more values than distributions."""

    clipped: dict[str, Clipped] = field(default_factory=dict)
    means: dict[str, Doubles] = field(default_factory=dict)


def expected(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Expected:
    """What is known of the values of a network as it is scaled now; `shapes` from Trace."""
    normals, found = normals_now(model), Expected()
    for node in model.graph:
        out = node.outputs[0].name or "" if node.outputs else ""
        normal = normals.get(out)
        if normal is not None:
            clipped: Clipped | None = Clipped.normal(normal.mean, normal.deviation)
        else:
            clipped = _behind(node, found)
        if clipped is not None:
            found.clipped[out], found.means[out] = clipped, clipped.moments()[0]
        elif (mean := _mean_behind(node, found, shapes)) is not None:
            found.means[out] = mean
    return found


def _behind(node: ir.Node, found: Expected) -> Clipped | None:
    """The distribution of what a node makes of values whose distributions are known."""
    if node.domain != "" or not node.inputs or node.inputs[0] is None:
        return None
    before = found.clipped.get(node.inputs[0].name or "")
    if node.op_type == "Add" and len(ops.data_ports(node)) == 2:
        second = found.clipped.get(node.inputs[1].name or "")  # type: ignore[union-attr]
        if before is None or second is None or before.mean.shape != second.mean.shape:
            return None
        (a, u), (b, v) = before.moments(), second.moments()
        return Clipped.normal(a + b, np.sqrt(u + v))
    if before is None:
        return None
    if node.op_type == "Identity":
        return before
    if node.op_type == "Min":
        bounds = [_by_channel(node, port, len(before.mean)) for port in range(1, len(node.inputs))]
        known = [bound for bound in bounds if bound is not None]
        return before.within(-np.inf, np.minimum.reduce(known)) if known and len(known) == len(bounds) else None
    if node.op_type in ("Relu", "Clip"):
        low, high = clamp_bounds(node)
        return None if np.isnan(low) or np.isnan(high) else before.within(low, high)
    return None


def _by_channel(node: ir.Node, port: int, channels: int) -> Doubles | None:
    """A constant bound as (C,) or (), if it lies along axis 1."""
    array = array_at(node, port)
    if array is None or array.size not in (1, channels) or (array.size > 1 and array.shape[1:2] != (channels,)):
        return None
    return array.astype(np.float64).reshape(-1)


def _mean_behind(node: ir.Node, found: Expected, shapes: Mapping[str, tuple[int, ...]]) -> Doubles | None:
    if node.domain != "" or not node.inputs or node.inputs[0] is None:
        return None
    name = node.inputs[0].name or ""
    before, shape = found.means.get(name), shapes.get(name, ())
    if before is None:
        return None
    if node.op_type in AVERAGES:
        made = shapes.get(node.outputs[0].name or "", ())
        return before if len(made) >= 2 and made[1] == len(before) and _zero_free(node) else None
    one = len(shape) >= 2 and shape[1] == len(before) and prod(shape[2:]) == 1
    return before if node.op_type in MOVES and one else None


def _zero_free(node: ir.Node) -> bool:
    """Whether an average has no padding among what it averages."""
    return not any(ops.attribute(node, "pads", [])) or not ops.attribute(node, "count_include_pad", 0)
