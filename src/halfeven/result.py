"""Result: what `quantize` gives back."""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.exporters.formats import FORMATS, exporter_named, format_of
from halfeven.graph import model as files
from halfeven.graph.plan import Plan
from halfeven.report.inspection import inspect_draft
from halfeven.report.verify import Verification


@dataclass(frozen=True, repr=False)
class Result:
    """A quantized model, how it came about, and what it cost.

    `reads`: the files beside the source model that hold its weights; `save` never replaces them.
    """

    draft: Draft
    model: ir.Model
    verification: Verification | None
    notes: tuple[str, ...] = ()
    source: str = "model"
    reads: frozenset[Path] = frozenset()
    io: str = "float"

    def __repr__(self) -> str:
        """One line: which model, what became of it, what it cost."""
        seen, found = inspect_draft(self.draft), self.verification
        parts = [f"{seen.layers[0]} of {seen.layers[1]} layers quantized for {seen.target}"]
        before, after = seen.weights if found is None else found.sizes
        parts.append(f"{'weights ' if found is None else ''}{before / 1e6:.2f} MB -> {after / 1e6:.2f} MB")
        parts.append("not verified" if found is None else f"SQNR {found.sqnr_db:.1f} dB")
        return f"<Result {self.source}: {', '.join(parts)}>"

    @property
    def plan(self) -> Plan:
        """Where and how the model is quantized."""
        return self.draft.plan

    def save(self, path: str | Path, format: str | None = None) -> tuple[str, ...]:
        """Write the model, beside and then renamed, in the format named or that of the suffix (.onnx: qdq).

        An ONNX file of a large model has its data beside it.

        Returns:
            Sentences of the exporter: what was converted, left in float or left out.

        Raises:
            BadOption: the file cannot be written, or its data would replace those that the source model reads; the
                suffix tells no format; integer inputs and outputs were asked for, which it has not.
            UnsupportedByTarget: the format cannot hold the model; nothing is written.
        """
        chosen = format_of(path, format)
        if chosen != "qdq":
            if self.io == "float":
                return exporter_named(chosen)(self.draft, Path(path))
            if "io" not in FORMATS[chosen].takes:
                having = " or ".join(["qdq", *(name for name, entry in FORMATS.items() if "io" in entry.takes)])
                raise BadOption(f"--io {self.io} is of the format {having}; leave it out for {chosen}.")
            return exporter_named(chosen)(self.draft, Path(path), io=self.io)
        files.spare(path, self.reads)
        files.save(self.model, path)
        return ()

    def summary(self) -> str:
        """What was done, in a few lines of text."""
        seen = inspect_draft(self.draft)
        lines = [f"{self.source} for {seen.target}: {seen.layers[0]} of {seen.layers[1]} layers quantized"]
        if self.verification is not None:
            lines += ["  " + "  ".join(part for part in row if part) for row in self.verification.rows()]
            lines += [f"  warning: {text}" for text in self.verification.warnings]
        return "\n".join([*lines, *(f"  note: {text}" for text in self.notes)])
