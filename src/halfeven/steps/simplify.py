"""Simplify: the float model made fit for quantization, and proof that it still computes the same."""

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from halfeven.draft import Draft, Progress, Samples
from halfeven.errors import UnsupportedModel
from halfeven.graph.normals import carry_over, note_weights
from halfeven.graph.opset import convert_opset
from halfeven.graph.prepare import prepare
from halfeven.graph.widen import widened
from halfeven.run.compare import relative_error, rounding_error
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
        error, where = relative_error(source, model, [sample])
        if not error <= TOLERANCE:
            rounding = rounding_error(source, [sample])
            if not error <= ROUNDINGS * rounding:
                raise UnsupportedModel(
                    f"Preparing the model changed output '{where}' by {error:.2g} of its norm on {sample[0]}, more "
                    f"than {TOLERANCE:g}. This is a defect of Halfeven; please report it with the model."
                )
            notes.append(
                f"on {sample[0]} output '{where}' is lost in rounding: preparation changed it by {error:.2g} of its "
                f"norm, the nearest other floats as weights and inputs by {rounding:.2g}; real data should give "
                f"{TOLERANCE:g} at most"
            )
        return replace(draft, model=model).noting(*notes)

    def _raise_opset(self, model: ir.Model, notes: list[str]) -> tuple[ir.Model, list[str]]:
        current = model.opset_imports.get("", 0)
        if current >= OPSET_FOR_AXIS or current == 0:
            return model, notes
        raised, more = prepare(convert_opset(model, max(self.opset, OPSET_FOR_AXIS)))
        carry_over(model, raised)
        note = f"opset {current} was raised to {raised.opset_imports['']}: per-channel scales need {OPSET_FOR_AXIS}"
        return raised, [*notes, note, *more]
