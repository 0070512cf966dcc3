"""SHA-256 of samples: of names, dtypes, shapes and bytes of all feeds; a bad sample counts as a gap.

Each sample is hashed when it is first read, in whatever order; only what was not read is read for it. The digest of all
is that of the samples' digests in order.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from halfeven.data.sample import Reader, Sample
from halfeven.errors import BadCalibration

BAD = b"\0bad\0"
BLOCK = 4096  # bytes
BLOCKS = 16  # of each array, to tell samples apart


class Digest(NamedTuple):
    """Of one sample: of some blocks of its arrays, and of all."""

    part: bytes
    whole: bytes

    @classmethod
    def of(cls, sample: Sample) -> "Digest":
        """Of a sample."""
        return cls(sample_digest(sample, BLOCKS), sample_digest(sample))


BAD_SAMPLE = Digest(BAD, BAD)


def digests(readers: Iterable[Reader]) -> list[Digest]:
    """The digests of what each reader gives."""
    found = []
    for read in readers:
        try:
            found.append(Digest.of(read()))
        except BadCalibration:
            found.append(BAD_SAMPLE)
    return found


def digest_of(found: Iterable[Digest]) -> str:
    """The digest (hex) of samples in this order."""
    return hashlib.sha256(b"".join(one.whole for one in found)).hexdigest()


def told_apart(parts: Sequence[bytes], whole: Callable[[int], bytes]) -> list[bytes]:
    """What tells samples apart: the digests of their parts, with those of the whole where parts are alike."""
    seen = Counter(parts)
    return [part if seen[part] == 1 else part + whole(number) for number, part in enumerate(parts)]


class Digested:
    """Numbered samples, read through it by `read(index)`, and called for their digest."""

    def __init__(self, read: Callable[[int], Sample], count: int) -> None:
        """`count` samples that `read` gives by number."""
        self._read, self._count = read, count
        self._digests: dict[int, Digest] = {}

    def read(self, index: int) -> Sample:
        """The sample."""
        try:
            sample = self._read(index)
        except BadCalibration:
            self._digests.setdefault(index, BAD_SAMPLE)
            raise
        if index not in self._digests:
            self._digests[index] = Digest.of(sample)
        return sample

    def contents(self) -> list[bytes]:
        """What tells the samples apart."""
        found = self._all()
        return told_apart([one.part for one in found], lambda index: found[index].whole)

    def __call__(self) -> str:
        """The digest of all samples."""
        return digest_of(self._all())

    def _all(self) -> list[Digest]:
        for index in range(self._count):
            if index not in self._digests:
                with suppress(BadCalibration):
                    self.read(index)
        return [self._digests[index] for index in range(self._count)]


class FileDigests(dict[Path, bytes]):
    """SHA-256 of files, by their paths; each is read once, what cannot be read counts as a gap."""

    def __missing__(self, path: Path) -> bytes:
        """Read the file."""
        state = hashlib.sha256()
        try:
            with path.open("rb") as stream:
                while piece := stream.read(1 << 20):
                    state.update(piece)
            self[path] = state.digest()
        except OSError:
            self[path] = BAD
        return self[path]

    def of(self, files: Sequence[tuple[str, Path]], options: str) -> str:
        """The digest (hex) of files, given as (label, path), and of how they are prepared."""
        state = hashlib.sha256(options.encode())
        for label, path in files:
            state.update(f"\0{label}\0".encode() + self[path])
        return state.hexdigest()


def sample_digest(sample: Sample, blocks: int | None = None) -> bytes:
    """Of one sample, 32 bytes; with `blocks`, of at most so many blocks of each array, evenly spread."""
    state = hashlib.sha256()
    for name in sorted(sample):
        array = np.ascontiguousarray(sample[name])
        state.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        if array.dtype.kind in "OU":  # texts: of which lengths, and what they say
            texts = [str(text).encode() for text in array.reshape(-1)]
            state.update(b"".join(f"{len(text)}\0".encode() + text for text in texts))
            continue
        data = array.reshape(-1).view(np.uint8).data
        if blocks is None or len(data) <= blocks * BLOCK:
            state.update(data)
            continue
        for i in range(blocks):
            start = i * (len(data) - BLOCK) // (blocks - 1)
            state.update(data[start : start + BLOCK])
    return state.digest()
