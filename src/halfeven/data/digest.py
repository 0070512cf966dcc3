"""SHA-256 of samples: of names, dtypes, shapes and bytes of all feeds; a bad sample counts as a gap.

Each sample is hashed when it is first read, in whatever order; only what was not read is read for it. The digest of all
is that of the samples' digests in order. Samples are told apart by some blocks of their arrays, and by all where these
are alike.
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


def digests(readers: Iterable[Reader]) -> list[Digest]:
    """The digests of what each reader gives."""
    found = []
    for read in readers:
        try:
            sample = read()
        except BadCalibration:
            found.append(Digest(BAD, BAD))
        else:
            found.append(Digest(sample_digest(sample, BLOCKS), sample_digest(sample)))
    return found


def digest_of(found: Iterable[bytes]) -> str:
    """The digest (hex) of samples with these digests, in this order."""
    return hashlib.sha256(b"".join(found)).hexdigest()


def told_apart(parts: Sequence[bytes], whole: Callable[[int], bytes]) -> list[bytes]:
    """What tells samples apart: the digests of their parts, with those of the whole where parts are alike."""
    seen = Counter(parts)
    return [part if seen[part] == 1 else part + whole(number) for number, part in enumerate(parts)]


class Digested:
    """Numbered samples, read through it by `read(index)`, and called for their digest."""

    def __init__(self, read: Callable[[int], Sample], count: int) -> None:
        """`count` samples that `read` gives by number."""
        self._read, self._count = read, count
        self._whole: dict[int, bytes] = {}

    def read(self, index: int) -> Sample:
        """The sample."""
        try:
            sample = self._read(index)
        except BadCalibration:
            self._whole.setdefault(index, BAD)
            raise
        if index not in self._whole:
            self._whole[index] = sample_digest(sample)
        return sample

    def contents(self) -> list[bytes]:
        """What tells the samples apart."""
        return told_apart([self._part(index) for index in range(self._count)], self._whole.__getitem__)

    def __call__(self) -> str:
        """The digest of all samples."""
        for index in range(self._count):
            if index not in self._whole:
                with suppress(BadCalibration):
                    self.read(index)
        return digest_of(self._whole[index] for index in range(self._count))

    def _part(self, index: int) -> bytes:
        try:
            return sample_digest(self.read(index), BLOCKS)
        except BadCalibration:
            return BAD


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
