"""Checks of a model's tensors before anything is read or allocated.

An ONNX file is untrusted input: its tensors say their own shapes, and where in which other file their data lie. Here
each tensor's dims, dtype and bytes are compared, and data files are held to lie in the model's folder.

Two folders are allowed: the one the model was named in, and the one its file really lies in when the given path is a
symbolic link (download caches keep a model and its data as links into one folder of blobs). A data file that passes
but would be refused later by onnx-ir's own, narrower check (such a link, or a file with several hard links) is
referred to by its real path.
"""

import math
import os
import stat
from pathlib import Path, PureWindowsPath

import onnx
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.edit import graphs

MAX_RANK = 64
"""NumPy's limit; no operator of ONNX comes near it."""

_PACKED = {2: 4, 4: 2}
"""Values per int32 entry of a tensor that is not stored raw, by bit width; one where not listed."""


_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.UINT64: "uint64_data",
}
"""Where a TensorProto that is not stored raw keeps its values; `int32_data` for the types not listed."""


def check_tensors(model: ir.Model, where: str, folders: tuple[Path, ...] | None) -> None:
    """Check every tensor of `model`; `where` names the model in errors.

    Args:
        model: Changed only in that external tensors may be re-pointed to the real path of their file, and others are
            taken out of the message they came in.
        where: What to call the model in errors: its path.
        folders: Folders in which external data may lie, the model's own first. None: the model has no folder, it was
            handed over as an object, and its external tensors are taken as they are if their files hold them.

    Raises:
        UnsupportedModel: A tensor's data are missing, elsewhere, or not of the size its dims and dtype ask for.
    """
    for graph in graphs(model):
        for value in tuple(graph.initializers.values()):
            if value.const_value is not None:
                value.const_value = _checked(value.const_value, f"{where}: initializer '{value.name}'", folders)
        for node in graph:
            for attribute in tuple(node.attributes.values()):
                _check_attribute(node, attribute, where, folders)


def _check_attribute(node: ir.Node, attribute: ir.Attr, where: str, folders: tuple[Path, ...] | None) -> None:
    if attribute.is_ref():
        return
    what = f"{where}: {node.op_type} '{node.name}', attribute '{attribute.name}'"
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = _checked(attribute.as_tensor(), what, folders)
        if tensor is not attribute.as_tensor():
            node.attributes[attribute.name] = ir.AttrTensor(attribute.name, tensor, doc_string=attribute.doc_string)
    elif attribute.type == ir.AttributeType.TENSORS:
        for tensor in attribute.as_tensors():
            _checked(tensor, what, folders)


def _checked(tensor: ir.TensorProtocol, what: str, folders: tuple[Path, ...] | None) -> ir.TensorProtocol:
    dims = tuple(tensor.shape.numpy())
    if len(dims) > MAX_RANK or any(dim < 0 for dim in dims):
        raise UnsupportedModel(f"{what} has the impossible shape {list(dims[:8])}. The file is damaged.")
    if tensor.dtype == ir.DataType.UNDEFINED:
        raise UnsupportedModel(f"{what} has no data type. The file is damaged.")
    if isinstance(tensor, ir.ExternalTensor):
        return _checked_external(tensor, what, folders)
    if isinstance(tensor, ir.serde.TensorProtoTensor):
        _check_embedded(tensor.raw, tensor.dtype, dims, what)
        return _own(tensor)
    elif isinstance(tensor, ir.StringTensor) and len(tensor.string_data()) != math.prod(dims):
        raise UnsupportedModel(f"{what} has shape {list(dims)} but holds {len(tensor.string_data())} strings.")
    return tensor


def _own(tensor: ir.serde.TensorProtoTensor) -> ir.TensorProtocol:
    """The tensor with values of its own: one that is left in the message it came in keeps all others in memory."""
    if tensor.dtype.bitwidth < 8 or not tensor.raw.HasField("raw_data"):
        return tensor
    own = ir.Tensor(tensor.numpy(), tensor.dtype, name=tensor.name, doc_string=tensor.doc_string)
    own.metadata_props.update(tensor.metadata_props)
    return own


def _check_embedded(proto: onnx.TensorProto, dtype: ir.DataType, dims: tuple[int, ...], what: str) -> None:
    count = math.prod(dims)
    if proto.HasField("raw_data"):
        needed, held, unit = -(-count * dtype.bitwidth // 8), len(proto.raw_data), "bytes"
    else:
        parts = 2 if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128) else 1
        needed, unit = -(-count * parts // _PACKED.get(dtype.bitwidth, 1)), "values"
        held = len(getattr(proto, _FIELDS.get(dtype, "int32_data")))
    if held != needed:
        raise UnsupportedModel(
            f"{what} of shape {list(dims)} and type {dtype.name} needs {needed} {unit} but the file holds {held}. "
            "It is damaged or truncated."
        )


def _checked_external(tensor: ir.ExternalTensor, what: str, folders: tuple[Path, ...] | None) -> ir.ExternalTensor:
    real, file = _data_file(tensor, what, folders)
    needed = -(-math.prod(tensor.shape.numpy()) * tensor.dtype.bitwidth // 8)
    offset = tensor.offset or 0
    length = needed if tensor.length is None else tensor.length
    if tensor.dtype == ir.DataType.STRING or length != needed:
        raise UnsupportedModel(
            f"{what} of shape {list(tensor.shape.numpy())} and type {tensor.dtype.name} needs {needed} bytes, "
            f"but its entry for external data says {length}. The model file is damaged."
        )
    if offset < 0 or offset + length > file.st_size:
        raise UnsupportedModel(
            f"{what} lies at bytes {offset} to {offset + length} of '{tensor.location}', which has {file.st_size}. "
            "The data file is truncated, or belongs to another model."
        )
    if folders is None:
        return tensor
    plain = file.st_nlink == 1 and real.is_relative_to(os.path.realpath(folders[0]))
    return ir.ExternalTensor(
        tensor.location if plain else real,
        tensor.offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
        base_dir=folders[0] if plain else "",
    )


def _data_file(tensor: ir.ExternalTensor, what: str, folders: tuple[Path, ...] | None) -> tuple[Path, os.stat_result]:
    """Return the real path of the tensor's file and its stat; raise if it is outside of `folders`, or no file."""
    location = os.fspath(tensor.location)
    if folders is not None and (not location or os.path.isabs(location) or PureWindowsPath(location).drive):
        raise UnsupportedModel(
            f"{what} keeps its data in '{location}', which is not a path relative to the model's folder. "
            "Such a model is not opened: it could read any file of this machine."
        )
    try:
        real = Path(os.path.realpath(tensor.path if folders is None else folders[0] / location))
        if folders is not None and not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
            raise UnsupportedModel(
                f"{what} keeps its data in '{location}', which leads out of the model's folder '{folders[0]}'. "
                "Such a model is not opened: it could read any file of this machine."
            )
        file = real.stat()
    except (OSError, ValueError) as error:
        raise UnsupportedModel(
            f"{what} keeps its data in '{location}', which cannot be read ({error}). "
            "Put the data file beside the model."
        ) from None
    if not stat.S_ISREG(file.st_mode):
        raise UnsupportedModel(f"{what} keeps its data in '{location}', which is not a regular file.")
    return real, file
