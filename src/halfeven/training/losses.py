"""What the ready loop makes smaller: distances to the float network, cross-entropy with labels, and oscillation.

    |quantized - float|**2 / variance of float      over the batch; tensors differ in size

A batch may not vary: a regression's last batch of one sample, or a map that a clamp holds at zero. Divided by nothing,
its loss would outweigh all others, and with it Adam's memory of gradients. Such a batch is divided by the mean square
of float over all batches so far, or not at all where that is 0 too.
"""

from halfeven.errors import BadCalibration
from halfeven.training.batchnorm import LiveNorm
from halfeven.training.integers import wide
from halfeven.training.network import QuantizedNetwork
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.tiles import tiles_of

F = torch.nn.functional
STILL = 1e-10
"""Variance over mean square of what does not vary: well above what rounding float32 makes of equal numbers."""


class Distances:
    """Distances of tensors by name, batch after batch."""

    def __init__(self) -> None:
        self.squares: dict[str, tuple[Tensor, int]] = {}

    def between(self, name: str, ours: Tensor, wanted: Tensor) -> Tensor:
        """The distance of two tensors of one shape, a scalar with gradients to `ours`."""
        ours, wanted = wide(ours), wide(wanted)
        with torch.no_grad():
            variance, square = wanted.var(unbiased=False), wanted.square().mean()
            total, count = self.squares.get(name, (torch.zeros_like(square), 0))
            self.squares[name] = total, count = total + square, count + 1
            spread = torch.where(variance > STILL * square, variance, total / count)
            spread = torch.where(spread > 0, spread, 1.0)
        return (ours - wanted).square().mean() / spread


def cross_entropy(scores: Tensor, classes: Tensor) -> Tensor:
    """Of scores, (N, C), with the classes, (N,), on any device.

    Raises:
        BadCalibration: a class is none of 0 to C - 1.
    """
    count = scores.shape[1]
    wrong = classes[(classes < 0) | (classes >= count)]
    if wrong.numel():
        raise BadCalibration(
            f"A sample is of class {int(wrong[0])}, and the network has scores of {count} classes, 0 to {count - 1}. "
            "Is the first class counted as 0?"
        )
    return F.cross_entropy(scores, classes.to(scores.device))


def oscillation(network: QuantizedNetwork) -> Tensor:
    """Mean squared distance of weights from their codes, in steps."""
    terms, live, parameters = [], network.live_norms(), dict(network.named_parameters())
    with torch.no_grad():
        made = network.derived()
    for instruction in network.program.instructions:
        group = instruction.groups[1] if len(instruction.groups) > 1 else None
        name = instruction.inputs[1] if len(instruction.inputs) > 1 else ""
        path = network.paths.get(name)
        if group is None or path not in parameters or group in network.biases:
            continue
        weight, layer, stretch = parameters[path], network.quantizer(group), None
        norm = live.get(instruction.name)
        if isinstance(norm, LiveNorm):
            held = {n: t.detach() for n, t in network.tensors(norm.norm, made).items()}
            variance = held[norm.norm.variance]
            weight = norm.folded({**held, norm.norm.weight: weight}, held[norm.norm.mean], variance)[0]
            stretch = norm.stretch(held, variance)
        with torch.no_grad():
            step, target = layer.scale_and_zero_point(stretch)[0], layer.values(weight, stretch)
        tiles = tiles_of(tuple(weight.shape), tuple(step.shape))
        terms.append(((weight - target).reshape(tiles.tensor) / step.reshape(tiles.scale)).square().mean())
    return sum(terms) / len(terms) if terms else torch.zeros(())
