"""Element-wise operators, comparisons and sums over axes as OpenVINO layers; `SAME` lists those of another name only.

Source: OpenVINO documentation, operation specifications; the number is the opset that a layer's form is of.
"""

import numpy as np
import onnx_ir as ir

from halfeven.exporters.openvino.layers import NUMPY
from halfeven.exporters.openvino.values import Values, constant_at, extent, get, rank_of, refuse
from halfeven.graph.pairs import dtype_of

BINARY = {
    **{"Add": "Add", "Sub": "Subtract", "Mul": "Multiply", "Div": "Divide", "Pow": "Power", "Max": "Maximum"},
    **{"Min": "Minimum", "Equal": "Equal", "Less": "Less", "Greater": "Greater", "LessOrEqual": "LessEqual"},
    **{"GreaterOrEqual": "GreaterEqual", "And": "LogicalAnd", "Or": "LogicalOr", "Xor": "LogicalXor"},
}
SAME = {
    **{"Relu": ("ReLU", 1), "Sigmoid": ("Sigmoid", 1), "Tanh": ("Tanh", 1), "Erf": ("Erf", 1), "Abs": ("Abs", 1)},
    **{"Neg": ("Negative", 1), "Floor": ("Floor", 1), "Ceil": ("Ceiling", 1), "Sqrt": ("Sqrt", 1), "Exp": ("Exp", 1)},
    **{"Log": ("Log", 1), "Sin": ("Sin", 1), "Cos": ("Cos", 1), "Not": ("LogicalNot", 1), "Sign": ("Sign", 1)},
    **{"HardSwish": ("HSwish", 4), "Softplus": ("SoftPlus", 4), "Mish": ("Mish", 4)},
}
SUMS = {
    **{"ReduceMean": "ReduceMean", "ReduceSum": "ReduceSum", "ReduceMax": "ReduceMax", "ReduceMin": "ReduceMin"},
    **{"ReduceProd": "ReduceProd", "ReduceL1": "ReduceL1", "ReduceL2": "ReduceL2"},
}
SUMS_OPSET = {"ReduceL1": 4, "ReduceL2": 4}


def binary(node: ir.Node, values: Values) -> None:
    """Two or more operands, element by element."""
    kind, attributes = BINARY[node.op_type], dict[str, object](NUMPY)
    if kind == "Divide":
        attributes["m_pythondiv"] = False  # integers are cut towards zero, as in ONNX
    left, *rest = values.reads(node)
    for right in rest[:-1]:
        left = values.inner(kind, [left, right], attributes)
    if not rest:
        values.give(node, left)
        return
    values.layer(node, kind, [left, rest[-1]], attributes)


def unary(node: ir.Node, values: Values) -> None:
    """An operator that has a namesake."""
    kind, opset = SAME[node.op_type]
    values.layer(node, kind, [values.at(node.inputs[0])], opset=opset)


def shaped(node: ir.Node, values: Values) -> None:
    """Element-wise operators whose attributes are inputs, or the other way round."""
    x = values.at(node.inputs[0])
    match node.op_type:
        case "HardSigmoid":
            parts = [
                values.number(float(get(node, name, default))) for name, default in (("alpha", 0.2), ("beta", 0.5))
            ]
            values.layer(node, "HardSigmoid", [x, *parts])
        case "Selu":
            parts = [
                values.number(float(get(node, "alpha", 1.67326319))),
                values.number(float(get(node, "gamma", 1.05070102))),
            ]
            values.layer(node, "Selu", [x, *parts])
        case "Elu":
            values.layer(node, "Elu", [x], {"alpha": float(get(node, "alpha", 1.0))})
        case "Gelu":
            mode = "TANH" if get(node, "approximate", "none") == "tanh" else "ERF"
            values.layer(node, "Gelu", [x], {"approximation_mode": mode}, opset=7)
        case "Reciprocal":
            values.layer(node, "Divide", [values.number(1.0), x], {**NUMPY, "m_pythondiv": False})
        case "Round":
            values.layer(node, "Round", [x], {"mode": "half_to_even"}, opset=5)
        case _:
            values.layer(node, "Softmax", [x], {"axis": _softmax_axis(node, values)}, opset=8)


def _softmax_axis(node: ir.Node, values: Values) -> int:
    old = values.opset < 13
    axis = int(get(node, "axis", 1 if old else -1))
    if old and axis not in (-1, rank_of(node.inputs[0], node) - 1):
        raise refuse(node, f"of opset {values.opset} it reaches over several axes")
    return axis


def clip(node: ir.Node, values: Values) -> None:
    """Clip: Clamp where the bounds are constant, else Maximum and Minimum."""
    x, shape = values.at(node.inputs[0]), extent(node.outputs[0])
    given = [constant_at(node, port) for port in (1, 2)]
    inputs = [v for v in node.inputs[1:] if v is not None]
    if len(inputs) == sum(g is not None for g in given) and all(g is None or g.size == 1 for g in given):
        low = float(get(node, "min", -np.inf)) if given[0] is None else float(given[0].ravel()[0])
        high = float(get(node, "max", np.inf)) if given[1] is None else float(given[1].ravel()[0])
        largest = float(np.finfo(np.float32).max)
        if dtype_of(node.inputs[0] or node.outputs[0]) in (None, ir.DataType.FLOAT):
            values.layer(node, "Clamp", [x], {"min": max(low, -largest), "max": min(high, largest)})
            return
    for port, kind in ((1, "Maximum"), (2, "Minimum")):
        if port < len(node.inputs) and node.inputs[port] is not None:
            x = values.inner(kind, [x, values.at(node.inputs[port])], NUMPY, shape=shape)
    values.give(node, x)


def select(node: ir.Node, values: Values) -> None:
    """Where."""
    values.layer(node, "Select", values.reads(node), NUMPY)


def convert(node: ir.Node, values: Values) -> None:
    """Cast."""
    to = ir.DataType(int(get(node, "to", 1)))
    port = values.inner(
        "Convert", [values.at(node.inputs[0])], {"destination_type": to}, dtype=to, shape=extent(node.outputs[0])
    )
    values.give(node, port)


def reduction(node: ir.Node, values: Values) -> None:
    """Sums, means and extrema over axes."""
    given = get(node, "axes", None)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = values.at(node.inputs[1])
    elif given is not None:
        axes = values.whole(list(given))
    elif get(node, "noop_with_empty_axes", 0):
        values.give(node, values.at(node.inputs[0]))
        return
    else:
        axes = values.whole(list(range(rank_of(node.inputs[0], node))))
    kind = SUMS[node.op_type]
    keep = {"keep_dims": bool(get(node, "keepdims", 1))}
    values.layer(node, kind, [values.at(node.inputs[0]), axes], keep, opset=SUMS_OPSET.get(kind, 1))
