"""Arrays as samples: the first axis counts the samples.

    array has the model's rank       sample i is array[i : i + 1]; with a fixed batch N array[i * N : (i + 1) * N]
    array has one axis more          sample i is array[i]
    array is one sample              (one axis less and the model's lengths) there is one sample, array[None]
    rank 0, or the model's static    the same array in every sample, while other inputs have more samples
    shape with a first axis that
    other inputs exceed
    uint8 pictures, preprocess given  [N, H, W], [N, H, W, C] or [N, C, H, W]: each row is prepared like a picture file

A ragged rest of rows which does not fill a fixed batch is dropped, and that is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from halfeven.data.digest import BLOCKS, Digested, sample_digest, told_apart
from halfeven.data.matching import fill_zeros, match_inputs
from halfeven.data.pictures import picture_frame, preparation
from halfeven.data.preprocess import Preprocess
from halfeven.data.sample import (
    Array,
    Indexed,
    InputSpec,
    Sample,
    Truth,
    cast,
    limit_note,
    shape_text,
    spread,
)
from halfeven.data.stored import Stored, holds_objects, let_go
from halfeven.errors import BadCalibration, BadOption

if TYPE_CHECKING:
    from PIL.Image import Image

Way = Literal["rows", "item", "single", "constant"]


@dataclass(frozen=True, eq=False)
class Cut:
    """How one input is cut out of its array: `size` rows a run. `prepare` turns a uint8 picture into the input."""

    spec: InputSpec
    key: str
    stored: Stored
    way: Way
    size: int = 1
    prepare: Callable[[Image], Array] | None = None

    @property
    def runs(self) -> int:
        """How many runs of the model the array feeds."""
        if self.way in ("single", "constant"):
            return 1
        return self.stored.shape[0] // self.size

    def take(self, array: Array, index: int) -> Array:
        """The feed of run `index`, in the array's dtype unless prepared."""
        if self.way == "single":
            return array[None]
        if self.way == "constant":
            return array
        if self.prepare is not None:
            return np.concatenate([self.prepare(as_picture(row)) for row in self.rows(array, index)])
        return array[index] if self.way == "item" else self.rows(array, index)

    def rows(self, array: Array, index: int) -> Array:
        """Of the array, what run `index` is fed from."""
        whole = self.way in ("single", "constant")
        return array if whole else array[index * self.size : (index + 1) * self.size]


def as_picture(codes: Array) -> Image:
    """A uint8 array [H, W], [H, W, C] or [C, H, W] as a Pillow picture."""
    import PIL.Image

    if codes.ndim == 3 and codes.shape[2] not in (1, 3, 4):
        codes = codes.transpose(1, 2, 0)
    return PIL.Image.fromarray(np.ascontiguousarray(codes[:, :, 0] if codes.shape[2:] == (1,) else codes))


def holds_pictures(dtype: np.dtype[np.generic], shape: Sequence[int]) -> bool:
    """Whether [N, ...] is uint8 and each row has the shape of a picture."""
    colored = len(shape) == 4 and not {shape[1], shape[3]}.isdisjoint((1, 3, 4))
    return dtype == np.uint8 and (len(shape) == 3 or colored)


def open_arrays(
    arrays: Mapping[str, Stored],
    where: str,
    specs: Sequence[InputSpec],
    preprocess: Preprocess | None = None,
    limit: int | None = None,
) -> Indexed:
    """A source over arrays by key; `where` is the file's name, for labels and messages.

    Raises:
        BadCalibration: an input has no array, or one of a rank that does not fit; counts differ; no samples.
        BadOption: a preprocess is given, but no array holds uint8 pictures.
    """
    match = match_inputs(specs, arrays, where)
    cuts = [_cut(spec, match.keys[spec.name], arrays, where, preprocess) for spec in specs if spec.name in match.keys]
    if preprocess is not None and all(cut.prepare is None for cut in cuts):
        kinds = ", ".join(f"{cut.key!r} {cut.stored.dtype} {shape_text(cut.stored.shape)}" for cut in cuts)
        raise BadOption(f"{where}: a preprocess applies to uint8 pictures, but the data are {kinds}. Leave it out.")
    cuts, runs = _agree(cuts, where)
    table = Table(where, cuts, match.zeros, spread(runs, limit), {cut.key: cut.stored.open() for cut in cuts})
    notes = match.notes + _notes(cuts, where) + limit_note(where, runs, limit)
    truth: Callable[[], Truth] = dict
    if match.truth is not None:
        if table.size == 1 and _is_truth(arrays[match.truth], runs):
            truth = partial(table.truth, arrays[match.truth])
        else:
            notes += (f"{where}: {match.truth!r} is not one whole number per sample and is ignored.",)
    samples = Digested(table.read, len(table.picks))
    return Indexed(table.picks, table.name, samples.read, samples, table.contents, truth, notes, table.size)


