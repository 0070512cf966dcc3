"""FollowPlan: a plan made before, edited perhaps, instead of placing anew."""

from dataclasses import dataclass, replace
from typing import ClassVar

from halfeven.draft import Draft, Progress, Samples
from halfeven.errors import BadOption
from halfeven.graph.plan import Plan

UNCORRECTED = (
    "biases are as in the model: the plan does not say whether it was made without data, where they are corrected for "
    "rounded weights; to have that, quantize without --plan"
)


@dataclass(frozen=True)
class FollowPlan:
    """Take a plan instead of placing; it must be of this model."""

    name: ClassVar[str] = "follow plan"
    plan: Plan
    uncorrected: bool = False
    """Whether a run without a plan would now correct biases (steps/correct.py)."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with the plan.

        Raises:
            BadOption: the plan names a value or node that the model does not have.
        """
        nodes = {node.name for node in draft.model.graph.all_nodes()}
        values = {v.name for n in draft.model.graph for v in n.outputs} | {v.name for v in draft.model.graph.inputs}
        values |= set(draft.model.graph.initializers)
        for site in self.plan.sites:
            if site.value not in values or (site.consumer and site.consumer not in nodes):
                raise BadOption(
                    f"--plan: the model has no {site}. The plan is of another model or another version of it."
                )
        followed = replace(draft, plan=self.plan)
        return followed.noting(UNCORRECTED) if self.uncorrected and not self.plan.scaling else followed
