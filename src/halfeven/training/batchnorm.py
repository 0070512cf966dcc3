"""BatchNormalization kept alive while a network is trained quantized, folded as the exported file will have it.

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

A normalization without such a layer before it is `LoneNorm`: by the batch in training, whichever of both is chosen.

Running statistics move by `momentum` as PyTorch's do, the variance being that of n - 1; without a momentum they are the
mean of all batches. In evaluation both kinds are the frozen one, as they are for a batch of one number a channel, which
has no variance.
"""

# mypy: disallow-subclassing-any=False

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from halfeven.training.integers import wide
from halfeven.training.normed import MOMENTUM, Normed
from halfeven.training.pytorch import Tensor, torch

Kind = Literal["jacob", "krishnamoorthi", "frozen"]
Plain = Callable[[Tensor, Tensor | None], Tensor]
Quantized = Callable[[Tensor, Tensor | None, bool, Tensor | None, Tensor], Tensor]
DEAD = 1e-6


class LoneNorm(torch.nn.Module):
    """A normalization that no layer took in. Its tensors are its network's.

    `kind` may be changed at any time: "frozen" is the freeze. A state_dict holds it too, as its place in `Kind`.
    `momentum` is the share of the statistics that is new; None: as makes them the mean of all batches so far.
    """

    def __init__(self, norm: Normed, kind: Kind) -> None:
        super().__init__()
        self.norm, self.kind = norm, kind
        self.momentum: float | None = norm.momentum

    def forward(self, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor | None:
        """`x`, (N, C, ...), normalized by the batch; None where the running statistics do it."""
        if not self.training or self.kind == "frozen" or x.numel() == x.shape[1]:
            return None
        return self.by_batch(tensors, x, None)

    def by_batch(self, tensors: Mapping[str, Tensor], x: Tensor, alive: Tensor | None) -> Tensor:
        """`x` normalized by its own statistics, with which the running ones move, in the channels that are `alive`."""
        norm, mean, variance = self.norm, tensors[self.norm.mean], tensors[self.norm.variance]
        moved = mean.clone(), variance.clone()  # the way back needs them as they are now
        share = self.share(tensors)
        out = torch.nn.functional.batch_norm(
            x, *moved, tensors[norm.scale], tensors[norm.shift], True, share, norm.epsilon
        )
        with torch.no_grad():
            mean.copy_(moved[0] if alive is None else torch.where(alive, moved[0], mean))
            variance.copy_(moved[1] if alive is None else torch.where(alive, moved[1], variance))
        return out

    def share(self, tensors: Mapping[str, Tensor]) -> float:
        """How much of the statistics this call makes new; the call is counted."""
        count = tensors[self.norm.count].add_(1) if self.norm.count else None
        if self.momentum is not None:
            return self.momentum
        return 1 / int(count) if count is not None else 1 - MOMENTUM

    def get_extra_state(self) -> Tensor:
        """What a state_dict holds besides buffers: `kind`."""
        return torch.tensor(get_args(Kind).index(self.kind))

    def set_extra_state(self, state: Tensor) -> None:
        """Take `kind` from a state_dict."""
        self.kind = get_args(Kind)[int(state)]

    def extra_repr(self) -> str:
        """`layer, kind`."""
        return f"{self.norm.layer}, {self.kind}"


class LiveNorm(LoneNorm):
    """The normalization that a layer took in; `gain` is |gamma| / sigma when it was made."""

    def __init__(self, norm: Normed, kind: Kind, gain: Tensor) -> None:
        super().__init__(norm, kind)
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
        return weight * self.over_channels(gain, weight), tensors[norm.shift] + bias * gain

    def over_channels(self, numbers: Tensor, weight: Tensor) -> Tensor:
        """Numbers, (C,), in the shape in which they multiply the output channels of the weight."""
        norm = self.norm
        if norm.groups == 1:
            return numbers.reshape([-1 if i == norm.axis else 1 for i in range(weight.ndim)])
        rows = numbers.reshape(norm.groups, -1).repeat_interleave(weight.shape[0] // norm.groups, 0)
        return rows.reshape(*rows.shape, *(1,) * (weight.ndim - 2))

    def forward(  # type: ignore[override]
        self, tensors: Mapping[str, Tensor], plain: Plain, quantized: Quantized
    ) -> tuple[Tensor, Tensor | None]:
        """The layer's output; and what an Add behind it adds, if the bias is not the layer's own (`Normed.apart`).

        Args:
            tensors: What `norm` names.
            plain: The layer in float, of a weight and a bias.
            quantized: The layer with its weight quantized, and then divided by a number for each output channel if one
                is given; its bias quantized too if so asked; scales of the weight times the last argument.
        """
        found = None
        if self.training and self.kind == "jacob":
            found = self._jacob(tensors, plain, quantized)
        elif self.training and self.kind == "krishnamoorthi":
            found = self._krishnamoorthi(tensors, quantized)
        return (
            self._by(tensors, tensors[self.norm.mean], tensors[self.norm.variance], quantized)
            if found is None
            else found
        )

    def _by(
        self, tensors: Mapping[str, Tensor], mean: Tensor, variance: Tensor, quantized: Quantized
    ) -> tuple[Tensor, Tensor | None]:
        """The layer folded with these statistics."""
        weight, bias = self.folded(tensors, mean, variance)
        stretch = self.stretch(tensors, variance)
        if self.norm.apart:
            return quantized(weight, None, True, None, stretch), bias
        return quantized(weight, bias, True, None, stretch), None

    def _jacob(
        self, tensors: Mapping[str, Tensor], plain: Plain, quantized: Quantized
    ) -> tuple[Tensor, Tensor | None] | None:
        norm, tensors = self.norm, self._without_learned_bias(tensors)
        raw = plain(tensors[norm.weight], tensors[norm.bias] if norm.bias else None)
        count = raw.numel() // raw.shape[1]
        if count < 2:
            return None
        spread, middle = torch.var_mean(wide(raw), [i for i in range(raw.ndim) if i != 1], unbiased=False)
        out = self._by(tensors, middle, spread, quantized)
        with torch.no_grad():
            share = self.share(tensors)
            tensors[norm.mean].lerp_(middle, share)
            tensors[norm.variance].lerp_(spread * (count / (count - 1)), share)
        return out

    def _krishnamoorthi(
        self, tensors: Mapping[str, Tensor], quantized: Quantized
    ) -> tuple[Tensor, Tensor | None] | None:
        norm, tensors = self.norm, self._without_learned_bias(tensors)
        weight, mean, variance = tensors[norm.weight], tensors[norm.mean], tensors[norm.variance]
        with torch.no_grad():
            gain = tensors[norm.scale] / torch.sqrt(variance + norm.epsilon)
            alive = gain.abs() > DEAD  # a channel that is multiplied by nothing says nothing about its statistics
            by, over = (self.over_channels(n, weight) for n in (gain, torch.where(alive, gain, 1.0)))
            stretch = self.stretch(tensors, variance)
            shift = self.folded(tensors, mean, variance)[1]
        raw = quantized(weight * by, tensors[norm.bias] if norm.bias else None, False, over, stretch)
        if raw.numel() == raw.shape[1]:
            return None
        out = self.by_batch(tensors, raw, alive)
        return (out - shift, shift) if norm.apart else (out, None)

    def _without_learned_bias(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors, the layer's bias with a gradient of 0.

        Normalization by the batch takes the bias away again. What rounding leaves of its gradient is noise, and Adam
        would make full steps of it.
        """
        name = self.norm.bias
        return {**tensors, name: tensors[name].detach() + 0.0 * tensors[name]} if name else tensors
