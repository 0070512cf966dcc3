"""Trace: run the float model once, to see the shapes that shape inference may not, and values no scale can hold."""

from dataclasses import dataclass, replace
from typing import ClassVar

from halfeven.draft import Draft, Progress, Samples
from halfeven.run.ort import first, observe
from halfeven.steps.heads import joined_at_the_end


@dataclass(frozen=True)
class Trace:
    """Record every value's shape, and the size of astronomic ones and of what the end joins, in a run of one sample."""

    name: ClassVar[str] = "trace"

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with `shapes` and `sizes`; without data, with what the graph itself states."""
        if draft.shapes:
            return draft
        sample = first(data)
        if sample is None:
            return replace(draft, shapes=_stated(draft))
        joined = {name for _, names in joined_at_the_end(draft.model) for name in names}
        shapes, sizes = observe(draft.model, sample[1], sample[0], joined)
        return replace(draft, shapes={**_stated(draft), **shapes}, sizes=sizes, sample=sample[1])


def _stated(draft: Draft) -> dict[str, tuple[int, ...]]:
    """Static shapes written in the graph."""
    values = [*draft.model.graph.inputs, *(v for node in draft.model.graph for v in node.outputs)]
    known = ((v.name, v.shape) for v in values if v.name and v.shape is not None and v.shape.is_static())
    return {str(name): tuple(d for d in shape if isinstance(d, int)) for name, shape in known}
