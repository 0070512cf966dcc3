"""Which classes are right for a sample: file -> acceptable class numbers.

    .json          {"cat.jpg": 281, "tabby.jpg": [281, 282]} or a list of numbers, by position
    .txt, .csv     one "file class" a line, separated by a tab, a comma or spaces; or one class a line, by position
    .npy           integers [N], by position
    .npz           the same under the key y, label or labels
    array          the same

Labels by position have the keys "[0]", "[1]", ... Lines that are empty or begin with # are passed over, and so is a
first line without a number ("filename,label").
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from halfeven.data.sample import Array, Truth
from halfeven.data.stored import read_npy, read_npz
from halfeven.errors import BadCalibration

LABEL_KEYS = ("y", "label", "labels")


def load_labels(labels: str | Path | Array | Sequence[int] | Mapping[str, Any]) -> dict[str, frozenset[int]]:
    """Read labels: file name, or "[position]" -> the acceptable classes.

    Raises:
        BadCalibration: missing, damaged, of another kind, or with labels that are not whole numbers.
    """
    if isinstance(labels, Mapping):
        return {str(name): _classes(value, "labels", str(name)) for name, value in labels.items()}
    if not isinstance(labels, str | Path):
        return by_position(np.asarray(labels), "labels")
    path = Path(labels)
    match path.suffix.lower():
        case ".json":
            return _from_json(path)
        case ".txt" | ".csv" | ".tsv":
            return _from_lines(path)
        case ".npy":
            return by_position(read_npy(path).open(), path.name)
        case ".npz":
            arrays = read_npz(path)
            key = label_key(arrays)
            if key is None:
                raise BadCalibration(f"{path.name} has no array y, label or labels; it has {', '.join(arrays)}.")
            return by_position(arrays[key].open(), path.name)
    raise BadCalibration(f"{path.name}: labels are read from .json, .txt, .csv, .npy and .npz files.")


def label_key(keys: Iterable[str]) -> str | None:
    """The key under which an .npz file or a dict holds labels, if any."""
    present = set(keys)
    return next((key for key in LABEL_KEYS if key in present), None)


def by_position(array: Array, where: str) -> dict[str, frozenset[int]]:
    """Labels of an integer array [N] or [N, 1], keyed "[0]", "[1]", ..."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise BadCalibration(f"{where}: labels are {array.dtype} {list(array.shape)}, expected whole numbers [N].")
    return {f"[{index}]": frozenset({int(value)}) for index, value in enumerate(array)}


def match_labels(labels: Truth, names: Mapping[str, int], where: str) -> dict[str, frozenset[int]]:
    """Labels by sample label: the whole name, else the file's name, else its stem, else the position.

    `names`: each sample's label and its position in the data.

    Raises:
        BadCalibration: no sample has a label.
    """
    found: dict[str, frozenset[int]] = {}
    for name, index in names.items():
        path = PurePosixPath(name)
        for key in (name, path.name, path.stem, f"[{index}]"):
            if key in labels:
                found[name] = labels[key]
                break
    if names and not found:
        ours, theirs = next(iter(names)), next(iter(labels), "")
        raise BadCalibration(f"{where}: no sample has a label; samples are named as {ours!r}, labels as {theirs!r}.")
    return found


def split_line(line: str) -> tuple[str, int | None]:
    """A line "path" or "path class": the class is the last field if that is a whole number."""
    fields = re.match(r"^(.*\S)\s*[\t,]\s*(-?\d+)\s*$", line) or re.match(r"^(.*\S)\s+(-?\d+)\s*$", line)
    return (fields[1].strip().strip('"'), int(fields[2])) if fields else (line.strip().strip('"'), None)


def data_lines(path: Path) -> list[tuple[int, str]]:
    """Line number and text of the lines that say something.

    Raises:
        BadCalibration: the file is missing or not UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadCalibration(f"{path.name} cannot be read as UTF-8 text ({error}).") from error
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]


def _from_lines(path: Path) -> dict[str, frozenset[int]]:
    labels: dict[str, set[int]] = {}
    lines = data_lines(path)
    for place, (number, line) in enumerate(lines):
        name, value = split_line(line)
        if value is None and re.fullmatch(r"-?\d+", name):
            name, value = f"[{len(labels)}]", int(name)
        if value is None and place > 0:
            raise BadCalibration(f"{path.name}, line {number}: {line!r} is not 'file class' with a whole number.")
        if value is not None:
            labels.setdefault(name, set()).add(value)
    if not labels:
        raise BadCalibration(f"{path.name} holds no labels; expected lines 'file class'.")
    return {name: frozenset(values) for name, values in labels.items()}


def _from_json(path: Path) -> dict[str, frozenset[int]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCalibration(f"{path.name} cannot be read as JSON ({error}).") from error
    if isinstance(content, list):
        content = {f"[{index}]": value for index, value in enumerate(content)}
    if not isinstance(content, dict) or not content:
        raise BadCalibration(f"{path.name}: expected file names with class numbers, as {{'cat.jpg': 281}}.")
    return {name: _classes(value, path.name, name) for name, value in content.items()}


def _classes(value: Any, where: str, name: str) -> frozenset[int]:
    values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    if not values or not all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values):
        raise BadCalibration(f"{where}: the label of {name!r} is {value!r}, expected a whole number or a list of them.")
    return frozenset(int(v) for v in values)
