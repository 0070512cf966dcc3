"""Where codes go in and come out of a float operator in a QDQ graph.

Coded   a value's codes, scale and zero point, and the QuantizeLinear or DequantizeLinear that states them
Fold    an operator, with what is known of its inputs and outputs, and the operators on codes made for it
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.clamps import clamp_bounds
from halfeven.graph.edit import add_initializer, unused
from halfeven.numerics.grid import INT8, UINT8
from halfeven.numerics.quantize import quantize
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule

BYTES = frozenset({ir.DataType.UINT8, ir.DataType.INT8})
CLAMPS = frozenset({"Relu", "Clip"})
SIMPLE = frozenset({"axis", "saturate"})  # attributes of Q and DQ under which a code is (real / scale) + zero point


@dataclass(frozen=True, eq=False)
class Coded:
    """Codes with constant parameters. `axis` is None where there is one scale."""

    codes: ir.Value
    scale: ir.Value
    zero: ir.Value
    axis: int | None
    node: ir.Node

    @property
    def dtype(self) -> ir.DataType | None:
        """Of the codes."""
        return self.zero.dtype

    @property
    def parameters(self) -> tuple[bytes, bytes, ir.DataType | None]:
        """Equal for operands whose codes mean the same."""
        scale, zero = self.arrays
        return scale.tobytes(), zero.tobytes(), self.dtype

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point."""
        scale, zero = self.scale.const_value, self.zero.const_value
        assert scale is not None
        assert zero is not None
        return scale.numpy(), zero.numpy()

    def code_of(self, real: float) -> np.ndarray:
        """The code of a real number, a scalar of the codes' dtype; only of one scale and 8 bits."""
        scale, zero = self.arrays
        grid = UINT8 if self.dtype == ir.DataType.UINT8 else INT8
        params = QParams(Scheme(grid, zero_point=ZeroRule.FREE), scale.reshape(()), zero.reshape(()).astype(np.int32))
        return np.asarray(quantize(np.array(real, np.float32), params))


@dataclass(eq=False)
class Fold:
    """One operator of the QDQ graph on its way to operators on codes.

    `inputs` are by port, None for what is no code; `outputs` are those of the last of `clamps`, or of the node.
    """

    node: ir.Node
    inputs: Sequence[Coded | None]
    outputs: Sequence[Coded | None]
    clamps: list[ir.Node]
    names: set[str]
    made: list[ir.Node] = field(default_factory=list)
    replaced: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)

    def add(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr] | None = None,
        domain: str = "",
        outputs: int = 1,
    ) -> ir.Node:
        """A node behind those made before; attributes by default those of the folded one."""
        kept = list(self.node.attributes.values()) if attributes is None else attributes
        name = (self.node.name or op) if not self.made else f"{self.node.name}_{op}"
        made = ir.Node(domain, op, inputs, kept, num_outputs=outputs, name=name)
        for value in made.outputs:
            value.name = unused(f"{self.node.name}_{op}_codes", self.names)
        self.made.append(made)
        return made

    def finish(self, values: Sequence[ir.Value]) -> bool:
        """Codes `values` stand for the outputs' codes, behind the clamps; True."""
        for value, found in zip(values, self.outputs, strict=True):
            assert found is not None
            last = value
            for clamp in self.clamps:
                last = self.clamp(last, clamp, found)
            self.replaced.append((found.codes, last))
        return True

    def finish_real(self, value: ir.Value) -> bool:
        """`value`, real numbers, stands for the node's output; True."""
        self.replaced.append((self.node.outputs[0], value))
        return True

    def clamp(self, codes: ir.Value, clamp: ir.Node, of: Coded) -> ir.Value:
        """Relu or Clip, on codes."""
        low, high = clamp_bounds(clamp)
        bottom = self.constant(f"{clamp.name}_low", of.code_of(low)) if np.isfinite(low) else None
        if not np.isfinite(high):
            return codes if bottom is None else self.add("Max", [codes, bottom], []).outputs[0]
        top = self.constant(f"{clamp.name}_high", of.code_of(high))
        return self.add("Clip", [codes, bottom, top], []).outputs[0]

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer."""
        free = unused(name, self.names)
        assert isinstance(self.node.graph, ir.Graph)
        return add_initializer(self.node.graph, free, ir.tensor(array, name=free))


def coded_input(node: ir.Node, port: int) -> Coded | None:
    """The codes of what `node` reads at `port`; None where it reads no DequantizeLinear with constant parameters."""
    value = node.inputs[port]
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or maker.domain != "":
        return None
    return _coded(maker, maker.inputs[0])


def coded_output(value: ir.Value) -> Coded | None:
    """The codes that a value becomes; None unless one QuantizeLinear is all that reads it."""
    uses = list(value.uses())
    if value.is_graph_output() or len(uses) != 1:
        return None
    reader, port = uses[0].node, uses[0].idx
    if reader.op_type != "QuantizeLinear" or reader.domain != "" or port != 0:
        return None
    return _coded(reader, reader.outputs[0])


def _coded(node: ir.Node, codes: ir.Value | None) -> Coded | None:
    scale, zero = (node.inputs[port] if port < len(node.inputs) else None for port in (1, 2))
    a, b = ops.constant_of(scale), ops.constant_of(zero)
    if codes is None or scale is None or zero is None or a is None or b is None:
        return None
    if a.dtype != ir.DataType.FLOAT or not set(node.attributes) <= SIMPLE or b.size != a.size or len(a.shape) > 1:
        return None
    axis = None if a.size == 1 and not a.shape.numpy() else int(ops.attribute(node, "axis", 1))
    return Coded(codes, scale, zero, axis, node)


def clamps_behind(node: ir.Node) -> list[ir.Node]:
    """The Relus and Clips with constant bounds that follow a node, each the only reader of what it clamps."""
    found: list[ir.Node] = []
    value = node.outputs[0]
    while True:
        uses = list(value.uses())
        if value.is_graph_output() or len(uses) != 1 or uses[0].idx != 0 or uses[0].node.op_type not in CLAMPS:
            return found
        clamp = uses[0].node
        if np.isnan(clamp_bounds(clamp)).any() or clamp_bounds(clamp)[0] > clamp_bounds(clamp)[1]:
            return found
        found.append(clamp)
        value = clamp.outputs[0]
