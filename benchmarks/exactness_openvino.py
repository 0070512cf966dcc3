"""Random operators of codes in OpenVINO's CPU plugin, beside their simulator.

    python benchmarks/exactness_openvino.py --elements 10000000 [--operators Conv,Sum] [--seed 1]

Each network is written as ONNX with QuantizeLinear and DequantizeLinear: codes in, one operator, codes out, a
convolution that reads them. Of the scales half are powers of two, so that ties are common; zero points lie anywhere;
sizes are odd; shapes are fixed or open, which OpenVINO compiles differently. What is printed is how many codes differ.

    Conv, Depthwise, Grouped    codes, or with a Relu before them; weights with a scale for each output
    One scale                   a Conv whose weights have one scale
    MatMul                      by a constant
    Sum                         of two convolutions' codes, of which one takes the sum up
    Add                         of the codes of one convolution and what it reads: an operator of its own
    FakeQuantize                of real numbers, near ties
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import qdq_parts
from onnx import TensorProto, helper, shape_inference

from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.openvino import open_openvino

Array = npt.NDArray[Any]
MACHINE = "openvino@cpu"
KINDS = ("Conv", "Depthwise", "Grouped", "One scale", "MatMul", "Sum", "Add", "FakeQuantize")
FEEDS = 4  # of each network


@dataclass
class Builder(qdq_parts.Parts):
    """A QDQ model in the making, uint8 with zero points. `scales`: of what was made codes."""

    scales: dict[str, np.float32] = field(default_factory=dict)
    zeros: dict[str, int] = field(default_factory=dict)

    def coded(self, value: str, scale: np.float32, zero: int | None = None) -> str:
        """A value made codes and real again."""
        point = int(self.rng.integers(0, 256)) if zero is None else zero
        more = [self.constant(f"{value}_s", scale), self.constant(f"{value}_z", np.uint8(point))]
        self.node("QuantizeLinear", [value, *more], f"{value}_q")
        made = self.node("DequantizeLinear", [f"{value}_q", *more], f"{value}_d")
        self.scales[made], self.zeros[made] = scale, point
        return made

    def layer(
        self, source: str, made: str, weights: tuple[int, ...], one: bool = False, **options: object
    ) -> np.float32:
        """A Conv, or a MatMul without options, with a bias; a scale for its output that uses the codes well."""
        axis, kind = (0, "Conv") if options else (1, "MatMul")
        outputs = weights[axis]
        codes = self.rng.integers(-127, 128, weights).astype(np.int8)
        scales = np.array([self.scale(-9, -6) for _ in range(1 if one else outputs)], np.float32)
        shaped: Array = scales[0] if one else scales
        more = [self.constant(f"{made}_ws", shaped), self.constant(f"{made}_wz", np.zeros(shaped.shape, np.int8))]
        where = {} if one else {"axis": axis}
        inputs = [
            source,
            self.node("DequantizeLinear", [self.constant(f"{made}_w", codes), *more], f"{made}_wd", **where),
        ]
        scale = (
            self.scales[source]
            * np.median(scales)
            * np.sqrt(codes.size / outputs)
            * 5329
            / self.rng.choice([20, 60, 127])
        )
        scale = np.float32(2.0 ** np.round(np.log2(scale)) if self.ties else scale)
        if options and self.rng.random() < 0.8:
            unit = np.broadcast_to(self.scales[source] * scales, (outputs,)).astype(np.float32)
            bias = np.rint(self.rng.normal(0, 1, outputs) * scale * 30 / unit).astype(np.int32)
            more = [self.constant(f"{made}_bs", unit), self.constant(f"{made}_bz", np.zeros(outputs, np.int32))]
            inputs.append(
                self.node("DequantizeLinear", [self.constant(f"{made}_b", bias), *more], f"{made}_bd", axis=0)
            )
        self.node(kind, inputs, made, **options)
        return scale


def network(b: Builder, kind: str) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A network of one operator, and the shape of its input."""
    rng = b.rng
    channels = int(rng.choice([3, 8, 16, 17, 24, 32]))
    size = [int(n) for n in rng.integers(5, 60, 2)]
    shape = (1, int(rng.integers(1, 90)), int(rng.integers(1, 300))) if kind == "MatMul" else (1, channels, *size)
    source = b.coded("x", b.scale(-7, -4))
    if kind == "MatMul":
        outputs = int(rng.integers(1, 200))
        last = b.coded("y", b.layer(source, "y", (shape[2], outputs)))
        b.layer(last, "end", (outputs, 4))
        return _model(b, shape), shape
    outputs = _operator(b, kind, source, channels)
    b.layer("out_d", "end", (4, outputs, 1, 1), kernel_shape=[1, 1])
    return _model(b, shape), shape


