"""Random QDQ models of one operator, as an exporter writes them, or ONNX's own operators on codes, for `exactness`.

Of the parameters half are powers of two, so that ties are common; zero points lie anywhere, at the ends too; sizes are
odd; codes come from the whole range, or from its ends, so that sums saturate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.generic]
Rng = np.random.Generator


@dataclass
class Builder:
    """A model in the making: codes are inputs or constants, behind a DequantizeLinear."""

    rng: Rng
    signed: bool
    ties: bool

    def __post_init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.feeds: dict[str, Array] = {}
        self.lowest = 0.0
        """The share of codes that are the lowest."""

    @property
    def dtype(self) -> type[np.integer]:
        """Of activations."""
        return np.int8 if self.signed else np.uint8

    def constant(self, name: str, x: Array) -> str:
        """An initializer."""
        self.constants.append(numpy_helper.from_array(np.asarray(x), name))
        return name

    def scale(self, low: float = -7, high: float = -2) -> np.float32:
        """A power of two, or any number."""
        exponent = self.rng.uniform(low, high)
        return np.float32(2.0 ** round(exponent)) if self.ties else np.float32(2.0**exponent)

    def zero(self) -> npt.NDArray[np.integer]:
        """A zero point: an end, or anywhere."""
        held = np.iinfo(self.dtype)
        chosen = self.rng.choice(
            [held.min, held.max, int(self.rng.integers(held.min, held.max + 1))], p=[0.2, 0.1, 0.7]
        )
        return np.array(chosen, self.dtype)

    def codes(self, shape: tuple[int, ...], dtype: type[np.integer]) -> Array:
        """Codes of the whole range, or mostly from its ends."""
        held = np.iinfo(dtype)
        x = self.rng.integers(held.min, held.max + 1, shape)
        if self.rng.random() < 0.2:
            x = np.where(self.rng.random(shape) < 0.7, self.rng.choice([held.min, held.max], shape), x)
        if self.lowest:
            x = np.where(self.rng.random(shape) < self.lowest, held.min, x)
        return x.astype(dtype)

    def real(self, name: str, shape: tuple[int, ...], scale: np.float32 | None = None) -> str:
        """An input of codes, as real numbers."""
        self.feeds[name] = self.codes(shape, self.dtype)
        self.inputs.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)), shape)
        )
        return self.dequantize(name, self.scale() if scale is None else scale, self.zero())

    def dequantize(self, name: str, scale: Array | np.float32, zero: Array, axis: int | None = None) -> str:
        """A DequantizeLinear."""
        names = [name, self.constant(f"{name}_s", np.asarray(scale)), self.constant(f"{name}_z", zero)]
        made: dict[str, Any] = {} if axis is None else {"axis": axis}
        self.nodes.append(helper.make_node("DequantizeLinear", names, [f"{name}_d"], name=f"{name}_d", **made))
        return f"{name}_d"

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """An operator, named after its kind."""
        self.nodes.append(helper.make_node(kind, inputs, [f"{kind}_0"], name=kind, **attributes))
        return f"{kind}_0"

    def quantize(self, value: str, scale: np.float32 | None = None) -> None:
        """The output's QuantizeLinear."""
        s = self.constant("y_s", np.asarray(self.scale() if scale is None else scale))
        self.nodes.append(helper.make_node("QuantizeLinear", [value, s, self.constant("y_z", self.zero())], ["y"]))

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model, with the outputs named."""
        made = [onnx.ValueInfoProto(name=name) for name in outputs or ("y",)]
        graph = helper.make_graph(self.nodes, "g", self.inputs, made, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _weights(b: Builder, shape: tuple[int, ...], axis: int) -> tuple[str, npt.NDArray[np.float32]]:
    dtype = np.int8 if b.signed or b.rng.random() < 0.7 else np.uint8
    channels = shape[axis] if b.rng.random() < 0.7 else 1
    scales = np.array([b.scale(-9, -5) for _ in range(channels)], np.float32)
    zeros = np.zeros(channels, dtype) if dtype is np.int8 else b.rng.integers(100, 156, channels).astype(dtype)
    b.constant("w", b.codes(shape, dtype))
    if channels == 1:
        return b.dequantize("w", scales[0], zeros[0]), scales
    return b.dequantize("w", scales, zeros, axis), scales


def _bias(b: Builder, channels: int, x_scale: np.float32, scales: npt.NDArray[np.float32]) -> str:
    b.constant("b", b.rng.integers(-5000, 5000, channels).astype(np.int32))
    scale = np.asarray(x_scale * scales, np.float32)
    if scale.size == 1:
        return b.dequantize("b", scale[0], np.array(0, np.int32))
    return b.dequantize("b", scale, np.zeros(scale.size, np.int32), 0)


def conv(b: Builder) -> onnx.ModelProto:
    """One or two axes; ordinary, grouped, depthwise; strides, dilations, pads; odd sizes."""
    rng, rank = b.rng, int(b.rng.choice([1, 2], p=[0.15, 0.85]))
    groups = int(rng.choice([1, 2, 3]))
    each, made = int(rng.choice([1, 3, 4, 7, 16])), int(rng.choice([1, 2, 5, 8]))
    if rng.random() < 0.25:
        groups, each, made = int(rng.choice([8, 13, 16, 19])), 1, 1
    kernel = [int(k) for k in rng.choice([1, 2, 3, 5], rank)]
    dilations = [int(d) for d in rng.choice([1, 2], rank, p=[0.8, 0.2])]
    size = [int(rng.integers((k - 1) * d + 1, 40)) for k, d in zip(kernel, dilations, strict=True)]
    pads = [int(p) for p in rng.integers(0, 2, 2 * rank)]
    scale = b.scale()
    x = b.real("x", (int(rng.integers(1, 4)), groups * each, *size), scale)
    w, scales = _weights(b, (groups * made, each, *kernel), 0)
    more = [_bias(b, groups * made, scale, scales)] if rng.random() < 0.7 else []
    strides = [int(s) for s in rng.choice([1, 2, 3], rank)]
    y = b.node(
        "Conv", [x, w, *more], kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads, group=groups
    )
    b.quantize(y, b.scale(-6, 1))
    return b.model()


def lowest(b: Builder) -> onnx.ModelProto:
    """Depthwise in one to three axes, half of all codes the lowest: where products are added by pairs in 16 bits."""
    rng, rank, b.lowest = b.rng, int(b.rng.choice([1, 2, 3], p=[0.2, 0.6, 0.2])), 0.5
    channels = int(rng.choice([8, 12, 16, 24, 32, 48]))
    kernel = [int(k) for k in rng.integers(1, 4 if rank == 3 else 6, rank)]
    size = [int(rng.integers(k, 8 if rank == 3 else 30)) for k in kernel]
    pads = [int(p) for p in rng.integers(0, 2, 2 * rank)]
    x = b.real("x", (1, channels, *size))
    b.constant("w", b.codes((channels, 1, *kernel), np.int8))
    w = b.dequantize("w", b.scale(-9, -5), np.array(0, np.int8))
    y = b.node("Conv", [x, w], kernel_shape=kernel, strides=[int(rng.choice([1, 2]))] * rank, pads=pads, group=channels)
    b.quantize(y, b.scale(0, 3))
    return b.model()


def matmul(b: Builder) -> onnx.ModelProto:
    """Of two and three axes; the output codes or real."""
    m, k, n = (int(v) for v in b.rng.integers(1, 90, 3))
    x = b.real("x", (m, k) if b.rng.random() < 0.6 else (int(b.rng.integers(1, 4)), m, k))
    w, _ = _weights(b, (k, n), 1)
    y = b.node("MatMul", [x, w])
    if b.rng.random() < 0.3:
        return b.model(y)
    b.quantize(y, b.scale(-5, 1))
    return b.model()


def gemm(b: Builder) -> onnx.ModelProto:
    """Turned or not, with alpha."""
    m, k, n = (int(v) for v in b.rng.integers(1, 90, 3))
    turned = int(b.rng.integers(0, 2))
    alpha = float(b.rng.choice([1.0, 1.0, 0.5, 0.37]))
    scale = b.scale()
    x = b.real("x", (m, k), scale)
    w, scales = _weights(b, (n, k) if turned else (k, n), 0 if turned else 1)
    more = [_bias(b, n, scale, scales)] if b.rng.random() < 0.7 else []
    b.quantize(b.node("Gemm", [x, w, *more], transB=turned, alpha=alpha), b.scale(-5, 1))
    return b.model()


def _shapes(rng: Rng) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast."""
    full = tuple(int(v) for v in rng.integers(1, 40, int(rng.integers(1, 5))))
    full = tuple(min(n, 12) for n in full) if len(full) == 4 else full
    cut = tuple(1 if rng.random() < 0.3 else n for n in full)[int(rng.integers(0, len(full))) :]
    pair = rng.choice(4)
    return [(full, full), (full, cut), (cut, full), (full, (1,))][int(pair)]


