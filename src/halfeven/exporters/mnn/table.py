"""Quantization parameters for MNN's converter: `mnnconvert --compressionParamsFile TABLE.json` (suffix .json).

    {version: "0.0.0", algo: [{type: "QUANTIZE", quant_params: {round_mode: "ROUND_AWAY_FROM_ZERO", layer: [L, ...]}}]}
    L = {input: [A], weight: [W], output: [A], method: "QAT"}
    A = {name, bits, scales: [s], zero_point, clamp_min, clamp_max}      real = (code - zero_point) * s, codes int8
    W = {name, bits, scales: [s, ...], clamp_min, clamp_max}             one scale for each output channel

The converter finds a layer by the name of its output, behind the activation that it joins; which layers it can find,
and what must be done to the network beside them, stand in `layers` and `network`. A tensor is coded in MNN if a layer
of the table reads it or makes it, and an operator between computes on codes if all its tensors are. uint8 codes are
moved by -128, which changes no value. The file is protobuf's JSON of MNN.Compression.Pipeline, as MNN has read it since
3.0; older versions want the binary of the same message. Source: MNN tools/converter, MNN_compression.proto,
CommonUtils.cpp, FullQuantAndCoding.cpp; run with MNN 3.6.1.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.mnn.layers import Layer, layers_of, signed
from halfeven.exporters.mnn.network import Fitted, fitted
from halfeven.exporters.mnn.wrong import refuse_wrong
from halfeven.exporters.tables.entries import entries_of, of_codes, write_table
from halfeven.graph.bits import stored_grid
from halfeven.graph.encodings import Encoding
from halfeven.targets.check import refuse
from halfeven.wording import counted


def write_params(draft: Draft, path: Path) -> tuple[str, ...]:
    """MNN's quantization parameters, and beside them the network to convert.

    Raises:
        UnsupportedByTarget: codes of other than 8 bits, or no layer that MNN runs on codes, or an operator that it
            computes wrongly.
    """
    network, notes = table_of(draft)
    said = write_table(replace(draft, model=network.model), path, text_of(network))
    return (*said, *notes)


def table_of(draft: Draft) -> tuple[Fitted, tuple[str, ...]]:
    """The network for the converter, the layers that become integer, and sentences on the others.

    Raises:
        UnsupportedByTarget: codes of other than 8 bits, or no layer that MNN runs on codes, or an operator that it
            computes wrongly.
    """
    refuse(draft.target, draft.model, draft.plan)
    refuse_wrong(draft)
    plan = draft.plan  # a bias may be that of several layers, each with a scale of its own, which no table can say
    sites = {site: group for site, group in plan.sites.items() if plan.groups[group].role != "bias"}
    entries = {entry.name: entry for entry in entries_of(replace(draft, plan=replace(plan, sites=sites)))}
    of_codes(list(entries.values()), "this MNN table", reduced=True)
    layers, left = layers_of(draft, entries)
    if plan.sites and left and not layers:
        name, reason = next(iter(left.items()))
        raise UnsupportedByTarget(
            f"MNN can run no layer on codes: '{name}' stays float, {reason}, and so do all others. Choose another "
            "format, or --mode static for its scales."
        )
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        reasons.setdefault(reason, []).append(name)
    notes = [
        f"{counted(len(names), 'layer')} left float for MNN, {reason}: {', '.join(map(repr, names[:3]))}"
        for reason, names in reasons.items()
    ]
    return fitted(draft, layers), tuple(notes)


def text_of(network: Fitted) -> str:
    """The table as JSON."""
    layers = [_layer(layer, network) for layer in network.layers]
    params = {"round_mode": "ROUND_AWAY_FROM_ZERO", "layer": layers}
    data = {"version": "0.0.0", "algo": [{"type": "QUANTIZE", "quant_params": params}]}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _layer(layer: Layer, network: Fitted) -> dict[str, Any]:
    codes, grid = signed(layer.weight), layer.weight.params.scheme.grid
    limits = {"clamp_min": codes.low, "clamp_max": codes.high}
    name = network.names.get(layer.weight.name, layer.weight.name)
    weight = {"name": name, "bits": stored_grid(grid).bits, "scales": layer.scales, **limits}
    return {
        "input": [_activation(layer.data, network)],
        "weight": [weight],
        "output": [_activation(layer.output, network)],
        "method": "QAT",
    }


def _activation(entry: Encoding, network: Fitted) -> dict[str, Any]:
    one = signed(entry)
    codes = {"zero_point": one.zero_point, "clamp_min": one.low, "clamp_max": one.high}
    scale = float(str(network.scales[entry.name]))  # the shortest decimal that is read back to the same float32
    name = network.names.get(entry.name, entry.name)
    return {"name": name, "bits": entry.params.scheme.grid.bits, "scales": [scale], **codes}
