"""Simplify: the float model made fit for quantization, and proof that it still computes the same."""

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from halfeven.draft import Batch, Draft, Progress, Samples
from halfeven.errors import UnsupportedModel
from halfeven.graph.normals import carry_over, note_weights
from halfeven.graph.opset import convert_opset
from halfeven.graph.prepare import prepare
from halfeven.graph.widen import widened
from halfeven.run.compare import output_errors, rounding_errors
from halfeven.run.ort import first

OPSET_FOR_AXIS = 13
TOLERANCE = 1e-5
ROUNDINGS = 2.0


@dataclass(frozen=True)
class Simplify:
    """Names, constants, BatchNormalization into layers, opset; checked against the source on one sample."""

    name: ClassVar[str] = "simplify"
    opset: int = 17
    """The opset to raise older models to (13 is the first with per-channel scales); newer ones keep theirs."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with a prepared model.

        Raises:
            UnsupportedModel: the prepared model's outputs differ by more than 1e-5 of their norm from the source's, and
                by more than twice what neighbouring floats as weights and inputs change.
        """
        source, notes = widened(draft.model)
        model, more = prepare(source)
        model, notes = self._raise_opset(model, [*notes, *more])
        note_weights(model)
        sample = first(data)
        if sample is None:
            return replace(draft, model=model).noting(*notes)
        return replace(draft, model=model).noting(*notes, *_checked(source, model, sample))

    def _raise_opset(self, model: ir.Model, notes: list[str]) -> tuple[ir.Model, list[str]]:
        current = model.opset_imports.get("", 0)
        if current >= OPSET_FOR_AXIS or current == 0:
            return model, notes
        raised, more = prepare(convert_opset(model, max(self.opset, OPSET_FOR_AXIS)))
        carry_over(model, raised)
        note = f"opset {current} was raised to {raised.opset_imports['']}: per-channel scales need {OPSET_FOR_AXIS}"
        return raised, [*notes, note, *more]


def _checked(source: ir.Model, model: ir.Model, sample: tuple[str, Batch]) -> list[str]:
    """Notes on outputs that tell nothing; refuses a model that computes something else."""
    wrong = {name: e for name, e in output_errors(source, model, [sample]).items() if not e <= TOLERANCE}
    rounding = rounding_errors(source, [sample]) if wrong else {}
    for name, error in wrong.items():
        if not error <= ROUNDINGS * rounding.get(name, 0.0):
            raise UnsupportedModel(
                f"Preparing the model changed output '{name}' by {error:.2g} of its norm on {sample[0]}, more than "
                f"{TOLERANCE:g}. This is a defect of Halfeven; please report it with the model."
            )
    return [
        f"on {sample[0]} output '{name}' is lost in rounding: preparation changed it by {error:.2g} of its norm, the "
        f"nearest other floats as weights and inputs by {rounding[name]:.2g}; real data should give {TOLERANCE:g} at "
        "most"
        for name, error in wrong.items()
    ]
