"""Promised: folders, lists of files, recordings and labels are found, in a fixed order, or refused with a reason."""

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from halfeven.data.audio import read_wav, resample
from halfeven.data.labels import load_labels
from halfeven.data.source import InputSpec, open_source
from halfeven.errors import BadCalibration, BadOption

PICTURE = [InputSpec("x", np.dtype("float32"), ("N", 3, 8, 8))]
SOUND = [InputSpec("wav", np.dtype("float32"), ("N", "T"))]


def picture(path: Path, color: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (color, 0, 0)).save(path)


def write_wav(path: Path, codes: bytes, *, width: int = 2, channels: int = 1, rate: int = 16000) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(channels)
        stream.setsampwidth(width)
        stream.setframerate(rate)
        stream.writeframes(codes)


def names(source: Any) -> list[str]:
    return [label for label, _ in source]


def test_a_folder_is_read_in_sorted_order_with_its_sub_folders(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "deep/er/c.bmp", "._junk.png", ".hidden/d.png", "__MACOSX/e.png", "D.PNG"):
        picture(tmp_path / name)
    (tmp_path / "notes.md").write_text("x")
    source = open_source(tmp_path, PICTURE, preprocess="raw")
    assert names(source) == names(source) == ["D.PNG", "a.jpg", "b.png", "deep/er/c.bmp"]
    assert source.count == 4
    assert source.notes == (f"{tmp_path.name}: 1 other files are ignored.",)
    assert source.labels == {}


