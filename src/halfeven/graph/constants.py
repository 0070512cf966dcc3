"""Constants: Constant nodes become initializers, and what can be computed before any input is known is computed.

Evaluation is ONNX's own reference, one node at a time, for the operators of `FOLDABLE`: those whose reference result
was compared with ONNX Runtime's, over negative numbers and all integer and float types in use. Left out are operators
that draw random numbers, DequantizeLinear and QuantizeLinear (folded, a quantized weight would be float again), and
those whose reference disagrees with the runtime.

Where shapes are known without trusting what the file declares for inner tensors (`shapes.proven`), Shape and Size are
constants too, and so is the one static dim that a Gather or Slice takes from a shape with dynamic ones.

A result may be larger than its inputs (Expand, ConstantOfShape). Its size is inferred before it is computed, and it
stays uncomputed above a limit, so that a file of a few bytes cannot ask for gigabytes.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from halfeven.graph.edit import add_initializer, constant, named, remove
from halfeven.graph.prune import inline_branches, remove_dead, remove_identities
from halfeven.graph.shapes import proven

LIMIT_BYTES = 64 * 2**20
"""Default for the largest folded result that is larger than what it frees."""

# fmt: off
FOLDABLE = frozenset(
    (
        "Abs", "Add", "And", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape",
        "Cos", "CumSum", "Div", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements",
        "GatherND", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "MatMul", "Max",
        "Mean", "Min", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "Pad", "Pow", "Range", "Reciprocal",
        "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
        "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Size",
        "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "Transpose", "Trilu",
        "Unsqueeze", "Where", "Xor",
    )
)
# fmt: on

_OF_SHAPES = frozenset({"Shape", "Size", "Gather", "Slice"})
"""Operators that can be constant though their input is not."""

_UNKNOWN_DIMS = (-(2**40) - 7, -(2**40) - 11)
"""Two stand-ins for a dynamic dim: a result that is the same with either does not depend on it."""

Array = npt.NDArray[np.generic]


def lift_constants(model: ir.Model) -> list[str]:
    """Turn Constant nodes into initializers of their own graph, in place; make default inputs plain initializers.

    String constants, and constants that are themselves outputs of a graph, stay nodes. An initializer that is listed
    as an input too becomes a weight like any other and is no input any more. Until IR version 3 that listing was the
    rule and says nothing; later it means a default that a caller may override, so a note tells.

    Returns:
        Notes for the user.
    """
    for graph in model.graphs():
        for node in tuple(graph):
            if node.op_type == "Constant" and node.domain == "":
                _lift(graph, node)
    defaults = [value for value in model.graph.inputs if value.is_initializer()]
    if not defaults:
        return []
    kept = [value for value in model.graph.inputs if not value.is_initializer()]
    model.graph.inputs.clear()
    model.graph.inputs.extend(kept)
    old_style, model.ir_version = model.ir_version < 4, max(model.ir_version, 4)
    if old_style:
        return []
    names = ", ".join(f"'{value.name}'" for value in defaults[:5]) + (", ..." if len(defaults) > 5 else "")
    return [f"inputs with default values are taken as fixed weights and cannot be fed ({len(defaults)}): {names}"]


def _lift(graph: ir.Graph, node: ir.Node) -> None:
    output = node.outputs[0]
    if output.is_graph_output() or len(node.attributes) != 1 or not output.name:
        return
    attribute = next(iter(node.attributes.values()))
    tensor: ir.TensorProtocol
    match attribute.name:
        case "value":
            tensor = named(attribute.as_tensor(), output.name)
        case "value_int" | "value_ints":
            tensor = ir.Tensor(np.array(attribute.value, np.int64))
        case "value_float" | "value_floats":
            tensor = ir.Tensor(np.array(attribute.value, np.float32))
        case _:
            return
    value = add_initializer(graph, output.name, tensor)
    value.metadata_props.update(output.metadata_props)
    output.replace_all_uses_with(value)
    remove(node)


def fold_constants(model: ir.Model, limit_bytes: int = LIMIT_BYTES) -> list[str]:
    """Compute what depends on no input, take constant branches, and remove no-ops and dead code, in place.

    Works until nothing changes. Model-local functions are left alone; nodes that give a graph's output are too, so
    that outputs are always computed by a node.

    Args:
        model: Named throughout (`names.name_everything`) and lifted (`lift_constants`).
        limit_bytes: Largest result that may be larger than the constants it frees.

    Returns:
        Notes for the user.
    """
    notes: dict[str, None] = {}
    changed = True
    while changed:
        wants_shapes = any(node.op_type in ("Shape", "Size") for graph in model.graphs() for node in graph)
        shapes = proven(model) if wants_shapes else {}
        changed = False
        for graph in tuple(model.graphs()):
            for node in tuple(graph):
                if node.op_type in FOLDABLE and node.domain == "":
                    changed |= _fold(node, shapes, model.opset_imports[""], limit_bytes, notes)
        changed |= inline_branches(model)
        changed |= remove_identities(model)
        changed |= remove_dead(model)
    return list(notes)


def _fold(
    node: ir.Node, shapes: Mapping[str, Sequence[int | None]], opset: int, limit: int, notes: dict[str, None]
) -> bool:
    """Replace `node` by initializers if its inputs are known; say whether that was done."""
    graph = node.graph
    if graph is None or not node.inputs or any(output.is_graph_output() for output in node.outputs):
        return False
    results = _fold_shape(node, shapes, opset) if node.op_type in _OF_SHAPES else None
    if results is None:
        tensors = [None if value is None else constant(value) for value in node.inputs]
        if any(tensor is None for tensor, value in zip(tensors, node.inputs, strict=True) if value is not None):
            return False
        if not _small_enough(node, tensors, opset, limit):
            notes.setdefault(f"{node.op_type} '{node.name}' of constants stays: its result would be too large")
            return False
        results = evaluate(node, [None if tensor is None else tensor.numpy() for tensor in tensors], opset)
    if results is None:
        return False
    for output, result in zip(node.outputs, results, strict=True):
        if output.uses() and output.name:
            value = add_initializer(graph, output.name, ir.Tensor(result, name=output.name))
            value.metadata_props.update(output.metadata_props)
            output.replace_all_uses_with(value)
    remove(node)
    return True


def _fold_shape(node: ir.Node, shapes: Mapping[str, Sequence[int | None]], opset: int) -> list[Array] | None:
    """Evaluate Shape, Size, or a Gather or Slice of a Shape, where the dims that matter are proven."""
    source = node.inputs[0]
    if node.op_type in ("Shape", "Size"):
        dims = shapes.get(source.name or "") if source is not None else None
        if dims is None:
            return None
        if node.op_type == "Shape":
            dims = dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(dims))]
        known = [dim for dim in dims if dim is not None]
        if len(known) < len(dims):
            return None
        return [np.array(known if node.op_type == "Shape" else math.prod(known), np.int64)]
    made = source.producer() if source is not None else None
    if made is None or made.op_type != "Shape" or made.attributes or made.inputs[0] is None:
        return None
    dims = shapes.get(made.inputs[0].name or "")
    rest = [constant(value) for value in node.inputs[1:]]
    if dims is None or None in rest:
        return None
    tails = [tensor.numpy() for tensor in rest if tensor is not None]
    outcomes = [
        evaluate(node, [np.array([stand_in if dim is None else dim for dim in dims], np.int64), *tails], opset)
        for stand_in in _UNKNOWN_DIMS
    ]
    if outcomes[0] is None or outcomes[1] is None or not np.array_equal(outcomes[0][0], outcomes[1][0]):
        return None
    return outcomes[0]


def _small_enough(node: ir.Node, tensors: Sequence[ir.TensorProtocol | None], opset: int, limit: int) -> bool:
    """Say whether the result, by inference alone, is below `limit` or no larger than the constants it frees."""
    inputs, initializers = [], []
    for index, tensor in enumerate(tensors):
        if tensor is not None:
            inputs.append(onnx.helper.make_tensor_value_info(f"i{index}", tensor.dtype, tensor.shape.numpy()))
            if tensor.nbytes <= 1024 and tensor.dtype != ir.DataType.STRING:
                initializers.append(onnx.numpy_helper.from_array(np.asarray(tensor.numpy(), order="C"), f"i{index}"))
    model = _single_node_model(node, inputs, opset)
    model.graph.initializer.extend(initializers)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    except Exception:  # of the C++ inference, for what it cannot parse
        return False
    size = 0
    for output in inferred:
        kind = output.type.tensor_type
        if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
            return False
        size += math.prod(dim.dim_value for dim in kind.shape.dim) * ir.DataType(kind.elem_type).bitwidth // 8
    freed = sum(
        tensor.nbytes
        for value, tensor in zip(node.inputs, tensors, strict=True)
        if value is not None and tensor is not None and len(value.uses()) == 1
    )
    return size <= max(limit, freed)


def evaluate(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> list[Array] | None:
    """Compute one node of the default domain by ONNX's reference.

    Args:
        node: Its attributes and operator are used, its inputs not.
        arrays: What its inputs hold; None for an omitted one.
        opset: Version of the default domain.

    Returns:
        One array for each output, or None if the reference cannot compute this node or these types.
    """
    if any(array is not None and not _plain(array.dtype) for array in arrays):
        return None
    inputs = [
        onnx.helper.make_tensor_value_info(f"i{index}", onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for index, array in enumerate(arrays)
        if array is not None
    ]
    from onnx.reference import ReferenceEvaluator  # loads every operator: most models have nothing to compute

    feeds = {f"i{index}": array for index, array in enumerate(arrays) if array is not None}
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(_single_node_model(node, inputs, opset)).run(None, feeds)
    except Exception:  # whatever an operator of the reference raises means the same: not computed here
        return None
    arrays_out = [np.asarray(result) for result in results]
    return arrays_out if all(_plain(array.dtype) for array in arrays_out) else None


def _plain(dtype: np.dtype[np.generic]) -> bool:
    """Say whether NumPy has this type itself; bfloat16, float8 and int4 come from elsewhere."""
    return dtype.kind in "bifu" and dtype.type.__module__ == "numpy"


def _single_node_model(node: ir.Node, inputs: list[onnx.ValueInfoProto], opset: int) -> onnx.ModelProto:
    proto = onnx.NodeProto(op_type=node.op_type)
    proto.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    given = {value.name for value in inputs}
    proto.input.extend(f"i{index}" if f"i{index}" in given else "" for index in range(len(node.inputs)))
    proto.output.extend(f"o{index}" for index in range(len(node.outputs)))
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output]
    graph = onnx.helper.make_graph([proto], "node", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
