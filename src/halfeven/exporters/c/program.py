"""The program: what the C file will say, as data.

    Array     constant numbers: weights, biases, multipliers, tables
    Call      one kernel with its constant parameters: `fields` of its struct, by name
    Program   calls in order, tensors with their shapes, and what stores each of them

A tensor's storage is that of another where an operator only gives it another shape. Everything is checked here, before
a line is written: types of codes, sizes that a C int32_t must hold, bounds that cannot be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.c.blocks import RANK, Shape
from halfeven.graph.network import Op, Tensor
from halfeven.graph.pairs import same
from halfeven.numerics.code_tables import code_table
from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.integer_target import affine_of, fixed_multiplier, output_of
from halfeven.numerics.scheme import QParams

Values: TypeAlias = npt.NDArray[np.generic]
MOST = (1 << 31) - 1
TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t"}


@dataclass(frozen=True, eq=False)
class Array:
    """A constant array of the C file; `name` is its C identifier."""

    name: str
    values: Values
    about: str

    @property
    def ctype(self) -> str:
        """Its element's type in C."""
        return TYPES[self.values.dtype.name]


Field: TypeAlias = int | tuple[int, ...] | Array | tuple[Array | None, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """`kernel(inputs..., output, parameters)`; inputs and output are names of tensors, or of constant arrays."""

    kernel: str
    about: str
    inputs: tuple[str, ...]
    output: str
    fields: Mapping[str, Field] = field(default_factory=dict)


def refuse(op: Op, why: str, what: str) -> NoReturn:
    """Say which node cannot become C, why, and what to do.

    Raises:
        UnsupportedByTarget: always.
    """
    raise UnsupportedByTarget(f"{op.kind} '{op.name}' has no form in C for bare metal: {why}. {what}")


def own_name(tensor: Tensor) -> str:
    """The name of a tensor in a program, which no constant array can have."""
    return f"%{tensor.name}"


@dataclass
class Program:
    """What has been built so far.

    `shapes` and `stored` (the tensor or array in whose storage a tensor lies) are by `own_name`, `values` (of what is
    computed from shapes alone) and `readers` (how many operators and outputs read it) by a tensor's name.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)
    values: dict[str, Values] = field(default_factory=dict)
    readers: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    inputs: list[tuple[str, Tensor]] = field(default_factory=list)
    outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _known: dict[tuple[str, Shape, bytes], Array] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------- constants

    def array(self, values: npt.ArrayLike, dtype: type[np.generic], about: str) -> Array:
        """A constant array; equal ones are one."""
        held = np.ascontiguousarray(np.asarray(values).astype(dtype)).ravel()
        key = (held.dtype.name, held.shape, held.tobytes())
        if key not in self._known:
            made = Array(f"k{len(self._known)}", held, about)
            self._known[key] = self.arrays[made.name] = made
        return self._known[key]

    def known(self, tensor: Tensor | None) -> Values | None:
        """The values of a constant, or of what is computed from shapes alone."""
        if tensor is None:
            return None
        return tensor.data if tensor.constant is not None else self.values.get(tensor.name)

    # --------------------------------------------------------------------------------------------- tensors

    def operand(self, op: Op, port: int) -> tuple[str, Shape, QParams]:
        """Name in C, shape and parameters of int8 codes that an operator reads; a constant becomes an array."""
        tensor = op.inputs[port] if port < len(op.inputs) else None
        if tensor is None or tensor.params is None:
            refuse(op, f"its input {port} is not quantized", "Quantize the model with --target integer.")
        if tensor.dtype != ir.DataType.INT8:
            kind = tensor.dtype.name.lower()
            refuse(op, f"'{tensor.name}' holds {kind} codes, not int8", "Quantize the model with --target integer.")
        if tensor.data is not None:
            held = tensor.data
            return self.array(held, np.int8, f"{tensor.name} of {op.name}").name, held.shape, tensor.params
        name = own_name(tensor)
        return name, self.shapes[name], tensor.params

    def output(self, op: Op, shape: Shape, index: int = 0) -> str:
        """The name of an operator's output, whose shape is now known."""
        tensor = op.outputs[index]
        if tensor.dtype != ir.DataType.INT8:
            kind = tensor.dtype.name.lower()
            refuse(op, f"'{tensor.name}' holds {kind} codes, not int8", "Quantize the model with --target integer.")
        return self.tensor(op, own_name(tensor), shape)

    def tensor(self, op: Op, name: str, shape: Shape) -> str:
        """A tensor that has storage of its own."""
        if prod(shape) > MOST or min(shape, default=1) < 1:
            refuse(op, f"a tensor of shape {list(shape)} is made", "Sizes of 1 to 2**31 - 1 elements are possible.")
        self.shapes[name], self.stored[name] = shape, name
        return name

    def alias(self, op: Op, name: str, shape: Shape) -> None:
        """The output of an operator that only gives codes another shape."""
        given = self.arrays[name].values.size if name in self.arrays else prod(self.shapes[name])
        if prod(shape) != given:
            refuse(op, f"{given} codes do not fill {list(shape)}", "Check the model with onnx.checker.")
        made = own_name(op.outputs[0])
        self.shapes[made], self.stored[made] = shape, self.stored.get(name, name)

    def recoded(self, op: Op, name: str, shape: Shape, params: QParams, index: int = 0) -> str:
        """The operand `name` in the codes of an operator's output: itself, if both mean the same."""
        wanted = op.outputs[index].params
        assert wanted is not None
        if same(params, wanted) and op.clamp is None:
            return name
        made = f"@{name} as {op.outputs[index].name}"
        if made not in self.shapes:
            table = self.array(code_table("Requantize", affine_of(params), output_of(wanted, op.clamp)), np.int8, made)
            self.call(op, "lookup", (name,), self.tensor(op, made, shape), count=prod(shape), table=table)
        return made

    # ----------------------------------------------------------------------------------------------- calls

    def call(self, op: Op, kernel: str, inputs: tuple[str, ...], output: str, **fields: Field) -> None:
        """One more step."""
        for number in fields.values():
            whole = [number] if isinstance(number, int) else [n for n in number if isinstance(n, int)] \
                if isinstance(number, tuple) else []  # fmt: skip
            if any(not -MOST <= n <= MOST for n in whole):
                refuse(op, "a size beyond 31 bits is needed", "Make the network's input smaller.")
        self.calls.append(Call(kernel, f"{op.kind} {op.name}", inputs, output, fields))


def affines(op: Op, params: QParams) -> tuple[Affine, Output]:
    """What an operand's codes mean, and how the operator's output is stored."""
    wanted = op.outputs[0].params
    assert wanted is not None
    for each in (params, wanted):
        if each.scale.size != 1:
            refuse(op, "its activations have a scale for each channel", "Quantize activations per tensor.")
    return affine_of(params), output_of(wanted, op.clamp)


def stored_as(out: Output) -> dict[str, Field]:
    """The fields of `codes_t`."""
    return {"y": (out.affine.zero_point, out.low, out.high)}


def multiplier(real: npt.ArrayLike, names: tuple[str, str] = ("multiplier", "shift")) -> dict[str, Field]:
    """One real multiplier as the fields of two numbers."""
    found = fixed_multiplier(real)
    return {names[0]: int(found.mantissa), names[1]: int(found.shift)}


def multipliers(program: Program, op: Op, real: npt.NDArray[np.float64]) -> dict[str, Field]:
    """Real multipliers as the fields of two arrays."""
    found = fixed_multiplier(real.ravel())
    return {
        "multiplier": program.array(found.mantissa, np.int32, f"multipliers of {op.name}"),
        "shift": program.array(found.shift, np.uint8, f"shifts of {op.name}"),
    }


def ranked(op: Op, lengths: Shape) -> int:
    """The number of axes, which C's structs must hold."""
    if len(lengths) > RANK:
        refuse(op, f"its {len(lengths)} axes cannot be merged into {RANK}", "Reshape its operands to fewer axes.")
    return len(lengths)


def attribute(op: Op, name: str, default: Any) -> Any:
    """An attribute's value, or the default."""
    found = op.attributes.get(name)
    return default if found is None else found


def axis_of(op: Op, axis: int, rank: int) -> int:
    """An axis, counted from the first."""
    if not -rank <= axis < rank:
        refuse(op, f"there is no axis {axis} among {rank}", "Check the model with onnx.checker.")
    return axis % rank
