"""What users of another machine will see: integers, outputs, advice.

`judged` runs `simulate` for a profile beside another, and says what becomes of the outputs, and what to do (`advice`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.report.advice import VNNI, advise, patterns
from halfeven.report.beside import Effect, Labels
from halfeven.report.simulate import Divergence, Simulation, simulate


@dataclass(frozen=True)
class Judgement:
    """A simulation, its outputs beside those of the other machine, and what to do."""

    simulation: Simulation
    effect: Effect

    @property
    def parted(self) -> list[Divergence]:
        """The tensors that differ, in order."""
        return [d for d in self.simulation.tensors.values() if d.differing]

    @property
    def differs(self) -> bool:
        """Whether some code or some output does."""
        return bool(self.parted) or (self.effect.fidelity is not None and isfinite(self.effect.fidelity.sqnr_db))

    @property
    def advice(self) -> str:
        """What to do, in a sentence or two; an option that does it stands at the end."""
        return " ".join(filter(None, self.advised()))

    def advised(self, *, everything: bool = False) -> tuple[str, str]:
        """The sentences of the advice and the option; with `everything` that names every layer."""
        return advise(self.simulation, differs=self.differs, everything=everything)

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite SQNR, no difference at all, is null."""
        s, e = self.simulation, self.effect
        db = None if e.fidelity is None else e.fidelity.sqnr_db
        return {
            "profile": s.profile,
            "against": s.against,
            "evidence": s.evidence,
            "samples": len(s.outputs),
            "first": None if s.first is None else {"tensor": s.first.tensor, "layer": s.first.layer},
            "tensors": {
                n: {"layer": d.layer, "compared": d.compared, "differing": d.differing, "step": d.step}
                for n, d in s.tensors.items()
            },
            "outputs": {
                "sqnr_db": db if db is not None and isfinite(db) else None,
                "same_top1": e.equal,
                "of": e.rows,
                "labelled": e.labelled,
                "right": e.hits[1],
                "right_in_other": e.hits[0],
            },
            "saturating": dict(s.saturating),
            "wrapping": dict(s.wrapping),
            "reduce_range": patterns(s) if s.saturating else [],
            "notes": list(s.notes),
            "advice": self.advice,
        }


def judged(
    model: ir.Model | str,
    data: Sequence[tuple[str, Batch]],
    profile: str,
    against: str = VNNI,
    labels: Labels | None = None,
) -> Judgement:
    """Simulate `model` on `data` as `profile` and as `against`.

    Raises:
        BadOption: there is no such machine.
        UnsupportedModel: the model cannot be read, holds no codes, or holds others than the machine's.
    """
    found = simulate(model, data, profile, against)
    other = simulate(model, data, against)
    effect = Effect()
    for (label, _), reference, outputs in zip(data, other.outputs, found.outputs, strict=True):
        effect.add(reference, outputs, (labels or {}).get(label))
    return Judgement(found, effect)
