"""Pruning: no-ops, branches never taken, and what nobody reads are removed.

Identity, and Dropout outside of training, hand their input through. Taking one out must not change the model's
interface, hence three cases, y being the node's output and x its input:

    1. y is no output of a graph: its readers read x.
    2. y is an output, x is computed by a node of the same graph and is no output: x takes over the name of y.
    3. otherwise (x is an input, an initializer, from an outer graph, or already an output): the node stays.

An If whose condition is a constant becomes the branch it would take.
"""

import onnx_ir as ir

from halfeven.graph.edit import absorb, constant, remove


def remove_identities(model: ir.Model) -> bool:
    """Remove Identity and inference Dropout, in place; say whether anything changed."""
    changed = False
    for graph in tuple(model.graphs()):
        for node in tuple(graph):
            if node.domain == "" and (node.op_type == "Identity" or _is_idle_dropout(node)):
                changed |= _bypass(node)
    return changed


def _is_idle_dropout(node: ir.Node) -> bool:
    if node.op_type != "Dropout" or any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:]):
        return False
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return True
    tensor = constant(mode)
    return tensor is not None and not tensor.numpy().any()


def _bypass(node: ir.Node) -> bool:
    x, y = node.inputs[0], node.outputs[0]
    if x is None:
        return False
    if not y.is_graph_output():
        y.replace_all_uses_with(x)
        x.type, x.shape = x.type or y.type, x.shape if x.shape is not None else y.shape
        remove(node)
        return True
    made = x.producer()
    if made is None or made.graph is not node.graph or x.is_graph_output():
        return False
    absorb(x, node)
    return True


def inline_branches(model: ir.Model) -> bool:
    """Replace each If of constant condition by its branch, in place; say whether anything changed."""
    changed = False
    for graph in tuple(model.graphs()):
        for node in tuple(graph):
            if node.op_type == "If" and node.domain == "" and node.graph is not None:
                changed |= _inline_branch(node)
    return changed


def _inline_branch(node: ir.Node) -> bool:
    condition, parent = constant(node.inputs[0]), node.graph
    if condition is None or parent is None:
        return False
    branch = node.attributes["then_branch" if condition.numpy().any() else "else_branch"].as_graph()
    results = tuple(branch.outputs)
    branch.outputs.clear()
    for name, value in tuple(branch.initializers.items()):
        branch.initializers.pop(name)
        parent.register_initializer(value)
    inner = tuple(branch)
    branch.remove(inner)
    parent.insert_before(node, inner)
    for index, (result, output) in enumerate(zip(results, node.outputs, strict=True)):
        if output.is_graph_output():
            bridge = ir.node("Identity", [result], name=f"{node.name}_{index}")
            bridge.outputs[0].type, bridge.outputs[0].shape = output.type, output.shape
            bridge.outputs[0].name = output.name
            parent.insert_before(node, bridge)
            output.replace_all_uses_with(bridge.outputs[0], replace_graph_outputs=True)
        else:
            output.replace_all_uses_with(result)
    remove(node)
    return True


def remove_dead(model: ir.Model) -> bool:
    """Remove nodes and initializers that nobody reads, in place; inputs and outputs stay. Say if anything changed.

    Each graph is walked from its end, so that a chain of dead nodes goes in one pass, outer graphs first, so that
    nothing is done inside a node that goes as a whole.
    """
    changed = False
    for graph in tuple(model.graphs()):
        for node in tuple(reversed(graph)):
            if not any(output.uses() or output.is_graph_output() for output in node.outputs):
                remove(node)
                changed = True
    for graph in tuple(model.graphs()):
        for name, value in tuple(graph.initializers.items()):
            if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                del graph.initializers[name]
                changed = True
    return changed
