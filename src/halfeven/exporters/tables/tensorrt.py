"""Tables that TensorRT reads: of activations only, symmetric int8; it quantizes weights itself, by their largest value.

    tensorrt-cache          TRT-8601-EntropyCalibration2       what calibrator made it: TensorRT refuses another's
                            NAME: 3c008912                     the bits of the scale as float32, in hex
    tensorrt-cache-minmax   TRT-8601-MinMaxCalibration         the same for IInt8MinMaxCalibrator
    tensorrt-precision      {int8_tensor_scales: {NAME: scale}, fp16_nodes: [NODE, ...]}   of NVIDIA's Q/DQ translator:
                            the nodes that read a tensor without scale, for trtexec --layerPrecisions=NODE:fp16; not
                            those inside the kernel of an int8 layer: a Relu, a Clip and the sum with a skip behind it
    ort-calibration         {CLS: "TensorsData", data: {NAME: {lowest, highest, CLS: "TensorData"}}, calibration_method}
                            of ONNX Runtime's quantizer and its TensorRT provider; numbers are
                            {data, dtype: "float32", CLS: "numpy.array"}, highest = 127 * scale, lowest = -highest

The number in the first line is TensorRT's version (8601 is 8.6.1); TensorRT 10 refuses a cache of another. A tensor
that a cache does not name runs in a wider type. ONNX Runtime's file holds float32 ranges, which not every scale
survives; the number of those that do not, and the largest difference, are said. ONNX Runtime's flatbuffer of the same
ranges (calibration.flatbuffers) is not written.

Sources: TensorRT developer guide, INT8 calibration; NVIDIA-AI-IOT/cuDLA-samples qdq_translator; ONNX Runtime 1.31
quantization/calibrate.py, which reads the file back, and providers/tensorrt (ReadDynamicRange).
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.exporters.tables.entries import activations_of, entries_of, of_codes, write_table
from halfeven.graph import ops
from halfeven.graph.encodings import Encoding, canonical, written
from halfeven.numerics.quantize import params_for
from halfeven.targets.tensorrt import TENSORRT
from halfeven.wording import counted

VERSION = "8601"
ENTROPY, MINMAX = "EntropyCalibration2", "MinMaxCalibration"


def write_cache(draft: Draft, path: Path, *, version: str = VERSION, calibrator: str = ENTROPY) -> tuple[str, ...]:
    """TensorRT's calibration cache; `version` is what stands in its first line.

    Raises:
        BadOption: `version` is no number, or an activation has a zero point.
        UnsupportedByTarget: an activation is not of 8 bits.
    """
    if not re.fullmatch(r"\d{1,8}", version):
        raise BadOption(f"'{version}' is no version of TensorRT as in a cache; write 8601 for 8.6.1, 101000 for 10.10.")
    entries, notes = _activations(draft, "TensorRT's cache")
    lines = [f"{_one_line(e.name)}: {written(e, 'tensorrt')[0]['cache']}" for e in entries]
    text = "\n".join([f"TRT-{version}-{calibrator}", *lines, ""])
    version_note = f"the first line says TRT-{version}: TensorRT may refuse a cache of another version than its own"
    return (*write_table(draft, path, text), *notes, version_note)


def write_cache_minmax(draft: Draft, path: Path, *, version: str = VERSION) -> tuple[str, ...]:
    """The same for TensorRT's min-max calibrator."""
    return write_cache(draft, path, version=version, calibrator=MINMAX)


def write_precision(draft: Draft, path: Path) -> tuple[str, ...]:
    """Scales of tensors and names of nodes that run in half precision."""
    entries, notes = _activations(draft, "TensorRT's precision file")
    for entry in entries:
        written(entry, "tensorrt")  # refuses zero points
    scales = {e.name: e.scales[0] for e in entries}
    inside = _inside_kernels(draft.model, set(scales))
    wide = [
        node.name or ""
        for node in draft.model.graph
        if node not in inside and any(value.name not in scales for value in _data(node))
    ]
    data = {"int8_tensor_scales": scales, "fp16_nodes": wide}
    return (*write_table(draft, path, _json(data)), *notes, f"{counted(len(wide), 'node')} named as half precision")


