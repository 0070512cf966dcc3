"""A .tflite file from lists of tensors and operators.

    file      flatbuffer, mark TFL3: Model(version 3, operator_codes, subgraphs[1], buffers, metadata, signature_defs)
    buffer    0 is empty; a constant's bytes start at a multiple of 16, as the kernels read them where they lie
    tensor    shape, element type, buffer, name, quantization (scale[], zero_point[], quantized_dimension), signature of
              the shape with -1 for an open axis
    operator  index of its code, inputs (-1: left out), outputs, options by kind

`real = (code - zero_point) * scale`, as everywhere. Equal lists give equal bytes: nothing depends on time or order of
a dictionary. Versions of operators are those that TensorFlow Lite's converter writes for the types at hand.
Sources: tensorflow/compiler/mlir/lite/schema/schema.fbs, tools/versioning/op_version.cc.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.errors import UnsupportedByTarget
from halfeven.numerics.packing import pack
from halfeven.run.litert import MISSING, schema

Array = npt.NDArray[np.generic]
ALIGNMENT = 16
LARGEST = (1 << 31) - (1 << 20)  # offsets are signed 32 bits; the rest is left for the structure
TYPES: Mapping[str, str] = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "float64": "FLOAT64",
    "int4": "INT4",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "bool": "BOOL",
}
VERSIONS: Mapping[str, tuple[int, int, int]] = {
    "ADD": (1, 2, 4),
    "AVERAGE_POOL_2D": (1, 2, 3),
    "BATCH_MATMUL": (1, 2, 3),
    "BROADCAST_TO": (2, 2, 2),
    "CONCATENATION": (1, 2, 3),
    "CONV_2D": (1, 3, 4),
    "DEPTHWISE_CONV_2D": (2, 3, 5),
    "DEQUANTIZE": (2, 2, 3),
    "EXP": (1, 2, 2),
    "FULLY_CONNECTED": (5, 5, 7),
    "GATHER": (1, 2, 4),
    "LEAKY_RELU": (1, 2, 2),
    "LOGISTIC": (1, 2, 3),
    "MAXIMUM": (1, 2, 3),
    "MAX_POOL_2D": (1, 2, 3),
    "MEAN": (1, 2, 3),
    "MINIMUM": (1, 2, 3),
    "MUL": (1, 2, 4),
    "PAD": (1, 2, 3),
    "PADV2": (1, 2, 3),
    "QUANTIZE": (1, 1, 2),
    "REDUCE_MAX": (1, 2, 3),
    "REDUCE_MIN": (1, 2, 3),
    "RELU": (1, 2, 2),
    "RELU6": (1, 2, 2),
    "RESHAPE": (1, 1, 1),
    "RESIZE_BILINEAR": (3, 3, 3),
    "RESIZE_NEAREST_NEIGHBOR": (3, 3, 3),
    "SLICE": (1, 2, 4),
    "SOFTMAX": (1, 2, 3),
    "SPLIT": (1, 2, 4),
    "STRIDED_SLICE": (1, 2, 4),
    "SUB": (1, 2, 3),
    "SUM": (1, 2, 2),
    "TANH": (1, 2, 3),
    "TRANSPOSE": (1, 2, 4),
    "TRANSPOSE_CONV": (3, 3, 3),
}


HALVED: Mapping[str, int] = {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 7, "DEQUANTIZE": 6, "FULLY_CONNECTED": 10}
"""Versions with weights of int4."""


@dataclass(frozen=True, eq=False)
class FileTensor:
    """One tensor of the file; `scale` and `zero_point` have one entry, or one for each index along `axis`.

    `data` of a constant of int4 are int8.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: Array | None = None
    zero_point: Array | None = None
    axis: int = 0
    data: Array | None = None
    open: int | None = None
    """The axis whose length the caller may choose."""


@dataclass(frozen=True, eq=False)
class FileOp:
    """One operator: its code, tensor numbers, and options as the name of the schema's table and its fields."""

    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class FileGraph:
    """What a file holds; `inputs` and `outputs` are numbers of tensors, whose names its signature bears."""

    tensors: Sequence[FileTensor]
    ops: Sequence[FileOp]
    inputs: Sequence[int]
    outputs: Sequence[int]
    metadata: Mapping[str, bytes] = field(default_factory=dict)


class _Buffer:
    """Stands for a buffer of the schema; its bytes start at a multiple of 16."""

    def __init__(self, tables: Any, data: bytes | memoryview = b"") -> None:
        self.tables, self.data = tables, data

    def Pack(self, builder: Any) -> int:  # noqa: N802  (the schema's own name)
        where = None
        if len(self.data):
            builder.StartVector(1, len(self.data), ALIGNMENT)
            builder.head = builder.Head() - len(self.data)
            builder.Bytes[builder.Head() : builder.Head() + len(self.data)] = self.data
            where = builder.EndVector()
        self.tables.BufferStart(builder)
        if where is not None:
            self.tables.BufferAddData(builder, where)
        return int(self.tables.BufferEnd(builder))


