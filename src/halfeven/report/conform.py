"""Conform: a network in runtimes, each beside the simulator of its arithmetic.

    runtime                          runs                     compared with                    where
    onnxruntime                      the model                the machine of this processor    every quantized tensor
    litert, litert@reference,        a .tflite file of it     the machine of that name, on     every quantized tensor
    litert@optimized-x86, on Arm                              the file read back
    litert@optimized-arm64
    tflite-micro                     a .tflite file of it     the machine of that name         outputs
    c                                C code of it, compiled   the machine `integer`            every quantized tensor
    openvino                         IR of it                 the machine `openvino@cpu`       quantized tensors, but
                                                                                               for what sums read
    ncnn                             .param and .bin of it    ncnn's machine here              every quantized tensor
    executorch                       a .pte file of it        XNNPACK's machine here, on a     quantized tensors that
                                                              .tflite file of it               both files have

A draft is written for each runtime as it is, as `export` does, if its codes are those that the runtime takes.

`Beside.tensors` counts the codes that differ, tensor by tensor in the order of computation, `first` is the first of
them. `refused` says why a runtime cannot run it. `Beside.effect` says what the runtime gives beside what ONNX Runtime's
machine gives: whether it matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch, Draft, Progress, no_progress
from halfeven.errors import BadCalibration, BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.formats import FORMATS, exporter_named
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.constants import lift_constants
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.graph.names import name_everything
from halfeven.graph.network import Network
from halfeven.importers.litert.reader import load_tflite
from halfeven.report.beside import Beside, Labels
from halfeven.report.conform_c import beside_c
from halfeven.report.conform_files import beside_ncnn, beside_openvino
from halfeven.report.conform_micro import MICRO, beside_micro
from halfeven.report.sides import fitting, in_order
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named, this_machine
from halfeven.run.litert import LitertExecutor, open_litert
from halfeven.run.ort import OrtExecutor
from halfeven.run.processor import on_arm
from halfeven.run.runtimes import open_file


def litert_kernels(arm: bool) -> dict[str, str]:
    """LiteRT's sets of kernels by their machines on a processor of Arm, or of x86-64; its default first."""
    own = {"litert@xnnpack-arm64": "xnnpack", "litert@optimized-arm64": "optimized"}
    if not arm:
        own = {"litert@xnnpack": "xnnpack", "litert@optimized-x86": "optimized"}
    return {**own, "litert@reference": "reference"}


LITERT = litert_kernels(on_arm())
EXECUTORCH = "executorch"
ALIASES = {"litert": next(iter(LITERT))}
FILES = {
    "litert": "tflite",
    MICRO: "tflite",
    "openvino": "openvino-ir",
    "ncnn": "ncnn",
    "c": "c",
    EXECUTORCH: EXECUTORCH,
}
RUNTIMES = ("onnxruntime", "litert", *LITERT, MICRO, "c", "openvino", "ncnn", EXECUTORCH)


@dataclass(frozen=True)
class Conformity:
    """All runtimes, in the order asked for."""

    samples: int
    runtimes: tuple[Beside, ...]


def conform(
    model: ir.Model | str | Path | Draft,
    data: Sequence[tuple[str, Batch]],
    runtimes: Sequence[str] = ("onnxruntime", "litert"),
    *,
    labels: Labels | None = None,
    threads: int = 0,
    progress: Progress = no_progress,
) -> Conformity:
    """Run a quantized `model` on `data` in runtimes and simulators.

    `model` is ONNX with QuantizeLinear and DequantizeLinear or with integer operators, or a calibrated draft.

    Raises:
        BadOption: there is no such runtime.
        BadCalibration: ONNX Runtime's machine cannot run a sample.
        UnsupportedModel: the model cannot be read.

    A runtime that is not installed, that the model cannot be written for, or that refuses a sample is `refused` in the
    report.
    """
    for name in runtimes:
        if name not in RUNTIMES:
            raise BadOption(f"There is no runtime {name!r} to conform with. Choose from: {', '.join(RUNTIMES)}.")
    draft = model if isinstance(model, Draft) else None
    held = to_qdq(model) if isinstance(model, Draft) else load(str(model) if isinstance(model, Path) else model).clone()
    lift_constants(held)
    name_everything(held)
    machine = IntegerExecutor(lower(held), this_machine(), threads)
    known = [machine(feeds) for _, feeds in data]
    found: list[Beside] = []
    for done, name in enumerate(runtimes):
        progress("conform", done, len(runtimes))
        own = name == "onnxruntime"
        try:
            full = ALIASES.get(name, name)
            ways = _onnxruntime(held, machine, data) if own else _other(held, draft, machine, data, full)
        except (BadCalibration, BadOption, UnsupportedByTarget, UnsupportedModel) as error:
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
    model: ir.Model, draft: Draft | None, machine: IntegerExecutor, data: Sequence[tuple[str, Batch]], name: str
) -> tuple[Beside, list[Batch]]:
    """A runtime that reads a file of its own."""
    format = FILES[name.partition("@")[0]]
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / f"model{FORMATS[format].suffix}"
        fits = fitting(model, draft, data, format)
        notes = tuple(exporter_named(format)(fits, path))
        if format == "c":
            beside, outputs = beside_c(path, fits, data, machine.threads)
        elif name == MICRO:
            beside, outputs = beside_micro(path, model, data, machine.threads)
        elif format == "tflite":
            beside, outputs = _litert(path, model, data, name, machine.threads)
        elif format == "ncnn":
            beside, outputs = beside_ncnn(path, fits, model, data, machine.threads)
        elif format == EXECUTORCH:
            from halfeven.report.conform_executorch import beside_executorch  # needs PyTorch, which wrote the file

            beside, outputs, more = beside_executorch(path, fits, model, data, machine.threads)
            notes += more
        else:
            beside, outputs, more = beside_openvino(path, fits, model, data, machine.threads)
            notes += more
    beside.notes = (*notes, *beside.notes)
    return beside, outputs


def _litert(
    path: Path, model: ir.Model, data: Sequence[tuple[str, Batch]], name: str, threads: int
) -> tuple[Beside, list[Batch]]:
    """A .tflite file in one set of kernels, beside the machine on the network that the file holds."""
    read = load_tflite(path).model
    name_everything(read)
    machine = IntegerExecutor(lower(read), machine_named(name), threads)
    beside = Beside(name, name, machine.machine.evidence, inner=True)
    run = open_file(path, model)
    fed = [run.fed(feeds) for _, feeds in data]
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
