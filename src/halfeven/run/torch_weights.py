"""What a PyTorch module or a Keras model holds, by its names in the exported model, and what of it is trained."""

import sys
from typing import Any

from halfeven.run.torch_keras import dropping, is_keras, moving_means, variables


def inside(module: Any) -> Any:
    """The module that torch.compile and the parallel containers were put around."""
    nn = sys.modules["torch"].nn
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, parallel) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, parallel) else module._orig_mod
    return module


def tensors_of(module: Any) -> dict[str, Any]:
    """A module's parameters and buffers by their names in its exported model; Keras' float variables."""
    module = inside(module)
    if is_keras(module):
        return {name: variable.value for name, variable in variables(module).items()}
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def learned(module: Any) -> dict[str, bool]:
    """Whether a loop trains each tensor: no buffer, and nothing that `requires_grad` or `trainable` keeps out."""
    kind = sys.modules["torch"].nn.Parameter
    return {name: isinstance(t, kind) and t.requires_grad for name, t in tensors_of(module).items()}


def dropouts(module: Any) -> list[str]:
    """The names of a module's parts that drop values in training; evaluation, and so the exported model, has none."""
    nn = sys.modules["torch"].nn
    if is_keras(module):
        return dropping(module)
    kinds = (nn.modules.dropout._DropoutNd, nn.MultiheadAttention, nn.RNNBase)
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, kinds)]
    return [name for name, part in found if getattr(part, "p", 0) or getattr(part, "dropout", 0)]


def buffers(module: Any) -> set[str]:
    """The names of the tensors that are no parameters."""
    kind = sys.modules["torch"].nn.Parameter
    return {name for name, tensor in tensors_of(module).items() if not isinstance(tensor, kind)}


def momenta(module: Any) -> dict[str, tuple[float | None, str, int]]:
    """How running statistics move, by the name of the mean: `training.frozen.follow` says what it is told."""
    module = inside(module)
    if is_keras(module):
        return moving_means(module)
    found: dict[str, tuple[float | None, str, int]] = {}
    for path, part in module.named_modules():
        if isinstance(part, sys.modules["torch"].nn.modules.batchnorm._NormBase) and part.running_mean is not None:
            prefix = f"{path}." if path else ""
            count = part.num_batches_tracked
            name = "" if count is None else f"{prefix}num_batches_tracked"
            found[f"{prefix}running_mean"] = part.momentum, name, 0 if count is None else int(count)
    return found
