"""Promised: the two parts of a source have every sample once, keep order, labels and notes; reading ahead gives the
same items and errors, and stops when nobody listens.
"""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.data.part import Part, read_ahead
from halfeven.data.sample import InputSpec, Source
from halfeven.data.source import open_source
from halfeven.errors import BadCalibration

SPEC = InputSpec("x", np.dtype(np.float32), ("N", 2))


def source(count: int) -> Source:
    x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    return open_source({"x": x, "y": np.arange(count)}, [SPEC])


@given(count=st.integers(1, 60), every=st.integers(2, 9))
def test_each_sample_is_in_one_part_and_the_order_is_kept(count: int, every: int) -> None:
    whole = source(count)
    kept, held = Part(whole, every, held=False), Part(whole, every, held=True)
    labels = [label for label, _ in whole]
    assert [label for label, _ in held] == labels[every - 1 :: every]
    assert [label for label, _ in kept] == [label for i, label in enumerate(labels) if i % every != every - 1]
    assert (kept.count, held.count) == (len(list(kept)), len(list(held)))
    assert [label for label, _ in kept.readers()] == [label for label, _ in kept]


def test_a_part_has_the_digest_labels_and_notes_of_the_whole() -> None:
    whole = open_source({"x": np.ones((9, 2), np.float64), "y": np.arange(9)}, [SPEC])
    part = Part(whole, 3, held=True)
    assert (part.digest, part.labels) == (whole.digest, whole.labels)
    assert part.notes == tuple(whole.notes)
    assert any("is fed as float32" in note for note in part.notes)
    assert {label for label, _ in part} <= set(part.labels)


def test_a_source_of_unknown_length_has_parts_of_unknown_length() -> None:
    class Loader:
        def __iter__(self) -> Iterator[np.ndarray]:
            return iter(np.ones((10, 2), np.float32)[:, None])

    part = Part(open_source(Loader(), [SPEC]), 5, held=True)
    assert part.count is None
    assert len(list(part)) == 2


@given(st.lists(st.integers()), st.integers(1, 4))
def test_reading_ahead_gives_the_same_items(items: list[int], depth: int) -> None:
    assert list(read_ahead(iter(items), depth)) == items


def test_an_error_arrives_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise BadCalibration("the third is bad")

    ahead = read_ahead(failing())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(BadCalibration, match="the third is bad"):
        next(ahead)


def test_no_more_is_read_than_the_depth_and_nothing_after_the_reader_left() -> None:
    read: list[int] = []

    def counting() -> Iterator[int]:
        for i in range(1000):
            read.append(i)
            yield i

    ahead = read_ahead(counting(), depth=2)
    assert next(ahead) == 0
    time.sleep(0.05)
    assert read == [0]  # nobody asked for more
    assert next(ahead) == 1
    time.sleep(0.05)
    deadline = time.monotonic() + 5
    while len(read) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(read) == 5  # two given, two waiting, one in hand
    ahead.close()  # type: ignore[attr-defined]
    count = len(read)
    time.sleep(0.25)
    assert len(read) == count
    assert not [thread for thread in threading.enumerate() if thread.name == "halfeven-read-ahead"]
