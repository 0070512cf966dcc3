"""Time the kernels that touch every element, as multiples of what reading or copying the same bytes costs.

    python benchmarks/kernels.py [--elements 4194304] [--repeat 40]

One thread, CPU time, the least of `--repeat` interleaved turns, as noise only adds. In a turn each work runs twice and
the second run is timed, so that all find their arrays as near as the caches hold them. `read` is the fastest of NumPy's
sum and maximum and Halfeven's extrema; `copy` is NumPy's copy into an array that exists. Kernels write to arrays that
exist; the rows "+ new array" are the Python functions, which make one. "numpy" is Halfeven's own definition.

"channels" are rows of 4096 elements, "rows of 64" channels of 64 elements, "7 x 7 maps" the last feature maps of an
image network, "last axis" a scale for each of 4096 columns. ONNX Runtime's QuantizeLinear runs on bound buffers. Over
long rows both it and Halfeven do nothing but divide, as fast as the processor can, so they are alike there; the goal is
for the other three.

Where torch is installed: its fake quantizers; "torch backward", the operator that computes the three gradients of its
learnable fake quantizer, without autograd around it; and "torch LSQ backward", autograd's way back through LSQ as it
is commonly composed of torch's operators, straight-through estimator and all.
"""

import argparse
import importlib.util
import time

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table
from summaries import Work, in_numpy

from halfeven.numerics import _native as kernels
from halfeven.numerics import lsq, native
from halfeven.numerics.grid import INT8
from halfeven.numerics.quantize import fake_quantize, quantize
from halfeven.numerics.scheme import QParams, Scheme, Tiling, per_channel

Floats = npt.NDArray[np.float32]

# Goal, of what, and "at most" or "at least" times.
GOALS = {
    "quantize": ("read", "<=", 1.4),
    "quantize, channels": ("read", "<=", 2.2),
    "quantize, 7 x 7 maps": ("read", "<=", 2.2),
    "quantize, rows of 64": ("read", "<=", 2.2),
    "ONNX Runtime, rows of 64": ("quantize, rows of 64", ">=", 1.5),
    "ONNX Runtime, 7 x 7 maps": ("quantize, 7 x 7 maps", ">=", 1.5),
    "ONNX Runtime, last axis": ("quantize, last axis", ">=", 1.5),
    "fake_quantize": ("copy", "<=", 1.15),
    "torch fake_quantize": ("fake_quantize", ">=", 8.0),
    "torch LSQ backward": ("lsq_backward", ">=", 7.0),
    "np.histogram": ("histogram", ">=", 8.0),
}


def least_seconds(works: dict[str, Work], repeat: int) -> dict[str, float]:
    """CPU seconds of each, taken in turns, the second of two runs; slow work gets fewer turns."""
    least = dict.fromkeys(works, float("inf"))
    for turn in range(repeat):
        for name, work in works.items():
            if turn > 2 and least[name] * turn > 0.5:
                continue
            work()
            start = time.process_time()
            work()
            least[name] = min(least[name], time.process_time() - start)
    return least


def parameters(shape: tuple[int, ...], tiling: Tiling) -> QParams:
    """Scales around a sixtieth, so that normal data saturates now and then."""
    scale = np.random.default_rng(1).uniform(0.015, 0.02, tiling.scale_shape(shape)).astype(np.float32)
    return QParams(Scheme(INT8, tiling), scale, np.full(scale.shape, 3, np.int32))


