"""Writes .tflite files with the runtime's own schema classes, and runs a file there and what was imported of it in ONNX
Runtime.

`Wiring` is a file in the making. Shapes of what operators give are asked of the runtime. `quantized` turns its float
tensors into codes by what they hold on samples: activations per tensor, weights of layers per channel, biases int32 (or
int64) at the product of the scales.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfeven.draft import Batch
from halfeven.importers.litert.reader import Imported, import_tflite
from halfeven.run.litert import open_litert, schema
from halfeven.run.ort import OrtExecutor

KINDS = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9}
WEIGHT_AXES = {"CONV_2D": 0, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3}
BIAS_PORTS = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}
SAME_SCALE = {"RESHAPE", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "PADV2", "MIRROR_PAD", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS",
              "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "PACK", "UNPACK", "GATHER", "TILE", "RESIZE_BILINEAR",
              "RESIZE_NEAREST_NEIGHBOR", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND",
              "CONCATENATION", "MAXIMUM", "MINIMUM", "SELECT", "SELECT_V2", "REVERSE_V2", "BROADCAST_TO", "REDUCE_MAX",
              "REDUCE_MIN", "GATHER_ND", "CUMSUM", "TOPK_V2", "EMBEDDING_LOOKUP"}  # fmt: skip
FIXED = {
    9: {"SOFTMAX": (1 / 256, -128), "LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0), "L2_NORMALIZATION": (1 / 128, 0),
        "LOG_SOFTMAX": (16 / 256, 127)},
    7: dict.fromkeys(("SOFTMAX", "LOGISTIC", "TANH"), (1 / 32768, 0)),
    3: {"SOFTMAX": (1 / 256, 0), "LOGISTIC": (1 / 256, 0), "TANH": (1 / 128, 128)},
}  # fmt: skip
"""What the kernels ask of an output's scale and zero point, by type."""


