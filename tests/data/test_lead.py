"""Promised: the few samples that come first are the same ones in whatever order data of any kind are given, each sample
comes once, and it is known where it stood.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.data.digest import BLOCK, BLOCKS
from halfeven.data.lead import LedSource, few, led
from halfeven.data.part import Part
from halfeven.data.sample import InputSpec, Source
from halfeven.data.source import open_source
from halfeven.feeding import Checked

SPEC = InputSpec("x", np.dtype(np.float32), ("N", 2))
PICTURE = InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))
ROWS = np.arange(40, dtype=np.float32).reshape(20, 2)


class Loader:
    """Iterated again at each pass, its length unknown; counts the passes."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.passes = rows, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.passes += 1
        return (row[None] for row in self.rows)


def as_source(kind: str, rows: np.ndarray) -> Source:
    kinds: dict[str, Any] = {"array": rows, "list": list(rows), "generator": iter(rows), "loader": Loader(rows)}
    return open_source(kinds[kind], [SPEC])


def values(source: Any) -> list[float]:
    return [float(read()["x"].flat[0]) for _, read in source.readers()]


@pytest.mark.parametrize("kind", ["array", "list", "generator", "loader"])
@pytest.mark.parametrize("held", [None, False, True])
def test_the_same_few_come_first_whatever_the_order(kind: str, held: bool | None) -> None:
    found = set()
    for seed in range(3):
        source = as_source(kind, np.random.default_rng(seed).permutation(ROWS))
        if held is not None:  # of whichever samples the part has
            source = Part(source, 4, held)
        few = LedSource(source, 4)
        seen, given_before = values(few), values(source)
        assert sorted(seen) == sorted(given_before)
        assert seen[4:] == [v for v in given_before if v not in seen[:4]]
        assert values(few) == seen
        turns = [few.turns[label].popleft() for label, _ in few.readers()]
        assert [turn.first for turn in turns] == [i < 4 for i in range(len(seen))]
        assert [given_before[turn.place] for turn in turns] == seen
        found.add(tuple(seen[:4]))
    assert len(found) == (1 if held is None else 3)


@pytest.mark.parametrize("kind", ["list", "generator", "loader"])
def test_other_kinds_of_data_are_told_apart_as_an_array_of_them_is(kind: str) -> None:
    found = as_source(kind, ROWS).contents
    assert len(set(found)) == len(ROWS)
    assert list(found) == list(as_source("array", ROWS).contents)


def test_a_loader_is_read_three_times_however_often_its_few_are_taken() -> None:
    loader = Loader(ROWS)
    few = LedSource(open_source(loader, [SPEC]), 4)
    for _ in range(3):
        for _, (_, read) in zip(range(4), few.readers(), strict=False):
            read()
    assert loader.passes == 2  # their digests, and those that come first
    values(few)
    assert loader.passes == 3


def test_of_files_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pictures = [PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(9)]
    orders = [list(range(9)), list(range(9))[::-1]]
    first = []
    for n, order in enumerate(orders):
        folder = tmp_path / str(n)
        folder.mkdir()
        for name, picture in enumerate(order):
            pictures[picture].save(folder / f"{name}.png")
        few = LedSource(open_source(folder, [PICTURE], preprocess="raw"), 3)
        first.append([order[int(label[0])] for (label, _), _ in zip(few.readers(), range(3), strict=False)])
    assert first[0] == first[1]


@pytest.mark.parametrize("kind", ["array", "list", "generator", "loader"])
def test_what_cannot_be_used_gives_its_place_among_the_few_to_no_other(kind: str) -> None:
    for bad in range(len(ROWS)):
        rows, found = ROWS.copy(), set()
        rows[bad, 0] = np.nan
        for seed in range(3):
            source = as_source(kind, np.random.default_rng(seed).permutation(rows))
            found.add(tuple(float(feeds["x"][0, 1]) for _, feeds in few(Checked(source, [SPEC]), 4)))
        assert len(found) == 1
        assert len(found.pop()) in (3, 4)


def test_what_cannot_be_read_is_not_among_the_few(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for name in range(20):
        PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    names = [f"{name}.png" for name in range(20)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    source = open_source(tmp_path / "list.txt", [PICTURE], preprocess="raw")
    (tmp_path / "7.png").unlink()
    ordered = [label for label, _ in LedSource(source, 20).readers()]
    assert sorted(ordered) == sorted(names)
    assert ordered[-1] == "7.png"


def test_a_file_that_a_list_names_twice_is_two_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for name in range(8):
        PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "list.txt").write_text("\n".join(f"{name}.png" for name in [*range(8), *range(8)]))
    samples = Checked(open_source(tmp_path / "list.txt", [PICTURE], preprocess="raw"), [PICTURE])
    ordered = samples.led(3)
    for _ in range(2):
        labels = [label for label, _ in ordered]  # each is read ahead before its turn is asked for
        turns = [ordered.turn(number) for number in range(len(labels))]
        assert sorted(turn.place for turn in turns) == list(range(16))
        assert [f"{turn.place % 8}.png" for turn in turns] == labels
        assert [turn.first for turn in turns] == [True] * 3 + [False] * 13
    assert samples.passed == 16


def test_rows_that_differ_between_the_blocks_looked_at_are_told_apart() -> None:
    rows = np.zeros((3, 4 * BLOCKS * BLOCK), np.uint8)
    rows[1, BLOCK + 1], rows[2, BLOCK + 2] = 1, 1
    spec = InputSpec("x", np.dtype(np.uint8), ("N", rows.shape[1]))
    keys = open_source(rows, [spec]).contents
    assert len(set(keys)) == 3
    assert list(open_source(rows[::-1], [spec]).contents) == list(keys)[::-1]


@given(st.permutations(range(9)), st.integers(0, 12))
def test_labelled_samples_in_a_list_are_led_alike(order: list[int], count: int) -> None:
    samples = [(f"s{i}", {"x": ROWS[i]}) for i in order]
    few = led(samples, count)
    labels = [label for label, _ in few]
    assert [label for label, _ in few] == labels
    assert labels[:count] == [label for label, _ in led(sorted(samples), count)][:count]
    assert sorted(labels) == [f"s{i}" for i in range(9)]
    for number, label in enumerate(labels):
        place, first = few.turn(number)
        assert samples[place][0] == label
        assert first == (number < count)
