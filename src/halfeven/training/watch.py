"""Values that are not finite, named where they arise.

A quantizer gives NaN and infinity a code, so behind it all is finite again, and a network trains on with broken
parameters or data. In training each quantizer's input is therefore looked at, and each bias that is rounded, in one
pass: on the CPU its sum, elsewhere the least and the greatest value, which are compared at the end of the forward pass,
so that a GPU is waited for once. The first that is not finite is named, with the node that computes it, and the
parameter or input that is the cause if there is one.

`QuantizedNetwork.check_finite = False` switches it off. Evaluation, and `float_only`, look at nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import TYPE_CHECKING

from halfeven.errors import BadCalibration, BadOption, QuantError
from halfeven.training.integers import order_of
from halfeven.training.program import Instruction
from halfeven.training.pytorch import Tensor, torch

if TYPE_CHECKING:
    from halfeven.training.network import QuantizedNetwork


class Watch:
    """The ends of what passed in one forward pass and may not be finite, in order."""

    def __init__(self) -> None:
        self.places: list[tuple[int | None, str]] = []
        self.ends: list[Tensor] = []

    def see(self, group: int | None, name: str, value: Tensor) -> None:
        """Keep the ends of a tensor that the quantizer of a group is about to round."""
        value = value.detach()
        if value.device.type == "cpu" and isfinite(value.sum().item()):
            return  # the usual case: a finite sum is of finite numbers; an infinite one may be too
        if value.numel():
            order = order_of(value)  # as it lies in memory: many times faster than across
            self.ends += torch.aminmax(value if order is None else value.permute(order))
            self.places.append((group, name))

    def refuse(self, network: "QuantizedNetwork", inputs: Mapping[str, Tensor]) -> None:
        """Pass if all were finite.

        Raises:
            BadCalibration: an input of the network is not finite.
            BadOption: a parameter or a tensor inside is not.
        """
        if not self.ends:
            return
        fine = torch.stack(self.ends).isfinite().reshape(-1, 2).all(1)
        if not bool(fine.all()):
            at = int(fine.logical_not().nonzero()[0])
            raise _sentence(network, inputs, *self.places[at], self.ends[2 * at])


@contextmanager
def watched(network: "QuantizedNetwork", inputs: Mapping[str, Tensor]) -> Iterator[Watch | None]:
    """A forward pass, watched if it is one of training, not in float, and `check_finite` is on.

    Raises:
        BadCalibration, BadOption: as `Watch.refuse`.
    """
    on = network.training and network.check_finite and not network.float_only
    try:
        yield (watch := Watch() if on else None)
    finally:
        network._watch = None
    if watch is not None:
        watch.refuse(network, inputs)


def bad_parameter(network: "QuantizedNetwork") -> str:
    """The first parameter, or running statistic, in the order of the forward pass that is not finite; or nothing."""
    held = dict(network.named_parameters())
    running = {path: network.get_buffer(path) for path in network.paths.values() if path not in held}
    used = _in_order(network)
    order = [name for part in (held, running) for name in used if name in part]  # a statistic is of what passed
    return next((name for name in order if not _finite({**held, **running}[name])), "")


def bad_gradient(network: "QuantizedNetwork") -> str:
    """The first parameter in the order of the backward pass whose gradient is not finite, and its node; or nothing."""
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    if not gradients or bool(torch.stack(torch._foreach_norm([*gradients.values()], float("inf"))).isfinite().all()):
        return ""
    used = _in_order(network)
    name = next(name for name in reversed(used) if name in gradients and not _finite(gradients[name]))
    return f"{name} ({used[name]})" if used[name] else name


def readers_of(network: "QuantizedNetwork", group: int) -> str:
    """Which tensor the quantizer of a group rounds first, and for which node: the end of a sentence."""
    for instruction in network.program.instructions:
        if group in instruction.groups:
            return f"'{instruction.inputs[instruction.groups.index(group)]}' for {_label(instruction)}"
    return "an output of the network"


def _sentence(
    network: "QuantizedNetwork", inputs: Mapping[str, Tensor], group: int | None, name: str, end: Tensor
) -> QuantError:
    """What to say of the first tensor that is not finite."""
    rounds = "The rounding of a bias" if group is None or group in network.biases else f"quantizers.{group}"
    what = "NaN" if bool(end.isnan()) else "infinity"
    found = f"{rounds} was given {what} in '{name}', {_place(network, name)}."
    if parameter := bad_parameter(network):
        return BadOption(f"{found} The cause is the parameter {parameter}, which is not finite. Lower its rate.")
    for key, tensor in inputs.items():
        if tensor.is_floating_point() and not _finite(tensor):
            return BadCalibration(f"{found} The cause is the input '{key}', which is not finite: look at the data.")
    return BadOption(f"{found} All parameters and inputs are finite, so it arises there or before: lower the rates.")


def _place(network: "QuantizedNetwork", name: str) -> str:
    """What a tensor is."""
    if name in network.program.inputs:
        return "an input of the network"
    for instruction in (*network.program.preamble, *network.program.instructions):
        if name in instruction.outputs:
            return f"which {_label(instruction)} computes"
    reader = next((i for i in network.program.instructions if name in i.inputs), None)
    return f"which {_label(reader)} reads" if reader else "a constant"


def _label(instruction: Instruction) -> str:
    return f"{instruction.op} '{instruction.name}'"


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _in_order(network: "QuantizedNetwork") -> dict[str, str]:
    """Parameters and running statistics as the forward pass uses them first, each with its node."""
    found: dict[str, str] = {}
    for instruction in (*network.program.preamble, *network.program.instructions):
        for name in _used(network, instruction):
            found.setdefault(name, _label(instruction))
    for name, _ in network.named_parameters():
        found.setdefault(name, "")
    return found


def _used(network: "QuantizedNetwork", instruction: Instruction) -> Iterator[str]:
    """The parameters of a node, of its normalization and of its quantizers, and of what its bodies hold."""
    live = network.live_norms().get(instruction.name)
    for group in instruction.groups:
        if group is not None and group not in network.biases:
            yield from (f"quantizers.{group}.{name}" for name, _ in network.quantizer(group).named_parameters())
    for name in (*instruction.inputs, *(live.norm.tensors if live is not None else ())):
        if name in network.paths:
            yield network.paths[name]
    for body in instruction.bodies.values():
        for inner in body.instructions:
            yield from _used(network, inner)
