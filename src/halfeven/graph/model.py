"""Loading: a path, a ModelProto or an onnx-ir model becomes a model that the rest of the package can trust.

What `load` promises: the graph has nodes, outputs and an opset of 7 or later; every tensor that is read is produced;
nodes stand in the order of computation; every tensor's bytes are there, in the model's folder, and as many as its
shape says. Weights in external files stay there, memory-mapped, so a model of many gigabytes loads in milliseconds.
Operators of unknown domains are let through: they stay in float. `save` and `spare` are in saving.py.
"""

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.edit import graphs, root_cause, roots, subgraphs, values
from halfeven.graph.saving import save, spare
from halfeven.graph.tensors import check_tensors

__all__ = ["load", "save", "spare"]

OLDEST_OPSET = 7
"""Before opset 7 broadcasting, Dropout and BatchNormalization meant other things, and no runtime loads them now."""

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message can have."""

_FORMATS = (
    (0, b"PK\x03\x04", "a ZIP archive, as PyTorch checkpoints and compressed models are"),
    (0, b"\x80", "a Python pickle, as old PyTorch checkpoints are"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (4, b"TFL3", "a LiteRT (TFLite) model"),
    (4, b"ORTM", "a model in ONNX Runtime's own format"),
    (8, b'{"', "a safetensors file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file it points to; run 'git lfs pull'"),
    (0, b"<?xml", "an XML file, as OpenVINO models are"),
    (0, b"<", "a text file"),
    (0, b"{", "a JSON file"),
    (0, b"ir_version", "ONNX in text form"),
)
"""What other files begin with: offset, bytes, what to call it. Asked only of files that failed to be ONNX."""


_KERAS = (
    "is a Keras model, which may hold code and is not read. Set KERAS_BACKEND=torch, load it with "
    "keras.saving.load_model and give the model to halfeven.quantize; or write it with "
    "model.export('model.onnx', format='onnx'), or as .tflite, and give that file."
)
_SAVED_MODEL = "saved_model.pb"
_TENSORFLOW = (
    "is a TensorFlow SavedModel, which is not read. Convert it to .tflite with "
    "tf.lite.TFLiteConverter.from_saved_model, or to ONNX with tf2onnx, and give that file."
)


def load(source: str | os.PathLike[str] | onnx.ModelProto | ir.Model) -> ir.Model:
    """Load a float model.

    Args:
        source: A path to a binary ONNX file, a ModelProto (copied; later edits do not reach it), or an onnx-ir model
            (returned as it is, its nodes in order of computation).

    Raises:
        UnsupportedModel: There is no such file, it is not ONNX, damaged, too old, unsafe, or contradicts itself.
    """
    folders: tuple[Path, ...] | None = None
    if isinstance(source, ir.Model):
        where, model = "the model", source
    elif isinstance(source, onnx.ModelProto):
        where, proto = "the model", onnx.ModelProto()
        proto.CopyFrom(source)
        model = _from_proto(proto, where, embedded=True)
    else:
        path = Path(source)
        where = str(path)
        model = _from_proto(_read(path), where, embedded=False)
        folders = (path.parent, Path(os.path.realpath(path)).parent)
    _check_structure(model, where)
    check_tensors(model, where, folders)
    return model


def _read(path: Path) -> onnx.ModelProto:
    try:
        if (path / _SAVED_MODEL).is_file() or (path.name == _SAVED_MODEL and path.is_file()):
            raise UnsupportedModel(f"{path} {_TENSORFLOW}")
        if path.exists() and not path.is_file():
            raise UnsupportedModel(f"{path} is a folder or a device. Give the path of an ONNX file.")
        if path.stat().st_size > PROTOBUF_LIMIT:
            with path.open("rb") as file:
                raise _not_onnx(path, file.read(64), "has 2 GiB or more; ONNX keeps such weights in a file beside it")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnsupportedModel(f"{path} does not exist. Give the path of an ONNX file.") from None
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"{path} cannot be read: {error}.") from None
    if not data:
        raise UnsupportedModel(f"{path} is empty. Export or download the model again.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # protobuf's DecodeError, which has no public type hints
        raise _not_onnx(path, data[:64], "cannot be parsed: it is damaged or truncated") from None
    if not proto.HasField("graph"):
        raise _not_onnx(path, data[:64], "holds no graph: it is damaged or truncated")
    return proto


def _not_onnx(path: Path, head: bytes, fault: str) -> UnsupportedModel:
    """Make the error for a file that begins with `head` and has `fault` when read as ONNX."""
    if head.startswith(b"\x89HDF") or (path.suffix == ".keras" and head.startswith(b"PK")):
        return UnsupportedModel(f"{path} {_KERAS}")
    for offset, magic, name in _FORMATS:
        if head[offset:].startswith(magic):
            return UnsupportedModel(f"{path} is not an ONNX model but {name}. Give a model exported to ONNX.")
    return UnsupportedModel(f"{path} {fault}, or not an ONNX model. Export or download it again.")


def _from_proto(proto: onnx.ModelProto, where: str, *, embedded: bool) -> ir.Model:
    _check_proto(proto.graph, where, embedded)
    for opset in proto.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    try:
        return ir.serde.deserialize_model(proto)
    except Exception as error:
        raise UnsupportedModel(f"{where} is not a valid ONNX model: {root_cause(error)}") from None


def _check_proto(graph: onnx.GraphProto, where: str, embedded: bool) -> None:
    """Refuse what onnx-ir would drop without a word, or could not find."""
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise UnsupportedModel(f"{where} stores '{name}' as a sparse tensor. Export it with dense weights.")
    for tensor in graph.initializer:
        if not tensor.name:
            raise UnsupportedModel(f"{where} has an initializer without a name. The file is damaged.")
        if embedded and tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UnsupportedModel(
                f"{where} keeps '{tensor.name}' in an external file, but a ModelProto does not say in which folder. "
                "Give the path of the file."
            )
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _check_proto(inner, where, embedded)


def _check_structure(model: ir.Model, where: str) -> None:
    if len(model.graph) == 0:
        raise UnsupportedModel(f"{where} has a graph without nodes: there is nothing to quantize.")
    if not model.graph.outputs:
        raise UnsupportedModel(f"{where} has a graph without outputs. The file is damaged, or was cut out badly.")
    _check_opset(model, where)
    for graph in graphs(model):
        names = [value.name for value in values(graph)]
        for node in graph:
            names += [node.name, node.op_type, node.domain]
            for value in node.inputs:
                _check_source(value, f"{where}: {node.op_type} '{node.name}' reads")
        for value in graph.outputs:
            _check_source(value, f"{where}: graph '{graph.name}' outputs")
        for name in names:
            if name is not None and not isinstance(name, str):
                raise UnsupportedModel(f"{where} has the name {name!r}, which is not text. The file is damaged.")
    for root in roots(model):
        if not _in_order(root, set()):
            _sort(root, where)


def _check_opset(model: ir.Model, where: str) -> None:
    version = model.opset_imports.get("")
    if version is None:
        if any(node.domain == "" for graph in graphs(model) for node in graph):
            raise UnsupportedModel(f"{where} does not say its opset. It is damaged or truncated.")
    elif version < OLDEST_OPSET:
        raise UnsupportedModel(
            f"{where} has opset {version}; the oldest that can be read is {OLDEST_OPSET}. "
            "Export the model again with a newer opset."
        )


def _check_source(value: ir.Value | None, what: str) -> None:
    if value is None or value.producer() is not None or value.is_graph_input() or value.is_initializer():
        return
    raise UnsupportedModel(f"{what} '{value.name}', which no node, input or initializer gives. The model is invalid.")


def _in_order(graph: ir.Graph, done: set[ir.Node]) -> bool:
    """Say whether each node comes after those it reads from; `done` holds the nodes computed so far."""
    for node in graph:
        if any(value is not None and (made := value.producer()) and made not in done for value in node.inputs):
            return False
        if not all(_in_order(inner, done) for inner in subgraphs(node)):
            return False
        done.add(node)
    return True


def _sort(root: ir.Graph, where: str) -> None:
    try:
        root.sort()
    except ValueError:
        raise UnsupportedModel(f"{where} has a cycle: some node needs its own result. The model is invalid.") from None
