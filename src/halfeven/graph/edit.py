"""Small edits of a graph that the passes of this package share.

Two properties of onnx-ir shape this file. A clone shares its tensors with the source, while renaming or serializing a
value renames its tensor, so a value that gets a new name gets a tensor object of its own (`named`), over the same
data. And `Graph.remove` lets go of a node's own inputs but not of what the node's subgraphs read from outside, so
`remove` walks those as well; otherwise the readers of an If that is gone would keep dead nodes alive.
"""

from collections.abc import Iterator, Sequence

import onnx_ir as ir


def roots(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the main graph, then the body of each model-local function: the scopes that share no names."""
    yield model.graph
    for function in model.functions.values():
        yield function.graph


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph of the model, outer before inner, functions last."""
    for root in roots(model):
        yield root
        yield from root.subgraphs()


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values that `graph` itself defines: inputs, initializers, outputs of nodes; subgraphs' not."""
    yield from graph.inputs
    for value in tuple(graph.initializers.values()):
        if not value.is_graph_input():
            yield value
    for node in graph:
        yield from node.outputs


def value_names(model: ir.Model) -> set[str]:
    """Return every name that a value of the model bears."""
    return {value.name for graph in graphs(model) for value in values(graph) if value.name}


def unused(name: str, taken: set[str]) -> str:
    """Return `name`, or `name_1`, `name_2`, ... if that is in `taken`; the result is added to `taken`."""
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def rename(value: ir.Value, name: str) -> None:
    """Give `value` another name, and leave its tensor, which a source model may share, its own."""
    tensor = value.const_value
    value.const_value = None
    value.name = name
    value.const_value = None if tensor is None else named(tensor, name)


def named(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """Return a tensor of that name over the data of `tensor`, which are neither read nor copied."""
    shape = ir.Shape(tensor.shape.numpy())
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=shape,
            name=name,
            base_dir=tensor.base_dir,
        )
    return ir.LazyTensor(lambda: tensor, tensor.dtype, shape, name=name)


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of a value that no caller can change: an initializer that is not a graph input."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Register `tensor` in `graph` under `name`, which must be free, and return its value."""
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def node_named_after_its_output(
    op: str,
    inputs: Sequence[ir.Value | None],
    output: str,
    dtype: ir.DataType,
    taken: set[str],
    attributes: Sequence[ir.Attr] = (),
) -> ir.Node:
    """A node, in no graph yet, whose one output is called `output`, or that with a number where it is `taken`.

    The shape of the output is left open.
    """
    name = unused(output, taken)
    node = ir.Node("", op, inputs, attributes, num_outputs=1, name=f"{name}_{op}")
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
    return node


def remove(node: ir.Node) -> None:
    """Take `node`, whose outputs nobody reads, out of its graph, with all that its subgraphs read."""
    for graph in tuple(subgraphs(node)):
        for inner in tuple(graph.all_nodes()):
            for port in range(len(inner.inputs)):
                inner.replace_input_with(port, None)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs held directly in the attributes of `node`."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def absorb(value: ir.Value, follower: ir.Node) -> None:
    """Let `value` stand for the first output of `follower`, and bear its name, type and shape; remove `follower`.

    The later name wins because the later tensor is what the value now holds: it can be compared with the source
    model's tensor of that name. Both must lie in one graph, and `value` must be no graph output.
    """
    last = follower.outputs[0]
    last.replace_all_uses_with(value, replace_graph_outputs=True)
    remove(follower)
    value.type = last.type if last.type is not None else value.type
    value.shape = last.shape if last.shape is not None else value.shape
    value.metadata_props.update(last.metadata_props)
    if last.name:
        rename(value, last.name)


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand for `old`, under its name, for readers, subgraphs and as graph output."""
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name, new.name = None, name
    new.type, new.shape = old.type or new.type, old.shape


def drop_unread(graph: ir.Graph) -> None:
    """Take out the initializers that nobody reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]


def root_cause(error: BaseException) -> str:
    """Return the start of the innermost message of an error of onnx-ir, whose outer layers quote whole graphs."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error)[:300]}"
