"""Encodings of AIMET, which QNN and SNPE take as overrides of their own quantization (JSON).

    0.6.1    {version, activation_encodings: {NAME: [E, ...]}, param_encodings: {...}, quantizer_args, excluded_layers}
             E = {bitwidth, dtype: "int", is_symmetric: "True", min, max, offset, scale}, one for each channel
    1.0.0    the same with lists of {name, dtype: "INT", enc_type, bw, is_sym, scale: [...], offset: [...], block_size}
             enc_type PER_TENSOR, PER_CHANNEL, PER_BLOCK; block scales by output channel, then block; LPBQ, where they
             are whole multiples of a channel's (`numerics.lpbq`), with compressed_bw, per_block_int_scale, and twice
             the bits as bw
    2.0.0    {version, encodings: [{name, output_dtype, y_scale, y_zero_point, axis, block_size}]}, as QuantizeLinear
             has them (opset 23); y_zero_point is left out where all are 0; of LPBQ per_block_int_scale and
             per_channel_float_scale instead of y_scale

In 0.6.1 and 1.0.0 codes count from the lowest, 0: offset = low - zero_point, 0 or negative (`numerics.conventions`,
aimet). Symmetric means int8 there and anything else uint8, so an affine int8 becomes uint8 of the same values. None of
them knows a grid without its lowest code: narrow codes are written as full ones, which hold the same values.

Sources: AIMET 2.42, documentation, encoding format specification; aimet_onnx _encoding.py, which read these files back.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.tables.entries import entries_of, write_table
from halfeven.graph import ops
from halfeven.graph.encodings import Encoding, full_grid, written
from halfeven.numerics.lpbq import Steps, lpbq_parts
from halfeven.numerics.quantize import Array
from halfeven.numerics.ragged import is_ragged
from halfeven.numerics.scheme import QParams

T = TypeVar("T", bound=np.generic)
KINDS = {False: "uint", True: "int"}
BITS = {2: (4, 8, 16, 32), 1: range(4, 33), 0: range(4, 33)}


def write_aimet_061(draft: Draft, path: Path) -> tuple[str, ...]:
    """AIMET 0.6.1. Raises UnsupportedByTarget: weights have block scales."""
    entries = _entries(draft, 0)
    blocked = next((e.name for e in entries if _block(e.params) is not None), None)
    if blocked is not None:
        raise UnsupportedByTarget(f"'{blocked}' has block scales, which AIMET 0.6.1 cannot say; use aimet-1.0 or 2.0.")
    named = {role: {e.name: _legacy(e) for e in _of(entries, role)} for role in ("activation", "param")}
    data = {"version": "0.6.1", **{f"{role}_encodings": found for role, found in named.items()}}
    return tuple(write_table(draft, path, _json({**data, **_arguments(entries), "excluded_layers": _floats(draft)})))


def write_aimet_100(draft: Draft, path: Path) -> tuple[str, ...]:
    """AIMET 1.0.0."""
    entries = _entries(draft, 1)
    lists = {f"{role}_encodings": [_entry_100(e) for e in _of(entries, role)] for role in ("activation", "param")}
    data = {"version": "1.0.0", **lists, **_arguments(entries), "excluded_layers": _floats(draft)}
    return tuple(write_table(draft, path, _json(data)))


def write_aimet_200(draft: Draft, path: Path) -> tuple[str, ...]:
    """AIMET 2.0.0."""
    data = {"version": "2.0.0", "encodings": [_entry_200(e) for e in _entries(draft, 2)]}
    return tuple(write_table(draft, path, _json(data)))


def _entries(draft: Draft, version: int) -> list[Encoding]:
    """The draft's entries, on full grids.

    Raises:
        UnsupportedByTarget: bits that the version has no name for, or blocks that do not divide their axis.
    """
    entries = entries_of(draft)
    for entry in entries:
        if entry.params.scheme.grid.bits not in BITS[version]:
            raise UnsupportedByTarget(
                f"'{entry.name}' is {entry.params.scheme}; AIMET {version}.x has {_range(BITS[version])} bits."
            )
        block = _block(entry.params)
        if block is not None and any(n > 1 for n in entry.params.scale.shape[2:]):
            raise UnsupportedByTarget(
                f"'{entry.name}' has scales for each place of its kernel, and AIMET's blocks share one. Leave "
                "--conv-bits at 8, or keep the layer in float."
            )
        weight = ops.constant_of(draft.model.graph.initializers.get(entry.name))
        if weight is not None and is_ragged(ops.dims_of(weight), entry.params.scheme.tiling):
            raise UnsupportedByTarget(
                f"'{entry.name}': its last block is shorter than the others, and AIMET's blocks are all of one length. "
                "Use a --block that divides the axis."
            )
    return [Encoding(e.name, full_grid(e.params), e.role, e.readers) for e in entries]


def _of(entries: Iterable[Encoding], role: str) -> list[Encoding]:
    return [e for e in entries if (e.role == "activation") == (role == "activation")]


def _legacy(entry: Encoding) -> list[dict[str, Any]]:
    found = written(entry, "aimet")
    return [{**fields, "scale": scale} for fields, scale in zip(found, entry.scales, strict=True)]


def _entry_100(entry: Encoding) -> dict[str, Any]:
    params, block = entry.params, _block(entry.params)
    fields, bits = written(entry, "aimet"), params.scheme.grid.bits
    flat = [int(i) for i in _channels_first(np.arange(params.scale.size).reshape(params.scale.shape), block).ravel()]
    kind = "PER_BLOCK" if block is not None else "PER_CHANNEL" if params.scheme.tiling.tiles else "PER_TENSOR"
    symmetric = all(f["is_symmetric"] == "True" for f in fields)
    head = {"name": entry.name, "dtype": "INT", "enc_type": kind, "bw": bits, "is_sym": symmetric}
    scale, offset = [entry.scales[i] for i in flat], [fields[i]["offset"] for i in flat]
    if block is None:
        return {**head, "scale": scale, "offset": offset}
    parts = _lpbq(params, block)
    if parts is None:
        return {**head, "scale": scale, "offset": offset, "block_size": block[1]}
    steps, factors = _channels_first(parts[0], block).ravel().tolist(), parts[1].ravel().tolist()
    head |= {"enc_type": "LPBQ", "bw": 2 * bits, "compressed_bw": bits, "block_size": block[1]}
    return {**head, "scale": factors, "offset": [-(1 << (2 * bits - 1))] * len(factors), "per_block_int_scale": steps}


def _entry_200(entry: Encoding) -> dict[str, Any]:
    params, block = entry.params, _block(entry.params)
    grid, tiling = params.scheme.grid, params.scheme.tiling
    shape = params.scale.shape if block is not None else (-1,) if tiling.tiles else ()
    found: dict[str, Any] = {"name": entry.name, "output_dtype": f"{KINDS[grid.signed]}{grid.bits}"}
    parts = None if block is None else _lpbq(params, block)
    if parts is not None:
        found |= {"per_block_int_scale": parts[0].tolist(), "per_channel_float_scale": parts[1].tolist()}
    else:
        found["y_scale"] = np.array(entry.scales).reshape(shape).tolist()
    if params.zero_point.any():
        found["y_zero_point"] = params.zero_point.reshape(shape).tolist()
    if tiling.tiles:
        found["axis"] = tiling.axis if block is None else block[0]
    return found if block is None else {**found, "block_size": block[1]}


def _channels_first(by_block: npt.NDArray[T], block: tuple[int, int] | None) -> npt.NDArray[T]:
    """Numbers of blocks along axis 0 of a matrix, turned."""
    return by_block.T if block is not None and by_block.ndim == 2 and block[0] == 0 else by_block


def _lpbq(params: QParams, block: tuple[int, int]) -> tuple[Steps, Array] | None:
    """Scales of several blocks a channel in two parts, if they were made so."""
    if params.scheme.grid.bits != 4 or not params.scheme.grid.signed or params.scale.shape[block[0]] < 2:
        return None
    return lpbq_parts(params, 0 if block[0] else 1)


def _block(params: QParams) -> tuple[int, int] | None:
    """Axis and length of the blocks."""
    runs = [(axis, run) for axis, run in params.scheme.tiling.tiles if run > 1]
    return runs[0] if runs else None


def _arguments(entries: Iterable[Encoding]) -> dict[str, Any]:
    """What AIMET notes about its own quantizers, for people who read the file."""
    weights = [e.params.scheme for e in entries if e.role == "weight"]
    acts = [e.params.scheme for e in entries if e.role == "activation"]
    args = {
        "activation_bitwidth": max((s.grid.bits for s in acts), default=8),
        "dtype": "int",
        "is_symmetric": all(s.symmetric for s in weights),
        "param_bitwidth": max((s.grid.bits for s in weights), default=8),
        "per_channel_quantization": any(s.tiling.tiles for s in weights),
        "quant_scheme": "post_training_tf",
    }
    return {"quantizer_args": args}


def _floats(draft: Draft) -> list[str]:
    names: Iterable[ir.Node] = draft.model.graph
    return [node.name or "" for node in names if node.name in draft.plan.floats]


def _range(bits: Iterable[int]) -> str:
    return ", ".join(map(str, bits)) if not isinstance(bits, range) else f"{bits.start} to {bits.stop - 1}"


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
