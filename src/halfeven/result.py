"""Result: what `quantize` gives back."""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.graph import model as files
from halfeven.graph.plan import Plan
from halfeven.report.inspection import inspect_draft
from halfeven.report.verify import Verification


@dataclass(frozen=True)
class Result:
    """A quantized model, how it came about, and what it cost."""

    draft: Draft
    model: ir.Model
    verification: Verification | None
    notes: tuple[str, ...] = ()
    source: str = "model"

    @property
    def plan(self) -> Plan:
        """Where and how the model is quantized."""
        return self.draft.plan

    def save(self, path: str | Path) -> None:
        """Write the ONNX file (and, for large models, its data beside it), beside and then renamed."""
        files.save(self.model, path)

    def summary(self) -> str:
        """What was done, in a few lines of text."""
        seen = inspect_draft(self.draft)
        lines = [f"{self.source} for {seen.target}: {seen.layers[0]} of {seen.layers[1]} layers quantized"]
        if self.verification is not None:
            lines += ["  " + "  ".join(part for part in row if part) for row in self.verification.rows()]
            lines += [f"  warning: {text}" for text in self.verification.warnings]
        return "\n".join([*lines, *(f"  note: {text}" for text in self.notes)])
