"""Expect: statistics of activations without data, from the BatchNormalization that was folded.

Each channel of a tensor that `steps.expected` knows stands in the tensor's histogram with as many values, at evenly
spaced probabilities of its clipped normal, and with both ends of mean +- n deviations (Nagel et al. 2019,
arXiv:1906.04721, section 4.3, n = 6). All estimators then do what they do with data. The other tensors are observed on
synthetic samples, as ever.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from halfeven.draft import Draft, Progress, Samples
from halfeven.stats.observation import Observation
from halfeven.steps.absorb import DEVIATIONS
from halfeven.steps.expected import expected
from halfeven.steps.observe import watched
from halfeven.wording import counted

VALUES = 1 << 16


@dataclass(frozen=True)
class Expect:
    """Without data: tensors' ranges and histograms by what was normalized."""

    name: ClassVar[str] = "expect"
    deviations: float = DEVIATIONS
    """Without data: how many deviations on either side of its mean a channel is taken to reach; 0 observes noise."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with `stats` of the values that are known; a note says of how many, or why of none."""
        names = sorted(set(watched(draft)) - set(draft.stats))
        if not names or self.deviations <= 0:
            return draft
        known = expected(draft.model, draft.shapes).clipped
        found = {}
        for name in names:
            if name in known:
                count = max(64, VALUES // len(known[name].mean))
                x = known[name].sample(count, self.deviations)
                found[name] = Observation().then(x, x.size)
        if not found:
            return draft.noting(
                "no BatchNormalization was folded here, whose statistics could stand in for data: all ranges are of "
                "synthetic samples"
            )
        rest = len(names) - len(found)
        more = f"; {counted(rest, 'other')} are of synthetic samples" if rest else ""
        note = f"the ranges of {counted(len(found), 'tensor')} are those that BatchNormalization was trained with{more}"
        assumed = draft.assumed | found.keys()
        return replace(draft, stats={**draft.stats, **found}, assumed=assumed).noting(note)
