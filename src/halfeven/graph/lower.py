"""From a graph with QuantizeLinear (Q) and DequantizeLinear (DQ) to operators on codes: `halfeven.graph.network`.

Integer operators of the file (QLinearConv, QGemm, ...) become the same operators as their QDQ forms: `graph.unfold`.

    x -> Q -> q -> DQ -> Conv -> Relu -> Q -> r -> DQ -> ...     becomes     Q: x -> q;  Conv, clamp (0, inf): q -> r

    DQ            vanishes: what reads its output reads the codes. It stays, too, where real numbers are asked for: at
                  an output of the graph, and for what the body of an If or Loop reads from outside
    Q             goes into the operator whose output it alone reads, over Relu and Clip with constant bounds between
                  them, if that operator reads codes; of several outputs all must end so. Else it stays as a border
    Q behind DQ   nothing if the parameters are the same, else `Requantize`, from codes to codes
    codes moved   by an operator between Q and DQ, or reading integer constants (a lookup in a table of codes): codes
                  with the parameters that the DQ behind it names

Q and DQ with computed or half-precision scales, or codes that are no integers, are operators like any other.
"""

from dataclasses import dataclass, field, replace

import onnx_ir as ir

from halfeven.graph import edit, ops
from halfeven.graph.clamps import clamp_bounds
from halfeven.graph.network import Network, Op, Tensor
from halfeven.graph.pairs import DEQUANTIZE, GRIDS, QUANTIZE, TYPES, dtype_of, is_border, params_at, same, shape_of
from halfeven.graph.unfold import unfolded
from halfeven.numerics.scheme import QParams

ACTIVATIONS = ("Relu", "Clip")
REQUANTIZE = "Requantize"
Clamp = tuple[float, float] | None


def lower(model: ir.Model) -> Network:
    """The network of a QDQ or QOperator model, whose nodes are in order of computation and whose values have names.

    Raises:
        UnsupportedModel: a scale or zero point makes no sense.
    """
    return _Lowering(*unfolded(model)).network()


@dataclass(frozen=True)
class _Tail:
    """The QuantizeLinear that an operator's output ends in, and the clamps on the way."""

    quantize: ir.Node
    clamps: tuple[ir.Node, ...]
    bounds: Clamp


