"""Watching: the float model runs on sample after sample, the cheapest way that shows the same values.

What is watched comes as the runtime keeps it, in blocks of channels (run/blocked.py), and a model whose channels were
equalized runs as it was before, without the bounds by channel that slow it down: what is seen is times the factors.
Both are undone where the values are counted (numerics/tally.py) and where vectors are taken of them
(graph/patches.py), element by element, so that no copy is made. Of few samples the values come in order, as a session
for blocks takes time to open.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import prod
from typing import TypeAlias, TypeVar

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
from halfeven.run.reused import ReusedOutputs
from halfeven.run.samples import cores, flights, in_order

Factors: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Run: TypeAlias = Callable[[Batch, str], tuple[Batch, Mapping[str, Lying]]]
Sample: TypeAlias = tuple[str, Batch]
R = TypeVar("R")

ENOUGH = 32  # samples that make up for the time to open a session for blocks
MOST = 1 << 28  # bytes of weights: such a session writes them to a temporary file


@dataclass(frozen=True)
class Watching:
    """Which values of which model to watch, what they are multiplied by, and how many samples at once."""

    model: ir.Model
    names: tuple[str, ...]
    factors: Factors
    at_once: int
    bytes: int
    """What is watched of one sample, in float32."""
    said: list[str] = field(default_factory=list, compare=False)
    """Sentences for the user, once it ran."""

    @classmethod
    def of(cls, draft: Draft, names: Collection[str]) -> "Watching":
        """Watch values of the draft's model."""
        shapes = [draft.shapes.get(name, ()) for name in names]
        before, model, factors = draft.unscaled, draft.model, {}
        if before is not None and before.scaled is draft.model:
            made = {v.name for node in before.model.graph for v in node.outputs}
            if made.issuperset(names):
                model, factors = before.model, dict(before.factors)
        return cls(model, tuple(sorted(names)), factors, flights(shapes), 4 * sum(map(prod, shapes)))

    def __call__(
        self, work: Callable[[Run, tuple[int, Sample]], R], samples: Iterable[Sample], total: int | None
    ) -> Iterator[R]:
        """Yield `work(run, (number, sample))` in order; `total` samples are expected, None if nobody knows.

        A run gives the feeds and the watched values, and how those lie that do not lie as they are to be seen. The
        values stand until the same thread's next run.
        """
        few = (total or 0) < ENOUGH or weigh(self.model) > MOST
        run = self._in_order() if few else self._as_it_lies()
        yield from in_order(partial(work, run), enumerate(samples), self.at_once)

    @property
    def threads(self) -> int:
        """Of one sample."""
        return cores() // self.at_once

    def _in_order(self) -> Run:
        return self._seen(ReusedOutputs(OrtExecutor(self.model, self.names, self.threads)), {})

    def _as_it_lies(self) -> Run:
        try:
            executor = blocked(self.model, self.names, self.threads)
        except (UnsupportedModel, OSError) as error:  # for instance no room for a temporary file
            self.said.append(f"calibration took longer, with the same result, as its faster way failed: {error}")
            return self._in_order()
        forget_models(weigh(self.model))  # the runtime's first session and the graph it wrote
        return self._seen(executor, executor.blocks)

    def _seen(self, executor: Callable[[Batch, str], Batch], blocks: Mapping[str, int]) -> Run:
        others = [name for name in self.names if name in blocks or name in self.factors]

        @lru_cache(1)  # most samples have the shapes of the one before
        def lying(*planes: int) -> Mapping[str, Lying]:
            return {
                name: Lying(plane, blocks.get(name, 1), self.factors.get(name, NONE))
                for name, plane in zip(others, planes, strict=True)
            }

        def run(feeds: Batch, label: str) -> tuple[Batch, Mapping[str, Lying]]:
            values = executor(feeds, label)
            return {**feeds, **values}, lying(*(prod(values[name].shape[2:]) for name in others))

        return run
