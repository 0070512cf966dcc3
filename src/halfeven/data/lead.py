"""The few samples that some steps look at more closely: the same ones, in whatever order the data were given.

Channels are equalized and weights rounded by a few samples. The first ones given would often all be of one class, and
the result would hang on how files are named. So those whose content has the least digests come first, in the order of
these, and the others follow as they were given. Of the few those are missing that cannot be used; no others, which the
given order would choose, take their place. `turn` says where a sample stood before, for what is defined on that order.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import nsmallest
from itertools import islice
from operator import length_hint
from typing import NamedTuple, Protocol, runtime_checkable

from halfeven.data.digest import BAD, sample_digest
from halfeven.data.sample import Reader, Sample, Source


class Turn(NamedTuple):
    """Where a sample stood among those given, and whether it is one of the few."""

    place: int
    first: bool


class Led(Protocol):
    """Samples of which the few come first; can be iterated again."""

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """Label and sample."""

    def __length_hint__(self) -> int:
        """How many, the unusable included; 0 if only a pass would tell."""

    def turn(self, number: int) -> Turn:
        """Of the sample that came as this number in the pass that is under way."""


@runtime_checkable
class Leadable(Protocol):
    """Samples that know a cheap way to their few."""

    def led(self, count: int) -> Led:
        """These samples, `count` of them first."""


def led(samples: Iterable[tuple[str, Sample]], count: int) -> Led:
    """The samples, `count` of them first: those with the least digests of their content."""
    return samples.led(count) if isinstance(samples, Leadable) else Plain(samples, count)


def few(samples: Iterable[tuple[str, Sample]], count: int) -> Iterator[tuple[str, Sample]]:
    """The few alone: `count` of the samples, less those that cannot be used."""
    ordered = led(samples, count)
    for number, pair in enumerate(islice(ordered, count)):
        if not ordered.turn(number).first:
            return
        yield pair


def least(keys: Sequence[bytes], count: int) -> list[int]:
    """The numbers of the `count` least keys, in the order of these; what could not be read has the greatest."""
    return nsmallest(count, range(len(keys)), key=lambda number: (BAD in keys[number], keys[number], number))


@dataclass(frozen=True, eq=False)
class LedSource:
    """The readers of a source, those of its few samples first."""

    source: Source
    few: int
    turns: dict[str, deque[Turn]] = field(default_factory=dict)
    """Of the samples that were given so far in a pass, by label: a list of files may name one twice."""

    @property
    def count(self) -> int | None:
        """See Source."""
        return self.source.count

    @cached_property
    def first(self) -> Sequence[int]:
        """The numbers of the few."""
        return least(self.source.contents, self.few) if self.few else ()

    def readers(self) -> Iterator[tuple[str, Reader]]:
        """See Source."""
        self.turns.clear()
        first = set(self.first)
        for number, pair in zip(self.first, self.source.picked(self.first), strict=True):
            self.turns.setdefault(pair[0], deque()).append(Turn(number, True))
            yield pair
        for number, pair in enumerate(self.source.readers()):
            if number not in first:
                self.turns.setdefault(pair[0], deque()).append(Turn(number, False))
                yield pair


@dataclass(frozen=True, eq=False)
class Plain:
    """Labelled samples as a list or another iterable gives them; the few are kept in memory.

    Of what can be read only once, the few are those that are given first.
    """

    samples: Iterable[tuple[str, Sample]]
    few: int
    turns: list[Turn] = field(default_factory=list)

    def __length_hint__(self) -> int:
        """See Led."""
        return length_hint(self.samples)

    @cached_property
    def first(self) -> dict[int, tuple[str, Sample]]:
        """The few by their numbers, in the order in which they come; empty if none are asked for."""
        if not self.few or isinstance(self.samples, Iterator):
            return {}
        found = ((sample_digest(pair[1]), number, pair) for number, pair in enumerate(self.samples))
        return {number: pair for _, number, pair in nsmallest(self.few, found, key=lambda one: one[:2])}

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """See Led."""
        self.turns.clear()
        for number, pair in self.first.items():
            self.turns.append(Turn(number, True))
            yield pair
        if 0 < len(self.first) < self.few:
            return  # these are all
        for number, pair in enumerate(self.samples):
            if number not in self.first:
                self.turns.append(Turn(number, not self.first and number < self.few))
                yield pair

    def turn(self, number: int) -> Turn:
        """See Led."""
        return self.turns[number]