@dataclass(frozen=True, eq=False)
class Table:
    """Opened arrays, cut into samples; `picks` are the runs that are used."""

    where: str
    cuts: Sequence[Cut]
    zeros: Sequence[InputSpec]
    picks: Sequence[int]
    opened: Mapping[str, Array]

    @property
    def size(self) -> int:
        """Rows in one sample."""
        return max(cut.size for cut in self.cuts)

    def name(self, index: int) -> str:
        """The label of sample `index`: file and row, or file and rows."""
        first = self.picks[index] * self.size
        return f"{self.where}[{first}]" if self.size == 1 else f"{self.where}[{first}:{first + self.size}]"

    def read(self, index: int) -> Sample:
        """The feeds of sample `index`."""
        sample = {}
        for cut in self.cuts:
            taken = cut.take(self.opened[cut.key], self.picks[index])
            sample[cut.spec.name] = taken if cut.prepare is not None else cast(taken, cut.spec, self.name(index))
            let_go(self.opened[cut.key])  # what was read is a copy
        return fill_zeros(sample, self.zeros)

    def contents(self) -> list[bytes]:
        """What tells the samples apart; of pictures that are yet to be prepared, the pictures."""
        return told_apart([self._content(index, BLOCKS) for index in range(len(self.picks))], self._content)

    def _content(self, index: int, blocks: int | None = None) -> bytes:
        digest = sample_digest(self._stored(index), blocks)
        for array in self.opened.values():
            let_go(array)
        return digest

    def _stored(self, index: int) -> Sample:
        """What is stored of sample `index`: not copied, unless it has to be converted."""
        if any(cut.prepare is not None for cut in self.cuts):
            return {cut.key: cut.rows(self.opened[cut.key], self.picks[index]) for cut in self.cuts}
        taken = {cut.spec: cut.take(self.opened[cut.key], self.picks[index]) for cut in self.cuts}
        name = self.name(index)
        stored = {spec.name: x if x.dtype == spec.dtype else cast(x, spec, name) for spec, x in taken.items()}
        return fill_zeros(stored, self.zeros)

    def truth(self, stored: Stored) -> Truth:
        """The class of each sample, from an array [runs]."""
        classes = stored.open()
        return {self.name(index): frozenset({int(classes[pick])}) for index, pick in enumerate(self.picks)}


def _is_truth(stored: Stored, runs: int) -> bool:
    return stored.shape == (runs,) and stored.dtype.kind in "iu"


def _cut(spec: InputSpec, key: str, arrays: Mapping[str, Stored], where: str, preprocess: Preprocess | None) -> Cut:
    """Decide by ranks; the table is in the module's docstring."""
    stored = arrays[key]
    shape = stored.shape
    if stored.dtype.hasobject:
        raise holds_objects(f"{where}, array {key!r},")
    if preprocess is not None and spec.rank in (None, 3, 4) and holds_pictures(stored.dtype, shape):
        batched = picture_frame(spec, preprocess).axes[0] == "N"
        return Cut(spec, key, stored, "rows", (spec.batch or 1) if batched else 1, preparation(preprocess, spec))
    if spec.rank == 0 and shape == ():
        return Cut(spec, key, stored, "constant")
    if shape and spec.rank in (None, len(shape)):
        return Cut(spec, key, stored, "rows", spec.batch or 1)
    if spec.rank == len(shape) - 1:
        return Cut(spec, key, stored, "item")
    if spec.rank == len(shape) + 1 and spec.batch in (None, 1) and spec.fits(shape, skip=1):
        return Cut(spec, key, stored, "single")
    fix = "Reshape the array, as x[:, None] adds a channel axis."
    if holds_pictures(stored.dtype, shape):
        fix = "If these are pictures, --preprocess prepares them, as unit or fashion-mnist."
    raise BadCalibration(
        f"{where}: array {key!r} {stored.dtype} {shape_text(shape)} does not fit input {spec}; expected "
        f"{spec.rank} axes of which the first counts the samples, or {(spec.rank or 0) + 1} axes. "
        f"{fix}"
    )


def _agree(cuts: Sequence[Cut], where: str) -> tuple[list[Cut], int]:
    """The cuts, with arrays that all samples share made constant, and the number of runs."""
    runs = max(cut.runs for cut in cuts)
    agreed = [_shared(cut) if cut.runs == 1 < runs else cut for cut in cuts]
    varying = {cut.runs for cut in agreed if cut.way != "constant"}
    if varying and varying != {runs}:
        counts = ", ".join(f"{cut.key!r} {shape_text(cut.stored.shape)} feeds {cut.runs}" for cut in cuts)
        raise BadCalibration(f"{where}: the arrays hold different numbers of samples: {counts}.")
    if runs == 0:
        cut = cuts[0]
        raise BadCalibration(
            f"{where}: array {cut.key!r} {shape_text(cut.stored.shape)} holds no sample for input {cut.spec}."
        )
    return agreed, runs


def _shared(cut: Cut) -> Cut:
    static = all(cut.spec.static(axis) for axis in range(cut.spec.rank or 0))
    return replace(cut, way="constant") if static and cut.way == "rows" and cut.spec.fits(cut.stored.shape) else cut


def _notes(cuts: Sequence[Cut], where: str) -> tuple[str, ...]:
    notes = []
    for cut in cuts:
        if cut.way == "constant":
            notes.append(f"{where}: {cut.key!r} is the same in every sample.")
        elif cut.way == "rows" and (rest := cut.stored.shape[0] % cut.size):
            notes.append(
                f"{where}: {cut.key!r} has {cut.stored.shape[0]} rows; the last {rest} do not fill the model's batch "
                f"of {cut.size} and are dropped."
            )
        if cut.prepare is None and cut.stored.dtype != cut.spec.dtype and cut.stored.dtype.kind != "U":
            notes.append(f"{where}: {cut.key!r} is {cut.stored.dtype} and is fed as {cut.spec.dtype}.")
    return tuple(notes)
