"""Which writer writes which operator of a network, and which of those on codes it cannot."""

from collections.abc import Callable, Mapping

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.litert import elementwise, layers, moving, resizing, windows
from halfeven.exporters.litert.builder import Builder
from halfeven.graph.network import Op

Writer = Callable[[Builder, Op], None]
WRITERS: Mapping[str, Writer] = {
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "Gemm": layers.matmul,
    "MatMul": layers.matmul,
    "MaxPool": windows.max_pool,
    "AveragePool": windows.average_pool,
    **dict.fromkeys(windows.REDUCTIONS, windows.reduce),
    **dict.fromkeys(elementwise.BINARY, elementwise.binary),
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    "Gelu": elementwise.gelu,
    "LeakyRelu": elementwise.leaky_relu,
    "PRelu": elementwise.prelu,
    "Relu": elementwise.relu,
    "Clip": elementwise.clip,
    "HardSigmoid": elementwise.hard_sigmoid,
    "Softmax": elementwise.softmax,
    "LogSoftmax": elementwise.softmax,
    "Where": elementwise.where,
    "Cast": elementwise.cast,
    "QuantizeLinear": elementwise.border,
    "DequantizeLinear": elementwise.border,
    "Requantize": elementwise.border,
    "Identity": moving.identity,
    "Dropout": moving.identity,
    "Transpose": moving.transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), moving.reshape),
    "Expand": moving.expand,
    "Tile": moving.tile,
    "Concat": moving.concat,
    "Split": moving.split,
    "Slice": moving.slice_,
    "Pad": moving.pad_,
    "Gather": moving.gather,
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), moving.depth_space),
    **dict.fromkeys(("ArgMax", "ArgMin"), moving.arg_best),
    **dict.fromkeys(("Resize", "Upsample"), resizing.resize),
}


def write(b: Builder, op: Op) -> None:
    """Add an operator to the file.

    Raises:
        UnsupportedByTarget: LiteRT cannot express it; names the node.
        FixedLengthError: not with an axis left open.
    """
    b.where = f"{op.kind} '{op.name}'"
    if op.kind not in WRITERS or op.domain:
        kind = f"{op.domain}.{op.kind}" if op.domain else op.kind
        raise UnsupportedByTarget(
            f"{kind} '{op.name}' has no form in a .tflite file. Replace the operator, or cut the model before it."
        )
    WRITERS[op.kind](b, op)
    for output in op.outputs:
        if output.name not in b.wires and (output.name in b.readers or output.name in b.results):
            raise UnsupportedByTarget(f"{b.where}: LiteRT does not give its output '{output.name}'.")


def why_not(op: Op) -> str:
    """Why an operator whose data are codes has no integer kernel, beyond its kind; empty when it has one."""
    match op.kind:
        case "Div":
            return elementwise.divisor_has_no_form(op)
        case "AveragePool":
            x = op.inputs[0]
            assert x is not None
            sizes = [d for shape in (x.shape, op.outputs[0].shape) for d in (shape or ())[2:] if isinstance(d, int)]
            half = len(sizes) // 2
            uneven = windows.counting(op, sizes[:half], sizes[half:]) is not None
            return "its pads do not count, and LiteRT has no such average in integers" if uneven else ""
        case "Pad":
            value = op.inputs[2] if len(op.inputs) > 2 else None
            filled = value is not None and (value.values is None or value.values.any())
            return "it fills with another value than zero" if filled or op.attributes.get("value") else ""
        case "MatMul":
            weight = op.inputs[1]
            per_channel = weight is not None and weight.params is not None and weight.params.scale.size > 1
            matrix = weight is not None and weight.constant is not None and len(weight.constant.shape) == 2
            return "" if matrix or not per_channel else "LiteRT's BATCH_MATMUL has one scale for each operand"
    return ""