def write_ort_calibration(draft: Draft, path: Path) -> tuple[str, ...]:
    """Ranges as ONNX Runtime's quantizer caches them."""
    entries, notes = _activations(draft, "ONNX Runtime's calibration table")
    ranges = {e.name: _range(e) for e in entries}
    data = {
        "CLS": "TensorsData",
        "data": {
            name: {"lowest": _number(a), "highest": _number(b), "CLS": "TensorData"} for name, (a, b) in ranges.items()
        },
        "calibration_method": {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"},
        "smooth_quant": False,
    }
    lost = [loss for entry in entries if (loss := _loss(entry, *ranges[entry.name]))]
    if lost:
        notes.append(
            f"{counted(len(lost), 'scale')} of {len(entries)} not kept exactly by float32 ranges: off by up to "
            f"{max(lost):.1e} of its size"
        )
    return (*write_table(draft, path, _json(data)), *notes)


def _loss(entry: Encoding, low: float, high: float) -> float:
    """How far the scale that the range gives is from the entry's, of its size."""
    back = float(params_for(low, high, entry.params.scheme).scale.ravel()[0])
    return abs(back / canonical(entry.params)[0].scale - 1)


def _inside_kernels(model: ir.Model, scaled: set[str]) -> set[ir.Node]:
    """The nodes between an int8 layer and the scale of what it hands on: TensorRT computes them in its kernel."""
    inside: set[ir.Node] = set()
    for node in model.graph:
        if _data(node) and all(value.name in scaled for value in _data(node)):
            chain, end = [], node.outputs[0]
            while end.name not in scaled and (follower := _follower(end, scaled)) is not None:
                chain.append(follower)
                end = follower.outputs[0]
            inside.update(chain if end.name in scaled else [])
    return inside


def _follower(value: ir.Value, scaled: set[str]) -> ir.Node | None:
    """The node that the kernel which makes a value computes too, where it alone reads the value."""
    maker, uses = value.producer(), list(value.uses())
    rule = None if maker is None or maker.domain else TENSORRT.rule(maker.op_type)
    if maker is None or rule is None or len(uses) != 1 or value.is_graph_output() or uses[0].node.domain:
        return None
    node = uses[0].node
    own = TENSORRT.rule(node.op_type)
    if node.op_type in rule.fuses:
        return node
    skips = [v for v in _data(node) if v is not value]
    residual = own is not None and own.residual and ops.is_layer(maker) and all(v.name in scaled for v in skips)
    return node if residual else None


def _data(node: ir.Node) -> list[ir.Value]:
    values = [node.inputs[port] for port in ops.data_ports(node)]
    return [value for value in values if value is not None]


def _range(entry: Encoding) -> tuple[float, float]:
    one = canonical(entry.params)[0]
    high = float(np.float32(one.scale * (one.high - one.zero_point)))
    low = -high if entry.params.scheme.symmetric else float(np.float32(one.scale * (one.low - one.zero_point)))
    return low, high


def _number(value: float) -> dict[str, Any]:
    return {"data": value, "dtype": "float32", "CLS": "numpy.array"}


def _activations(draft: Draft, what: str) -> tuple[list[Encoding], list[str]]:
    entries = entries_of(draft)
    found = activations_of(entries, what)
    of_codes(found, what)
    left = len(entries) - len(found)
    notes = [f"{counted(left, 'constant')} not in the table: weights are quantized by whoever reads it"] if left else []
    return found, notes


def _one_line(name: str) -> str:
    if re.search(r"[\r\n]", name):
        raise BadOption(f"The name {name!r} breaks a line, and a cache has one tensor in each. Rename the tensor.")
    return name


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
