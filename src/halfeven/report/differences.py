"""What differs between two quantizations of one network, and what each difference costs.

    difference    of the places that share a group in both: other codes, scale or zero point, or quantized in one alone;
                  or of a node that one of the two leaves float
    alone         SQNR at the outputs with nothing quantized but the places of one difference, as in the one and as in
                  the other: of several outputs the worst. Infinite where the one leaves them float
    cost          how much more noise the second makes there: 1 / SQNR_b - 1 / SQNR_a, as shares of the signal

Noises of single places add up as long as they are small, so the ranking by cost says which differences to look at. Each
side is measured on its own network, since equalization makes another network of the same function. The weights that its
own codes stand for are compared with those of the float model, factors by output and input channel apart, as
equalization and BatchNormalization make them: w' = a[i] * w[i, j] * b[j] with a and b that come nearest to the codes.
Where w' is not near, the cost of that weight is not measured. A Relu or Clip that a file leaves to the saturation of
codes is put back, from zero to the greatest code, wherever the least code is zero: what codes cut off above that does
not count. A bias of 32 bits, hardly coarser than float32, counts as exact.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Batch, Draft, Progress
from halfeven.exporters.onnx import to_qdq
from halfeven.graph import edit, ops
from halfeven.graph.clamps import CLAMPS
from halfeven.graph.plan import Change, Plan, Site
from halfeven.numerics.quantize import dequantize
from halfeven.run.compare import fidelity
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import Executor, alike
from halfeven.stats.distance import Fidelity, sqnr_db

NEAR = 10.0
"""dB that a side's weights must keep of the float model's to count as the same weights, rounded."""

FINE = 32
"""Bits of a bias from which on its rounding is not worth measuring."""

TURNS = 12
"""Of finding factors by channel, rows and columns by turns."""

Array: TypeAlias = npt.NDArray[np.float32]
Data: TypeAlias = Sequence[tuple[str, Batch]]


@dataclass(frozen=True)
class Difference:
    """One difference; `alone` is SQNR in dB as in the first and as in the second, None where it was not measured."""

    places: tuple[str, ...]
    kinds: tuple[str, ...]
    texts: tuple[str, ...]
    groups: tuple[int | None, int | None] = (None, None)
    alone: tuple[float | None, float | None] = (None, None)

    @property
    def cost(self) -> float | None:
        """Noise that the second makes more than the first, as a share of the signal."""
        first, second = self.alone
        return None if first is None or second is None else _noise(second) - _noise(first)

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite SQNR, nothing lost, is null like one not measured, but `measured` tells."""
        first, second = (s if s is not None and isfinite(s) else None for s in self.alone)
        cost = self.cost
        return {
            "places": list(self.places),
            "kinds": list(self.kinds),
            "changes": list(self.texts),
            "measured": cost is not None,
            "sqnr_db": {"a": first, "b": second},
            "cost": cost if cost is not None and isfinite(cost) else None,
        }


@dataclass(frozen=True)
class Comparison:
    """All differences, the dearest first where they were measured; `whole`: SQNR of each as a whole, dB."""

    names: tuple[str, str]
    places: int
    differences: tuple[Difference, ...]
    whole: tuple[float | None, float | None] = (None, None)
    samples: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        first, second = (s if s is not None and isfinite(s) else None for s in self.whole)
        return {
            "a": self.names[0],
            "b": self.names[1],
            "places": self.places,
            "samples": self.samples,
            "sqnr_db": {"a": first, "b": second},
            "differences": [one.to_json() for one in self.differences],
            "notes": list(self.notes),
        }


def gathered(changes: Iterable[Change]) -> list[Difference]:
    """Changes of the same groups as one difference, in order."""
    found: dict[object, list[Change]] = {}
    for change in changes:
        found.setdefault((change.kind, change.where) if change.kind == "node" else change.groups, []).append(change)
    return [
        Difference(
            tuple(dict.fromkeys(c.where for c in some)),
            tuple(dict.fromkeys(c.kind for c in some)),
            tuple(dict.fromkeys(c.text for c in some)),
            some[0].groups,
        )
        for some in found.values()
    ]


def measured(
    differences: Sequence[Difference],
    sides: tuple[Draft, Draft],
    floats: Sequence[ir.Model],
    data: tuple[Data, Data],
    task: Progress,
) -> list[Difference]:
    """The differences with their SQNR alone, dearest first; those that cannot be measured come last.

    Args:
        differences: Of the plans of `sides`, in this order.
        sides: Each with a network of the same inputs and outputs, and a calibrated plan.
        floats: Float models in which to look for the weights of a side, by name.
        data: Samples to run, as each side takes them.
        task: Told of every difference done.
    """
    rigs = [_Rig(side, floats, own) for side, own in zip(sides, data, strict=True)]
    found = []
    for done, one in enumerate(differences):
        task("measure", done, len(differences))
        if one.kinds != ("node",):
            first, second = (rig.alone(group) for rig, group in zip(rigs, one.groups, strict=True))
            one = replace(one, alone=(first, second))
        found.append(one)
    return sorted(found, key=lambda one: inf if one.cost is None else -one.cost)


def whole_sqnr(reference: Mapping[str, Batch], run: Executor, data: Data) -> float:
    """SQNR of a model's outputs, dB, of several the worst; `reference` holds the float outputs by sample."""
    return _worst(reference, run, data)


def outputs_of(model: ir.Model, data: Data) -> dict[str, Batch]:
    """What a model gives for each sample, by label."""
    run = OrtExecutor(model)
    return {label: run(feeds, label) for label, feeds in data}


