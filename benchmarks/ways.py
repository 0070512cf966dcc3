"""The ways in which a network can be run here: a target, a format, and what opens the file, all with one face.

    onnxruntime, qoperator              ONNX Runtime, of QDQ and of QOperator files; one thread
    openvino, ncnn, ncnn-x86, executorch     the runtime of the format
    litert, litert-int16                LiteRT with XNNPACK; -optimized and -reference: its other kernels, same file
    tflite-micro                        TensorFlow Lite Micro, plain loops, the file of `litert`
    c                                   C of the target `integer`, by gcc -O2; it has no float form

What is float of the same network runs in the same runtime; of C, which has no float, in ONNX Runtime with one thread.
"""

import ctypes
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import measure
import numpy as np
import onnx_ir as ir
from networks import Feeds

from halfeven.draft import Batch, Draft, pipeline
from halfeven.exporters.c.build import build
from halfeven.exporters.c.identifiers import identifier
from halfeven.exporters.c.text import shapes_of
from halfeven.exporters.c.write import input_shapes
from halfeven.exporters.formats import FORMATS, exporter_named
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.graph.prepare import prepare
from halfeven.report.conform_micro import Numbered
from halfeven.run.c_program import compiler
from halfeven.run.litert import Port, open_litert
from halfeven.run.openvino import open_openvino
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import RUNTIMES, Fitted, Runtime, open_file
from halfeven.run.tflite_micro import open_tflite_micro
from halfeven.steps.trace import Trace
from halfeven.targets import TARGETS

ARENA = 512 << 20
"""Bytes that TensorFlow Lite Micro gets for activations: float of a page of text needs most."""


@dataclass(frozen=True)
class Way:
    """A target, the format that it leaves in, and, of .tflite files, the kernels."""

    target: str
    format: str
    kernels: str = "xnnpack"

    @property
    def suffix(self) -> str:
        """Of its files."""
        return FORMATS[self.format].suffix

    @property
    def fixed(self) -> bool:
        """Whether a file is of one shape; only the batch may be open."""
        return self.format in ("tflite", "executorch", "c")


WAYS: Mapping[str, Way] = {
    "onnxruntime": Way("onnxruntime", "qdq"),
    "qoperator": Way("onnxruntime", "qoperator"),
    "openvino": Way("openvino", "openvino-ir"),
    "litert": Way("litert", "tflite"),
    "litert-optimized": Way("litert", "tflite", "optimized"),
    "litert-reference": Way("litert", "tflite", "reference"),
    "tflite-micro": Way("litert", "tflite", "micro"),
    "litert-int16": Way("litert-int16", "tflite"),
    "ncnn": Way("ncnn", "ncnn"),
    "ncnn-x86": Way("ncnn-x86", "ncnn"),
    "executorch": Way("executorch", "executorch"),
    "c": Way("integer", "c"),
}


@dataclass(frozen=True)
class InOrt:
    """An ONNX file in ONNX Runtime, with the face of the other runtimes."""

    run: OrtExecutor
    inputs: tuple[str, ...]

    @property
    def outputs(self) -> list[str]:
        """Names of outputs."""
        return self.run.outputs

    def __call__(self, feeds: Batch) -> Batch:
        """Run once."""
        return self.run(feeds)


class Compiled:
    """A C file that was written of `draft`, compiled by this computer's compiler to a library and called in place."""

    def __init__(self, path: Path, draft: Draft) -> None:
        network = lower(to_qdq(draft))
        program = build(network, input_shapes(network, draft), {})
        library = path.with_suffix(".so")
        words = [*compiler(), "-std=c99", "-O2", "-shared", "-fPIC", path.name, "-o", library.name]
        subprocess.run(words, cwd=path.parent, check=True)
        self.inputs, self.outputs = (
            tuple(
                Port(title, shape, np.dtype(np.int8), tensor.params.scale, tensor.params.zero_point.astype(np.int64))
                for (title, tensor), shape in zip(ports, shapes_of(program, ports), strict=True)
                if tensor.params is not None
            )
            for ports in (program.inputs, program.outputs)
        )
        self.calls = len(program.calls)
        self._run = getattr(ctypes.CDLL(str(library)), f"{identifier(path.stem)}_run")

    def __call__(self, feeds: Batch) -> Batch:
        """Run once, codes in and out."""
        given = [np.ascontiguousarray(feeds[port.name], np.int8) for port in self.inputs]
        for port, codes in zip(self.inputs, given, strict=True):
            assert codes.size == prod(port.shape), f"{port.name}: {codes.shape}, not {port.shape}"
        made = {port.name: np.empty(port.shape, np.int8) for port in self.outputs}
        if self._run(*(codes.ctypes.data_as(ctypes.c_void_p) for codes in (*given, *made.values()))):
            raise RuntimeError("the C function failed")
        return dict(made)


def opened(way: Way, path: Path, source: ir.Model, draft: Draft | None = None) -> Fitted:
    """A file that was written by `way`, of `draft`, to be called as the float model `source` is."""
    if way.format in ("qdq", "qoperator"):
        return _in_ort(path, source)
    if way.format == "c":
        assert draft is not None
        return _fitted(Compiled(path, draft), Runtime("C", "", "c"), source)
    if way.kernels == "micro":
        ports = open_litert(path, "reference")
        micro = Numbered(open_tflite_micro(path, ARENA), ports.inputs, ports.outputs)
        return _fitted(micro, RUNTIMES[".tflite"], source)
    file = open_file(path, source)
    match way.format:
        case "tflite":
            return replace(file, run=open_litert(path, way.kernels))
        case "openvino-ir":
            return replace(file, run=open_openvino(path, threads=1))
    return file


def opened_float(way: Way, source: ir.Model, path: Path, sample: Feeds) -> Fitted:
    """The float network in the runtime of `way`; open axes have the lengths of the sample."""
    if way.format in ("qdq", "qoperator", "c"):
        return _in_ort(source, source)
    draft = pipeline(Trace())(Draft(prepare(source)[0], TARGETS[way.target]), [("the sample", sample)])
    exporter_named(way.format)(draft, path)
    return opened(way, path, source)


def on_codes(way: Way, file: Fitted, path: Path, sample: Feeds, notes: Sequence[str]) -> str:
    """How much of the network ran on codes: layers, where the runtime tells, else operators, as the writer says."""
    if way.format in ("qdq", "qoperator"):
        found = measure.integer_nodes(path)
        return f"{found['integer']} of {found['matmul_conv']}"
    if way.format == "c":
        return f"{file.run.calls} of {file.run.calls} operators"
    layers = file.integer_layers(sample)
    if layers:
        return f"{layers[0]} of {layers[1]}"
    return next((note.removesuffix(" run on integers") for note in notes if note.endswith("run on integers")), "")


def _in_ort(model: ir.Model | Path, source: ir.Model) -> Fitted:
    run = OrtExecutor(model, threads=1)
    return _fitted(InOrt(run, _inputs(source)), Runtime("ONNX Runtime", "", "qdq"), source)


def _fitted(run: Any, runtime: Runtime, source: ir.Model) -> Fitted:
    return Fitted(run, runtime, _inputs(source), tuple(value.name or "" for value in source.graph.outputs))


def _inputs(source: ir.Model) -> tuple[str, ...]:
    return tuple(v.name or "" for v in source.graph.inputs if v.name not in source.graph.initializers)
