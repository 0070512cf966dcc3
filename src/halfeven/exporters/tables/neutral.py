"""The neutral table (halfeven-encodings): every quantized tensor in plain JSON, for tools whose own format is closed.

    {halfeven_encodings: 1, producer, target, rule: "real = (code - zero_point) * scale", rounding, profile, tensors,
     float_nodes: {NODE: reason}}
    tensors: [{name, kind: "activation" | "weight" | "bias", readers: [[NODE, input], ...],
               bits, signed, low, high, symmetric, power_of_two, scale: [s, ...], zero_point: [z, ...],
               shape: [..] of the scales, tiles: [[axis, run], ...], fix: [f, ...]}]

`readers`: who sees the tensor so; empty: everyone. `low`..`high`: the codes in use, -127..127 for a narrow grid.
`shape` and `tiles`: one scale for each run of `run` elements along each axis that is named, all elements along the
others share; no tiles: one scale. `fix`, only where every scale is a power of two: scale = 2**-fix. Scales are decimal
numbers that read back to the same float32. Nothing of a plan is lost but which tensors were calibrated together, and
the reasons of quantizers.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from halfeven.draft import Draft
from halfeven.exporters.tables.entries import entries_of, write_table
from halfeven.graph.encodings import Encoding, written
from halfeven.numerics.scheme import ScaleRule
from halfeven.version import __version__

VERSION = 1


def write_encodings(draft: Draft, path: Path) -> tuple[str, ...]:
    """The neutral table."""
    data = {
        "halfeven_encodings": VERSION,
        "producer": f"halfeven {__version__}",
        "target": draft.target.name,
        "rule": "real = (code - zero_point) * scale",
        "rounding": draft.target.numerics.rounding.value,
        "profile": draft.target.numerics.profile,
        "tensors": [_tensor(entry) for entry in entries_of(draft)],
        "float_nodes": dict(draft.plan.floats),
    }
    return tuple(write_table(draft, path, json.dumps(data, indent=1, ensure_ascii=False) + "\n"))


def _tensor(entry: Encoding) -> dict[str, Any]:
    params, scheme = entry.params, entry.params.scheme
    powers = bool((np.frexp(params.scale)[0] == 0.5).all()) and not params.zero_point.any()
    fix = {"fix": [fields["shift"] for fields in written(entry, "shift")]} if powers else {}
    return {
        "name": entry.name,
        "kind": entry.role,
        "readers": [list(reader) for reader in entry.readers],
        "bits": scheme.grid.bits,
        "signed": scheme.grid.signed,
        "low": scheme.grid.low,
        "high": scheme.grid.high,
        "symmetric": scheme.symmetric,
        "power_of_two": scheme.scale is ScaleRule.POWER_OF_TWO,
        "scale": entry.scales,
        "zero_point": entry.zero_points,
        "shape": list(params.scale.shape),
        "tiles": [list(tile) for tile in scheme.tiling.tiles],
        **fix,
    }