@dataclass
class Wiring:
    """Tensors and operators of a file; every method that makes a tensor gives its index."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    tensors: list[Any] = field(default_factory=list)
    buffers: list[bytes] = field(default_factory=lambda: [b""])
    operators: list[tuple[str, Any]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    custom: dict[str, str] = field(default_factory=dict)
    behind_layer: bool = False

    def tensor(self, shape: Sequence[int], dtype: str = "float32", data: bytes = b"", name: str | None = None) -> int:
        made = schema().TensorT()
        made.shape, made.type = list(shape), KINDS[dtype]
        made.name = (name or f"t{len(self.tensors)}").encode()
        made.buffer = 0
        if data:
            self.buffers.append(data)
            made.buffer = len(self.buffers) - 1
        self.tensors.append(made)
        return len(self.tensors) - 1

    def feed(self, *shape: int, dtype: str = "float32", signature: Sequence[int] | None = None) -> int:
        index = self.tensor(shape, dtype)
        self.tensors[index].shapeSignature = None if signature is None else list(signature)
        self.inputs.append(index)
        return index

    def image(self, height: int = 6, width: int = 7, channels: int = 4) -> int:
        """A picture, as it is fed or, by `behind_layer`, as a convolution gives it."""
        x = self.feed(1, height, width, channels)
        return self.conv(x, channels, channels, kernel=1) if self.behind_layer else x

    def const(self, array: Any, dtype: str | None = None) -> int:
        array = np.asarray(array, dtype)
        array = array.astype(np.int32) if array.dtype == np.int64 and dtype is None else array
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        return self.tensor(array.shape, str(array.dtype), array.tobytes())

    def drawn(self, *shape: int) -> int:
        return self.const(self.rng.normal(0, 0.5, shape).astype(np.float32))

    def op(
        self, kind: str, inputs: Sequence[int], count: int = 1, dtype: str = "float32", options: str = "", **fields: Any
    ) -> Any:
        """An operator; its options' class without "Options", their fields as the schema calls them."""
        s = schema()
        made = s.OperatorT()
        outputs = [self.tensor((), dtype) for _ in range(count)]
        made.inputs, made.outputs = list(inputs), outputs
        if options:
            made.builtinOptionsType = getattr(s.BuiltinOptions, options + "Options")
            made.builtinOptions = getattr(s, options + "OptionsT")()
            for name, value in fields.items():
                assert hasattr(made.builtinOptions, name)
                setattr(made.builtinOptions, name, value)
        self.operators.append((kind, made))
        return outputs[0] if count == 1 else outputs

    def conv(self, x: int, inner: int, outer: int, kernel: int = 3, **fields: Any) -> int:
        fields = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1} | fields
        weights = [x, self.drawn(outer, kernel, kernel, inner), self.drawn(outer)]
        return int(self.op("CONV_2D", weights, options="Conv2D", **fields))

    # ------------------------------------------------------------------------------------------------- files

    def packed(self) -> bytes:
        import flatbuffers

        s = schema()
        model, graph = s.ModelT(), s.SubGraphT()
        kinds = sorted({kind for kind, _ in self.operators})
        for kind in kinds:
            code = s.OperatorCodeT()
            code.builtinCode = s.BuiltinOperator.CUSTOM if kind in self.custom else getattr(s.BuiltinOperator, kind)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.customCode = kind if kind in self.custom else None
            code.version = 2 if kind == "BROADCAST_TO" else 1
            model.operatorCodes = [*(model.operatorCodes or []), code]
        for kind, made in self.operators:
            made.opcodeIndex = kinds.index(kind)
        graph.tensors, graph.operators = self.tensors, [made for _, made in self.operators]
        graph.inputs, graph.outputs, graph.name = self.inputs, self.outputs or self.last(), "main"
        model.version, model.subgraphs, model.buffers = 3, [graph], []
        for content in self.buffers:
            buffer = s.BufferT()
            buffer.data = np.frombuffer(content, np.uint8) if content else None
            model.buffers.append(buffer)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def last(self) -> list[int]:
        return list(self.operators[-1][1].outputs)

    def file(self, folder: Path, kernels: str = "reference") -> Path:
        """The file, its tensors' shapes as the runtime finds them."""
        path = folder / "network.tflite"
        path.write_bytes(self.packed())
        found = {port.index: port for port in open_litert(path, kernels).meanings().values()}
        for index in (index for _, made in self.operators for index in made.outputs):
            self.tensors[index].shape = list(found[index].shape)
        path.write_bytes(self.packed())
        return path

    def feeds(self, seed: int = 0) -> Batch:
        rng = np.random.default_rng(seed)
        return {self.name(i): _sample(rng, self.tensors[i]) for i in self.inputs}

    def name(self, index: int) -> str:
        return str(self.tensors[index].name.decode())

    # ----------------------------------------------------------------------------------------------- integers

    def quantize(self, folder: Path, dtype: str = "int8") -> None:
        """Make codes of every float tensor, by what it holds on samples."""
        runner = open_litert(self.file(folder), "reference")
        seen = [runner.tensors(self.feeds(seed)) for seed in range(2)]
        floats = {i for i, t in enumerate(self.tensors) if t.type == 0}
        biases = {
            op.inputs[p[2]]
            for kind, op in self.operators
            if (p := BIAS_PORTS.get(kind)) and len(op.inputs) > p[2] and op.inputs[p[2]] >= 0
        }
        weights = {op.inputs[1]: WEIGHT_AXES[kind] for kind, op in self.operators if kind in WEIGHT_AXES}
        for index in sorted(floats - biases):
            data = self.buffers[self.tensors[index].buffer]
            held = (
                np.frombuffer(data, np.float32) if data else np.concatenate([s[self.name(index)].ravel() for s in seen])
            )
            if index in weights and dtype != "uint8":
                self._weigh(index, held, weights[index])
            else:
                self._code(index, held, dtype, constant=bool(data))
        for kind, op in self.operators:
            self._tie(kind, op)
        for kind, op in self.operators:
            if kind in BIAS_PORTS and op.inputs[BIAS_PORTS[kind][2]] in biases:
                self._bias(*(op.inputs[port] for port in BIAS_PORTS[kind]), "int64" if dtype == "int16" else "int32")

    def params(self, index: int, scale: Any, zero: Any = 0, axis: int = 0) -> None:
        made = schema().QuantizationParametersT()
        made.scale = np.asarray(scale, np.float32).reshape(-1)
        made.zeroPoint = np.broadcast_to(np.asarray(zero, np.int64), made.scale.shape).copy()
        made.quantizedDimension = axis
        self.tensors[index].quantization = made

    def _put(self, index: int, codes: np.ndarray) -> None:
        self.tensors[index].type = KINDS[str(codes.dtype)]
        self.buffers[self.tensors[index].buffer] = codes.tobytes()

    def _code(self, index: int, held: np.ndarray, dtype: str, *, constant: bool) -> None:
        info = np.iinfo(dtype)
        low, high = min(float(held.min()), 0.0), max(float(held.max()), 1e-3)
        symmetric = dtype == "int16"
        scale = np.float32(max(-low, high) / info.max if symmetric else (high - low) / (int(info.max) - int(info.min)))
        zero = 0 if symmetric else round(info.min - low / float(scale))
        self.params(index, scale, zero)
        self.tensors[index].type = KINDS[dtype]
        if constant:
            self._put(index, np.clip(np.rint(held / scale) + zero, info.min, info.max).astype(dtype))

    def _weigh(self, index: int, held: np.ndarray, axis: int) -> None:
        array = held.reshape(self.tensors[index].shape)
        others = tuple(a for a in range(array.ndim) if a != axis)
        scale = np.maximum(np.abs(array).max(others, keepdims=True) / 127, 1e-6).astype(np.float32)
        self.params(index, scale, 0, axis)
        self._put(index, np.rint(array / scale).astype(np.int8))

    def _bias(self, data: int, weight: int, bias: int, dtype: str) -> None:
        held = np.frombuffer(self.buffers[self.tensors[bias].buffer], np.float32)
        scale = self.tensors[data].quantization.scale * self.tensors[weight].quantization.scale
        self.params(bias, scale)
        self._put(bias, np.rint(held / scale).astype(dtype))

    def _tie(self, kind: str, op: Any) -> None:
        fixed = FIXED.get(self.tensors[op.outputs[0]].type, {})
        if kind in fixed:
            self.params(op.outputs[0], *fixed[kind])
        if kind not in SAME_SCALE:
            return
        coded = [
            i
            for i in (*op.inputs, *op.outputs)
            if self.tensors[i].quantization is not None and self.tensors[i].type in (3, 7, 9)
        ]
        for index in coded[1:]:
            self.tensors[index].quantization = self.tensors[coded[0]].quantization


