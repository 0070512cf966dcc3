"""ncnn's calibration table: what `ncnn2int8 IN.param IN.bin OUT.param OUT.bin NAME.table` quantizes a network by.

    conv1_param_0 s s s ...     the weight scales of each layer, one for each output channel (of a depthwise
                                convolution: one for each group)
    conv1 s                     then the scale of what each layer reads

A scale is what ncnn multiplies by, 1 / ours, with six decimals ("%f"), as ncnn's own tools write and PPQ does. That
loses: 1 / 0.01 = 100.000000 has nine digits, which hold a float32; 1 / 40 = 0.025000 has five. How many come back to
the same float32, and the largest relative difference, are notes. Names are the ONNX nodes', which ncnn's converters
give their layers. Only convolutions and inner products with symmetric codes of
8 bits are in the table; the other layers stay float in ncnn.

The network that `--format ncnn` writes needs no table and loses nothing. Sources: ncnn tools/quantize/ncnn2table.cpp,
ncnn2int8.cpp; PPQ parser/ncnn_exporter.py.
"""

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.tables.entries import entries_of, of_codes, write_table
from halfeven.graph import ops
from halfeven.graph.encodings import Encoding, written
from halfeven.wording import counted

LAYERS = ("Conv", "Gemm", "MatMul")


def write_ncnn_table(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write ncnn's table.

    Raises:
        BadOption: an activation or weight has a zero point.
        UnsupportedByTarget: no layer is int8; codes of other than 8 bits; a layer's name has a space or a line break.
    """
    entries = {entry.name: entry for entry in entries_of(draft)}
    of_codes(list(entries.values()), "ncnn's table")
    weights, data, used = [], [], []
    for node in draft.model.graph:
        found = _layer(node, entries)
        if found is None:
            continue
        name, (read, weight) = _plain(node), found
        weights.append(" ".join([f"{name}_param_0", *_channels(node, weight)]))
        data.append(" ".join([name, *_texts(read)]))
        used += [read, weight]
    layers = sum(ops.is_layer(node) for node in draft.model.graph)
    if not data:
        raise UnsupportedByTarget(
            "No layer of the network has scales for both its data and its weight, as ncnn's table lists them: nothing "
            "would be written. Quantize with --mode static, or choose another format."
        )
    notes = write_table(draft, path, "\n".join([*weights, *data, ""]))
    if layers > len(data):
        notes.append(
            f"{counted(layers - len(data), 'layer')} not in the table: not quantized, or not of a kind ncnn has"
        )
    return (*notes, _loss(used))


def _layer(node: ir.Node, entries: dict[str, Encoding]) -> tuple[Encoding, Encoding] | None:
    port = ops.weight_port(node) if node.op_type in LAYERS else None
    if port != 1 or len(node.inputs) < 2:
        return None
    data, weight = (entries.get(v.name or "") if v is not None else None for v in node.inputs[:2])
    return None if data is None or weight is None or data.role != "activation" else (data, weight)


def _channels(node: ir.Node, weight: Encoding) -> list[str]:
    """One scale for each output channel, or group of a grouped convolution, from as many or from one."""
    tensor, axis = ops.constant_of(node.inputs[1]), ops.weight_axis(node, 1)
    assert tensor is not None
    texts, groups = _texts(weight), int(ops.attribute(node, "group", 1)) if node.op_type == "Conv" else 1
    count = ops.dims_of(tensor)[axis] if axis is not None else len(texts)
    if groups > 1 and len(texts) == count and groups != count:
        raise UnsupportedByTarget(
            f"Conv '{node.name}': ncnn has one scale for each of its {groups} groups, the plan one for each of {count} "
            "channels. Keep it float with --keep-float."
        )
    return texts * (groups if groups > 1 else count) if len(texts) == 1 else texts


def _texts(entry: Encoding) -> list[str]:
    texts = [str(fields["scale"]) for fields in written(entry, "ncnn-table", lossy=True)]
    if any(float(text) == 0 for text in texts):
        raise UnsupportedByTarget(
            f"'{entry.name}': a scale of {max(entry.scales):.3g} is 0.000000 in ncnn's table. Keep its layer float "
            "with --keep-float, or use --format ncnn."
        )
    return texts


def _plain(node: ir.Node) -> str:
    name = node.name or ""
    if not name or re.search(r"\s", name):
        raise UnsupportedByTarget(f"{node.op_type} {name!r}: a name in ncnn's table has no spaces. Rename the node.")
    return name


def _loss(entries: list[Encoding]) -> str:
    """How much of the scales six decimals keep."""
    ours = np.array([s for entry in entries for s in entry.params.scale.ravel()], np.float32)
    back = np.array([1 / float(text) for entry in entries for text in _texts(entry)]).astype(np.float32)
    same, most = int((ours == back).sum()), float(np.max(np.abs(back / ours - 1), initial=0.0))
    return f"six decimals keep {same} of {ours.size} scales; the others are off by up to {most:.1e} of their size"
