"""The JSON files of PPQ (OpenPPL) for other tools; its own config is in `ppq_config`.

Its native format, which holds a whole graph, is a pickle, which is not written and never read.

    ppq-tensorrt    {act_quant_info: {NAME: amax}}, for TensorRT's setDynamicRange(-amax, amax); activations only
    ppq-ppl         {quant_info: {NAME: {bit_width, per_channel, quant_flag, sym, scale, zero_point, tensor_min,
                    tensor_max, q_min, q_max, hash, dominator}}, op_info: {NODE: {data_type: "INT8"}}}
    ppq-qnn         {activation_encodings: {NAME: [{bitwidth, max, min, offset, scale}]}, param_encodings: {...}}

amax = 127 * scale, which TensorRT divides by 127 again. PPQ itself writes scale * (q_max - q_min) / 2 = 127.5 * scale
for full codes; TensorRT then takes a scale 0.4 % larger than the one PPQ calibrated. The file read back is what
TensorRT makes of it.

`zero_point` and `offset` are zero points in our sense: real = (code - offset) * scale, unlike AIMET's. `hash` says
which tensors share their parameters, `dominator` which one leads; here both are the number of the group. PPQ's QNN
exporter writes per-tensor parameters only; weights by channel have an entry for each channel, as in QNN's own files.
No file holds biases or more than 8 bits. Source: PPQ 0.6.6 (e39eecb) parser/trt_exporter.py, ppl.py, qnn_exporter.py.
"""

import json
from pathlib import Path
from typing import Any

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.tables.entries import (
    activations_of,
    entries_of,
    of_codes,
    reads_codes,
    without_biases,
    write_table,
)
from halfeven.graph.encodings import Encoding, canonical, written
from halfeven.wording import counted


def write_ppq_tensorrt(draft: Draft, path: Path) -> tuple[str, ...]:
    """PPQ's file for TensorRT. Raises BadOption: an activation has a zero point."""
    entries = entries_of(draft)
    of_codes(entries, "TensorRT's dynamic range")
    found = activations_of(entries, "TensorRT's dynamic range")
    ranges = {e.name: written(e, "tensorrt-amax")[0]["amax"] for e in found}
    notes = [f"{counted(len(entries) - len(ranges), 'constant')} not in the table: TensorRT quantizes weights itself"]
    return (*write_table(draft, path, _json({"act_quant_info": ranges})), *notes)


def write_ppq_ppl(draft: Draft, path: Path) -> tuple[str, ...]:
    """PPQ's file for PPL. Raises UnsupportedByTarget: block scales, or codes of other than 8 bits."""
    entries, notes = _eight_bits(draft)
    groups = {site.value: group for site, group in draft.plan.sites.items()}
    info = {entry.name: _ppl(entry, groups[entry.name]) for entry in entries}
    nodes = [node.name or "" for node in draft.model.graph if reads_codes(draft, node)]
    data = {"quant_info": info, "op_info": {name: {"data_type": "INT8"} for name in nodes}}
    return (*write_table(draft, path, _json(data)), *notes)


def write_ppq_qnn(draft: Draft, path: Path) -> tuple[str, ...]:
    """PPQ's file for QNN. Raises as `write_ppq_ppl` does."""
    entries, notes = _eight_bits(draft)
    found: dict[str, dict[str, Any]] = {"activation_encodings": {}, "param_encodings": {}}
    for entry in entries:
        kind = "activation_encodings" if entry.role == "activation" else "param_encodings"
        found[kind][entry.name] = _qnn(entry)
    return (*write_table(draft, path, _json(found)), *notes)


def _eight_bits(draft: Draft) -> tuple[list[Encoding], list[str]]:
    entries = entries_of(draft)
    of_codes(entries, "a PPQ file")
    blocked = next(
        (e.name for e in entries if e.params.scheme.tiling.tiles and e.params.scheme.tiling.axis is None), ""
    )
    if blocked:
        raise UnsupportedByTarget(
            f"'{blocked}' has block scales, which PPQ's files cannot say. Choose --format encodings."
        )
    return without_biases(entries)


def _ppl(entry: Encoding, group: int) -> dict[str, Any]:
    found = written(entry, "ppl")
    by_channel = bool(entry.params.scheme.tiling.tiles)

    def column(key: str) -> Any:
        values = [fields[key] for fields in found]
        return values if by_channel else values[0]

    return {
        "bit_width": found[0]["bit_width"],
        "per_channel": by_channel,
        "quant_flag": True,
        "sym": entry.params.scheme.symmetric,
        "scale": entry.scales if by_channel else entry.scales[0],
        "zero_point": column("zero_point"),
        "tensor_min": column("tensor_min"),
        "tensor_max": column("tensor_max"),
        "q_min": found[0]["q_min"],
        "q_max": found[0]["q_max"],
        "hash": group,
        "dominator": group,
    }


def _qnn(entry: Encoding) -> list[dict[str, Any]]:
    bits, found = entry.params.scheme.grid.bits, []
    for one, scale in zip(canonical(entry.params), entry.scales, strict=True):
        least, most = one.scale * (one.low - one.zero_point), one.scale * (one.high - one.zero_point)
        found.append({"bitwidth": bits, "max": most, "min": least, "offset": one.zero_point, "scale": scale})
    return found


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
