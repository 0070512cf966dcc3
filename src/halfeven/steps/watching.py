"""Watching: the float model runs on sample after sample, the cheapest way that shows the same values.

What is watched comes as the runtime keeps it, in blocks of channels (run/blocked.py), and a model whose channels were
equalized runs as it was before, without the bounds by channel that slow it down: what is seen is times the factors.
Both are undone element by element where the values are counted (numerics/tally.py), so that no copy is made. The first
samples, of which second moments are taken, come in order and multiplied; so do all samples when they are few, as a
session for blocks takes time to open.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
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
        self,
        work: Callable[[Run, tuple[int, Sample]], R],
        samples: Iterable[Sample],
        ordered: int,
        total: int | None,
    ) -> Iterator[R]:
        """Yield `work(run, (number, sample))` in order; the first `ordered` samples' values come in order of channels.

        A run gives the feeds and the watched values, and of those that do not come in order how they lie.
        """
        numbered = iter(enumerate(samples))
        few = (total or 0) - ordered < ENOUGH or weigh(self.model) > MOST
        first = numbered if few else islice(numbered, ordered)
        if few or ordered:
            yield from in_order(partial(work, self._in_order()), first, self.at_once)
        if not few:
            yield from in_order(partial(work, self._as_it_lies()), numbered, self.at_once)

    def _threads(self) -> int:
        return cores() // self.at_once

    def _in_order(self) -> Run:
        executor = OrtExecutor(self.model, self.names, self._threads())

        def run(feeds: Batch, label: str) -> tuple[Batch, Mapping[str, Lying]]:
            values = executor(feeds, label)
            return {**feeds, **{name: self._scaled(name, np.asarray(x)) for name, x in values.items()}}, {}

        return run

    def _scaled(self, name: str, x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        factors = self.factors.get(name)
        if factors is None:
            return x
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(x, np.float32) * factors.reshape(-1, *[1] * (x.ndim - 2))

    def _as_it_lies(self) -> Run:
        try:
            executor = blocked(self.model, self.names, self._threads())
        except (UnsupportedModel, OSError) as error:  # for instance no room for a temporary file
            self.said.append(f"calibration took longer, with the same result, as its faster way failed: {error}")
            return self._in_order()
        forget_models(weigh(self.model))  # the runtime's first session and the graph it wrote

        def run(feeds: Batch, label: str) -> tuple[Batch, Mapping[str, Lying]]:
            values = executor(feeds, label)
            lying = {
                name: Lying(prod(values[name].shape[2:]), executor.blocks.get(name, 1), self.factors.get(name, NONE))
                for name in self.names
                if name in executor.blocks or name in self.factors
            }
            return {**feeds, **values}, lying

        return run
