"""Minimum cut: the cheapest way to split a graph in two, exactly.

`MinCut` holds directed capacities between hashable names and finds the set on the source's side of a minimum cut
(Dinic 1970: level graphs and blocking flows; O(V^2 E) at worst, far less on the shallow graphs met here). Capacities
are integers, so that the result is exact and the same everywhere. By the
max-flow min-cut theorem the sum of capacities that leave the set is the least possible.
"""

from collections import deque
from collections.abc import Hashable

INFINITE = 1 << 60


class MinCut:
    """Capacities, added one by one; then `source_side`."""

    def __init__(self) -> None:
        """Start without edges."""
        self._ids: dict[Hashable, int] = {}
        self._out: list[list[int]] = []
        self._head: list[int] = []
        self._room: list[int] = []

    def _id(self, name: Hashable) -> int:
        if name not in self._ids:
            self._ids[name] = len(self._out)
            self._out.append([])
        return self._ids[name]

    def add(self, tail: Hashable, head: Hashable, capacity: int) -> None:
        """Cutting `tail` (source's side) from `head` (sink's side) costs `capacity`."""
        if capacity < 0:
            raise ValueError(f"capacity {capacity} of {tail!r} -> {head!r} is negative")
        a, b = self._id(tail), self._id(head)
        for start, end, room in ((a, b, capacity), (b, a, 0)):
            self._out[start].append(len(self._head))
            self._head.append(end)
            self._room.append(room)

    def source_side(self, source: Hashable, sink: Hashable) -> set[Hashable]:
        """The names that stay with `source` in a minimum cut: the smallest such set."""
        s, t = self._id(source), self._id(sink)
        while (level := self._levels(s))[t] >= 0:
            self._block(s, t, level, [0] * len(self._out))
        return {name for name, i in self._ids.items() if level[i] >= 0}

    def _levels(self, s: int) -> list[int]:
        level = [-1] * len(self._out)
        level[s] = 0
        queue = deque([s])
        while queue:
            u = queue.popleft()
            for e in self._out[u]:
                if self._room[e] > 0 and level[self._head[e]] < 0:
                    level[self._head[e]] = level[u] + 1
                    queue.append(self._head[e])
        return level

    def _block(self, s: int, t: int, level: list[int], cursor: list[int]) -> None:
        """Saturate every shortest path; iterative, as graphs are deeper than Python's stack."""
        path: list[int] = []
        u = s
        while True:
            if u == t:
                flow = min(self._room[e] for e in path)
                for e in path:
                    self._room[e] -= flow
                    self._room[e ^ 1] += flow
                first = next(i for i, e in enumerate(path) if self._room[e] == 0)
                del path[first:]
                u = self._head[path[-1]] if path else s
            while cursor[u] < len(self._out[u]):
                e = self._out[u][cursor[u]]
                if self._room[e] > 0 and level[self._head[e]] == level[u] + 1:
                    break
                cursor[u] += 1
            if cursor[u] < len(self._out[u]):
                path.append(self._out[u][cursor[u]])
                u = self._head[path[-1]]
            elif u == s:
                return
            else:
                u = self._head[path.pop() ^ 1]
                cursor[u] += 1
