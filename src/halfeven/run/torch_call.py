"""Arguments and results of a PyTorch module: nests of tensors, told apart without importing PyTorch.

    nest              is walked                    name of a tensor in a result
    tensor            -                            output
    tuple, list       in order                     output_0, output_1, ...
    mapping           in the order of its keys     its key
    nest in a nest    -                            the parts joined by "_": hidden_0, output_1_mask
    None              left out                     -

This is the order in which torch.export flattens them, so the n-th tensor of a call is the n-th input of the exported
graph, and the n-th tensor of a result its n-th output.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from halfeven.errors import BadOption, UnsupportedModel

CONSTANTS = (bool, int, float, str, type(None))
"""Types of arguments that are built into the exported graph."""


@dataclass(frozen=True)
class Call:
    """What `forward` is called with; `args` and `kwargs` are in the order of its signature."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def tensors(self) -> list[Any]:
        """The tensors, flattened."""
        return [leaf for leaf in _leaves((self.args, self.kwargs)) if _is_tensor(leaf)]

    def with_tensors(self, tensors: Iterable[Any]) -> "Call":
        """The call with other tensors, in the order of `tensors`."""
        rest = iter(tensors)
        return Call(_mapped(self.args, lambda _: next(rest)), _mapped(self.kwargs, lambda _: next(rest)))


def bind(module: Any, example: Any, tensor_of: Callable[[Any], Any]) -> tuple[Call, list[str]]:
    """The call of `module.forward` that `example` stands for, and a note on arguments that become constants.

    Args:
        module: Has a method `forward`.
        example: A tensor or a tuple or list of arguments in order, or a mapping of arguments by name.
        tensor_of: Makes a tensor of the module's device from a tensor or an array.

    Raises:
        BadOption: `forward` does not take these arguments, none is a tensor, or some is neither tensor nor constant.
    """
    if isinstance(example, Mapping):
        args, kwargs = (), dict(example)
    else:
        args, kwargs = (tuple(example) if isinstance(example, tuple | list) else (example,)), {}
    signature = inspect.signature(module.forward)
    what = f"example_inputs do not fit {type(module).__name__}.forward{signature}"
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise BadOption(
            f"{what}: {error}. Give a tuple in the order of its arguments, or a dict by their names."
        ) from None
    call = Call(_mapped(bound.args, tensor_of), _mapped(bound.kwargs, tensor_of))
    for leaf in _leaves((call.args, call.kwargs)):
        if not _is_tensor(leaf) and not isinstance(leaf, CONSTANTS):
            raise BadOption(f"{what}: a {type(leaf).__name__} is neither a tensor nor a number. Give tensors.")
    if not call.tensors:
        raise BadOption(f"{what}: they hold no tensor, so the model would have no input.")
    fixed = {k: v for k, v in bound.arguments.items() if isinstance(v, bool | int | float | str)}
    text = ", ".join(f"{k}={v!r}" for k, v in fixed.items())
    return call, [f"arguments that are no tensors are built into the model: {text}"] if fixed else []


def named_tensors(result: Any, module: str) -> dict[str, Any]:
    """The tensors of what `forward` returned, by name (see the table above).

    Raises:
        UnsupportedModel: there are none, or something else is among them.
    """
    found: dict[str, Any] = {}
    for path, leaf in _paths(result):
        if not _is_tensor(leaf):
            raise UnsupportedModel(
                f"{module} returns {leaf!r:.80}{f' as {path}' if path else ''}, which is no tensor. "
                "Let forward return tensors, or tuples, lists or dicts of tensors."
            )
        found[path or "output"] = leaf
    if not found:
        raise UnsupportedModel(f"{module} returns no tensor. Let forward return what is to be computed.")
    return found


def with_names(nest: Any, names: Iterable[Any]) -> Any:
    """What `forward` returned or took, with names in the place of its tensors, in order; mappings as plain dicts."""
    rest = iter(names)
    return _mapped(nest, lambda _: next(rest))


def _is_tensor(leaf: Any) -> bool:
    return hasattr(leaf, "detach") and hasattr(leaf, "shape")


def _mapped(nest: Any, function: Callable[[Any], Any]) -> Any:
    if _is_tensor(nest) or isinstance(nest, np.ndarray):
        return function(nest)
    if isinstance(nest, Mapping):
        return {key: _mapped(part, function) for key, part in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(_mapped(part, function) for part in nest))
    if isinstance(nest, tuple | list):
        return type(nest)(_mapped(part, function) for part in nest)
    return nest


def _leaves(nest: Any) -> Iterator[Any]:
    if isinstance(nest, Mapping):
        nest = tuple(nest.values())
    if isinstance(nest, tuple | list):
        for part in nest:
            yield from _leaves(part)
    else:
        yield nest


def _paths(nest: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(nest, Mapping):
        parts = [(str(key), part) for key, part in nest.items()]
    elif isinstance(nest, tuple) and hasattr(nest, "_fields"):
        parts = list(zip(nest._fields, nest, strict=True))
    elif isinstance(nest, tuple | list):
        prefix = prefix or "output"
        parts = [(str(index), part) for index, part in enumerate(nest)]
    else:
        if nest is not None:
            yield prefix, nest
        return
    for key, part in parts:
        yield from _paths(part, f"{prefix}_{key}" if prefix else key)
