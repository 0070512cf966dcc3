"""PPQ's file for PPL, MNN's parameters, Vitis' fix positions and ncnn's table, read.

    ppq-ppl       codes q_min..q_max, scale and zero_point as they stand
    mnn-params    layers: codes clamp_min..clamp_max of `bits`; a tensor of several layers must be alike in all
    vitis-fix     scale = 2**-fix; an entry without fix position stays float
    ncnn-table    scale = f32(1 / text), codes -127..127; layers by the names of their nodes

The formats are described where they are written: `exporters.tables.ppq`, `vitis`, `exporters.mnn.table`, `ncnn_table`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from halfeven.errors import BadOption, UnsupportedModel
from halfeven.graph import ops
from halfeven.graph.encodings import Encoding
from halfeven.graph.plan import Plan
from halfeven.importers.tables import reading as r
from halfeven.importers.tables.placing import needed, plan_from
from halfeven.importers.tables.shaping import shaped
from halfeven.numerics.conventions import Canonical, to_canonical
from halfeven.targets.target import Target

WEIGHT = "_param_0"


def read_ppl(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of PPQ's file for PPL.

    Raises:
        BadOption: it is malformed, or there is no model.
        UnsupportedModel: it names what the model lacks.
    """
    data = r.read_json(path)
    graph = needed(model, f"'{path}'")
    entries = []
    with r.entry(path, "quant_info"):
        found = r.items(data, "quant_info")
    for name, one in found.items():
        with r.entry(path, name):
            if not r.truth(one.get("quant_flag", True), "quant_flag"):
                continue
            low, high = r.whole(one["q_min"], "q_min"), r.whole(one["q_max"], "q_max")
            pairs = zip(r.flat(one["scale"]), r.flat(one["zero_point"]), strict=True)
            codes = [Canonical(r.scale(s), r.whole(z, "zero_point"), low, high) for s, z in pairs]
            entries.append(shaped(graph, name, codes))
    return plan_from(entries, graph, target, f"'{path.name}'")


def read_mnn(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of MNN's quantization parameters; raises as `read_ppl`."""
    data = r.read_json(path)
    graph = needed(model, f"'{path}'")
    entries: dict[str, Encoding] = {}
    with r.entry(path, "algo"):
        pipeline = data.get("pipeline", data)
        algorithms = [a for a in r.listed(pipeline, "algo") if a.get("type", 0) in (0, "QUANTIZE")]
        layers = [layer for a in algorithms for layer in r.listed(a["quant_params"], "layer")]
    for number, layer in enumerate(layers):
        with r.entry(path, f"layer {number}"):
            for one in (one for kind in ("input", "weight", "output") for one in layer.get(kind, [])):
                _take(entries, _mnn(one, graph))
    return plan_from(entries.values(), graph, target, f"'{path.name}'")


def read_fix_positions(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of Vitis' fix positions; raises as `read_ppl`."""
    data = r.read_json(path)
    graph = needed(model, f"'{path}'")
    entries: dict[str, Encoding] = {}
    for section in ("param", "output", "input"):
        with r.entry(path, section):
            found = r.items(data, section)
        for name, value in found.items():
            with r.entry(path, name):
                pairs = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
                if len(pairs) != 1 or not isinstance(pairs[0], list) or len(pairs[0]) != 2:
                    raise ValueError(f"[[bits, fix]] was expected, found {value!r:.60}")
                if pairs[0][1] is None:
                    continue
                half = 1 << (r.whole(pairs[0][0], "bits", 2, 32) - 1)
                shift = r.whole(pairs[0][1], "fix", -127, 149)
                one = to_canonical("shift", {"shift": shift}, low=-half, high=half - 1)
                _take(entries, shaped(graph, name, [one]))
    return plan_from(entries.values(), graph, target, f"'{path.name}'")


def read_ncnn_table(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of ncnn's table; raises as `read_ppl`."""
    graph = needed(model, f"'{path}'")
    nodes = {node.name or "": node for node in graph.graph}
    entries: dict[str, Encoding] = {}
    unknown = []
    for number, line in enumerate(r.read_text(path).splitlines(), 1):
        with r.entry(path, f"line {number}"):
            name, *texts = line.split() or [""]
            weight = name.endswith(WEIGHT) and name not in nodes
            node = nodes.get(name.removesuffix(WEIGHT) if weight else name)
            if not name:
                continue
            if not texts:
                raise ValueError(f"'NAME scale ...' was expected, found {line!r:.60}")
            if node is None or len(node.inputs) <= weight:
                unknown.append(name)
                continue
            _take(entries, _ncnn(node, int(weight), texts, graph))
    if unknown or not entries:
        named = ", ".join(f"'{name}'" for name in unknown[:5]) or "nothing"
        raise UnsupportedModel(
            f"'{path.name}' names layers that the model lacks: {named}. Give the model it was made for."
        )
    return plan_from(entries.values(), graph, target, f"'{path.name}'")


def _mnn(one: Any, model: ir.Model) -> Encoding:
    bits = r.whole(one.get("bits", 8), "bits", 2, 8)
    half = 1 << (bits - 1)
    low, high = (r.whole(one.get(key, d), key) for key, d in (("clamp_min", -half), ("clamp_max", half - 1)))
    if (low, high) not in ((-half, half - 1), (1 - half, half - 1)):
        raise ValueError(f"codes {low}..{high} are not those of {bits} bits")
    zero = r.whole(one.get("zero_point", 0), "zero_point")
    return shaped(
        model, r.text(one["name"], "name"), [Canonical(r.scale(s), zero, low, high) for s in r.listed(one, "scales")]
    )


def _ncnn(node: ir.Node, port: int, texts: Sequence[str], model: ir.Model) -> Encoding:
    value = node.inputs[port]
    if value is None:
        raise ValueError(f"{node.op_type} '{node.name}' has no input {port}")
    try:
        reciprocals = [float(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"numbers were expected, found {texts!r:.60}") from error
    found = [to_canonical("ncnn", {"scale": r.scale(x)}, low=-127, high=127, lossy=True) for x in reciprocals]
    axis = ops.weight_axis(node, port) if port else None
    if len(found) > 1 and port == 1 and len(set(found)) == 1 and axis is None:
        found = found[:1]
    return shaped(model, value.name or "", found)


def _take(entries: dict[str, Encoding], one: Encoding) -> None:
    """Add an entry; the same tensor again must be alike."""
    before = entries.setdefault(one.name, one)
    if (before.scales, before.zero_points) != (one.scales, one.zero_points):
        raise BadOption(f"'{one.name}' stands twice, with other scales")
