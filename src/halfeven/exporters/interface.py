"""Interface: integer inputs and outputs instead of floats.

An input whose first act is QuantizeLinear takes the codes themselves; an output that ends in DequantizeLinear gives
them. Scale and zero point of each are written to the model's metadata (`halfeven.io.NAME`), as the caller needs them.

Where the interface is in half precision a Cast stands between it and the codes, and goes with them. What is not
quantized at all has no scale, so that codes of it would mean nothing; pictures are an exception, as they are bytes.
"""

import json

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.graph import ops

HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
TYPES = {"float": None, "uint8": ir.DataType.UINT8, "int8": ir.DataType.INT8}


def integer_interface(model: ir.Model, draft: Draft, io: str, pictures: bool = False) -> ir.Model:
    """The model with integer inputs and outputs where they are quantized; `io` "float" leaves it alone.

    `pictures`: its floating-point inputs are bytes in value, so those that are not quantized are cast from uint8.

    Raises:
        BadOption: an unknown type, one that the target's activations do not have, or no input or output is quantized.
    """
    if io not in TYPES:
        raise BadOption(f"--io '{io}': choose one of {', '.join(TYPES)}.")
    wanted = TYPES[io]
    if wanted is None:
        return model
    done = [value.name for value in list(model.graph.inputs) if _take_codes(model, value, wanted)]
    done += [value.name for value in list(model.graph.inputs) if pictures and _take_bytes(value)]
    done += [value.name for value in list(model.graph.outputs) if _give_codes(model, value, wanted)]
    if not done:
        raise BadOption(f"--io {io}: {_nothing(draft, io)}")
    return model


def _nothing(draft: Draft, io: str) -> str:
    """Why no input and no output is of codes, and what helps."""
    graph, floats = draft.model.graph, draft.plan.floats
    ends = [use.node for value in graph.inputs for use in value.uses()]
    ends += [maker for value in graph.outputs if (maker := value.producer()) is not None]
    dear = [node for node in ends if floats.get(node.name or "", "").startswith("does not pay")]
    grid = next(iter(draft.target.rules)).data.grid
    if str(grid) == io and any(ops.is_layer(node) for node in dear):
        node = next(node for node in dear if ops.is_layer(node))
        return (
            f"no input or output is quantized, as what reads and makes them stays float: {node.op_type} '{node.name}' "
            f"does not pay in integers on {draft.target.name}. --prefer size quantizes it all the same."
        )
    return (
        f"no floating-point input or output is quantized as {io} for {draft.target.name}, whose activations are "
        f"{grid}. Leave --io out, or choose a type or target that fits."
    )


def _take_codes(model: ir.Model, value: ir.Value, wanted: ir.DataType) -> bool:
    cast = _only_reader(value, "Cast") if value.dtype in HALVES else None
    q = _only_reader(value if cast is None else cast.outputs[0], "QuantizeLinear")
    if q is None:
        return False
    zero = q.inputs[2]
    if zero is None or zero.dtype is not wanted:
        return False
    _remember(model, value.name or "", q)
    codes = q.outputs[0]
    codes.replace_all_uses_with(value)
    for node in (q, cast):
        if node is not None and node.graph is not None:
            node.graph.remove(node, safe=True)
    value.type = ir.TensorType(wanted)
    return True


def _only_reader(value: ir.Value, op: str) -> ir.Node | None:
    """The one node that reads a value, at its first port, if it is of this operator."""
    uses = list(value.uses())
    alone = len(uses) == 1 and uses[0].idx == 0 and uses[0].node.op_type == op and not value.is_graph_output()
    return uses[0].node if alone else None


def _take_bytes(value: ir.Value) -> bool:
    """Let an input that holds bytes as floats be uint8, and cast it."""
    if value.dtype is not ir.DataType.FLOAT and value.dtype not in HALVES:
        return False
    readers = [(use.node, use.idx) for use in value.uses()]
    cast = ir.Node(
        "", "Cast", [value], [ir.AttrInt64("to", int(value.dtype))], num_outputs=1, name=f"{value.name}_Cast"
    )
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = f"{value.name}_cast", value.type, value.shape
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(graph[0], cast)
    for node, port in readers:
        node.replace_input_with(port, cast.outputs[0])
    value.type = ir.TensorType(ir.DataType.UINT8)
    return True


def _give_codes(model: ir.Model, value: ir.Value, wanted: ir.DataType) -> bool:
    maker = value.producer()
    cast = maker if maker is not None and maker.op_type == "Cast" and value.dtype in HALVES else None
    real = value if cast is None else cast.inputs[0]
    dq = real.producer() if real is not None else None
    if dq is None or dq.op_type != "DequantizeLinear" or value.uses() or dq.inputs[2] is None:
        return False
    if real is None or (cast is not None and (len(real.uses()) != 1 or real.is_graph_output())):
        return False
    codes = dq.inputs[0]
    if codes is None or dq.inputs[2].dtype is not wanted:
        return False
    _remember(model, value.name or "", dq)
    name = value.name
    model.graph.outputs[list(model.graph.outputs).index(value)] = codes
    for node in (cast, dq):
        if node is not None and node.graph is not None:
            node.graph.remove(node, safe=True)
    value.name, codes.name, codes.shape = None, name, value.shape
    return True


def _remember(model: ir.Model, name: str, node: ir.Node) -> None:
    scale, zero = (v.const_value.numpy() for v in node.inputs[1:3])  # type: ignore[union-attr]
    text = json.dumps({"scale": float(scale.ravel()[0]), "zero_point": int(zero.ravel()[0])})
    model.metadata_props[f"halfeven.io.{name}"] = text
