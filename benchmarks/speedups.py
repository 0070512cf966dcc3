"""How much faster a matrix product is with codes of 8 bits and of 1 bit than with float32.

    python benchmarks/speedups.py [--repeat 30] [--shapes 256x1152x256,512x4096x512]

One thread, CPU time, the least of `--repeat` interleaved turns, of products rows x depth x columns:

    float32     ONNX Runtime's MatMul
    8 bits      ONNX Runtime's MatMulInteger, uint8 by int8
    1 bit       `numerics.bitwise.matmul`: codes -1 and 1 as bits, exclusive or and counting of ones
    1 bit, packed while it runs      the same, and one operand becomes bits in each turn, as activations do

Before anything is timed, all are compared with the product in integers. What whole networks gain from 8 bits is in
docs/benchmarks.md; ONNX Runtime has no product of 1 bit.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from halfeven.numerics import bitwise
from halfeven.numerics.bitwise import Coding, pack

Array = npt.NDArray[np.generic]
Work = Callable[[], Array]
Shape = tuple[int, int, int]
SHAPES = "64x256x64,256x1152x256,512x4096x512"


def product(op: str, a: Array, b: Array, result: int) -> Work:
    """ONNX Runtime's product of `a` and the constant `b`, one thread."""
    kind = helper.np_dtype_to_tensor_dtype(a.dtype)
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", kind, a.shape)],
        [helper.make_tensor_value_info("y", result, (a.shape[0], b.shape[1]))],
        [onnx.numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": a})[0]


def works(shape: Shape) -> dict[str, Work]:
    """The products, each compared with that in integers."""
    rows, depth, columns = shape
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (rows, depth), np.uint8), rng.integers(-128, 128, (depth, columns), np.int8)
    left, right = (rng.choice(np.array([-1, 1], np.int8), sizes) for sizes in ((rows, depth), (columns, depth)))
    packed, weight = pack(left, Coding.SIGN), pack(right, Coding.SIGN)
    signs = left.astype(np.int64) @ right.T.astype(np.int64)
    made: dict[str, Work] = {
        "float32": product("MatMul", left.astype(np.float32), right.T.astype(np.float32).copy(), TensorProto.FLOAT),
        "8 bits": product("MatMulInteger", a, b, TensorProto.INT32),
        "1 bit": lambda: bitwise.matmul(packed, weight),
        "1 bit, packed while it runs": lambda: bitwise.matmul(pack(left, Coding.SIGN), weight),
    }
    wanted = dict.fromkeys(made, signs) | {"8 bits": a.astype(np.int64) @ b.astype(np.int64)}
    for name in made:
        if not np.array_equal(made[name](), wanted[name]):
            raise SystemExit(f"{name}, {shape}: the product is not that of the integers.")
    return made


def least_seconds(made: dict[str, Work], repeat: int) -> dict[str, float]:
    """CPU seconds of each, taken in turns."""
    least = dict.fromkeys(made, float("inf"))
    for _ in range(repeat):
        for name, work in made.items():
            start = time.process_time()
            work()
            least[name] = min(least[name], time.process_time() - start)
    return least


def main() -> None:
    """Measure and print: milliseconds of float32, and how many times as fast the others are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=30, help="turns (default: 30)")
    parser.add_argument("--shapes", default=SHAPES, help=f"rows x depth x columns (default: {SHAPES})")
    args = parser.parse_args()
    table = Table("product", "float32, ms", "8 bits", "1 bit", "1 bit, packed while it runs")
    for text in args.shapes.split(","):
        rows, depth, columns = (int(size) for size in text.split("x"))
        least = least_seconds(works((rows, depth, columns)), args.repeat)
        first = least.pop("float32")
        times = [f"{first / seconds:.1f} times" for seconds in least.values()]
        table.add_row(text, f"{1000 * first:.2f}", *times)
    Console().print(table)


if __name__ == "__main__":
    main()
