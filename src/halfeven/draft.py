"""The object that travels, and what may change it.

    load -> Draft(model, target, empty plan) -> Step -> Step -> ... -> export

A `Step` is a frozen dataclass: its fields are its options, in Python, in a configuration file and on the command
line. It takes a draft and the data, and returns another draft; what it was given stays as it was.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.errors import QuantError
from halfeven.graph.plan import Plan
from halfeven.graph.weights import weigh
from halfeven.memory import forget_models
from halfeven.stats.channels import ChannelRange
from halfeven.stats.moments import Moments
from halfeven.stats.observation import Observation
from halfeven.targets.target import Target

Batch: TypeAlias = dict[str, npt.NDArray[np.generic]]
Samples: TypeAlias = Iterable[tuple[str, Batch]]
Progress: TypeAlias = Callable[[str, int, int | None], None]


def no_progress(task: str, done: int, total: int | None) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Unscaled:
    """The model before its channels were equalized, which runs faster: it has no bounds by channel yet.

    `factors`, float32 of shape (channels,), by name of a value of `model`: times these it is that value of `scaled`.
    """

    scaled: ir.Model
    model: ir.Model
    factors: Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Draft:
    """A float model, the target, and what has been decided and observed so far.

    `stats`, `channels`, `shapes` (of one run on a sample) and `sizes` (largest magnitudes in it, of values that are
    astronomic and of what the network's end joins) are by value name; `moments`, of what a layer multiplies by its
    weights, by node name; `notes` are sentences for the user.
    """

    model: ir.Model
    target: Target
    plan: Plan = field(default_factory=Plan)
    stats: Mapping[str, Observation] = field(default_factory=dict)
    channels: Mapping[str, ChannelRange] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)
    sample: Mapping[str, npt.NDArray[np.generic]] = field(default_factory=dict, repr=False)
    """What `shapes` were seen with, by input name; empty where they were not seen in this run."""
    notes: tuple[str, ...] = ()
    assumed: frozenset[str] = frozenset()
    """The values whose `stats` were concluded from the network, without data."""
    scaling: str = ""
    """Digest of the factors by which channels were equalized; empty when they were not."""
    stats_scaling: str | None = None
    """The `scaling` that given statistics were taken under; None when they are this run's own."""
    unscaled: Unscaled | None = None
    """What may run in place of `model` while that is still the one that was scaled."""

    def noting(self, *sentences: str) -> "Draft":
        """The draft with sentences added for the user, each once."""
        new = [s for s in dict.fromkeys(sentences) if s not in self.notes]
        return replace(self, notes=(*self.notes, *new))


class Step(Protocol):
    """Decides something. Implemented by frozen dataclasses."""

    name: ClassVar[str]

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft, decided further. `data` yields (label, feeds) and can be iterated again."""
        ...


def pipeline(*steps: Step) -> Callable[..., Draft]:
    """Steps in a row, as one function `(draft, data, progress) -> draft`; an error names the step it came from."""

    def run(draft: Draft, data: Samples = (), progress: Progress = no_progress) -> Draft:
        for step in steps:
            forget_models(weigh(draft.model))
            try:
                draft = step(draft, data, progress)
            except QuantError as error:
                error.add_note(f"step '{step.name}' of {_names(steps)}")
                raise
        return draft

    return run


def _names(steps: Sequence[Step]) -> str:
    return " -> ".join(step.name for step in steps)
