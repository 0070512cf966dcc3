"""Operators that move numbers about, and shapes, as OpenVINO layers.

Source: OpenVINO documentation, operation specifications.
"""

import numpy as np
import onnx_ir as ir

from halfeven.exporters.openvino.values import INT64, Values, constant_at, extent, get, rank_of, refuse
from halfeven.exporters.openvino.xml import Port
from halfeven.graph.pairs import shape_of

FAR = (1 << 63) - 1
MODES = {"nearest": "nearest", "linear": "linear_onnx", "cubic": "cubic"}
PADS = {"constant": "constant", "edge": "edge", "reflect": "reflect"}


def reshape(node: ir.Node, values: Values) -> None:
    """Reshape, and Flatten as one."""
    x = values.at(node.inputs[0])
    if node.op_type == "Reshape":
        target, zero = values.at(node.inputs[1]), not get(node, "allowzero", 0)
    else:
        target, zero = _flat_shape(node, x, values), True
    values.layer(node, "Reshape", [x, target], {"special_zero": zero})


def _flat_shape(node: ir.Node, x: Port, values: Values) -> Port:
    """The shape (product of the axes before `axis`, -1)."""
    rank = rank_of(node.inputs[0], node)
    axis = int(get(node, "axis", 1))
    axis += rank if axis < 0 else 0
    if axis in (0, 1):
        return values.whole([0, -1] if axis else [1, -1])
    shape = values.inner("ShapeOf", [x], {"output_type": INT64}, opset=3, dtype=INT64, shape=(rank,))
    lead = values.inner("Gather", [shape, values.whole(list(range(axis))), values.whole(0)], {"batch_dims": 0}, 8)
    rows = values.inner("ReduceProd", [lead, values.whole([0])], {"keep_dims": True}, shape=(1,))
    return values.inner("Concat", [rows, values.whole([-1])], {"axis": 0}, shape=(2,))


