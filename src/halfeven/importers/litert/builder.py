"""Putting an ONNX graph together while a file's operators are gone through, in order.

Each tensor of the file is kept as it comes out of its operator, with channels last or first. Whoever needs the other
order asks for it (`read`), and a Transpose is made once; operators to whom the order is all one take what there is
(`is_first`, `aligned`). So there are Transposes at the borders of a convolutional network and almost none inside.

A tensor of codes (int8, uint8, int16 with a scale) becomes a pair: what computes it gives real numbers `t`, then

    t -> QuantizeLinear -> t_quantized -> DequantizeLinear -> t_dequantized -> readers

with the file's scale and zero point; constants of codes become an initializer and a DequantizeLinear. An input or
output of codes stays one. Where codes are only moved to fit an operator (a Transpose, a Reshape), a pair of the same
parameters follows, which changes nothing and lets a runtime move the codes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.edit import unused
from halfeven.importers.litert.contents import Contents, Operator
from halfeven.importers.litert.layout import placed, to_first, to_last
from halfeven.importers.litert.tensors import BIASES, Tensor, real_numbers

Array = npt.NDArray[np.generic]
Axis = Callable[[int], int]
COPIES = 16
"""How many times a file's bytes its constants may take up once turned for ONNX: tensors may share buffers."""
CLAMPS: Mapping[int, tuple[float, float]] = {2: (-1.0, 1.0), 3: (0.0, 6.0)}


@dataclass(eq=False)
class Held:
    """A tensor in the orders that exist so far."""

    last: ir.Value | None = None
    first: ir.Value | None = None
    came_first: bool = False