def _binary(kind: str) -> Callable[[Builder], onnx.ModelProto]:
    def build(b: Builder) -> onnx.ModelProto:
        a, c = _shapes(b.rng)
        inputs = [b.real("a", a), b.real("b", c)]
        b.quantize(b.node(kind, inputs), b.scale(-7, -1) if kind == "Add" else b.scale(-6, 0))
        return b.model()

    return build


def _unary(kind: str, free: bool = False, **options: Any) -> Callable[[Builder], onnx.ModelProto]:
    def build(b: Builder) -> onnx.ModelProto:
        x = b.real("x", tuple(int(v) for v in b.rng.integers(1, 70, 2)))
        more = {k: v(b.rng) if callable(v) else v for k, v in options.items()}
        fixed = kind in ("Softmax", "Sigmoid") and not free
        b.quantize(b.node(kind, [x], **more), np.float32(1 / 256) if fixed else None)
        return b.model()

    return build


def average_pool(b: Builder) -> onnx.ModelProto:
    """Any window, pads counted or not."""
    kernel = [int(k) for k in b.rng.integers(1, 5, 2)]
    x = b.real("x", (2, int(b.rng.integers(1, 20)), *(int(n) for n in b.rng.integers(5, 30, 2))))
    pads = [int(min(p, k - 1)) for p, k in zip(b.rng.integers(0, 2, 4), kernel * 2, strict=True)]
    strides = [int(s) for s in b.rng.integers(1, 4, 2)]
    counted, ceil = int(b.rng.integers(0, 2)), int(b.rng.random() < 0.2)
    more = {"strides": strides, "pads": pads, "count_include_pad": counted, "ceil_mode": ceil}
    b.quantize(b.node("AveragePool", [x], kernel_shape=kernel, **more))
    return b.model()


