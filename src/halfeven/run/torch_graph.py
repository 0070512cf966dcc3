"""The ONNX graph that PyTorch's exporter wrote, made one that people can read and that stands by itself.

    what                  from the exporter                       here
    node                  node_conv2d_17                          layer1.0.conv1/Conv (the module's path, the operator)
    value                 conv2d_17, val_30                       layer1.0.conv1/Conv_output_0
    parameter             a key of state_dict                     the first key, if modules share it
    batch                 s77                                     batch
    output                add_20, or an input's name              as asked; an Identity where it is an input, or twice
    weights               the module's own memory                 copies, so that later training leaves them alone
    metadata              paths and code of the user's files      module path and classes only

The exporter gives one name to different values when a parameter is called like an argument of `forward` or like an
operator (`x`, `add`). In memory they are still different values, so naming all of them anew repairs the graph.
"""

import ast
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from halfeven.graph.edit import graphs, rename, unused, values
from halfeven.graph.names import name_everything
from halfeven.run.torch_layers import as_layers
from halfeven.run.torch_operators import respell

SCOPES = "pkg.torch.onnx.name_scopes"
KEPT_METADATA = (SCOPES, "pkg.torch.onnx.class_hierarchy")
NO_SCOPE = "_empty_nn_module_stack_from_metadata_hook"
"""The exporter's path for nodes that come from no module, such as those which take the size of the batch."""

BATCH = "batch"


def tidy(
    model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], keys: Mapping[str, str], *, layers: bool = False
) -> list[str]:
    """Rename, respell and clean, in place; return notes for the user.

    Args:
        model: As the exporter made it, not optimized.
        inputs: Names for the graph's inputs; empty to leave those of the exporter.
        outputs: Names for the graph's outputs.
        keys: From each key of the module's state_dict to the first key of the same tensor.
        layers: Whether layers come in pieces, as those of Keras do (`torch_layers`).
    """
    _own_weights(model.graph, keys)
    parameters = dict(model.graph.initializers)
    _name_batch(model)
    taken = {value.name for value in model.graph.inputs if value.name}
    if inputs:
        taken = set(inputs)
        for value, name in zip(model.graph.inputs, inputs, strict=True):
            value.name = name
    _separate_outputs(model.graph)
    respell(model)
    _name_anew(model, outputs, taken)
    if layers:
        as_layers(model)
        _separate_outputs(model.graph)  # where only transposes lay between two outputs, or an input and one
        respell(model)
        _name_anew(model, outputs, taken)
    _clean_metadata(model)
    renamed = [(name, value.name) for name, value in parameters.items() if value.name != name]
    return [
        f"'{old}' of the module is '{new}' in the model, as an input or output is called '{old}'"
        for old, new in renamed
    ]


def _own_weights(graph: ir.Graph, keys: Mapping[str, str]) -> None:
    for name, value in tuple(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None:
            value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=name)
        first = keys.get(name, name)
        if first != name and first not in graph.initializers:
            rename(value, first)


def _name_batch(model: ir.Model) -> None:
    """Call the one symbol that stands for the first axis of inputs `batch`, wherever it occurs."""
    firsts = [value.shape[0] for value in model.graph.inputs if value.shape is not None and value.shape.rank()]
    symbols = {dim.value for dim in firsts if isinstance(dim, ir.SymbolicDim) and dim.value}
    if not symbols:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, symbols))})\b")
    for value in (value for graph in graphs(model) for value in values(graph)):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, pattern) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, pattern: re.Pattern[str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    return ir.SymbolicDim(pattern.sub(BATCH, dim.value))


def _separate_outputs(graph: ir.Graph) -> None:
    """Let each output be a value of its own, which some node computes."""
    seen: set[ir.Value] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or value in seen:
            node = ir.node("Identity", [value])
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
        seen.add(graph.outputs[index])


def _name_anew(model: ir.Model, outputs: Sequence[str], inputs: Collection[str]) -> None:
    """Name nodes by module and operator, outputs as asked where no input is called so, all else after its node."""
    taken: set[str] = set()
    for graph in graphs(model):
        for node in graph:
            scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
            path = scopes[-2] if len(scopes) > 1 and scopes[-2] != NO_SCOPE else ""
            node.name = unused(f"{path}/{node.op_type}" if path else node.op_type, taken)
            for value in node.outputs:
                value.name = None
    taken = set(inputs)
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = unused(name, taken)
    name_everything(model)


def _clean_metadata(model: ir.Model) -> None:
    for graph in graphs(model):
        graph.metadata_props.clear()
        for value in values(graph):
            value.metadata_props.clear()
        for node in graph:
            kept = {key: node.metadata_props[key] for key in KEPT_METADATA if key in node.metadata_props}
            node.metadata_props.clear()
            node.metadata_props.update(kept)