@dataclass(eq=False)
class Builder:
    """The graph as far as it has come. `tensors` starts as the file's; an operator may put a constant in its place."""

    contents: Contents
    size: int
    tensors: list[Tensor] = field(init=False)
    names: list[str] = field(init=False)
    inputs: list[ir.Value] = field(default_factory=list)
    nodes: list[ir.Node] = field(default_factory=list)
    initializers: list[ir.Value] = field(default_factory=list)
    held: dict[int, Held] = field(default_factory=dict)
    constants: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    named_once: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    left: int = field(init=False)
    final: frozenset[int] = field(init=False)
    shaped: bool = field(init=False)
    label: str = ""

    def __post_init__(self) -> None:
        self.tensors = list(self.contents.tensors)
        self.names = [self._name(tensor) for tensor in self.tensors]
        self.final = frozenset(self.contents.outputs)
        self.left = COPIES * self.size + (1 << 20)
        self.shaped = all(None not in self.tensors[i].dims for i in self.contents.inputs)

    def _name(self, tensor: Tensor) -> str:
        """Its name; with its number if others have that name, so that many of one name cost no search."""
        return unused(f"{tensor.name}_{tensor.index}" if tensor.name in self.taken else tensor.name, self.taken)

    def named(self, index: int) -> str:
        """The name of a tensor, for the value that is that tensor; another one the second time."""
        if index not in self.named_once:
            self.named_once.add(index)
            self.taken.discard(self.names[index])
        return unused(self.names[index], self.taken)

    # ------------------------------------------------------------------------------------------------- nodes

    def call(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node with one output."""
        return self.call_many(kind, 1, *inputs, **attributes)[0]

    def call_many(self, kind: str, count: int, *inputs: ir.Value | None, **attributes: Any) -> tuple[ir.Value, ...]:
        """A node with `count` outputs; attributes that are None are left out."""
        given = {name: value for name, value in attributes.items() if value is not None}
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        name = unused(self.label, self.taken)
        outputs = [ir.Value(name=unused(f"{name}_{kind}", self.taken)) for _ in range(count)]
        node = ir.node(kind, inputs, given, outputs=outputs, name=name)
        self.nodes.append(node)
        return tuple(node.outputs)

    def new(self, array: Array, name: str) -> ir.Value:
        """An initializer of these numbers; the name must be free."""
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.initializers.append(value)
        return value

    def small(self, numbers: float | Sequence[int], dtype: npt.DTypeLike = np.int64) -> ir.Value:
        """An initializer of a few numbers, one for all who need these."""
        array = np.asarray(numbers, dtype)
        key = ("small", array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = self.new(array, unused(f"number_{len(self.initializers)}", self.taken))
        return self.constants[key]

    # ----------------------------------------------------------------------------------------------- reading

    def is_first(self, index: int) -> bool:
        """Whether a tensor came with its channels first."""
        return index in self.held and self.held[index].came_first

    def read(self, index: int, *, first: bool = False) -> ir.Value:
        """A tensor's real numbers, or integers if it has no scale, in one of the orders."""
        held = self.held.setdefault(index, Held())
        kept = held.first if first else held.last
        if kept is None:
            kept = self._other(index, held, first)
            if first:
                held.first = kept
            else:
                held.last = kept
        return kept

    def _other(self, index: int, held: Held, first: bool) -> ir.Value:
        tensor = self.tensors[index]
        if tensor.data is not None:
            return self.turned(index, to_first(tensor.rank)) if first else self.constant(index)
        made = held.last if first else held.first
        if made is None:
            raise UnsupportedModel(
                f"{self.contents.where}: {self.label} reads the state '{tensor.name}', which the file keeps from one "
                "call to the next; ONNX has no such tensors."
            )
        order = to_first(tensor.rank) if first else to_last(tensor.rank)
        value = self.call("Transpose", made, perm=order)
        value.name = unused(f"{self.names[index]}_{'channels_first' if first else 'channels_last'}", self.taken)
        return self.coded(value, tensor)

    def aligned(self, indices: Sequence[int], rank: int) -> tuple[list[ir.Value], bool]:
        """Operands of an operator that works element by element, in one order, and whether channels are first.

        Constants get as many axes as the result, `rank`, so that they broadcast in either order.
        """
        moving = [i for i in indices if self.tensors[i].data is None]
        first = rank > 2 and any(self.is_first(i) for i in moving) and all(self._fits(i, rank) for i in moving)
        return [self._operand(i, rank, first) for i in indices], first

    def _fits(self, index: int, rank: int) -> bool:
        return self.tensors[index].rank in (0, rank)

    def _operand(self, index: int, rank: int, first: bool) -> ir.Value:
        tensor = self.tensors[index]
        if not first or tensor.rank == 0 or (tensor.data is not None and tensor.data.size == 1):
            return self.read(index)
        if tensor.rank == rank:
            return self.read(index, first=True)
        missing = rank - tensor.rank
        return self.constant(
            index,
            lambda x: x.reshape((1,) * missing + x.shape).transpose(to_first(rank)),
            lambda axis: placed(axis + missing, rank, True),
            f"aligned {rank}",
        )

    # --------------------------------------------------------------------------------------------- constants

    def data(self, index: int) -> Array | None:
        """The numbers or codes of a constant as the file has them; None for what is computed."""
        return self.tensors[index].data

    def integers(self, op: Operator, port: int) -> list[int]:
        """The integers of a constant input.

        Raises:
            UnsupportedModel: the input is computed, so what the operator does is not known before it runs.
        """
        tensor = self.tensors[op.input(port)]
        if tensor.data is None or not np.issubdtype(tensor.data.dtype, np.integer):
            raise UnsupportedModel(
                f"{self.contents.where}: {op.kind} takes '{tensor.name}' at its input {port}, which has to be constant "
                "integers to be imported."
            )
        return [int(n) for n in tensor.data.ravel()]

    def reals(self, index: int) -> npt.NDArray[np.float32] | None:
        """The real numbers of a constant, whatever its codes."""
        return real_numbers(self.tensors[index])

    def turned(self, index: int, order: Sequence[int]) -> ir.Value:
        """A weight with its axes in another order, `order[i]` becoming axis i; a Transpose if it is computed."""
        if self.tensors[index].data is None:
            return self.call("Transpose", self.read(index), perm=order)
        return self.constant(index, lambda x: x.transpose(order), list(order).index, f"turned {order}")

    def constant(
        self, index: int, change: Callable[[Array], Array] | None = None, axis: Axis = int, key: str = ""
    ) -> ir.Value:
        """A constant after `change`, which `key` names; codes with a DequantizeLinear.

        `axis` tells where an axis of the constant lies after the change.
        """
        found = self.constants.get((index, key))
        if found is None:
            found = self.constants[index, key] = self._constant(self.tensors[index], change, axis)
        return found

    def _constant(self, tensor: Tensor, change: Callable[[Array], Array] | None, axis: Axis) -> ir.Value:
        array = tensor.data
        assert array is not None
        if change is not None:
            array = np.ascontiguousarray(change(array)).reshape(change(array).shape)
            self.spend(array.nbytes)
        if tensor.quantization is None:
            return self.new(array, self.named(tensor.index))
        codes = self._narrow(array, tensor) if array.dtype == np.int64 else array
        return self.real(self.new(codes, unused(f"{tensor.name}_quantized", self.taken)), tensor, axis)

    def real(self, codes: ir.Value, tensor: Tensor, axis: Axis = int) -> ir.Value:
        """The real numbers of a tensor's codes."""
        return self._border("DequantizeLinear", codes, tensor, axis, f"{self.names[tensor.index]}_dequantized")

    def _narrow(self, array: Array, tensor: Tensor) -> Array:
        """Codes of a bias of 16-bit layers as int32: ONNX has no DequantizeLinear of int64."""
        if array.size and max(int(array.max()), -int(array.min())) > np.iinfo(np.int32).max:
            raise UnsupportedModel(
                f"{self.contents.where}: the bias '{tensor.name}' has codes beyond 32 bits, which ONNX cannot express."
            )
        return array.astype(np.int32)

    def spend(self, count: int) -> None:
        """Count bytes of constants that were made, not read.

        Raises:
            UnsupportedModel: they exceed what a file of this size can have use for.
        """
        self.left -= count
        if self.left < 0:
            raise UnsupportedModel(
                f"{self.contents.where} is damaged: its tensors share their bytes so often that they would fill memory."
            )

    # ------------------------------------------------------------------------------------------------- codes

    def coded(self, value: ir.Value, tensor: Tensor) -> ir.Value:
        """A pair of the tensor's parameters behind a value that holds its numbers moved; the value if it has none."""
        if not tensor.coded:
            return value
        return self.pair(value, tensor, f"{value.name}_quantized")

    def pair(self, value: ir.Value, tensor: Tensor, name: str) -> ir.Value:
        """QuantizeLinear, whose output gets this name, and DequantizeLinear; returned is the output of the latter."""
        assert tensor.quantization is not None
        if tensor.quantization.scale.size > 1:
            raise UnsupportedModel(
                f"{self.contents.where}: '{tensor.name}' is computed and has a scale for each channel, which cannot be "
                "imported."
            )
        codes = self._border("QuantizeLinear", value, tensor, int, name)
        codes.type = ir.TensorType(tensor.dtype)
        return self.real(codes, tensor)

    def _border(self, kind: str, value: ir.Value, tensor: Tensor, axis: Axis, name: str) -> ir.Value:
        params = tensor.quantization
        assert params is not None
        single = params.scale.size == 1
        scale, zero = self._parameters(tensor)
        out = self.call(kind, value, scale, zero, axis=None if single else axis(params.axis))
        out.name = unused(name, self.taken)
        return out

    def _parameters(self, tensor: Tensor) -> tuple[ir.Value, ir.Value | None]:
        params = tensor.quantization
        assert params is not None
        key = (tensor.index, "scale")
        if key not in self.constants:
            shape: tuple[int, ...] = () if params.scale.size == 1 else params.scale.shape
            name = self.names[tensor.index]
            self.constants[key] = self.new(params.scale.reshape(shape), unused(f"{name}_scale", self.taken))
            if tensor.dtype not in BIASES:
                zero = params.zero_point.astype(tensor.dtype.numpy()).reshape(shape)
                self.constants[tensor.index, "zero"] = self.new(zero, unused(f"{name}_zero_point", self.taken))
        return self.constants[key], self.constants.get((tensor.index, "zero"))

    # ------------------------------------------------------------------------------------------------ giving

    def give(self, index: int, value: ir.Value, *, first: bool = False, activation: int = 0) -> None:
        """Say that a tensor of the file is this value, after a fused activation and, if it has a scale, as codes."""
        tensor, name = self.tensors[index], self.names[index]
        value = self.activated(value, activation)
        final = index in self.final
        kept = final and (first or tensor.coded)
        value.name = (
            self.named(index) if not kept else unused(name + ("_channels_first" if first else "_real"), self.taken)
        )
        self.describe(value, tensor, first, real=True)
        self.keep(index, value, first)

    def keep(self, index: int, value: ir.Value, first: bool) -> None:
        """Say that a tensor holds these numbers, as codes if it has a scale."""
        tensor, name = self.tensors[index], self.names[index]
        if tensor.coded:
            plain = index in self.final and not first
            value = self.pair(value, tensor, name if plain else f"{name}_quantized")
        self.held[index] = Held(None if first else value, value if first else None, first)

    def describe(self, value: ir.Value, tensor: Tensor, first: bool, *, real: bool) -> None:
        """Tell a value's type, and its shape if no input of the file is open or it leaves the graph (not `real`)."""
        value.type = ir.TensorType(ir.DataType.FLOAT if real and tensor.coded else tensor.dtype)
        if not real or (self.shaped and None not in tensor.dims):
            order = to_first(tensor.rank) if first else range(tensor.rank)
            value.shape = ir.Shape([tensor.dims[axis] for axis in order])

    def activated(self, value: ir.Value, activation: int) -> ir.Value:
        """A value after the activation that is fused into its operator.

        Raises:
            UnsupportedModel: there is no such activation.
        """
        if activation in CLAMPS:
            return self.clip(value, *CLAMPS[activation])
        if activation not in (0, 1, 4):
            raise UnsupportedModel(f"{self.contents.where}: {self.label} has the unknown activation {activation}.")
        return value if activation == 0 else self.call("Relu" if activation == 1 else "Tanh", value)

    def clip(self, value: ir.Value, low: float, high: float) -> ir.Value:
        """A value kept within two bounds."""
        return self.call("Clip", value, self.small(low, np.float32), self.small(high, np.float32))
