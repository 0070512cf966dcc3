"""Promised: arrays are cut along their first axis as the model's ranks say, lazily, and without unpickling anything."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.data import stored
from halfeven.data.source import InputSpec, open_source
from halfeven.data.stored import read_npy, read_npz
from halfeven.errors import BadCalibration, BadOption


def spec(name: str, dtype: str, *shape: int | str | None) -> InputSpec:
    return InputSpec(name, np.dtype(dtype), shape)


X = np.arange(24, dtype=np.float32).reshape(6, 4)
IDS = spec("input_ids", "int64", "batch", "sequence")
MASK = spec("attention_mask", "int64", "batch", "sequence")
SEGMENTS = spec("token_type_ids", "int64", "batch", "sequence")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_gives_its_rows_one_at_a_time(tmp_path: Path, save: Any, order: Any) -> None:
    save(tmp_path / "calib.npz", anything=np.array(X, order=order))
    source = open_source(tmp_path / "calib.npz", [spec("x", "float32", "N", 4)])
    assert source.count == 6
    for _ in range(2):  # re-iterable
        got = list(source)
        assert [label for label, _ in got] == [f"calib.npz[{index}]" for index in range(6)]
        assert np.array_equal(np.concatenate([sample["x"] for _, sample in got]), X)


def test_an_npy_is_mapped_and_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    assert isinstance(read_npy(tmp_path / "x.npy").open(), np.memmap)
    np.savez(tmp_path / "x.npz", x=X)
    assert isinstance(read_npz(tmp_path / "x.npz")["x"].open(), np.memmap)
    ((_, sample), *rest) = open_source(tmp_path / "x.npy", [spec("x", "float32", "N", 4)])
    assert type(sample["x"]) is np.ndarray
    assert len(rest) == 5


def test_a_large_compressed_array_is_unpacked_to_a_file_that_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "IN_MEMORY", 8)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    np.savez_compressed(tmp_path / "x.npz", x=X)
    array = read_npz(tmp_path / "x.npz")["x"].open()
    assert np.array_equal(array, X)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    del array
    assert not list(tmp_path.glob("*.npy"))


@given(
    length=st.integers(1, 12),
    batch=st.integers(1, 5),
    limit=st.none() | st.integers(1, 15),
)
def test_a_fixed_batch_gives_whole_chunks_and_a_limit_an_ordered_part(
    length: int, batch: int, limit: int | None
) -> None:
    x = np.arange(length * 2, dtype=np.float32).reshape(length, 2)
    if length < batch:
        with pytest.raises(BadCalibration, match="holds no sample"):
            open_source(x, [spec("x", "float32", batch, 2)])
        return
    source = open_source(x, [spec("x", "float32", batch, 2)], limit=limit)
    chunks = [sample["x"] for _, sample in source]
    assert len(chunks) == source.count == min(length // batch, limit or length)
    starts = [int(chunk[0, 0]) // 2 for chunk in chunks]
    assert starts == sorted(set(starts))
    assert all(start % batch == 0 for start in starts)
    assert all(np.array_equal(chunk, x[start : start + batch]) for start, chunk in zip(starts, chunks, strict=True))
    assert any("dropped" in note for note in source.notes) == (length % batch > 0)


def test_an_array_with_one_axis_more_holds_whole_feeds() -> None:
    data = {"input": np.zeros((8, 56, 576), np.float32), "h": np.ones((8, 1, 1, 128), np.float32)}
    specs = [spec("input", "float32", "sequence", 576), spec("h", "float32", 1, 1, 128)]
    source = open_source(data, specs)
    assert source.count == 8
    _, sample = next(iter(source))
    assert {name: array.shape for name, array in sample.items()} == {"input": (56, 576), "h": (1, 1, 128)}


def test_one_sample_without_its_batch_axis_is_one_sample() -> None:
    ((_, sample),) = open_source(np.zeros((3, 5, 5), np.float32), [spec("x", "float32", "N", 3, 5, 5)])
    assert sample["x"].shape == (1, 3, 5, 5)


def test_a_scalar_and_a_shared_array_go_into_every_sample() -> None:
    data = {"x": X, "rate": np.int64(16000), "shape": np.array([4.0], np.float32)}
    specs = [spec("x", "float32", "N", 4), spec("rate", "int64"), spec("shape", "float32", 1)]
    source = open_source(data, specs)
    assert source.count == 6
    assert all(sample["rate"] == 16000 and sample["shape"].tolist() == [4.0] for _, sample in source)
    assert [note for note in source.notes if "the same in every sample" in note] == [
        "arrays: 'rate' is the same in every sample.",
        "arrays: 'shape' is the same in every sample.",
    ]


def test_missing_segment_ids_are_zeros_shaped_like_the_ids(tmp_path: Path) -> None:
    ids = np.ones((3, 7), np.int64)
    np.savez(tmp_path / "calib.npz", input_ids=ids, attention_mask=ids)
    source = open_source(tmp_path / "calib.npz", [IDS, MASK, SEGMENTS])
    assert all(not s["token_type_ids"].any() and s["token_type_ids"].shape == (1, 7) for _, s in source)
    assert any("'token_type_ids'" in note and "zeros" in note for note in source.notes)


def test_a_missing_input_is_named_with_what_there_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "calib.npz", input_ids=np.ones((3, 7), np.int64), token_type_ids=np.ones((3, 7), np.int64))
    with pytest.raises(
        BadCalibration,
        match=r"'attention_mask' int64 \[batch, sequence\] is not in calib.npz, which has input_ids, token_type_ids",
    ):
        open_source(tmp_path / "calib.npz", [IDS, MASK, SEGMENTS])


def test_keys_that_the_model_lacks_are_ignored_and_noted(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=X, words=np.array(["a"] * 6), junk=X)
    source = open_source(tmp_path / "c.npz", [spec("x", "float32", "N", 4)])
    assert source.notes == ("c.npz: the model has no input words, junk; ignored.",)


def test_labels_beside_the_data_are_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", data=X, y=np.arange(6, dtype=np.uint8))
    source = open_source(tmp_path / "c.npz", [spec("x", "float32", "N", 4)], limit=2)
    assert source.labels == {"c.npz[0]": {0}, "c.npz[3]": {3}}


def test_given_labels_by_position_count_before_a_limit() -> None:
    source = open_source(X, [spec("x", "float32", "N", 4)], limit=2, labels=np.arange(10, 16))
    assert source.labels == {"array[0]": {10}, "array[3]": {13}}


def test_labels_of_another_kind_are_ignored_and_noted() -> None:
    source = open_source({"x": X, "y": np.zeros((6, 2))}, [spec("x", "float32", "N", 4)])
    assert source.labels == {}
    assert "'y' is not one whole number per sample" in source.notes[0]


@pytest.mark.parametrize(("given_dtype", "wanted"), [("float64", "float32"), ("int32", "int64"), ("uint8", "float32")])
def test_a_dtype_that_loses_nothing_is_converted_and_noted(given_dtype: str, wanted: str) -> None:
    source = open_source(X.astype(given_dtype), [spec("x", wanted, "N", 4)])
    assert all(sample["x"].dtype == wanted for _, sample in source)
    assert f"'x' is {given_dtype} and is fed as {wanted}" in source.notes[0]


def test_a_dtype_that_would_change_a_value_is_refused() -> None:
    source = open_source(X + 0.5, [spec("x", "int64", "N", 4)])
    with pytest.raises(
        BadCalibration, match=r"array\[0\]: input 'x' int64 \[N, 4\] got float32 values that int64 cannot"
    ):
        next(iter(source))


def test_uint8_pictures_in_an_array_are_prepared(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (4, 5, 6), np.uint8)
    np.savez(tmp_path / "f.npz", x=codes, y=np.arange(4))
    source = open_source(tmp_path / "f.npz", [spec("input", "float32", "N", 1, 5, 6)], preprocess="unit")
    got = np.concatenate([sample["input"] for _, sample in source])
    assert np.array_equal(got[:, 0], codes / np.float32(255))
    assert source.labels["f.npz[2]"] == {2}


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)])
def test_channels_of_pictures_in_an_array_may_be_first_or_last(axes: tuple[int, ...]) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
    source = open_source(codes.transpose(axes), [spec("x", "float32", 2, 3, 5, 6)], preprocess="raw")
    ((_, sample),) = source
    assert np.array_equal(sample["x"], codes.transpose(0, 3, 1, 2))


def test_a_preprocess_for_prepared_floats_is_refused() -> None:
    with pytest.raises(BadOption, match=r"applies to uint8 pictures, but the data are 'x' float32 \[6, 4\]"):
        open_source(X, [spec("x", "float32", "N", 4)], preprocess="imagenet")


def test_ranks_and_counts_that_do_not_fit_are_explained() -> None:
    with pytest.raises(BadCalibration, match=r"'x' float32 \[6, 4\] does not fit input 'x' float32 \[N, 1, 2, 2\]"):
        open_source(X, [spec("x", "float32", "N", 1, 2, 2)])
    with pytest.raises(BadCalibration, match="If these are pictures, --preprocess"):
        open_source(np.zeros((9, 5, 6), np.uint8), [spec("x", "float32", "N", 1, 5, 6)])
    specs = [spec("a", "float32", "N", 4), spec("b", "float32", "N", 4)]
    with pytest.raises(
        BadCalibration, match=r"different numbers of samples: 'a' \[6, 4\] feeds 6, 'b' \[5, 4\] feeds 5"
    ):
        open_source({"a": X, "b": X[:5]}, specs)


def test_the_digest_tells_the_feeds_and_nothing_else(tmp_path: Path) -> None:
    model = [spec("x", "float32", "N", 4)]
    np.savez_compressed(tmp_path / "a.npz", x=X)
    np.save(tmp_path / "b.npy", X)
    same = {open_source(data, model).digest for data in (tmp_path / "a.npz", tmp_path / "b.npy", X, {"x": X}, iter(X))}
    assert len(same) == 1
    changed = X.copy()
    changed[5, 3] += 1
    others = {open_source(data, model, limit=n).digest for data, n in ((changed, None), (X, 5), (X[::-1], None))}
    assert len(same | others) == 4


def objects_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def lying_npy() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 4)})
    return buffer.getvalue() + b"\0" * 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (objects_npy(), "holds Python objects, which are never loaded"),
        (lying_npy(), r"claims float32 \[1000000000, 4\], the file has 64 bytes"),
        (pickle.dumps([1, 2]), "cannot be read as arrays"),
        (b"", "cannot be read as arrays"),
    ],
)
@pytest.mark.parametrize("compression", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_hostile_and_damaged_arrays_are_refused(
    tmp_path: Path, content: bytes, message: str, compression: int | None
) -> None:
    path = tmp_path / ("x.npy" if compression is None else "x.npz")
    if compression is None:
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("x.npy", content)
    with pytest.raises(BadCalibration, match=message):
        open_source(path, [spec("x", "float32", "N", 4)])


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).random(1000))
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    (tmp_path / "cut.npz").write_bytes(whole[:500])
    with pytest.raises(BadCalibration, match=r"cut\.npz cannot be read as arrays"):
        open_source(tmp_path / "cut.npz", [spec("x", "float64", "N")])
    whole[4000] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(whole)
    with pytest.raises(BadCalibration, match=r"flipped\.npz"):
        open_source(tmp_path / "flipped.npz", [spec("x", "float64", "N")])


def test_an_array_without_samples_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X[:0])
    with pytest.raises(BadCalibration, match=r"\[0, 4\] holds no sample"):
        open_source(tmp_path / "x.npy", [spec("x", "float32", "N", 4)])
