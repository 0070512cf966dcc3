"""BatchNormalization kept alive while its layer is trained quantized, folded as the exported file will have it.

A layer y = x * W + b followed by normalization becomes one layer with

    W' = W * gamma / sigma        b' = beta + (b - mu) * gamma / sigma        sigma = sqrt(variance + epsilon)

Quantized is W', as on the device. What mu and sigma are, in training:

    jacob            of the batch, from a float pass over the layer first; W' and b' are quantized with them (Jacob et
                     al. 2018, arXiv:1712.05877, section 3.2, figure C.8)
    krishnamoorthi   sigma is the running one in W', so that weights do not jitter with the batch; what was quantized is
                     then divided by gamma / sigma again, and the layer's output normalized by its own batch, in float
                     (Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2, figure 12: its correction, undone). One
                     pass, where jacob takes two, and PyTorch's own normalization. gamma learns from that; that it
                     moves weights between codes as well, where channels share a scale, counts as nothing
    frozen           the running ones, in training as in evaluation: what the exported file computes

Where each channel has a scale of its own, it is multiplied by what |gamma| / sigma has grown by since ranges were
calibrated (`LiveNorm.stretch`). Then a channel's codes are those of W alone, however the normalization moves: without
that, sigma would follow the rounded weight, whose size the scale fixes, and with few bits run away from it.

Running statistics move by `momentum` as PyTorch's do, the variance being that of n - 1. In evaluation both kinds are
the frozen one, as they are for a batch of one number a channel, which has no variance.
"""

# mypy: disallow-subclassing-any=False

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.constants import fold_constants, lift_constants
from halfeven.graph.names import name_everything
from halfeven.graph.prepare import inline_functions
from halfeven.graph.shapes import infer_shapes
from halfeven.training.integers import wide
from halfeven.training.pytorch import Tensor, torch

Kind = Literal["jacob", "krishnamoorthi", "frozen"]
Plain = Callable[[Tensor, Tensor | None], Tensor]
Quantized = Callable[[Tensor, Tensor | None, bool, Tensor | None, Tensor], Tensor]
LAYERS = ("Conv", "ConvTranspose")
MOMENTUM = 0.1
DEAD = 1e-6


@dataclass(frozen=True)
class Normed:
    """Initializers of a layer and of the normalization behind it, by name; `bias` is empty if the layer has none."""

    layer: str
    weight: str
    bias: str
    scale: str
    shift: str
    mean: str
    variance: str
    epsilon: float
    axis: int
    """Of the weight's output channels."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors to train."""
        return tuple(n for n in (self.weight, self.bias, self.scale, self.shift) if n)

    @property
    def tensors(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.names, self.mean, self.variance)


def live_norms(source: ir.Model, folded: ir.Model) -> tuple[dict[str, Normed], ir.Model]:
    """The normalizations that were folded into a layer of `folded`, by that layer's name; and the graph before.

    `source` is the graph that `prepare` made `folded` of. Of a group of layers that share a weight, or where more was
    folded than one normalization, none is live: those are trained as they were folded.
    """
    before = source.clone()
    inline_functions(before)
    name_everything(before)
    lift_constants(before)
    fold_constants(before)
    infer_shapes(before)
    layers = {node.name: node for node in folded.graph}
    found = {}
    for node in before.graph:
        maker = node.inputs[0].producer() if node.op_type == "BatchNormalization" and node.inputs[0] else None
        if maker is None or maker.op_type not in LAYERS or len(maker.outputs[0].uses()) != 1:
            continue
        after = layers.get(maker.name)
        norm = _normed(maker, node)
        if norm is not None and after is not None and after.outputs[0].name == node.outputs[0].name:
            weight, expected = ops.constant_of(after.inputs[1]), _folded_weight(before, norm)
            if weight is not None and np.allclose(weight.numpy(), expected, rtol=1e-5, atol=1e-7):
                found[maker.name or ""] = norm
    return found, before


def _normed(layer: ir.Node, norm: ir.Node) -> Normed | None:
    values = [*layer.inputs[1:3], *([None] if len(layer.inputs) < 3 else []), *norm.inputs[1:5]]
    tensors = [ops.constant_of(v) for v in values]
    shared = values[0] is None or len(values[0].uses()) != 1
    grouped = layer.op_type == "ConvTranspose" and int(ops.attribute(layer, "group", 1)) != 1
    if shared or grouped or any(t is None and i != 1 for i, t in enumerate(tensors)):
        return None
    names = ["" if v is None else v.name or "" for v in values]
    weight, bias, scale, shift, mean, variance = names
    epsilon = float(ops.attribute(norm, "epsilon", 1e-5))
    axis = 1 if layer.op_type == "ConvTranspose" else 0
    return Normed(layer.name or "", weight, bias, scale, shift, mean, variance, epsilon, axis)


def _folded_weight(model: ir.Model, norm: Normed) -> np.ndarray:
    weight, scale, variance = (
        np.asarray(model.graph.initializers[n].const_value.numpy(), np.float64)  # type: ignore[union-attr]
        for n in (norm.weight, norm.scale, norm.variance)
    )
    gain = scale / np.sqrt(variance + norm.epsilon)
    return np.asarray(weight * gain.reshape([-1 if i == norm.axis else 1 for i in range(weight.ndim)]))


