"""What a model asks for, and what a source of samples gives.

A *sample* is the feeds for one run of the model: input name -> array, with a batch of 1, or of the model's own fixed
batch. A *source* yields samples one at a time, each under a label which names it in messages ("cat.jpg",
"calib.npz[17]"), may be iterated any number of times and gives the same samples in the same order each time. It holds
one sample in memory (a spool on disk, a memory map), however many there are.

A dimension of an `InputSpec` is static when it is a positive int. None, a name, 0 and -1 all mean "open".
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration

Array: TypeAlias = npt.NDArray[Any]
Sample: TypeAlias = dict[str, Array]
Truth: TypeAlias = Mapping[str, frozenset[int]]
Reader: TypeAlias = Callable[[], Sample]


@dataclass(frozen=True)
class InputSpec:
    """What a model asks of one of its inputs."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    @property
    def rank(self) -> int | None:
        """Number of axes, None if the model does not say."""
        return None if self.shape is None else len(self.shape)

    def static(self, axis: int) -> int | None:
        """The length of an axis if the model fixes it, else None."""
        size = self.shape[axis] if self.shape is not None else None
        return size if isinstance(size, int) and size > 0 else None

    @property
    def batch(self) -> int | None:
        """The length of the first axis if the model fixes it, else None."""
        return self.static(0) if self.shape else None

    def fits(self, shape: Sequence[int], skip: int = 0) -> bool:
        """Whether `shape` agrees with the model's axes from `skip` on, in rank and in each static length."""
        if self.shape is None:
            return True
        wanted = [self.static(axis) for axis in range(skip, len(self.shape))]
        return len(wanted) == len(shape) and all(w in (None, s) for w, s in zip(wanted, shape, strict=True))

    def __str__(self) -> str:
        """As messages show it: 'x' float32 [N, 3, 224, 224]."""
        dims = "[any rank]" if self.shape is None else shape_text(self.shape)
        return f"{self.name!r} {self.dtype} {dims}"


def shape_text(shape: Sequence[int | str | None]) -> str:
    """Shape as [N, 3, ?, 224]."""
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


class Source(Protocol):
    """Samples to run a model on: re-iterable, in a fixed order, one in memory at a time."""

    @property
    def count(self) -> int | None:
        """Number of samples, None if only a pass over the data would tell."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the data and of how they are prepared: equal digests, equal feeds."""

    @property
    def notes(self) -> Sequence[str]:
        """What was ignored, filled in, converted or dropped, in sentences."""

    @property
    def labels(self) -> Truth:
        """The acceptable classes of each sample, by the sample's label; empty if the data say nothing."""

    @property
    def contents(self) -> Sequence[bytes]:
        """Of each sample a digest of its content, whatever its label and place; those of equal content are equal."""

    def readers(self) -> Iterator[tuple[str, Reader]]:
        """Label and a call that reads the sample; a call that raises BadCalibration does not end the iteration."""

    def picked(self, numbers: Sequence[int]) -> Iterator[tuple[str, Reader]]:
        """As `readers`, of the samples with these numbers, in the order of these."""

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """Label and sample."""


@dataclass(frozen=True, eq=False)
class Indexed:
    """A Source whose samples are known by number: files, rows of arrays, spooled streams.

    `picks`: each sample's place in the whole data, before a limit. `rows`: how many rows or files make one sample.
    """

    picks: Sequence[int]
    name: Callable[[int], str]
    read: Callable[[int], Sample]
    fingerprint: Callable[[], str]
    digests: Callable[[], Sequence[bytes]]
    truth: Callable[[], Truth] = dict
    notes: tuple[str, ...] = ()
    rows: int = 1

    @property
    def count(self) -> int:
        """See Source."""
        return len(self.picks)

    @cached_property
    def digest(self) -> str:
        """See Source."""
        return self.fingerprint()

    @cached_property
    def labels(self) -> Truth:
        """See Source."""
        return self.truth()

    @cached_property
    def contents(self) -> Sequence[bytes]:
        """See Source."""
        return self.digests()

    def readers(self) -> Iterator[tuple[str, Reader]]:
        """See Source."""
        return self.picked(range(self.count))

    def picked(self, numbers: Sequence[int]) -> Iterator[tuple[str, Reader]]:
        """See Source."""
        for index in numbers:
            yield self.name(index), partial(self.read, index)

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """See Source."""
        for index in range(self.count):
            yield self.name(index), self.read(index)


def spread(count: int, limit: int | None) -> Sequence[int]:
    """`limit` of the numbers 0..count-1, evenly spaced: the first ones alone would often all be of one class."""
    if limit is None or limit >= count:
        return range(count)
    return [index * count // limit for index in range(limit)]


def limit_note(where: str, count: int, limit: int | None) -> tuple[str, ...]:
    """Say that only a part of the samples is used."""
    if limit is None or limit >= count:
        return ()
    return (f"{where}: {limit} of {count} samples are used, evenly spaced.",)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is a floating one, bfloat16 and the 8-bit floats of ml_dtypes included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def cast(array: Array, spec: InputSpec, where: str) -> Array:
    """`array` in the model's dtype, as an ordinary contiguous copy.

    Floats are rounded to the model's float; all else must keep each value exactly (ids 0..5 as float32 become int64).
    Texts of a fixed length become texts of any.

    Raises:
        BadCalibration: a value changes, or the dtype is not a number.
    """
    if array.dtype == spec.dtype:
        return np.array(array, order="C")
    if spec.dtype.kind == "O" and all(isinstance(text, str) for text in array.reshape(-1)):
        return np.array(array, object, order="C")
    if is_float(array.dtype) or array.dtype.kind in "biu":
        with np.errstate(invalid="ignore", over="ignore"):
            converted = np.array(array.astype(spec.dtype), order="C")
        if (is_float(array.dtype) and is_float(spec.dtype)) or np.array_equal(converted, array):
            return converted
    raise BadCalibration(
        f"{where}: input {spec} got {array.dtype} values that {spec.dtype} cannot hold. "
        f"Store the array as {spec.dtype}."
    )


def missing_input(spec: InputSpec, where: str, have: Iterable[str], remedy: str) -> BadCalibration:
    """The error for a model input for which the data hold nothing."""
    return BadCalibration(f"input {spec} is not in {where}, which has {names_text(list(have))}. {remedy}")


def names_text(names: Sequence[str]) -> str:
    """Names joined by commas, the first eight and a count of the rest."""
    rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) + rest) or "nothing"
