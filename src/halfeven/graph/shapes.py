"""Shapes: what ONNX's own inference can say, without handing it the weights.

Inference is C++ and takes one serialized message, hence at most 2 GiB. It needs the values of small integer tensors
(target shapes, axes) but of weights only the shapes, so `skeleton` makes a model in which large initializers are
graph inputs.

A file may declare shapes for inner tensors, and they may be stale: exporters leave a batch of 1 in them when the
input's batch is made dynamic afterwards. `proven` therefore infers from the graph's inputs and weights alone.
`infer_shapes` fills in what was not declared, and corrects what inference contradicts.
"""

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

from halfeven.graph.edit import graphs, root_cause, values

SMALL = 1024
"""Bytes up to which an initializer keeps its values in a skeleton."""

Dims = tuple[int | str | None, ...]


def skeleton(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, ir.TensorProtocol]]:
    """Serialize `model` without its large initializers, which become inputs of the main graph; not changed itself.

    Returns:
        The message, and the tensors it lacks by the name of their inputs.
    """
    copy = model.clone()
    absent: dict[str, ir.TensorProtocol] = {}
    for graph in copy.graphs():
        for name, value in tuple(graph.initializers.items()):
            tensor = value.const_value
            if tensor is not None and tensor.nbytes <= SMALL:
                if isinstance(tensor, ir.ExternalTensor):
                    value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
                continue
            graph.initializers.pop(name)
            if tensor is not None:
                absent[name] = tensor
                value.const_value, value.type = None, ir.TensorType(tensor.dtype)
                value.shape = ir.Shape(tensor.shape.numpy())
            if not value.is_graph_input():
                copy.graph.inputs.append(value)
    copy.ir_version = max(copy.ir_version, 4)
    return ir.serde.serialize_model(copy), absent


def proven(model: ir.Model) -> dict[str, tuple[int | None, ...]]:
    """Infer shapes from the main graph's inputs and the weights alone; declared inner shapes are not believed.

    Returns:
        Shapes by value name, None for a dim that depends on the input; values of unknown rank are absent.
    """
    try:
        proto, _ = skeleton(model)
        _forget_shapes(proto.graph)
        shapes = _inferred(proto)
    except Exception:  # C++ inference and serialization refuse in many ways; each means that nothing is known
        return {}
    return {
        name: tuple(dim if isinstance(dim, int) else None for dim in dims)
        for name, (_, dims) in shapes.items()
        if dims is not None
    }


def infer_shapes(model: ir.Model) -> list[str]:
    """Fill in types and shapes of all values, in place, as far as they can be inferred; never fails.

    A dim that inference proves wins over a declared one. Outputs of the main graph keep what they declare, unless it is
    contradicted: of another rank, or another length where both are numbers, it makes runtimes fail.

    Returns:
        Notes for the user: whether inference failed, what it could not tell, and which outputs declare something else.
    """
    try:
        proto, _ = skeleton(model)
        _forget_shapes(proto.graph)
        shapes = _inferred(proto)
    except Exception as error:
        return [f"shapes could not be inferred and stay as declared ({root_cause(error)})"]
    known, notes = 0, []
    inner = [value for graph in graphs(model) for value in values(graph) if value.producer() and value.name]
    for value in inner:
        kind, dims = shapes.get(value.name or "", (0, None))
        if value.type is None and kind:
            value.type = ir.TensorType(ir.DataType(kind))
        declared = value.is_graph_output() and value.shape is not None
        if dims is not None and declared and value.shape is not None and _contradicted(value.shape, dims):
            notes.append(f"output '{value.name}' declares shape {_text(value.shape)}, but has {_text(dims)}")
            declared = False
        if dims is not None and not declared:
            value.shape = ir.Shape(_merged(value.shape, dims))
        known += value.shape is not None
    if known < len(inner):
        notes.append(f"{len(inner) - known} of {len(inner)} tensors have no known shape")
    return notes


def _contradicted(declared: ir.Shape, dims: Dims) -> bool:
    """Whether a shape cannot be the one that was inferred."""
    if len(declared) != len(dims):
        return True
    both = zip(declared, dims, strict=True)
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in both)


def _text(dims: Iterable[object]) -> str:
    shown = (dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in dims)
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shown)}]"


def _merged(declared: ir.Shape | None, dims: Dims) -> list[int | str | None]:
    """Prefer proven dims; where inference knows nothing, or only a name of its own making, take what is declared."""
    if declared is None or len(declared) != len(dims):
        return list(dims)
    old = [dim if isinstance(dim, int) else dim.value for dim in declared]
    return [was if dim is None else dim for was, dim in zip(old, dims, strict=True)]


def _inferred(proto: onnx.ModelProto) -> dict[str, tuple[int, Dims | None]]:
    """Return element type and dims by value name, over all graphs of `proto`."""
    result = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
    found: dict[str, tuple[int, Dims | None]] = {}
    for graph in graph_protos(result.graph):
        for info in (*graph.input, *graph.value_info, *graph.output):
            kind = info.type.tensor_type
            if not info.type.HasField("tensor_type"):
                continue
            dims = tuple(map(_dim, kind.shape.dim)) if kind.HasField("shape") else None
            found[info.name] = (kind.elem_type, dims)
    return found


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return None if not dim.dim_param or dim.dim_param.startswith("unk__") else str(dim.dim_param)


def _forget_shapes(graph: onnx.GraphProto) -> None:
    """Drop the shapes that `graph` and its subgraphs declare, but for those of its own inputs."""
    for inner in graph_protos(graph):
        del inner.value_info[:]
        for output in inner.output if inner is graph else (*inner.input, *inner.output):
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.ClearField("shape")


def graph_protos(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield `graph` and those inside it, outer before inner."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graph_protos(attribute.g)
            for inner in attribute.graphs:
                yield from graph_protos(inner)
