"""Quantization parameters for MNN's converter: `MNNConvert --compressionParamsFile TABLE.json` (suffix .json).

    {version: "0.0.0", algo: [{type: "QUANTIZE", quant_params: {round_mode: "ROUND_AWAY_FROM_ZERO", layer: [L, ...]}}]}
    L = {input: [A], weight: [W], output: [A], method: "QAT"}
    A = {name, bits, scales: [s], zero_point, clamp_min, clamp_max}      real = (code - zero_point) * s, codes int8
    W = {name, bits, scales: [s, ...], clamp_min, clamp_max}             one scale, or one for each output channel

The converter finds a layer by the name of its output, behind the activation that it fuses, and quantizes convolutions
whose input and output are both in the table; a layer that hands floats on is left out and named. uint8 codes are moved
by -128, which changes no value. The file is protobuf's JSON of MNN.Compression.Pipeline, as MNN has read it since 3.0;
older versions want the binary of the same message. Source: MNN tools/converter, MNN_compression.proto, CommonUtils,
FullQuantAndCoding.cpp.
"""

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.exporters.tables.entries import entries_of, of_codes, write_table
from halfeven.graph import ops
from halfeven.graph.encodings import Encoding, canonical
from halfeven.numerics.conventions import Canonical, recoded
from halfeven.wording import counted

ACTIVATIONS = ("Relu", "Clip")


def write_mnn(draft: Draft, path: Path) -> tuple[str, ...]:
    """MNN's quantization parameters. Raises UnsupportedByTarget: codes of other than 8 bits."""
    entries = {entry.name: entry for entry in entries_of(draft)}
    of_codes(list(entries.values()), "this MNN table")
    layers, left = [], []
    for node in draft.model.graph:
        if node.op_type == "Conv" and node.name not in draft.plan.floats:
            layer = _layer(node, entries)
            if layer is None:
                left.append(node.name or "")
            else:
                layers.append(layer)
    params = {"round_mode": "ROUND_AWAY_FROM_ZERO", "layer": layers}
    data = {"version": "0.0.0", "algo": [{"type": "QUANTIZE", "quant_params": params}]}
    notes = write_table(draft, path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    if left:
        named = ", ".join(f"'{name}'" for name in left[:3])
        notes.append(
            f"{counted(len(left), 'convolution')} left float for MNN, without a scale on both sides (equalized ones "
            f"may have bounds by channel behind, which MNN does not fuse): {named}"
        )
    others = sum(ops.is_layer(node) and node.op_type != "Conv" for node in draft.model.graph)
    if others:
        notes.append(
            f"{counted(others, 'layer')} of other kinds not in the table: MNN's converter quantizes convolutions"
        )
    return tuple(notes)


def _layer(node: ir.Node, entries: dict[str, Encoding]) -> dict[str, Any] | None:
    data, weight, output = (
        entries.get(v.name or "") if v is not None else None for v in (*node.inputs[:2], _end(node))
    )
    if data is None or weight is None or output is None or weight.params.scheme.tiling.axis not in (None, 0):
        return None
    if weight.params.scheme.tiling.tiles and weight.params.scheme.tiling.axis is None:
        return None
    codes = [_signed(one) for one in canonical(weight.params)]
    limits = {"clamp_min": codes[0].low, "clamp_max": codes[0].high}
    w = {"name": weight.name, "bits": weight.params.scheme.grid.bits, "scales": weight.scales, **limits}
    return {"input": [_activation(data)], "weight": [w], "output": [_activation(output)], "method": "QAT"}


def _end(node: ir.Node) -> ir.Value:
    """What a layer hands on, behind the activation that only it feeds."""
    value = node.outputs[0]
    uses = list(value.uses())
    fused = len(uses) == 1 and not value.is_graph_output() and uses[0].node.op_type in ACTIVATIONS
    return uses[0].node.outputs[0] if fused else value


def _activation(entry: Encoding) -> dict[str, Any]:
    one = _signed(canonical(entry.params)[0])
    codes = {"zero_point": one.zero_point, "clamp_min": one.low, "clamp_max": one.high}
    return {"name": entry.name, "bits": entry.params.scheme.grid.bits, "scales": entry.scales, **codes}


def _signed(one: Canonical) -> Canonical:
    return one if one.low < 0 else recoded(one, -(one.high + 1) // 2)