def _operator(b: Builder, kind: str, source: str, channels: int) -> int:
    """What makes the codes `out_d`; how many channels they have."""
    rng = b.rng
    point: dict[str, Any] = {"kernel_shape": [1, 1]}
    if kind == "FakeQuantize":
        b.coded("out", b.layer(source, "out", (4, channels, 1, 1), **point))
        return 4
    if kind in ("Sum", "Add"):
        first = b.coded("p", b.layer(source, "p", (channels, channels, 1, 1), **point))
        middle = first if kind == "Add" else b.coded("m", b.layer(first, "m", (channels, channels, 1, 1), **point))
        second = b.coded("q", b.layer(middle, "q", (channels, channels, 1, 1), **point))
        pair = [first, second] if rng.random() < 0.5 else [second, first]
        b.node("Add", pair, "sum")
        relu = rng.random() < 0.4
        if relu:
            b.node("Relu", ["sum"], "relu")
        scale = np.float32(max(b.scales[first], b.scales[second]) * (1 if b.ties else rng.uniform(0.8, 1.5)))
        b.coded(_named(b), scale, 0 if relu else None)
        return channels
    groups = {"Depthwise": channels, "Grouped": next(g for g in (2, 3, 17) if not channels % g)}.get(kind, 1)
    outputs = channels if groups > 1 else int(rng.integers(1, 40))
    kernel = int(rng.choice([1, 3, 5]))
    options: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [int(rng.choice([1, 2]))] * 2, "group": groups}
    options |= {"pads": [kernel // 2] * 4}
    weights = (outputs, channels // groups, kernel, kernel)
    scale = b.layer(source, "y", weights, kind == "One scale", **options)
    relu = rng.random() < 0.3 and kind != "One scale"
    if relu:
        b.node("Relu", ["y"], "relu")
    b.coded(_named(b), scale, 0 if relu else None)
    return outputs


def _named(b: Builder) -> str:
    """What the last node makes is called `out` now."""
    b.nodes[-1].output[0] = "out"
    return "out"


def _model(b: Builder, shape: tuple[int, ...]) -> onnx.ModelProto:
    given: list[int | str] = ["N", *shape[1:]] if b.rng.random() < 0.5 else list(shape)
    graph = helper.make_graph(
        b.nodes,
        "operator",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("end", TensorProto.FLOAT, None)],
        b.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return shape_inference.infer_shapes(model)


def measured(kind: str, elements: int, seed: int) -> qdq_parts.Count:
    """Random networks of a kind, until so many codes were compared."""
    rng, count = np.random.default_rng(seed), qdq_parts.Count()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        while count.codes < elements:
            builder = Builder(rng, bool(rng.integers(0, 2)) and kind != "FakeQuantize")
            proto, shape = network(builder, kind)
            path = Path(folder) / f"net{count.networks}.onnx"
            path.write_bytes(proto.SerializeToString())
            model = ir.from_proto(proto)
            name_everything(model)
            machine = IntegerExecutor(lower(model), machine_named(MACHINE), threads=1)
            watch = "x_q" if kind == "FakeQuantize" else "y_q" if kind == "MatMul" else "out_q"
            run = open_openvino(path, threads=1, watch=[watch])
            for _ in range(FEEDS):
                feeds = {"x": _fed(builder, shape, kind == "FakeQuantize")}
                count.add(kind, np.asarray(machine(feeds, [watch])[watch]), np.asarray(run(feeds)[watch]))
            count.networks += 1
    return count


def _fed(b: Builder, shape: tuple[int, ...], near: bool) -> Array:
    """Codes as real numbers, or real numbers some units in the last place off from between two codes."""
    offsets = b.rng.integers(0, 256, shape) - b.zeros["x_d"]
    if not near:
        return (offsets * b.scales["x_d"]).astype(np.float32)
    middle = ((offsets + 0.5) * np.float64(b.scales["x_d"])).astype(np.float32)
    return (middle.view(np.int32) + b.rng.integers(-4, 5, shape).astype(np.int32)).view(np.float32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=10_000_000, help="codes to compare for each operator")
    parser.add_argument("--operators", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{MACHINE}\n\n| | codes | differ | step | networks | s |\n|---|---|---|---|---|---|")
    for kind in options.operators.split(","):
        start, count = time.perf_counter(), measured(kind, options.elements, options.seed)
        row = f"{count.codes:,} | {count.differing:,} | {count.step} | {count.networks}"
        print(f"| {kind} | {row} | {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
