"""SHA-256 of samples: of names, dtypes, shapes and bytes of all feeds, in order; a bad sample counts as a gap.

It is asked for at the end of a pass over the data, so each sample is hashed when it is read, in whatever order; only
what was not read is read for it. The digest of all is that of the samples' digests in order.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np

from halfeven.data.sample import Reader, Sample
from halfeven.errors import BadCalibration

BAD = b"\0bad\0"


def feeds_digest(readers: Iterable[Reader]) -> str:
    """The digest (hex) of what the readers give."""
    state = hashlib.sha256()
    for read in readers:
        try:
            state.update(sample_digest(read()))
        except BadCalibration:
            state.update(BAD)
    return state.hexdigest()


class Digested:
    """Numbered samples, read through it by `read(index)`, and called for their digest."""

    def __init__(self, read: Callable[[int], Sample], count: int) -> None:
        """`count` samples that `read` gives by number."""
        self._read, self._count = read, count
        self._digests: dict[int, bytes] = {}

    def read(self, index: int) -> Sample:
        """The sample."""
        try:
            sample = self._read(index)
        except BadCalibration:
            self._digests.setdefault(index, BAD)
            raise
        if index not in self._digests:
            self._digests[index] = sample_digest(sample)
        return sample

    def __call__(self) -> str:
        """The digest of all samples."""
        state = hashlib.sha256()
        for index in range(self._count):
            if index not in self._digests:
                with suppress(BadCalibration):
                    self.read(index)
            state.update(self._digests[index])
        return state.hexdigest()


def sample_digest(sample: Sample) -> bytes:
    """Of one sample, 32 bytes."""
    state = hashlib.sha256()
    for name in sorted(sample):
        array = np.ascontiguousarray(sample[name])
        state.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        if array.dtype.kind in "OU":  # texts: of which lengths, and what they say
            texts = [str(text).encode() for text in array.reshape(-1)]
            state.update(b"".join(f"{len(text)}\0".encode() + text for text in texts))
        else:
            state.update(array.reshape(-1).view(np.uint8).data)
    return state.digest()
