"""What a module keeps out of training stays out of it in its network.

    parameter without requires_grad (Keras: trainable=False)      as it is
    buffer, constant of forward                                   as it is, but for running statistics
    BatchNormalization whose gamma or beta stays, if asked        its statistics stay too, as in Keras

The quantizers' scales are trained all the same: they are no part of the module.
"""

from collections.abc import Collection, Mapping

from halfeven.training.network import QuantizedNetwork
from halfeven.wording import counted


def freeze(
    network: QuantizedNetwork, learned: Mapping[str, bool], constants: Collection[str], *, norms: bool
) -> tuple[str, ...]:
    """Take `requires_grad` from what is not learned, in place; notes for the user.

    Args:
        network: As made; its tensors bear the module's names.
        learned: Of the module's parameters and buffers, whether a loop would train them.
        constants: Names of all tensors of the float graph; those that `learned` lacks are constants of forward, but for
            parameters that had to be renamed there, with a number behind.
        norms: Whether the statistics of a normalization stay with its parameters.
    """
    parameters = dict(network.named_parameters())
    renamed = tuple(f"{name}_" for name in learned if name not in constants)
    kept = []
    for name, path in network.paths.items():
        if path in parameters and not learned.get(name, name not in constants or name.startswith(renamed)):
            parameters[path].requires_grad_(False)
            kept += [name] if name in learned else []
    for live in network.live_norms().values():
        if norms and not (learned.get(live.norm.scale, True) and learned.get(live.norm.shift, True)):
            live.kind = "frozen"
    if not kept:
        return ()
    return (f"{counted(len(kept), 'tensor')} of the module not trained, as in the module, the first being '{kept[0]}'",)