def test_sub_folders_are_classes_in_sorted_order(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/1.png", "cat/2.png"):
        picture(tmp_path / name)
    source = open_source(tmp_path, PICTURE, preprocess="raw", limit=2)
    assert source.labels == {"cat/1.png": {0}, "cat/2.png": {0}, "dog/1.png": {1}}
    assert f"{tmp_path.name}: 2 sub-folders are taken for classes: cat=0, dog=1." in source.notes


def test_folders_named_by_numbers_are_those_classes(tmp_path: Path) -> None:
    for name in ("2/a.png", "10/a.png"):
        picture(tmp_path / name)
    assert open_source(tmp_path, PICTURE).labels == {"2/a.png": {2}, "10/a.png": {10}}


@pytest.mark.parametrize(
    ("folders", "classes", "found"),
    [
        (("calib", "test"), 1000, "2 names, the model has 1000 classes"),
        (("n01440764", "n01443537", "n01484850"), 4, "3 names, the model has 4 classes"),
        (("2", "10"), 10, "numbers up to 10, the model has classes 0..9"),
    ],
)
def test_sub_folders_that_do_not_fit_the_model_are_no_classes(
    tmp_path: Path, folders: tuple[str, ...], classes: int, found: str
) -> None:
    for folder in folders:
        picture(tmp_path / folder / "a.png")
    source = open_source(tmp_path, PICTURE, preprocess="raw", classes=classes)
    assert source.labels == {}
    assert source.notes == (
        f"{tmp_path.name}: its sub-folders are not taken for classes: they have {found}. Without labels no "
        "accuracy is shown.",
    )


def test_sub_folders_are_not_spoken_of_where_labels_are_given_or_no_class_is_scored(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png"):
        picture(tmp_path / name)
    labelled = open_source(tmp_path, PICTURE, preprocess="raw", labels={"a.png": 7, "b.png": 3}, classes=10)
    assert labelled.labels == {"cat/a.png": {7}, "dog/b.png": {3}}
    detector = open_source(tmp_path, PICTURE, preprocess="raw", classes=0)
    assert (detector.labels, detector.notes, labelled.notes) == ({}, (), ())


def test_a_limit_takes_samples_from_all_over(tmp_path: Path) -> None:
    for index in range(10):
        picture(tmp_path / f"{index}.png", index)
    source = open_source(tmp_path, PICTURE, preprocess="raw", limit=4)
    assert names(source) == ["0.png", "2.png", "5.png", "7.png"]
    assert source.count == 4
    assert f"{tmp_path.name}: 4 of 10 samples are used, evenly spaced." in source.notes


def test_the_digest_changes_with_content_name_and_preparation_only(tmp_path: Path) -> None:
    picture(tmp_path / "one/a.png", 1)
    picture(tmp_path / "two/a.png", 1)
    picture(tmp_path / "three/a.png", 2)
    picture(tmp_path / "four/b.png", 1)
    digests = [
        open_source(tmp_path / name, PICTURE, preprocess="raw").digest for name in ("one", "two", "three", "four")
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert open_source(tmp_path / "one", PICTURE, preprocess="unit").digest not in digests


def test_a_text_file_names_pictures_beside_it_and_their_classes(tmp_path: Path) -> None:
    for name in ("pics/b.png", "pics/a b.png", "scan 12"):
        picture(tmp_path / f"{name}.png" if "scan" in name else tmp_path / name)
    lists = tmp_path / "list.txt"
    lists.write_text("# calibration\npics/b.png 7\n\npics/a b.png\t3\nscan 12.png\n")
    source = open_source(lists, PICTURE, preprocess="raw")
    assert names(source) == ["pics/b.png", "pics/a b.png", "scan 12.png"]
    assert source.labels == {"pics/b.png": {7}, "pics/a b.png": {3}}
    lists.write_text("pics/b.png 7\npics/gone.png 1\n")
    with pytest.raises(BadCalibration, match=r"list\.txt, line 2: 'pics/gone\.png' does not exist"):
        open_source(lists, PICTURE)
    lists.write_text("# nothing\n")
    with pytest.raises(BadCalibration, match="names no files"):
        open_source(lists, PICTURE)


def test_a_list_of_paths_is_a_list_of_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    assert open_source([tmp_path / "b.png", str(tmp_path / "a.png")], PICTURE, preprocess="raw").count == 2


def test_what_is_no_data_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BadCalibration, match="gone does not exist"):
        open_source(tmp_path / "gone", PICTURE)
    with pytest.raises(BadCalibration, match=r"neither pictures nor recordings \(but no files\)"):
        open_source(tmp_path, PICTURE)
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(BadCalibration, match=r"neither pictures nor recordings \(but \.tif\)"):
        open_source(tmp_path, PICTURE)
    with pytest.raises(BadCalibration, match=r"a\.tif: data of the kind \.tif are not known"):
        open_source(tmp_path / "a.tif", PICTURE)
    with pytest.raises(BadCalibration, match="samples cannot be read from a int"):
        open_source(3, PICTURE)
    with pytest.raises(BadCalibration, match="call a generator function first"):
        open_source(lambda: None, PICTURE)
    with pytest.raises(BadOption, match="limit is 0"):
        open_source(tmp_path, PICTURE, limit=0)
    with pytest.raises(BadOption, match="no inputs"):
        open_source(tmp_path, [])
    picture(tmp_path / "a.png")
    write_wav(tmp_path / "a.wav", b"\0\0")
    with pytest.raises(BadCalibration, match="pictures and recordings at once"):
        open_source(tmp_path, PICTURE)
    with pytest.raises(BadCalibration, match=r"names files of the kinds \.png, \.wav"):
        open_source([tmp_path / "a.png", tmp_path / "a.wav"], PICTURE)


# labels ---------------------------------------------------------------------------------------------------------------


def test_labels_are_read_from_each_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(json.dumps({"a.png": 3, "b.png": [4, 5]}))
    assert load_labels(tmp_path / "l.json") == {"a.png": {3}, "b.png": {4, 5}}
    (tmp_path / "l.csv").write_text("filename,label\na b.png,3\nb.png, 4\n")
    assert load_labels(tmp_path / "l.csv") == {"a b.png": {3}, "b.png": {4}}
    (tmp_path / "l.txt").write_text("3\n4\n")
    assert load_labels(tmp_path / "l.txt") == {"[0]": {3}, "[1]": {4}}
    np.save(tmp_path / "l.npy", np.array([[3], [4]]))
    assert load_labels(str(tmp_path / "l.npy")) == {"[0]": {3}, "[1]": {4}}
    np.savez(tmp_path / "l.npz", labels=np.array([3, 4]), x=np.zeros(2))
    assert load_labels(tmp_path / "l.npz") == load_labels([3, 4]) == {"[0]": {3}, "[1]": {4}}
    assert load_labels({"a": np.int64(3)}) == {"a": {3}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.json", '{"a.png": "cat"}', "the label of 'a.png' is 'cat', expected a whole number"),
        ("l.json", "{", "cannot be read as JSON"),
        ("l.json", "{}", "expected file names with class numbers"),
        ("l.txt", "a.png 1\nb.png\n", "line 2: 'b.png' is not 'file class'"),
        ("l.txt", "", "holds no labels"),
        ("l.xml", "", "labels are read from .json"),
        ("gone.txt", None, "cannot be read as UTF-8 text"),
    ],
)
def test_labels_that_cannot_be_used_are_explained(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadCalibration, match=message):
        load_labels(tmp_path / name)


def test_labels_in_arrays_are_whole_numbers(tmp_path: Path) -> None:
    with pytest.raises(BadCalibration, match=r"labels are float64 \[2\]"):
        load_labels(np.zeros(2))
    np.savez(tmp_path / "l.npz", x=np.zeros(2))
    with pytest.raises(BadCalibration, match=r"has no array y, label or labels; it has x"):
        load_labels(tmp_path / "l.npz")


def test_given_labels_match_by_name_stem_or_position(tmp_path: Path) -> None:
    for name in ("deep/a.png", "deep/b.png"):
        picture(tmp_path / name)
    for given in ({"a.png": 1, "b.png": 2}, {"a": 1, "b": 2}, {"deep/a.png": 1, "deep/b.png": 2}, [1, 2]):
        assert open_source(tmp_path, PICTURE, labels=given).labels == {"deep/a.png": {1}, "deep/b.png": {2}}
    some = open_source(tmp_path, PICTURE, labels={"a.png": 1})
    assert "labels: 1 of 2 samples have none." in some.notes
    with pytest.raises(
        BadCalibration, match=r"no sample has a label; samples are named as 'deep/a\.png', labels as 'z'"
    ):
        open_source(tmp_path, PICTURE, labels={"z": 1})


def test_labels_by_position_are_not_taken_for_names(tmp_path: Path) -> None:
    for name in ("0.png", "2.png", "1.jpg", "10.png"):
        picture(tmp_path / name)
    given = open_source(tmp_path, PICTURE, labels=np.array([5, 6, 7, 8])).labels
    assert given == {"0.png": {5}, "1.jpg": {6}, "10.png": {7}, "2.png": {8}}


def test_labels_by_position_count_before_a_limit(tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / f"p{index}.png")
    assert open_source(tmp_path, PICTURE, labels=[5, 6, 7, 8], limit=2).labels == {"p0.png": {5}, "p2.png": {7}}


# recordings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "codes", "expected"),
    [
        (1, bytes([0, 128, 255]), [-1, 0, 127 / 128]),
        (2, np.array([-32768, 0, 16384], "<i2").tobytes(), [-1, 0, 0.5]),
        (3, b"\x00\x00\x80" + b"\x01\x00\x00" + b"\x00\x00\x40", [-1, 2.0**-23, 0.5]),
        (4, np.array([-(2**31), 0, 2**30], "<i4").tobytes(), [-1, 0, 0.5]),
    ],
)
def test_pcm_of_each_width_becomes_minus_one_to_one(
    tmp_path: Path, width: int, codes: bytes, expected: list[float]
) -> None:
    write_wav(tmp_path / "a.wav", codes, width=width, rate=8000)
    x, rate = read_wav(tmp_path / "a.wav")
    assert rate == 8000
    assert x.dtype == np.float32
    assert x.tolist() == expected


