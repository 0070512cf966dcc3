"""Promised: whatever Python yields becomes samples of batch 1, the same ones at each pass, and memory stays bounded."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.data import spool
from halfeven.data.check import checked
from halfeven.data.source import InputSpec, open_source
from halfeven.errors import BadCalibration, BadOption

X = [InputSpec("x", np.dtype("float32"), ("N", 4))]
PAIR = [InputSpec("a", np.dtype("float32"), ("N", 4)), InputSpec("b", np.dtype("int64"), ("N",))]
ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)


class Tensor:
    """Has the three methods by which a PyTorch tensor is known; `numpy` refuses before `detach`, as there."""

    def __init__(self, array: Any, detached: bool = False) -> None:
        self.array, self.detached = array, detached
        self.shape = array.shape

    def detach(self) -> "Tensor":
        return Tensor(self.array, True)

    def cpu(self) -> "Tensor":
        return self

    def numpy(self) -> Any:
        if not self.detached:
            raise RuntimeError("can't call numpy() on a tensor that requires grad")
        return self.array


class Loader:
    """Iterable again and again, without numbered items, as a DataLoader."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.passes = items, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(self.items)


class RandomSampler:
    """Named as PyTorch's; a loader has it when it shuffles."""


def feeds(source: Any, name: str = "x") -> Any:
    return np.concatenate([sample[name] for _, sample in source])


@pytest.mark.parametrize(
    "data",
    [
        list(ROWS),
        [row[None] for row in ROWS],
        [{"x": row} for row in ROWS],
        [{"other name": row} for row in ROWS],
        [(row, 3) for row in ROWS],
        [(Tensor(row), Tensor(np.int64(3))) for row in ROWS],
        [({"x": row}, "a file's name") for row in ROWS],
        [row.tolist() for row in ROWS],
        [ROWS[:4], ROWS[4:8], ROWS[8:]],
        (row for row in ROWS),
        (ROWS[start : start + 3] for start in range(0, 10, 3)),
        Loader([(Tensor(ROWS[:7]), Tensor(np.arange(7))), (Tensor(ROWS[7:]), Tensor(np.arange(3)))]),
    ],
    ids=lambda data: type(data).__name__,
)
def test_each_form_gives_the_same_samples_at_each_pass(data: Any) -> None:
    source = open_source(data, X)
    for _ in range(2):
        assert [sample["x"].shape for _, sample in source] == [(1, 4)] * 10
        assert np.array_equal(feeds(source), ROWS)
    assert source.digest == open_source(ROWS, X).digest


def test_tuples_feed_the_inputs_in_order_and_what_follows_is_the_label() -> None:
    data = [(row, np.int64(index), index % 3) for index, row in enumerate(ROWS)]
    source = open_source(data, PAIR)
    assert np.array_equal(feeds(source, "a"), ROWS)
    assert feeds(source, "b").tolist() == list(range(10))
    assert source.labels == {f"data[{index}]": {index % 3} for index in range(10)}
    assert source.notes == ("the data: of 3 elements in an item the model takes 2.",)


def test_labels_of_batches_go_with_their_rows() -> None:
    batches = [(ROWS[:4], np.arange(4)), (ROWS[4:], np.arange(4, 10))]
    for data in (Loader(batches), iter(batches), batches):
        assert open_source(data, X).labels == {f"data[{index}]": {index} for index in range(10)}


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), batch=st.integers(1, 4))
def test_batches_are_regrouped_to_the_batch_that_the_model_fixes(sizes: list[int], batch: int) -> None:
    total = sum(sizes)
    rows = np.arange(total * 2, dtype=np.float32).reshape(total, 2)
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    source = open_source(Loader(parts), [InputSpec("x", np.dtype("float32"), (batch, 2))])
    got = [sample["x"] for _, sample in source]
    assert all(part.shape == (batch, 2) for part in got)
    whole = total // batch * batch
    assert np.array_equal(np.concatenate([rows[:0], *got]), rows[:whole])
    assert any("dropped" in note for note in source.notes) == (whole < total)


def test_a_state_beside_a_sequence_is_not_split() -> None:
    specs = [InputSpec("input", np.dtype("float32"), ("T", 4)), InputSpec("h", np.dtype("float32"), (1, 1, 2))]
    ((_, sample),) = open_source([(ROWS, np.zeros((1, 1, 2), np.float32))], specs)
    assert sample["input"].shape == (10, 4)


