"""PPQ's own JSON: the quantization config of each operator and of each tensor that it reads or makes.

    configs        {NODE: {TENSOR: {bit_width, policy: {FLAG: bool}, state, quant_min, quant_max, hash, dominator}}}
    dispatchings   {NODE: the platform that it is for}
    values         {hash: {scale, zero_point}}, of the configs that are their own dominator; one number, or one for each
                   channel

real = (code - zero_point) * scale. A tensor has a config at each operator that touches it, and the states say where it
is quantized:

    ACTIVATED, BAKED          here, by its own scale; BAKED: a constant that is rounded already
    PASSIVE, PASSIVE_BAKED    here, by another's: the dominator's, or for a bias input scale * weight scale
    OVERLAPPED                not here, but where the dominator is
    FP32                      not at all

What is quantized for all readers is so where it is made, and OVERLAPPED at its readers; an input of the graph, at each
reader. Of one group the first is the dominator. The axis of channels does not stand in the file: it is that of the
layer's outputs. Block scales and floats cannot be said. PPQ writes this file beside each network that it exports.

Source: PPQ 0.6.6 parser/onnx_exporter.py (export_quantization_config), core/quant.py (states, flags).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.tables.entries import entries_of, write_table
from halfeven.graph.encodings import Encoding
from halfeven.numerics.scheme import ScaleRule
from halfeven.targets.target import Target

PLATFORMS = {"tensorrt": "TRT_INT8", "ncnn": "NCNN_INT8", "openvino": "OPENVINO_INT8", "mnn": "MNN_INT8"}
FLAGS = ("PER_TENSOR", "PER_CHANNEL", "LINEAR", "FLOATING", "SYMMETRICAL", "ASYMMETRICAL", "POWER_OF_2", "DYNAMIC")


def write_ppq_config(draft: Draft, path: Path) -> tuple[str, ...]:
    """PPQ's config of each operator.

    Raises:
        UnsupportedByTarget: a weight has block scales, or codes of one bit, or a tensor is seen in two ways.
    """
    writer = _Writer(draft)
    data = {"configs": writer.configs(), "dispatchings": writer.dispatchings(), "values": writer.values}
    return tuple(write_table(draft, path, json.dumps(data, indent=1, ensure_ascii=False) + "\n"))


class _Writer:
    """The configs of one draft, numbered as they come."""

    def __init__(self, draft: Draft) -> None:
        self.draft, self.count = draft, 0
        self.entries = {entry.name: entry for entry in entries_of(draft)}
        self.groups = {site.value: group for site, group in draft.plan.sites.items()}
        self.values: dict[str, dict[str, Any]] = {}
        self.roots: dict[object, int] = {}
        self.nodes: list[str] = []
        for entry in self.entries.values():
            _refuse(entry)

    def configs(self) -> dict[str, Any]:
        """Those of all operators that touch something quantized, in the order of the graph."""
        found: dict[str, Any] = {}
        for node in self.draft.model.graph:
            touched = list(_touched(node))
            if any(self._quantized(node, value, port) for value, port in touched):
                found[node.name or ""] = {v.name or "": self._config(node, v, port) for v, port in touched}
        self.nodes = list(found)
        return found

    def dispatchings(self) -> dict[str, str]:
        """The platform of each of these."""
        platform = _platform(self.draft.target)
        return {name: "FP32" if name in self.draft.plan.floats else platform for name in self.nodes}

    def _quantized(self, node: ir.Node, value: ir.Value, port: int) -> bool:
        """Whether this operator reads or makes the value as codes; `port` -1: makes."""
        entry = self.entries.get(value.name or "")
        return entry is not None and (not entry.readers or (node.name or "", port) in entry.readers)

    def _config(self, node: ir.Node, value: ir.Value, port: int) -> dict[str, Any]:
        self.count += 1
        own, entry = self.count, self.entries.get(value.name or "")
        if entry is None or not self._quantized(node, value, port):
            return _fields(None, "FP32", own, own)
        key: object = (entry.name, node.name) if entry.role == "bias" else (entry.role, self.groups[entry.name])
        elsewhere = port >= 0 and not entry.readers and value.producer() is not None
        first = key not in self.roots
        root = self.roots.setdefault(key, own)
        if first:
            self.values[str(root)] = _values(entry)
        state = "OVERLAPPED" if elsewhere else "ACTIVATED" if first and entry.role != "bias" else "PASSIVE"
        return _fields(entry, state, own, root)


def _touched(node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """What a node reads, with its port, and what it makes, with -1."""
    yield from ((value, port) for port, value in enumerate(node.inputs) if value is not None)
    yield from ((value, -1) for value in node.outputs)


def _fields(entry: Encoding | None, state: str, own: int, root: int) -> dict[str, Any]:
    flags, bits, low, high = {"PER_TENSOR", "LINEAR", "SYMMETRICAL"}, 8, -128, 127
    if entry is not None:
        scheme = entry.params.scheme
        flags = {"LINEAR", "PER_CHANNEL" if scheme.tiling.tiles else "PER_TENSOR"}
        flags.add("SYMMETRICAL" if scheme.symmetric else "ASYMMETRICAL")
        flags |= {"POWER_OF_2"} if scheme.scale is ScaleRule.POWER_OF_TWO else set()
        bits, low, high = scheme.grid.bits, scheme.grid.low, scheme.grid.high
    return {
        "bit_width": bits,
        "policy": {flag: flag in flags for flag in FLAGS},
        "state": state,
        "quant_min": low,
        "quant_max": high,
        "hash": own,
        "dominator": root,
    }


def _values(entry: Encoding) -> dict[str, Any]:
    scales, zeros = entry.scales, [float(zero) for zero in entry.zero_points]
    by_channel = bool(entry.params.scheme.tiling.tiles)
    return {"scale": scales if by_channel else scales[0], "zero_point": zeros if by_channel else zeros[0]}


def _refuse(entry: Encoding) -> None:
    scheme = entry.params.scheme
    if (scheme.tiling.tiles and scheme.tiling.axis is None) or scheme.grid.bits < 2:
        raise UnsupportedByTarget(
            f"'{entry.name}' is {scheme}, and PPQ's config says scales by tensor or channel, of 2 to 32 bits. Choose "
            "--format encodings."
        )


def _platform(target: Target) -> str:
    """PPQ's name of a target; INT8 where it has none."""
    return PLATFORMS.get(target.name, "INT8")
