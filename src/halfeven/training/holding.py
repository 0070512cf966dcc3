"""What a network to train holds beside its quantizers: tensors under the names of the graph, and nests of outputs."""

# mypy: disallow-subclassing-any=False

from collections.abc import Collection, Mapping
from typing import Any

from halfeven.training.pytorch import Tensor, torch


class Fixed(torch.nn.Module):
    """Tensors by any name, as buffers outside the state_dict; integers stay on the CPU, where shapes are read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.settings = {name: t for name, t in tensors.items() if not t.is_floating_point()}
        self.order = {name: f"c{i}" for i, name in enumerate(n for n in tensors if n not in self.settings)}
        for name, buffer in self.order.items():
            self.register_buffer(buffer, tensors[name], persistent=False)

    def names(self) -> set[str]:
        """Of all tensors held."""
        return self.settings.keys() | self.order.keys()

    def __getitem__(self, name: str) -> Tensor:
        return self.settings[name] if name in self.settings else getattr(self, self.order[name])


def nested(names: Any, values: Mapping[str, Tensor]) -> Any:
    """Values in dicts, tuples and lists as their names are."""
    if isinstance(names, dict):
        return {key: nested(part, values) for key, part in names.items()}
    if isinstance(names, tuple | list):
        parts = [nested(part, values) for part in names]
        return type(names)(*parts) if hasattr(names, "_fields") else type(names)(parts)
    return None if names is None else values[names]


def hold(root: Any, name: str, tensor: Tensor, *, learned: bool, taken: Collection[str] = ()) -> str:
    """Make a parameter, or a buffer, of a tensor at the dotted path that its name is; beside it where it is taken.

    `taken` are first parts of names that the root keeps for itself, though it may not have them yet. The path is given.
    """
    *folders, last = name.split(".")
    if name.partition(".")[0] in taken:
        return hold(root, "_".join((*folders, last)) + "_", tensor, learned=learned)
    module = root
    for folder in folders:
        inner = module._modules.get(folder)
        if inner is None and (not folder or hasattr(module, folder)):
            return hold(root, "_".join((*folders, last)) + "_", tensor, learned=learned)
        if inner is None:
            inner = torch.nn.Module()
            module.add_module(folder, inner)
        module = inner
    if not last or hasattr(module, last):
        return hold(root, f"{name or 'tensor'}_", tensor, learned=learned)
    if learned:
        module.register_parameter(last, torch.nn.Parameter(tensor))
    else:
        module.register_buffer(last, tensor)
    return name if not folders else ".".join((*folders, last))


def keep(root: Any, path: str) -> None:
    """Make a buffer of the parameter at a path."""
    folder, _, last = path.rpartition(".")
    module = root.get_submodule(folder)
    tensor = getattr(module, last).detach()
    delattr(module, last)
    module.register_buffer(last, tensor)
