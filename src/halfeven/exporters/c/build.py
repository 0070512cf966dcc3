"""From a network on codes to a program: each operator by its row of `BUILDERS`, in order.

    input       a float input that QuantizeLinear alone reads: the C function takes its codes
    output      what DequantizeLinear makes real for an output: the C function gives its codes
    shapes      Shape and arithmetic on constants and shapes are computed here, once; they leave no trace in C
    the rest    an operator on codes in the table, or a refusal: C for bare metal has no real numbers

Shapes are followed from the inputs on by each operator's own rule.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from halfeven.errors import BadOption
from halfeven.exporters.c import elementwise, layers, moves
from halfeven.exporters.c.blocks import Shape
from halfeven.exporters.c.program import Program, Values, own_name, refuse
from halfeven.graph.network import Network, Op, Tensor

MOST_COMPUTED = 1 << 12
BUILDERS: Mapping[str, Callable[[Program, Op], None]] = {
    "Conv": layers.convolution,
    "ConvTranspose": layers.transposed,
    "Gemm": layers.gemm,
    "MatMul": layers.matmul,
    "Add": elementwise.addition,
    "Sub": elementwise.addition,
    "Mul": elementwise.multiplication,
    "PRelu": elementwise.prelu,
    **dict.fromkeys(
        ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Div"), elementwise.lookup
    ),
    "Requantize": elementwise.identity_of,
    "Softmax": elementwise.softmax,
    "ReduceMean": elementwise.mean,
    "GlobalAveragePool": elementwise.mean,
    "AveragePool": elementwise.average_pool,
    "MaxPool": elementwise.max_pool,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), moves.reshape),
    "Transpose": moves.transpose,
    "Slice": moves.slice_of,
    "Split": moves.split,
    "Expand": moves.expand,
    "Concat": moves.concat,
    "Pad": moves.pad,
    "Resize": moves.resize,
}
ARITHMETIC = frozenset(
    (
        *("Add", "Cast", "Ceil", "Concat", "Constant", "Div", "Equal", "Floor", "Gather"),
        *("Greater", "Identity", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not"),
        *("ReduceProd", "Reshape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"),
    )
)
REMEDY = "Replace it, keep it out of the model, or end the model before it: what leads to it is then the C function."


def build(network: Network, shapes: Mapping[str, Shape], reasons: Mapping[str, str]) -> Program:
    """The program of a network whose inputs have these shapes; `reasons`: why a node was left in float, by name.

    Raises:
        UnsupportedByTarget: a node has no integer form in C; it is named, with what to do.
    """
    program = Program()
    for tensor in (*(t for op in network.ops for t in op.inputs if t is not None), *network.outputs):
        program.readers[tensor.name] = program.readers.get(tensor.name, 0) + 1
    given = {tensor.name: shapes[tensor.name] for tensor in network.inputs}
    for tensor in network.inputs:
        if tensor.coded:
            _take(program, tensor.name, tensor, given[tensor.name])
    for op in network.ops:
        _step(program, network, op, given, reasons)
    for tensor in network.outputs:
        if tensor.coded and own_name(tensor) in program.shapes:
            program.outputs.append((tensor.name, tensor))
    made = {name for name, _ in program.outputs}
    program.outputs.sort(key=lambda pair: [t.name for t in network.outputs].index(pair[0]))
    program.inputs.sort(key=lambda pair: [t.name for t in network.inputs].index(pair[0]))
    assert made == {tensor.name for tensor in network.outputs}
    return program


def _take(program: Program, name: str, codes: Tensor, shape: Shape) -> None:
    program.shapes[own_name(codes)], program.stored[own_name(codes)] = shape, own_name(codes)
    program.inputs.append((name, codes))


def _step(program: Program, network: Network, op: Op, given: Mapping[str, Shape], reasons: Mapping[str, str]) -> None:
    source = op.inputs[0] if op.inputs else None
    if op.kind == "QuantizeLinear" and source is not None and source.name in given:
        if any(name == source.name for name, _ in program.inputs):
            refuse(op, f"the input '{source.name}' is quantized in two ways", "Use one scale for it.")
        _check_codes(op, op.outputs[0])
        _take(program, source.name, op.outputs[0], given[source.name])
    elif op.kind == "DequantizeLinear" and source is not None and op.outputs[0] in network.outputs:
        if own_name(source) not in program.shapes:
            refuse(op, "the output is a constant", "Take it out of the model.")
        _check_codes(op, source)
        program.outputs.append((op.outputs[0].name, source))
    elif op.kind == "Shape" and not op.domain and source is not None:
        shape = given.get(source.name) or program.shapes.get(own_name(source))
        if shape is None:
            refuse(op, "the shape of its input is not known", REMEDY)
        start, end = op.attributes.get("start", 0), op.attributes.get("end")
        program.values[op.outputs[0].name] = np.array(shape[slice(start, end)], np.int64)
    elif _from_shapes(program, op):
        for tensor, values in zip(op.outputs, _computed(op, program, network.opset), strict=True):
            program.values[tensor.name] = values
    elif not op.integer or op.domain or op.kind not in BUILDERS:
        refuse(op, _why(op, reasons), REMEDY)
    else:
        _built(program, op, network.opset)


def _built(program: Program, op: Op, opset: int) -> None:
    """One operator by its row; what a damaged model makes of it is said with the node's name."""
    try:
        if op.kind == "Softmax":
            elementwise.softmax(program, op, opset)
        else:
            BUILDERS[op.kind](program, op)
    except BadOption as error:
        refuse(op, str(error).rstrip("."), "Quantize it otherwise.")
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        refuse(
            op,
            f"its attributes and shapes do not fit ({next(iter(str(error).splitlines()), type(error).__name__)})",
            layers.CHECK,
        )


