"""Integer operators of a file (QOperator), each unfolded to DequantizeLinear (DQ) -> operator -> QuantizeLinear (Q).

    QLinearConv, QLinearMatMul                                ONNX            Conv, MatMul
    QGemm, MatMulIntegerToFloat                               com.microsoft   Gemm, MatMul; real without an output scale
    QLinearAdd, QLinearMul, QLinearConcat                     com.microsoft   Add, Mul, Concat
    QLinearAveragePool, QLinearGlobalAveragePool              com.microsoft   AveragePool, GlobalAveragePool
    QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax          com.microsoft   Sigmoid, LeakyRelu, Softmax
    Reshape, MaxPool, ... on codes                            ONNX            the same, between DQ and Q of one scale
    Max, Min, Clip on codes with constant bounds              ONNX            Relu, Clip of the bounds' real numbers

Values of codes and nodes keep their names. Each operator has DQs of its own, so what was written as one operator on
codes can be told from what a runtime may or may not fuse. An operator of another form (computed or half-precision
scales, a scale for each row, channels last, parameters other than its operand was made with) stays as it is.

Source: ONNX operators QLinearConv, QLinearMatMul; ONNX Runtime, docs/ContribOperators.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from halfeven.graph import edit, ops
from halfeven.graph.code_meanings import BYTES, CLAMPS, Meaning, bounds, carry, meaning_of, moved, stated_by
from halfeven.graph.pairs import DEQUANTIZE, QUANTIZE, dtype_of, shape_of

CONTRIB = "com.microsoft"
Ports = tuple[int, int, int]


@dataclass(frozen=True)
class Form:
    """Where an integer operator has what.

    Ports of codes, scale and zero point of each operand; of the output's scale, behind which is its zero point; of the
    int32 bias. `alone`: attributes that the real operator has not.
    """

    kind: str
    operands: tuple[Ports, ...] = ((0, 1, 2), (3, 4, 5))
    output: int | None = 6
    bias: int | None = None
    alone: tuple[str, ...] = ()


ONE = ((0, 1, 2),)
FORMS: dict[tuple[str, str], Form] = {
    ("", "QLinearConv"): Form("Conv", bias=8),
    ("", "QLinearMatMul"): Form("MatMul"),
    (CONTRIB, "MatMulIntegerToFloat"): Form("MatMul", ((0, 2, 4), (1, 3, 5)), None),
    (CONTRIB, "QGemm"): Form("Gemm", output=7, bias=6),
    (CONTRIB, "QLinearAdd"): Form("Add"),
    (CONTRIB, "QLinearMul"): Form("Mul"),
    (CONTRIB, "QLinearConcat"): Form("Concat", (), 0),
    (CONTRIB, "QLinearAveragePool"): Form("AveragePool", ONE, 3, alone=("channels_last",)),
    (CONTRIB, "QLinearGlobalAveragePool"): Form("GlobalAveragePool", ONE, 3, alone=("channels_last",)),
    (CONTRIB, "QLinearSigmoid"): Form("Sigmoid", ONE, 3),
    (CONTRIB, "QLinearLeakyRelu"): Form("LeakyRelu", ONE, 3),
    (CONTRIB, "QLinearSoftmax"): Form("Softmax", ONE, 3, alone=("opset",)),
}
"""By domain and name."""


def on_codes(node: ir.Node) -> bool:
    """Whether a node is one of the integer operators."""
    return (node.domain, node.op_type) in FORMS


def unfolded(model: ir.Model) -> tuple[ir.Model, frozenset[ir.Node]]:
    """The model, or a clone whose integer operators are unfolded, and the nodes that stand for them."""
    if not any(on_codes(node) or node.op_type in CLAMPS for node in model.graph):
        return model, frozenset()
    if not _Unfolding(model).candidates():
        return model, frozenset()
    work = _Unfolding(model.clone())
    work.unfold()
    return work.model, frozenset(work.made)


def unfold(model: ir.Model) -> bool:
    """The same in place; whether there was one."""
    work = _Unfolding(model)
    work.unfold()
    return bool(work.made)


@dataclass
class _Operator:
    """An integer operator whose numbers are known: operands with their meanings, None for the bias left out."""

    form: Form
    operands: list[tuple[ir.Value, Meaning]]
    bias: ir.Value | None
    output: Meaning | None


@dataclass
class _Unfolding:
    """One graph. `known`: what its values mean."""

    model: ir.Model
    made: list[ir.Node] = field(default_factory=list)
    known: dict[ir.Value, Meaning] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.names = edit.value_names(self.model)

    def candidates(self) -> bool:
        """Whether there is an integer operator, or a clamp on codes."""
        graph = self.model.graph
        if any(on_codes(node) for node in graph):
            return True
        self._learn()
        return any(node.op_type in CLAMPS and set(moved(node)) & set(self.known) for node in graph)

    def unfold(self) -> None:
        """All of them, in place."""
        if not self.candidates():
            return
        self._learn()
        for node in list(self.model.graph):
            if (found := self._operator(node)) is not None and self._agree(found):
                self._write(node, found)
            elif (codes := moved(node)) and all(value in self.known for value in codes):
                meaning = self.known[codes[0]]
                if all(self.known[value].numbers == meaning.numbers for value in codes):
                    self._move(node, meaning)
        edit.drop_unread(self.model.graph)

    def _learn(self) -> None:
        """What makers state counts before what readers state."""
        graph = self.model.graph
        stated = [(node, found) for node in graph if (found := stated_by(node)) is not None]
        self.known.update({v: m for node, (v, m) in stated if node.op_type == QUANTIZE})
        operators = [(node, op) for node in graph if (op := self._operator(node)) is not None]
        self.known.update({node.outputs[0]: o.output for node, o in operators if o.output is not None})
        carry(graph, self.known)
        read = [pair for node, pair in stated if node.op_type == DEQUANTIZE]
        read += [(v, m) for _, o in operators for v, m in o.operands if m.single]
        for value, meaning in read:
            if ops.constant_of(value) is None:
                self.known.setdefault(value, meaning)
        carry(graph, self.known)

    def _agree(self, op: _Operator) -> bool:
        """Whether what is computed is read as it was made."""
        computed = [(v, m) for v, m in op.operands if ops.constant_of(v) is None]
        return all(m.single and v in self.known and self.known[v].numbers == m.numbers for v, m in computed)

    # ------------------------------------------------------------------------------------------ reading

    def _operator(self, node: ir.Node) -> _Operator | None:
        """What an integer operator says; None for others, and for one that says it in another way."""
        form = FORMS.get((node.domain, node.op_type))
        if form is None or int(ops.attribute(node, "channels_last", 0)) or not _plain(node, form):
            return None
        triples = form.operands or [(i, i + 1, i + 2) for i in range(2, len(node.inputs) - 2, 3)]
        operands: list[tuple[ir.Value, Meaning]] = []
        for index, (codes, scale, zero) in enumerate(triples):
            value = _at(node, codes)
            axis = _axis(node, form, value) if index == 1 else None
            meaning = self._meaning(node, value, _at(node, scale), _at(node, zero), axis)
            if value is None or meaning is None:
                return None
            operands.append((value, meaning))
        output = None
        if form.output is not None and _at(node, form.output) is not None:
            output = meaning_of(_at(node, form.output), _at(node, form.output + 1))
            if output is None:
                return None
        elif form.kind not in ("MatMul", "Gemm"):
            return None
        bias = None if form.bias is None else _at(node, form.bias)
        if bias is not None and operands[1][1].axis is not None:
            scales, shape = ops.constant_of(operands[1][1].scale), shape_of(bias)
            if scales is None or not shape or shape[-1] != scales.size:
                return None
        return _Operator(form, operands, bias, output)

    def _meaning(
        self, node: ir.Node, codes: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None, axis: int | None
    ) -> Meaning | None:
        """Of an operand; a zero point that is left out, or stands for several scales, gets a constant of its own."""
        held, kind = ops.constant_of(scale), None if codes is None else dtype_of(codes)
        given = ops.constant_of(zero)
        kind = given.dtype if given is not None else kind
        if scale is None or held is None or held.dtype != ir.DataType.FLOAT or kind not in BYTES or kind is None:
            return None
        if (zero is not None and given is None) or (held.size > 1 and (axis is None or len(held.shape) != 1)):
            return None
        single = held.size == 1
        if given is None or (given.size != held.size and given.size == 1):
            one = 0 if given is None else int(given.numpy().ravel()[0])
            array = np.full(held.shape.numpy(), one, kind.numpy())
            zero = ir.Value(name=f"{node.name}_zero_point", const_value=ir.tensor(array, dtype=kind))
        elif given.size != held.size:
            return None
        assert zero is not None
        return Meaning(scale, zero, None if single else axis)

    # ------------------------------------------------------------------------------------------ writing

    def _write(self, node: ir.Node, op: _Operator) -> None:
        """The operator on real numbers in the place of the one on codes."""
        inputs: list[ir.Value | None] = [self._real(node, value, meaning) for value, meaning in op.operands]
        if op.bias is not None:
            inputs.append(self._real(node, op.bias, self._product(node, op)))
        kept = [a for name, a in node.attributes.items() if name not in op.form.alone]
        self._put(node, op.form.kind, inputs, kept, op.output)

    def _move(self, node: ir.Node, meaning: Meaning) -> None:
        """What moves codes, or clamps them."""
        value = node.inputs[0]
        assert value is not None
        if node.op_type in CLAMPS:
            low, high = bounds(node) or (None, None)
            zero = meaning.numbers[1]
            ends = [None if code is None else self._number(node, code, meaning) for code in (low, high)]
            relu = low == zero and high is None
            inputs = [self._real(node, value, meaning), *([] if relu else ends)]
            self._put(node, "Relu" if relu else "Clip", inputs, (), meaning)
        elif node.op_type == "Concat":
            reals = [self._real(node, v, meaning) for v in node.inputs if v is not None]
            self._put(node, "Concat", reals, list(node.attributes.values()), meaning)
        else:
            reals = [self._real(node, value, meaning)]
            self._put(node, node.op_type, [*reals, *node.inputs[1:]], list(node.attributes.values()), meaning)

    def _put(
        self,
        node: ir.Node,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Iterable[ir.Attr],
        output: Meaning | None,
    ) -> None:
        outputs = len(node.outputs) if kind == "Split" else 1
        real = ir.Node("", kind, inputs, list(attributes), num_outputs=outputs, name=node.name)
        made = [real]
        node.append(real)
        for old, new in zip(node.outputs, real.outputs, strict=False):
            if not old.uses() and not old.is_graph_output():
                new.name = ""
                continue
            new.type, new.shape = ir.TensorType(ir.DataType.FLOAT), old.shape
            if output is None:
                edit.take_over(old, new)
                continue
            new.name = edit.unused(f"{old.name}_real", self.names)
            quantize = ir.Node("", QUANTIZE, [new, *self._held(output)], num_outputs=1, name=f"{old.name}_Quantize")
            made[-1].append(quantize)
            made.append(quantize)
            codes = quantize.outputs[0]
            edit.take_over(old, codes)
            codes.type = ir.TensorType(output.dtype)
            self.known[codes] = output
        self.made += made
        edit.remove(node)

    def _real(self, node: ir.Node, value: ir.Value, meaning: Meaning) -> ir.Value:
        """The output of a DequantizeLinear before `node`."""
        attributes = [] if meaning.axis is None else [ir.AttrInt64("axis", meaning.axis)]
        name = edit.unused(f"{value.name}_dequantized", self.names)
        made = ir.Node(
            "", DEQUANTIZE, [value, *self._held(meaning)], attributes, num_outputs=1, name=f"{name}_{DEQUANTIZE}"
        )
        out = made.outputs[0]
        shape = shape_of(value)
        out.name, out.type = name, ir.TensorType(ir.DataType.FLOAT)
        out.shape = None if shape is None else ir.Shape(shape)
        node.prepend(made)
        self.made.append(made)
        return out

    def _held(self, meaning: Meaning) -> list[ir.Value]:
        """Scale and zero point, those made here as initializers."""
        for value in (meaning.scale, meaning.zero):
            if value.const_value is not None and not value.is_initializer():
                value.name = edit.unused(value.name or "zero_point", self.names)
                value.const_value.name = value.name
                value.shape, value.type = (
                    ir.Shape(value.const_value.shape.numpy()),
                    ir.TensorType(ir.DataType(value.const_value.dtype)),
                )
                self.model.graph.register_initializer(value)
        return [meaning.scale, meaning.zero]

    def _product(self, node: ir.Node, op: _Operator) -> Meaning:
        """What an int32 bias means: codes of the scale at which products are summed."""
        scales = [ops.constant_of(meaning.scale) for _, meaning in op.operands]
        assert scales[0] is not None
        assert scales[1] is not None
        alpha = np.float32(ops.attribute(node, "alpha", 1.0)) if op.form.kind == "Gemm" else np.float32(1)
        product = np.asarray(alpha * scales[0].numpy().reshape(()) * scales[1].numpy(), np.float32)
        several = op.operands[1][1].axis is not None
        product = product.reshape(-1) if several else product.reshape(())
        zeros = np.zeros(product.shape, np.int32)
        held = [
            ir.Value(name=f"{node.name}_bias_{what}", const_value=ir.tensor(array))
            for what, array in (("scale", product), ("zero_point", zeros))
        ]
        shape = None if op.bias is None else shape_of(op.bias)
        return Meaning(held[0], held[1], len(shape or (0,)) - 1 if several else None)

    def _number(self, node: ir.Node, code: int, meaning: Meaning) -> ir.Value:
        """The real number of a code, as an initializer."""
        scale, zero, _ = meaning.numbers
        name = edit.unused(f"{node.name}_bound", self.names)
        real = np.float32(code - zero) * np.float32(scale)
        return edit.add_initializer(self.model.graph, name, ir.tensor(np.asarray(real, np.float32), name=name))


def _at(node: ir.Node, port: int) -> ir.Value | None:
    return node.inputs[port] if port < len(node.inputs) else None


def _plain(node: ir.Node, form: Form) -> bool:
    """Whether the real operator can say the same."""
    if node.op_type == "MatMulIntegerToFloat":
        return _at(node, 6) is None
    if form.kind == "Softmax":
        assert node.graph is not None
        return min(int(ops.attribute(node, "opset", 0)), node.graph.opset_imports.get("", 13)) >= 13
    return True


def _axis(node: ir.Node, form: Form, weights: ir.Value | None) -> int | None:
    """The axis along which weights may have a scale for each output; None: they have one."""
    shape = None if weights is None or ops.constant_of(weights) is None else shape_of(weights)
    if shape is None:
        return None
    if form.kind == "Conv":
        return 0
    if form.kind not in ("MatMul", "Gemm") or len(shape) != 2:
        return None
    return 0 if form.kind == "Gemm" and int(ops.attribute(node, "transB", 0)) else 1
