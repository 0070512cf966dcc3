"""Observe: one pass over the data, which feeds every estimator and the rounding of weights.

Every sample runs alone, so what is remembered does not depend on the size of batches; histograms merge exactly, and
moments are of samples chosen by their content (data/lead.py), so it does not depend on the order of samples either (the
moving average excepted, which is defined on an order, the given one). Memory is two samples' activations and a bounded
summary for each tensor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import islice
from operator import length_hint
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.data.lead import Turn, led
from halfeven.draft import Batch, Draft, Progress, Samples
from halfeven.errors import BadCalibration
from halfeven.graph import ops
from halfeven.graph.patches import patches, vector_length
from halfeven.graph.plan import DYNAMIC, Site
from halfeven.memory import give_back
from halfeven.numerics.tally import PLAIN, Lying
from halfeven.stats.moments import Moments
from halfeven.stats.observer import Doubles, Observers
from halfeven.steps.watching import Run, Watching

TOGETHER = 512
TRIMMED = 512  # samples after which freed memory goes back: pieces between what lives on would add up over thousands
MOMENT_BYTES = 1 << 28  # second moments of all layers together; the weights of further layers round to nearest
Vectors = dict[str, npt.NDArray[np.float32]]
PER_WEIGHT = 2  # input vectors taken from a sample for each weight that multiplies one: short vectors need few
LONGEST = 1152  # a layer with longer input vectors gets no second moments: they grow with the square


@dataclass(frozen=True)
class Observe:
    """Watch every tensor to be quantized while the float model runs."""

    name: ClassVar[str] = "observe"
    elements: int = 16384
    """Of one tensor in one sample, about how many values are counted in its histogram; extrema see all."""
    moments: int = 32
    """How many samples, whichever order they come in, second moments of the layers' inputs are taken from; 0: none."""
    vectors: int = 48
    """Of one layer in one sample, how many input vectors these are taken from at most."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with `stats` and `moments`. Statistics it has already are kept; then only the others are watched.

        Raises:
            BadCalibration: no sample, or a tensor with NaN; the sample is named.
        """
        _same_scaling(draft)
        wanted = watched(draft)
        missing = sorted(set(wanted) - set(draft.stats))
        layers = self._layers(draft)
        if not missing and not layers:
            return draft
        moments = _Collector(layers, self.vectors)
        made = {v.name or "" for node in draft.model.graph for v in node.outputs}
        names = made.intersection([*missing, *map(_input, layers)])
        ordered = led(data, self.moments if layers else 0)
        samples = ordered if missing else islice(ordered, self.moments)
        watching = Watching.of(draft, names)
        observers = Observers(missing, self.elements, watching.threads)
        moving = _InGivenOrder(observers.move)

        def watch(run: Run, item: tuple[int, tuple[str, Batch]]) -> tuple[str, Turn, Doubles, Vectors]:
            number, (label, feeds) = item
            turn, seen, vectors = ordered.turn(number), observers.nothing(), Vectors()
            for some in run(feeds, label):
                if turn.first:
                    vectors.update(moments.vectors(some.values, some.lying))
                layout = some.layout or observers.layout(some.values, some.lying)
                some.layout = layout if layout.lasting else None
                observers.take(layout, seen)
            return label, turn, seen, vectors

        count, total = 0, length_hint(data) or None
        if total is not None and not missing:
            total = min(total, self.moments)
        for label, turn, seen, vectors in watching(watch, samples, total):
            _refuse_nan(draft.model, seen, missing, label)
            moving.take(turn, seen)
            moments.take(vectors)
            count += 1
            if count % TRIMMED == 0:
                give_back(watching.bytes)
            progress("observe", count, total)
        moving.end()
        if count == 0:
            raise BadCalibration("There is no sample to calibrate with: the data are empty.")
        return replace(
            draft,
            stats={**draft.stats, **observers.observations()},
            moments={**draft.moments, **moments.found()},
            unscaled=None,
        ).noting(*watching.said)

    def _layers(self, draft: Draft) -> list[ir.Node]:
        if self.moments <= 0:
            return []
        weights = {(s.consumer, s.port) for s, g in draft.plan.sites.items() if draft.plan.groups[g].role == "weight"}
        layers, room = [], MOMENT_BYTES
        for node in draft.model.graph:
            length = vector_length(node)
            size = 8 * length * length * (int(ops.attribute(node, "group", 1)) if node.op_type == "Conv" else 1)
            wanted = (node.name, 1) in weights and 0 < length <= LONGEST and node.name not in draft.moments
            if wanted and size <= room:
                layers.append(node)
                room -= size
        return layers


