"""ONNX with integer operators (QOperator): the QDQ graph, each DQ -> operator -> Q folded into one operator on codes.

    DQ, DQ, DQ -> Conv -> Q            QLinearConv                       ONNX
    DQ, DQ     -> MatMul -> Q          QLinearMatMul                     ONNX
    DQ, DQ     -> MatMul               MatMulIntegerToFloat              com.microsoft
    DQ, DQ, DQ -> Gemm (-> Q)          QGemm                             com.microsoft
    DQ, DQ     -> Add, Mul -> Q        QLinearAdd, QLinearMul            com.microsoft
    DQ         -> pooling, Sigmoid, LeakyRelu, Softmax -> Q
                                       QLinearAveragePool and its kin    com.microsoft
    DQs        -> Concat -> Q          QLinearConcat, or Concat on codes where all have one scale
    DQ         -> Reshape, MaxPool, ... -> Q of the same scale           the operator itself, on codes
    DQ         -> Relu -> Q            Max(codes, zero point)
    DQ         -> Clip -> Q            Clip(codes, code of the lower bound, code of the upper bound)
    layer      -> Relu, Clip -> Q      the integer layer, then Max or Clip on its codes

What has no such form stays in float between DequantizeLinear and QuantizeLinear, as in the QDQ graph. ONNX Runtime
folds the QDQ graph in the same way when it loads it, into the same kernels, so both files give the same integers there;
the last row excepted, which the runtime computes in real numbers: rarely, a code differs by one.

Quantizing is monotone, so quantize(clip(v, a, b)) = clip(quantize(v), quantize(a), quantize(b)): a clamp may follow the
rounding. Sources: ONNX operators QLinearConv, QLinearMatMul; ONNX Runtime, docs/ContribOperators.md.
"""

from collections import Counter
from pathlib import Path

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.qoperator_forms import CLAMPED, CONTRIB, FORMS, Form
from halfeven.exporters.qoperator_sites import Coded, Fold, clamps_behind, coded_input, coded_output
from halfeven.graph.edit import drop_unread, unused, value_names
from halfeven.graph.saving import save, spare
from halfeven.run.specs import external_files
from halfeven.wording import counted

BORDERS = ("QuantizeLinear", "DequantizeLinear")


def write_qoperator(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write the quantized model with integer operators; notes on what stayed float."""
    spare(path, external_files(draft.model))
    model, notes = to_qoperator(to_qdq(draft))
    save(model, path)
    return notes


def to_qoperator(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """The QDQ `model`, rewritten in place with integer operators, and notes on what stayed float."""
    names, done, left, clamped = value_names(model), 0, Counter[str](), 0
    for node in list(model.graph):
        if node.graph is None or node.op_type in BORDERS:  # the former: a clamp that went with its layer
            continue
        found = _fold(node, names)
        if found is None:
            if any(coded_input(node, port) is not None for port in range(len(node.inputs))):
                left[node.op_type] += 1
            continue
        clamped += len(found.clamps)
        done += 1
        _put(found)
    _sweep(model)
    if any(node.domain == CONTRIB for node in model.graph.all_nodes()):
        model.opset_imports.setdefault(CONTRIB, 1)
    return model, _notes(done, left, clamped)


def _fold(node: ir.Node, names: set[str]) -> Fold | None:
    """The operators on codes that stand for `node`, the clamps behind it, and the QuantizeLinear of each output."""
    form: Form | None = FORMS.get(node.op_type) if node.domain == "" else None
    if form is None:
        return None
    inputs = [coded_input(node, port) for port in range(len(node.inputs))]
    clamps = clamps_behind(node) if node.op_type in CLAMPED else []
    ends = [clamps[-1].outputs[0]] if clamps else [v for v in node.outputs if v.name]
    outputs = [coded_output(value) for value in ends]
    if clamps and outputs[0] is None:
        clamps, outputs = [], [None]
    fold = Fold(node, inputs, outputs, clamps, names)
    return fold if form(fold) else None


def _put(fold: Fold) -> None:
    """Let the new operators stand where the folded ones stood."""
    node = fold.node
    node.append(fold.made)
    for old, new in fold.replaced:
        name, shape, kind = old.name, old.shape, old.type
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = unused(f"{name}_folded", fold.names)
        new.name, new.shape, new.type = name, shape, kind
    graph = node.graph
    assert graph is not None
    quantizers = [c.node for c in fold.outputs if isinstance(c, Coded)]
    for gone in [*quantizers, *reversed(fold.clamps), node]:
        graph.remove(gone, safe=True)


def _sweep(model: ir.Model) -> None:
    """Take out each DequantizeLinear, QuantizeLinear and initializer that nobody reads any more."""
    for node in reversed(list(model.graph)):
        if node.op_type in BORDERS and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            model.graph.remove(node, safe=True)
    drop_unread(model.graph)


def _notes(done: int, left: Counter[str], clamped: int) -> tuple[str, ...]:
    notes = [f"{counted(done, 'operator')} became operators on codes"]
    if left:
        kinds = ", ".join(f"{n} {op}" for op, n in left.most_common())
        notes.append(f"read codes, but compute in float: {kinds}")
    if clamped:
        notes.append(
            f"{counted(clamped, 'clamp')} behind a layer work on codes; the QDQ file computes these layers in float in "
            "ONNX Runtime, so a code may differ by one there"
        )
    return tuple(notes)
