"""Promised: a record reads back the same, merges only with what it fits, and a file that is none is refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfeven.errors import BadCalibration, BadOption
from halfeven.stats.channels import ChannelRange
from halfeven.stats.observation import Observation
from halfeven.stats.record import Record


def record(data: str = "d", seed: int = 0) -> Record:
    x = np.random.default_rng(seed).standard_normal((1, 3, 5)).astype(np.float32)
    channels = {"t": ChannelRange(np.zeros(3), np.ones(3), np.ones(3), 2)}
    return Record("m", (data,), 1, {"t": Observation().then(x, 100)}, channels, {"t": (1, 3, 5)}, {"h": 1e9}, "s")


def test_a_file_gives_the_same_back(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    record().save(path)
    again = Record.load(path)
    assert again.to_json() == record().to_json()
    assert replace(again, channels={}) == replace(record(), channels={})


def test_what_cannot_be_written_is_named_and_leaves_no_half_file(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"no/s\.json' cannot be written"):
        record().save(tmp_path / "no" / "s.json")
    assert list(tmp_path.iterdir()) == []


def test_records_merge_to_the_sum_of_both() -> None:
    a, b = record("a", 1), replace(record("b", 2), sizes={"h": 1e8, "g": 2e8})
    both = a.merge(b)
    assert both.observations["t"].histogram == a.observations["t"].histogram.merge(b.observations["t"].histogram)
    assert (both.samples, both.data, both.shapes) == (2, ("a", "b"), a.shapes)
    assert both.sizes == {"h": 1e9, "g": 2e8}
    assert b.merge(a).observations == both.observations


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": "n"}, r"different models \(m, n\)"),
    "data": ({"data": ("a",)}, "count twice"),
    "tensors": ({"observations": {}}, "Tensor 't' is in one record only"),
    "channels": ({"channels": {}}, "equalized by different channel ranges.*--stats FIRST.json"),
    "scaling": ({"scaling": "other"}, "scaled differently"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_records_that_differ_do_not_merge(what: str) -> None:
    change, message = OTHERS[what]
    with pytest.raises(BadCalibration, match=message):
        record("a").merge(replace(record("b"), **change))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "version": ({"halfeven_stats": 2}, 'expected JSON with "halfeven_stats": 1'),
    "data": ({"data": 5}, "malformed"),
    "samples": ({"samples": "x"}, "malformed"),
    "endless samples": ({"samples": float("inf")}, "malformed"),
    "observations": ({"observations": []}, "malformed"),
    "an observation": ({"observations": {"t": 5}}, "malformed"),
    "a summary": ({"observations": {"t": {"histogram": {}}}}, "malformed .*missing"),
    "channels": ({"channels": {"t": {"low": [0], "high": [1, 2], "square": [1], "samples": 1}}}, "equal length"),
    "shapes": ({"shapes": {"t": ["a"]}}, "malformed"),
    "sizes": ({"sizes": {"t": None}}, "malformed"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, what: str) -> None:
    change, message = FAULTS[what]
    path = tmp_path / "stats.json"
    path.write_text(json.dumps({**record().to_json(), **change}))
    with pytest.raises(BadCalibration, match=message) as caught:
        Record.load(path)
    assert "stats.json" in str(caught.value)


@pytest.mark.parametrize("key", [key for key in record().to_json() if key != "halfeven_stats"])
def test_a_file_that_lacks_a_part_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "stats.json"
    path.write_text(json.dumps({k: v for k, v in record().to_json().items() if k != key}))
    with pytest.raises(BadCalibration, match=f"malformed .*{key}"):
        Record.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\x00", "no text"), (b"[", "not JSON"), (b"[" * 100_000, "not JSON"), (b"[]", "holds no statistics")],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "stats.json"
    path.write_bytes(content)
    with pytest.raises(BadCalibration, match=message):
        Record.load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCalibration, match=r"none\.json' cannot be read: No such file"):
        Record.load(tmp_path / "none.json")
    with pytest.raises(BadCalibration, match="cannot be read"):
        Record.load(tmp_path)
