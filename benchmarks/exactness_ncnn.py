"""Random int8 layers in ncnn, beside their simulator.

    python benchmarks/exactness_ncnn.py --elements 10000000 [--operators Convolution,Depthwise] [--seed 1]

Each network is one layer of codes, written as .param and .bin: of the scales half are powers of two, so that ties are
common; sizes are odd, below and above the lengths of vectors; windows are strided and dilated; a Relu, a Clip or
nothing follows; the output is codes or real numbers. What is printed is how many codes, and real numbers bit for bit,
differ.

The machine is that of the processor: ncnn@x86, ncnn@x86-amd or ncnn@arm64. For Arm under an emulator, with a Python
for it and the wheels of NumPy, ONNX, ONNX Runtime, onnx-ir and ncnn:

    qemu-aarch64 -cpu cortex-a76 -L ROOT ROOT/usr/bin/python3.11 benchmarks/exactness_ncnn.py
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import qdq_parts
from onnx import TensorProto, helper, shape_inference

from halfeven.exporters.ncnn.parts import param_text
from halfeven.exporters.ncnn.write import convert
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.ncnn import this_ncnn
from halfeven.run.ncnn import open_ncnn

Array = npt.NDArray[Any]
KINDS = ("Convolution", "Depthwise", "Grouped", "InnerProduct")
FEEDS = 6  # of each network


@dataclass
class Builder(qdq_parts.Parts):
    """A QDQ model in the making, symmetric int8 with a real bias."""

    def coded(self, value: str, scale: np.float32) -> str:
        """A value made codes and real again."""
        more = [self.constant(f"{value}_s", scale), self.constant(f"{value}_z", np.int8(0))]
        self.node("QuantizeLinear", [value, *more], f"{value}_q")
        return self.node("DequantizeLinear", [f"{value}_q", *more], f"{value}_d")

    def weight(self, name: str, shape: tuple[int, ...], scales: Array, axis: int) -> str:
        """Constant codes with a scale for each output."""
        self.constant(name, self.rng.integers(-127, 128, shape).astype(np.int8))
        names = [self.constant(f"{name}_s", scales), self.constant(f"{name}_z", np.zeros(scales.size, np.int8))]
        return self.node("DequantizeLinear", [name, *names], f"{name}_d", axis=axis)

    def activated(self, value: str, top: np.float32) -> str:
        """A Relu or Clip, or nothing, behind a value."""
        choice = self.rng.random()
        if choice < 0.3:
            return self.node("Relu", [value], "a")
        if choice < 0.5:
            bounds = [self.constant("low", np.float32(0)), self.constant("high", np.float32(top))]
            return self.node("Clip", [value, *bounds], "a")
        return value


def layer(b: Builder, kind: str) -> tuple[onnx.ModelProto, tuple[int, ...], np.float32]:
    """A network of one layer, and a second that reads its codes; the shape of its input and that input's scale."""
    rng, dense = b.rng, kind == "InnerProduct"
    source = b.scale(-7, -3)
    shape: tuple[int, ...]
    weights: tuple[int, ...]
    options: dict[str, Any] = {}
    if dense:
        inner, outputs, rows = (
            int(n) for n in (rng.integers(1, 300), rng.integers(1, 400), rng.choice([0, 3, 17, 64]))
        )
        shape = (1, rows, inner) if rows else (1, inner)
        weights, scales = (inner, outputs), np.array([b.scale(-9, -5) for _ in range(outputs)])
    else:
        shape, weights, scales, options = _window(b, kind)
        outputs = weights[0]
    scale = np.float32(
        source * np.median(scales) * np.sqrt(np.prod(weights) / outputs) * 5329 / rng.choice([20, 60, 127])
    )
    scale = np.float32(2.0 ** np.round(np.log2(scale))) if b.ties else scale
    inputs = [b.coded("x", source), b.weight("w", weights, scales.astype(np.float32), 1 if dense else 0)]
    if not dense and rng.random() < 0.7:
        bias = rng.normal(0, 1, outputs) * scale * 40
        unit = source * scales if b.ties else np.ones(1)
        inputs.append(b.constant("b", (np.rint(bias / unit) * unit if b.ties else bias).astype(np.float32)))
    y = b.activated(b.node("MatMul" if dense else "Conv", inputs, "y", **options), np.float32(scale * 50))
    if rng.random() < 0.8:
        more = b.weight(
            "v", (outputs, 1) if dense else (1, outputs, 1, 1), np.array([0.01], np.float32), 1 if dense else 0
        )
        y = b.node("MatMul" if dense else "Conv", [b.coded(y, scale), more], "z")
    graph = helper.make_graph(
        b.nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
        b.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return shape_inference.infer_shapes(model), shape, source


def _window(b: Builder, kind: str) -> tuple[tuple[int, ...], tuple[int, ...], Array, dict[str, Any]]:
    """The shapes of a convolution's input and weights, the weights' scales, and its attributes."""
    rng = b.rng
    groups, inputs, outputs = 1, int(rng.integers(1, 66)), int(rng.integers(1, 34))
    if kind == "Depthwise":
        groups = inputs = outputs = int(rng.choice([2, 3, 4, 5, 7, 8, 12, 13, 16, 20, 24, 32, 40, 48]))
    elif kind == "Grouped":
        groups = int(rng.choice([2, 3, 4, 8]))
        inputs, outputs = groups * int(rng.choice([2, 3, 4, 8])), groups * int(rng.choice([1, 2, 3, 4, 5]))
    kernel = [3, 3] if rng.random() < 0.5 else [int(k) for k in rng.choice([1, 2, 3, 5], 2)]
    dilations = [int(d) for d in rng.choice([1, 2], 2, p=[0.85, 0.15])]
    size = [int(rng.integers((k - 1) * d + 1, 40)) for k, d in zip(kernel, dilations, strict=True)]
    options = {"kernel_shape": kernel, "strides": [int(rng.choice([1, 2]))] * 2, "dilations": dilations}
    scales = np.array([b.scale(-9, -5) for _ in range(groups if groups > 1 else outputs)])
    made = {**options, "pads": [int(p) for p in rng.integers(0, 2, 4)], "group": groups}
    return (1, inputs, *size), (outputs, inputs // groups, *kernel), np.repeat(scales, outputs // len(scales)), made


def measured(kind: str, elements: int, seed: int) -> qdq_parts.Count:
    """Random networks of a kind, until so many codes were compared."""
    rng, count = np.random.default_rng(seed), qdq_parts.Count()
    with tempfile.TemporaryDirectory() as folder:
        while count.codes < elements:
            model, shape, scale = layer(Builder(rng, bool(rng.integers(0, 2))), kind)
            _compare(model, [_fed(rng, shape, scale) for _ in range(FEEDS)], Path(folder) / "net.param", count)
    return count


def _fed(rng: np.random.Generator, shape: tuple[int, ...], scale: np.float32) -> Array:
    return (rng.integers(-127, 128, shape) * scale).astype(np.float32)


def _compare(proto: onnx.ModelProto, feeds: list[Array], path: Path, count: qdq_parts.Count) -> None:
    model = ir.from_proto(proto)
    name_everything(model)
    network = lower(model)
    layers, _ = convert(network)
    path.write_text(param_text(layers))
    path.with_suffix(".bin").write_bytes(b"".join(part for made in layers for part in made.weights))
    run, machine = open_ncnn(path), IntegerExecutor(network, this_ncnn(), threads=1)
    made = {t.name: op.name for op in network.ops for t in op.outputs if t.coded and t.name != "x_q"}
    count.networks += 1
    for x in feeds:
        ours, codes = machine({"x": x}, list(made)), run.codes({"x": x})
        for name, maker in made.items():
            found = codes.get(name, codes.get(maker))
            assert found is not None, f"{name} is not seen in ncnn"
            count.add(name, np.asarray(ours[name]), np.asarray(found))
        for name, found in run({"x": x}).items():
            count.add(name, np.asarray(ours[name]), np.asarray(found))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=10_000_000, help="codes to compare for each operator")
    parser.add_argument("--operators", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{this_ncnn().name}\n\n| | codes | real numbers | differ | step | networks | s |")
    print("|---|---|---|---|---|---|---|")
    for kind in options.operators.split(","):
        start, count = time.perf_counter(), measured(kind, options.elements, options.seed)
        where = f" (first in {count.first})" if count.first else ""
        row = f"{count.codes:,} | {count.reals:,} | {count.differing:,}{where} | {count.step} | {count.networks}"
        print(f"| {kind} | {row} | {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