@dataclass
class _Lowering:
    """Walks one graph. `codes`: of a DequantizeLinear's output, the codes it would make real.

    `explicit`: the nodes that stand for integer operators of the file.
    """

    model: ir.Model
    explicit: frozenset[ir.Node] = frozenset()
    ops: list[Op] = field(default_factory=list)
    tensors: dict[ir.Value, Tensor] = field(default_factory=dict)
    codes: dict[ir.Value, Tensor] = field(default_factory=dict)
    done: set[ir.Node] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def network(self) -> Network:
        graph = self.model.graph
        self.names = edit.value_names(self.model)
        inputs = tuple(self.tensor(v) for v in graph.inputs if v.const_value is None)
        for node in graph:
            if node in self.done:
                continue
            params = params_at(node) if is_border(node, QUANTIZE) or is_border(node, DEQUANTIZE) else None
            if params is None:
                self.operator(node)
            elif node.op_type == QUANTIZE:
                self.quantize(node, params)
            else:
                self.dequantize(node, params)
        outputs = tuple(self.tensor(v) for v in graph.outputs)
        return Network(tuple(self.ops), inputs, outputs, self.model.opset_imports.get("", 1))

    # ------------------------------------------------------------------------------------------- values

    def tensor(self, value: ir.Value) -> Tensor:
        """A value as it is: constants and real numbers; codes where a DequantizeLinear says what they mean."""
        if value not in self.tensors:
            constant = ops.constant_of(value)
            params = None if constant is not None else self._meaning(value)
            self.tensors[value] = Tensor(value.name or "", _dtype(value, params), shape_of(value), params, constant)
        return self.tensors[value]

    def operand(self, value: ir.Value | None) -> Tensor | None:
        """What an operator reads: the codes of what was made real for it."""
        return None if value is None else self.codes.get(value) or self.tensor(value)

    def _meaning(self, value: ir.Value) -> QParams | None:
        """The parameters by which DequantizeLinear nodes read an integer value, if they agree."""
        if dtype_of(value) not in (None, *GRIDS):
            return None
        readers = [use.node for use in value.uses() if use.idx == 0 and is_border(use.node, DEQUANTIZE)]
        found = [p for node in readers if (p := params_at(node)) is not None]
        return found[0] if found and all(same(found[0], p) for p in found) else None

    # ------------------------------------------------------------------------------------------- borders

    def quantize(self, node: ir.Node, params: QParams) -> None:
        value, out = node.inputs[0], node.outputs[0]
        assert value is not None
        source = self.codes.get(value)
        if source is not None and source.params is not None and same(source.params, params):
            self.tensors[out] = source
            return
        made = self._coded(out, params)
        kind = QUANTIZE if source is None else REQUANTIZE
        self.ops.append(Op(kind, _name(node), (source or self.tensor(value),), (made,), node=node))

    def dequantize(self, node: ir.Node, params: QParams) -> None:
        value, out = node.inputs[0], node.outputs[0]
        assert value is not None
        source = self.tensor(value)
        if source.constant is not None and source.params is None:
            source = self._constant(value, params)
        if source.params is None or not same(source.params, params):
            self.operator(node)  # codes that others read in another way
            return
        self.codes[out] = source
        outside = any(use.node.graph is not self.model.graph for use in out.uses())
        if out.is_graph_output() or outside:
            self.ops.append(Op(DEQUANTIZE, _name(node), (source,), (self.tensor(out),), node=node))

    def _constant(self, value: ir.Value, params: QParams) -> Tensor:
        """An integer constant with its parameters; under a name of its own if it is read in several ways."""
        known = [t for v, t in self.codes.items() if t.constant is value.const_value and t.params is not None]
        for tensor in known:
            if tensor.params is not None and same(tensor.params, params):
                return tensor
        name = edit.unused(value.name or "", self.names) if known else value.name or ""
        return replace(self.tensor(value), name=name, params=params)

    def _coded(self, value: ir.Value, params: QParams) -> Tensor:
        """The codes that a QuantizeLinear makes."""
        node = value.producer()
        assert node is not None
        real = node.inputs[0]
        shape = shape_of(real) if value.shape is None and real is not None else shape_of(value)
        self.tensors[value] = Tensor(value.name or "", _dtype(value, params), shape, params)
        return self.tensors[value]

    # ----------------------------------------------------------------------------------------- operators

    def operator(self, node: ir.Node) -> None:
        operands = [self.operand(v) for v in node.inputs]
        tails = [None if _dropped(v) else self._tail(v) for v in node.outputs]
        used = [tail for tail, v in zip(tails, node.outputs, strict=True) if not _dropped(v)]
        fused = any(t is not None and t.coded for t in operands) and used and None not in used
        clamp: Clamp = None
        outputs = []
        for value, tail in zip(node.outputs, tails, strict=True):
            if not fused or tail is None or (tail.clamps and len(used) > 1):
                outputs.append(self.tensor(value))
                continue
            params = params_at(tail.quantize)
            assert params is not None
            outputs.append(self._coded(tail.quantize.outputs[0], params))
            self.done.update((*tail.clamps, tail.quantize))
            clamp = tail.bounds
        operands = [self._moved(node, t, outputs[0]) for t in self._as_read(node, operands, outputs)]
        attributes = {k: a.value for k, a in node.attributes.items() if not a.is_ref()}
        explicit = node in self.explicit
        self.ops.append(
            Op(
                node.op_type,
                _name(node),
                tuple(operands),
                tuple(outputs),
                attributes,
                clamp,
                node.domain,
                node,
                explicit,
            )
        )

    def _as_read(self, node: ir.Node, operands: list[Tensor | None], outputs: list[Tensor]) -> list[Tensor | None]:
        """Codes that no DequantizeLinear makes real as plain integers, where the operator does not just move them."""
        moves = any(t.coded for t in outputs) and not node.domain and node.op_type not in ops.QUANTIZED_OPS
        found: list[Tensor | None] = []
        for value, tensor in zip(node.inputs, operands, strict=True):
            raw = tensor is not None and tensor.coded and value not in self.codes and tensor.constant is None
            found.append(replace(tensor, params=None) if tensor is not None and raw and not moves else tensor)
        return found

    def _moved(self, node: ir.Node, operand: Tensor | None, output: Tensor) -> Tensor | None:
        """A constant of codes with the meaning that the output has, where the operator only moves them."""
        plain = operand is not None and operand.constant is not None and operand.params is None
        if not (plain and output.params is not None and output.params.scale.size == 1):
            return operand
        assert operand is not None
        raw = operand.dtype == output.dtype and operand.dtype in GRIDS and operand.name == _input_name(node)
        return replace(operand, params=output.params) if raw else operand

    def _tail(self, value: ir.Value) -> _Tail | None:
        """The QuantizeLinear that alone reads a value, over the clamps in between."""
        clamps: list[ir.Node] = []
        low, high = float("-inf"), float("inf")
        while True:
            uses = list(value.uses())
            if value.is_graph_output() or len(uses) != 1 or uses[0].idx or uses[0].node.graph is not self.model.graph:
                return None
            node = uses[0].node
            if (node in self.explicit) != (value.producer() in self.explicit):
                return None
            if is_border(node, QUANTIZE):
                bounds = (low, high) if clamps else None
                return None if params_at(node) is None else _Tail(node, tuple(clamps), bounds)
            if node.op_type not in ACTIVATIONS or node.domain:
                return None
            least, most = clamp_bounds(node)
            if not least <= most:  # not constant
                return None
            low, high = min(max(low, least), most), max(min(high, most), least)
            clamps.append(node)
            value = node.outputs[0]


def _dropped(value: ir.Value) -> bool:
    return not value.name or not (value.uses() or value.is_graph_output())


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or ""


def _input_name(node: ir.Node) -> str:
    return (node.inputs[0].name or "") if node.inputs[0] is not None else ""


def _dtype(value: ir.Value, params: QParams | None) -> ir.DataType:
    return dtype_of(value) or (ir.DataType.UNDEFINED if params is None else TYPES[params.scheme.grid])
