"""Edits that bring the pairs of a QDQ graph into the one form that `halfeven.importers.qdq` reads.

    u -> op -> DQ           becomes   u -> DQ -> op -> Q -> DQ     where op only moves codes; all with one scale
    constant -> op -> DQ    becomes   constant -> DQ -> op
    Q -> DQ -> Relu -> Q    becomes   Relu -> Q                    in files with integer operators; Clip likewise
    Q -> DQ -> Q' -> DQ'    becomes   Q -> DQ                      if both have the same parameters
                            else      Q -> DQ -> Identity -> Q' -> DQ'

Each computes the same integers as before: dequantizing and quantizing again by the same parameters changes no code, and
rounding keeps order, so that a clamp may come before it.
"""

import onnx_ir as ir

from halfeven.graph import edit, ops
from halfeven.graph.pairs import DEQUANTIZE, QUANTIZE, is_border, params_at, same
from halfeven.numerics.scheme import PER_TENSOR, QParams

MOVERS = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Expand", "Tile", "MaxPool"}
    | {"DepthToSpace", "SpaceToDepth"}
)


def pull_up(model: ir.Model, names: set[str]) -> None:
    """Let what moves codes move real numbers instead, in place."""
    changed = True
    while changed:
        changed = False
        for dq in reversed(list(model.graph)):
            params = params_at(dq) if is_border(dq, DEQUANTIZE) else None
            mover = _mover(dq, params) if params is not None else None
            if mover is not None:
                _pull(mover, dq, names)
                changed = True


def _mover(dq: ir.Node, params: QParams) -> ir.Node | None:
    """The operator that moves the codes of a DequantizeLinear, if all that read these have the same one scale."""
    codes = dq.inputs[0]
    node = codes.producer() if codes is not None else None
    if codes is None or node is None or node.op_type not in MOVERS or node.domain or codes.is_graph_output():
        return None
    if params.scheme.tiling != PER_TENSOR or any(v.uses() for v in node.outputs[1:]) or node.graph is not dq.graph:
        return None
    for use in codes.uses():
        if not is_border(use.node, DEQUANTIZE) or (found := params_at(use.node)) is None or not same(found, params):
            return None
    source = node.inputs[0]
    maker = source.producer() if source is not None else None
    known = ops.constant_of(source) is not None or (maker is not None and maker.op_type in {QUANTIZE, *MOVERS})
    return node if known and source is not None else None


def _pull(mover: ir.Node, dq: ir.Node, names: set[str]) -> None:
    """Dequantize before the operator; behind it quantize again, unless it moves a constant."""
    source, codes, real = mover.inputs[0], mover.outputs[0], ir.TensorType(ir.DataType.FLOAT)
    assert source is not None
    before = ir.Node(dq.domain, DEQUANTIZE, [source, *dq.inputs[1:]], num_outputs=1, name=f"{mover.name}_Dequantize")
    before.outputs[0].name = edit.unused(f"{source.name}_dequantized", names)
    before.outputs[0].type, before.outputs[0].shape = real, source.shape
    mover.prepend(before)
    mover.replace_input_with(0, before.outputs[0])
    readers = [use.node for use in codes.uses()]
    kind, codes.type = codes.type, real
    if ops.constant_of(source) is None:
        again = ir.Node(dq.domain, QUANTIZE, [codes, *dq.inputs[1:]], num_outputs=1, name=f"{mover.name}_Quantize")
        again.outputs[0].name = edit.unused(f"{codes.name}_quantized", names)
        again.outputs[0].type, again.outputs[0].shape = kind, codes.shape
        mover.append(again)
        for reader in readers:
            reader.replace_input_with(0, again.outputs[0])
        return
    for reader in readers:
        out = reader.outputs[0]
        if out.is_graph_output() or len(readers) == 1:
            name, codes.name = out.name, None
            out.replace_all_uses_with(codes, replace_graph_outputs=True)
            out.name, codes.name = None, name
        else:
            out.replace_all_uses_with(codes)
        edit.remove(reader)


def clamps_first(model: ir.Model) -> None:
    """Let a Relu or Clip between codes of the same parameters work before the first become codes, in place."""
    for clamp in list(model.graph):
        if clamp.op_type not in ("Relu", "Clip") or clamp.domain or clamp.graph is None or clamp.inputs[0] is None:
            continue
        dq, after = clamp.inputs[0].producer(), [use.node for use in clamp.outputs[0].uses()]
        codes = dq.inputs[0] if dq is not None and is_border(dq, DEQUANTIZE) else None
        q = codes.producer() if codes is not None else None
        if (
            dq is None
            or q is None
            or not is_border(q, QUANTIZE)
            or len(after) != 1
            or not is_border(after[0], QUANTIZE)
        ):
            continue
        chain = [q.outputs[0], dq.outputs[0]]
        found = [params_at(node) for node in (q, dq, after[0])]
        if any(len(v.uses()) != 1 or v.is_graph_output() for v in chain) or None in found:
            continue
        if q.inputs[0] is not None and all(p is not None and found[0] is not None and same(p, found[0]) for p in found):
            clamp.replace_input_with(0, q.inputs[0])
            edit.remove(dq)
            edit.remove(q)


def chains_apart(model: ir.Model, names: set[str]) -> None:
    """Between a DequantizeLinear and a QuantizeLinear of other parameters put Identity; else take the second away."""
    for q in list(model.graph):
        value = q.inputs[0] if is_border(q, QUANTIZE) else None
        maker = value.producer() if value is not None else None
        if value is None or maker is None or not is_border(maker, DEQUANTIZE):
            continue
        before, after = params_at(maker), params_at(q)
        if before is None or after is None:
            continue
        dqs = [use.node for use in q.outputs[0].uses()]
        idle = same(before, after) and not q.outputs[0].is_graph_output()
        if idle and dqs and all(is_border(d, DEQUANTIZE) and not d.outputs[0].is_graph_output() for d in dqs):
            for dq in dqs:
                dq.outputs[0].replace_all_uses_with(value)
                edit.remove(dq)
            edit.remove(q)
            continue
        between = ir.Node("", "Identity", [value], num_outputs=1, name=f"{q.name}_Identity")
        out = between.outputs[0]
        out.name, out.type, out.shape = edit.unused(f"{value.name}_again", names), value.type, value.shape
        q.prepend(between)
        q.replace_input_with(0, out)
