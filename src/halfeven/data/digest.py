"""SHA-256 of samples: of names, dtypes, shapes and bytes of all feeds, in order; a bad sample counts as a gap.

It is asked for at the end of a pass over the data, so it is taken along while samples are read one after the other;
only what was not read, or out of turn, is read for it.
"""

import hashlib
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Protocol

import numpy as np

from halfeven.data.sample import Reader, Sample
from halfeven.errors import BadCalibration

BAD = b"\0bad\0"


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""

    def hexdigest(self) -> str:
        """Of all bytes so far."""


def feeds_digest(readers: Iterable[Reader]) -> str:
    """The digest (hex) of what the readers give."""
    state = hashlib.sha256()
    for read in readers:
        try:
            _take(state, read())
        except BadCalibration:
            state.update(BAD)
    return state.hexdigest()


class Digested:
    """Numbered samples, read through it by `read(index)`, and called for their digest."""

    def __init__(self, read: Callable[[int], Sample], count: int) -> None:
        """`count` samples that `read` gives by number."""
        self._read, self._count = read, count
        self._state, self._next, self._lock = hashlib.sha256(), 0, Lock()

    def read(self, index: int) -> Sample:
        """The sample."""
        try:
            sample = self._read(index)
        except BadCalibration:
            self._account(index, None)
            raise
        self._account(index, sample)
        return sample

    def __call__(self) -> str:
        """The digest of all samples."""
        for index in range(self._next, self._count):
            try:
                self.read(index)
            except BadCalibration:
                continue
        return self._state.hexdigest()

    def _account(self, index: int, sample: Sample | None) -> None:
        with self._lock:
            if index != self._next:
                return
            self._next += 1
            if sample is None:
                self._state.update(BAD)
            else:
                _take(self._state, sample)


def _take(state: Hash, sample: Sample) -> None:
    for name in sorted(sample):
        array = np.ascontiguousarray(sample[name])
        state.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        state.update(array.tobytes())
