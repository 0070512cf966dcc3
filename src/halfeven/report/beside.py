"""What a runtime computes beside a machine: codes that differ, tensor by tensor, and what becomes of outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from halfeven.draft import Batch
from halfeven.report.simulate import Divergence
from halfeven.run.runtimes import alike
from halfeven.stats.distance import Fidelity
from halfeven.wording import share

Codes = npt.NDArray[np.integer]
Labels = Mapping[str, frozenset[int]]


@dataclass(frozen=True)
class Place:
    """One code that differs: of which tensor and layer, at which index of which sample, and both integers."""

    tensor: str
    layer: str
    sample: str
    index: tuple[int, ...]
    simulated: int
    found: int


@dataclass
class Effect:
    """Outputs of a runtime beside those of ONNX Runtime's machine; `hits` counts labelled samples, of both."""

    fidelity: Fidelity | None = None
    rows: int = 0
    equal: int = 0
    labelled: int = 0
    hits: tuple[int, int] = (0, 0)

    def add(self, reference: Batch, other: Batch, truth: frozenset[int] | None) -> None:
        """Count the outputs of one sample; of the first output the best class, where it is one of scores."""
        for place, (name, array) in enumerate(reference.items()):
            x, y = np.asarray(array), alike(np.asarray(array), np.asarray(other[name]))
            if x.dtype.kind != "f" or x.shape != y.shape:
                continue
            one = Fidelity.of(x, y)
            self.fidelity = one if self.fidelity is None else self.fidelity.merge(one)
            if place == 0 and x.ndim in (2, 3) and x.shape[-1] > 1:
                best = [a.argmax(-1).ravel() for a in (x, y)]
                self.rows += best[0].size
                self.equal += int((best[0] == best[1]).sum())
                if truth is not None and best[0].size == 1:
                    self.labelled += 1
                    self.hits = (self.hits[0] + (int(best[0][0]) in truth), self.hits[1] + (int(best[1][0]) in truth))


@dataclass
class Beside:
    """A runtime beside a machine. `inner`: inner tensors were compared, not outputs alone."""

    runtime: str
    profile: str
    evidence: str
    inner: bool
    tensors: dict[str, Divergence] = field(default_factory=dict)
    first: Place | None = None
    effect: Effect = field(default_factory=Effect)
    notes: tuple[str, ...] = ()
    refused: str = ""

    @property
    def differing(self) -> int:
        """Codes that differ."""
        return sum(d.differing for d in self.tensors.values())

    @property
    def compared(self) -> int:
        """Codes compared."""
        return sum(d.compared for d in self.tensors.values())

    @property
    def sentence(self) -> str:
        """What was found, in one."""
        if self.refused:
            return f"{self.runtime} cannot run it: {self.refused}"
        if not self.tensors:
            return f"{self.runtime} shows no integers; its outputs are judged."
        if self.first is None:
            return f"{self.runtime} computes the integers of {self.profile}: none of {self.compared:,} differs."
        step, part = max(d.step for d in self.tensors.values()), share(self.differing, self.compared)
        return (
            f"{self.runtime} parts from {self.profile} first at '{self.first.layer}': code {self.first.found} for "
            f"{self.first.simulated} at {list(self.first.index)}; {part} of all codes differ, by {step} at most."
        )

    def add(self, name: str, layer: str, sample: str, ours: Codes, theirs: Codes) -> None:
        """Count a tensor of one sample."""
        gap = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
        seen = self.tensors.setdefault(name, Divergence(name, layer))
        seen.compared += gap.size
        seen.differing += int((gap > 0).sum())
        seen.step = max(seen.step, int(gap.max(initial=0)))
        if self.first is None and gap.any():
            at = tuple(int(i) for i in np.argwhere(gap)[0])
            self.first = Place(name, layer, sample, at, int(ours[at]), int(theirs[at]))