class _InGivenOrder:
    """Hands on what was seen, in the order in which the samples were given; it keeps that of those which came early."""

    def __init__(self, move: Callable[[Doubles], None]) -> None:
        self.move = move
        self.early: list[tuple[int, int, Doubles]] = []

    def take(self, turn: Turn, seen: Doubles) -> None:
        """Take what was seen of a sample."""
        if turn.first:
            heappush(self.early, (turn.place, len(self.early), seen))
            return
        self._until(turn.place)
        self.move(seen)

    def end(self) -> None:
        """No sample comes any more."""
        self._until(None)

    def _until(self, place: int | None) -> None:
        while self.early and (place is None or self.early[0][0] < place):
            self.move(heappop(self.early)[2])


class _Collector:
    """Second moments of several layers' inputs; vectors are multiplied a few hundred at a time."""

    def __init__(self, layers: Sequence[ir.Node], limit: int) -> None:
        self.layers, self.limit = layers, limit
        self.waiting: dict[str, list[npt.NDArray[np.float32]]] = {}
        self.moments: dict[str, Moments] = {}

    def vectors(self, values: Mapping[str, object], lying: Mapping[str, Lying]) -> Vectors:
        """Vectors of each layer whose input is among `values`, by node name; those that are not finite are left out."""
        found = {}
        for node in self.layers:
            if (name := _input(node)) not in values:
                continue
            limit = min(self.limit, PER_WEIGHT * vector_length(node))
            taken = patches(node, np.asarray(values[name], np.float32), limit, lying.get(name, PLAIN))
            if taken is not None:
                found[node.name or ""] = taken[:, np.isfinite(taken).all((0, 2))]
        return found

    def take(self, vectors: Vectors) -> None:
        """Take in what `vectors` returned, in the order of the samples."""
        for name, found in vectors.items():
            if found.shape[1] == 0:
                continue
            waiting = self.waiting.setdefault(name, [])
            waiting.append(found)
            if sum(x.shape[1] for x in waiting) >= TOGETHER:
                self._multiply(name)

    def _multiply(self, name: str) -> None:
        x = np.concatenate(self.waiting.pop(name), axis=1)
        self.moments[name] = self.moments[name].then(x) if name in self.moments else Moments.of(x)

    def found(self) -> dict[str, Moments]:
        """The moments by node name."""
        for name in list(self.waiting):
            self._multiply(name)
        return self.moments


def _input(node: ir.Node) -> str:
    return node.inputs[0].name or ""  # type: ignore[union-attr]


def _refuse_nan(model: ir.Model, seen: Doubles, names: Sequence[str], label: str) -> None:
    if not seen[:, 2].any():
        return
    for name, nans in zip(names, seen[:, 2], strict=True):
        if nans:
            for value in model.graph.initializers.values():
                if ops.holds_nan(value):
                    readers = ", ".join(f"{use.node.op_type} '{use.node.name}'" for use in value.uses())
                    raise BadCalibration(
                        f"Weight '{value.name}' of {readers} holds NaN, and so does what is computed from it, '{name}' "
                        "among others. Repair the weight: no scale is of NaN."
                    )
            raise BadCalibration(
                f"{label}: tensor '{name}' holds {nans:.0f} NaN although the sample does not. Leave the sample out, or "
                "keep the layer in float."
            )


def _same_scaling(draft: Draft) -> None:
    """Scales and statistics made elsewhere must be of channels equalized as they are here."""
    pinned = any(q.params is not None and q.role == "activation" for q in draft.plan.groups.values())
    of_plan = draft.plan.scaling if pinned else None
    for given, what, other in ((draft.stats_scaling, "statistics", ""), (of_plan, "scales of the plan", ", `floats`")):
        if given is not None and given != draft.scaling:
            raise BadCalibration(
                f"The {what} are of a model whose channels were equalized differently: with other data{other}, or "
                "other --skip, --equalize or --target options. Give those they were made with, or make them anew"
                + (": take the `params` out of the plan, or use --skip equalize at both times." if other else ".")
            )


def watched(draft: Draft) -> dict[str, int]:
    """The values to observe, with their group: all of a group but those another member makes by moving codes."""
    makers = {v.name: node for node in draft.model.graph for v in node.outputs}
    found: dict[str, int] = {}
    for site, group in sorted(draft.plan.sites.items()):
        quantizer = draft.plan.groups[group]
        if quantizer.role != "activation" or quantizer.params is not None or quantizer.method == DYNAMIC:
            continue
        node, rule = makers.get(site.value), None
        if node is not None:
            rule = draft.target.rule(node.op_type)
        moved = rule is not None and rule.output == "as_input" and node is not None and _same_group(draft, node, group)
        if not moved:
            found[site.value] = group
    return found


def _same_group(draft: Draft, node: ir.Node, group: int) -> bool:
    """Whether all that a code-moving node reads is in its output's group, so that its output holds nothing new."""
    ports = ops.data_ports(node)
    for port in ports:
        value = node.inputs[port]
        assert value is not None
        site = Site(value.name or "", node.name or "", port)
        if draft.plan.sites.get(site, draft.plan.sites.get(Site(site.value))) != group:
            return False
    return bool(ports)
