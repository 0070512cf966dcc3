"""A quantized network as ncnn's .param and .bin.

Operators on codes become int8 layers; all others run in float, between a Cast from int8 and a Quantize to it. Each
operator is converted by the function that `CONVERTERS` names. Refused, with the node's name, before anything is
written: what ncnn has no layer for, codes that are not symmetric int8, work across the batch axis.
"""

from collections.abc import Callable
from pathlib import Path

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.companion import weights_beside
from halfeven.exporters.computed_shapes import evaluate
from halfeven.exporters.ncnn import elementwise, layers, moves, windows
from halfeven.exporters.ncnn.blobs import Blobs, refuse
from halfeven.exporters.ncnn.parts import Layer, param_text, with_splits
from halfeven.exporters.ncnn.patterns import fused
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.storage import refuse_halves, refuse_weights_alone
from halfeven.files import write_file, write_text
from halfeven.graph.lower import lower
from halfeven.graph.network import Network, Op
from halfeven.run.specs import external_files
from halfeven.wording import counted

Converter = Callable[[Op, Blobs], None]
CONVERTERS: dict[str, Converter] = {
    "Conv": layers.convolution,
    "ConvTranspose": layers.deconvolution,
    "Gemm": layers.inner_product,
    **dict.fromkeys(elementwise.BINARY, elementwise.binary),
    **dict.fromkeys((*elementwise.UNARY, *elementwise.ALONE), elementwise.unary),
    **dict.fromkeys(("Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Gelu"), elementwise.unary),
    **dict.fromkeys(("HardSigmoid", "HardSwish", "PRelu"), elementwise.unary),
    **dict.fromkeys(elementwise.SUMS, elementwise.reduction),
    "Softmax": elementwise.softmax,
    "LayerNormalization": elementwise.layer_norm,
    "BatchNormalization": elementwise.batch_norm,
    **dict.fromkeys(("Reshape", "Flatten"), moves.reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), moves.squeeze),
    **dict.fromkeys(("Identity", "Dropout", "QuantizeLinear", "DequantizeLinear", "Requantize"), moves.identity),
    "Transpose": moves.transpose,
    "Concat": moves.concat,
    "Split": moves.split,
    "Slice": moves.crop,
    **dict.fromkeys(("MaxPool", "AveragePool"), windows.pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), windows.global_pool),
    "Resize": windows.resize,
    "Pad": windows.pad,
}


def write_ncnn(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write `path`, the .param file, and beside it the .bin file of the same name.

    Raises:
        UnsupportedByTarget: an operator, or the codes it works on, have no form in ncnn; nothing is written.
        BadOption: a file cannot be written.
    """
    refuse_halves(draft, "ncnn")
    refuse_weights_alone(draft, "ncnn")
    weights = weights_beside(path, external_files(draft.model))
    made, notes = convert(lower(to_qdq(draft)))
    write_file(weights, lambda file: file.writelines(piece for layer in made for piece in layer.weights))
    write_text(path, param_text(made))
    return notes


def convert(network: Network) -> tuple[list[Layer], tuple[str, ...]]:
    """The layers of a network, and sentences on what was converted."""
    blobs = Blobs(network)
    for tensor in network.inputs:
        blobs.feed(tensor)
    for op in network.ops:
        if id(op) not in blobs.done and not evaluate(op, blobs) and not fused(op, blobs):
            _convert(op, blobs)
    outputs = blobs.name_outputs()
    return with_splits(blobs.layers, outputs), _notes(blobs)


def _convert(op: Op, blobs: Blobs) -> None:
    if op.domain not in ("", "ai.onnx"):
        raise refuse(op, f"'{op.domain}' is a domain of its own")
    if op.kind == "MatMul":
        weight = op.inputs[1]
        flat = weight is not None and weight.constant is not None and len(blobs.view(weight).dims) == 2
        (layers.inner_product if flat else moves.matmul)(op, blobs)
        return
    if op.kind not in CONVERTERS:
        raise refuse(op, "ncnn has no such layer, or this writer does not know it")
    missing = [t.name for t in op.inputs if t is not None and t.constant is None and t.name not in blobs.views]
    if missing and not all(name in blobs.known for name in missing):
        raise refuse(op, f"'{missing[0]}' is no tensor of real numbers")
    try:
        CONVERTERS[op.kind](op, blobs)
    except UnsupportedByTarget:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise refuse(op, f"its attributes or shapes are not as ONNX has them ({error})") from error


def _notes(blobs: Blobs) -> tuple[str, ...]:
    count = len(blobs.integer)
    weighted = sum(layer.kind.startswith(("Conv", "InnerProduct", "Deconv")) for layer in blobs.layers)
    batched = [t.name for t in blobs.network.inputs if blobs.views[t.name].batch is not None]
    said = [f"{count} of {counted(weighted, 'layer')} with weights run in int8 in ncnn; all other layers run in float."]
    if batched:
        said.append(f"ncnn has no batch axis: '{batched[0]}' takes one sample, without its first axis.")
    return (*said, *dict.fromkeys(blobs.notes))
