"""Watching: the float model runs on sample after sample, the cheapest way that shows the same values.

What is watched comes as the runtime keeps it, in blocks of channels (run/blocked.py), and a model whose channels were
equalized runs as it was before, without the bounds by channel that slow it down: what is seen is times the factors.
Both are undone where the values are counted (numerics/tally.py) and where vectors are taken of them
(graph/patches.py), element by element, so that no copy is made. They come in pieces (run/pieces.py). Of few samples the
values come in order and all at once, as the sessions for blocks and pieces take time to open.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Batch, Draft
from halfeven.errors import UnsupportedModel
from halfeven.graph.weights import weigh
from halfeven.memory import forget_models
from halfeven.numerics.tally import NONE, Lying
from halfeven.run.blocked import blocked
from halfeven.run.ort import OrtExecutor
from halfeven.run.reused import Part, ReusedOutputs
from halfeven.run.samples import cores, flights, in_order
from halfeven.stats.observer import Layout

Factors: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Sample: TypeAlias = tuple[str, Batch]
R = TypeVar("R")

ENOUGH = 32  # samples that make up for the time to open a session for blocks
MOST = 1 << 28  # bytes of weights: such a session writes them to a temporary file


@dataclass(eq=False, slots=True)
class Seen:
    """Some of the watched values of a sample, and how those lie that do not lie as they are to be seen."""

    values: Batch
    lying: Mapping[str, Lying]
    layout: Layout | None = None
    """How observers take them in, if the next sample's values come in the same arrays."""


Run: TypeAlias = Callable[[Batch, str], Iterator[Seen]]


@dataclass(frozen=True)
class Watching:
    """Which values of which model to watch, what they are multiplied by, and how many samples at once."""

    model: ir.Model
    sizes: Mapping[str, int]
    """What is watched, and about how many bytes it has in float32."""
    factors: Factors
    at_once: int
    said: list[str] = field(default_factory=list, compare=False)
    """Sentences for the user, once it ran."""

    @classmethod
    def of(cls, draft: Draft, names: Collection[str]) -> "Watching":
        """Watch values of the draft's model."""
        shapes = {name: draft.shapes.get(name, ()) for name in sorted(names)}
        before, model, factors = draft.unscaled, draft.model, {}
        if before is not None and before.scaled is draft.model:
            made = {v.name for node in before.model.graph for v in node.outputs}
            if made.issuperset(names):
                model, factors = before.model, dict(before.factors)
        sizes = {name: 4 * prod(shape) for name, shape in shapes.items()}
        return cls(model, sizes, factors, flights(shapes.values()))

    def __call__(
        self, work: Callable[[Run, tuple[int, Sample]], R], samples: Iterable[Sample], total: int | None
    ) -> Iterator[R]:
        """Yield `work(run, (number, sample))` in order; `total` samples are expected, None if nobody knows.

        A run gives first the feeds and then the watched values, piece by piece; they stand until the next is asked for.
        """
        few = (total or 0) < ENOUGH or weigh(self.model) > MOST
        run = self._in_order() if few else self._as_it_lies()
        yield from in_order(partial(work, run), enumerate(samples), self.at_once)

    @property
    def threads(self) -> int:
        """Of one sample."""
        return cores() // self.at_once

    @property
    def bytes(self) -> int:
        """What is watched of one sample, in float32."""
        return sum(self.sizes.values())

    def _in_order(self) -> Run:
        reused = ReusedOutputs(OrtExecutor(self.model, tuple(self.sizes), self.threads))
        return self._seen(lambda feeds, label: iter((reused(feeds, label),)), {name: name for name in self.sizes}, {})

    def _as_it_lies(self) -> Run:
        try:
            found = blocked(self.model, self.sizes, self.threads)
        except (UnsupportedModel, OSError) as error:  # for instance no room for a temporary file
            self.said.append(f"calibration took longer, with the same result, as its faster way failed: {error}")
            return self._in_order()
        forget_models(weigh(self.model))  # the graph that the runtime's first session wrote
        return self._seen(found.run, found.names, found.blocks)

    def _seen(
        self, parts: Callable[[Batch, str], Iterator[Part]], names: Mapping[str, str], blocks: Mapping[str, int]
    ) -> Run:
        def lying(name: str, x: npt.NDArray[np.generic]) -> Lying:
            return Lying(prod(x.shape[2:]), blocks.get(name, 1), self.factors.get(name, NONE))

        def seen(part: Part) -> Seen:
            values = {name: part.values[inside] for name, inside in names.items() if inside in part.values}
            lies = {name: lying(name, x) for name, x in values.items() if name in blocks or name in self.factors}
            return Seen(values, lies)

        def run(feeds: Batch, label: str) -> Iterator[Seen]:
            yield Seen(feeds, {})
            for part in parts(feeds, label):
                part.memo = part.memo or seen(part)
                yield cast(Seen, part.memo)

        return run
