"""The arguments of a module's forward, as its network takes them: nests of tensors, by position and by name.

An `Arguments` is plain data, so that a network can be copied and pickled. Where forward took a tensor it has an
`Input`, in nests as forward takes them; anything else is what was built into the graph.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfeven.errors import BadOption


class MisfitError(Exception):
    """What of a call does not fit; for an error's sentence."""


class OmissionError(MisfitError):
    """The call lacks nothing but a constant, which forward would take otherwise than it is built in."""


@dataclass(frozen=True)
class Input:
    """A tensor's place: the input of the graph that has this name."""

    name: str


@dataclass(frozen=True)
class Arguments:
    """Names and kinds (`inspect.Parameter.kind`) of forward's parameters, and what each was in the example.

    `omitted` says of constants what leaving them out means, where that is not what is built in.
    """

    parameters: tuple[tuple[str, int], ...]
    nests: Mapping[str, Any]
    omitted: Mapping[str, str]

    @classmethod
    def of(cls, signature: inspect.Signature, nests: Mapping[str, Any]) -> "Arguments":
        """Of a signature, and of what was bound to it with an `Input` for each tensor."""
        parameters = signature.parameters.values()
        omitted = {p.name: _omission(p) for p in parameters if p.name in nests and not _may_lack(nests[p.name], p)}
        return cls(tuple((p.name, int(p.kind)) for p in parameters), nests, omitted)

    def flat(self, inputs: Sequence[str]) -> bool:
        """Whether a call is the inputs themselves, in their order or by their names."""
        return [*self.nests] == [*inputs] and all(nest == Input(name) for name, nest in self.nests.items())

    def __str__(self) -> str:
        return ", ".join(n if nest == Input(n) else f"{n}={_text(nest)}" for n, nest in self.nests.items())

    def tensors(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a call by the names of inputs.

        Raises:
            MisfitError: the call is not like the example.
        """
        found, missing = self._found(args, kwargs)
        for name in missing:
            if name in self.omitted:
                raise OmissionError(
                    f"'{name}' is {_text(self.nests[name])}, which is built into the network, and {self.omitted[name]}"
                )
        return found

    def _found(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The tensors of a call, and the constants that it lacks."""
        kinds = [(name, inspect._ParameterKind(kind)) for name, kind in self.parameters]
        signature = inspect.Signature([inspect.Parameter(name, kind) for name, kind in kinds])
        try:
            bound = signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise MisfitError(str(error)) from None
        found: dict[str, Any] = {}
        missing = []
        for name, nest in self.nests.items():
            if name in bound:
                _collect(nest, bound[name], name, found)
            elif _holds_input(nest):
                raise MisfitError(f"'{name}' is missing")
            else:
                missing.append(name)
        for name in bound:
            if name not in self.nests and bound[name] is not None:
                raise MisfitError(f"'{name}' is not in the example that the network was prepared with")
        return found, missing

    def sample(self, item: Any) -> Any:
        """A sample, given as a call (a tuple in order, or a dict by name), by the names of inputs; else as it is.

        It may lack constants: a sample is tensors.
        """
        try:
            if isinstance(item, Mapping):
                return self._found((), item)[0]
            return self._found(item, {})[0] if isinstance(item, tuple | list) else item
        except MisfitError:
            return item


def inputs_of(
    takes: Arguments | None, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The inputs of a call by the names of the graph's inputs: as forward took them, else one by one.

    Raises:
        BadOption: the call is neither.
    """
    misfit = ""
    if takes is not None:
        try:
            return takes.tensors(args, kwargs)
        except OmissionError as error:
            raise BadOption(f"The network takes {takes}; {error}. Give it.") from None
        except MisfitError as error:
            misfit = f" ({error})"
    values = dict(zip(names, args, strict=False)) | dict(kwargs)
    flat = len(values) == len(names) == len(args) + len(kwargs) and all(name in values for name in names)
    if not flat or not all(hasattr(value, "shape") for value in values.values()):
        expected = ", ".join(names) if takes is None else str(takes)
        found = f"{len(args)} inputs and {', '.join(kwargs) or 'no'} names"
        raise BadOption(f"The network takes {expected}; found {found}{misfit}.")
    return values


def _text(nest: Any) -> str:
    if isinstance(nest, Mapping):
        return "{" + ", ".join(f"{key!r}: {_text(part)}" for key, part in nest.items()) + "}"
    if isinstance(nest, tuple | list):
        return "(" + ", ".join(map(_text, nest)) + ")"
    return nest.name if isinstance(nest, Input) else repr(nest)


def _may_lack(nest: Any, parameter: inspect.Parameter) -> bool:
    """Whether a call without the parameter means what is built in, or misses a tensor, which is said elsewhere."""
    if _holds_input(nest):
        return True
    try:
        _collect(nest, _default(parameter), "", {})
    except MisfitError:
        return False
    return True


def _default(parameter: inspect.Parameter) -> Any:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return ()
    return {} if parameter.kind is parameter.VAR_KEYWORD else parameter.default


def _omission(parameter: inspect.Parameter) -> str:
    default = _default(parameter)
    return "the call lacks it" if default is parameter.empty else f"forward takes {default!r} where a call lacks it"


def _holds_input(nest: Any) -> bool:
    if isinstance(nest, Mapping | tuple | list):
        return any(map(_holds_input, nest.values() if isinstance(nest, Mapping) else nest))
    return isinstance(nest, Input)


def _collect(nest: Any, given: Any, where: str, found: dict[str, Any]) -> None:
    """Add to `found` the tensors of `given`, which is nested as `nest` is."""
    if isinstance(nest, Input):
        if not hasattr(given, "shape"):
            raise MisfitError(f"'{where}' is a tensor, found {type(given).__name__}")
        found[nest.name] = given
    elif isinstance(nest, Mapping):
        if not isinstance(given, Mapping) or given.keys() != nest.keys():
            raise MisfitError(f"'{where}' is a dict of {', '.join(map(str, nest))}")
        for key, part in nest.items():
            _collect(part, given[key], f"{where}[{key!r}]", found)
    elif isinstance(nest, tuple | list):
        if not isinstance(given, tuple | list) or len(given) != len(nest):
            raise MisfitError(f"'{where}' has {len(nest)} parts")
        for i, part in enumerate(nest):
            _collect(part, given[i], f"{where}[{i}]", found)
    elif hasattr(given, "shape") or (given != nest and (given == given or nest == nest)):  # NaN is not itself
        raise MisfitError(f"'{where}' is {nest!r}, which is built into the network")
