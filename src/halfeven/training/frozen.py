"""What a module keeps out of training stays out of it in its network, and its statistics move as in the module.

    parameter without requires_grad (Keras: trainable=False)      as it is
    buffer, constant of forward                                   a buffer, but for running statistics
    BatchNormalization whose gamma or beta stays, if asked        its statistics stay too, as in Keras
    momentum of BatchNormalization, and its count of batches      the module's

The quantizers' scales are trained all the same: they are no part of the module.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from halfeven.training.network import QuantizedNetwork
from halfeven.training.pytorch import torch
from halfeven.wording import counted


def freeze(
    network: QuantizedNetwork,
    learned: Mapping[str, bool],
    constants: Collection[str],
    *,
    renamed: Collection[str] = (),
    buffers: Collection[str] = (),
    norms: bool,
) -> tuple[str, ...]:
    """Keep out of training, in place, what is not learned; notes for the user.

    Args:
        network: As made; its tensors bear the module's names.
        learned: Of the module's parameters and buffers, whether a loop would train them.
        constants: Names of all tensors of the float graph; those that `learned` lacks are constants of forward, but for
            parameters that had to be renamed there.
        renamed: The names there of such parameters.
        buffers: Which of `learned` are no parameters.
        norms: Whether the statistics of a normalization stay with its parameters.
    """
    parameters = dict(network.named_parameters())
    kept = []
    for name, path in network.paths.items():
        if path not in parameters or learned.get(name, name not in constants or name in renamed):
            continue
        kept += [name] if name in learned else []
        if name in learned and name not in buffers:
            parameters[path].requires_grad_(False)
        else:
            network.keep(name)
    for live in network.live_norms().values():
        if norms and not (learned.get(live.norm.scale, True) and learned.get(live.norm.shift, True)):
            live.kind = "frozen"
    if not kept:
        return ()
    return (f"{counted(len(kept), 'tensor')} of the module not trained, as in the module, the first being '{kept[0]}'",)


def follow(network: QuantizedNetwork, momenta: Mapping[str, tuple[float | None, str, int]]) -> None:
    """Let running statistics move, in place, as those of the module do.

    Args:
        network: As made; its tensors bear the module's names.
        momenta: By the name of a running mean: the share that is new, or None for the mean of all batches; the name of
            the count of batches, or nothing, and the count.
    """
    for live in network.live_norms().values():
        if live.norm.mean in momenta:
            live.momentum, name, count = momenta[live.norm.mean]
            if name and name not in network.paths:
                network.hold(name, torch.tensor(count))
            live.norm = replace(live.norm, count=name)
