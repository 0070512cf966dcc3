"""Calibrate: from what was observed to scales and zero points.

    activation   range by the chosen estimator from the group's merged statistics -> parameters of its scheme; a moving
                 average, which merged statistics have none of, becomes minmax, and a note says so. Auto is minmax where
                 statistics are assumed, not observed
    constant     minimum and maximum of the tensor itself; weights per channel. Of powers of two the covering one, its
                 half or its quarter, whichever has the least squared error. Weights of fewer bits than their scheme's:
                 that of the least squared error (graph/weight_codes.py)
    bias         scale = input scale * weight scale, no freedom; but a bias too large for int32 at that scale has the
                 weight's scale of its channel raised until it fits (a dead channel's tiny weights otherwise ruin it),
                 and so has one whose scale would be no normal float32, which XNNPACK refuses.
                 Where the device stores it by a power of two of its own: that (graph/stored_biases.py)

A group whose parameters are set already (pinned, or from an edited plan) is left alone. One that a plan gives a method
without parameters is calibrated by that method, unless `tensors` names another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Draft, Progress, Samples
from halfeven.errors import BadCalibration, BadOption
from halfeven.graph import ops
from halfeven.graph.clamps import clamp_limits
from halfeven.graph.plan import Plan, Quantizer
from halfeven.graph.stored_biases import fit_biases
from halfeven.graph.weight_codes import weight_params
from halfeven.graph.weights import array_at, let_go
from halfeven.numerics.quantize import fake_quantize, params_for, params_of
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme
from halfeven.stats.estimate import METHODS, PERCENTILE, estimate, method_named
from halfeven.stats.lp import POWER
from halfeven.stats.observation import Observation
from halfeven.stats.spread import SIGMAS
from halfeven.steps.observe import watched
from halfeven.wording import counted

BIAS_LIMIT = float(2**30)
LEAST = float(np.finfo(np.float32).tiny) * (1 + 2.0**-20)
MOST_CUT = 1.5


@dataclass(frozen=True)
class Calibrate:
    """Choose every scale and zero point."""

    name: ClassVar[str] = "calibrate"
    method: str = "auto"
    """minmax, moving-average, percentile, entropy (KL), mse, lp, aciq, octav, sigma, admm, or auto: of minmax,
    percentile, entropy and mse the least expected error, per tensor."""
    percentile: float = PERCENTILE
    """For percentile and auto: the share of values kept, in percent."""
    p: float = POWER
    """For lp: the power of the error, from 1 to 16."""
    sigmas: float = SIGMAS
    """For sigma: how many deviations on either side of the mean are kept."""
    tensors: tuple[str, ...] = ()
    """Other methods for some tensors: PATTERN=METHOD, glob patterns on tensor names; the first that fits counts."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with parameters for every group.

        Raises:
            BadOption: an unknown method, or a pattern that fits no tensor.
            BadCalibration: a tensor was not observed.
        """
        method_named(self.method)
        rules = _rules(draft, self.tensors)
        plan = draft.plan
        members: dict[int, list[str]] = {}
        for value, group in watched(draft).items():
            members.setdefault(group, []).append(value)
        floors = _softmax_floors(draft)
        bounds = clamp_limits(draft.model) if draft.target.clamps_in_range else {}
        unordered = []
        for i, (group, values) in enumerate(sorted(members.items())):
            chosen = plan.groups[group].method
            method = next(
                (m for p, m in rules for v in values if _fits(v, p)), chosen if chosen in METHODS else self.method
            )
            if method == "auto" and not draft.assumed.isdisjoint(values):
                method = "minmax"  # the least error of an assumed tail is an assumption
            quantizer = self._activation(plan.groups[group], values, draft.stats, method, floors)
            if method == "moving-average" and quantizer.method == "minmax":
                unordered.append(values[0])
            if all(v in bounds for v in values):
                quantizer = _within(quantizer, [bounds[v] for v in values])
            plan = plan.with_group(group, quantizer)
            progress("calibrate", i + 1, len(members))
        plan, notes = _constants(draft.model, plan)
        if unordered:
            notes.append(
                f"minmax instead of moving-average for {counted(len(unordered), 'scale')}, the first being that of "
                f"'{unordered[0]}': what several tensors share, or merged statistics hold, has no order of samples"
            )
        return replace(draft, plan=replace(plan, scaling=draft.scaling)).noting(*notes)

    def _activation(
        self,
        quantizer: Quantizer,
        values: list[str],
        stats: Mapping[str, Observation],
        method: str,
        floors: Mapping[str, float],
    ) -> Quantizer:
        missing = [v for v in values if v not in stats]
        if missing:
            raise BadCalibration(f"Tensor '{missing[0]}' is not in the statistics: they are of another plan or model.")
        seen = stats[values[0]]
        for value in values[1:]:
            seen = seen.merge(stats[value])
        evidence = seen.moving if method == "moving-average" else seen.histogram
        if evidence is None:
            evidence, method = seen.histogram, "minmax"
        if seen.histogram.empty:
            return replace(quantizer, params=params_for(0.0, 0.0, quantizer.scheme), method="empty")
        options = {name: getattr(self, name) for name in method_named(method).options}
        low, high = estimate(method, evidence, quantizer.scheme, **options)
        high = max(high, *(floors.get(v, high) for v in values))
        return replace(quantizer, params=params_for(low, high, quantizer.scheme), method=method)


@dataclass(frozen=True)
class MatchTensors:
    """Refuse what Calibrate would, before the data are run: patterns that fit no tensor, methods that there are not."""

    name: ClassVar[str] = "match tensors"
    tensors: tuple[str, ...]

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft as it is.

        Raises:
            BadOption: an entry of `tensors` is no PATTERN=METHOD, or fits no tensor that is quantized.
        """
        _rules(draft, self.tensors)
        return draft