def _noise(sqnr: float) -> float:
    return float(10.0 ** (-sqnr / 10))


def _worst(reference: Mapping[str, Batch], run: Executor, data: Data) -> float:
    sums: dict[str, Fidelity] = {}
    for label, feeds in data:
        real = reference[label]
        found = {name: alike(real[name], x) if name in real else x for name, x in run(feeds, label).items()}
        for name, value in fidelity(real, found).items():
            sums[name] = sums[name].merge(value) if name in sums else value
    return min((value.sqnr_db for value in sums.values()), default=inf)


class _Rig:
    """One side: its network with nothing quantized, and what that gives."""

    def __init__(self, side: Draft, floats: Sequence[ir.Model], data: Data) -> None:
        target = replace(side.target, rules=(), takes=())  # measured is whatever the plan says
        self.draft, self.data = replace(side, target=target), data
        self.own: dict[str, ir.TensorProtocol] = {}
        self.strange: set[str] = set()
        base = side.model.clone()
        weights = [s.value for s, g in side.plan.sites.items() if side.plan.groups[g].role == "weight"]
        for name in dict.fromkeys(weights):
            value = base.graph.initializers.get(name)
            own = None if value is None else value.const_value
            if value is None or own is None:
                continue
            twin = _twin(name, own, floats)
            if twin is None:
                self.strange.add(name)
            elif twin is not own:
                self.own[name], value.const_value = own, twin
        _put_clamps_back(base, side.plan)
        self.base = base
        self.reference = outputs_of(base, data)
        self.seen: dict[int, float | None] = {}

    def alone(self, group: int | None) -> float | None:
        """SQNR with only one group quantized; None where that cannot be told."""
        quantizer = None if group is None else self.draft.plan.groups[group]
        if group is None or quantizer is None or (quantizer.role == "bias" and quantizer.scheme.grid.bits >= FINE):
            return inf
        if group not in self.seen:
            self.seen[group] = self._measure(group)
        return self.seen[group]

    def _measure(self, group: int) -> float | None:
        plan = self.draft.plan
        sites, quantizer = plan.members(group), plan.groups[group]
        if quantizer.params is None or any(site.value in self.strange for site in sites):
            return None
        model = self.base
        if any(site.value in self.own for site in sites):
            model = self.base.clone()
            for site in sites:
                if site.value in self.own:
                    model.graph.initializers[site.value].const_value = self.own[site.value]
        only = Plan({group: quantizer}, dict.fromkeys(sites, group))
        quantized = to_qdq(replace(self.draft, model=model, plan=only))
        return _worst(self.reference, OrtExecutor(quantized), self.data)


def _put_clamps_back(model: ir.Model, plan: Plan) -> None:
    """Clip, in place, what operators other than clamps make and codes from zero on hold."""
    names = edit.value_names(model)
    for node in list(model.graph):
        for value in node.outputs if node.op_type not in CLAMPS else ():
            quantizer = plan.at(Site(value.name or ""))
            params = None if quantizer is None else quantizer.params
            if params is None or params.scale.size != 1 or int(params.zero_point.ravel()[0]) != params.scheme.grid.low:
                continue
            top = dequantize(np.array([params.scheme.grid.high]), params).reshape(())
            bounds = [
                edit.add_initializer(model.graph, edit.unused(f"{value.name}_{end}", names), ir.tensor(array))
                for end, array in (("least", np.float32(0)), ("most", np.asarray(top, np.float32)))
            ]
            clip = ir.Node("", "Clip", [value, *bounds], num_outputs=1, name=edit.unused(f"{value.name}_Clip", names))
            out, name = clip.outputs[0], value.name or ""
            out.type, out.shape = value.type, value.shape
            readers = [(use.node, use.idx) for use in value.uses() if use.node is not clip]
            for reader, port in readers:
                reader.replace_input_with(port, out)
            for i, given in enumerate(model.graph.outputs):
                if given is value:
                    model.graph.outputs[i] = out
            value.name, out.name = edit.unused(f"{name}_unclipped", names), name
            node.append(clip)


def _twin(name: str, own: ir.TensorProtocol, floats: Sequence[ir.Model]) -> ir.TensorProtocol | None:
    """What a side's weight was before it was rounded: that of a float model, by channel as large as the side's."""
    for model in floats:
        value = model.graph.initializers.get(name)
        tensor = None if value is None else value.const_value
        if tensor is own:
            return own
        if tensor is not None and ops.dims_of(tensor) == ops.dims_of(own) and tensor.dtype == ir.DataType.FLOAT:
            given, mine = (np.asarray(t.numpy(), np.float32) for t in (tensor, own))
            scaled = _by_channel(given, mine)
            if sqnr_db(mine, scaled) >= NEAR:
                return ir.Tensor(scaled, name=name)
    return None


def _by_channel(given: Array, mine: Array) -> Array:
    """`given` times factors along its first two axes, the least squares to `mine`, by turns."""
    if given.ndim < 2 or np.array_equal(given, mine):
        return given
    w, target = given.astype(np.float64), mine.astype(np.float64)
    fitted = w
    for turn in range(TURNS):
        axes = tuple(i for i in range(w.ndim) if i != turn % 2)
        power = (fitted * fitted).sum(axes, keepdims=True)
        fitted = fitted * np.where(power > 0, (fitted * target).sum(axes, keepdims=True) / np.where(power, power, 1), 0)
    return fitted.astype(np.float32)