def _check_codes(op: Op, tensor: Tensor) -> None:
    if tensor.dtype != ir.DataType.INT8 or tensor.params is None or tensor.params.scale.size != 1:
        kind = tensor.dtype.name.lower()
        refuse(op, f"it has {kind} codes, not int8 with one scale", "Quantize the model with --target integer.")


def _why(op: Op, reasons: Mapping[str, str]) -> str:
    what = "its output is not quantized" if op.reads_codes else "it computes with real numbers"
    known = reasons.get(op.name, "")
    return what + (f" ({known})" if known else "")


def _from_shapes(program: Program, op: Op) -> bool:
    """Whether all that an operator reads is constant and no code, or computed from shapes."""
    read = [t for t in op.inputs if t is not None]
    inner = op.node is not None and any(a.type in _GRAPHS for a in op.node.attributes.values())
    return (
        not (op.domain or inner or any(t.coded for t in (*read, *op.outputs)))
        and op.kind in ARITHMETIC
        and op.node is not None
        and all(program.known(t) is not None for t in read)
    )


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _computed(op: Op, program: Program, opset: int) -> list[Values]:
    """The outputs of one node, by ONNX's reference."""
    assert op.node is not None
    feeds = {f"i{k}": np.asarray(program.known(t)) for k, t in enumerate(op.inputs) if t is not None}
    if sum(x.size for x in feeds.values()) > MOST_COMPUTED:
        refuse(op, "it computes with many constants", "Fold constants before.")
    node = ir.to_proto(op.node)
    assert isinstance(node, onnx.NodeProto)
    del node.input[:], node.output[:]
    node.input.extend("" if t is None else f"i{k}" for k, t in enumerate(op.inputs))
    node.output.extend(f"o{k}" for k in range(len(op.outputs)))
    infos = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in feeds.items()
    ]
    outs = [onnx.ValueInfoProto(name=n) for n in node.output]
    graph = onnx.helper.make_graph([node], "one", infos, outs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        found = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # whatever the reference cannot do with this node
        refuse(op, f"its constants cannot be computed ({type(error).__name__})", "Fold constants before.")
    return [np.asarray(x) for x in found]
