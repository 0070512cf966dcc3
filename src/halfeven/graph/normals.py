"""What BatchNormalization knew of its output, kept after it was folded.

BatchNormalization gives channel c the mean beta_c and the standard deviation |gamma_c| over the data that it was
trained with. Folding (graph/batchnorm.py) makes both disappear into a weight and a bias; they stay with the folded
value, in memory alone (`Value.meta`, which no file holds), for the steps that do without data:

    Normal       beta and |gamma| by channel (Nagel et al. 2019, arXiv:1906.04721, section 4.1.3)
    scales_of    by which a later step has multiplied the channels of each value, concluded from the weights

A step that multiplies output channel c of a Conv by s_c and divides the input channels of those that read it leaves
w'_ci = s_c w_ci / s_i. `note_weights` keeps the largest weight of each channel and its place; there s_c follows from
s_i, layer by layer, as pooling, clamps and Add hand factors on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph import ops

Doubles = npt.NDArray[np.float64]
KEY, WEIGHT = "halfeven.normal", "halfeven.weight"
CARRIES = frozenset({"Relu", "Clip", "Min", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Identity"})
"""Operators whose output has the channels' factors of their first data input."""


@dataclass(frozen=True, eq=False)
class Normal:
    """Mean and standard deviation (not negative) of each channel, shape (C,) both."""

    mean: Doubles
    deviation: Doubles

    def affine(self, gain: Doubles, shift: Doubles) -> "Normal":
        """Of gain * x + shift; each of shape (C,) or ()."""
        return Normal(self.mean * gain + shift, self.deviation * np.abs(gain))


def normal_of(value: ir.Value) -> Normal | None:
    """What is known of a value."""
    found = value.meta.get(KEY)
    return found if isinstance(found, Normal) else None


def remember(value: ir.Value, normal: Normal) -> None:
    """Keep it with the value, and with the value's copies in clones of the model."""
    value.meta[KEY] = normal


def carry_over(source: ir.Model, target: ir.Model) -> None:
    """Give what is known of the values of one model to those of the same names in another."""
    made = [v for node in source.graph.all_nodes() for v in node.outputs]
    known = {v.name: normal for v in made if (normal := normal_of(v)) is not None}
    for node in target.graph.all_nodes():
        for value in node.outputs:
            if value.name in known:
                remember(value, known[value.name])


def note_weights(model: ir.Model) -> None:
    """Keep of convolutions the largest weight of each output channel as it is now, for `scales_of`.

    Nothing is done in a network of which nothing is known.
    """
    if not any(normal_of(value) for node in model.graph for value in node.outputs):
        return
    for node in model.graph:
        if node.op_type == "Conv" and (tensor := ops.constant_of(node.inputs[1])) is not None:
            rows = _rows(tensor)
            at = np.abs(rows).argmax(1)
            node.meta[WEIGHT] = at, rows[np.arange(len(rows)), at]


def scales_of(model: ir.Model) -> dict[str, Doubles]:
    """The factors by which channels were multiplied since `note_weights`, by value name; values without are at 1."""
    found: dict[str, Doubles] = {}
    for node in model.graph:
        before = found.get(node.inputs[0].name or "") if node.inputs and node.inputs[0] is not None else None
        if node.op_type in CARRIES and before is not None:
            found[node.outputs[0].name or ""] = before
        elif node.op_type == "Conv" and (factors := _of_conv(node, before)) is not None:
            found[node.outputs[0].name or ""] = factors
    return found


def _of_conv(node: ir.Node, before: Doubles | None) -> Doubles | None:
    kept, tensor = node.meta.get(WEIGHT), ops.constant_of(node.inputs[1])
    if kept is None or tensor is None:
        return None
    (at, was), rows = kept, _rows(tensor)
    outputs = np.arange(len(rows))
    now = rows[outputs, at]
    if before is not None:
        groups, window = int(ops.attribute(node, "group", 1)), rows.shape[1] // ops.dims_of(tensor)[1]
        now = now * before.reshape(groups, -1)[outputs * groups // len(rows), at // window]
    return np.asarray(np.where(was == 0, 1.0, now / np.where(was == 0, 1.0, was)))


def _rows(tensor: ir.TensorProtocol) -> Doubles:
    """A weight as (outputs, others)."""
    weight = tensor.numpy()
    return weight.reshape(len(weight), -1).astype(np.float64)


def normals_now(model: ir.Model) -> Mapping[str, Normal]:
    """What is known of values, in the network as it is scaled now, by value name."""
    scales = scales_of(model)
    found: dict[str, Normal] = {}
    for node in model.graph:
        for value in node.outputs:
            normal = normal_of(value)
            if normal is not None:
                factor = scales.get(value.name or "", np.ones(()))
                found[value.name or ""] = normal.affine(factor, np.zeros(()))
    return found
