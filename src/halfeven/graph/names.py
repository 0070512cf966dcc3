"""Names: every node and every tensor of a model gets one of its own, the same on every run.

Plans, reports and options refer to layers by name, so a name must be unique in the whole model, not only in its
graph as ONNX asks. What is unique already stays as it is; a repeated name gets `_1`, `_2`, ... in graph order; a node
without a name is called by operator and first output (`Conv_conv2d_145.tmp_0`), which survives edits elsewhere in
the model as a running number would not. Names of the main graph's inputs and outputs never change. Omitted optional
inputs and outputs, which ONNX writes as empty names, stay omitted.
"""

import onnx_ir as ir

from halfeven.graph.edit import graphs, rename, roots, unused, values


def name_everything(model: ir.Model) -> None:
    """Name, in place, all nodes and all values of `model`, subgraphs and functions included."""
    for root in roots(model):
        _name_values(root)
    taken: set[str] = set()
    nameless = []
    for graph in graphs(model):
        for node in graph:
            if node.name:
                node.name = unused(node.name, taken)
            else:
                nameless.append(node)
    for node in nameless:
        first = next((output.name for output in node.outputs if output.name), "")
        node.name = unused(f"{node.op_type}_{first}" if first else node.op_type, taken)


def _name_values(root: ir.Graph) -> None:
    interface = {value: None for value in (*root.inputs, *root.outputs) if value.name}
    taken = {value.name for value in interface if value.name}
    nameless = []
    for graph in (root, *root.subgraphs()):
        for value in values(graph):
            if value in interface:
                continue
            if not value.name:
                nameless.append(value)
            elif (name := unused(value.name, taken)) != value.name:
                rename(value, name)
    for value in nameless:
        if value.uses() or value.is_graph_output():
            rename(value, unused(_description(value), taken))
        else:
            value.name = ""


def _description(value: ir.Value) -> str:
    node = value.producer()
    if node is None:
        return "value"
    return f"{node.name or node.op_type}_output_{value.index()}"
