"""What users of another machine will see: integers, outputs, advice.

`judged` runs `simulate` for a profile beside another, and says what becomes of the outputs, and which layers need
weights of 7 bits: on x86 without VNNI a pair of products uint8 times int8 saturates beyond 16 bits, which exact bounds
over the weights find (`numerics.overflow`); weights of at most 64 in size never do. In ONNX Runtime on Arm64 a pair of
depthwise products wraps where all four codes are the lowest (`numerics.product_pairs`); weights from -127 never do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.report.beside import Effect, Labels
from halfeven.report.simulate import ARM64, AVX2, Divergence, Simulation, simulate
from halfeven.wording import counted


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
    def advice(self) -> str:
        """What to do, in a sentence or two."""
        layers, wrapping = self.simulation.saturating, self.simulation.wrapping
        if wrapping:
            return (
                f"{counted(len(wrapping), 'depthwise layer')} can be off by 2^16 in a sum on {ARM64}, where two "
                "weights of -128 meet two inputs of the lowest code. Quantize again with weights from -127."
            )
        if not self.simulation.profile.startswith(AVX2):
            return "" if not self.parted else "Verify on the device if the outputs above differ more than you accept."
        if not layers:
            return "No sum can saturate: every pair of products fits 16 bits."
        if not self.parted:
            return f"{counted(len(layers), 'layer')} could saturate, and did not on these data."
        return (
            f"{counted(len(layers), 'layer')} can saturate. Give their weights 7 bits (codes of at most 64 in size), "
            "and leave the others at 8."
        )

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
            "notes": list(s.notes),
            "advice": self.advice,
        }


def judged(
    model: ir.Model | str,
    data: Sequence[tuple[str, Batch]],
    profile: str,
    against: str = "onnxruntime@x86-vnni",
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
