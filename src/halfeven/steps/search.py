"""Search: what each weight in each width costs at the network's outputs, measured, and the plan of a choice of widths.

    error of weight l in b bits = mean over outputs of   sum (f(W) - f(W, l in b bits))^2 / sum f(W)^2

f is the float network; one weight at a time is rounded, with the scale that a plan of this width begins with. Where
errors are small they add up, so that the SQNR of a choice is about -10 log10 of the sum of its errors. One session of
ONNX Runtime does it all: the weights searched are inputs of its graph, fed with the sample, so that no layer needs a
session of its own. That is a run for each weight, width and sample; each sample goes through all of them before the
next, so that after one round a sensible choice can be made, and more rounds make it a better one.

A sensitivity that is measured by outputs needs no labels and no gradients, and any graph that runs has one. HAWQ-V2
(arXiv:1911.03852) estimates the same loss from the trace of the Hessian times the squared error of the weight, which
assumes a trained network at its minimum and an operator whose derivative there is; here the network is simply run.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.data.digest import sample_digest
from halfeven.draft import Batch, Draft, Progress
from halfeven.errors import BadCalibration, BadOption
from halfeven.files import write_text
from halfeven.graph.edit import drop_unread, unused, value_names
from halfeven.graph.plan import Plan, Quantizer
from halfeven.graph.weight_codes import weight_params
from halfeven.graph.weights import array_at
from halfeven.graph.widen import widened
from halfeven.numerics.grid import Grid
from halfeven.numerics.quantize import fake_quantize, params_of
from halfeven.numerics.ragged import is_ragged
from halfeven.numerics.scheme import QParams
from halfeven.run.compare import fidelity
from halfeven.run.ort import OrtExecutor
from halfeven.run.specs import model_digest
from halfeven.stats.distance import Fidelity

Array = npt.NDArray[np.float32]
Sample = tuple[str, Batch]
VERSION = 1
WORST = 1e6  # error of what is not finite any more
EVERY = 5.0  # seconds between two writes


@dataclass(frozen=True)
class Weight:
    """A weight that is searched: its group in the plan, where it stands, and how many elements it has."""

    group: int
    name: str
    size: int


def searched(draft: Draft, bits: Sequence[int]) -> tuple[Weight, ...]:
    """The weights of a placed draft that get a width each; those whose scales are pinned or end in the middle do not.

    Raises:
        BadOption: one has fewer bits than the most of `bits`.
    """
    nodes, found = {node.name: node for node in draft.model.graph}, []
    for group, quantizer in sorted(draft.plan.groups.items()):
        if quantizer.role != "weight" or quantizer.params is not None:
            continue
        sites = draft.plan.members(group)
        arrays = [array_at(nodes[site.consumer], site.port) for site in sites if site.consumer in nodes]
        held = [a for a in arrays if a is not None and a.dtype == np.float32 and a.size]
        if not held or len(held) < len(sites) or any(is_ragged(a.shape, quantizer.scheme.tiling) for a in held):
            continue
        own = quantizer.scheme.grid.bits
        if max(bits) > own:
            raise BadOption(
                f"--bits {max(bits)}: {draft.target.name} has weights of {own} bits (such as '{sites[0].value}'). "
                f"Choose widths up to {own}."
            )
        found.append(Weight(group, str(sites[0]), max(a.size for a in held)))
    return tuple(found)


def with_widths(plan: Plan, widths: Mapping[int, int]) -> Plan:
    """The plan in which weights, by group, have so many bits."""
    groups = dict(plan.groups)
    for group, bits in widths.items():
        reason = f"{groups[group].reason}; {bits} bits by search"
        groups[group] = replace(in_width(groups[group], bits), reason=reason)
    return replace(plan, groups=groups)


def in_width(quantizer: Quantizer, bits: int) -> Quantizer:
    """The quantizer of a weight with codes of so many bits."""
    return replace(quantizer, bits=None if bits == quantizer.scheme.grid.bits else bits)


@dataclass
class Probe:
    """The float network in one session, into which weights are fed; what its outputs are on samples."""

    draft: Draft
    weights: tuple[Weight, ...]
    samples: list[Sample]
    run: OrtExecutor = field(init=False)
    own: dict[str, Array] = field(init=False)
    fed: dict[int, list[str]] = field(init=False)
    reference: list[Batch] = field(init=False)
    power: dict[str, float] = field(init=False)
    params: dict[tuple[int, int], QParams[Grid]] = field(init=False)

    def __post_init__(self) -> None:
        """Run the float network.

        Raises:
            BadCalibration: it has no output of floats that is finite and not zero throughout.
        """
        model = self.draft.model.clone()
        nodes, names = {node.name: node for node in model.graph}, value_names(model)
        self.own, self.fed, self.params = {}, {}, {}
        for weight in self.weights:
            for site in self.draft.plan.members(weight.group):
                array = array_at(nodes[site.consumer], site.port)
                assert array is not None
                name = unused(f"{site.value}_searched", names)
                value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(array.shape))
                model.graph.inputs.append(value)
                nodes[site.consumer].replace_input_with(site.port, value)
                self.own[name] = np.ascontiguousarray(array, np.float32)
                self.fed.setdefault(weight.group, []).append(name)
        drop_unread(model.graph)
        self.run = OrtExecutor(widened(model, [ir.DataType.DOUBLE])[0])
        self.reference = [self.run({**feeds, **self.own}, label) for label, feeds in self.samples]
        total: dict[str, Fidelity] = {}
        for outputs in self.reference:
            for name, found in fidelity(outputs, outputs).items():
                total[name] = total.get(name, Fidelity()).merge(found)
        self.power = {name: f.signal / len(self.samples) for name, f in total.items() if 0 < f.signal < np.inf}
        if not self.power:
            raise BadCalibration("The network has no output of finite floats on these data, so no error can be told.")

    def rounded(self, widths: Mapping[int, int]) -> dict[str, Array]:
        """The weights of groups in so many bits, by the names they are fed under."""
        found = {}
        for group, bits in widths.items():
            params = self._params(group, bits)
            found.update({name: fake_quantize(self.own[name], params) for name in self.fed[group]})
        return found

    def error(self, index: int, values: Mapping[str, Array]) -> float:
        """Of one sample with some weights replaced: squared error by the power of the output, mean over outputs."""
        label, feeds = self.samples[index]
        found = fidelity(self.reference[index], self.run({**feeds, **self.own, **values}, label))
        noise = [found[name].noise / power if name in found else 1.0 for name, power in self.power.items()]
        mean = float(np.mean(noise))
        return min(mean, WORST) if np.isfinite(mean) else WORST

    def whole(self, widths: Mapping[int, int]) -> float:
        """The mean error over all samples with weights of groups in so many bits."""
        values = self.rounded(widths)
        return float(np.mean([self.error(i, values) for i in range(len(self.samples))]))

    def lost(self, group: int, bits: int) -> float:
        """The squared error of a weight itself, by its power."""
        values = self.rounded({group: bits})
        noise = sum(float(np.square(values[n] - self.own[n], dtype=np.float64).sum()) for n in self.fed[group])
        return noise / max(sum(float(np.square(self.own[n], dtype=np.float64).sum()) for n in self.fed[group]), 1e-300)

    def _params(self, group: int, bits: int) -> QParams[Grid]:
        """As `Calibrate` chooses them for a plan of this width."""
        if (group, bits) not in self.params:
            own = in_width(self.draft.plan.groups[group], bits)
            if own.bits is not None:
                params = weight_params(self.draft.model, self.draft.plan, group, own.codes.grid)
            else:
                params = params_of(self.own[self.fed[group][0]], own.scheme)
            self.params[group, bits] = params
        return self.params[group, bits]


@dataclass
class Sensitivities:
    """Errors by weight, width and sample; `key` says of which network, plan and samples. A file, if there is a path."""

    key: str
    path: Path | None = None
    errors: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, probe: Probe, path: Path | None) -> "Sensitivities":
        """Those of a file, if they are of this network, plan and samples; else none yet.

        Raises:
            BadOption: the file holds something else than sensitivities.
        """
        key = hashlib.sha256(f"{model_digest(probe.draft.model)} {probe.draft.plan.digest}".encode())
        for _, feeds in probe.samples:
            key.update(sample_digest(feeds))
        found = cls(key.hexdigest()[:16], path)
        if path is None or not path.exists():
            return found
        try:
            data = json.loads(path.read_text("utf-8"))
            if data["halfeven_sensitivities"] != VERSION:
                raise ValueError(f"version {data['halfeven_sensitivities']}")
            errors = {w: {b: [float(e) for e in es] for b, es in of.items()} for w, of in data["errors"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadOption(
                f"'{path}' is where the sensitivities are kept, and holds something else ({error}). Move it away, or "
                "choose another name for the output."
            ) from error
        if data.get("key") == found.key:
            found.errors = errors
        else:
            found.notes = (f"'{path}' was of another network, plan or other samples: all is measured anew",)
        return found

    def save(self) -> None:
        """Write them beside, then rename, if they have a path."""
        if self.path is not None:
            data = {"halfeven_sensitivities": VERSION, "key": self.key, "errors": self.errors}
            write_text(self.path, json.dumps(data, allow_nan=False))

    def measured(self, weight: Weight, bits: int) -> list[float]:
        """The errors of a weight in a width, sample by sample."""
        return self.errors.setdefault(weight.name, {}).setdefault(str(bits), [])

    def measure(self, probe: Probe, bits: Sequence[int], seconds: float, progress: Progress) -> None:
        """Measure what is not yet, for so many seconds at most; what there is stays in the file, whatever happens."""
        order = sorted(probe.weights, key=lambda weight: -weight.size)
        jobs = [(i, b, w) for i in range(len(probe.samples)) for b in sorted(bits) for w in order]
        end = written = time.monotonic()
        end += seconds
        try:
            for done, (i, b, weight) in enumerate(jobs):
                progress("measure", done, len(jobs))
                if len(found := self.measured(weight, b)) > i:
                    continue
                if time.monotonic() >= end:
                    return
                found.append(probe.error(i, probe.rounded({weight.group: b})))
                if time.monotonic() - written > EVERY:
                    self.save()
                    written = time.monotonic()
            progress("measure", len(jobs), len(jobs))
        finally:
            self.save()

    def table(self, probe: Probe, bits: Sequence[int]) -> tuple[npt.NDArray[np.float64], int]:
        """Errors (weights, widths), and how many are estimated, for want of time to measure them.

        An estimate is the squared error of the weight itself times the median of what that makes elsewhere.

        Raises:
            BadCalibration: nothing was measured.
        """
        ratios, missing = [], []
        table = np.zeros((len(probe.weights), len(bits)))
        for i, weight in enumerate(probe.weights):
            for j, b in enumerate(bits):
                if found := self.measured(weight, b):
                    table[i, j] = np.mean(found)
                    ratios.append(table[i, j] / max(probe.lost(weight.group, b), 1e-300))
                else:
                    missing.append((i, j, weight, b))
        if not ratios:
            raise BadCalibration("There was no time to measure anything. Give the search more (--minutes).")
        for i, j, weight, b in missing:
            table[i, j] = min(float(np.median(ratios)) * probe.lost(weight.group, b), WORST)
        return table, len(missing)