def test_channels_are_averaged_and_lengths_fitted(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([[100, 300], [0, -2]], "<i2").tobytes(), channels=2)
    ((label, sample),) = open_source(tmp_path, SOUND)
    assert label == "a.wav"
    assert (sample["wav"] * 32768).tolist() == [[200, -1]]
    for shape, expected in (
        ((1, 3), [[200, -1, 0]]),
        (("N", 1, 3), [[[200, -1, 0]]]),
        ((3,), [200, -1, 0]),
        ((1, 1), [[200]]),
    ):
        ((_, sample),) = open_source(tmp_path / "a.wav", [InputSpec("w", np.dtype("int16"), shape)])
        assert sample["w"].tolist() == expected


def test_recordings_of_two_rates_need_a_rate(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", bytes(2 * 160))
    write_wav(tmp_path / "b.wav", bytes(2 * 441), rate=44100)
    with pytest.raises(BadCalibration, match=r"b\.wav has 44100 Hz, a\.wav has 16000 Hz.*--preprocess rate=16000"):
        open_source(tmp_path, SOUND)
    source = open_source(tmp_path, SOUND, preprocess="rate=16000")
    assert [sample["wav"].shape for _, sample in source] == [(1, 160), (1, 160)]


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (8000, 16000), (16000, 11025)])
def test_resampling_keeps_a_tone_and_a_constant(rate: int, wanted: int) -> None:
    def tone(at: int, count: int) -> Any:
        return np.sin(2 * np.pi * 1000 * np.arange(count) / at).astype(np.float32)

    got = resample(tone(rate, rate // 4), rate, wanted)
    expected = tone(wanted, got.size)
    inner = slice(200, -200)  # the ends see silence beyond the recording
    assert got.size == -(-(rate // 4) * wanted // rate)
    assert np.abs(got - expected)[inner].max() < 2e-3
    assert np.abs(resample(np.ones(4000, np.float32), rate, wanted)[inner] - 1).max() < 1e-6


def test_resampling_down_removes_what_the_lower_rate_cannot_hold() -> None:
    high = np.sin(2 * np.pi * 7000 * np.arange(8000) / 16000).astype(np.float32)
    assert np.abs(resample(high, 16000, 8000)[200:-200]).max() < 2e-3


def test_recordings_that_cannot_be_used_are_explained(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"RIFF\0\0\0\0WAVE")
    with pytest.raises(BadCalibration, match=r"none of 1 \.wav files can be read"):
        open_source(tmp_path, SOUND)
    with pytest.raises(BadCalibration, match=r"bad\.wav: cannot be read as PCM WAV"):
        next(iter(open_source(tmp_path, SOUND, preprocess="rate=16000")))
    with pytest.raises(BadOption, match="preprocess has the option rate alone"):
        open_source(tmp_path, SOUND, preprocess="unit")
    with pytest.raises(BadCalibration, match=r"input 'h' float32 \[1, 1, 128\] is not in .* recordings for 'wav'"):
        open_source(tmp_path, [*SOUND, InputSpec("h", np.dtype("float32"), (1, 1, 128))])
    with pytest.raises(BadCalibration, match=r"\[N, 80, T\] does not take recordings"):
        open_source(tmp_path, [InputSpec("mel", np.dtype("float32"), ("N", 80, "T"))])
