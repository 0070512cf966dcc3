"""Measure what operators cost in float and in integer in ONNX Runtime, and fit the table of targets/onnxruntime.py.

    python benchmarks/costs.py [--repeat 9] [--only Conv]

Each operator is timed in chains of several (so that layout changes at the borders are shared as in a network), one
thread, CPU time, float and integer in turn; the least time counts, as noise only adds. For each operator the three
coefficients of `Cost` (multiply-add, output element, call) are the non-negative least-squares fit of relative errors.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

CHAIN = 4
RNG = np.random.default_rng(0)
SCALE, ZERO = "scale", "zero"


def _qdq(nodes: list[Any], value: str, on: bool) -> str:
    """Append Q and DQ behind a value."""
    if not on:
        return value
    nodes.append(helper.make_node("QuantizeLinear", [value, SCALE, ZERO], [value + "_q"]))
    nodes.append(helper.make_node("DequantizeLinear", [value + "_q", SCALE, ZERO], [value + "_d"]))
    return value + "_d"


def _weight(inits: list[Any], nodes: list[Any], name: str, shape: tuple[int, ...], axis: int, integer: bool) -> str:
    if not integer:
        inits.append(numpy_helper.from_array((RNG.standard_normal(shape) * 0.05).astype(np.float32), name))
        return name
    inits.append(numpy_helper.from_array(RNG.integers(-127, 128, shape).astype(np.int8), name + "_c"))
    inits.append(numpy_helper.from_array(np.full(shape[axis], 1e-3, np.float32), name + "_s"))
    inits.append(numpy_helper.from_array(np.zeros(shape[axis], np.int8), name + "_z"))
    nodes.append(helper.make_node("DequantizeLinear", [name + "_c", name + "_s", name + "_z"], [name], axis=axis))
    return name


def build(kind: str, case: tuple[int, ...], integer: bool) -> tuple[bytes, dict[str, np.ndarray], int, int]:
    """A chain of one operator; its feeds; multiply-adds and output elements of one link."""
    op, _, variant = kind.partition("/")
    inits = [
        numpy_helper.from_array(np.array(0.02, np.float32), SCALE),
        numpy_helper.from_array(np.array(128, np.uint8), ZERO),
    ]
    nodes: list[Any] = []
    mac = 0
    if op == "Conv":
        channels, size, kernel = case
        shape: tuple[int, ...] = (1, channels, size, size)
        group = channels if variant == "depthwise" else 1
        mac = prod(shape) * (channels // group) * kernel * kernel
    elif op in ("MatMul", "Gemm"):
        rows, width = case
        shape = (1, rows, width) if op == "MatMul" else (rows, width)
        mac = rows * width * width
    else:
        shape = (1, case[0], case[1], case[1])
    value = "x"
    quantize_outputs = variant != "none"
    if integer:
        value = _qdq(nodes, value, True)
    elements = prod(shape)
    for i in range(CHAIN):
        out = f"y{i}"
        if op == "Conv":
            w = _weight(inits, nodes, f"w{i}", (channels, channels // group, kernel, kernel), 0, integer)
            nodes.append(helper.make_node("Conv", [value, w], [out], group=group, pads=[kernel // 2] * 4))
        elif op == "MatMul":
            nodes.append(
                helper.make_node("MatMul", [value, _weight(inits, nodes, f"w{i}", (width, width), 1, integer)], [out])
            )
        elif op == "Gemm":
            nodes.append(
                helper.make_node(
                    "Gemm", [value, _weight(inits, nodes, f"w{i}", (width, width), 0, integer)], [out], transB=1
                )
            )
        elif op in ("Add", "Mul"):
            nodes.append(helper.make_node(op, [value, value], [out]))
        elif op == "MaxPool" or op == "AveragePool":
            nodes.append(helper.make_node(op, [value], [out], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        elif op == "GlobalAveragePool":
            nodes.append(helper.make_node(op, [value], [f"g{i}"]))
            g = _qdq(nodes, f"g{i}", integer)
            nodes.append(helper.make_node("Add", [value, g], [out]))
        elif op == "Concat":
            nodes.append(helper.make_node("Concat", [value, value], [out], axis=1))
            elements *= 1
        elif op == "Resize":
            inits.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), f"r{i}"))
            nodes.append(
                helper.make_node(
                    "Resize",
                    [value, "", f"r{i}"],
                    [out],
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
            )
        elif op == "Transpose":
            nodes.append(helper.make_node("Transpose", [value], [out], perm=[0, 1, 3, 2]))
        elif op == "Softmax":
            nodes.append(helper.make_node("Softmax", [value], [out], axis=-1))
        else:
            nodes.append(helper.make_node(op, [value], [out]))
        value = _qdq(nodes, out, True) if integer and (quantize_outputs) else out
        if integer and not quantize_outputs and i < CHAIN - 1:
            value = _qdq(nodes, out, True)
        if op in ("Concat", "Resize") and i == 0:
            nodes.append(helper.make_node("Identity", [value], ["end"]))
            break
    end = nodes[-1].output[0]
    inp = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    graph = helper.make_graph(nodes, "g", [inp], [helper.make_tensor_value_info(end, TensorProto.FLOAT, None)], inits)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if op == "Concat":
        elements *= 2
    if op == "Resize":
        elements *= 4
    return model.SerializeToString(), {"x": RNG.standard_normal(shape).astype(np.float32)}, mac, elements


def sessions(
    kind: str, case: tuple[int, ...], integer: bool
) -> tuple[ort.InferenceSession, dict[str, np.ndarray], int, int]:
    """A session of one thread on a chain, its feeds, and the work in one link."""
    data, feeds, mac, elements = build(kind, case, integer)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]), feeds, mac, elements


def least(session: ort.InferenceSession, feeds: dict[str, np.ndarray], repeat: int) -> float:
    """Nanoseconds of one run, the least of `repeat` rounds."""
    session.run(None, feeds)
    start = time.process_time_ns()
    session.run(None, feeds)
    once = max(time.process_time_ns() - start, 1000)
    loops = max(1, int(2e6 // once))
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time_ns()
        for _ in range(loops):
            session.run(None, feeds)
        best = min(best, (time.process_time_ns() - start) / loops)
    return best


def cases(kind: str) -> Iterator[tuple[int, ...]]:
    """The sizes an operator is measured at."""
    if kind == "Conv":
        return iter(
            [
                (16, 56, 1),
                (32, 56, 1),
                (64, 28, 1),
                (128, 14, 1),
                (256, 14, 1),
                (384, 7, 1),
                (8, 56, 3),
                (16, 56, 3),
                (32, 28, 3),
                (64, 28, 3),
                (128, 14, 3),
                (24, 56, 1),
                (96, 28, 1),
                (256, 1, 1),
                (64, 1, 1),
            ]
        )
    if kind == "Conv/depthwise":
        return iter([(32, 56, 3), (96, 28, 3), (192, 14, 3), (384, 14, 3), (480, 7, 5), (240, 14, 5), (16, 112, 3)])
    if kind.startswith(("MatMul", "Gemm")):
        return iter([(8, 256), (32, 128), (32, 384), (128, 384), (128, 768), (64, 64), (16, 512)])
    if kind in ("Softmax",):
        return iter([(12, 32), (12, 128), (64, 32)])
    return iter([(16, 56), (32, 28), (96, 28), (192, 14), (480, 7), (32, 112)])


def fit(rows: list[tuple[int, int, float]]) -> tuple[float, float, float]:
    """Non-negative least squares of relative error, by trying each subset of the three features."""
    a = np.array([[m, e, 1.0] for m, e, _ in rows])
    b = np.array([t for *_, t in rows])
    best, found = np.inf, np.zeros(3)
    for size in (1, 2, 3):
        for subset in itertools.combinations(range(3), size):
            x = np.zeros(3)
            cols = list(subset)
            x[cols] = np.linalg.lstsq(a[:, cols] / b[:, None], np.ones(len(b)), rcond=None)[0]
            error = ((a @ x / b - 1) ** 2).sum()
            if (x >= 0).all() and error < best:
                best, found = error, x
    mac, element, call = (float(c) for c in found)
    return mac, element, call


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    kinds = [
        "Conv",
        "Conv/depthwise",
        "MatMul",
        "MatMul/none",
        "Gemm",
        "Gemm/none",
        "Add",
        "Mul",
        "Concat",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "Resize",
        "Transpose",
        "Sigmoid",
        "LeakyRelu",
        "Softmax",
        "Relu",
        "HardSigmoid",
    ]
    for kind in args.only or kinds:
        tables: dict[bool, list[tuple[int, int, float]]] = {False: [], True: []}
        for case in cases(kind):
            for integer in (False, True):
                session, feeds, mac, elements = sessions(kind, case, integer)
                links = 1 if kind in ("Concat", "Resize") else CHAIN
                tables[integer].append((mac, elements, least(session, feeds, args.repeat) / links))
            if args.verbose:
                f, i = tables[False][-1], tables[True][-1]
                times = f"float {f[2] / 1e3:9.1f} us   integer {i[2] / 1e3:9.1f} us"
                print(f"   {kind:16s} {case!s:16s} {times}   ratio {i[2] / f[2]:.2f}")
        for integer in (False, True):
            mac_, element, call = fit(tables[integer])
            world = "integer" if integer else "float"
            print(f'{world:8s} "{kind}": Cost(mac={mac_:.4g}, element={element:.4g}, call={call:.4g}),')


if __name__ == "__main__":
    main()
