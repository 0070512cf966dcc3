"""What a PyTorch module or a Keras model holds, by its names in the exported model, and what of it is trained."""

import sys
from typing import Any

from halfeven.run.torch_keras import dropping, is_keras, variables


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
