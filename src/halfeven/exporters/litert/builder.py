"""The file in the making: tensors, operators, and where each value of the network lies and in which order.

Writers of operators (`layers`, `windows`, `elementwise`, `moving`, ...) ask it for operands in an order they can use,
and tell it which tensor holds what they made:

    wire = b.operand(tensor, order)      the value, transposed if need be
    index = b.output(tensor, order)      a new tensor of the file that holds this value from now on
    b.emit("ADD", ..., [index])          one operator
    b.close(op, "ADD", ...)              the same, with the operator's clamp: fused, or as operators behind
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.litert.flatbuffer import FileOp, FileTensor
from halfeven.exporters.litert.forms import shaped
from halfeven.exporters.litert.layout import Dims, Order, plain, raised, still
from halfeven.graph.network import Op, Tensor
from halfeven.numerics.quantize import quantize
from halfeven.numerics.scheme import QParams

Array = npt.NDArray[np.generic]
NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3
FUSED: Mapping[tuple[float, float], int] = {
    (0.0, np.inf): RELU,
    (-1.0, 1.0): RELU_N1_TO_1,
    (0.0, 6.0): RELU6,
}
ALONE: Mapping[tuple[float, float], str] = {(0.0, np.inf): "RELU", (0.0, 6.0): "RELU6"}
"""Clamps that are operators of their own in every runtime; the others are MAXIMUM and MINIMUM."""
UNBOUNDED = (-np.inf, np.inf)


@dataclass(frozen=True)
class Wire:
    """Where a value lies: a tensor of the file, the order of its axes, and their lengths as ONNX orders them."""

    index: int
    order: Order
    dims: Dims


@dataclass
class Builder:
    """Collects tensors and operators. `open`: of a value, the axis whose length callers choose."""

    open: Mapping[str, int] = field(default_factory=dict)
    hybrid: bool = False
    opset: int = 21
    results: frozenset[str] = frozenset()
    tensors: list[FileTensor] = field(default_factory=list)
    ops: list[FileOp] = field(default_factory=list)
    wires: dict[str, Wire] = field(default_factory=dict)
    moved: dict[tuple[int, Order], Wire] = field(default_factory=dict)
    held: dict[tuple[Any, ...], int] = field(default_factory=dict)
    real: dict[int, int] = field(default_factory=dict)
    """Of tensors of codes, that which a DEQUANTIZE made of them."""
    columns: dict[str, npt.NDArray[np.intp]] = field(default_factory=dict)
    """Of a flattened value that lies in another order: which ONNX column each of its columns is."""
    transposes: list[str] = field(default_factory=list)
    shifted: list[str] = field(default_factory=list)
    """Products of two activations whose second operand has codes around another zero point than 0."""
    names: set[str] = field(default_factory=set)
    readers: Mapping[str, Sequence[Op]] = field(default_factory=dict)
    where: str = ""

    # ------------------------------------------------------------------------------------------- tensors

    def name(self, wanted: str) -> str:
        """A name that no tensor of the file has."""
        name, count = wanted, 0
        while name in self.names:
            count += 1
            name = f"{wanted}_{count}"
        self.names.add(name)
        return name

    def tensor(self, name: str, shape: Sequence[int], like: FileTensor, open_axis: int | None = None) -> int:
        """A computed tensor with the type and parameters of another."""
        found = replace(like, name=self.name(name), shape=tuple(shape), data=None, open=open_axis)
        self.tensors.append(found)
        return len(self.tensors) - 1

    def constant(
        self,
        array: Array,
        name: str,
        scale: Array | None = None,
        zero_point: Array | None = None,
        axis: int = 0,
        *,
        bits: int = 0,
    ) -> int:
        """A constant, of codes of `bits` bits where these are 4; the same one is written once, whoever reads it."""
        array = np.asarray(array, order="C")
        tag = () if scale is None else (scale.tobytes(), np.asarray(zero_point).tobytes(), axis)
        dtype = "int4" if bits == 4 else array.dtype.name
        key = (array.shape, dtype, sha256(array.tobytes()).digest(), *tag)
        if key in self.held:
            return self.held[key]
        self.tensors.append(FileTensor(self.name(name), array.shape, dtype, scale, zero_point, axis, data=array))
        self.held[key] = len(self.tensors) - 1
        return len(self.tensors) - 1

    def numbers(self, values: Sequence[int], name: str) -> int:
        """A constant of int32."""
        return self.constant(np.array(values, np.int32), name)

    def dims(self, tensor: Tensor) -> Dims:
        """The lengths of a value's axes.

        Raises:
            UnsupportedByTarget: they depend on the data.
        """
        if tensor.constant is not None:
            return Dims(tuple(int(d) for d in tensor.constant.shape.numpy()))
        sizes = tensor.shape
        if sizes is None or not all(isinstance(d, int) for d in sizes):
            raise UnsupportedByTarget(
                f"{self.where}: the shape of '{tensor.name}' depends on the data; LiteRT's kernels need it beforehand."
            )
        return Dims(tuple(int(d) for d in sizes if isinstance(d, int)), self.open.get(tensor.name))

    def declared(self, tensor: Tensor, order: Order) -> FileTensor:
        """A value of the network as a tensor of the file."""
        dims = self.dims(tensor)
        dtype = tensor.dtype.numpy().name
        found = FileTensor(tensor.name, dims.stored(order), dtype, open=dims.stored_open(order))
        if tensor.params is None:
            return found
        scale, zero = tensor.params.scale.ravel(), tensor.params.zero_point.ravel()
        return replace(found, scale=scale, zero_point=zero.astype(np.int64))

    def output(self, tensor: Tensor, order: Order) -> int:
        """A new tensor that holds this value from now on."""
        found = self.declared(tensor, order)
        self.tensors.append(replace(found, name=self.name(tensor.name)))
        self.wires[tensor.name] = Wire(len(self.tensors) - 1, order, self.dims(tensor))
        return len(self.tensors) - 1

    # ------------------------------------------------------------------------------------------ operands

    def wire(self, tensor: Tensor) -> Wire:
        """Where a value lies; a constant in ONNX's order."""
        if tensor.constant is not None and tensor.name not in self.wires:
            dims = self.dims(tensor)
            self.wires[tensor.name] = Wire(self._constant(tensor, plain(dims.rank)), plain(dims.rank), dims)
        return self.wires[tensor.name]

    def operand(self, tensor: Tensor, order: Order) -> Wire:
        """A value in the given order; where it has fewer axes than that, as broadcasting sees it."""
        rank = len(order)
        if tensor.constant is not None:
            dims = self.dims(tensor)
            more = Dims((*[1] * (rank - dims.rank), *dims.sizes))
            return Wire(self._constant(tensor, order, more), order, more)
        wire = self.wires[tensor.name]
        if wire.dims.rank < rank:
            wire = self._raise(wire, rank)
        return self.arrange(wire, order)

    def arrange(self, wire: Wire, order: Order) -> Wire:
        """The same value in another order; a TRANSPOSE, or a RESHAPE if only axes of length one move."""
        if wire.order == order:
            return wire
        if (wire.index, order) in self.moved:
            return self.moved[wire.index, order]
        stored, source = wire.dims.stored(order), self.tensors[wire.index]
        open_axis = wire.dims.stored_open(order)
        if still(wire.dims, wire.order, order):
            same = source.shape == stored and source.open == open_axis
            index = wire.index if same else self.reshape(wire.index, stored, f"{source.name}_reshaped", open_axis)
        else:
            index = self.tensor(f"{source.name}_transposed", stored, source, open_axis)
            axes = [wire.order.index(axis) for axis in order]
            self.emit("TRANSPOSE", [wire.index, self.numbers(axes, "axes")], [index], "TransposeOptions")
            self.transposes.append(self.where)
        self.moved[wire.index, order] = Wire(index, order, wire.dims)
        return self.moved[wire.index, order]

    def reshape(self, index: int, shape: Sequence[int], name: str, open_axis: int | None = None) -> int:
        """The same memory in another shape."""
        made = self.tensor(name, shape, self.tensors[index], open_axis)
        self.emit_reshape(index, made)
        return made

    def emit_reshape(self, source: int, made: int) -> None:
        """A RESHAPE to the shape that `made` has."""
        found = self.tensors[made]
        target = [-1 if axis == found.open else d for axis, d in enumerate(found.shape)]
        options = {"newShape": np.array(target, np.int32)}
        self.emit("RESHAPE", [source, self.numbers(target, "shape")], [made], "ReshapeOptions", **options)

    def _raise(self, wire: Wire, rank: int) -> Wire:
        more = rank - wire.dims.rank
        dims = Dims((*[1] * more, *wire.dims.sizes), None if wire.dims.open is None else wire.dims.open + more)
        order = raised(wire.order, rank)
        name = f"{self.tensors[wire.index].name}_raised"
        return Wire(self.reshape(wire.index, dims.stored(order), name, dims.stored_open(order)), order, dims)

    def _constant(self, tensor: Tensor, order: Order, dims: Dims | None = None) -> int:
        data = tensor.data
        assert data is not None
        sizes = data.shape if dims is None else dims.sizes
        array = np.asarray(data).reshape(sizes).transpose(order)
        if tensor.params is None:
            return self.constant(array, tensor.name)
        params = tensor.params
        axis = params.scheme.tiling.axis
        place = 0 if axis is None else order.index(axis + len(sizes) - data.ndim)
        zero = params.zero_point.ravel().astype(np.int64)
        return self.constant(array, tensor.name, params.scale.ravel(), zero, place)

    def factor(self, value: Array, grid_of: Tensor, name: str, order: Order) -> Wire:
        """A real constant as codes that hold it best: 127 steps, or 32767 of 16 bits, to its largest magnitude."""
        assert grid_of.params is not None
        grid = grid_of.params.scheme.grid
        array = np.asarray(value, np.float32)
        rank = len(order)
        array = array.reshape((*[1] * (rank - array.ndim), *array.shape))
        largest = float(np.abs(array).max()) if array.size else 0.0
        scheme = replace(grid_of.params.scheme)
        scale = np.array([largest / grid.high if largest else 1.0], np.float32)
        params = QParams(scheme, scale, np.zeros(1, np.int32))
        codes = quantize(array, shaped(params, array.ndim)).transpose(order)
        index = self.constant(codes, name, scale, np.zeros(1, np.int64))
        return Wire(index, order, Dims(array.shape))

    # ----------------------------------------------------------------------------------------- operators

    def emit(self, code: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **fields: Any) -> None:
        """One operator."""
        self.ops.append(FileOp(code, tuple(inputs), tuple(outputs), options, fields))

    def close(self, op: Op, code: str, inputs: Sequence[int], order: Order, options: str = "", **fields: Any) -> None:
        """One operator that makes the first output of `op`, and its clamp: fused where `options` can hold it."""
        output = op.outputs[0]
        bounds = self.bounds(op)
        if bounds == UNBOUNDED or (bounds in FUSED and "fusedActivationFunction" in fields):
            if bounds != UNBOUNDED:
                fields["fusedActivationFunction"] = FUSED[bounds]
            self.emit(code, inputs, [self.output(output, order)], options, **fields)
            return
        free = self.tensor(f"{output.name}_unclamped", (), self.declared(output, order))
        declared = self.declared(output, order)
        self.tensors[free] = replace(self.tensors[free], shape=declared.shape, open=declared.open)
        self.emit(code, inputs, [free], options, **fields)
        self.clamp(free, output, order, bounds)

    def clamp(self, source: int, output: Tensor, order: Order, bounds: tuple[float, float]) -> None:
        """The value of `source` between two bounds, as the value of `output`.

        Both have one scale, as RELU6 in TensorFlow Lite Micro limits the input's codes and does not look at the
        output's. RELU_N1_TO_1 is no operator of Micro's, and fails on 16-bit codes in LiteRT.
        """
        if bounds in ALONE:
            self.emit(ALONE[bounds], [source], [self.output(output, order)])
            return
        steps = [(c, b) for c, b in (("MAXIMUM", bounds[0]), ("MINIMUM", bounds[1])) if np.isfinite(b)]
        for number, (code, bound) in enumerate(steps):
            last = number == len(steps) - 1
            limit = self._limit(bound, output, len(order))
            like = self.tensors[source]
            target = self.output(output, order) if last else self.tensor(
                f"{output.name}_{code.lower()}", like.shape, like, like.open)  # fmt: skip
            self.emit(code, [source, limit], [target], "MaximumMinimumOptions")
            source = target

    def _limit(self, bound: float, output: Tensor, rank: int) -> int:
        """A bound as a constant of one element, in the codes of `output`."""
        real = np.full((1,) * rank, bound, np.float32)
        if output.params is None:
            return self.constant(real, "bound")
        codes = quantize(real, shaped(output.params, rank))
        scale, zero = output.params.scale.ravel(), output.params.zero_point.ravel().astype(np.int64)
        return self.constant(codes, "bound", scale, zero)

    def bounds(self, op: Op) -> tuple[float, float]:
        """The clamp of an operator without the bounds that the output's codes cannot pass."""
        low, high = op.clamp or UNBOUNDED
        params: QParams | None = op.outputs[0].params
        if params is None:
            return low, high
        grid, scale, zero = params.scheme.grid, float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
        least, most = (grid.low - zero) * scale, (grid.high - zero) * scale
        low, high = (low if low > least else -np.inf), (high if high < most else np.inf)
        return (0.0, high) if high == 6.0 and least == 0.0 else (low, high)
