"""Absorb: high biases moved into the next layer, without data.

After BatchNormalization with a mean far above its deviation a channel hardly ever reaches the clamp that follows:
c = max(0, beta - 3 gamma) is passed by all but 0.1 % of its values. Then

    relu(x) - c = relu(x - c)          b1 -= c,     b2 += sum over the kernel of W2 c

and the tensor between has the smaller range (Nagel et al. 2019, arXiv:1906.04721, section 4.1.3). Behind Clip(0, b) a
channel is left alone whose upper end is as likely to be met: there the same holds if beta + 3 gamma <= b.

Only layers without padding take up what is moved: padding puts zeros where the network had zeros, which now stand
for c.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Draft, Progress, Samples
from halfeven.graph import ops
from halfeven.graph.clamps import clamp_bounds
from halfeven.graph.normals import Normal, normal_of, remember
from halfeven.graph.patches import matrix_of
from halfeven.graph.weights import array_at, put_constant, shared
from halfeven.stats.channels import ChannelRange
from halfeven.steps.expected import expected
from halfeven.wording import counted

Doubles = npt.NDArray[np.float64]
DEVIATIONS = 6.0
"""How far from its mean a channel is taken to reach (section 4.3 of the paper)."""


@dataclass(frozen=True)
class Absorb:
    """Without data: move high biases on, and tell Equalize the channels' ranges, both by what was normalized."""

    name: ClassVar[str] = "absorb"
    deviations: float = 3.0
    """Without data: how many deviations below its mean a channel may be cut by moving its bias on; 0 moves none."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with biases moved, and `channels` of the values that are known."""
        model = draft.model.clone()
        state, moved, plan = hashlib.sha256(), 0, draft.plan
        for node in list(model.graph) if self.deviations > 0 else []:
            pair = _pair(node)
            if pair is None:
                continue
            clamp, reader = pair
            amount = high_bias(normal_of(node.outputs[0]), clamp_bounds(clamp)[1], self.deviations)
            if amount.any():
                for layer, bias in absorb_bias(node, reader, amount, model).items():
                    plan = plan.reading(layer, 2, bias)
                state.update(repr(node.name).encode() + amount.tobytes())
                moved += int((amount > 0).sum())
        known = expected(model, draft.shapes).clipped
        channels = {}
        for name, clipped in known.items():
            low, high = clipped.range(DEVIATIONS)
            mean, variance = clipped.moments()
            channels[name] = ChannelRange(np.minimum(low, 0), np.maximum(high, 0), variance + mean**2, 1)
        done = replace(draft, model=model, plan=plan, channels={**channels, **draft.channels})
        if not moved:
            return done
        note = f"the high bias of {counted(moved, 'channel')} was moved into the next layer, as it needs no range"
        return replace(done, scaling=state.hexdigest()[:16]).noting(note)


def high_bias(normal: Normal | None, bound: float, deviations: float) -> Doubles:
    """The bias to move of each channel, shape (C,), 0 where nothing is to be moved.

    Args:
        normal: What comes before the clamp; None: no channel is moved.
        bound: Upper bound of the clamp, infinite for Relu.
        deviations: How many below the mean it lies.
    """
    if normal is None:
        return np.zeros(0)
    reach = deviations * normal.deviation
    high = np.maximum(normal.mean - reach, 0.0)
    return np.where(normal.mean + reach <= bound, high, 0.0)


def absorb_bias(maker: ir.Node, reader: ir.Node, amount: Doubles, model: ir.Model) -> dict[str, str]:
    """Take `amount` (C,) from the bias of one layer and give it to the next; returns the biases' names by layer."""
    names = {}
    known, first, second = normal_of(maker.outputs[0]), array_at(maker, 2), array_at(reader, 2)
    weight = array_at(reader, 1)
    assert known is not None
    assert first is not None
    assert weight is not None
    names[maker.name or ""] = put_constant(maker, 2, (first.astype(np.float64) - amount).astype(np.float32), model)
    remember(maker.outputs[0], known.affine(np.ones(()), -amount))
    more = response(reader, weight.astype(np.float64), amount)
    new = more if second is None else second.astype(np.float64) + more
    names[reader.name or ""] = put_constant(reader, 2, new.astype(np.float32), model)
    return names


def response(node: ir.Node, weight: npt.NDArray[np.generic], inputs: Doubles) -> Doubles:
    """What a layer makes of inputs that are constant by channel, without its bias and padding: (C,) -> (outputs,)."""
    matrix = matrix_of(node, weight.astype(np.float32)).astype(np.float64)  # groups, outputs, k
    groups, _, length = matrix.shape
    by_group = inputs.reshape(groups, -1)
    vectors = np.repeat(by_group, length // by_group.shape[1], axis=1)
    return np.asarray(np.einsum("gok,gk->go", matrix, vectors).reshape(-1))


def _pair(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The clamp behind a normalized layer and the layer that alone reads it, if the bias can be moved."""
    value = node.outputs[0] if len(node.outputs) == 1 else None
    if value is None or node.op_type != "Conv" or normal_of(value) is None or array_at(node, 2) is None:
        return None
    clamp = _only_reader(value)
    if clamp is None or clamp.op_type not in ("Relu", "Clip") or clamp_bounds(clamp)[0] != 0.0:
        return None
    reader = _only_reader(clamp.outputs[0])
    if (
        reader is None
        or reader.op_type != "Conv"
        or not ops.is_layer(reader)
        or reader.inputs[0] is not clamp.outputs[0]
    ):
        return None
    padded = any(ops.attribute(reader, "pads", [])) or ops.attribute(reader, "auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    )
    known = ops.bias_of(reader) is None or array_at(reader, 2) is not None
    return (clamp, reader) if known and not padded and not shared(node, 2) else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None