def _rules(draft: Draft, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Pattern and method of each entry of `tensors`."""
    names, found = list(watched(draft)), []
    for text in texts:
        pattern, sign, method = text.rpartition("=")
        if not sign:
            raise BadOption(f"--tensors '{text}': expected PATTERN=METHOD, for instance 'head/*=minmax'.")
        method_named(method)
        if not any(_fits(name, pattern) for name in names):
            raise BadOption(f"--tensors '{pattern}=...' fits no quantized tensor. `halfeven inspect` lists them.")
        found.append((pattern, method))
    return found


def _softmax_floors(draft: Draft) -> dict[str, float]:
    """How high the range of what a Softmax makes must reach at least, by value name.

    ONNX Runtime makes an integer kernel of a Softmax between quantizers on its own account; that kernel (1.31)
    overflows when its output's scale is far below 1 / (150 * classes). At 1 / (100 * classes) it is right.
    """
    found = {}
    for node in draft.model.graph:
        shape = draft.shapes.get(node.outputs[0].name or "", ())
        if node.op_type == "Softmax" and shape:
            classes = max(shape[int(ops.attribute(node, "axis", -1))], 1)
            found[node.outputs[0].name or ""] = 2.55 / classes
    return found


def _fits(value: str, pattern: str) -> bool:
    return value == pattern or fnmatchcase(value, pattern)


def _within(quantizer: Quantizer, bounds: list[float]) -> Quantizer:
    """No code above what the clamps that make the group's tensors let pass, so that saturation can replace them.

    After equalization a channel that was seen to stay low may pass a little above the least of its clamp's bounds; that
    little is cut. Where more would be cut the clamp stays.
    """
    params = quantizer.params
    if not bounds or params is None:
        return quantizer
    zero, scale, grid = float(params.zero_point.ravel()[0]), float(params.scale.ravel()[0]), params.scheme.grid
    low, high, limit = (grid.low - zero) * scale, (grid.high - zero) * scale, max(bounds)
    if not limit * (1 + 1e-6) < high <= limit * MOST_CUT:
        return quantizer
    return replace(quantizer, params=params_for(low, limit, params.scheme, params.scale.ndim))


def _constants(model: ir.Model, plan: Plan) -> tuple[Plan, list[str]]:
    """Parameters of weights and constant operands; weights widened where their bias needs it."""
    nodes = {node.name or "": node for node in model.graph}
    notes, free = [], set()
    for site, group in sorted(plan.sites.items()):
        quantizer = plan.groups[group]
        if quantizer.role == "weight" and quantizer.params is None:
            array = array_at(nodes[site.consumer], site.port)
            assert array is not None
            x = array.astype(np.float32)
            if not np.isfinite(x).all():
                raise BadCalibration(f"Weight '{site.value}' holds NaN or infinity; it cannot be quantized.")
            params = _constant_params(x, quantizer.scheme)
            if quantizer.bits is not None:
                begun = weight_params(model, plan, group, quantizer.codes.grid)
                params = replace(params, scale=begun.scale, zero_point=begun.zero_point)
            let_go(ops.constant_of(nodes[site.consumer].inputs[site.port]))
            plan = plan.with_group(group, replace(quantizer, params=params, method="minmax"))
            free.add(group)
    for site, group in sorted(plan.sites.items()):
        if group in free and _has_bias(nodes[site.consumer], site.port) and _scale_free(plan, group):
            plan, widened = _fit_bias(nodes[site.consumer], plan, free)
            if widened:
                channels = counted(widened, "channel")
                notes.append(f"'{site.consumer}': the weight scale of {channels} was raised for the bias")
    return fit_biases(model, plan), notes


def _constant_params(x: npt.NDArray[np.float32], scheme: Scheme) -> QParams:
    """Parameters of a constant: those that cover it, but of powers of two the one with the least squared error."""
    covering = params_of(x, scheme)
    if scheme.scale is ScaleRule.FREE or covering.scale.size != 1:
        return covering
    finer = [replace(covering, scale=covering.scale * np.float32(factor)) for factor in (1.0, 0.5, 0.25)]
    return min(finer, key=lambda params: float(np.square((fake_quantize(x, params) - x).astype(np.float64)).sum()))


def _has_bias(node: ir.Node, port: int) -> bool:
    """Whether a weight's layer has a bias; one that stays float in the file counts, as runtimes make codes of it."""
    traits = ops.TRAITS.get(node.op_type)
    return traits is not None and port == traits.weight and traits.bias is not None and len(node.inputs) > traits.bias


def _scale_free(plan: Plan, group: int) -> bool:
    return plan.groups[group].scheme.scale is ScaleRule.FREE


def _fit_bias(node: ir.Node, plan: Plan, free: set[int]) -> tuple[Plan, int]:
    """Raise weight scales, unless pinned, until |bias| / (input scale * weight scale) stays below 2**30.

    The product of the scales is also raised to be a normal float32.
    """
    traits = ops.TRAITS[node.op_type]
    bias, name = array_at(node, traits.bias or 0), node.name or ""
    data = plan.seen_by(node.inputs[traits.data].name or "", name, traits.data)  # type: ignore[union-attr]
    group = next(g for s, g in plan.sites.items() if s.consumer == name and s.port == traits.weight)
    params = plan.groups[group].params
    if bias is None or data is None or data.params is None or params is None or group not in free:
        return plan, 0
    needed = np.maximum(np.abs(bias.astype(np.float64)) / BIAS_LIMIT, LEAST) / float(data.params.scale.ravel()[0])
    old = params.scale
    needed = needed.reshape(old.shape) if needed.size == old.size else needed.max()
    new = np.maximum(old, needed).astype(np.float32)
    widened = int((new > old).sum())
    if not widened:
        return plan, 0
    params = QParams(params.scheme, new, params.zero_point)
    return plan.with_group(group, replace(plan.groups[group], params=params)), widened
