"""Conform: a network in runtimes, each beside the simulator of its arithmetic.

    runtime                          runs                     compared with                    where
    onnxruntime                      the model                the machine of this processor    every quantized tensor
    litert, litert@reference,        a .tflite file of it     the machine of that name, on     every quantized tensor
    litert@optimized-x86                                      the file read back
    openvino, ncnn                   files of it              ONNX Runtime's machine           outputs

`Beside.tensors` counts the codes that differ, tensor by tensor in the order of computation, `first` is the first of
them. `refused` says why a runtime cannot
run it. `Beside.effect` says what the runtime gives beside what ONNX Runtime's machine gives: whether it matters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Batch, Progress, no_progress, pipeline
from halfeven.errors import BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.formats import FORMATS, exporter_named, target_of
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.graph.names import name_everything
from halfeven.graph.network import Network
from halfeven.importers.litert.reader import load_tflite
from halfeven.importers.qdq import draft_of
from halfeven.importers.shifting import as_target_takes
from halfeven.report.simulate import Divergence
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named, this_machine
from halfeven.run.litert import LitertExecutor, open_litert
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import alike, open_file
from halfeven.stats.distance import Fidelity
from halfeven.steps.trace import Trace
from halfeven.targets import target_named

Codes = npt.NDArray[np.integer]
Labels = Mapping[str, frozenset[int]]
LITERT = {"litert@xnnpack": "xnnpack", "litert@optimized-x86": "optimized", "litert@reference": "reference"}
ALIASES = {"litert": "litert@xnnpack"}
FILES = {"litert": "tflite", "openvino": "openvino-ir", "ncnn": "ncnn"}
RUNTIMES = ("onnxruntime", "litert", *LITERT, "openvino", "ncnn")


@dataclass(frozen=True)
class Place:
    """One code that differs: of which tensor and layer, at which index of which sample, and both integers."""

    tensor: str
    layer: str
    sample: str
    index: tuple[int, ...]
    simulated: int
    found: int


@dataclass
class Effect:
    """Outputs of a runtime beside those of ONNX Runtime's machine; `hits` counts labelled samples, of both."""

    fidelity: Fidelity | None = None
    rows: int = 0
    equal: int = 0
    labelled: int = 0
    hits: tuple[int, int] = (0, 0)

    def add(self, reference: Batch, other: Batch, truth: frozenset[int] | None) -> None:
        """Count the outputs of one sample; of the first output the best class, where it is one of scores."""
        for place, (name, array) in enumerate(reference.items()):
            x, y = np.asarray(array), alike(np.asarray(array), np.asarray(other[name]))
            if x.dtype.kind != "f" or x.shape != y.shape:
                continue
            one = Fidelity.of(x, y)
            self.fidelity = one if self.fidelity is None else self.fidelity.merge(one)
            if place == 0 and x.ndim in (2, 3) and x.shape[-1] > 1:
                best = [a.argmax(-1).ravel() for a in (x, y)]
                self.rows += best[0].size
                self.equal += int((best[0] == best[1]).sum())
                if truth is not None and best[0].size == 1:
                    self.labelled += 1
                    self.hits = (self.hits[0] + (int(best[0][0]) in truth), self.hits[1] + (int(best[1][0]) in truth))


