"""Where each buffer lies in one static arena: greedy by size over lifetimes.

A buffer lives from the step that writes it to the last that reads it, both included. The largest comes first; each goes
to the lowest aligned offset at which it meets none of those placed before that live at the same time:

    by size, falling (then by birth, then by name)   ->   offset   ->   arena size = the highest end

Whole buffers are placed, so two that live together never share a byte, and equal inputs give equal offsets. Optimal it
is not (the problem is NP-hard); on chains of layers it is within some per cent of the bound, the largest sum of what
lives at once.

Source: Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference", arXiv:2001.03288.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 8


@dataclass(frozen=True)
class Buffer:
    """`size` bytes that live from step `first` to step `last`, both included."""

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: "Buffer") -> bool:
        """Whether both live at some step."""
        return self.first <= other.last and other.first <= self.last


def planned(buffers: Sequence[Buffer], alignment: int = ALIGNMENT) -> tuple[dict[str, int], int]:
    """The offset of each buffer by its name, multiples of `alignment`, and the size of the arena in bytes."""
    placed: list[tuple[int, Buffer]] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first, b.name)):
        at = 0
        for start, other in sorted(((s, b) for s, b in placed if b.meets(buffer)), key=lambda pair: pair[0]):
            if at + buffer.size <= start:
                break
            at = max(at, -(-(start + other.size) // alignment) * alignment)
        placed.append((at, buffer))
    return {b.name: at for at, b in placed}, max((at + b.size for at, b in placed), default=0)


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """The most bytes that live at one step: no plan needs less."""
    steps = {b.first for b in buffers}
    return max((sum(b.size for b in buffers if b.first <= step <= b.last) for step in steps), default=0)
