"""A minimum cut: as cheap as any assignment of nodes to the two sides, and of those the smallest source side."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfeven.graph.cut import INFINITE, MinCut

NODES = 6
EDGES = st.lists(
    st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1), st.integers(0, 4) | st.just(INFINITE)), max_size=16
)


def _cost(edges: list[tuple[int, int, int]], side: frozenset[int]) -> int:
    return sum(capacity for tail, head, capacity in edges if tail in side and head not in side)


def _cut(edges: list[tuple[int, int, int]]) -> set[object]:
    cut = MinCut()
    for edge in edges:
        cut.add(*edge)
    return cut.source_side(0, NODES - 1)


@settings(max_examples=200, deadline=None)
@given(EDGES)
def test_no_assignment_is_cheaper_and_none_as_cheap_is_smaller(edges: list[tuple[int, int, int]]) -> None:
    sides = [
        frozenset({0, *(node for node, chosen in zip(range(1, NODES - 1), choice, strict=True) if chosen)})
        for choice in product((False, True), repeat=NODES - 2)
    ]
    least = min(_cost(edges, side) for side in sides)
    found = _cut(edges)
    if least >= INFINITE:
        return
    assert _cost(edges, frozenset(found)) == least  # type: ignore[arg-type]
    assert found == frozenset.intersection(*(side for side in sides if _cost(edges, side) == least))


@settings(max_examples=50, deadline=None)
@given(EDGES, st.randoms())
def test_the_order_of_edges_does_not_matter(edges: list[tuple[int, int, int]], random: object) -> None:
    shuffled = list(edges)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    if sum(capacity == INFINITE for *_, capacity in edges) == 0:
        assert _cut(edges) == _cut(shuffled)


def test_capacities_of_parallel_edges_add_up() -> None:
    cut = MinCut()
    for tail, head, capacity in [("s", "a", 3), ("s", "a", 3), ("a", "t", 5)]:
        cut.add(tail, head, capacity)
    assert cut.source_side("s", "t") == {"s", "a"}


def test_large_capacities_stay_exact() -> None:
    big = 10**17
    cut = MinCut()
    for tail, head, capacity in [("s", "a", big), ("a", "t", big + 1), ("s", "b", big + 1), ("b", "t", big)]:
        cut.add(tail, head, capacity)
    assert cut.source_side("s", "t") == {"s", "b"}


def test_what_is_not_reached_is_on_the_other_side() -> None:
    cut = MinCut()
    cut.add("a", "t", 1)
    assert cut.source_side("s", "t") == {"s"}


def test_a_graph_deeper_than_the_stack_is_cut() -> None:
    cut = MinCut()
    for i in range(5000):
        cut.add(i, i + 1, 1 if i == 3000 else 2)
    assert cut.source_side(0, 5000) == set(range(3001))


def test_a_negative_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity -1 of 'a' -> 'b' is negative"):
        MinCut().add("a", "b", -1)
