"""A quantized network as OpenVINO IR: .xml and .bin, with FakeQuantize on activations and int8 constants.

The graph of quantize and dequantize pairs is written node by node; `CONVERTERS` names the function of each operator.
OpenVINO's CPU plugin finds the integer layers by itself, as in the ONNX file. Refused, naming the node, before anything
is written: operators without a converter, control flow, codes that leave the network.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.companion import weights_beside
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.openvino import elementwise, layers, moves, quantizers
from halfeven.exporters.openvino.values import Values, extent, refuse
from halfeven.exporters.openvino.xml import Document
from halfeven.files import write_file, write_text
from halfeven.graph import ops
from halfeven.graph.pairs import dtype_of
from halfeven.run.specs import external_files
from halfeven.wording import counted

Converter = Callable[[ir.Node, Values], None]
CONVERTERS: dict[str, Converter] = {
    "QuantizeLinear": quantizers.quantizer,
    "DequantizeLinear": quantizers.dequantizer,
    **dict.fromkeys(("Conv", "ConvTranspose"), layers.convolution),
    **dict.fromkeys(("MatMul", "Gemm"), layers.product),
    **dict.fromkeys(("MaxPool", "AveragePool"), layers.pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), layers.global_pool),
    "BatchNormalization": layers.batch_norm,
    "LayerNormalization": layers.layer_norm,
    **dict.fromkeys(("PRelu", "LeakyRelu"), layers.prelu),
    **dict.fromkeys(elementwise.BINARY, elementwise.binary),
    **dict.fromkeys(elementwise.SAME, elementwise.unary),
    **dict.fromkeys(("HardSigmoid", "Selu", "Elu", "Gelu", "Reciprocal", "Round", "Softmax"), elementwise.shaped),
    "Clip": elementwise.clip,
    "Where": elementwise.select,
    "Cast": elementwise.convert,
    **dict.fromkeys(elementwise.SUMS, elementwise.reduction),
    **dict.fromkeys(("Reshape", "Flatten"), moves.reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), moves.squeeze),
    "Transpose": moves.transpose,
    "Concat": moves.concat,
    "Split": moves.split,
    "Slice": moves.cut,
    "Gather": moves.gather,
    "Shape": moves.shape,
    **dict.fromkeys(("ConstantOfShape", "Expand"), moves.filled),
    **dict.fromkeys(("Range", "Tile"), moves.spread),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), moves.blocks),
    "Pad": moves.pad,
    "Resize": moves.resize,
}


def write_ir(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write `path`, the .xml file, and beside it the .bin file of the same name.

    Raises:
        UnsupportedByTarget: a node has no form in the IR that this writer knows; nothing is written.
        BadOption: a file cannot be written.
    """
    weights = weights_beside(path, external_files(draft.model))
    document = document_of(_with_ranks(to_qdq(draft), draft.shapes), path.stem)
    text = document.text()
    write_file(weights, document.write_weights)
    write_text(path, text)
    count = sum(layer.kind == "FakeQuantize" for layer in document.layers)
    return (f"The IR holds {counted(count, 'FakeQuantize layer')}; OpenVINO decides which layers run in integers.",)


def _with_ranks(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """The model, where values whose shape is not inferred have the number of axes that a run showed, all open."""
    for value in (value for node in model.graph for value in node.outputs):
        if value.shape is None and (seen := shapes.get(value.name or "")) is not None:
            value.shape = ir.Shape([None] * len(seen))
    return model


def document_of(model: ir.Model, name: str) -> Document:
    """A model with quantize and dequantize pairs, as an IR document."""
    values = Values(Document(name), model.opset_imports.get("", 1))
    for value in model.graph.inputs:
        if value.const_value is None:
            _parameter(value, values)
    for node in model.graph:
        _convert(node, values)
    for i, value in enumerate(model.graph.outputs):
        port = values.at(value)
        if value.name not in port.names:
            port.names.append(value.name or f"output{i}")
        values.document.add("Result", [port], [], name=value.name or "")
    return values.document


def _parameter(value: ir.Value, values: Values) -> None:
    shape, dtype = extent(value), dtype_of(value)
    if shape is None or dtype is None:
        raise UnsupportedByTarget(f"Input '{value.name}' has no known type and rank; OpenVINO IR needs both.")
    text = ",".join("?" if d == -1 else str(d) for d in shape)
    attributes = {"shape": text, "element_type": dtype}
    [port] = values.document.add("Parameter", [], [(dtype, shape)], attributes, name=value.name or "")
    port.names.append(value.name or "")
    values.ports[value] = port


def _convert(node: ir.Node, values: Values) -> None:
    if node.op_type in ("Identity", "Dropout") and node.domain == "" and len([v for v in node.outputs if v.name]) == 1:
        values.give(node, values.at(node.inputs[0]))
        return
    if node.op_type == "Constant" or (node.outputs and all(ops.constant_of(v) is not None for v in node.outputs)):
        return  # written where it is read
    if node.domain not in ("", "ai.onnx") or node.op_type not in CONVERTERS:
        raise refuse(node, "this writer does not know the operator; the ONNX file runs in OpenVINO too")
    if node.op_type == "DequantizeLinear" and ops.constant_of(node.inputs[0]) is not None:
        values.deferred[node.outputs[0]] = partial(quantizers.dequantizer, node, values)
        return
    try:
        CONVERTERS[node.op_type](node, values)
    except UnsupportedByTarget:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise refuse(node, f"its attributes or shapes are not as ONNX has them ({error})") from error