def to_bytes(graph: FileGraph) -> bytes:
    """The file.

    Raises:
        BadOption: LiteRT's package, which ships the schema, is not installed.
        UnsupportedByTarget: the file would not fit in 2 GiB, or holds a type that the format lacks.
    """
    tables = schema()
    try:
        import flatbuffers
    except ImportError as error:
        raise UnsupportedByTarget(MISSING) from error
    size = sum(t.data.nbytes + ALIGNMENT for t in graph.tensors if t.data is not None)
    if size > LARGEST:
        raise UnsupportedByTarget(
            f"The constants take {size / 1e9:.1f} GB; a .tflite file holds at most 2 GB. Quantize more of the weights."
        )
    model = _model(tables, graph)
    builder = flatbuffers.Builder(min(size + (1 << 16), LARGEST))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _model(tables: Any, graph: FileGraph) -> Any:
    buffers = [_Buffer(tables)]
    tensors = []
    for tensor in graph.tensors:
        index = 0
        if tensor.data is not None:
            buffers.append(_Buffer(tables, _content(tensor)))
            index = len(buffers) - 1
        tensors.append(_tensor(tables, tensor, index))
    codes: dict[tuple[str, int], int] = {}
    operators = []
    for op in graph.ops:
        key = (op.code, _version(op, graph.tensors))
        operators.append(_operator(tables, op, codes.setdefault(key, len(codes))))
    metadata = []
    for name, data in graph.metadata.items():
        buffers.append(_Buffer(tables, data))
        metadata.append(tables.MetadataT(name=name, buffer=len(buffers) - 1))
    subgraph = tables.SubGraphT(
        tensors=tensors,
        inputs=np.array(graph.inputs, np.int32),
        outputs=np.array(graph.outputs, np.int32),
        operators=operators,
        name="main",
    )
    return tables.ModelT(
        version=3,
        operatorCodes=[_code(tables, *key) for key in codes],
        subgraphs=[subgraph],
        description="halfeven",
        buffers=buffers,
        metadata=metadata or None,
        signatureDefs=[_signature(tables, graph)],
    )


def _tensor(tables: Any, tensor: FileTensor, buffer: int) -> Any:
    if tensor.dtype not in TYPES:
        raise UnsupportedByTarget(f"Tensor '{tensor.name}' is {tensor.dtype}, a type that a .tflite file lacks.")
    params = None
    if tensor.scale is not None:
        assert tensor.zero_point is not None
        params = tables.QuantizationParametersT(
            scale=np.asarray(tensor.scale, np.float32).ravel(),
            zeroPoint=np.asarray(tensor.zero_point, np.int64).ravel(),
            quantizedDimension=tensor.axis,
        )
    signature = None
    if tensor.open is not None:
        signature = np.array([-1 if i == tensor.open else d for i, d in enumerate(tensor.shape)], np.int32)
    return tables.TensorT(
        shape=np.array(tensor.shape, np.int32),
        type=getattr(tables.TensorType, TYPES[tensor.dtype]),
        buffer=buffer,
        name=tensor.name,
        quantization=params,
        shapeSignature=signature,
        hasRank=True,
    )


def _content(tensor: FileTensor) -> bytes:
    """A constant's bytes; of int4, two codes to a byte, the first in the low half."""
    assert tensor.data is not None
    return pack(tensor.data.astype(np.int8), 4).tobytes() if tensor.dtype == "int4" else tensor.data.tobytes()


def _version(op: FileOp, tensors: Sequence[FileTensor]) -> int:
    """The operator's version, by the type of its first input, or output for QUANTIZE."""
    places = op.outputs if op.code == "QUANTIZE" else op.inputs
    kind = tensors[places[0]].dtype if places else ""
    if op.code in HALVED and any(index >= 0 and tensors[index].dtype == "int4" for index in op.inputs):
        return HALVED[op.code]
    return VERSIONS.get(op.code, (1, 1, 1))[2 if kind == "int16" else 1 if kind in ("int8", "uint8") else 0]


def _code(tables: Any, name: str, version: int) -> Any:
    number = getattr(tables.BuiltinOperator, name)
    return tables.OperatorCodeT(deprecatedBuiltinCode=min(number, 127), version=version, builtinCode=number)


def _operator(tables: Any, op: FileOp, code: int) -> Any:
    found = tables.OperatorT(
        opcodeIndex=code, inputs=np.array(op.inputs, np.int32), outputs=np.array(op.outputs, np.int32)
    )
    if op.options:
        found.builtinOptionsType = getattr(tables.BuiltinOptions, op.options)
        found.builtinOptions = getattr(tables, f"{op.options}T")(**op.fields)
    return found


def _signature(tables: Any, graph: FileGraph) -> Any:
    inputs, outputs = (
        [tables.TensorMapT(name=graph.tensors[i].name, tensorIndex=i) for i in places]
        for places in (graph.inputs, graph.outputs)
    )
    return tables.SignatureDefT(inputs=inputs, outputs=outputs, signatureKey="serving_default", subgraphIndex=0)
