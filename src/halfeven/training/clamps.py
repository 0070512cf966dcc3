"""Clamps of a program (Relu, Clip with constant bounds), which take part in the quantizer behind them.

    y = clamp(x), and every reader sees y through the quantizer of one group:    y's codes are made of x in one pass

The values and gradients are those of the two one after the other, to the bit; a tensor and two passes are saved. A
clamp whose readers see it in several ways, or not quantized at all, stays an operator. Its gradient at the ends is 0,
as that of PyTorch's relu and hardtanh.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf

from halfeven.numerics.native import Ends
from halfeven.training.program import Instruction, Program
from halfeven.training.pytorch import Tensor


@dataclass(frozen=True)
class Clamp:
    """The ends, and the group through whose quantizer all see the result; None if there is no such group."""

    ends: Ends
    group: int | None


def clamps_of(program: Program, fixed: Mapping[str, Tensor]) -> dict[str, Clamp]:
    """The clamps of a program's main graph by the name of what they make; `fixed` holds its constants."""
    readers: dict[str, set[int | None]] = {}
    for name, group in _readers(program):
        readers.setdefault(name, set()).add(group)
    found = {}
    for instruction in program.instructions:
        ends = _ends(instruction, fixed)
        if ends is not None:
            groups = readers.get(instruction.outputs[0], {None})
            found[instruction.outputs[0]] = Clamp(ends, next(iter(groups)) if len(groups) == 1 else None)
    return found


def _readers(program: Program) -> Iterator[tuple[str, int | None]]:
    for instruction in program.instructions:
        yield from zip(instruction.inputs, instruction.groups, strict=True)
        for body in instruction.bodies.values():
            yield from ((name, None) for name, _ in _readers(body))
    yield from zip(program.outputs, program.output_groups or (None,) * len(program.outputs), strict=True)


def _ends(instruction: Instruction, fixed: Mapping[str, Tensor]) -> Ends | None:
    if instruction.op == "Relu":
        return 0.0, inf
    if instruction.op != "Clip":
        return None
    low, high = (
        _bound(instruction, port, attribute, fixed, default)
        for port, attribute, default in ((1, "min", -inf), (2, "max", inf))
    )
    return None if low is None or high is None or not low <= high else (low, high)


def _bound(
    instruction: Instruction, port: int, attribute: str, fixed: Mapping[str, Tensor], default: float
) -> float | None:
    """A bound of Clip; None if it is no constant, or one of integers."""
    name = instruction.inputs[port] if port < len(instruction.inputs) else ""
    if not name:
        return float(instruction.attributes.get(attribute, default))
    bound = fixed.get(name)
    return None if bound is None or bound.numel() != 1 or not bound.is_floating_point() else float(bound)
