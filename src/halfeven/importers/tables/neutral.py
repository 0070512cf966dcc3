"""The neutral table read back (`exporters.tables.neutral` describes it): sites, schemes and parameters as they were.

What it does not hold, which tensors were calibrated together, is taken anew: one group for each entry.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.errors import BadOption, UnsupportedModel
from halfeven.graph.plan import Plan, Quantizer, Role, Site
from halfeven.importers.tables import reading as r
from halfeven.importers.tables.placing import needed
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme, Tiling, ZeroRule
from halfeven.targets.target import Target
from halfeven.wording import counted

VERSION = 1
ROLES: dict[str, Role] = {"activation": "activation", "weight": "weight", "bias": "bias"}


def read_encodings(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of a neutral table.

    Raises:
        BadOption: it is malformed, of another version, or there is no model.
        UnsupportedModel: it names tensors or nodes that the model lacks.
    """
    data = r.read_json(path)
    if data.get("halfeven_encodings") != VERSION:
        raise BadOption(
            f"'{path}' is of version {data.get('halfeven_encodings')!r:.20}; version {VERSION} can be read."
        )
    graph = needed(model, f"'{path}'")
    groups: dict[int, Quantizer] = {}
    sites: dict[Site, int] = {}
    with r.entry(path, "tensors"):
        listed = r.listed(data, "tensors")
        floats = {r.text(k, "node"): r.text(v, "reason") for k, v in r.items(data, "float_nodes").items()}
    for number, one in enumerate(listed):
        with r.entry(path, f"tensor {number}"):
            quantizer = _quantizer(one, path.name)
            for site in _sites(one):
                if site in sites:
                    raise ValueError(f"{site} stands twice")
                sites[site] = number
            groups[number] = quantizer
    _refuse_unknown(sites, graph, path)
    return Plan(groups, sites, floats, scaling="")


def _quantizer(one: Any, source: str) -> Quantizer:
    role = ROLES.get(one["kind"]) if isinstance(one["kind"], str) else None
    if role is None:
        raise ValueError(f"kind {one['kind']!r:.40} is none of {', '.join(ROLES)}")
    low, signed = r.whole(one["low"], "low"), r.truth(one["signed"], "signed")
    bits = r.whole(one["bits"], "bits", 1, 32)
    grid = IntGrid(bits, signed, narrow=signed and bits > 1 and low == 1 - (1 << (bits - 1)))
    if (grid.low, grid.high) != (low, r.whole(one["high"], "high")):
        raise ValueError(f"codes {low}..{one['high']} are not those of {bits} bits")
    tiles = [(r.whole(axis, "axis", 0, 63), r.whole(run, "run", 1)) for axis, run in r.listed(one, "tiles")]
    power = ScaleRule.POWER_OF_TWO if r.truth(one["power_of_two"], "power_of_two") else ScaleRule.FREE
    kind = ZeroRule.NONE if r.truth(one["symmetric"], "symmetric") else ZeroRule.FREE
    scheme = Scheme(grid, Tiling(tuple(tiles)), power, kind)
    shape = [r.whole(d, "shape", 1) for d in r.listed(one, "shape")]
    scale = np.array([r.scale(s) for s in r.listed(one, "scale")], np.float32).reshape(shape)
    limits = min(grid.low, 0), max(grid.high, 0)
    zeros = [r.whole(z, "zero_point", *limits) for z in r.listed(one, "zero_point")]
    params = QParams(scheme, scale, np.array(zeros, np.int32).reshape(shape))
    reason = f"'{source}': '{r.text(one['name'], 'name')}'"
    return Quantizer(scheme, reason, role, None if role == "bias" and power is ScaleRule.FREE else params)


def _sites(one: Any) -> list[Site]:
    name, readers = r.text(one["name"], "name"), r.listed(one, "readers")
    if not readers:
        return [Site(name)]
    return [Site(name, r.text(node, "reader"), r.whole(port, "input", 0, 2**16)) for node, port in readers]


def _refuse_unknown(sites: dict[Site, int], model: ir.Model, path: Path) -> None:
    graph = model.graph
    values = {v.name for node in graph for v in node.outputs} | {v.name for v in graph.inputs} | set(graph.initializers)
    nodes = {node.name for node in graph}
    unknown = [str(s) for s in sorted(sites) if s.value not in values or (s.consumer and s.consumer not in nodes)]
    if unknown:
        shown = ", ".join(f"'{site}'" for site in unknown[:5])
        raise UnsupportedModel(
            f"'{path.name}' names {counted(len(unknown), 'place')} that the model lacks: {shown}. Give the float model "
            "that was written beside it."
        )
