"""Promised: each operator that is imported gives in ONNX Runtime what the runtime's reference kernels give: real numbers
to 1e-5 of the largest, integers exactly, both where its picture is fed and where a convolution gave it with channels first.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

SAME, VALID = 0, 1
W = Any
Case = Callable[[W], object]
CASES: dict[str, Case] = {
    "conv SAME": lambda w: w.conv(w.image(), 4, 8),
    "conv SAME with stride": lambda w: w.conv(w.image(), 4, 8, strideH=2, strideW=2),
    "conv VALID with stride": lambda w: w.conv(w.image(), 4, 8, padding=VALID, strideH=2, strideW=1),
    "conv with dilation": lambda w: w.conv(w.image(9, 9), 4, 8, dilationHFactor=2, dilationWFactor=3),
    "conv and relu": lambda w: w.conv(w.image(), 4, 8, fusedActivationFunction=1),
    "conv and -1..1": lambda w: w.conv(w.image(), 4, 8, fusedActivationFunction=2),
    "conv and relu6": lambda w: w.conv(w.image(), 4, 8, fusedActivationFunction=3),
    "conv in groups": lambda w: w.conv(w.image(), 2, 8),
    "depthwise": lambda w: _depthwise(w, 1),
    "depthwise with a multiplier and stride": lambda w: _depthwise(w, 3, strideH=2, strideW=2),
    "transposed conv SAME": lambda w: _transposed(w, (12, 14), 3, 2, SAME),
    "transposed conv SAME, odd output": lambda w: _transposed(w, (11, 13), 3, 2, SAME),
    "transposed conv VALID": lambda w: _transposed(w, (13, 15), 3, 2, VALID),
    "transposed conv, stride over kernel": lambda w: _transposed(w, (12, 14), 1, 2, SAME),
    "fully connected": lambda w: _dense(w, w.feed(2, 6)),
    "fully connected without bias": lambda w: w.op("FULLY_CONNECTED", [w.feed(2, 6), w.drawn(5, 6), -1], options="FullyConnected"),
    "fully connected and relu": lambda w: _dense(w, w.feed(2, 6), fusedActivationFunction=1),
    "fully connected of rows": lambda w: _dense(w, w.feed(2, 3, 6), keepNumDims=True, fusedActivationFunction=1),
    "fully connected, flattened": lambda w: _dense(w, w.feed(2, 3, 2), inner=6),
    "fully connected of a picture": lambda w: _dense(w, w.image(), inner=4 * 6 * 7),
    "batch matmul": lambda w: w.op("BATCH_MATMUL", [w.feed(2, 3, 4), w.feed(2, 4, 5)], options="BatchMatMul"),
    "batch matmul adjoint": lambda w: w.op(
        "BATCH_MATMUL", [w.feed(2, 4, 3), w.feed(2, 5, 4)], options="BatchMatMul", adjX=True, adjY=True
    ),
    "batch matmul with a constant": lambda w: w.op(
        "BATCH_MATMUL", [w.feed(2, 3, 4), w.drawn(5, 4)], options="BatchMatMul", adjY=True
    ),
    "average pool SAME": lambda w: _pool(w, "AVERAGE_POOL_2D", SAME),
    "average pool VALID": lambda w: _pool(w, "AVERAGE_POOL_2D", VALID),
    "max pool SAME": lambda w: _pool(w, "MAX_POOL_2D", SAME),
    "max pool VALID and relu": lambda w: _pool(w, "MAX_POOL_2D", VALID, fusedActivationFunction=1),
    **{
        kind.lower(): lambda w, kind=kind: w.op(kind, [w.image()])
        for kind in (
            *("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LOGISTIC", "NEG", "RELU", "RELU6", "ROUND", "SIGN"),
            *("RELU_N1_TO_1", "RELU_0_TO_1", "SIN", "SQUARE", "TANH", "LOG_SOFTMAX", "ZEROS_LIKE"),
        )
    },
    **{
        f"{kind.lower()} of positive": lambda w, kind=kind: w.op(kind, [w.op("EXP", [w.image()])])
        for kind in ("LOG", "SQRT", "RSQRT")
    },
    "leaky": lambda w: w.op("LEAKY_RELU", [w.image()], options="LeakyRelu", alpha=0.3),
    "gelu": lambda w: w.op("GELU", [w.image()], options="Gelu", approximate=False),
    "gelu by tanh": lambda w: w.op("GELU", [w.image()], options="Gelu", approximate=True),
    "prelu by channel": lambda w: w.op("PRELU", [w.image(), w.drawn(1, 1, 4)]),
    "prelu, one slope": lambda w: w.op("PRELU", [w.image(), w.drawn(1, 1, 1)]),
    "softmax": lambda w: w.op("SOFTMAX", [w.image()], options="Softmax", beta=1.0),
    "softmax with beta": lambda w: w.op("SOFTMAX", [w.feed(2, 5)], options="Softmax", beta=0.5),
    "l2 normalization": lambda w: w.op("L2_NORMALIZATION", [w.image()], options="L2Norm"),
    **{
        f"{kind.lower()} {name}": lambda w, kind=kind, other=other: w.op(kind, [w.image(), other(w)])
        for kind in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")
        for name, other in (("of two", lambda w: w.feed(1, 6, 7, 4)), ("by channel", lambda w: w.const([0.5, 1.0, 2.0, -3.0])))
    },
    "add of a scalar": lambda w: w.op("ADD", [w.image(), w.const(2.5)]),
    "add of columns": lambda w: w.op("ADD", [w.drawn(7, 1), w.image()]),
    "add and relu": lambda w: w.op("ADD", [w.image(), w.feed(1, 6, 7, 4)], options="Add", fusedActivationFunction=1),
    "mul of a picture and rows": lambda w: w.op("MUL", [w.image(), w.feed(7, 4)]),
    "add of integers": lambda w: w.op("ADD", [w.feed(3, dtype="int32"), w.feed(3, dtype="int32")], dtype="int32"),
    "add_n": lambda w: w.op("ADD_N", [w.feed(2, 3), w.feed(2, 3), w.feed(2, 3)]),
    "pow": lambda w: w.op("POW", [w.op("EXP", [w.image()]), w.const(1.5)]),
    "floor div": lambda w: w.op("FLOOR_DIV", [w.image(), w.const(0.3)]),
    "floor mod": lambda w: w.op("FLOOR_MOD", [w.image(), w.const(0.3)]),
    "floor div of integers": lambda w: w.op("FLOOR_DIV", [_signed(w), w.const(2)], dtype="int32"),
    "floor mod of integers": lambda w: w.op("FLOOR_MOD", [_signed(w), w.const(-2)], dtype="int32"),
    **{
        kind.lower(): lambda w, kind=kind: w.op(kind, [w.image(), w.const(0.1)], dtype="bool")
        for kind in ("EQUAL", "NOT_EQUAL", "LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL")
    },
    "logical": lambda w: w.op(
        "LOGICAL_OR",
        [w.op("LOGICAL_AND", [w.feed(4, dtype="bool"), w.feed(4, dtype="bool")], dtype="bool"),
         w.op("LOGICAL_NOT", [w.feed(4, dtype="bool")], dtype="bool")], dtype="bool",
    ),
    "select of rows": lambda w: w.op("SELECT", [w.feed(3, dtype="bool"), w.feed(3, 2), w.feed(3, 2)]),
    "select_v2": lambda w: w.op("SELECT_V2", [_positive(w), w.image(), w.const(0.25)]),
    "where": lambda w: w.op("WHERE", [w.feed(3, 4, dtype="bool")], dtype="int64"),
    "cast to integers": lambda w: w.op("CAST", [w.image()], dtype="int32", options="Cast", inDataType=0, outDataType=2),
    "cast to real": lambda w: w.op("CAST", [w.feed(3, dtype="int32")], options="Cast", inDataType=2, outDataType=0),
    "concat of channels": lambda w: w.op("CONCATENATION", [w.image(), w.feed(1, 6, 7, 2)], options="Concatenation", axis=3),
    "concat from the end, with a constant": lambda w: w.op(
        "CONCATENATION", [w.image(), w.drawn(1, 6, 7, 4)], options="Concatenation", axis=-2
    ),
    "pad": lambda w: w.op("PAD", [w.image(), w.const([[0, 0], [1, 2], [0, 3], [0, 0]])]),
    "pad of channels": lambda w: w.op("PAD", [w.image(), w.const([[0, 0], [0, 0], [0, 0], [1, 2]])]),
    "padv2": lambda w: w.op("PADV2", [w.image(), w.const([[0, 0], [1, 2], [0, 3], [0, 0]]), w.const(0.5)]),
    "mirror pad, reflect": lambda w: _mirror(w, 0),
    "mirror pad, symmetric": lambda w: _mirror(w, 1),
    **{
        f"{kind.lower()} over {axes}, {'kept' if keep else 'dropped'}": lambda w, kind=kind, axes=axes, keep=keep: w.op(
            kind, [w.image(), w.const(axes)], options="Reducer", keepDims=keep
        )
        for kind in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD")
        for axes, keep in (([1, 2], True), ([1, 2], False), ([-1], True), ([3], False), ([1], False))
    },
    "reduce_any": lambda w: w.op("REDUCE_ANY", [w.feed(3, 4, dtype="bool"), w.const([1])], dtype="bool", options="Reducer"),
    "reduce_all": lambda w: w.op("REDUCE_ALL", [w.feed(3, 4, dtype="bool"), w.const([0])], dtype="bool", options="Reducer"),
    "argmax": lambda w: w.op("ARG_MAX", [w.image(), w.const(3)], dtype="int64", options="ArgMax", outputType=4),
    "argmin": lambda w: w.op("ARG_MIN", [w.image(), w.const(-2)], dtype="int32", options="ArgMin", outputType=2),
    "topk": lambda w: _typed(w, w.op("TOPK_V2", [w.feed(3, 8), w.const(3)], count=2), "int32"),
    "cumsum": lambda w: w.op("CUMSUM", [w.feed(3, 5), w.const(1)], options="Cumsum", exclusive=False, reverse=True),
    "cumsum, exclusive": lambda w: w.op("CUMSUM", [w.image(), w.const(-1)], options="Cumsum", exclusive=True),
    "one hot": lambda w: w.op(
        "ONE_HOT", [w.feed(3, dtype="int32"), w.const(4), w.const(2.0), w.const(-1.0)], options="OneHot", axis=-1
    ),
    **{
        f"bilinear to {size}{', corners' * corners}{', centers' * centers}": lambda w, size=size, c=corners, p=centers: w.op(
            "RESIZE_BILINEAR", [w.image(), w.const(size)], options="ResizeBilinear", alignCorners=c, halfPixelCenters=p
        )
        for size in ([12, 14], [9, 5], [3, 3])
        for corners, centers in ((False, False), (True, False), (False, True))
    },
    **{
        f"nearest to {size}{', corners' * corners}{', centers' * centers}": lambda w, size=size, c=corners, p=centers: w.op(
            "RESIZE_NEAREST_NEIGHBOR", [w.image(), w.const(size)], options="ResizeNearestNeighbor", alignCorners=c, halfPixelCenters=p
        )
        for size in ([12, 14], [9, 5], [3, 3])
        for corners, centers in ((False, False), (True, False), (False, True))
    },
    "reshape": lambda w: w.op("RESHAPE", [w.image(), w.const([1, 21, 8])]),
    "reshape keeping channels": lambda w: w.op("RESHAPE", [w.image(), w.const([1, -1, 4])]),
    "reshape of one place": lambda w: w.op("RESHAPE", [w.image(1, 1), w.const([1, -1])]),
    "reshape to a computed shape": lambda w: w.op("RESHAPE", [w.feed(2, 6), w.op("SHAPE", [w.feed(3, 4)], dtype="int32", options="Shape", outType=2)]),
    "squeeze": lambda w: w.op("SQUEEZE", [w.image(1, 5)], options="Squeeze", squeezeDims=[1]),
    "expand dims": lambda w: w.op("EXPAND_DIMS", [w.image(), w.const(1)]),
    "transpose": lambda w: w.op("TRANSPOSE", [w.image(), w.const([0, 2, 3, 1])]),
    "transpose to channels first": lambda w: w.op("TRANSPOSE", [w.image(), w.const([0, 3, 1, 2])]),
    "transpose to channels last and a layer": lambda w: w.conv(w.op("TRANSPOSE", [w.image(), w.const([0, 2, 3, 1])]), 6, 4),
    "slice": lambda w: w.op("SLICE", [w.image(), w.const([0, 1, 2, 1]), w.const([1, 3, -1, 2])]),
    "strided slice": lambda w: _strided(w, [0, -1, 1, 0], [1, -6, 6, 4], [1, -2, 2, 1], beginMask=8, endMask=9),
    "strided slice that drops": lambda w: _strided(w, [0, 2, 0, -1], [1, 3, 7, 4], [1, 1, 1, 1], shrinkAxisMask=10, endMask=4),
    "strided slice with dots": lambda w: _strided(w, [0, 1], [0, 3], [1, 1], ellipsisMask=1),
    "strided slice with a new axis": lambda w: _strided(w, [0, 0, 1], [1, 0, 4], [1, 1, 1], newAxisMask=2),
    "split": lambda w: w.op("SPLIT", [w.const(3), w.image()], count=2, options="Split", numSplits=2),
    "split_v": lambda w: w.op("SPLIT_V", [w.image(), w.const([2, -1]), w.const(1)], count=2, options="SplitV", numSplits=2),
    "pack": lambda w: w.op("PACK", [w.image(), w.feed(1, 6, 7, 4)], options="Pack", valuesCount=2, axis=1),
    "unpack": lambda w: w.op("UNPACK", [w.image(2, 3)], count=2, options="Unpack", num=2, axis=1),
    "gather": lambda w: w.op("GATHER", [w.image(), w.const([2, 0, 2])], options="Gather", axis=2),
    "gather from a table": lambda w: w.op("GATHER", [w.drawn(5, 4), w.feed(2, 3, dtype="int32")], options="Gather", axis=0),
    "gather in batches": lambda w: w.op("GATHER", [w.feed(2, 5, 3), _modest(w, 2, 2)], options="Gather", axis=1, batchDims=1),
    "embedding": lambda w: w.op("EMBEDDING_LOOKUP", [w.feed(3, dtype="int32"), w.drawn(5, 4)]),
    "gather_nd": lambda w: w.op("GATHER_ND", [w.feed(3, 4, 2), w.const([[0, 1], [2, 3]])]),
    "scatter_nd": lambda w: w.op("SCATTER_ND", [w.const([[1], [3], [1]]), w.feed(3, 2), w.const([5, 2])]),
    "tile": lambda w: w.op("TILE", [w.image(), w.const([1, 2, 1, 3])]),
    "broadcast_to": lambda w: w.op("BROADCAST_TO", [w.feed(1, 4), w.const([3, 4])]),
    "shape of a picture": lambda w: w.op("SHAPE", [w.image()], dtype="int32", options="Shape", outType=2),
    "fill": lambda w: w.op("FILL", [w.op("SHAPE", [w.feed(2, 3)], dtype="int32", options="Shape", outType=2), w.const(2.5)]),
    "range": lambda w: w.op("RANGE", [w.const(1.0), w.op("REDUCE_MAX", [w.const([3.0, 5.5]), w.const([0])], options="Reducer"), w.const(0.5)]),
    "reverse": lambda w: w.op("REVERSE_V2", [w.image(), w.const([2])]),
    "reverse sequence": lambda w: w.op(
        "REVERSE_SEQUENCE", [w.feed(2, 5, 3), w.const([2, 4])], options="ReverseSequence", seqDim=1, batchDim=0
    ),
    "depth to space": lambda w: w.op("DEPTH_TO_SPACE", [w.image(3, 2, 12)], options="DepthToSpace", blockSize=2),
    "space to depth": lambda w: w.op("SPACE_TO_DEPTH", [w.image(4, 6, 3)], options="SpaceToDepth", blockSize=2),
    "space to batch": lambda w: w.op("SPACE_TO_BATCH_ND", [w.image(5, 6), w.const([2, 3]), w.const([[1, 0], [0, 3]])]),
    "batch to space": lambda w: w.op("BATCH_TO_SPACE_ND", [w.feed(6, 2, 3, 4), w.const([2, 3]), w.const([[1, 0], [0, 2]])]),
}  # fmt: skip


NOT_IN_REFERENCE = ("ceil", "elu", "round", "sum over [1], dropped")  # the last: wrong there, of codes


def _depthwise(w: W, multiplier: int, **fields: Any) -> int:
    fields = {
        "strideH": 1,
        "strideW": 1,
        "depthMultiplier": multiplier,
        "dilationHFactor": 1,
        "dilationWFactor": 1,
    } | fields
    weights = [w.image(), w.drawn(1, 3, 3, 4 * multiplier), w.drawn(4 * multiplier)]
    return int(w.op("DEPTHWISE_CONV_2D", weights, options="DepthwiseConv2D", **fields))


def _transposed(w: W, size: tuple[int, int], kernel: int, stride: int, padding: int) -> int:
    inputs = [w.const([1, *size, 5]), w.drawn(5, kernel, kernel, 4), w.image(), w.drawn(5)]
    fields = {"padding": padding, "strideH": stride, "strideW": stride}
    return int(w.op("TRANSPOSE_CONV", inputs, options="TransposeConv", **fields))


def _dense(w: W, x: int, inner: int = 6, **fields: Any) -> int:
    return int(w.op("FULLY_CONNECTED", [x, w.drawn(5, inner), w.drawn(5)], options="FullyConnected", **fields))


def _pool(w: W, kind: str, padding: int, **fields: Any) -> int:
    fields = {"padding": padding, "strideH": 2, "strideW": 1, "filterHeight": 3, "filterWidth": 2} | fields
    return int(w.op(kind, [w.image()], options="Pool2D", **fields))


def _signed(w: W) -> int:
    return int(w.op("SUB", [w.feed(3, 4, dtype="int32"), w.const([0, 2, 3, 5])], dtype="int32"))


def _positive(w: W) -> int:
    return int(w.op("GREATER", [w.feed(1, 6, 7, 4), w.const(0.0)], dtype="bool"))


def _modest(w: W, *shape: int) -> int:
    return w.feed(*shape, dtype="int32")  # type: ignore[no-any-return]


def _mirror(w: W, mode: int) -> int:
    return int(
        w.op("MIRROR_PAD", [w.image(), w.const([[0, 0], [2, 1], [0, 3], [1, 1]])], options="MirrorPad", mode=mode)
    )


def _strided(w: W, begin: list[int], end: list[int], steps: list[int], **masks: int) -> int:
    inputs = [w.image(), w.const(begin), w.const(end), w.const(steps)]
    return int(w.op("STRIDED_SLICE", inputs, options="StridedSlice", **masks))


def _typed(w: W, outputs: list[int], dtype: str) -> None:
    w.tensors[outputs[1]].type = w.tensors[w.const(np.zeros(1, dtype))].type


@pytest.mark.parametrize("case", CASES)
def test_an_operator_answers_as_the_runtime_does(
    case: str, wiring: Callable[..., W], both: Callable[..., Any], tmp_path: Path
) -> None:
    kernels = "optimized" if case in NOT_IN_REFERENCE else "reference"
    for behind_layer in (False, True):
        w = wiring(behind_layer=behind_layer)
        CASES[case](w)
        answers = both(w.file(tmp_path, kernels), w.feeds(), kernels)
        for name, wanted in answers.wanted.items():
            found = answers.found[name]
            if wanted.dtype.kind == "f":
                assert np.abs(found - wanted).max(initial=0) <= 1e-5 * max(np.abs(wanted).max(initial=0), 1e-30)
            else:
                np.testing.assert_array_equal(found, wanted)


INTEGERS = (
    *(
        name
        for name in CASES
        if name.startswith(("conv", "depthwise", "transposed", "fully", "average", "max pool", "pad"))
    ),
    *(
        "batch matmul",
        "batch matmul adjoint",
        "relu",
        "relu6",
        "logistic",
        "tanh",
        "hard_swish",
        "leaky",
        "prelu by channel",
    ),
    *("softmax", "abs", "add of two", "add by channel", "add and relu", "sub of two", "mul of two", "mul by channel"),
    *("maximum of two", "minimum by channel", "squared_difference of two", "concat of channels", "mirror pad, reflect"),
    *("mean over [1, 2], kept", "mean over [1, 2], dropped", "sum over [1], dropped", "reduce_max over [3], dropped"),
    *(
        "bilinear to [12, 14], centers",
        "nearest to [9, 5]",
        "reshape",
        "reshape keeping channels",
        "squeeze",
        "transpose",
    ),
    *(
        "transpose to channels first",
        "slice",
        "strided slice",
        "split",
        "pack",
        "unpack",
        "gather",
        "tile",
        "less",
    ),
    *(
        "depth to space",
        "space to depth",
        "space to batch",
        "batch to space",
        "argmax",
        "log_softmax",
        "l2 normalization",
    ),
    *("select_v2", "embedding", "expand dims", "exp"),
)
WIDE = (
    *(
        "conv SAME",
        "conv and relu6",
        "depthwise",
        "transposed conv SAME",
        "fully connected",
        "add of two",
        "mul of two",
    ),
    *("average pool SAME", "max pool SAME", "softmax", "logistic", "reshape", "concat of channels", "leaky"),
    *("mean over [1, 2], dropped", "transpose", "pad", "sub of two", "split", "slice"),
)
OLD = ("conv and relu6", "depthwise", "fully connected", "add of two", "mul of two", "average pool SAME", "max pool SAME",
       "concat of channels", "reshape", "logistic", "softmax", "tanh")  # fmt: skip


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((name, "int8") for name in INTEGERS), *((name, "int16") for name in WIDE), *((name, "uint8") for name in OLD)],
)
def test_an_operator_on_codes_answers_within_one_code(
    case: str, dtype: str, wiring: Callable[..., W], both: Callable[..., Any], tmp_path: Path
) -> None:
    kernels = "optimized" if case in NOT_IN_REFERENCE else "reference"
    for behind_layer in (False, True) if dtype == "int8" else (False,):
        w = wiring(behind_layer=behind_layer)
        CASES[case](w)
        w.quantize(tmp_path, dtype)
        answers = both(w.file(tmp_path, kernels), w.feeds(), kernels)
        assert "DequantizeLinear" in answers.operators
        for name, wanted in answers.wanted.items():
            found = answers.found[name]
            if str(wanted.dtype) == dtype:
                assert len(np.unique(wanted)) > 2
                far = 1 + behind_layer  # the layer before may be off by one already
                assert np.abs(found.astype(np.int64) - wanted).max(initial=0) <= far
            else:
                np.testing.assert_array_equal(found, wanted)
