"""Opening data of any kind as a source of samples.

    data                                              read by
    folder of .jpg .jpeg .png .bmp .webp              pictures; recursive, sorted; sub-folders may be classes
    folder of .wav                                    audio
    one picture, one recording                        the same
    .txt, .csv, .tsv: a path, or path and class, a line    the same; paths relative to the file
    list of paths                                     the same
    .npy, .npz                                        arrays, stored
    numpy array, dict of arrays                       arrays
    anything else that can be iterated                iterables

The layer below knows no graph: what the model asks for comes as `InputSpec`s.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from halfeven.data import audio, pictures
from halfeven.data.arrays import open_arrays
from halfeven.data.iterables import Streamed, open_iterable, to_array
from halfeven.data.labels import data_lines, load_labels, match_labels, split_line
from halfeven.data.preprocess import Preprocess, parse_preprocess
from halfeven.data.sample import Indexed, InputSpec, Sample, Source, Truth
from halfeven.data.stored import in_memory, read_npy, read_npz
from halfeven.errors import BadCalibration, BadOption

__all__ = ["InputSpec", "Sample", "Source", "open_source"]

Files: TypeAlias = list[tuple[str, Path]]


def open_source(
    data: Any,
    specs: Sequence[InputSpec],
    *,
    preprocess: Preprocess | str | Mapping[str, Any] | None = None,
    limit: int | None = None,
    labels: Any = None,
    classes: int | None = None,
) -> Source:
    """Open data as samples for a model with the inputs `specs`.

    `preprocess` is for pictures (also uint8 pictures in arrays) and recordings. `limit` is the most samples to give,
    evenly spaced where the count is known. `labels` (a file, an array or a mapping, see `labels`) overrides the labels
    found with the data. `classes`: how many the model tells apart (0: it gives no score for each class), None if that
    is not known; sub-folders are taken for classes only where they fit it.

    Raises:
        BadCalibration: the data are missing, damaged, of an unknown kind, or leave an input without data.
        BadOption: an option is unknown or does not fit the data or the model.
    """
    if not specs:
        raise BadOption("the model has no inputs, so it can be given no data.")
    if limit is not None and limit < 1:
        raise BadOption(f"limit is {limit}; it must be at least 1.")
    options = None if preprocess is None else parse_preprocess(preprocess)
    source = _open(data, specs, options, limit, classes if labels is None else 0)
    if labels is None:
        return source
    return _relabelled(source, load_labels(labels))


def _open(
    data: Any, specs: Sequence[InputSpec], options: Preprocess | None, limit: int | None, classes: int | None
) -> Indexed | Streamed:
    if isinstance(data, str | os.PathLike):
        return _open_path(Path(os.fspath(data)), specs, options, limit, classes)
    if isinstance(data, np.ndarray):
        return open_arrays({specs[0].name: in_memory(data)}, "array", specs, options, limit)
    if isinstance(data, Mapping):
        texts = any(spec.dtype.kind == "O" for spec in specs)
        stored = {str(key): in_memory(to_array(value, f"key {key!r}", texts=texts)) for key, value in data.items()}
        return open_arrays(stored, "arrays", specs, options, limit)
    if isinstance(data, list | tuple) and data and all(isinstance(item, str | os.PathLike) for item in data):
        files = [(Path(os.fspath(item)).as_posix(), Path(os.fspath(item))) for item in data]
        return _open_files(files, "list of paths", specs, options, limit, {})
    if isinstance(data, Iterable) or hasattr(data, "__getitem__"):
        return open_iterable(data, specs, options, limit)
    raise BadCalibration(
        f"samples cannot be read from a {type(data).__name__}. Give a folder, a file, arrays or an iterable; "
        "call a generator function first."
    )


def _open_path(
    path: Path, specs: Sequence[InputSpec], options: Preprocess | None, limit: int | None, classes: int | None
) -> Indexed | Streamed:
    suffix = path.suffix.lower()
    if path.is_dir():
        files, truth, notes = _folder(path, classes)
        source = _open_files(files, path.name, specs, options, limit, truth)
        return replace(source, notes=notes + source.notes)
    if not path.exists():
        raise BadCalibration(f"{path} does not exist.")
    if suffix in (".txt", ".csv", ".tsv"):
        files, truth = _listed_files(path)
        return _open_files(files, path.name, specs, options, limit, truth)
    if suffix == ".npz":
        return open_arrays(read_npz(path), path.name, specs, options, limit)
    if suffix == ".npy":
        return open_arrays({specs[0].name: read_npy(path)}, path.name, specs, options, limit)
    if suffix in pictures.EXTENSIONS + audio.EXTENSIONS:
        return _open_files([(path.name, path)], path.name, specs, options, limit, {})
    raise BadCalibration(
        f"{path.name}: data of the kind {suffix or 'without extension'} are not known. Known are folders, "
        f"{' '.join(pictures.EXTENSIONS + audio.EXTENSIONS)} .npy .npz .txt .csv."
    )


def _open_files(
    files: Files,
    where: str,
    specs: Sequence[InputSpec],
    options: Preprocess | None,
    limit: int | None,
    truth: Truth,
) -> Indexed:
    kinds = {path.suffix.lower() for _, path in files}
    if kinds <= set(pictures.EXTENSIONS):
        return pictures.open_pictures(files, where, specs, options, limit, truth)
    if kinds <= set(audio.EXTENSIONS):
        return audio.open_recordings(files, where, specs, options, limit, truth)
    raise BadCalibration(
        f"{where} names files of the kinds {', '.join(sorted(kinds))}; expected pictures alone "
        f"({' '.join(pictures.EXTENSIONS)}) or recordings alone ({' '.join(audio.EXTENSIONS)})."
    )


def _folder(root: Path, classes: int | None) -> tuple[Files, Truth, tuple[str, ...]]:
    """The files of a folder, sorted by their path in it; hidden ones and links to folders are passed over.

    `classes`: see `open_source`.

    Raises:
        BadCalibration: it holds neither pictures nor recordings, or both.
    """
    found: Files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for name in names:
            path = Path(folder, name)
            if not name.startswith("."):
                found.append((path.relative_to(root).as_posix(), path))
    found.sort()
    known = [(label, path) for label, path in found if path.suffix.lower() in pictures.EXTENSIONS]
    sounds = [(label, path) for label, path in found if path.suffix.lower() in audio.EXTENSIONS]
    if bool(known) == bool(sounds):
        kinds = ", ".join(sorted({path.suffix.lower() or "no extension" for _, path in found})) or "no files"
        what = "pictures and recordings at once" if known else f"neither pictures nor recordings (but {kinds})"
        raise BadCalibration(f"folder {root} holds {what}. Give a folder of pictures or of .wav files, or a .npz file.")
    files = known or sounds
    notes: tuple[str, ...] = ()
    if len(found) > len(files):
        notes = (f"{root.name}: {len(found) - len(files)} other files are ignored.",)
    truth, said = _folder_classes(files, classes)
    return files, truth, notes + tuple(f"{root.name}: {sentence}" for sentence in said)


def _folder_classes(files: Files, classes: int | None) -> tuple[Truth, list[str]]:
    """Classes from the first folder of each label, if there are two and each file lies in one; and what is said of it.

    A folder's number is its name if all names are numbers ("0".."9"), else its place in sorted order (ImageFolder).
    Names must be as many as the model's classes, or their places would be those of other classes; numbers be of them.
    """
    folders = sorted({label.split("/")[0] if "/" in label else "" for label, _ in files})
    if len(folders) < 2 or "" in folders or classes == 0:
        return {}, []
    numeric = all(name.isdecimal() for name in folders)
    numbers = {name: int(name) if numeric else place for place, name in enumerate(folders)}
    if classes is not None and not (max(numbers.values()) < classes if numeric else len(folders) == classes):
        found = f"numbers up to {max(numbers.values())}" if numeric else f"{len(folders)} names"
        wanted = f"classes 0..{classes - 1}" if numeric else f"{classes} classes"
        return {}, [
            f"its sub-folders are not taken for classes: they have {found}, the model has {wanted}. Without labels no "
            "accuracy is shown."
        ]
    shown = [f"{name}={number}" for name, number in list(numbers.items())[:4]] + ["..."] * (len(numbers) > 4)
    truth = {label: frozenset({numbers[label.split("/")[0]]}) for label, _ in files}
    return truth, [f"{len(numbers)} sub-folders are taken for classes: {', '.join(shown)}."]


def _listed_files(path: Path) -> tuple[Files, Truth]:
    """The files that a text file names, and their classes.

    Raises:
        BadCalibration: it names none, or one that does not exist.
    """
    files: Files = []
    truth: dict[str, frozenset[int]] = {}
    for number, line in data_lines(path):
        name, value = split_line(line)
        file = path.parent / name
        if not file.is_file() and (path.parent / line.strip()).is_file():  # "scan 12": a name that ends in a number
            name, value, file = line.strip(), None, path.parent / line.strip()
        if not file.is_file():
            raise BadCalibration(f"{path.name}, line {number}: {name!r} does not exist beside {path.name}.")
        files.append((name, file))
        if value is not None:
            truth[name] = frozenset({value})
    if not files:
        raise BadCalibration(f"{path.name} names no files; expected one path a line.")
    return files, truth


def _relabelled(source: Indexed | Streamed, given: Truth) -> Indexed:
    """The source with labels given by file or by position.

    Raises:
        BadCalibration: no label fits.
        BadOption: the number of samples is not known, or a run takes several.
    """
    if isinstance(source, Streamed):
        raise BadOption("labels cannot be matched to an iterable of unknown length; have it yield (x, label).")
    if source.rows > 1:
        raise BadOption(f"labels need one picture or row a run, but the model's batch is fixed at {source.rows}.")
    names = {source.name(index): pick for index, pick in enumerate(source.picks)}
    truth = match_labels(given, names, "labels")
    notes = source.notes
    if len(truth) < len(names):
        notes += (f"labels: {len(names) - len(truth)} of {len(names)} samples have none.",)
    return replace(source, truth=lambda: truth, notes=notes)