def maps_of(x: Floats) -> Floats:
    """As many of the elements as make whole images of 64 channels of 7 x 7."""
    return x.ravel()[: x.size // 3136 * 3136].reshape(-1, 64, 7, 7)


def cut_of(x: Floats, params: QParams) -> tuple[tuple[int, int, int], Floats, npt.NDArray[np.int32]]:
    """What the kernels take: (outer, channels, inner), scales, zero points."""
    cut = native.cut(x.shape, params.scale.shape)
    assert cut is not None
    return cut, params.scale.ravel(), params.zero_point.ravel()


def ours(x: Floats, g: Floats) -> dict[str, Work]:
    """Halfeven's kernels, reading, and copying."""
    flat, codes, values = x.ravel(), np.empty(x.size, np.int8), np.empty(x.size, np.float32)
    one = parameters(x.shape, Tiling())
    sums = np.empty(x.shape[0], np.float32), np.empty(x.shape[0], np.float32)

    def quantize_work(x: Floats, tiling: Tiling) -> Work:
        own, by, out = x.ravel(), cut_of(x, parameters(x.shape, tiling)), codes[: x.size]
        return lambda: kernels.quantize(own, *by, -128, 127, out)

    def fake_work(tiling: Tiling) -> Work:
        by = cut_of(x, parameters(x.shape, tiling))
        return lambda: kernels.fake_quantize(flat, *by, -128, 127, values)

    def lsq_work(tiling: Tiling) -> Work:
        by = cut_of(x, parameters(x.shape, tiling))
        own = sums[0][: by[1].size], sums[1][: by[1].size]
        return lambda: kernels.lsq_backward(flat, g.ravel(), *by, -128, 127, values, *own)

    return {
        "sum": lambda: x.sum(),
        "max": lambda: x.max(),
        "extrema": lambda: native.extrema(x),
        "copy": lambda: np.copyto(values, flat),
        "quantize": quantize_work(x, Tiling()),
        "quantize, channels": quantize_work(x, per_channel(0)),
        "quantize, 7 x 7 maps": quantize_work(maps_of(x), per_channel(1)),
        "quantize, rows of 64": quantize_work(x.reshape(-1, 64, 64), per_channel(1)),
        "quantize, last axis": quantize_work(x, per_channel(1)),
        "quantize + new array": lambda: native.quantize(x, one.scale, one.zero_point, -128, 127, codes.dtype),
        "quantize, numpy": in_numpy(lambda: quantize(x, one)),
        "dequantize": lambda: kernels.dequantize(codes, *cut_of(x, one), values),
        "fake_quantize": fake_work(Tiling()),
        "fake_quantize, channels": fake_work(per_channel(0)),
        "fake_quantize + new array": lambda: native.fake_quantize(x, one.scale, one.zero_point, -128, 127),
        "fake_quantize, numpy": in_numpy(lambda: fake_quantize(x, one)),
        "lsq_backward": lsq_work(Tiling()),
        "lsq_backward, channels": lsq_work(per_channel(0)),
        "lsq_backward, numpy": in_numpy(lambda: lsq.lsq_backward(x, g, one.scale, one.zero_point, -128, 127)),
        "histogram": lambda: native.histogram(x),
        "np.histogram": lambda: np.histogram(x, 2048),
    }


def of_onnxruntime(x: Floats) -> dict[str, Work]:
    """ONNX Runtime's QuantizeLinear, one thread, on buffers that exist."""

    def work(x: Floats, tiling: Tiling) -> Work:
        params = parameters(x.shape, tiling)
        shape = () if params.scale.size == 1 else (params.scale.size,)
        scale, zero = params.scale.reshape(shape), params.zero_point.reshape(shape).astype(np.int8)
        graph = helper.make_graph(
            [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"], axis=tiling.axis or 0)],
            "quantize",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.INT8, x.shape)],
            [onnx.numpy_helper.from_array(scale, "scale"), onnx.numpy_helper.from_array(zero, "zero")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        bound = session.io_binding()
        bound.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
        bound.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(np.empty(x.shape, np.int8)))
        return lambda: session.run_with_iobinding(bound)

    return {
        "ONNX Runtime": work(x, Tiling()),
        "ONNX Runtime, channels": work(x, per_channel(0)),
        "ONNX Runtime, 7 x 7 maps": work(maps_of(x), per_channel(1)),
        "ONNX Runtime, rows of 64": work(x.reshape(-1, 64, 64), per_channel(1)),
        "ONNX Runtime, last axis": work(x, per_channel(1)),
    }


def of_torch(x: Floats, g: Floats) -> dict[str, Work]:
    """Torch's fake quantizers and the backward of its learnable one, one thread."""
    import torch

    torch.set_num_threads(1)
    data, grad = torch.from_numpy(x), torch.from_numpy(g)
    one, many = parameters(x.shape, Tiling()), parameters(x.shape, per_channel(0))
    scale, scales = torch.from_numpy(one.scale.ravel()), torch.from_numpy(many.scale.ravel())
    zero, zeros = torch.full((1,), 3.0), torch.full((x.shape[0],), 3, dtype=torch.int32)
    aten = torch.ops.aten
    leaf, step = data.clone().requires_grad_(), scale.clone().requires_grad_()
    limited = torch.clamp(leaf / step, -131, 124)
    composed = (limited + (torch.round(limited) - limited).detach()) * step

    def back() -> None:
        leaf.grad = step.grad = None
        composed.backward(grad, retain_graph=True)

    return {
        "torch LSQ backward": back,
        "torch fake_quantize": lambda: torch.fake_quantize_per_tensor_affine(data, float(scale), 3, -128, 127),
        "torch fake_quantize, channels": lambda: torch.fake_quantize_per_channel_affine(
            data, scales, zeros, 0, -128, 127
        ),
        "torch backward": lambda: aten._fake_quantize_learnable_per_tensor_affine_backward(
            grad, data, scale, zero, -128, 127, 1.0
        ),
        "torch backward, channels": lambda: aten._fake_quantize_learnable_per_channel_affine_backward(
            grad, data, scales, zeros.float(), 0, -128, 127, 1.0
        ),
    }


def table_of(least: dict[str, float], elements: int) -> Table:
    """Nanoseconds per element, multiples of reading and of copying, and whether each goal is met."""
    least = {**least, "read": min(least[name] for name in ("sum", "max", "extrema"))}
    table = Table("kernel", "ns / element", "of read", "of copy", "goal", title=f"{elements} elements")
    for name, seconds in least.items():
        goal = ""
        if name in GOALS:
            other, way, times = GOALS[name]
            ratio = seconds / least[other]
            met = ratio <= times if way == "<=" else ratio >= times
            goal = f"{ratio:.2f} of {other}, {way} {times:g}: {'met' if met else 'MISSED'}"
        ratios = (f"{seconds / least[base]:.2f}" for base in ("read", "copy"))
        table.add_row(name, f"{seconds / elements * 1e9:.3f}", *ratios, goal)
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 22, help="cut to rows of 4096")
    parser.add_argument("--repeat", type=int, default=40)
    arguments = parser.parse_args()
    if not native.BUILT:
        parser.error("the extension is not built: there is nothing to time")
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((max(arguments.elements // 4096, 1), 4096), np.float32) for _ in range(2))
    works = {**ours(x, g), **of_onnxruntime(x)}
    if importlib.util.find_spec("torch"):
        works |= of_torch(x, g)
    Console().print(table_of(least_seconds(works, arguments.repeat), x.size))


if __name__ == "__main__":
    main()
