"""Opsets: a model is brought to a later version of the default operator set by ONNX's own C++ converter.

The converter takes one serialized message, so large initializers stay behind as graph inputs and are put back
afterwards: the same tensor objects, external files included. It keeps the names of nodes and values but loses metadata
and doc strings, which are given back by name. Constants that it adds become initializers.
"""

import onnx
import onnx.version_converter
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.constants import lift_constants
from halfeven.graph.edit import graphs, root_cause, values
from halfeven.graph.names import name_everything
from halfeven.graph.shapes import graph_protos, infer_shapes, skeleton


def convert_opset(model: ir.Model, version: int) -> ir.Model:
    """Return `model` in opset `version` of the default domain; the model itself if it is there already.

    Args:
        model: Named throughout (`names.name_everything`), without model-local functions; not changed.
        version: At least the model's own.

    Raises:
        UnsupportedModel: The converter knows no way, or its result is not valid ONNX; the reason is said.
    """
    current = model.opset_imports.get("")
    if current is None or current == version:
        return model
    what = f"the model cannot be brought from opset {current} to {version}"
    newest = onnx.defs.onnx_opset_version()
    if not current < version <= newest:
        raise UnsupportedModel(f"{what}: only higher opsets up to {newest} are possible with the installed onnx.")
    if model.functions:
        raise UnsupportedModel(f"{what}: its local functions are not converted. Inline them first.")
    try:
        proto, absent = skeleton(model)
        converted = onnx.version_converter.convert_version(proto, version)
        result = ir.serde.deserialize_model(converted)
    except Exception as error:
        raise UnsupportedModel(f"{what}: {root_cause(error)}") from None
    _restore_weights(result, model, absent)
    _restore_metadata(result, model)
    name_everything(result)
    lift_constants(result)
    infer_shapes(result)
    _check(result, what)
    return result


def _restore_weights(result: ir.Model, source: ir.Model, absent: dict[str, ir.TensorProtocol]) -> None:
    """Turn the inputs that stand for large initializers back into them."""
    interface = {value.name for value in source.graph.inputs}
    for value in tuple(result.graph.inputs):
        if value.name in absent:
            value.const_value = absent[value.name]
            if value.name not in interface:
                result.graph.inputs.remove(value)
            result.graph.register_initializer(value)


def _restore_metadata(result: ir.Model, source: ir.Model) -> None:
    result.metadata_props.update(source.metadata_props)
    result.graph.metadata_props.update(source.graph.metadata_props)
    result.graph.name, result.graph.doc_string = source.graph.name, source.graph.doc_string
    result.producer_name, result.producer_version = source.producer_name, source.producer_version
    result.domain, result.model_version, result.doc_string = source.domain, source.model_version, source.doc_string
    lowest = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid(domain, number) for domain, number in result.opset_imports.items()], True
    )
    result.ir_version = max(source.ir_version, lowest)
    nodes = {node.name: node for graph in graphs(source) for node in graph}
    tensors = {value.name: value for graph in graphs(source) for value in values(graph)}
    for graph in graphs(result):
        for node in graph:
            if (old := nodes.get(node.name)) is not None:
                node.metadata_props.update(old.metadata_props)
                node.doc_string = old.doc_string
        for value in values(graph):
            if (same := tensors.get(value.name)) is None:
                value.shape = None
            else:
                value.metadata_props.update(same.metadata_props)
                value.doc_string, value.shape, value.type = same.doc_string, same.shape, same.type


def _check(result: ir.Model, what: str) -> None:
    """Run ONNX's checker on the result without its large weights.

    It wants a shape of every input and output; runtimes do not, and unknown ranks cannot be said otherwise.
    """
    try:
        proto = skeleton(result)[0]
        for graph in graph_protos(proto.graph):
            for info in (*graph.input, *graph.output):
                if info.type.HasField("tensor_type"):
                    info.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(proto)
    except Exception as error:
        raise UnsupportedModel(f"{what}: the result is not valid ONNX ({root_cause(error)})") from None