def global_mean(b: Builder) -> onnx.ModelProto:
    """Of any size."""
    x = b.real(
        "x", (int(b.rng.integers(1, 9)), int(b.rng.integers(1, 600)), *(int(n) for n in b.rng.integers(1, 12, 2)))
    )
    b.quantize(b.node("GlobalAveragePool", [x]))
    return b.model()


def concat(b: Builder) -> onnx.ModelProto:
    """Three operands with parameters of their own."""
    rows = [int(n) for n in b.rng.integers(1, 60, 3)]
    b.quantize(b.node("Concat", [b.real(f"x{i}", (n, 40)) for i, n in enumerate(rows)], axis=0))
    return b.model()


def max_pool(b: Builder) -> onnx.ModelProto:
    """Codes that keep their parameters."""
    x = b.real("x", (2, 9, 31, 30))
    y = b.node("MaxPool", [x], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0])
    b.nodes.append(helper.make_node("QuantizeLinear", [y, "x_s", "x_z"], ["y"]))
    return b.model()


def borders(b: Builder) -> onnx.ModelProto:
    """Real numbers to codes and back, ties and what is no number among them; then to other codes."""
    shape = tuple(int(v) for v in b.rng.integers(1, 200, 2))
    scale = b.scale()
    x = (b.rng.normal(0, 80, shape) * scale).astype(np.float32)
    x = np.where(b.rng.random(shape) < 0.3, (np.rint(x / scale) + np.float32(0.5)) * scale, x).astype(np.float32)
    x[b.rng.random(shape) < 0.01] = b.rng.choice([np.nan, np.inf, -np.inf, 3e38])
    b.feeds["x"] = x
    b.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    s, z = b.constant("x_s", np.asarray(scale)), b.constant("x_z", b.zero())
    b.nodes.append(helper.make_node("QuantizeLinear", ["x", s, z], ["q"]))
    b.nodes.append(helper.make_node("DequantizeLinear", ["q", s, z], ["d"]))
    b.quantize("d")
    return b.model("q", "d", "y")


