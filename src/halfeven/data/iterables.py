"""Python iterables as samples: lists, generators and loaders of dicts, tuples, arrays and tensors.

    item                         inputs
    mapping                      by name (see `matching`); y, label or labels beside them are labels
    tuple or list of arrays      the model's inputs in their order; what follows is taken for the label
    (mapping, label)             the two together
    array, tensor                the single input

An array with the model's rank is a batch as it is, one with an axis less is one sample and gets that axis. A batch
whose inputs all have the same length N is split into N samples where the model leaves its first axes open, and
regrouped where the model fixes them. A tensor is anything with `detach()`, `cpu()` and `numpy()` (PyTorch), or
`numpy()` alone.

What can be iterated only once (a generator), and a loader which shuffles, is copied to a temporary file at the first
reading, so that each pass sees the same samples; other iterables are iterated again at each pass.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np

from halfeven.data.arrays import as_picture, holds_pictures
from halfeven.data.digest import Digest, Digested, digest_of, digests, told_apart
from halfeven.data.matching import fill_zeros, match_inputs
from halfeven.data.pictures import preparation
from halfeven.data.preprocess import Preprocess
from halfeven.data.sample import (
    Array,
    Indexed,
    InputSpec,
    Reader,
    Sample,
    Truth,
    cast,
    limit_note,
    shape_text,
    spread,
)
from halfeven.data.spool import Attempt, Labelled, Spool
from halfeven.errors import BadCalibration, BadOption


def to_array(value: Any, where: str, *, texts: bool = False) -> Array:
    """A NumPy array from an array, a tensor, a picture or nested numbers; with `texts` of texts too.

    Raises:
        BadCalibration: not an array of numbers.
    """
    if not isinstance(value, np.ndarray):
        try:
            if hasattr(value, "detach"):
                value = value.detach().cpu()
            value = value.numpy() if hasattr(value, "numpy") else np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadCalibration(f"{where}: a {type(value).__name__} is not an array of numbers ({error}).") from error
    if texts and value.dtype.kind in "OU" and all(isinstance(text, str) for text in value.reshape(-1)):
        return np.asarray(value, "U")
    if value.dtype.hasobject or value.dtype.kind in "USMm":
        raise BadCalibration(f"{where}: holds {value.dtype} values; expected arrays of numbers.")
    return np.asarray(value)


@dataclass(frozen=True)
class Unpacker:
    """From an item of an iterable to samples of batch 1; `notes` grows with what was seen."""

    specs: Sequence[InputSpec]
    preprocess: Preprocess | None
    notes: list[str] = field(default_factory=list)

    def __call__(self, item: Any, where: str) -> Iterator[Labelled]:
        """The samples in one item and their labels.

        Raises:
            BadCalibration: an input is missing or of another rank.
        """
        values, label = self._pair(item, where)
        match = match_inputs(self.specs, values, "the data")
        self.note(match.notes)
        if match.truth is not None:
            label = values[match.truth]
        feeds = {s.name: self._feed(s, values[match.keys[s.name]], where) for s in self.specs if s.name in match.keys}
        feeds = fill_zeros(feeds, match.zeros)
        rows = self._rows(feeds)
        classes = _label_classes(label, rows)
        for row in range(rows):
            sample = feeds if rows == 1 else {name: array[row : row + 1] for name, array in feeds.items()}
            yield sample, classes[row]

    def _pair(self, item: Any, where: str) -> tuple[Mapping[str, Any], Any]:
        """Inputs by name, and the label or None."""
        if isinstance(item, Mapping):
            return item, None
        if isinstance(item, tuple | list) and any(_is_input(part, isinstance(item, tuple)) for part in item):
            if isinstance(item[0], Mapping):
                return item[0], item[1] if len(item) > 1 else None
            names = [spec.name for spec in self.specs]
            if len(item) > len(names):
                self.note((f"the data: of {len(item)} elements in an item the model takes {len(names)}.",))
            return dict(zip(names, item, strict=False)), item[len(names)] if len(item) > len(names) else None
        return {self.specs[0].name: item}, None

    def _feed(self, spec: InputSpec, value: Any, where: str) -> Array:
        array = to_array(value, f"{where}, input {spec.name!r}", texts=spec.dtype.kind == "O")
        if self.preprocess is not None and spec.rank in (None, 3, 4):
            return self._pictures(spec, array, where)
        if spec.rank == array.ndim + 1:
            array = array[None]
        if array.dtype != spec.dtype and array.dtype.kind != "U":
            self.note((f"the data: {spec.name!r} is {array.dtype} and is fed as {spec.dtype}.",))
        return cast(array, spec, where)

    def _pictures(self, spec: InputSpec, array: Array, where: str) -> Array:
        batch = array if array.ndim == 4 else array[None]
        if not holds_pictures(batch.dtype, batch.shape):
            raise BadOption(
                f"{where}: a preprocess applies to uint8 pictures, but {spec.name!r} is {array.dtype} "
                f"{shape_text(array.shape)}. Leave it out."
            )
        prepare = preparation(self.preprocess or Preprocess(), spec)
        return np.concatenate([prepare(as_picture(codes)) for codes in batch])

    def _rows(self, feeds: Sample) -> int:
        """Into how many samples the item splits."""
        lengths = {array.shape[:1] for array in feeds.values()}
        alike = all(spec.rank is None or spec.rank == feeds[spec.name].ndim for spec in self.specs)
        batches = {spec.batch for spec in self.specs}
        if len(lengths) != 1 or () in lengths or not alike or len(batches) != 1:
            return 1
        return int(lengths.pop()[0])

    def note(self, notes: Iterable[str]) -> None:
        """Add what is not noted yet."""
        self.notes.extend(note for note in notes if note not in self.notes)


def _is_input(part: Any, in_tuple: bool) -> bool:
    """Whether a part of an item is a whole input; a list of lists is one input of nested numbers."""
    return hasattr(part, "shape") or isinstance(part, Mapping) or (in_tuple and isinstance(part, list))


def _label_classes(label: Any, rows: int) -> list[frozenset[int]]:
    """The class of each of `rows` samples; nothing unless the label is one whole number for each."""
    try:
        values = np.zeros(0) if label is None else to_array(label, "label").reshape(-1)
    except BadCalibration:  # a file's name, a text: not a class
        values = np.zeros(0)
    if values.size != rows or values.dtype.kind not in "iu":
        return [frozenset()] * rows
    return [frozenset({int(value)}) for value in values]


def _grouped(attempts: Iterable[Attempt], unpack: Unpacker) -> Iterator[Attempt]:
    """Single rows joined to the batch that the model fixes; a ragged rest is dropped and noted."""
    batches = {spec.batch for spec in unpack.specs}
    size = next(iter(batches)) if len(batches) == 1 else None
    if size in (None, 1):
        yield from attempts
        return
    group: list[Sample] = []
    for attempt in attempts:
        if isinstance(attempt, BadCalibration):
            yield attempt
            continue
        group.append(attempt[0])
        if len(group) == size:
            yield _joined(group), frozenset()
            group = []
    if group:
        unpack.note((f"the data: the last {len(group)} samples do not fill the model's batch of {size}; dropped.",))


def _joined(group: Sequence[Sample]) -> Sample:
    shapes = [{name: array.shape for name, array in sample.items()} for sample in group]
    if any(shape != shapes[0] for shape in shapes):
        raise BadCalibration("the data: samples that the model takes in one fixed batch differ in shape.")
    return {name: np.concatenate([sample[name] for sample in group]) for name in group[0]}


def _attempts(data: Iterable[Any], unpack: Unpacker) -> Iterator[Attempt]:
    """The samples of all items; an item that cannot be used stands as the error that says why."""

    def rows() -> Iterator[Attempt]:
        for index, item in enumerate(data):
            try:
                yield from list(unpack(item, f"data[{index}]"))
            except BadCalibration as error:
                yield error

    return _grouped(rows(), unpack)


def _reader(attempt: Attempt) -> Reader:
    def read() -> Sample:
        if isinstance(attempt, BadCalibration):
            raise attempt
        return attempt[0]

    return read


@dataclass(frozen=True, eq=False)
class Streamed:
    """A Source over what can be iterated again; the count is known only to who counts."""

    data: Iterable[Any]
    unpack: Unpacker
    limit: int | None = None
    _kept: dict[tuple[int, ...], Spool] = field(default_factory=dict, repr=False)

    @property
    def count(self) -> int | None:
        """See Source."""
        return None

    @property
    def notes(self) -> Sequence[str]:
        """See Source; complete after a pass."""
        return tuple(self.unpack.notes)

    @property
    def digest(self) -> str:
        """See Source; reads all samples."""
        return digest_of(one.whole for one in self._digests)

    @property
    def contents(self) -> Sequence[bytes]:
        """See Source; reads all samples."""
        return told_apart([one.part for one in self._digests], lambda index: self._digests[index].whole)

    @cached_property
    def _digests(self) -> list[Digest]:
        return digests(read for _, read in self.readers())

    @cached_property
    def labels(self) -> Truth:
        """See Source; reads all samples."""
        good = ((name, attempt) for name, attempt in self._named() if not isinstance(attempt, BadCalibration))
        return {name: classes for name, (_, classes) in good if classes}

    def _named(self) -> Iterator[tuple[str, Attempt]]:
        for index, attempt in enumerate(islice(_attempts(self.data, self.unpack), self.limit)):
            yield f"data[{index}]", attempt

    def readers(self) -> Iterator[tuple[str, Reader]]:
        """See Source; the sample is read already."""
        return ((name, _reader(attempt)) for name, attempt in self._named())

    def picked(self, numbers: Sequence[int]) -> Iterator[tuple[str, Reader]]:
        """See Source; a pass keeps them in a temporary file, from which they come any number of times."""
        wanted = tuple(sorted(set(numbers)))
        place = {number: i for i, number in enumerate(wanted)}
        if wanted not in self._kept:
            self._kept.clear()
            self._kept[wanted] = Spool(attempt for i, (_, attempt) in enumerate(self._named()) if i in place)
        spool = self._kept[wanted]
        return ((f"data[{number}]", partial(spool.read, place[number])) for number in numbers)

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """See Source."""
        return ((name, read()) for name, read in self.readers())


def open_iterable(
    data: Iterable[Any], specs: Sequence[InputSpec], preprocess: Preprocess | None, limit: int | None
) -> Indexed | Streamed:
    """A source over an iterable; a generator is read here, and no further than `limit` samples."""
    unpack = Unpacker(specs, preprocess)
    shuffled = "Random" in type(getattr(data, "sampler", None)).__name__
    if isinstance(data, Iterator) or shuffled:
        if shuffled:
            unpack.notes.append("the data: the loader shuffles; its first pass is kept, so that all passes agree.")
        return _spooled(Spool(islice(_attempts(data, unpack), limit)), unpack)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _listed(data, unpack, limit)
    return Streamed(data, unpack, limit)


def _spooled(spool: Spool, unpack: Unpacker) -> Indexed:
    count = len(spool.offsets)
    if count == 0:
        raise BadCalibration("the data: the iterable gave no sample. Was it used up before?")
    samples = Digested(spool.read, count)
    return Indexed(
        picks=range(count),
        name=lambda index: f"data[{index}]",
        read=samples.read,
        fingerprint=samples,
        digests=samples.contents,
        truth=lambda: {f"data[{index}]": classes for index, classes in enumerate(spool.classes) if classes},
        notes=tuple(unpack.notes),
    )


def _listed(data: Any, unpack: Unpacker, limit: int | None) -> Indexed | Streamed:
    """What has numbered items, one sample each, is read by number; if the first item is a batch, it is streamed."""
    count = len(data)
    if count == 0:
        raise BadCalibration("the data: the list is empty.")
    first = list(islice(unpack(data[0], "data[0]"), 2))
    if len(first) != 1 or {spec.batch for spec in unpack.specs} not in ({None}, {1}, {None, 1}):
        return Streamed(data, unpack, limit)
    picks = spread(count, limit)

    def entry(index: int) -> Labelled:
        where = f"data[{picks[index]}]"
        found = list(islice(unpack(data[picks[index]], where), 2))
        if len(found) != 1:
            raise BadCalibration(f"{where}: expected one sample as in data[0], found {'a batch' if found else 'none'}.")
        return found[0]

    samples = Digested(lambda index: entry(index)[0], len(picks))

    def truth() -> Truth:
        return {f"data[{pick}]": classes for index, pick in enumerate(picks) if (classes := entry(index)[1])}

    return Indexed(
        picks=picks,
        name=lambda index: f"data[{picks[index]}]",
        read=samples.read,
        fingerprint=samples,
        digests=samples.contents,
        truth=truth,
        notes=tuple(unpack.notes) + limit_note("the data", count, limit),
    )
