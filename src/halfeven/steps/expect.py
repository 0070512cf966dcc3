"""Expect: statistics of activations without data, from the BatchNormalization that was folded.

Each channel of a tensor that `steps.expected` knows stands in the tensor's histogram with as many values, at evenly
spaced probabilities of its clipped normal, and with both ends of mean +- n deviations (Nagel et al. 2019,
arXiv:1906.04721, section 4.3, n = 6). All estimators then do what they do with data. What a float Softmax or Sigmoid
makes reaches from 0 to 1: synthetic samples mask nothing, so that no position gets as much as it will. The other
tensors are observed on synthetic samples, as ever.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from halfeven.draft import Draft, Progress, Samples
from halfeven.graph.normals import normal_of
from halfeven.stats.observation import Observation
from halfeven.steps.absorb import DEVIATIONS
from halfeven.steps.expected import expected
from halfeven.steps.observe import watched
from halfeven.wording import counted

VALUES = 1 << 16
EVERY_SHARE = np.linspace(0, 1, 1 << 12, dtype=np.float32)


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
        trained, shares = len(found), _shares(draft, names)
        found.update({name: Observation().then(EVERY_SHARE, EVERY_SHARE.size) for name in shares})
        rest = len(names) - len(found)
        if trained:
            note = f"the ranges of {counted(trained, 'tensor')} are those that BatchNormalization was trained with"
        elif any(normal_of(value) for node in draft.model.graph.all_nodes() for value in node.outputs):
            note = "what the folded BatchNormalization was trained with reaches no tensor that is quantized"
        else:
            note = "no BatchNormalization was folded here, whose statistics could stand in for data"
        if shares:
            note += f"; {counted(len(shares), 'tensor')} of shares may reach from 0 to 1"
        if rest:
            more = f"; {counted(rest, 'other')} are of synthetic samples"
            note += more if found else ": all ranges are of synthetic samples"
        assumed = draft.assumed | found.keys()
        return replace(draft, stats={**draft.stats, **found}, assumed=assumed).noting(note)


def _shares(draft: Draft, names: Collection[str]) -> list[str]:
    """The values that a Softmax or Sigmoid makes."""
    makers = {value.name: node.op_type for node in draft.model.graph for value in node.outputs}
    return [name for name in names if makers.get(name) in ("Softmax", "Sigmoid")]
