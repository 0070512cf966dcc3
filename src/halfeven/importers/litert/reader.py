"""From a .tflite file to an ONNX graph: `load_tflite`.

    reading      flatbuffer, schema, tensors, contents    bytes to tensors and operators, all checked
    converting   builder, layout and one file for each kind of operator
    here         which operator goes where, the graph's inputs and outputs, notes

The graph has opset 21 and the file's names, made unique. Its inputs and outputs have the file's shapes and types:
pictures stay N, H, W, C, codes stay codes. A float file gives a float graph, a file of codes one with QuantizeLinear
and DequantizeLinear whose scales and zero points are the file's; `halfeven.importers.qdq` makes a plan of it.
"""

from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.model import load
from halfeven.importers.litert import codes, elementwise, layers, moves, recurrent, reductions, slices
from halfeven.importers.litert.builder import Builder, Held
from halfeven.importers.litert.contents import CUSTOM, Contents, Operator, read_contents
from halfeven.importers.litert.schema import OPERATORS
from halfeven.wording import counted

OPSET, IR_VERSION = 21, 10
Converter = Callable[[Builder, Operator], None]
CONVERTERS: Mapping[str, Converter] = {
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    **dict.fromkeys(elementwise.CLIPS, elementwise.clip),
    **dict.fromkeys((*elementwise.BINARY, *elementwise.COMPARISONS), elementwise.binary),
    **dict.fromkeys(reductions.REDUCTIONS, reductions.reduce),
    "ARG_MAX": reductions.extreme,
    "ARG_MIN": reductions.extreme,
    "AVERAGE_POOL_2D": layers.pool,
    "BATCH_MATMUL": layers.matrix_product,
    "BATCH_TO_SPACE_ND": moves.blocks,
    "BROADCAST_TO": moves.broadcast,
    "CAST": elementwise.cast,
    "CONCATENATION": moves.concatenate,
    "CONV_2D": layers.convolution,
    f"{CUSTOM}Convolution2DTransposeBias": layers.transposed_convolution_of_mediapipe,
    "CUMSUM": reductions.running_sum,
    "DENSIFY": codes.densify,
    "DEPTHWISE_CONV_2D": layers.convolution,
    "DEPTH_TO_SPACE": moves.depth,
    "DEQUANTIZE": codes.dequantize,
    "EMBEDDING_LOOKUP": moves.lookup,
    "EXPAND_DIMS": moves.reshape,
    "FILL": moves.fill,
    "FLOOR_DIV": elementwise.floor_division,
    "FLOOR_MOD": elementwise.floor_division,
    "FULLY_CONNECTED": layers.fully_connected,
    "GATHER": moves.gather,
    "GATHER_ND": moves.gather_places,
    "GELU": elementwise.gelu,
    "L2_NORMALIZATION": elementwise.unit_length,
    "LEAKY_RELU": elementwise.leaky,
    "LOG_SOFTMAX": elementwise.softmax,
    "MAX_POOL_2D": layers.pool,
    "MIRROR_PAD": moves.pad,
    "ONE_HOT": reductions.one_hot,
    "PACK": moves.pack,
    "PAD": moves.pad,
    "PADV2": moves.pad,
    "QUANTIZE": codes.quantize,
    "RANGE": moves.sequence,
    "RANK": moves.rank,
    "RESHAPE": moves.reshape,
    "RESIZE_BILINEAR": reductions.resize,
    "RESIZE_NEAREST_NEIGHBOR": reductions.resize,
    "REVERSE_SEQUENCE": moves.reverse_sequence,
    "REVERSE_V2": moves.reverse,
    "RSQRT": elementwise.reciprocal_root,
    "SCATTER_ND": moves.scatter,
    "SELECT": elementwise.select,
    "SELECT_V2": elementwise.select,
    "SHAPE": moves.shape,
    "SLICE": slices.piece,
    "SOFTMAX": elementwise.softmax,
    "SPACE_TO_BATCH_ND": moves.blocks,
    "SPACE_TO_DEPTH": moves.depth,
    "SPLIT": moves.split,
    "SPLIT_V": moves.split,
    "SQUARE": elementwise.square,
    "SQUARED_DIFFERENCE": elementwise.squared_difference,
    "SQUEEZE": moves.reshape,
    "STRIDED_SLICE": slices.strided,
    "TILE": moves.tile,
    "TOPK_V2": reductions.largest,
    "TRANSPOSE": moves.transpose,
    "TRANSPOSE_CONV": layers.transposed_convolution,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": recurrent.lstm,
    "UNPACK": moves.unpack,
    "WHERE": reductions.where,
    "ZEROS_LIKE": elementwise.zeros,
}
"""The operators that are imported."""


