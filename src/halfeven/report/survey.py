"""Survey: one quantized network on many machines, on one page: where integers part first, how many, what it costs.

Each machine stands beside one and the same other (`--against`), on the same samples. Where a machine has no integer
kernel for the codes of a layer it computes that in real numbers (`Simulation.layers`); where that is all of them its
integers say nothing of the device, which would not run this file as it is, and that is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from halfeven.draft import Batch, Progress, no_progress
from halfeven.errors import QuantError
from halfeven.report.advice import VNNI
from halfeven.report.beside import Labels
from halfeven.report.judging import Judgement, judged
from halfeven.report.sides import sides
from halfeven.run.integer.documented import DOCUMENTED
from halfeven.run.integer.machines import MACHINES, machine_named
from halfeven.wording import counted

EVERY = "all"


@dataclass(frozen=True)
class Row:
    """One machine; `refused` says why it cannot run the network."""

    profile: str
    judgement: Judgement | None = None
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        held = {"profile": self.profile, "refused": self.refused}
        return held if self.judgement is None else self.judgement.to_json()


@dataclass(frozen=True)
class Survey:
    """All machines, in the order asked for."""

    against: str
    samples: int
    rows: tuple[Row, ...]

    def remarks(self, *, everything: bool = False) -> dict[tuple[str, str], list[str]]:
        """What is to be known of some machines, or to be done for them and by which option, with the machines.

        With `everything` the option names every layer.
        """
        found: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row.judgement is None:
                continue
            has, of = row.judgement.simulation.layers
            texts = [(note, "") for note in row.judgement.simulation.notes]
            texts.append(row.judgement.advised(everything=everything))
            if has < of:
                what = "no layer" if not has else f"{counted(of - has, 'layer')} of {of} not"
                why = f"{what} in integers: it has no kernel for these codes or operators, and computes in float"
                texts.append((why, ""))
            for text in texts:
                if text[0]:
                    found.setdefault(text, []).append(row.profile)
        return found

    @property
    def refusals(self) -> dict[str, list[str]]:
        """Why machines cannot run it, with the machines."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row.refused:
                found.setdefault(row.refused, []).append(row.profile)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"against": self.against, "samples": self.samples, "machines": [row.to_json() for row in self.rows]}


def profiles_named(text: str) -> tuple[str, ...]:
    """The machines of a list with commas; of `all`, every one that is a runtime with its defaults.

    Raises:
        BadOption: there is no machine of a name.
    """
    if text != EVERY:
        return tuple(machine_named(name.strip()).name for name in text.split(","))
    documented = {machine.name for machine in DOCUMENTED}
    return tuple(name for name in MACHINES if name not in documented and "+" not in name)


def surveyed(
    model: ir.Model | str,
    data: Sequence[tuple[str, Batch]],
    profiles: Sequence[str],
    against: str = VNNI,
    *,
    labels: Labels | None = None,
    progress: Progress = no_progress,
) -> Survey:
    """Simulate `model` on `data` as each of `profiles` and as `against`.

    Raises:
        BadOption: there is no machine `against`.
        UnsupportedModel: `against` cannot run the model, or it holds no codes.
        UnsupportedByTarget: the model cannot be written for `against`.
    """
    sides(model, [against], data[:1])  # what it refuses is no fault of the others
    rows: list[Row] = []
    for done, profile in enumerate(profiles):
        progress("simulate", done, len(profiles))
        try:
            rows.append(Row(profile, judged(model, data, profile, against, labels)))
        except QuantError as error:
            rows.append(Row(profile, refused=str(error)))
    progress("simulate", len(profiles), len(profiles))
    return Survey(against, len(data), tuple(rows))
