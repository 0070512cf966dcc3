"""Pictures: the normalisation of pictures moved into the model, so that it takes their bytes.

A network fed x = (p * scale - mean) / std, p the bytes, computes the same from p through x = a p + b, with a and b per
channel. Into a first convolution this folds: w' = a w, bias' = bias + sum w b. Its padding stands for x = 0, that is
p = -b / a; so a convolution that pads folds only where -b / a is one value for all channels, which an explicit Pad then
writes. Elsewhere a Mul and an Add stay in front of the first layer, in float.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.data.preprocess import parse_preprocess
from halfeven.draft import Draft, Progress, Samples
from halfeven.errors import BadOption
from halfeven.graph import ops
from halfeven.graph.edit import add_initializer, unused, value_names
from halfeven.graph.prepare import prepare
from halfeven.graph.weights import array_at, put_constant
from halfeven.numerics.grid import UINT8
from halfeven.numerics.scheme import QParams

Doubles = npt.NDArray[np.float64]


def take_pictures(model: ir.Model, gain: Doubles, offset: Doubles) -> tuple[ir.Model, str]:
    """A model of bytes (still of float type) that computes what `model` computes from `gain * p + offset`.

    Args:
        model: With one floating-point input of shape (batch, channels, height, width).
        gain: a, per channel.
        offset: b, per channel.

    Returns:
        The model, and a sentence that says where the normalisation went.

    Raises:
        BadOption: the model has no such input.
    """
    copy, _ = prepare(model)
    fed = [v for v in copy.graph.inputs if v.name not in copy.graph.initializers and v.dtype is ir.DataType.FLOAT]
    if len(fed) != 1 or fed[0].shape is None or len(fed[0].shape) != 4:
        raise BadOption(
            "--io uint8 with --preprocess takes pictures into the model, which needs one float32 input of shape "
            "[batch, channels, height, width]. Leave one of the two out."
        )
    readers = list(fed[0].uses())
    conv = readers[0].node if len(readers) == 1 else None
    why = "several nodes read the input" if conv is None else _obstacle(conv, gain, offset)
    if conv is not None and not why:
        return copy, _fold(copy, conv, gain, offset)
    _insert(copy, fed[0], gain, offset)
    return copy, f"the normalisation of pictures is a Mul and an Add in front of the first layer, in float: {why}"


def _obstacle(conv: ir.Node, gain: Doubles, offset: Doubles) -> str:
    """Why the normalisation does not fold into the first node; empty where it does."""
    what = f"{conv.op_type} '{conv.name}'"
    if conv.op_type != "Conv":
        return f"{what} reads the input, and only a Conv takes it up"
    if array_at(conv, 1) is None or ops.attribute(conv, "group", 1) != 1:
        return f"{what} has groups, or weights that are computed"
    padding = ops.attribute(conv, "auto_pad", "NOTSET")
    if padding == "VALID" or not (any(ops.attribute(conv, "pads", [])) or padding != "NOTSET"):
        return ""
    if padding != "NOTSET":
        return f"{what} pads as auto_pad = {padding} says, so by how much is not known"
    zeros = -offset / gain
    if np.ptp(zeros) < 1e-9:
        return ""
    return (
        f"{what} pads with zeros, which among bytes are {', '.join(f'{z:.4g}' for z in zeros)} in its channels, and a "
        "Pad writes one value"
    )


def _fold(model: ir.Model, conv: ir.Node, gain: Doubles, offset: Doubles) -> str:
    weight, bias = array_at(conv, 1), array_at(conv, 2)
    assert weight is not None
    w = weight.astype(np.float64)
    shift = (w * offset[:, None, None]).sum((1, 2, 3))
    put_constant(conv, 1, (w * gain[:, None, None]).astype(np.float32), model)
    put_constant(conv, 2, (shift if bias is None else bias + shift).astype(np.float32), model)
    pads = [int(p) for p in ops.attribute(conv, "pads", [])]
    if any(pads):
        names, graph = value_names(model), model.graph
        half = len(pads) // 2
        amounts = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
        inputs = [conv.inputs[0]]
        for name, array in (("pads", amounts), ("filling", np.array(-offset[0] / gain[0], np.float32))):
            free = unused(f"{conv.name}_{name}", names)
            inputs.append(add_initializer(graph, free, ir.tensor(array, name=free)))
        pad = ir.Node("", "Pad", inputs, num_outputs=1, name=f"{conv.name}_Pad")
        pad.outputs[0].name, pad.outputs[0].type = (
            unused(f"{conv.name}_padded", names),
            ir.TensorType(ir.DataType.FLOAT),
        )
        conv.prepend(pad)
        conv.replace_input_with(0, pad.outputs[0])
        conv.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(pads))
    return "the normalisation of pictures is folded into the first convolution"


def _insert(model: ir.Model, value: ir.Value, gain: Doubles, offset: Doubles) -> None:
    names, graph = value_names(model), model.graph
    readers = [(use.node, use.idx) for use in value.uses()]
    current, made = value, []
    for op, array in (("Mul", gain), ("Add", offset)):
        free = unused(f"{value.name}_{op.lower()}", names)
        operand = add_initializer(graph, free, ir.tensor(array.astype(np.float32).reshape(1, -1, 1, 1), name=free))
        node = ir.Node("", op, [current, operand], num_outputs=1, name=f"{value.name}_{op}")
        current = node.outputs[0]
        current.name, current.type, current.shape = unused(f"{value.name}_{op}_out", names), value.type, value.shape
        made.append(node)
    graph.insert_before(graph[0], made)
    for node, port in readers:
        node.replace_input_with(port, current)


@dataclass(frozen=True)
class PinBytes:
    """Let the codes of the graph's inputs be the bytes themselves: scale 1, zero point 0."""

    name: ClassVar[str] = "pin bytes"

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with the quantizers of its inputs pinned, where they are of 8 unsigned bits."""
        plan, inputs = draft.plan, {v.name for v in draft.model.graph.inputs}
        for site, group in draft.plan.sites.items():
            quantizer = plan.groups[group]
            if site.value in inputs and quantizer.scheme.grid == UINT8 and not quantizer.scheme.symmetric:
                params = QParams(quantizer.scheme, np.ones((), np.float32), np.zeros((), np.int32))
                plan = plan.with_group(group, replace(quantizer, params=params, method="bytes"))
        return replace(draft, plan=plan)


def with_pictures(draft: Draft, settings: dict[str, Any]) -> tuple[Draft, dict[str, Any], list[str]]:
    """With uint8 inputs and a preprocess, the normalisation moves into the model, and the data stay bytes.

    Returns:
        The draft; the settings, whose preprocess no longer normalises and whose `folded` says what the model does
        instead; sentences for the user.
    """
    if settings["io"] != "uint8" or settings["preprocess"] is None:
        return draft, settings, []
    preprocess = parse_preprocess(settings["preprocess"])
    if preprocess.pad_to is not None:
        raise BadOption("--io uint8: this preprocess pads after the normalisation, which bytes cannot express.")
    channels = max(len(preprocess.mean), len(preprocess.std))
    std, mean = (np.broadcast_to(np.array(v, np.float64), (channels,)) for v in (preprocess.std, preprocess.mean))
    model, note = take_pictures(draft.model, preprocess.scale / std, -mean / std)
    raw = replace(preprocess, scale=1.0, mean=(0.0,), std=(1.0,))
    folded = {"scale": preprocess.scale, "mean": list(preprocess.mean), "std": list(preprocess.std), "where": note}
    return replace(draft, model=model), {**settings, "preprocess": raw, "folded": folded}, [note]
