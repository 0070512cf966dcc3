"""Promised: buffers that live at the same time never share a byte; offsets are aligned; equal inputs give equal plans;
a chain of layers that narrows needs no more than its two largest; axes are merged only where no element moves.
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from halfeven.exporters.c.arena import ALIGNMENT, Buffer, lower_bound, planned
from halfeven.exporters.c.blocks import filled, merged, repeated, strides


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    count = draw(st.integers(0, 24))
    spans = [sorted(draw(st.tuples(st.integers(0, 20), st.integers(0, 20)))) for _ in range(count)]
    return [Buffer(f"b{i}", draw(st.integers(1, 5000)), a, b) for i, (a, b) in enumerate(spans)]


@given(buffers())
def test_no_two_that_live_together_share_a_byte(made: list[Buffer]) -> None:
    offsets, size = planned(made)
    assert set(offsets) == {b.name for b in made}
    for i, a in enumerate(made):
        assert offsets[a.name] % ALIGNMENT == 0
        assert 0 <= offsets[a.name] <= offsets[a.name] + a.size <= size
        for b in made[:i]:
            if a.first <= b.last and b.first <= a.last:
                start, end = offsets[a.name], offsets[a.name] + a.size
                assert end <= offsets[b.name] or offsets[b.name] + b.size <= start


@given(buffers(), st.randoms())
def test_the_plan_does_not_depend_on_the_order_and_is_bounded(made: list[Buffer], random: object) -> None:
    offsets, size = planned(made)
    other = list(made)
    random.shuffle(other)  # type: ignore[attr-defined]
    assert planned(other) == (offsets, size)
    assert lower_bound(made) <= size + ALIGNMENT * len(made)
    assert size <= sum(-(-b.size // ALIGNMENT) * ALIGNMENT for b in made)


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=30))
def test_a_chain_that_narrows_needs_its_first_two_buffers_alone(sizes: list[int]) -> None:
    chain = [Buffer(f"b{i}", size * ALIGNMENT, i, i + 1) for i, size in enumerate(sorted(sizes)[::-1])]
    assert planned(chain)[1] == lower_bound(chain) == sum(sorted(sizes)[-2:]) * ALIGNMENT


def test_a_known_plan() -> None:
    made = [Buffer("a", 100, 0, 1), Buffer("b", 60, 1, 2), Buffer("c", 90, 2, 3), Buffer("d", 8, 0, 3)]
    assert planned(made) == ({"a": 0, "b": 104, "c": 0, "d": 168}, 176)


@st.composite
def broadcasts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    onto = tuple(draw(st.lists(st.integers(1, 4), max_size=5)))
    kept = onto[draw(st.integers(0, len(onto))) :]
    return tuple(draw(st.sampled_from((1, n))) for n in kept), onto


@given(broadcasts(), st.randoms())
def test_merged_axes_visit_the_same_elements_in_the_same_order(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], random: object
) -> None:
    shape, onto = shapes
    flat = np.arange(int(np.prod(shape)))
    order = list(range(len(onto)))
    random.shuffle(order)  # type: ignore[attr-defined]
    steps = [repeated(shape, onto)[i] for i in order]
    lengths, (kept,) = merged([onto[i] for i in order], steps)
    visited = [sum(i * s for i, s in zip(at, kept, strict=True)) for at in np.ndindex(*lengths)]
    wanted = np.broadcast_to(flat.reshape(shape), onto).transpose(order).ravel()
    np.testing.assert_array_equal(visited, wanted)
    assert len(lengths) >= 1


def test_axes_in_c_order_merge_into_one_and_arrays_are_filled_with_zeros() -> None:
    assert merged((2, 3, 4), strides((2, 3, 4))) == ((24,), [(1,)])
    assert merged((), ()) == ((1,), [(0,)])
    assert filled((2, 3)) == (2, 3, 0, 0, 0, 0)
