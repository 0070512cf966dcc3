"""TensorRT's tables, PPQ's for it and ONNX Runtime's ranges, read (`exporters.tables.tensorrt` and `ppq`).

    tensorrt-cache        a line NAME: HEX is a scale of symmetric int8, all eight digits of it; the first line says who
                          made it
    tensorrt-precision    int8_tensor_scales likewise; fp16_nodes stay float
    ppq-tensorrt          act_quant_info: scale = amax / 127, as TensorRT makes of it
    ort-calibration       lowest and highest of values: parameters of the target's own scheme for that range

All list tensors of a whole network, those between a layer and its activation too, and no weights.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.errors import BadOption
from halfeven.graph.encodings import Encoding
from halfeven.graph.plan import Plan
from halfeven.importers.tables import reading as r
from halfeven.importers.tables.placing import needed, plan_from
from halfeven.importers.tables.shaping import shaped
from halfeven.numerics.conventions import Canonical, to_canonical
from halfeven.numerics.quantize import params_for
from halfeven.targets.target import Target

SMALLEST = float(np.finfo(np.float32).tiny)
HEADER = re.compile(r"TRT-\w+-\w+")


def read_cache(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of a calibration cache.

    Raises:
        BadOption: it is malformed, or there is no model.
        UnsupportedModel: it names nothing that the model has.
    """
    lines = r.read_text(path).splitlines()
    if not lines or not HEADER.fullmatch(lines[0].strip()):
        raise BadOption(f"'{path}' is no calibration cache: its first line is no 'TRT-8601-EntropyCalibration2'.")
    graph = needed(model, f"'{path}'")
    entries: dict[str, Encoding] = {}
    for number, line in enumerate(lines[1:], 2):
        with r.entry(path, f"line {number}"):
            name, colon, digits = line.rpartition(":")
            if not line.strip():
                continue
            if not colon or not name or not re.fullmatch(r"[0-9a-fA-F]{8}", digits.strip()):
                raise ValueError(f"'NAME: HEX' with eight hex digits was expected, found {line!r:.60}")
            if name in entries:
                raise ValueError(f"{name!r:.60} stands twice")
            scale = to_canonical("tensorrt", {"cache": digits.strip()})
            if scale.scale < SMALLEST:
                raise ValueError(f"{digits.strip()} is {scale.scale:.3g}, below every normal float32; no scale is")
            entries[name] = shaped(graph, name, [scale])
    return plan_from(entries.values(), graph, target, f"'{path.name}'", complete=True)


def read_precision(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of scales and nodes in half precision; raises as `read_cache`."""
    data = r.read_json(path)
    graph = needed(model, f"'{path}'")
    entries = []
    with r.entry(path, "int8_tensor_scales"):
        scales = r.items(data, "int8_tensor_scales")
        wide = [r.text(name, "a node") for name in r.listed(data, "fp16_nodes")]
    for name, value in scales.items():
        with r.entry(path, name):
            entries.append(shaped(graph, name, [Canonical(r.scale(value))]))
    return plan_from(entries, graph, target, f"'{path.name}'", complete=True, floats=wide)


def read_ppq_tensorrt(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of PPQ's dynamic ranges; raises as `read_cache`."""
    data = r.read_json(path)
    graph = needed(model, f"'{path}'")
    entries = []
    with r.entry(path, "act_quant_info"):
        ranges = r.items(data, "act_quant_info")
    for name, value in ranges.items():
        with r.entry(path, name):
            fields = {"amax": r.number(value, "amax")}
            entries.append(shaped(graph, name, [to_canonical("tensorrt-amax", {**fields}, lossy=True)]))
    return plan_from(entries, graph, target, f"'{path.name}'", complete=True)


def read_ort_calibration(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of ONNX Runtime's ranges, under the target's scheme of activations; raises as `read_cache`."""
    data = r.read_json(path)
    graph = needed(model, f"'{path}'")
    constants, entries, scheme = graph.graph.initializers, [], target.rules[0].data
    with r.entry(path, "data"):
        found = r.items(data, "data")
    for name, value in found.items():
        with r.entry(path, name):
            low, high = (_bound(value[key], key) for key in ("lowest", "highest"))
            if low > high:
                raise ValueError(f"lowest is {low}, above highest, {high}")
            if name not in constants:  # of weights the tensors themselves are at hand
                entries.append(Encoding(name, params_for(low, high, scheme)))
    return plan_from(entries, graph, target, f"'{path.name}'", complete=True)


def _bound(value: Any, what: str) -> float:
    """A number, or NumPy's array of one as JSON."""
    found = r.flat(value["data"] if isinstance(value, dict) else value)
    if len(found) != 1:
        raise ValueError(f"{what}: one number was expected, found {len(found)}")
    return r.number(found[0], what)
