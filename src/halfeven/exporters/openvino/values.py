"""The values of an ONNX graph as ports of OpenVINO layers, and the constants that operators take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.openvino.xml import Array, Document, Port, Shape
from halfeven.graph import ops
from halfeven.graph.pairs import dtype_of, shape_of

FLOAT, INT64, BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


@dataclass
class Values:
    """A conversion in progress: which port holds a value."""

    document: Document
    opset: int
    ports: dict[ir.Value, Port] = field(default_factory=dict)
    constants: dict[str, Port] = field(default_factory=dict)
    deferred: dict[ir.Value, Callable[[], None]] = field(default_factory=dict)
    """What makes a constant real, for when somebody reads it."""

    def at(self, value: ir.Value | None) -> Port:
        """The port of a value that was computed, fed, or is constant."""
        assert value is not None
        if value not in self.ports and value in self.deferred:
            self.deferred[value]()
        elif value not in self.ports:
            tensor = ops.constant_of(value)
            if tensor is None:
                raise UnsupportedByTarget(f"OpenVINO IR: '{value.name}' is not computed before it is read.")
            shape = ops.dims_of(tensor)
            self.ports[value] = self.document.constant(tensor.dtype, shape, tensor.numpy, value.name or "")
        return self.ports[value]

    def reads(self, node: ir.Node) -> list[Port]:
        """The ports of all inputs that are there."""
        return [self.at(v) for v in node.inputs if v is not None]

    def number(self, values: object, dtype: ir.DataType = FLOAT) -> Port:
        """A small constant; one for equal numbers."""
        array = np.asarray(values, dtype.numpy())
        key = f"{dtype.name}{array.shape}{array.tobytes().hex()}"
        if key not in self.constants:
            self.constants[key] = self.document.constant(dtype, array.shape, lambda: array)
        return self.constants[key]

    def whole(self, values: object) -> Port:
        """A small constant of int64."""
        return self.number(values, INT64)

    def layer(
        self,
        node: ir.Node,
        kind: str,
        inputs: Sequence[Port],
        attributes: Mapping[str, object] | None = None,
        opset: int = 1,
    ) -> None:
        """The layer that stands for a whole node."""
        shapes = [(dtype_of(v) or inputs[0].dtype, extent(v)) for v in node.outputs]
        made = self.document.add(kind, inputs, shapes, attributes, opset, node.name or "")
        self.ports.update(zip(node.outputs, made, strict=True))

    def inner(
        self,
        kind: str,
        inputs: Sequence[Port],
        attributes: Mapping[str, object] | None = None,
        opset: int = 1,
        dtype: ir.DataType | None = None,
        shape: Shape | None = None,
    ) -> Port:
        """A layer with one output that is none of the node's."""
        return self.document.add(kind, inputs, [(dtype or inputs[0].dtype, shape)], attributes, opset)[0]

    def give(self, node: ir.Node, port: Port) -> None:
        """Let a port that is there stand for the node's output."""
        self.ports[node.outputs[0]] = port

    def reshaped(self, value: ir.Value, shape: Shape) -> Port:
        """A constant, with the same numbers in another shape."""
        tensor = ops.constant_of(value)
        assert tensor is not None
        return self.document.constant(tensor.dtype, shape, partial(_in_shape, tensor, shape), value.name or "")


def _in_shape(tensor: ir.TensorProtocol, shape: Shape) -> Array:
    return np.asarray(tensor.numpy()).reshape(shape)


def extent(value: ir.Value) -> Shape | None:
    """The shape of a value, -1 for an open axis; None: not known."""
    shape = shape_of(value)
    return None if shape is None else tuple(d if isinstance(d, int) else -1 for d in shape)


def rank_of(value: ir.Value | None, node: ir.Node) -> int:
    """How many axes a value has.

    Raises:
        UnsupportedByTarget: that is not known.
    """
    shape = None if value is None else shape_of(value)
    if shape is None:
        raise refuse(node, "the rank of its input is not known")
    return len(shape)


def constant_at(node: ir.Node, port: int) -> Array | None:
    """The numbers of a constant input."""
    value = node.inputs[port] if port < len(node.inputs) else None
    tensor = ops.constant_of(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def get(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute; a tuple where it holds several numbers, a str where it holds text."""
    found = ops.attribute(node, name, default)
    return tuple(found) if isinstance(found, (list, tuple)) else found


def refuse(node: ir.Node, why: str) -> UnsupportedByTarget:
    """The error of a node that cannot be written."""
    return UnsupportedByTarget(f"{node.op_type} '{node.name}' cannot be written as OpenVINO IR: {why}.")
