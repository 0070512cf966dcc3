"""A quantized network as TNN's .tnnproto and .tnnmodel.

Operators on codes become int8 layers where TNN has a kernel for them, all others float layers; TNN inserts what lies
between by itself (exporters.tnn.blobs). Each operator is converted by the function that `CONVERTERS` names. Refused,
with the node's name, before anything is written: what TNN has no layer for, and codes that are not symmetric int8.
Nothing here was run in TNN: the files are written as its sources read them.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.computed_shapes import evaluate
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.storage import refuse_halves, refuse_weights_alone
from halfeven.exporters.tnn import elementwise, layers, moves
from halfeven.exporters.tnn.blobs import Blobs, refuse
from halfeven.exporters.tnn.parts import Made, model_bytes, proto_text
from halfeven.files import write_file, write_text
from halfeven.graph.lower import REQUANTIZE, lower
from halfeven.graph.network import BORDERS, Network, Op
from halfeven.run.tnn_file import MOST_LAYERS, SUFFIX, Layer
from halfeven.wording import counted

Converter = Callable[[Op, Blobs], None]
CONVERTERS: dict[str, Converter] = {
    "Conv": layers.convolution,
    "ConvTranspose": layers.deconvolution,
    "Gemm": layers.inner_product,
    **dict.fromkeys(elementwise.BINARY, elementwise.binary),
    **dict.fromkeys((*elementwise.UNARY, "Relu", "Clip", "LeakyRelu", "Elu", "Pow"), elementwise.unary),
    **dict.fromkeys(("HardSigmoid", "HardSwish", "PRelu"), elementwise.unary),
    **dict.fromkeys((f"Reduce{kind}" for kind in elementwise.SUMS), elementwise.reduction),
    "Softmax": elementwise.softmax,
    "BatchNormalization": elementwise.batch_norm,
    **dict.fromkeys(("Reshape", "Flatten"), moves.reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), moves.squeeze),
    **dict.fromkeys(("Identity", "Dropout", BORDERS[1]), moves.identity),
    **dict.fromkeys((BORDERS[0], REQUANTIZE), lambda op, blobs: blobs.quantize(op)),
    "Transpose": moves.transpose,
    "Concat": moves.concat,
    "Split": moves.split,
    "Slice": moves.crop,
    **dict.fromkeys(("MaxPool", "AveragePool"), moves.pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), moves.global_pool),
    "Resize": moves.resize,
    "Pad": moves.pad,
}
WEIGHTED = ("Convolution", "InnerProduct", "Deconvolution")


def write_tnn(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write `path`, the .tnnproto file, and beside it the .tnnmodel file of the same name.

    Raises:
        UnsupportedByTarget: an operator, or the codes it works on, have no form in TNN; nothing is written.
        BadOption: a file cannot be written.
    """
    refuse_halves(draft, "TNN")
    refuse_weights_alone(draft, "TNN")
    blobs, made, outputs = convert(lower(to_qdq(draft)))
    pieces = model_bytes(made, blobs.scales)
    if not 0 < len(pieces) - 1 < MOST_LAYERS:
        raise UnsupportedByTarget(f"TNN reads 1 to {MOST_LAYERS - 1} layers with weights; here are {len(pieces) - 1}.")
    write_file(path.with_suffix(SUFFIX), lambda file: file.writelines(pieces))
    write_text(path, proto_text(blobs.feeds, outputs, [one.layer for one in made]))
    return _notes(blobs, [one.layer for one in made])


def convert(network: Network) -> tuple[Blobs, list[Made], list[str]]:
    """The conversion of a network, its layers, and the names of its outputs."""
    blobs = Blobs(network)
    for tensor in network.inputs:
        blobs.feed(tensor)
    for op in network.ops:
        if id(op) not in blobs.done and not evaluate(op, blobs):
            _convert(op, blobs)
    made, outputs = blobs.finish()
    return blobs, made, outputs


def _convert(op: Op, blobs: Blobs) -> None:
    if op.domain not in ("", "ai.onnx"):
        raise refuse(op, f"'{op.domain}' is a domain of its own")
    try:
        if elementwise.fused(op, blobs):
            return
        if op.kind == "MatMul":
            weight = op.inputs[1]
            flat = weight is not None and weight.constant is not None and len(blobs.dims(weight, op)) == 2
            (layers.inner_product if flat else moves.matmul)(op, blobs)
            return
        if op.kind not in CONVERTERS:
            raise refuse(op, "TNN has no such layer, or this writer does not know it")
        CONVERTERS[op.kind](op, blobs)
    except UnsupportedByTarget:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise refuse(op, f"its attributes or shapes are not as ONNX has them ({error})") from error


def _notes(blobs: Blobs, written: list[Layer]) -> tuple[str, ...]:
    weighted = [layer for layer in written if layer.kind.endswith(WEIGHTED)]
    count = sum(layer.quantized for layer in weighted)
    others = sum(layer.quantized for layer in written) - count
    said = [
        f"{count} of {counted(len(weighted), 'layer')} with weights and {counted(others, 'other')} are int8 layers in "
        "TNN; all other layers are float.",
        "The files are written as TNN's sources read them; they were never run in TNN.",
    ]
    if sums := _summed(written):
        said.append(
            f"TNN's optimizer adds {counted(sums, 'sum')} into the 1 x 1 convolution before, without codes in between: "
            "the codes of such a sum are nearer to the real numbers than the plan's, and may differ from them."
        )
    if mixed := _unrounded(written):
        said.append(
            f"{counted(mixed, 'tensor')} that a float layer makes and both int8 and float layers read: the float ones "
            "read the numbers before they are rounded."
        )
    return (*said, *dict.fromkeys(blobs.notes))


def _summed(written: list[Layer]) -> int:
    """How many sums TNN's optimizer fuses into the int8 convolution before them."""
    count = 0
    for number, (conv, add) in enumerate(pairwise(written)):
        if conv.kind != "QuantizedConvolution" or add.kind != "QuantizedAdd" or conv.outputs[0] not in add.inputs:
            continue
        small = conv.params[0] == "1" and conv.params[3:9] == ("1", "1", "1", "1", "0", "0")
        count += small and not any(conv.outputs[0] in layer.inputs for layer in written[number + 2 :])
    return count


def _unrounded(written: list[Layer]) -> int:
    """How many tensors of codes float layers read as the numbers they were made from."""
    plain = {blob for layer in written if not layer.quantized for blob in layer.outputs}
    codes = {blob for layer in written if layer.quantized for blob in layer.inputs}
    return len(plain & codes & {blob for layer in written if not layer.quantized for blob in layer.inputs})
