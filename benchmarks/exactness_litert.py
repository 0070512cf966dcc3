"""Random operators of int8 codes in LiteRT's three sets of kernels and in TFLite Micro, beside their simulators.

    python benchmarks/exactness_litert.py --elements 1000000 [--operators CONV_2D,ADD] [--seed 1]

Each graph is a .tflite file of one operator with random codes, zero points, sizes and scales; every second one has
scales that are powers of two times a small odd number, where ties are common. It is read back and computed by the
machine of that set; what is printed is how many integers of how many differ, and by how much.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfeven.exporters.litert.flatbuffer import FileGraph, FileOp, FileTensor, to_bytes
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.importers.litert.reader import import_tflite
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.litert import open_litert
from halfeven.run.tflite_micro import open_tflite_micro

MACHINES = {
    "litert@reference": "reference",
    "litert@optimized-x86": "optimized",
    "litert@xnnpack": "xnnpack",
    "tflite-micro": "micro",
}


@dataclass
class Draw:
    """Random choices for one graph."""

    rng: np.random.Generator
    ties: bool

    def scale(self, low: float, high: float) -> np.ndarray:
        """One scale between two bounds."""
        drawn = np.exp(self.rng.uniform(np.log(low), np.log(high)))
        if self.ties:
            drawn = 2.0 ** np.rint(np.log2(drawn)) * self.rng.choice([1.0, 1.0, 0.75, 1.25])
        return np.array([drawn], np.float32)

    def tensor(self, name: str, shape: tuple[int, ...], scale: np.ndarray, zero: int | None = None) -> FileTensor:
        """A tensor of int8 codes."""
        point = int(self.rng.integers(-128, 128)) if zero is None else zero
        return FileTensor(name, shape, "int8", scale, np.array([point], np.int64))

    def codes(self, shape: tuple[int, ...]) -> np.ndarray:
        """Codes over the whole range."""
        return self.rng.integers(-128, 128, shape).astype(np.int8)

    def size(self, low: int, high: int) -> int:
        """A length."""
        return int(self.rng.integers(low, high + 1))


def constant(name: str, data: np.ndarray, scale: np.ndarray, axis: int = 0) -> FileTensor:
    """A constant of codes around zero."""
    return FileTensor(name, data.shape, str(data.dtype), scale, np.zeros(scale.size, np.int64), axis, data)


def convolution(d: Draw, depthwise: bool) -> FileGraph:
    """CONV_2D or DEPTHWISE_CONV_2D."""
    h, w, k, stride = d.size(4, 14), d.size(4, 14), d.size(1, 3), d.size(1, 2)
    c = d.size(1, 40)
    out = c if depthwise else d.size(1, 40)
    sx, sy = d.scale(0.01, 0.1), d.scale(0.02, 0.4)
    sw = np.concatenate([d.scale(0.001, 0.05) for _ in range(out)])
    weight = d.codes((1, k, k, out) if depthwise else (out, k, k, c))
    weight[weight == -128] = -127
    bias = d.rng.integers(-3000, 3000, out).astype(np.int32)
    made = tuple(-(-n // stride) for n in (h, w))
    tensors = [
        d.tensor("x", (1, h, w, c), sx),
        constant("w", weight, sw, 3 if depthwise else 0),
        constant("b", bias, (sx * sw).astype(np.float32)),
        d.tensor("y", (1, *made, out), sy),
    ]
    fields = {"padding": 0, "strideH": stride, "strideW": stride, "fusedActivationFunction": d.size(0, 3)}
    fields |= {"dilationHFactor": 1, "dilationWFactor": 1} | ({"depthMultiplier": 1} if depthwise else {})
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    options = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    return FileGraph(tensors, [FileOp(kind, (0, 1, 2), (3,), options, fields)], [0], [3])


def dense(d: Draw) -> FileGraph:
    """FULLY_CONNECTED."""
    n, k, out = d.size(1, 20), d.size(1, 200), d.size(1, 60)
    sx, sy, sw = d.scale(0.01, 0.1), d.scale(0.02, 0.6), d.scale(0.001, 0.05)
    tensors = [
        d.tensor("x", (n, k), sx),
        constant("w", np.maximum(d.codes((out, k)), -127), sw),
        constant("b", d.rng.integers(-3000, 3000, out).astype(np.int32), (sx * sw).astype(np.float32)),
        d.tensor("y", (n, out), sy),
    ]
    fields = {"fusedActivationFunction": d.size(0, 1)}
    return FileGraph(tensors, [FileOp("FULLY_CONNECTED", (0, 1, 2), (3,), "FullyConnectedOptions", fields)], [0], [3])


def two(d: Draw, kind: str, scalar: bool = False) -> FileGraph:
    """ADD, SUB or MUL; of one number if `scalar`."""
    shape = (1, d.size(1, 12), d.size(1, 30), d.size(1, 40))
    sa, sb = d.scale(0.01, 0.2), d.scale(0.01, 0.2)
    sy = d.scale(0.01, 0.3) if kind == "MUL" else d.scale(0.01, 0.2)
    second = d.tensor("b", (1, 1, 1, 1) if scalar else shape, sb)
    tensors = [d.tensor("a", shape, sa), second, d.tensor("y", shape, sy)]
    options = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[kind]
    op = FileOp(kind, (0, 1), (2,), options, {"fusedActivationFunction": d.size(0, 3)})
    return FileGraph(tensors, [op], [0, 1], [2])


def border(d: Draw) -> FileGraph:
    """QUANTIZE of real numbers."""
    shape = (1, d.size(1, 60), d.size(1, 60))
    op = FileOp("QUANTIZE", (0,), (1,), "QuantizeOptions", {})
    return FileGraph([FileTensor("x", shape, "float32"), d.tensor("y", shape, d.scale(0.01, 0.1))], [op], [0], [1])


def change(d: Draw) -> FileGraph:
    """QUANTIZE of codes."""
    shape = (1, d.size(1, 60), d.size(1, 60))
    tensors = [d.tensor("x", shape, d.scale(0.01, 0.1)), d.tensor("y", shape, d.scale(0.01, 0.1))]
    return FileGraph(tensors, [FileOp("QUANTIZE", (0,), (1,), "QuantizeOptions", {})], [0], [1])


def leaky(d: Draw) -> FileGraph:
    """LEAKY_RELU."""
    shape = (1, d.size(1, 60), d.size(1, 60))
    tensors = [d.tensor("x", shape, d.scale(0.01, 0.1)), d.tensor("y", shape, d.scale(0.01, 0.1))]
    op = FileOp("LEAKY_RELU", (0,), (1,), "LeakyReluOptions", {"alpha": float(d.rng.choice([0.125, 0.1, 0.3]))})
    return FileGraph(tensors, [op], [0], [1])


def function(d: Draw, kind: str) -> FileGraph:
    """LOGISTIC or TANH."""
    shape, zero = (1, d.size(1, 20), d.size(256, 300)), -128 if kind == "LOGISTIC" else 0
    made = np.array([1 / 256 if kind == "LOGISTIC" else 1 / 128], np.float32)
    tensors = [d.tensor("x", shape, d.scale(0.005, 0.2)), d.tensor("y", shape, made, zero)]
    return FileGraph(tensors, [FileOp(kind, (0,), (1,))], [0], [1])


def softmax(d: Draw) -> FileGraph:
    """SOFTMAX."""
    shape = (d.size(1, 30), d.size(2, 200))
    tensors = [d.tensor("x", shape, d.scale(0.005, 0.2)), d.tensor("y", shape, np.array([1 / 256], np.float32), -128)]
    return FileGraph(tensors, [FileOp("SOFTMAX", (0,), (1,), "SoftmaxOptions", {"beta": 1.0})], [0], [1])


def pool(d: Draw) -> FileGraph:
    """AVERAGE_POOL_2D."""
    h, w, c, k = d.size(5, 14), d.size(5, 14), d.size(1, 40), d.size(2, 5)
    x = d.tensor("x", (1, h, w, c), d.scale(0.01, 0.1))
    y = FileTensor("y", x.shape, "int8", x.scale, x.zero_point)
    fields = {"padding": 0, "strideH": 1, "strideW": 1, "filterHeight": k, "filterWidth": k}
    op = FileOp("AVERAGE_POOL_2D", (0,), (1,), "Pool2DOptions", fields | {"fusedActivationFunction": d.size(0, 3)})
    return FileGraph([x, y], [op], [0], [1])


def mean(d: Draw) -> FileGraph:
    """MEAN over height and width."""
    n, h, w, c, keep = d.size(1, 9), d.size(1, 9), d.size(2, 9), d.size(1, 300), bool(d.size(0, 1))
    made = (n, 1, 1, c) if keep else (n, c)
    axes = FileTensor("axes", (2,), "int32", data=np.array([1, 2], np.int32))
    tensors = [d.tensor("x", (n, h, w, c), d.scale(0.01, 0.1)), axes, d.tensor("y", made, d.scale(0.01, 0.1))]
    return FileGraph(tensors, [FileOp("MEAN", (0, 1), (2,), "ReducerOptions", {"keepDims": keep})], [0], [2])


OPERATORS: Mapping[str, Callable[[Draw], FileGraph]] = {
    "CONV_2D": lambda d: convolution(d, False),
    "DEPTHWISE_CONV_2D": lambda d: convolution(d, True),
    "FULLY_CONNECTED": dense,
    "ADD": lambda d: two(d, "ADD"),
    "ADD of a number": lambda d: two(d, "ADD", True),
    "SUB": lambda d: two(d, "SUB"),
    "MUL": lambda d: two(d, "MUL"),
    "QUANTIZE of reals": border,
    "QUANTIZE of codes": change,
    "LEAKY_RELU": leaky,
    "LOGISTIC": lambda d: function(d, "LOGISTIC"),
    "TANH": lambda d: function(d, "TANH"),
    "SOFTMAX": softmax,
    "AVERAGE_POOL_2D": pool,
    "MEAN": mean,
}


@dataclass
class Count:
    """Integers compared, how many differ, by how many steps at most, and the first graph that differs."""

    elements: int = 0
    differing: int = 0
    step: int = 0
    first: str = ""
    real: int = 0


def measured(operator: str, elements: int, name: str, seed: int = 1) -> Count:
    """Compare a machine with the runtime on random graphs of one operator until so many integers were compared."""
    rng, count, number = np.random.default_rng(seed), Count(), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.tflite"
        while count.elements < elements:
            d = Draw(rng, number % 2 == 1)
            graph = OPERATORS[operator](d)
            path.write_bytes(to_bytes(graph))
            _compare(path, graph, d, name, count, f"{operator} {number} of seed {seed}")
            number += 1
    return count


def _compare(path: Path, graph: FileGraph, d: Draw, name: str, count: Count, label: str) -> None:
    model = import_tflite(memoryview(path.read_bytes()), str(path)).model
    name_everything(model)
    network = lower(model)
    machine = IntegerExecutor(network, machine_named(name), 1)
    count.real += len(network.ops) - len(machine.integer_ops)
    feeds = {}
    for index in graph.inputs:
        tensor = graph.tensors[index]
        step = graph.tensors[graph.outputs[0]].scale
        assert step is not None
        halves = d.rng.integers(-300, 300, tensor.shape) * 0.5 * step[0]
        noise = d.rng.normal(0, 40 * step[0], tensor.shape)
        real = np.where(d.rng.random(tensor.shape) < 0.5, halves, noise).astype(np.float32)
        feeds[tensor.name] = real if tensor.scale is None else d.codes(tensor.shape)
    (ours,) = machine(feeds).values()
    if MACHINES[name] == "micro":
        one = open_tflite_micro(path)._interpreter()
        for place, index in enumerate(graph.inputs):
            one.set_input(feeds[graph.tensors[index].name], place)
        one.invoke()
        theirs = one.get_output(0)
    else:
        (theirs,) = open_litert(path, MACHINES[name])(feeds).values()
    gap = np.abs(ours.astype(int) - theirs.astype(int))
    count.elements += gap.size
    count.differing += int((gap > 0).sum())
    count.step = max(count.step, int(gap.max(initial=0)))
    if gap.any() and not count.first:
        count.first = label


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=100_000)
    parser.add_argument("--operators", default=",".join(OPERATORS))
    parser.add_argument("--machines", default=",".join(MACHINES))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for operator in args.operators.split(","):
        for name in args.machines.split(","):
            c = measured(operator, args.elements, name, args.seed)
            print(f"{operator:20} {name:22} {c.differing:8} of {c.elements:10}, step {c.step} {c.first}", flush=True)


if __name__ == "__main__":
    main()
