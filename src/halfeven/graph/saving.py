"""Saving: a model goes to disk whole or not at all, and the same model gives the same bytes.

Files are written under another name in the same folder and put in place by `os.replace`, the data file before the
model file. Weights go to `NAME.onnx.data` beside the model if it had external weights before or would come near
protobuf's limit of 2 GiB; they are copied one tensor at a time, so memory holds one tensor, and none that is mapped
from a file. Offsets of tensors of a page or more are page multiples, so that runtimes can map them.
"""

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from halfeven.errors import BadOption, QuantError
from halfeven.graph.constants import lift_constants
from halfeven.graph.edit import graphs, root_cause
from halfeven.graph.weights import let_go

EXTERNAL_ABOVE = 1_800_000_000
"""Bytes of weights above which they go to a file of their own; the graph itself needs the rest of the 2 GiB."""

INLINE_BELOW = 1024
"""Bytes below which a tensor stays in the model file even then, as shapes and scalars are read when a model loads."""

PAGE = 4096

PIECE = 2**26
"""Bytes of a tensor that are brought into order, and into memory, at once."""


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write `model` to `path`, with its metadata, doc strings and producer; `model` itself is not changed.

    External tensors that were mapped from the very data file that is overwritten become invalid, and say so when read.

    Raises:
        BadOption: The folder does not exist or cannot be written to, `path` is a folder, or the disk is full. Nothing
            is left of the attempt.
        QuantError: The model cannot be expressed as ONNX.
    """
    target = Path(path)
    data_path = target.with_name(target.name + ".data")
    copy = model.clone()
    try:
        if target.is_dir() or not target.parent.is_dir():
            raise BadOption(f"{target} is a folder, or lies in none. Give the path of a file in an existing folder.")
        with _temporary(target) as model_file, _temporary(data_path) as data_file:
            external = _needs_data_file(copy)
            if external:
                with data_file.open("xb") as stream:
                    _move_out(copy, stream, data_path)
            with model_file.open("xb") as stream:
                stream.write(_serialized(copy, target))
            if external:
                _replace_data(model, data_file, data_path)
            os.replace(model_file, target)
    except OSError as error:
        advice = "Free some space or choose another disk." if error.errno == errno.ENOSPC else "Choose another folder."
        raise BadOption(f"{target} could not be written: {error.strerror or error}. {advice}") from None


def spare(path: str | os.PathLike[str], read: Iterable[Path]) -> None:
    """Refuse a path beside which `save` might put a data file in place of one of `read`.

    Raises:
        BadOption: there is a data file of that name, and it is among `read`.
    """
    target = Path(path)
    beside = target.with_name(target.name + ".data")
    if beside.is_file() and any(file.exists() and beside.samefile(file) for file in read):
        raise BadOption(
            f"'{target}': its weights would replace '{beside}', which the source model reads. Choose another name."
        )


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` that no file has, and leave no file of that name behind."""
    name = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)


def _needs_data_file(model: ir.Model) -> bool:
    """Say whether some tensor is external or all together are too large for one file.

    If so, Constant nodes become initializers, as runtimes look for external data only there; an external tensor in
    any other attribute is read in.
    """
    tensors = [tensor for _, _, tensor in _attribute_tensors(model)]
    tensors += [value.const_value for value in _initializers(model) if value.const_value is not None]
    size = sum(tensor.nbytes for tensor in tensors if tensor.dtype != ir.DataType.STRING)
    if size <= EXTERNAL_ABOVE and not any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors):
        return False
    lift_constants(model)
    for node, name, tensor in tuple(_attribute_tensors(model)):
        if isinstance(tensor, ir.ExternalTensor):
            node.attributes[name] = ir.AttrTensor(name, ir.Tensor(tensor.numpy(), dtype=tensor.dtype))
    return True


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    for graph in graphs(model):
        yield from graph.initializers.values()


def _attribute_tensors(model: ir.Model) -> Iterator[tuple[ir.Node, str, ir.TensorProtocol]]:
    for graph in graphs(model):
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield node, attribute.name, attribute.as_tensor()


def _move_out(model: ir.Model, stream: BinaryIO, data_path: Path) -> None:
    """Write the large initializers of `model` to `stream` and leave in their place references to `data_path`."""
    for value in _initializers(model):
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes < INLINE_BELOW:
            continue
        if tensor.nbytes >= PAGE:
            stream.seek(-stream.tell() % PAGE, os.SEEK_CUR)
        offset = stream.tell()
        _write(tensor, stream)
        let_go(tensor)
        value.const_value = ir.ExternalTensor(
            data_path.name,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
            doc_string=tensor.doc_string,
            base_dir=data_path.parent,
        )


def _write(tensor: ir.TensorProtocol, stream: BinaryIO) -> None:
    """Write the bytes of `tensor`; of one that is a view, such as a transposed weight in a mapped file, in pieces.

    NumPy writes a view element by element, which takes minutes for a gigabyte, or else needs a copy of it all.
    """
    array = tensor.raw if isinstance(tensor, ir.Tensor) else None
    if isinstance(array, np.ndarray) and not array.flags.c_contiguous and tensor.dtype.bitwidth >= 8:
        little = array.dtype.newbyteorder("<")
        step = max(1, PIECE * len(array) // tensor.nbytes)
        for start in range(0, len(array), step):
            stream.write(np.asarray(array[start : start + step], little, order="C").data)
    elif isinstance(tensor, ir.ExternalTensor | ir.Tensor):
        tensor.tofile(stream)
    else:
        stream.write(tensor.tobytes())


def _serialized(model: ir.Model, target: Path) -> bytes:
    try:
        return bytes(ir.serde.serialize_model(model).SerializeToString(deterministic=True))
    except Exception as error:
        raise QuantError(f"{target} could not be written as ONNX: {root_cause(error)}") from None


def _replace_data(model: ir.Model, written: Path, data_path: Path) -> None:
    """Put the data file in place; tensors of `model` that are mapped from the file it replaces become invalid."""
    mapped = [
        tensor
        for value in _initializers(model)
        if isinstance(tensor := value.const_value, ir.ExternalTensor)
        and data_path.exists()
        and Path(tensor.path).exists()
        and data_path.samefile(tensor.path)
    ]
    for tensor in mapped:
        tensor.release()
    os.replace(written, data_path)
    for tensor in mapped:
        tensor.invalidate()
