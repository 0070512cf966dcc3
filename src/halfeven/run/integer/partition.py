"""Which operators run on codes, and how the others join to regions.

Operators without an integer kernel join along the real tensors between them, unless a path from one to the other leaves
the region: then neither could run first. Where a tensor has one reader, maker and reader join before others do, as that
is where a runtime fuses them; the last operators come first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from halfeven.graph.network import Network, Op, Tensor
from halfeven.run.integer.regions import outer


@dataclass
class Partition:
    """Sets of operators, by index in the network. `real`: those without a kernel."""

    network: Network
    real: frozenset[int]
    part: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        ops = self.network.ops
        self.part = list(range(len(ops)))
        self._maker = {t.name: (i, t) for i, op in enumerate(ops) for t in op.outputs}
        self._reads = [self._made(op) for op in ops]
        self._readers: list[set[int]] = [set() for _ in ops]
        for i, reads in enumerate(self._reads):
            for maker, _ in reads:
                self._readers[maker].add(i)
        for only in (True, False):
            for i in reversed(range(len(ops))):
                for maker, tensor in self._reads[i]:
                    joined = {i, maker} <= self.real and not tensor.coded
                    if joined and (len(self._readers[maker]) == 1) is only:
                        self._join(maker, i)

    def _made(self, op: Op) -> list[tuple[int, Tensor]]:
        seen = [t for t in (*op.inputs, *outer(op)) if t is not None and t.name in self._maker]
        return [self._maker[t.name] for t in seen]

    def _join(self, maker: int, reader: int) -> None:
        """Join two parts if no path between them leaves them."""
        first, second = self.part[maker], self.part[reader]
        if first == second or self._detour(first, second):
            return
        self.part = [second if p == first else p for p in self.part]

    def _detour(self, first: int, second: int) -> bool:
        inside = [i for i, p in enumerate(self.part) if p == first]
        waiting = [r for i in inside for r in self._readers[i] if self.part[r] not in (first, second)]
        seen = set(waiting)
        while waiting:
            at = waiting.pop()
            for reader in self._part_readers(at):
                if self.part[reader] == second:
                    return True
                if reader not in seen:
                    seen.add(reader)
                    waiting.append(reader)
        return False

    def _part_readers(self, at: int) -> Iterator[int]:
        """Readers of anything in the part of an operator: it runs as one."""
        part = self.part[at]
        if at not in self.real:
            yield from self._readers[at]
            return
        for i, p in enumerate(self.part):
            if p == part:
                yield from self._readers[i]

    def ordered(self) -> list[list[int]]:
        """The parts, each after those that it reads from; operators in order within."""
        members: dict[int, list[int]] = {}
        for i, p in enumerate(self.part):
            members.setdefault(p, []).append(i)
        needs = {p: {self.part[m] for i in ms for m, _ in self._reads[i]} - {p} for p, ms in members.items()}
        order: list[list[int]] = []
        done: set[int] = set()
        waiting = sorted(members, key=lambda p: members[p][0])
        while waiting:
            ready = [p for p in waiting if needs[p] <= done]
            assert ready, "parts read from each other"
            order += [members[p] for p in ready]
            done.update(ready)
            waiting = [p for p in waiting if p not in done]
        return order