class LiveNorm(torch.nn.Module):
    """The normalization of one layer. Its tensors are its network's; `gain` is |gamma| / sigma when it was made.

    `kind` may be changed at any time: "frozen" is the freeze. A state_dict holds it too, as its place in `Kind`.
    """

    def __init__(self, norm: Normed, kind: Kind, gain: Tensor, momentum: float = MOMENTUM) -> None:
        super().__init__()
        self.norm, self.kind, self.momentum = norm, kind, momentum
        self.register_buffer("gain", gain)

    def stretch(self, tensors: Mapping[str, Tensor], variance: Tensor) -> Tensor:
        """What |gamma| / sigma of each channel is of that at first; 1 where either is nothing."""
        now = (tensors[self.norm.scale] / torch.sqrt(variance + self.norm.epsilon)).abs()
        return torch.where((now > DEAD) & (self.gain > DEAD), now / self.gain, 1.0)

    def folded(self, tensors: Mapping[str, Tensor], mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """W' and b' with these statistics."""
        norm = self.norm
        weight, gain = tensors[norm.weight], tensors[norm.scale] / torch.sqrt(variance + norm.epsilon)
        bias = tensors[norm.bias] - mean if norm.bias else -mean
        shape = [-1 if i == norm.axis else 1 for i in range(weight.ndim)]
        return weight * gain.reshape(shape), tensors[norm.shift] + bias * gain

    def forward(self, tensors: Mapping[str, Tensor], plain: Plain, quantized: Quantized) -> Tensor:
        """The layer's output.

        Args:
            tensors: What `norm` names.
            plain: The layer in float, of a weight and a bias.
            quantized: The layer with its weight quantized, and then divided by a number for each output channel if one
                is given; its bias quantized too if so asked; scales of the weight times the last argument.
        """
        out = None
        if self.training and self.kind == "jacob":
            out = self._jacob(tensors, plain, quantized)
        elif self.training and self.kind == "krishnamoorthi":
            out = self._krishnamoorthi(tensors, quantized)
        if out is not None:
            return out
        variance = tensors[self.norm.variance]
        weight, bias = self.folded(tensors, tensors[self.norm.mean], variance)
        return quantized(weight, bias, True, None, self.stretch(tensors, variance))

    def _jacob(self, tensors: Mapping[str, Tensor], plain: Plain, quantized: Quantized) -> Tensor | None:
        norm, tensors = self.norm, self._without_learned_bias(tensors)
        raw = plain(tensors[norm.weight], tensors[norm.bias] if norm.bias else None)
        count = raw.numel() // raw.shape[1]
        if count < 2:
            return None
        spread, middle = torch.var_mean(wide(raw), [i for i in range(raw.ndim) if i != 1], unbiased=False)
        weight, bias = self.folded(tensors, middle, spread)
        with torch.no_grad():
            tensors[norm.mean].lerp_(middle, self.momentum)
            tensors[norm.variance].lerp_(spread * (count / (count - 1)), self.momentum)
        return quantized(weight, bias, True, None, self.stretch(tensors, spread))

    def _krishnamoorthi(self, tensors: Mapping[str, Tensor], quantized: Quantized) -> Tensor | None:
        norm, tensors = self.norm, self._without_learned_bias(tensors)
        weight, mean, variance = tensors[norm.weight], tensors[norm.mean], tensors[norm.variance]
        with torch.no_grad():
            gain = tensors[norm.scale] / torch.sqrt(variance + norm.epsilon)
            alive = gain.abs() > DEAD  # a channel that is multiplied by nothing says nothing about its statistics
            shape = [-1 if i == norm.axis else 1 for i in range(weight.ndim)]
            by, over = gain.reshape(shape), torch.where(alive, gain, 1.0).reshape(shape)
            stretch = self.stretch(tensors, variance)
        raw = quantized(weight * by, tensors[norm.bias] if norm.bias else None, False, over, stretch)
        if raw.numel() == raw.shape[1]:
            return None
        moved = mean.clone(), variance.clone()  # the way back needs them as they are now
        out = torch.nn.functional.batch_norm(
            raw, *moved, tensors[norm.scale], tensors[norm.shift], True, self.momentum, norm.epsilon
        )
        with torch.no_grad():
            mean.copy_(torch.where(alive, moved[0], mean))
            variance.copy_(torch.where(alive, moved[1], variance))
        return out

    def _without_learned_bias(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors, the layer's bias with a gradient of 0.

        Normalization by the batch takes the bias away again. What rounding leaves of its gradient is noise, and Adam
        would make full steps of it.
        """
        name = self.norm.bias
        return {**tensors, name: tensors[name].detach() + 0.0 * tensors[name]} if name else tensors

    def get_extra_state(self) -> Tensor:
        """What a state_dict holds besides buffers: `kind`."""
        return torch.tensor(get_args(Kind).index(self.kind))

    def set_extra_state(self, state: Tensor) -> None:
        """Take `kind` from a state_dict."""
        self.kind = get_args(Kind)[int(state)]

    def extra_repr(self) -> str:
        """`layer, kind`."""
        return f"{self.norm.layer}, {self.kind}"
