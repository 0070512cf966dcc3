"""Promised: the digest of samples is the same however they were read before, and what was read is not read again."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.data.digest import Digested, FileDigests, digest_of, digests, sample_digest
from halfeven.data.sample import Sample
from halfeven.errors import BadCalibration

SAMPLES: list[Sample | None] = [
    {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "ids": np.array([1, 2])},
    None,  # a bad one
    {"x": np.zeros((0, 3), np.float32), "ids": np.array([], np.int64)},
    {"x": np.array(1.5, np.float16), "ids": np.array([True])},
    {"x": np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2], "ids": np.array([7])},
]


class Counted:
    """The samples, and which were read."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __call__(self, index: int) -> Sample:
        self.reads.append(index)
        sample = SAMPLES[index]
        if sample is None:
            raise BadCalibration("a bad sample")
        return sample


def test_texts_are_told_apart_by_what_they_say_and_where_they_end() -> None:
    texts = [["ab", "c"], ["a", "bc"], ["ab", "c", ""], ["ab\0", "c"]]
    digests = [sample_digest({"s": np.array(row, object)}) for row in texts]
    assert len(set(digests)) == len(texts)
    assert sample_digest({"s": np.array(["ab", "c"], object)}) == digests[0]


def attempt(samples: Digested, index: int) -> None:
    try:
        samples.read(index)
    except BadCalibration:
        assert SAMPLES[index] is None


def plainly() -> str:
    found = digests([lambda i=i: Counted()(i) for i in range(len(SAMPLES))])
    return digest_of(one.whole for one in found)


@given(st.lists(st.integers(0, len(SAMPLES) - 1), max_size=12))
def test_whatever_was_read_before_the_digest_is_the_same(order: list[int]) -> None:
    samples = Digested(Counted(), len(SAMPLES))
    for index in order:
        attempt(samples, index)
    assert samples() == samples() == plainly()


@pytest.mark.parametrize("read_before", [[0, 1, 2, 3, 4], [4, 2, 0], [1, 3]])
def test_what_was_read_is_not_read_again(read_before: list[int]) -> None:
    read = Counted()
    samples = Digested(read, len(SAMPLES))
    for index in read_before:
        attempt(samples, index)
    assert samples() == samples() == plainly()
    assert sorted(read.reads) == list(range(len(SAMPLES)))


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_other_samples_have_another_digest(change: str) -> None:
    x = np.arange(4, dtype=np.float32)
    others = {"value": {"x": x + 1}, "name": {"y": x}, "dtype": {"x": x.astype(np.int32)}, "shape": {"x": x[None]}}
    assert digests([lambda: {"x": x}]) != digests([lambda: others[change]])


def test_files_are_told_apart_by_their_bytes_and_read_once(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)
    files = FileDigests()
    assert files[tmp_path / "a"] == files[tmp_path / "b"] != files[tmp_path / "c"]
    before = files.of([("a", tmp_path / "a"), ("none", tmp_path / "none")], "options")
    (tmp_path / "a").write_text("three")
    assert files.of([("a", tmp_path / "a"), ("none", tmp_path / "none")], "options") == before
    assert FileDigests().of([("a", tmp_path / "a"), ("none", tmp_path / "none")], "options") != before
