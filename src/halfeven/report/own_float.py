"""The float model in the runtime that a quantized file is for, to compare latencies there."""

import tempfile
from pathlib import Path

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import QuantError
from halfeven.exporters.formats import FORMATS, exporter_named, target_of
from halfeven.graph.prepare import prepare
from halfeven.run.runtimes import Fitted, Runtime, open_file
from halfeven.targets import TARGETS


def own_float(model: ir.Model, runtime: Runtime) -> Fitted | None:
    """A float model, written for a runtime with nothing quantized and opened there; None where it has no such form."""
    if runtime.format not in FORMATS:
        return None
    with tempfile.TemporaryDirectory(prefix="halfeven-") as folder:
        path = Path(folder) / f"float{FORMATS[runtime.format].suffix}"
        try:
            exporter_named(runtime.format)(Draft(prepare(model)[0], TARGETS[target_of(runtime.format)]), path)
            return open_file(path, model)
        except QuantError:
            return None
