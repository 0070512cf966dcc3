"""Distillation of features: tensors inside the network are held to those of the float network.

    loss = mean over the chosen tensors of |quantized - float|**2 / variance of float (`training.losses`)

These are hints as in FitNets (Romero et al. 2015, arXiv:1412.6550, equation 3), from a teacher of the student's own
shape, so that no regressor stands between; divided by the variance, as tensors differ in size. What is compared is what
the next layer reads: behind the clamp and the quantizer, where there are such.

Chosen are, if nothing is asked for, the sums of two computed tensors of one shape, that is of residual blocks, each
with the clamp behind it; in a network without any, the last quantized tensor of each resolution. What the network
returns is not among them: that is what distillation of outputs is for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from halfeven.errors import BadOption
from halfeven.training.losses import Distances
from halfeven.training.network import QuantizedNetwork
from halfeven.training.program import Instruction, Program
from halfeven.training.pytorch import Tensor, torch


@dataclass(frozen=True)
class Features:
    """Tensors by name, and the program that gives them behind the outputs; `distances` are those so far."""

    names: tuple[str, ...]
    program: Program
    distances: Distances = field(default_factory=Distances)

    def loss(self, ours: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """The loss, a scalar with gradients to `ours`, of the features of two networks, each in the order of `names`.

        Raises:
            BadOption: a feature is a tensor of integers.
        """
        terms = []
        for name, a, b in zip(self.names, ours, wanted, strict=True):
            if not a.is_floating_point():
                raise BadOption(f"feature_tensors: '{name}' is a tensor of {a.dtype}; floats can be distilled.")
            terms.append(self.distances.between(name, a, b))
        return torch.stack(terms).mean()


def features_of(network: QuantizedNetwork, patterns: Sequence[str] = ()) -> Features:
    """The features that glob patterns on names of tensors, or of the nodes that compute them, choose; or the default.

    Raises:
        BadOption: a pattern fits nothing, or nothing is asked for and the network has none of the default.
    """
    program = network.program
    names = _matching(program, patterns) if patterns else _sums(network) or _last_of_resolutions(network)
    if not names:
        raise BadOption(
            "features: the network has neither residual sums nor quantized tensors of known shape. Name the tensors "
            "with feature_tensors (--feature-tensors)."
        )
    return Features(names, _returning(program, names))


def _returning(program: Program, names: tuple[str, ...]) -> Program:
    """The program with more outputs, each seen as its first reader sees it that rounds it."""
    groups = _groups(program)
    last = {i: tuple(name for name in done if name not in names) for i, done in program.last.items()}
    before = program.output_groups or (None,) * len(program.outputs)
    return replace(
        program,
        outputs=(*program.outputs, *names),
        output_groups=(*before, *(groups.get(name) for name in names)),
        last=last,
    )


def _groups(program: Program) -> dict[str, int]:
    """The group through whose quantizer a tensor is read first."""
    found: dict[str, int] = {}
    for instruction in program.instructions:
        for name, group in zip(instruction.inputs, instruction.groups, strict=True):
            if group is not None:
                found.setdefault(name, group)
    return found


def _matching(program: Program, patterns: Sequence[str]) -> tuple[str, ...]:
    made = {name: instruction.name for instruction in program.instructions for name in instruction.outputs if name}
    for pattern in patterns:
        if not any(_fits(word, pattern) for pair in made.items() for word in pair):
            near = get_close_matches(pattern, [*made, *made.values()], 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(list(made)[:8])} and so on."
            raise BadOption(f"feature_tensors '{pattern}' fits no tensor and no node of the network. {hint}")
    return tuple(name for name, node in made.items() if any(_fits(word, p) for word in (name, node) for p in patterns))


def _fits(word: str, pattern: str) -> bool:
    """Whether a pattern fits a name, which may have brackets itself."""
    return word == pattern or fnmatchcase(word, pattern)


def _sums(network: QuantizedNetwork) -> tuple[str, ...]:
    program, shapes = network.program, _shapes(network)
    made = {name for instruction in program.instructions for name in instruction.outputs} | {*program.inputs}
    readers: dict[str, list[Instruction]] = {}
    for instruction in program.instructions:
        for name in instruction.inputs:
            readers.setdefault(name, []).append(instruction)
    groups, found = _groups(program), []
    for instruction in program.instructions:
        parts = [shapes.get(name, ()) for name in instruction.inputs]
        if instruction.op != "Add" or not made.issuperset(instruction.inputs):
            continue
        if len(parts[0]) < 2 or parts[0] != parts[1]:
            continue
        name = instruction.outputs[0]
        behind = [reader.outputs[0] for reader in readers.get(name, ())]
        name = behind[0] if len(behind) == 1 and behind[0] in network.clamps else name
        if (name in groups or any(group is not None for group in instruction.groups)) and name not in program.outputs:
            found.append(name)  # reads or gives what is quantized: no arithmetic of indices
    return tuple(found)


def _last_of_resolutions(network: QuantizedNetwork) -> tuple[str, ...]:
    program, shapes, groups = network.program, _shapes(network), _groups(network.program)
    found: dict[tuple[int, ...], str] = {}
    for instruction in program.instructions:
        for name in instruction.outputs:
            shape = shapes.get(name, ())
            if len(shape) >= 2 and name in groups and name not in program.outputs:
                found[shape[2:]] = name
    return tuple(found.values())


def _shapes(network: QuantizedNetwork) -> Mapping[str, tuple[int, ...]]:
    return {} if network.origin is None else network.origin.shapes
