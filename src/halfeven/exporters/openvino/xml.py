"""The two files of OpenVINO's intermediate representation (IR), version 11.

    .xml    <net name version="11">
              <layers>  <layer id name type version="opsetN">  <data ATTRIBUTES/>
                          <input>  <port id precision> <dim>..   </input>
                          <output> <port id precision names> <dim>..   </output>  </layer>..
              <edges>   <edge from-layer from-port to-layer to-port/>..
    .bin    the contents of the Const layers, each from a multiple of 64 bytes on; the layer's data tell
            element_type, shape, offset and size

Ports of a layer are counted from 0, inputs before outputs. A dim of -1 is open. The `names` of an output port are what
a program calls the tensor. Parameter and Result layers are the network's inputs and outputs, in their order.
Sources: OpenVINO documentation, openvino-ir-format; src/frontends/ir (2026.4).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, TypeAlias
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.numerics.packing import pack, packed_size

ALIGNMENT = 64
PRECISIONS: dict[ir.DataType, tuple[str, str]] = {
    ir.DataType.FLOAT: ("f32", "FP32"),
    ir.DataType.FLOAT16: ("f16", "FP16"),
    ir.DataType.BFLOAT16: ("bf16", "BF16"),
    ir.DataType.DOUBLE: ("f64", "FP64"),
    ir.DataType.INT4: ("i4", "I4"),
    ir.DataType.UINT4: ("u4", "U4"),
    ir.DataType.INT8: ("i8", "I8"),
    ir.DataType.UINT8: ("u8", "U8"),
    ir.DataType.INT16: ("i16", "I16"),
    ir.DataType.UINT16: ("u16", "U16"),
    ir.DataType.INT32: ("i32", "I32"),
    ir.DataType.UINT32: ("u32", "U32"),
    ir.DataType.INT64: ("i64", "I64"),
    ir.DataType.UINT64: ("u64", "U64"),
    ir.DataType.BOOL: ("boolean", "BOOL"),
}
"""Of each type the name in attributes and the name at ports."""
HALVES = (ir.DataType.INT4, ir.DataType.UINT4)
"""Two to a byte, the first in the low half."""
Shape: TypeAlias = tuple[int, ...]
Array: TypeAlias = npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Port:
    """An output of a layer: what it makes, and which layer and port that is. `shape` None: not known."""

    layer: int
    index: int
    dtype: ir.DataType
    shape: Shape | None = None
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer; `inputs` are the ports it reads."""

    kind: str
    name: str
    opset: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: Mapping[str, str]


@dataclass
class Document:
    """A network in writing."""

    name: str
    layers: list[Layer] = field(default_factory=list)
    _blobs: list[tuple[int, Callable[[], Array]]] = field(default_factory=list)
    _size: int = 0

    def add(
        self,
        kind: str,
        inputs: Sequence[Port],
        outputs: Sequence[tuple[ir.DataType, Shape | None]],
        attributes: Mapping[str, object] | None = None,
        opset: int = 1,
        name: str = "",
    ) -> tuple[Port, ...]:
        """A layer behind those there are; its outputs."""
        number = len(self.layers)
        made = tuple(Port(number, len(inputs) + i, *output) for i, output in enumerate(outputs))
        texts = {key: _text(value) for key, value in (attributes or {}).items()}
        title = f"{name or kind}_{number}"
        self.layers.append(Layer(kind, title, f"opset{opset}", tuple(inputs), made, texts))
        return made

    def constant(self, dtype: ir.DataType, shape: Shape, content: Callable[[], Array], name: str = "") -> Port:
        """A Const layer; `content` is asked for its numbers when the file is written."""
        count = int(np.prod(shape, dtype=np.int64))
        size = packed_size(count, 4) if dtype in HALVES else count * dtype.itemsize
        self._blobs.append((self._size, partial(_packed, content) if dtype in HALVES else content))
        attributes = {"element_type": _precision(dtype)[0], "shape": shape, "offset": self._size, "size": int(size)}
        self._size += -(-int(size) // ALIGNMENT) * ALIGNMENT
        return self.add("Const", (), [(dtype, shape)], attributes, name=name or "const")[0]

    def write_weights(self, file: BinaryIO) -> None:
        """The .bin file."""
        for offset, content in self._blobs:
            file.write(bytes(offset - file.tell()))
            file.write(np.ascontiguousarray(content()).tobytes())

    def text(self) -> str:
        """The .xml file."""
        lines = ['<?xml version="1.0"?>', f'<net name={quoteattr(self.name)} version="11">', "\t<layers>"]
        for number, layer in enumerate(self.layers):
            lines += _lines(number, layer)
        lines += ["\t</layers>", "\t<edges>"]
        for number, layer in enumerate(self.layers):
            for port, source in enumerate(layer.inputs):
                ends = f'from-layer="{source.layer}" from-port="{source.index}" to-layer="{number}" to-port="{port}"'
                lines.append(f"\t\t<edge {ends}/>")
        return "\n".join([*lines, "\t</edges>", "</net>", ""])


def _packed(content: Callable[[], Array]) -> Array:
    return pack(np.asarray(content()).astype(np.int8), 4)


def _lines(number: int, layer: Layer) -> list[str]:
    head = f'id="{number}" name={quoteattr(layer.name)} type="{layer.kind}" version="{layer.opset}"'
    lines = [f"\t\t<layer {head}>"]
    if layer.attributes:
        data = " ".join(f"{key}={quoteattr(value)}" for key, value in layer.attributes.items())
        lines.append(f"\t\t\t<data {data}/>")
    for side, ports in (("input", layer.inputs), ("output", layer.outputs)):
        if ports:
            first = 0 if side == "input" else len(layer.inputs)
            inner = [line for i, port in enumerate(ports) for line in _port(first + i, port, side == "output")]
            lines += [f"\t\t\t<{side}>", *inner, f"\t\t\t</{side}>"]
    return [*lines, "\t\t</layer>"]


def _port(index: int, port: Port, output: bool) -> list[str]:
    names = ",".join(name.replace("\\", "\\\\").replace(",", "\\,") for name in port.names) if output else ""
    head = f'id="{index}" precision="{_precision(port.dtype)[1]}"' + (f" names={quoteattr(names)}" if names else "")
    dims = [f"\t\t\t\t\t<dim>{d}</dim>" for d in port.shape or ()]
    return [f"\t\t\t\t<port {head}>", *dims, "\t\t\t\t</port>"]


def _precision(dtype: ir.DataType) -> tuple[str, str]:
    if dtype not in PRECISIONS:
        raise UnsupportedByTarget(f"OpenVINO IR: numbers of type {dtype.name} are not written.")
    return PRECISIONS[dtype]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(np.float32(value)))
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(v) for v in value)
    if isinstance(value, ir.DataType):
        return _precision(value)[0]
    return str(value)