def axes_of(node: ir.Node, values: Values) -> Port | None:
    """The axes, an input since opset 13, an attribute before."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return values.at(node.inputs[1])
    given = get(node, "axes", None)
    return None if given is None else values.whole(list(given))


def squeeze(node: ir.Node, values: Values) -> None:
    """Squeeze and Unsqueeze."""
    axes = axes_of(node, values)
    values.layer(node, node.op_type, [values.at(node.inputs[0]), *([] if axes is None else [axes])])


def transpose(node: ir.Node, values: Values) -> None:
    """Transpose."""
    perm = get(node, "perm", None) or tuple(reversed(range(rank_of(node.inputs[0], node))))
    values.layer(node, "Transpose", [values.at(node.inputs[0]), values.whole(list(perm))])


def concat(node: ir.Node, values: Values) -> None:
    """Concat."""
    values.layer(node, "Concat", values.reads(node), {"axis": int(get(node, "axis", 0))})


def split(node: ir.Node, values: Values) -> None:
    """Split, into equal parts or by given lengths."""
    x, axis, count = values.at(node.inputs[0]), int(get(node, "axis", 0)), len(node.outputs)
    given = get(node, "split", None)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        lengths = values.at(node.inputs[1])
    elif given is not None:
        lengths = values.whole(list(given))
    else:
        shape = shape_of(node.inputs[0]) if node.inputs[0] is not None else None
        length = None if shape is None else shape[axis]
        if isinstance(length, int) and length % count:
            each = -(-length // count)
            lengths = values.whole([each] * (count - 1) + [length - each * (count - 1)])
        else:
            values.layer(node, "Split", [x, values.whole(axis)], {"num_splits": count})
            return
    values.layer(node, "VariadicSplit", [x, values.whole(axis), lengths])


def cut(node: ir.Node, values: Values) -> None:
    """Slice."""
    if len(node.inputs) == 1:
        starts, ends = (list(get(node, name, ())) for name in ("starts", "ends"))
        axes, steps = list(get(node, "axes", None) or range(len(starts))), [1] * len(starts)
        parts = [values.whole(p) for p in (starts, ends, steps, axes)]
        values.layer(node, "Slice", [values.at(node.inputs[0]), *parts], opset=8)
        return
    x, first, last = (values.at(v) for v in node.inputs[:3])
    size = first.shape
    if size is None or -1 in size:
        raise refuse(node, "how many axes it cuts is not known")
    given = [node.inputs[i] if i < len(node.inputs) else None for i in (3, 4)]
    axes_port = values.whole(list(range(size[0]))) if given[0] is None else values.at(given[0])
    step = values.number([1] * size[0], first.dtype) if given[1] is None else values.at(given[1])
    values.layer(node, "Slice", [x, first, last, step, axes_port], opset=8)


def gather(node: ir.Node, values: Values) -> None:
    """Gather."""
    x, indices = (values.at(v) for v in node.inputs)
    axis = values.whole(int(get(node, "axis", 0)))
    port = values.inner("Gather", [x, indices, axis], {"batch_dims": 0}, 8, shape=extent(node.outputs[0]))
    values.give(node, port)


def shape(node: ir.Node, values: Values) -> None:
    """Shape."""
    rank = rank_of(node.inputs[0], node)
    start, end = int(get(node, "start", 0)), int(get(node, "end", FAR))
    whole = values.inner("ShapeOf", [values.at(node.inputs[0])], {"output_type": INT64}, 3, INT64, (rank,))
    kept = list(range(rank))[start : min(end, rank)]
    if len(kept) < rank:
        whole = values.inner(
            "Gather", [whole, values.whole(kept), values.whole(0)], {"batch_dims": 0}, 8, INT64, (len(kept),)
        )
    values.give(node, whole)


def filled(node: ir.Node, values: Values) -> None:
    """ConstantOfShape and Expand: a value, broadcast."""
    if node.op_type == "Expand":
        values.layer(node, "Broadcast", values.reads(node), {"mode": "bidirectional"}, opset=3)
        return
    tensor = node.attributes["value"].as_tensor() if "value" in node.attributes else None
    value = values.number(0.0) if tensor is None else values.number(tensor.numpy().reshape(()), tensor.dtype)
    values.layer(node, "Broadcast", [value, values.at(node.inputs[0])], {"mode": "numpy"}, opset=3)


def spread(node: ir.Node, values: Values) -> None:
    """Range and Tile."""
    if node.op_type == "Tile":
        values.layer(node, "Tile", values.reads(node))
        return
    ports = values.reads(node)
    values.layer(node, "Range", ports, {"output_type": ports[0].dtype}, opset=4)


def blocks(node: ir.Node, values: Values) -> None:
    """DepthToSpace and SpaceToDepth."""
    mode = "depth_first" if get(node, "mode", "DCR") == "CRD" else "blocks_first"
    attributes = {"block_size": int(get(node, "blocksize", 1)), "mode": mode}
    values.layer(node, node.op_type, [values.at(node.inputs[0])], attributes)


def pad(node: ir.Node, values: Values) -> None:
    """Pad, by constant amounts."""
    mode, rank = str(get(node, "mode", "constant")), rank_of(node.inputs[0], node)
    amounts, named = constant_at(node, 1), constant_at(node, 3)
    if len(node.inputs) < 2:
        amounts = np.array(get(node, "pads", ()))
    if amounts is None or mode not in PADS or (len(node.inputs) > 3 and node.inputs[3] is not None and named is None):
        raise refuse(node, "how far it pads is computed, or it wraps around")
    axes = [int(a) % rank for a in (range(rank) if named is None else named)]
    begin, end = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        begin[axis], end[axis] = int(amounts[i]), int(amounts[i + len(axes)])
    filling = node.inputs[2] if len(node.inputs) > 2 else None
    value = values.number(float(get(node, "value", 0.0))) if filling is None else values.at(filling)
    if filling is not None and value.shape not in ((), None):
        value = values.inner("Reshape", [value, values.number(np.zeros(0), INT64)], {"special_zero": False}, shape=())
    x = values.at(node.inputs[0])
    values.layer(node, "Pad", [x, values.whole(begin), values.whole(end), value], {"pad_mode": PADS[mode]}, opset=12)


def resize(node: ir.Node, values: Values) -> None:
    """Resize by scales or to lengths, along constant axes."""
    rank, mode = rank_of(node.inputs[0], node), str(get(node, "mode", "nearest"))
    scales = constant_at(node, 2 if values.opset >= 11 else 1)
    sized = len(node.inputs) > 3 and node.inputs[3] is not None
    if mode not in MODES or get(node, "keep_aspect_ratio_policy", "stretch") != "stretch" or get(node, "antialias", 0):
        raise refuse(node, "only nearest, linear and cubic without antialiasing are written, and no aspect is kept")
    if not sized and (scales is None or not scales.size):
        raise refuse(node, "its scales are computed")
    axes = get(node, "axes", None) or tuple(range(rank))
    target = values.at(node.inputs[3]) if sized else values.number(scales)
    attributes: dict[str, object] = {
        "mode": MODES[mode],
        "shape_calculation_mode": "sizes" if sized else "scales",
        "coordinate_transformation_mode": str(get(node, "coordinate_transformation_mode", "half_pixel")),
        "nearest_mode": str(get(node, "nearest_mode", "round_prefer_floor")),
        "antialias": False,
        "pads_begin": (0,) * rank,
        "pads_end": (0,) * rank,
        "cube_coeff": float(get(node, "cubic_coeff_a", -0.75)),
    }
    axes_port = values.whole(list(axes))
    values.layer(node, "Interpolate", [values.at(node.inputs[0]), target, axes_port], attributes, opset=11)