@dataclass(frozen=True, eq=False)
class Imported:
    """A graph, and sentences on what became of the file."""

    model: ir.Model
    notes: tuple[str, ...]


def load_tflite(path: str | Path) -> Imported:
    """The graph of a .tflite file.

    Raises:
        UnsupportedModel: it cannot be read, is damaged, or has an operator or type that is not imported.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnsupportedModel(f"{path} cannot be read: {error.strerror or error}.") from None
    return import_tflite(memoryview(data), str(path))


def import_tflite(data: memoryview, where: str) -> Imported:
    """The graph of a .tflite file's bytes; `where` is what errors call it.

    Raises:
        UnsupportedModel: as of `load_tflite`.
    """
    contents = read_contents(data, where)
    _refuse_unknown(contents)
    b = Builder(contents, len(data))
    _begin(b)
    for op in contents.operators:
        _convert(b, op)
    model = _model(b)
    return Imported(load(model), tuple(dict.fromkeys((*_notes(b), *b.notes))))


def _refuse_unknown(contents: Contents) -> None:
    """Name all operators that cannot be imported, before any is."""
    unknown = Counter(op.kind for op in contents.operators if op.kind not in CONVERTERS)
    if unknown:
        names = ", ".join(f"{kind.removeprefix(CUSTOM)} ({count})" for kind, count in sorted(unknown.items()))
        custom = any(kind not in OPERATORS for kind in unknown)
        advice = " Custom operators are known to their makers only; convert the model without them." if custom else ""
        raise UnsupportedModel(f"{contents.where} has operators that cannot be imported: {names}.{advice}")


def _begin(b: Builder) -> None:
    for index in b.contents.inputs:
        tensor, name = b.tensors[index], b.named(index)
        shape = ir.Shape([_open(name, axis) if d is None else d for axis, d in enumerate(tensor.dims)])
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype))
        b.inputs.append(value)
        b.held[index] = Held(last=b.real(value, tensor) if tensor.coded else value)


def _open(name: str, axis: int) -> str:
    return "batch" if axis == 0 else f"{name}_{axis}"


def _convert(b: Builder, op: Operator) -> None:
    """Convert an operator; its nodes are named by what it gives, of several fused operators' names by the first."""
    b.label = b.names[op.outputs[0]].partition(";")[0] if op.outputs else op.kind
    try:
        CONVERTERS[op.kind](b, op)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, ZeroDivisionError) as e:
        raise UnsupportedModel(
            f"{b.contents.where}: {op.kind} '{b.label}' contradicts itself ({' '.join(str(e).split())}). "
            "The file is damaged, or of a newer TensorFlow."
        ) from e


def _model(b: Builder) -> ir.Model:
    outputs: dict[ir.Value, None] = {}
    for index in b.contents.outputs:
        outputs[_output(b, index, outputs)] = None
    graph = ir.Graph(
        b.inputs, tuple(outputs), nodes=b.nodes, initializers=b.initializers, opset_imports={"": OPSET}, name="main"
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="halfeven")


def _output(b: Builder, index: int, others: Container[ir.Value]) -> ir.Value:
    """The value that leaves the graph, under the tensor's name: codes where the tensor holds codes."""
    tensor, name = b.tensors[index], b.names[index]
    value = b.read(index)
    node = value.producer()
    if tensor.coded and node is not None and node.inputs[0] is not None:
        value = node.inputs[0]
    if value.producer() is None or value in others:
        value = b.call("Identity", value)
    if value.name != name:
        value.name = b.named(index)
    b.describe(value, tensor, False, real=False)
    return value


def _notes(b: Builder) -> list[str]:
    notes = []
    border = [b.tensors[i] for i in (*b.contents.inputs, *b.contents.outputs) if b.tensors[i].rank == 4]
    if border:
        names = ", ".join(f"'{tensor.name}'" for tensor in border[:4]) + (", ..." if len(border) > 4 else "")
        notes.append(f"inputs and outputs keep the file's order of axes, channels last: {names}")
    held = [t for t in b.tensors if t.coded and t.data is None]
    weights = [t for t in b.tensors if t.coded and t.data is not None and t.rank > 1]
    if weights and not held:
        notes.append(
            f"the file has {counted(len(weights), 'constant')} of integer codes and computes in floating point; where "
            "TensorFlow Lite quantizes what such a layer reads at each call, the graph computes with the real numbers"
        )
    if b.contents.others:
        notes.append(f"of the file's {b.contents.others + 1} subgraphs the first is imported")
    return notes
