"""PPQ's own JSON, the config of each operator, read (`exporters.tables.ppq_config` describes it).

    in force       the tensor is quantized here: for all readers where it is made, else for those whose configs are
    OVERLAPPED     here as well, if some config of the tensor is in force by the same scales; if none is, the tensor has
                   its dominator's scale, as what only moves numbers hands it on, unless it stands between a layer and
                   the activation that the target fuses into it
    PASSIVE bias   input scale * weight scale, derived anew unless it has fewer bits than PPQ's 30 for such sums

Bounds of a Clip and the like that follow their tensor are left to it. Operators that are dispatched to a float platform
stay float.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph import ops
from halfeven.graph.encodings import Encoding, gathered
from halfeven.graph.plan import Plan
from halfeven.importers.tables import reading as r
from halfeven.importers.tables.placing import needed, plan_from
from halfeven.importers.tables.shaping import shaped
from halfeven.numerics.conventions import Canonical
from halfeven.targets.target import Target

FORCED = ("ACTIVATED", "BAKED", "PASSIVE", "PASSIVE_BAKED")
OVERLAPPED = "OVERLAPPED"
IDLE = ("FP32", "INITIAL", "PASSIVE_INIT", "SOI", "DEQUANTIZED", "DEACTIVED")
FLOAT_PLATFORMS = ("FP32", "FP16", "BF16", "SOI")
LEAST_SUM = (1 << 29) - 1
"""The highest code, at least, of a bias that is added to int32 sums."""
MOST_HASH = 1 << 53


@dataclass(frozen=True)
class _Use:
    """A config: of which tensor, at which operator, and what it says."""

    name: str
    node: str
    codes: tuple[Canonical, ...]
    state: str

    @property
    def forced(self) -> bool:
        """Whether the tensor is quantized here."""
        return self.state != OVERLAPPED


def read_ppq_config(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of PPQ's config.

    Raises:
        BadOption: it is malformed, or there is no model.
        UnsupportedModel: it names what the model lacks, or holds what no plan can: floats of few bits, scales found in
            each run, a tensor quantized in two ways.
    """
    data = r.read_json(path)
    graph = needed(model, f"'{path}'")
    with r.entry(path, "configs"):
        configs, values = r.items(data, "configs"), r.items(data, "values")
        floats = [name for name, platform in r.items(data, "dispatchings").items() if platform in FLOAT_PLATFORMS]
    uses: dict[str, list[_Use]] = {}
    for node in configs:
        with r.entry(path, node):
            if node not in floats:
                for use in _uses(node, r.items(configs, node), values):
                    uses.setdefault(use.name, []).append(use)
    made = {v.name or "": v for n in graph.graph for v in n.outputs}
    inputs = {v.name or "": v for v in graph.graph.inputs}
    entries = []
    for name, found in uses.items():
        with r.entry(path, name):
            value = made.get(name, inputs.get(name))
            if value is None:
                entries += _constant(name, found, graph)
            else:
                entries += _activation(value, found, target)
    nodes = {node.name for node in graph.graph}
    return plan_from(entries, graph, target, f"'{path.name}'", floats=[name for name in floats if name in nodes])


def _uses(node: str, configs: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[_Use]:
    """The configs of an operator that give a scale."""
    for name, one in configs.items():
        state = r.text(one["state"], f"{name}: state")
        if state not in (*FORCED, OVERLAPPED, *IDLE):
            raise ValueError(f"{name}: state {state!r:.40} is none of PPQ's")
        root = str(r.whole(one["dominator"], f"{name}: dominator", 0, MOST_HASH))
        if state in IDLE or (state == OVERLAPPED and root not in values):
            continue
        policy = r.items(one, "policy")
        for flag in ("FLOATING", "DYNAMIC"):
            if r.truth(policy.get(flag, False), flag):
                raise UnsupportedModel(
                    f"'{name}' is {flag} at '{node}'; a plan that is read has integers of fixed scale."
                )
        if root not in values:
            raise ValueError(f"{name}: its dominator {root} has no values")
        yield _Use(name, node, _codes(name, one, r.items(values, root)), state)


def _codes(name: str, one: Any, values: Mapping[str, Any]) -> tuple[Canonical, ...]:
    """The scales of a config, which are its dominator's, with its own codes."""
    scales, zeros = (r.flat(values[key]) for key in ("scale", "zero_point"))
    low, high = r.whole(one["quant_min"], "quant_min"), r.whole(one["quant_max"], "quant_max")
    pairs = zip(scales, zeros, strict=True)
    found = tuple(Canonical(r.scale(s), r.whole(z, f"{name}: zero_point"), low, high) for s, z in pairs)
    if r.truth(one["policy"].get("SYMMETRICAL", False), "SYMMETRICAL") and any(c.zero_point for c in found):
        raise ValueError(f"{name}: a zero point, where its policy is SYMMETRICAL")
    return found


def _constant(name: str, uses: list[_Use], model: ir.Model) -> list[Encoding]:
    """What a weight or operand is quantized by; nothing for what follows from others, or for what the model lacks."""
    forced = _alike([use for use in uses if use.forced])
    if not forced or (forced[0].state.startswith("PASSIVE") and forced[0].codes[0].high >= LEAST_SUM):
        return []
    following = forced[0].state.startswith("PASSIVE") and not _is_bias(name, model)
    return [] if following else [shaped(model, name, forced[0].codes)]


def _activation(value: ir.Value, uses: list[_Use], target: Target) -> list[Encoding]:
    """What an activation is quantized by, and who sees it so."""
    forced, maker = _alike([use for use in uses if use.forced]), value.producer()
    same = [use for use in uses if use.codes == (forced or uses)[0].codes]
    if not forced and (maker is None or len(same) < len(uses) or _inner(value, target)):
        return []
    codes = same[0].codes
    if len(codes) != 1:
        raise ValueError(f"{len(codes)} scales; an activation has one")
    name, seen = value.name or "", {use.node for use in same}
    places = sorted((use.node.name or "", use.idx) for use in value.uses())
    readers = tuple(place for place in places if place[0] in seen)
    everyone = maker is not None and maker.name in seen
    whole = everyone or (maker is None and readers == tuple(places))
    return [Encoding(name, gathered(codes), "activation", () if whole else readers)]


def _alike(uses: list[_Use]) -> list[_Use]:
    """The configs, all with the same scales and codes. Raises UnsupportedModel: they differ."""
    other = next((use for use in uses if use.codes != uses[0].codes), None)
    if other is not None:
        raise UnsupportedModel(
            f"'{other.name}' is quantized in one way at '{uses[0].node}' and in another at '{other.node}'; a table of "
            "names holds one. Quantize it alike in PPQ."
        )
    return uses


def _inner(value: ir.Value, target: Target) -> bool:
    """Whether a value stands between a layer and the activation that the target fuses into it."""
    maker, uses = value.producer(), list(value.uses())
    rule = None if maker is None or maker.domain else target.rule(maker.op_type)
    return rule is not None and len(uses) == 1 and uses[0].node.op_type in rule.fuses


def _is_bias(name: str, model: ir.Model) -> bool:
    return any((bias := ops.bias_of(node)) is not None and bias.name == name for node in model.graph)