@dataclass
class Beside:
    """A runtime beside a machine. `inner`: inner tensors were compared, not outputs alone."""

    runtime: str
    profile: str
    evidence: str
    inner: bool
    tensors: dict[str, Divergence] = field(default_factory=dict)
    first: Place | None = None
    effect: Effect = field(default_factory=Effect)
    notes: tuple[str, ...] = ()
    refused: str = ""

    @property
    def differing(self) -> int:
        """Codes that differ."""
        return sum(d.differing for d in self.tensors.values())

    @property
    def compared(self) -> int:
        """Codes compared."""
        return sum(d.compared for d in self.tensors.values())

    @property
    def sentence(self) -> str:
        """What was found, in one."""
        if self.refused:
            return f"{self.runtime} cannot run it: {self.refused}"
        if not self.tensors:
            return f"{self.runtime} shows no integers; its outputs are judged."
        if self.first is None:
            return f"{self.runtime} computes the integers of {self.profile}: none of {self.compared:,} differs."
        share, step = self.differing / max(self.compared, 1), max(d.step for d in self.tensors.values())
        return (
            f"{self.runtime} parts from {self.profile} first at '{self.first.layer}': code {self.first.found} for "
            f"{self.first.simulated} at {list(self.first.index)}; {share:.2%} of all codes differ, by {step} at most."
        )

    def add(self, name: str, layer: str, sample: str, ours: Codes, theirs: Codes) -> None:
        """Count a tensor of one sample."""
        gap = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
        seen = self.tensors.setdefault(name, Divergence(name, layer))
        seen.compared += gap.size
        seen.differing += int((gap > 0).sum())
        seen.step = max(seen.step, int(gap.max(initial=0)))
        if self.first is None and gap.any():
            at = tuple(int(i) for i in np.argwhere(gap)[0])
            self.first = Place(name, layer, sample, at, int(ours[at]), int(theirs[at]))


@dataclass(frozen=True)
class Conformity:
    """All runtimes, in the order asked for."""

    samples: int
    runtimes: tuple[Beside, ...]


def conform(
    model: ir.Model | str | Path,
    data: Sequence[tuple[str, Batch]],
    runtimes: Sequence[str] = ("onnxruntime", "litert"),
    *,
    labels: Labels | None = None,
    threads: int = 0,
    progress: Progress = no_progress,
) -> Conformity:
    """Run a quantized `model` (ONNX with QuantizeLinear and DequantizeLinear) on `data` in runtimes and simulators.

    Raises:
        BadOption: there is no such runtime, or its package is not installed.
        UnsupportedModel: the model cannot be read. A runtime that it cannot be written for is said in the report.
    """
    for name in runtimes:
        if name not in RUNTIMES:
            raise BadOption(f"There is no runtime {name!r} to conform with. Choose from: {', '.join(RUNTIMES)}.")
    held = load(str(model) if isinstance(model, Path) else model).clone()
    name_everything(held)
    machine = IntegerExecutor(lower(held), this_machine(), threads)
    known = [machine(feeds) for _, feeds in data]
    found: list[Beside] = []
    for done, name in enumerate(runtimes):
        progress("conform", done, len(runtimes))
        own = name == "onnxruntime"
        try:
            ways = _onnxruntime(held, machine, data) if own else _other(held, machine, data, ALIASES.get(name, name))
        except (BadOption, UnsupportedByTarget, UnsupportedModel) as error:  # not installed, or not for this model
            found.append(Beside(name, "", "", inner=False, refused=str(error)))
            continue
        beside, outputs = ways
        for (label, _), reference, other in zip(data, known, outputs, strict=True):
            beside.effect.add(reference, other, (labels or {}).get(label))
        found.append(beside)
    progress("conform", len(runtimes), len(runtimes))
    return Conformity(len(data), tuple(found))


def _onnxruntime(
    model: ir.Model, machine: IntegerExecutor, data: Sequence[tuple[str, Batch]]
) -> tuple[Beside, list[Batch]]:
    beside = Beside("onnxruntime", machine.machine.name, machine.machine.evidence, inner=True)
    made = {v.name for node in model.graph for v in node.outputs}
    watch = tuple(name for name, t in machine.tensors.items() if t.coded and name in made)
    run = OrtExecutor(model, watch, threads=machine.threads)
    outputs = []
    for label, feeds in data:
        theirs, ours = run(feeds, label), machine(feeds, watch)
        for name in watch:
            beside.add(name, _layer(machine.network, name), label, np.asarray(ours[name]), np.asarray(theirs[name]))
        outputs.append({t.name: theirs[t.name] for t in machine.network.outputs})
    return beside, outputs


def _layer(network: Network, name: str) -> str:
    maker = network.maker(name)
    return name if maker is None else maker.name