def test_missing_segment_ids_are_zeros_here_too() -> None:
    specs = [InputSpec(name, np.dtype("int64"), ("N", "T")) for name in ("input_ids", "token_type_ids")]
    source = open_source([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5]}], specs)
    assert [sample["token_type_ids"].tolist() for _, sample in source] == [[[0, 0, 0]], [[0, 0]]]
    assert "'token_type_ids'" in source.notes[0]


def test_a_limit_stops_a_generator_without_end_and_spreads_over_a_list() -> None:
    def endless() -> Iterator[Any]:
        index = 0
        while True:
            yield np.full(4, index, np.float32)
            index += 1

    assert feeds(open_source(endless(), X, limit=3))[:, 0].tolist() == [0, 1, 2]
    assert feeds(open_source(list(ROWS), X, limit=5))[:, 0].tolist() == [0, 8, 16, 24, 32]
    assert feeds(open_source(Loader(list(ROWS)), X, limit=3))[:, 0].tolist() == [0, 4, 8]


def test_a_generator_is_kept_in_a_file_that_goes_with_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = open_source(iter(ROWS), X)
    assert source.count == 10
    assert [path.stat().st_size > ROWS.nbytes for path in tmp_path.iterdir()] == [True]
    del source
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_generator_that_would_fill_the_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "ON_DISK", 1000)
    with pytest.raises(BadCalibration, match=r"over 0 GiB in \d+ samples. Set limit"):
        open_source(iter(ROWS), X)


def test_a_loader_which_shuffles_is_kept_from_its_first_pass() -> None:
    loader = Loader(list(ROWS))
    loader.sampler = RandomSampler()  # type: ignore[attr-defined]
    source = open_source(loader, X)
    assert np.array_equal(feeds(source), feeds(source))
    assert loader.passes == 1
    assert "the loader shuffles" in source.notes[0]


def test_a_dataset_with_numbered_items_is_read_by_number() -> None:
    class Dataset:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Any:
            return Tensor(ROWS[index]), index

    source = open_source(Dataset(), X, limit=2)
    assert source.count == 2
    assert source.labels == {"data[0]": {0}, "data[5]": {5}}
    assert np.array_equal(feeds(source), ROWS[[0, 5]])


@pytest.mark.parametrize("wrap", [list, iter, Loader])
def test_one_bad_item_does_not_end_the_others(wrap: Any) -> None:
    items = [row for _ in range(2) for row in ROWS]
    items[3] = np.array(["not", "a", "number", "!"])
    got, findings = checked(source := open_source(wrap(items), X), X)
    assert len(list(got)) == 19
    assert "data[3], input 'x': holds <U6 values" in findings.sentences()[0]
    assert len(source.digest) == 64


def test_pictures_among_items_are_prepared() -> None:
    specs = [InputSpec("x", np.dtype("float32"), ("N", 3, 5, 6))]
    codes = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    for data in (list(codes), Loader([codes[:3], codes[3:]])):
        got = feeds(open_source(data, specs, preprocess="unit"))
        assert np.array_equal(got, codes.transpose(0, 3, 1, 2) / np.float32(255))
    with pytest.raises(BadOption, match=r"applies to uint8 pictures, but 'x' is float32 \[5, 6, 3\]"):
        open_source([codes[0].astype(np.float32)], specs, preprocess="unit")


def test_what_holds_no_samples_is_explained() -> None:
    with pytest.raises(BadCalibration, match="the list is empty"):
        open_source([], X)
    with pytest.raises(BadCalibration, match="the iterable gave no sample"):
        open_source(iter([]), X)
    with pytest.raises(BadCalibration, match=r"input 'b' int64 \[N\] is not in the data, which has a"):
        open_source(iter([{"a": ROWS[0]}]), PAIR)
    with pytest.raises(BadCalibration, match=r"input 'b' int64 \[N\] is not in the data, which has a"):
        open_source([{"a": ROWS[0]}], PAIR)
    with pytest.raises(BadOption, match="iterable of unknown length"):
        open_source(Loader(list(ROWS)), X, labels=[1])