def _sample(rng: np.random.Generator, tensor: Any) -> np.ndarray:
    dtype = next(np.dtype(name) for name, number in KINDS.items() if number == tensor.type)
    shape = [max(d, 1) for d in tensor.shape]
    if dtype.kind == "b":
        return np.asarray(rng.random(shape) > 0.5)
    if dtype.kind == "f":
        return rng.normal(0, 1, shape).astype(dtype)
    params, info = tensor.quantization, np.iinfo(dtype)
    if params is None or params.scale is None:
        return rng.integers(0, 3, shape).astype(dtype)
    codes = np.rint(rng.normal(0, 1, shape) / params.scale[0]) + params.zeroPoint[0]
    return np.clip(codes, info.min, info.max).astype(dtype)


@dataclass(frozen=True)
class Answers:
    """What a file was imported as; what the runtime gives for it and ONNX Runtime for the import, by output."""

    imported: Imported
    wanted: Batch
    found: Batch

    @property
    def operators(self) -> list[str]:
        return [node.op_type for node in self.imported.model.graph]


def answers(path: Path, feeds: Batch, kernels: str = "reference") -> Answers:
    imported = import_tflite(memoryview(path.read_bytes()), str(path))
    names = [str(value.name) for value in imported.model.graph.outputs]
    assert [str(value.name) for value in imported.model.graph.inputs] == list(feeds)
    wanted = open_litert(path, kernels)(feeds)
    assert list(wanted) == names
    found = OrtExecutor(imported.model)(feeds)
    for name in names:
        assert (found[name].shape, found[name].dtype) == (wanted[name].shape, wanted[name].dtype)
    return Answers(imported, wanted, found)


@pytest.fixture
def wiring() -> type[Wiring]:
    """A file in the making: `w = wiring()`, `x = w.feed(1, 4)`, `w.op("ABS", [x])`, `w.file(folder)`."""
    pytest.importorskip("ai_edge_litert")
    return Wiring


@pytest.fixture
def both() -> Callable[..., Answers]:
    """`both(path, feeds)`: the answers of the two runtimes."""
    return answers