def dynamic(b: Builder) -> onnx.ModelProto:
    """DynamicQuantizeLinear and MatMulInteger, as dynamic quantizers write them."""
    m, k, n = (int(v) for v in b.rng.integers(1, 120, 3))
    b.feeds["x"] = (b.rng.normal(0, 1, (m, k)) * float(b.scale(-9, 4)) + b.rng.normal()).astype(np.float32)
    b.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, (m, k)))
    b.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]))
    dtype = np.int8 if b.rng.random() < 0.6 else np.uint8
    w, zero = b.constant("w", b.codes((k, n), dtype)), b.constant("wz", np.array(b.rng.integers(0, 100), dtype))
    b.nodes.append(helper.make_node("MatMulInteger", ["q", w, "z", zero], ["y"]))
    return b.model("y", "q", "s", "z")


def dynamic_conv(b: Builder) -> onnx.ModelProto:
    """DynamicQuantizeLinear and ConvInteger, as dynamic quantizers write them."""
    rng = b.rng
    groups, each, made = (int(rng.choice(n)) for n in ([1, 1, 2, 5], [1, 3, 8], [1, 2, 7]))
    kernel = [int(k) for k in rng.integers(1, 4, 2)]
    shape = (int(rng.integers(1, 3)), groups * each, *(int(rng.integers(k, 24)) for k in kernel))
    b.feeds["x"] = (rng.normal(0, 1, shape) * float(b.scale(-9, 4)) + rng.normal()).astype(np.float32)
    b.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    b.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]))
    dtype = np.int8 if rng.random() < 0.6 else np.uint8
    w = b.constant("w", b.codes((groups * made, each, *kernel), dtype))
    zero = b.constant("wz", np.array(rng.integers(0, 100), dtype))
    pads = [int(p) for p in rng.integers(0, 2, 4)]
    inputs = ["q", w, "z", zero]
    b.nodes.append(helper.make_node("ConvInteger", inputs, ["y"], kernel_shape=kernel, pads=pads, group=groups))
    return b.model("y", "q", "s", "z")


OPERATORS: dict[str, Callable[[Builder], onnx.ModelProto]] = {
    "Conv": conv,
    "Conv, depthwise, lowest codes": lowest,
    "MatMul": matmul,
    "Gemm": gemm,
    "Add": _binary("Add"),
    "Mul": _binary("Mul"),
    "LeakyRelu": _unary("LeakyRelu", alpha=lambda rng: float(rng.uniform(0.001, 0.9))),
    "Sigmoid": _unary("Sigmoid"),
    "Softmax": _unary("Softmax", axis=-1),
    "Softmax, any scale": _unary("Softmax", free=True, axis=-1),
    "Concat": concat,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_mean,
    "MaxPool": max_pool,
    "QuantizeLinear, DequantizeLinear": borders,
    "DynamicQuantizeLinear, MatMulInteger": dynamic,
    "DynamicQuantizeLinear, ConvInteger": dynamic_conv,
}
