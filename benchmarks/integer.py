"""Time a network in exact integers, beside ONNX Runtime in float and in INT8, and plain NumPy.

    python benchmarks/integer.py [--repeat 9] [--networks MobileNetV2,ResNet-50]
    python benchmarks/integer.py --model quantized.onnx --float float.onnx

Networks of MobileNetV2's and ResNet-50's size with random weights, quantized for ONNX Runtime on random pictures. CPU
time of one thread, one picture, the least of `--repeat` turns, in which all take part one after the other. "AVX2
alone" is the same executor with the kernels that processors without AVX-512 and VNNI get. "NumPy int32" copies
patches and multiplies int32 matrices; it runs once. Before anything is timed, the integers of all are compared.

Goals: at most 2 times ONNX Runtime's float, at least 20 times as fast as NumPy.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import random_resnet
from onnx import TensorProto, helper

import halfeven
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.numerics import accumulate
from halfeven.numerics.integer_ops import patches
from halfeven.numerics.packed import packed_layer
from halfeven.numerics.windows import Window
from halfeven.run.integer import layers
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import this_machine
from halfeven.run.ort import OrtExecutor

Batch = dict[str, npt.NDArray[np.generic]]
Run = Callable[[Batch], Batch]
# Sandler et al. 2018, arXiv:1801.04381, table 2: expansion, channels, blocks, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet(path: Path, seed: int = 0) -> Path:
    """Write a network of MobileNetV2's layers with random weights."""
    make = random_resnet._Builder(seed)

    def conv(x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, group: int = 1, act: bool = True) -> str:
        taps = inputs // group * kernel * kernel
        weight = make.rng.normal(0, np.sqrt((2 if act else 0.5) / taps), (outputs, inputs // group, kernel, kernel))
        names = [x, make.constant(f"w{len(make.nodes)}", weight)]
        names.append(make.constant(f"b{len(make.nodes)}", make.rng.normal(0, 0.1, outputs)))
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
        y = make.node("Conv", names, **window)  # type: ignore[arg-type]
        return make.node("Clip", [y, "zero", "six"]) if act else y

    make.constant("zero", np.array(0.0))
    make.constant("six", np.array(6.0))
    x, channels = conv("input", 3, 32, 3, 2), 32
    for expansion, made, blocks, first in STAGES:
        for i in range(blocks):
            wide = channels * expansion
            y = conv(x, channels, wide, 1) if expansion > 1 else x
            y = conv(y, wide, wide, 3, first if i == 0 else 1, wide)
            y = conv(y, wide, made, 1, act=False)
            x, channels = (make.node("Add", [x, y]) if channels == made and i else y), made
    x = make.node("Flatten", [make.node("GlobalAveragePool", [conv(x, 320, 1280, 1)])])
    weight = make.constant("fc", make.rng.normal(0, 0.03, (1280, 1000)))
    y = make.node("Gemm", [x, weight, make.constant("fb", np.zeros(1000))])
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 224, 224])]
    outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 1000])]
    graph = helper.make_graph(make.nodes, "random_mobilenet_v2", inputs, outputs, make.constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


NETWORKS: dict[str, Callable[[Path], Path]] = {"MobileNetV2": mobilenet, "ResNet-50": random_resnet.build}


def numpy_sums(
    x: npt.NDArray[np.integer], weights: accumulate.Weights, zero: int, window: Window, bias: accumulate.Sums | None
) -> accumulate.Sums:
    """A convolution in NumPy's int32."""
    shape = weights.codes.shape
    seen = patches(x, shape, window.strides, window.pads, window.dilations, weights.groups, zero)
    n, groups, taps, high, wide = seen.shape
    rows = weights.codes.reshape(groups, shape[0] // groups, taps).astype(np.int32)
    columns = seen.reshape(n, groups, taps, high * wide).astype(np.int32) - np.int32(zero)
    acc = np.matmul(rows - np.int32(weights.zero_point.ravel()[0]), columns).reshape(n, shape[0], high, wide)
    return np.asarray(acc if bias is None else acc + bias[:, None, None], np.int32)


def in_numpy(run: Run, feeds: Batch) -> Batch:
    """One run with sums of products in plain NumPy."""
    held = accumulate.conv_codes

    def codes(x, weights, zero, window, bias, settled):  # type: ignore[no-untyped-def]
        return accumulate.codes_of(numpy_sums(x, weights, zero, window, bias), settled, 1)

    layers.conv_codes = codes  # type: ignore[attr-defined]
    try:
        return run(feeds)
    finally:
        layers.conv_codes = held  # type: ignore[attr-defined]


def seconds(run: Run, feeds: Batch) -> float:
    """CPU seconds of one run."""
    start = time.process_time()
    run(feeds)
    return time.process_time() - start


def executors(model: ir.Model, feeds: Batch) -> tuple[Run, Run]:
    """The exact executor, and it with AVX2 alone; both have packed their weights."""
    network = lower(model)
    best = IntegerExecutor(network, this_machine(), threads=1)
    least = IntegerExecutor(network, this_machine(), threads=1)
    best(feeds)
    best(feeds)
    accumulate.packed_layer = partial(packed_layer, most=1)  # type: ignore[attr-defined]
    least(feeds)
    least(feeds)
    accumulate.packed_layer = packed_layer  # type: ignore[attr-defined]
    return best, least


def row(name: str, float_path: Path, model: ir.Model, repeat: int) -> None:
    """Measure one network and print its row."""
    session = OrtExecutor(float_path, threads=1)
    spec = session.session.get_inputs()[0]  # type: ignore[attr-defined]
    shape = [d if isinstance(d, int) else 1 for d in spec.shape]
    feeds: Batch = {spec.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    best, least = executors(model, feeds)
    runs: dict[str, Run] = {"float": session, "int8": OrtExecutor(model, threads=1), "exact": best, "AVX2": least}
    out = next(iter(runs["int8"](feeds)))
    expected = runs["int8"](feeds)[out]
    numpy_start = time.process_time()
    plain = in_numpy(best, feeds)[out]
    numpy_time = time.process_time() - numpy_start
    for found in (best(feeds)[out], least(feeds)[out], plain):
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-5), "the integers differ"
    session(feeds)
    taken = {key: float("inf") for key in runs}
    for _ in range(repeat):
        for key, run in runs.items():
            taken[key] = min(taken[key], seconds(run, feeds))
    times = " | ".join(f"{taken[key] * 1000:.1f}" for key in runs)
    ratios = [taken["exact"] / taken["float"], taken["AVX2"] / taken["float"], numpy_time / taken["exact"]]
    print(
        f"| {name} | {times} | {numpy_time * 1000:.0f} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |", flush=True
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--model", default="", help="a quantized network instead, and")
    parser.add_argument("--float", default="", help="its float form")
    options = parser.parse_args()
    print("| ms | float | INT8 | exact | AVX2 alone | NumPy int32 | exact / float | AVX2 / float | NumPy / exact |")
    print("|---|---|---|---|---|---|---|---|---|")
    if options.model:
        row(Path(options.model).stem, Path(options.float), load(options.model), options.repeat)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks.split(","):
            path = NETWORKS[name](Path(folder) / f"{name}.onnx")
            pictures = np.random.default_rng(0).standard_normal((4, 3, 224, 224)).astype(np.float32)
            result = halfeven.quantize(str(path), pictures, verify=False)
            result.save(Path(folder) / f"{name}.int8.onnx")
            row(name, path, load(Path(folder) / f"{name}.int8.onnx"), options.repeat)


if __name__ == "__main__":
    main()