def _other(
    model: ir.Model, machine: IntegerExecutor, data: Sequence[tuple[str, Batch]], name: str
) -> tuple[Beside, list[Batch]]:
    """A runtime that reads a file of its own."""
    format = FILES[name.partition("@")[0]]
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / f"model{FORMATS[format].suffix}"
        notes = write_for(model, data, format, path)
        if format == "tflite":
            beside, outputs = _litert(path, model, data, name, machine.threads)
        else:
            held = machine.machine
            beside = Beside(name, held.name, f"outputs alone are compared; {name} shows no inner codes", inner=False)
            run = open_file(path, model)
            outputs = [run(feeds, label) for label, feeds in data]
    beside.notes = notes
    return beside, outputs


def write_for(model: ir.Model, data: Sequence[tuple[str, Batch]], format: str, path: Path) -> tuple[str, ...]:
    """Write a quantized model as a file of another format, with the shapes of the first sample; what is to be said."""
    draft = draft_of(model.clone(), target_named(target_of(format)))
    plan, _ = as_target_takes(draft.plan, draft.target)
    draft = pipeline(Trace())(replace(draft, plan=plan), data[:1])
    return tuple(exporter_named(format)(draft, path))


def _litert(
    path: Path, model: ir.Model, data: Sequence[tuple[str, Batch]], name: str, threads: int
) -> tuple[Beside, list[Batch]]:
    """A .tflite file in one set of kernels, beside the machine on the network that the file holds."""
    read = load_tflite(path).model
    name_everything(read)
    machine = IntegerExecutor(lower(read), machine_named(name), threads)
    beside = Beside(name, name, machine.machine.evidence, inner=True)
    run = open_file(path, model)
    fed = [run._fed(feeds) for _, feeds in data]
    held = open_litert(path, LITERT[name])
    pairs = paired(machine, held)
    outputs = []
    for (label, _), feeds in zip(data, fed, strict=True):
        ours, theirs = machine(feeds, list(pairs)), held.tensors(feeds)
        for tensor, in_file in pairs.items():
            if in_file in theirs:
                codes = in_order(np.asarray(ours[tensor]), np.asarray(theirs[in_file]))
                if codes is not None:
                    beside.add(tensor, _layer(machine.network, tensor), label, np.asarray(ours[tensor]), codes)
        given = [np.asarray(theirs[port.name]) for port in held.outputs]
        outputs.append(dict(zip((v.name or "" for v in model.graph.outputs), given, strict=True)))
    return beside, outputs


def paired(machine: IntegerExecutor, file: LitertExecutor) -> dict[str, str]:
    """The coded tensors of a network read from a file, in order, with the names they have in the file."""
    names = {}
    for name, port in file.meanings().items():
        if port.scale is not None and port.scale.size == 1:
            for own in (f"{name}_quantized", name):
                tensor = machine.tensors.get(own)
                if tensor is not None and tensor.coded:
                    names[own] = name
                    break
    return {own: names[own] for own in machine.tensors if own in names}


def in_order(ours: Codes, theirs: Codes) -> Codes | None:
    """A file's codes with their channels where ours are; where both orders fit, that in which less differs."""
    ways = [theirs] + ([np.moveaxis(theirs, -1, 1)] if theirs.ndim > 2 else [])
    fitting = [way for way in ways if way.shape == ours.shape]
    return min(fitting, key=lambda way: int((way != ours).sum()), default=None)


def to_json(found: Conformity) -> dict[str, Any]:
    """Plain values; an infinite SQNR, no difference at all, is null."""
    return {"samples": found.samples, "runtimes": [_plain(one) for one in found.runtimes]}


def _plain(one: Beside) -> dict[str, Any]:
    effect = one.effect
    db = None if effect.fidelity is None else effect.fidelity.sqnr_db
    return {
        "runtime": one.runtime,
        "profile": one.profile,
        "refused": one.refused,
        "evidence": one.evidence,
        "compared": one.compared,
        "differing": one.differing,
        "first": None if one.first is None else vars(one.first) | {"index": list(one.first.index)},
        "tensors": {n: {"layer": d.layer, "compared": d.compared, "differing": d.differing, "step": d.step}
                    for n, d in one.tensors.items()},
        "outputs": {"sqnr_db": db if db is not None and isfinite(db) else None,
                    "same_top1": effect.equal, "of": effect.rows,
                    "labelled": effect.labelled, "right": effect.hits[1], "right_in_onnxruntime": effect.hits[0]},
        "notes": list(one.notes),
    }  # fmt: skip
