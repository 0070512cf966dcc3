"""What a .tflite file holds, checked: tensors, operators in order, inputs and outputs of its main subgraph.

    Model          0 version (3)   1 operator_codes   2 subgraphs   4 buffers
    OperatorCode   0 code (int8, of old files)   1 custom_code   2 version   3 code (int32); the greater code counts
    SubGraph       0 tensors   1 inputs   2 outputs   3 operators   4 name
    Operator       0 index of its code   1 inputs (-1: left out)   2 outputs   3 kind of options   4 options
                   5 custom_options, bytes

Tensors are read in `tensors`. Which tensors exist, what
each operator reads and that something gave it before is checked here, so what comes after may index at will.
Source: tensorflow/compiler/mlir/lite/schema/schema.fbs.
"""

from dataclasses import dataclass, replace

import numpy as np

from halfeven.errors import UnsupportedModel
from halfeven.importers.litert.flatbuffer import Source, Table
from halfeven.importers.litert.schema import OPERATORS, OPTIONS
from halfeven.importers.litert.tensors import Tensor, read_tensor

MARK = b"TFL3"
CUSTOM = "CUSTOM "
LONGEST_CUSTOM = 64
"""Bytes of a custom operator's options that are kept; the one that is imported has 12."""


def looks_like_tflite(head: bytes) -> bool:
    """Whether a file that begins with these eight bytes or more is a .tflite file."""
    return head[4:8] == MARK


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator: the name of its kind (a custom one's own name after `CUSTOM`), options, tensors by index.

    `custom`: the options of a custom operator, whose form only its maker knows.
    """

    kind: str
    options: dict[str, int | float | bool]
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    custom: bytes = b""

    def input(self, port: int) -> int:
        """The tensor that it reads at a port.

        Raises:
            UnsupportedModel: it reads none there.
        """
        found = self.inputs[port] if port < len(self.inputs) else None
        if found is None:
            raise UnsupportedModel(f"An operator {self.kind} lacks its input {port}. The file is damaged.")
        return found

    def has(self, port: int) -> bool:
        """Whether it reads a tensor at a port."""
        return port < len(self.inputs) and self.inputs[port] is not None

    def output(self, port: int = 0) -> int:
        """The tensor that it gives at a port.

        Raises:
            UnsupportedModel: it gives none there.
        """
        if port >= len(self.outputs):
            raise UnsupportedModel(f"An operator {self.kind} lacks its output {port}. The file is damaged.")
        return self.outputs[port]

    def option(self, name: str) -> int:
        """An integer or boolean among the options."""
        return int(self.options.get(name, 0))


@dataclass(frozen=True, eq=False)
class Contents:
    """The main subgraph of a file; `others` counts further subgraphs."""

    where: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    others: int


def read_contents(data: memoryview, where: str) -> Contents:
    """Read a file's bytes; constants are views of them.

    Raises:
        UnsupportedModel: it is no .tflite file, damaged, or holds what cannot be read.
    """
    if not looks_like_tflite(bytes(data[:8])):
        raise UnsupportedModel(f"{where} is not a LiteRT (TFLite) model: it lacks the mark TFL3 at its fifth byte.")
    source = Source(data, where)
    model = source.root()
    if (version := model.integer(0, "I")) != 3:
        raise UnsupportedModel(f"{where} has schema version {version}; 3 can be read.")
    graphs = model.tables(2)
    if not graphs:
        raise source.damaged("it holds no graph")
    buffers = model.tables(4)
    tensors = [read_tensor(i, table, buffers, source) for i, table in enumerate(graphs[0].tables(0))]
    kinds = [_kind(code, source) for code in model.tables(1)]
    operators = tuple(_operator(table, kinds, len(tensors), source) for table in graphs[0].tables(3))
    inputs, outputs = graphs[0].integers(1), graphs[0].integers(2)
    _check_indices((*inputs, *outputs), len(tensors), source)
    if len(set(inputs)) < len(inputs):
        raise source.damaged("two of its inputs are one tensor")
    made = {*inputs, *(index for operator in operators for index in operator.outputs)}
    whole = tuple(t if t.index in made else _empty(t) for t in tensors)
    found = Contents(where, whole, operators, inputs, outputs, len(graphs) - 1)
    _check_order(found, source)
    return found


def _empty(tensor: Tensor) -> Tensor:
    """A constant without elements, which needs no bytes."""
    if tensor.data is not None or 0 not in tensor.dims or not tensor.readable:
        return tensor
    dims = tuple(d if d is not None and d < 1 << 15 else 0 for d in tensor.dims)
    return replace(tensor, data=np.zeros(dims, tensor.dtype.numpy()))


def _kind(code: Table, source: Source) -> str:
    number = max(code.integer(0, "b"), code.integer(3, "i"))
    if not 0 <= number < len(OPERATORS):
        raise UnsupportedModel(
            f"{source.where} uses operator number {number}; those up to {len(OPERATORS) - 1} are known. "
            "The file is damaged, or of a newer TensorFlow."
        )
    name = OPERATORS[number]
    return CUSTOM + code.text(1) if name == "CUSTOM" else name


def _operator(table: Table, kinds: list[str], count: int, source: Source) -> Operator:
    index = table.integer(0, "I")
    if index >= len(kinds):
        raise source.damaged(f"an operator has code {index} of {len(kinds)}")
    kind = kinds[index]
    inputs = tuple(None if i == -1 else i for i in table.integers(1))
    outputs = table.integers(2)
    _check_indices((*(i for i in inputs if i is not None), *outputs), count, source)
    options: dict[str, int | float | bool] = {}
    if kind in OPTIONS:
        given = table.integer(3, "B")
        if given not in (0, OPTIONS[kind].table):
            raise source.damaged(f"an operator {kind} has options of kind {given}")
        options = OPTIONS[kind].read(table.table(4) if given else None)
    custom = bytes(table.content(5)[:LONGEST_CUSTOM]) if kind.startswith(CUSTOM) else b""
    return Operator(kind, options, inputs, outputs, custom)


def _check_indices(indices: tuple[int, ...], count: int, source: Source) -> None:
    for index in indices:
        if not 0 <= index < count:
            raise source.damaged(f"tensor {index} of {count} is named")


def _check_order(contents: Contents, source: Source) -> None:
    """Each tensor that is read was given before: by the caller, as a constant, or by one operator."""
    given = set(contents.inputs)
    for tensor in contents.tensors:
        if tensor.data is not None or tensor.variable:
            given.add(tensor.index)
    for operator in contents.operators:
        _check_given(operator.inputs, given, contents, f"operator {operator.kind} reads")
        for index in operator.outputs:
            if index in given:
                raise source.damaged(f"tensor '{contents.tensors[index].name}' is given twice")
            given.add(index)
    _check_given(contents.outputs, given, contents, "the graph gives out")


def _check_given(indices: tuple[int | None, ...], given: set[int], contents: Contents, what: str) -> None:
    for index in indices:
        if index is not None and index not in given:
            raise UnsupportedModel(
                f"{contents.where} is damaged: {what} tensor '{contents.tensors[index].name}' before anything gave it."
            )
