"""Parts of a source: one share to calibrate with, the other held out to judge with; and samples read ahead."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from halfeven.data.sample import Reader, Sample, Source, Truth

T = TypeVar("T")
_END = object()


@dataclass(frozen=True)
class Part:
    """Of every `every` samples the last (`held`), or all but the last."""

    source: Source
    every: int
    held: bool

    @property
    def count(self) -> int | None:
        """See Source."""
        if self.source.count is None:
            return None
        held = self.source.count // self.every
        return held if self.held else self.source.count - held

    @property
    def digest(self) -> str:
        """Of the whole source."""
        return self.source.digest

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the whole source."""
        return tuple(self.source.notes)

    @property
    def labels(self) -> Truth:
        """Of the whole source."""
        return self.source.labels

    @property
    def contents(self) -> Sequence[bytes]:
        """See Source."""
        return [key for i, key in enumerate(self.source.contents) if self._has(i)]

    def readers(self) -> Iterator[tuple[str, Reader]]:
        """See Source."""
        for i, pair in enumerate(self.source.readers()):
            if self._has(i):
                yield pair

    def picked(self, numbers: Sequence[int]) -> Iterator[tuple[str, Reader]]:
        """See Source."""
        if self.held:
            return self.source.picked([n * self.every + self.every - 1 for n in numbers])
        return self.source.picked([n + n // (self.every - 1) for n in numbers])

    def _has(self, number: int) -> bool:
        """Whether the source's sample of this number is of this part."""
        return (number % self.every == self.every - 1) is self.held

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """See Source."""
        for label, read in self.readers():
            yield label, read()


def read_ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """Yield the same items, prepared by another thread up to `depth` ahead; its exceptions arrive here.

    It begins once the first was taken: who wants no more than that has no other prepared.
    """
    for first in items:
        yield first
        break
    else:
        return
    ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def work() -> None:
        try:
            for item in items:
                if not _put(ready, (item, None), stop):
                    return
            _put(ready, (_END, None), stop)
        except BaseException as error:  # raised again in the reader's thread
            _put(ready, (_END, error), stop)

    thread = threading.Thread(target=work, name="halfeven-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]
    finally:  # it may run in a garbage collection, where an interrupt while waiting for the thread would be lost
        stop.set()


def _put(
    ready: "queue.Queue[tuple[object, BaseException | None]]",
    item: tuple[object, BaseException | None],
    stop: threading.Event,
) -> bool:
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
