"""A ready training loop, for those who have none.

    loss = cross-entropy with the labels, where there are some
         + KL(float network || quantized network), then, of outputs that are scores of classes ([N, C])
         + |quantized - float|**2 / variance of float (`training.losses`), of others, and without labels of all
         + the same of tensors inside the network, if asked for

The last three are distillation, which needs no labels (Hinton et al. 2015, arXiv:1503.02531; of tensors inside,
`training.features`). The square holds scores to those of the float network; KL lets all scores of a sample move
together.

The float network is the one that was prepared, with its weights as they were; it costs one more forward pass. Adam,
with one rate for weights and one for the parameters of quantizers, each falling to 0 as a cosine after a warm-up. For
the last part of the steps BatchNormalization is frozen, and ranges that move, so that what is trained last is what is
exported. Its statistics are first estimated anew, as means over batches with the weights as they are: those that ran
along are of weights that moved, and with few bits far off (Nagel et al. 2022, arXiv:2203.11086, section 4.1).

Where `lower_from` gives more bits than the codes have, training begins with so many, and over the first half of the
steps they fall to those of the codes (Zhuang et al. 2018, arXiv:1711.00205, its progressive quantization).

Weights that flip between two codes are damped: lambda * mean((w - q(w))**2) / scale**2, where lambda rises as a cosine
from 0 (Nagel et al. 2022, arXiv:2203.11086, equation 6; its `damping`). w is what the quantizer sees: the weight folded
with the BatchNormalization behind it, whose own tensors learn nothing from that.

Order and batches follow from `seed`. A loss or a gradient that is not finite ends the training, and so does what a
quantizer cannot round (`training.watch`); it is named, and a batch is never skipped silently.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from itertools import islice
from typing import Any

import numpy as np

from halfeven.errors import BadCalibration, BadOption, UnsupportedModel
from halfeven.training.arguments import inputs_of
from halfeven.training.batches import Reader, batches
from halfeven.training.features import Features, features_of
from halfeven.training.losses import Distances, cross_entropy, oscillation
from halfeven.training.network import QuantizedNetwork
from halfeven.training.program import Program
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.quantizer import FakeQuantizer
from halfeven.training.watch import bad_gradient, bad_parameter

F = torch.nn.functional
STATISTICS = 16
"""How many batches the statistics of BatchNormalization are estimated from, at most, before they are frozen."""
FEWEST = 64
"""How many samples make an estimate; with fewer the statistics stay those that ran along."""
SETTLED = 0.3
"""The share of steps at the end in which moving ranges stay, unless `frozen` is less."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    `rate` is of weights, `scale_rate` of scales and zero points; `frozen`, the share of steps at the end in which
    BatchNormalization keeps its statistics, estimated anew before, and moving ranges stay (these in the last three of
    ten at most); `distill`, the weight of the distillation of outputs; `features`, that
    of tensors inside, and `feature_tensors`, which (glob patterns on their names or those of their nodes; none: the
    default of `training.features`); `lower_from`, the bits that codes of fewer bits begin with, 0 for none.
    """

    epochs: int = 3
    batch: int = 16
    rate: float = 1e-4
    scale_rate: float = 1e-3
    warmup: float = 0.05
    frozen: float = 1.0
    distill: float = 1.0
    features: float = 0.0
    feature_tensors: tuple[str, ...] = ()
    damping: float = 0.0
    lower_from: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise BadOption(f"Recipe: {name} {getattr(self, name)}; at least 1 is needed.")
        for name in ("rate", "scale_rate", "warmup", "frozen", "distill", "features", "damping"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise BadOption(f"Recipe: {name} {getattr(self, name)}; a finite number of at least 0 is needed.")
        if self.lower_from not in (0, *range(2, 17)):
            raise BadOption(f"Recipe: lower_from {self.lower_from}; 2 to 16 bits, or 0 for none.")
        if self.feature_tensors and not self.features:
            raise BadOption("Recipe: feature_tensors without features, the weight of their distillation; give it too.")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Recipe":
        """From options by name; numbers may be NumPy's.

        Raises:
            BadOption: there is no such option, or its value is of another kind or out of range.
        """
        known = {f.name: f.default for f in fields(cls)}
        given = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        for name, value in given.items():
            if name not in known:
                near = get_close_matches(str(name), known, 1)
                hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(known)}."
                raise BadOption(f"Recipe: there is no option '{name}'. {hint}")
            if not _fits(value, known[name]):
                raise BadOption(f"Recipe: {name} {value!r}; {_KINDS[type(known[name])]} is needed.")
        many = {name: value for name, value in given.items() if isinstance(known[name], tuple)}
        texts = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in many.items()}
        return cls(**{**given, **texts})


_KINDS = {int: "a whole number", float: "a number", tuple: "a list of texts"}


def _fits(value: object, default: object) -> bool:
    """Whether a value is of the kind of a default; a whole number is a number too, and one text a list of one."""
    if isinstance(default, tuple):
        return isinstance(value, list | tuple | str) and all(isinstance(item, str) for item in value)
    kinds = (int, float) if isinstance(default, float) else int
    return isinstance(value, kinds) and not isinstance(value, bool)


@dataclass
class History:
    """The loss of every step."""

    losses: list[float] = field(default_factory=list)

    def mean(self, part: slice) -> float:
        """Of some of the steps."""
        return float(np.mean(self.losses[part]))


def fit(
    network: QuantizedNetwork,
    readers: Sequence[Reader],
    recipe: Recipe,
    progress: Callable[[str, int, int | None], None] = lambda task, done, total: None,
) -> History:
    """Train the network in place; it is left in evaluation mode.

    Raises:
        BadCalibration: there is no sample, samples cannot be put into one batch, or one is not finite or of a class
            that the network has no score for.
        BadOption: the training diverged, nothing is trained, or no tensor is what `feature_tensors` says.
    """
    if not readers:
        raise BadCalibration("There is no sample to train with: the data are empty.")
    device = next(network.parameters()).device
    features = features_of(network, recipe.feature_tensors) if recipe.features else None
    teacher = _teacher(network) if recipe.distill or features else None
    distances = Distances()
    optimizer = torch.optim.Adam(_rates(network, recipe))
    per_epoch = -(-len(readers) // recipe.batch)
    total = per_epoch * recipe.epochs
    history = History()
    network.train()
    live = list(network.live_norms().values())
    for step, (feeds, classes) in enumerate(batches(readers, recipe.batch, recipe.epochs, recipe.seed)):
        share = step / total
        if share >= 1 - recipe.frozen and any(norm.kind != "frozen" for norm in live):
            _estimate_statistics(network, readers, recipe)
        if share >= 1 - min(recipe.frozen, SETTLED):
            network.freeze_ranges()
        if recipe.lower_from:
            network.raise_bits(_bits_at(share, network, recipe.lower_from))
        for group in optimizer.param_groups:
            group["lr"] = group["initial"] * _rate_at(share, recipe.warmup)
        inputs = {name: torch.as_tensor(x).to(device) for name, x in feeds.items()}
        loss = _loss(network, teacher, features, distances, inputs, classes, recipe)
        if recipe.damping:
            loss = loss + recipe.damping * (1 - math.cos(math.pi * share)) / 2 * oscillation(network)
        if not loss.requires_grad:
            raise BadOption(
                "Nothing is trained: what the outputs are computed from is all kept out of training, and scales too. "
                "Let some parameters train, or prepare with scales='log'; `quantize` needs no training."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        history.losses.append(float(loss.detach()))
        _refuse_divergence(network, history, step)
        optimizer.step()
        progress("train", step + 1, total)
    network.raise_bits(0)
    if any(norm.kind != "frozen" for norm in live):
        _estimate_statistics(network, readers, recipe)
    network.eval()
    return history


def _estimate_statistics(network: QuantizedNetwork, readers: Sequence[Reader], recipe: Recipe) -> None:
    """Give BatchNormalization the mean statistics of some batches, if samples are many, and freeze it."""
    live = list(network.live_norms().values())
    device = next(network.parameters()).device
    momenta = [norm.momentum for norm in live]
    enough = len(readers) >= FEWEST
    calls: Counter[str] = Counter()  # a normalization that is called twice has its statistics of both calls
    with torch.no_grad():
        some = batches(readers, recipe.batch, recipe.epochs, recipe.seed)
        for feeds, _ in islice(some, STATISTICS if enough else 0):
            for norm in live:
                calls[norm.norm.mean] += 1
                norm.momentum = 1 / calls[norm.norm.mean]
            inputs = {name: torch.as_tensor(x).to(device) for name, x in feeds.items()}
            _outputs(network, network.program, inputs, recipe)
    for norm, momentum in zip(live, momenta, strict=True):
        norm.kind, norm.momentum = "frozen", momentum


def _teacher(network: QuantizedNetwork) -> QuantizedNetwork:
    """The float network as it is now."""
    teacher: QuantizedNetwork = copy.deepcopy(network).eval()
    teacher.float_only = True
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher


def _rates(network: QuantizedNetwork, recipe: Recipe) -> list[dict[str, Any]]:
    own = {id(p) for layer in network.modules() if isinstance(layer, FakeQuantizer) for p in layer.parameters()}
    weights = [p for p in network.parameters() if id(p) not in own]
    scales = [p for p in network.parameters() if id(p) in own]
    groups = ((weights, recipe.rate), (scales, recipe.scale_rate))
    return [{"params": params, "lr": rate, "initial": rate} for params, rate in groups if params]


def _rate_at(share: float, warmup: float) -> float:
    if share < warmup:
        return (share + 1e-3) / warmup
    return (1 + math.cos(math.pi * (share - warmup) / max(1 - warmup, 1e-9))) / 2


def _bits_at(share: float, network: QuantizedNetwork, start: int) -> int:
    """Falling from `start` to the fewest bits there are, over the first half."""
    bits = [layer.scheme.grid.bits for layer in network.modules() if isinstance(layer, FakeQuantizer)]
    least = min(bits, default=start)
    return least + max(math.ceil((start - least) * (1 - 2 * share)), 0)


def _loss(
    network: QuantizedNetwork,
    teacher: QuantizedNetwork | None,
    features: Features | None,
    distances: Distances,
    inputs: dict[str, Tensor],
    classes: Tensor | None,
    recipe: Recipe,
) -> Tensor:
    program, count = network.program if features is None else features.program, len(network.program.outputs)
    given = inputs_of(None, network.program.inputs, (), inputs)
    found = _outputs(network, program, given, recipe)
    outputs = found[:count]
    loss: Tensor = torch.zeros((), device=outputs[0].device)
    if teacher is not None:
        with torch.no_grad():
            wanted = teacher.outputs_of(program, given)
        if recipe.distill:
            loss = loss + recipe.distill * sum(
                _gap(distances, name, a, b, classes is not None)
                for name, a, b in zip(program.outputs, outputs, wanted, strict=False)
            )
        if features is not None:
            loss = loss + recipe.features * features.loss(found[count:], wanted[count:])
    if classes is not None and outputs[0].ndim == 2:
        loss = loss + cross_entropy(outputs[0], classes)
    elif teacher is None:
        raise BadOption("There is nothing to train for: no labels, or no scores of classes, and no distillation.")
    return loss


def _outputs(
    network: QuantizedNetwork, program: Program, inputs: Mapping[str, Tensor], recipe: Recipe
) -> tuple[Tensor, ...]:
    """The outputs of a batch.

    Raises:
        UnsupportedModel: an operator cannot run, as may be where a network fixes its batch or an input has none.
    """
    try:
        return network.outputs_of(program, inputs)
    except UnsupportedModel as error:
        if recipe.batch == 1:
            raise
        hint = f"Samples are put into batches of {recipe.batch}; if the network takes them one by one, use --batch 1."
        raise UnsupportedModel(f"{str(error).rstrip('.')}. {hint}") from error


def _gap(distances: Distances, name: str, ours: Tensor, wanted: Tensor, labelled: bool) -> Tensor:
    if not ours.is_floating_point() or not ours.requires_grad:
        return torch.zeros((), device=ours.device)
    if labelled and ours.ndim == 2 and ours.shape[1] > 1:
        return F.kl_div(ours.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)
    return distances.between(name, ours, wanted)


def _refuse_divergence(network: QuantizedNetwork, history: History, step: int) -> None:
    """Pass if the loss and all gradients are finite.

    Raises:
        BadOption: they are not; the first cause is named.
    """
    loss, gradient = history.losses[-1], bad_gradient(network)
    if math.isfinite(loss) and not gradient:
        return
    if parameter := bad_parameter(network):
        cause = f"the first parameter that is not finite is {parameter}"
    elif gradient:
        cause = f"on the way back the first gradient that is not finite is that of {gradient}"
    else:
        cause = "parameters and gradients are finite: look at the labels"
    raise BadOption(
        f"Training diverged in step {step + 1}: the loss is {loss}, and {cause}. Lower --rate or --scale-rate."
    )
