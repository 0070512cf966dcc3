"""Operators that move numbers about, and windows over pictures.

    ONNX                            TNN
    Reshape, Flatten                Reshape 0 N N LENGTHS.. 0: 0 the input's length there, -1 the rest; Flatten AXIS
    Squeeze Unsqueeze               Squeeze, Unsqueeze N AXES..
    Transpose                       Permute N AXES..
    Concat, Split                   Concat AXIS; SplitV AXIS N LENGTHS.. 1
    Slice                           StridedSliceV2 N STARTS.. N ENDS.. N AXES.. N STEPS..
    Pad                             PadV2 N BEFORE.. AFTER.. KIND VALUE: 0 constant, 1 reflect, 2 edge
    Resize                          Upsample KIND SCALE_H SCALE_W CORNERS [H W]: 1 nearest, 2 linear
    MatMul of two activations       MatMul
    MaxPool AveragePool             Pooling KIND  KH KW  SH SW  PH PW  -1 -1  PAD_TYPE CEIL 0 -1 -1: 0 max, 1 average
    GlobalAveragePool, GlobalMax    the same of a window 0 0: all of the picture

On codes: MaxPool, Concat of pictures and nearest Upsample between tensors of one scale. An average counts what lies
inside the picture alone. The nearest pixel is floor(place * length in / length out).
Sources: TNN layer_interpreter/*.cc, utils/dims_function_utils.cc, layer/pooling_layer.cc, upsample_layer.cc;
device/arm/acc/arm_concat_layer_acc.cc, arm_pool_layer_acc.cc, arm_upsample_layer_acc.cc; tools/onnx2tnn.
"""

from collections.abc import Sequence

from halfeven.exporters.computed_shapes import fixed, numbers
from halfeven.exporters.tnn.blobs import Blobs, Dims, quantized, refuse
from halfeven.exporters.tnn.layers import AUTO, EXPLICIT
from halfeven.exporters.tnn.parts import Param
from halfeven.graph.network import Op, Tensor

FAR = (1 << 31) - 1
KINDS = {"nearest": 1, "linear": 2}
PADS = {"constant": 0, "reflect": 1, "edge": 2}


def one(op: Op, blobs: Blobs, kind: str, params: Sequence[Param], *, codes: bool = False) -> None:
    """Emit a layer that reads the first operand; on codes if that may be and all its tensors have one scale."""
    x, y = op.inputs[0], op.outputs[0]
    source = blobs.blob(x, op)
    assert x is not None
    if codes and _alike([x, y], blobs) and op.clamp is None:
        [top] = blobs.emit(quantized(kind), op.name, [source], params, outputs=(y.name,))
        blobs.give_codes(y, top)
        return
    blobs.layer(op, kind, [source], params)


def _alike(tensors: Sequence[Tensor], blobs: Blobs) -> bool:
    return all(t.coded for t in tensors) and len({blobs.scale(t) for t in tensors}) == 1


def identity(op: Op, blobs: Blobs) -> None:
    """What changes nothing."""
    blobs.give(op.outputs[0], blobs.blob(op.inputs[0], op), op.clamp)


def reshape(op: Op, blobs: Blobs) -> None:
    """Reshape, Flatten."""
    x = op.inputs[0]
    assert x is not None
    dims = blobs.dims(x, op)
    if op.kind == "Flatten":
        axis = int(op.attributes.get("axis", 1))
        one(op, blobs, "Flatten", (axis + len(dims) if axis < 0 else axis,))
        return
    target = numbers(op.inputs[1], blobs)
    if target is None or (op.attributes.get("allowzero", 0) and 0 in target):
        raise refuse(op, "its shape depends on the input in a way that TNN cannot follow")
    lengths: list[int] = []
    for i, length in enumerate(target):
        if isinstance(length, int):
            lengths.append(length)
        else:  # an open length: that of the input at the same place, else what is left
            lengths.append(0 if i < len(dims) and length == dims[i] else -1)
    if lengths.count(-1) > 1 or len(lengths) > 5:
        raise refuse(op, f"the shape {target} has more than one open length, or more than five")
    one(op, blobs, "Reshape", (0, len(lengths), len(lengths), *lengths, 0))


def squeeze(op: Op, blobs: Blobs) -> None:
    """Squeeze and Unsqueeze."""
    x = op.inputs[0]
    assert x is not None
    dims, given = blobs.dims(x, op), fixed(op, 1, "axes", blobs)
    if op.kind == "Squeeze" and len(op.inputs) < 2 and "axes" not in op.attributes:
        given = [i for i, d in enumerate(dims) if d == 1]
    if given is None:
        raise refuse(op, "its axes are computed")
    rank = len(dims) + (len(given) if op.kind == "Unsqueeze" else 0)
    axes = sorted(a % rank for a in given)
    one(op, blobs, op.kind, (len(axes), *axes))


def transpose(op: Op, blobs: Blobs) -> None:
    """Transpose."""
    x = op.inputs[0]
    assert x is not None
    rank = len(blobs.dims(x, op))
    order = [int(p) for p in op.attributes.get("perm", range(rank)[::-1])]
    one(op, blobs, "Permute", (rank, *order))


def concat(op: Op, blobs: Blobs) -> None:
    """Concat of computed tensors."""
    tensors = [t for t in op.inputs if t is not None]
    if any(t.constant is not None for t in tensors):
        raise refuse(op, "one of its operands is constant")
    rank, y = len(blobs.dims(tensors[0], op)), op.outputs[0]
    axis = int(op.attributes["axis"]) % rank
    sources = [blobs.blob(t, op) for t in tensors]
    if _alike([*tensors, y], blobs) and rank == 4 and axis and op.clamp is None and len(tensors) > 1:
        [top] = blobs.emit(quantized("Concat"), op.name, sources, (axis,), outputs=(y.name,))
        blobs.give_codes(y, top)
        return
    if len(sources) == 1:
        blobs.give(y, sources[0], op.clamp)
        return
    blobs.layer(op, "Concat", sources, (axis,))


def split(op: Op, blobs: Blobs) -> None:
    """Split into parts of known lengths."""
    x = op.inputs[0]
    assert x is not None
    dims, count = blobs.dims(x, op), len(op.outputs)
    axis = int(op.attributes.get("axis", 0)) % len(dims)
    sizes, length = fixed(op, 1, "split", blobs), dims[axis]
    if len(op.inputs) < 2 and "split" not in op.attributes and isinstance(length, int):
        each = -(-length // count)
        sizes = [each] * (count - 1) + [length - each * (count - 1)]
    if sizes is None or op.clamp is not None:
        raise refuse(op, "it splits into parts of unknown length")
    tops = blobs.emit(
        "SplitV", op.name, [blobs.blob(x, op)], (axis, count, *sizes, 1), outputs=[t.name for t in op.outputs]
    )
    for tensor, top in zip(op.outputs, tops, strict=True):
        blobs.give(tensor, top)


def crop(op: Op, blobs: Blobs) -> None:
    """Slice by known bounds and positive steps."""
    x = op.inputs[0]
    assert x is not None
    rank = len(blobs.dims(x, op))
    names = enumerate(("starts", "ends", "axes", "steps"), start=1)
    starts, ends, axes, steps = (fixed(op, port, name, blobs) for port, name in names)
    if starts is None or ends is None or any(s < 1 for s in steps or ()):
        raise refuse(op, "its bounds depend on the input, or it runs backwards")
    along = [a % rank for a in (range(len(starts)) if axes is None else axes)]
    lists = (starts, [min(end, FAR) for end in ends], along, steps or [1] * len(starts))
    one(op, blobs, "StridedSliceV2", [n for part in lists for n in (len(part), *part)])


def matmul(op: Op, blobs: Blobs) -> None:
    """MatMul of two activations."""
    a, b = op.inputs[:2]
    if a is None or b is None or a.constant is not None or b.constant is not None:
        raise refuse(op, "its constant is not on the right, or has other than two axes")
    if len(blobs.dims(a, op)) != len(blobs.dims(b, op)) or len(blobs.dims(a, op)) < 2:
        raise refuse(op, "its operands differ in their number of axes")
    blobs.layer(op, "MatMul", [blobs.blob(a, op), blobs.blob(b, op)])


def pool(op: Op, blobs: Blobs) -> None:
    """MaxPool and AveragePool of two axes."""
    get = op.attributes.get
    kernel = [int(k) for k in op.attributes["kernel_shape"]]
    strides = [int(s) for s in get("strides", (1,) * len(kernel))]
    pads = [int(p) for p in get("pads", (0,) * 2 * len(kernel))]
    auto, ceil = str(get("auto_pad", "NOTSET")), int(get("ceil_mode", 0))
    plain = len(kernel) == 2 and set(get("dilations", (1,))) == {1} and len(op.outputs) == 1
    if not plain or auto not in AUTO or pads[: len(kernel)] != pads[len(kernel) :]:
        raise refuse(op, "only windows over two axes without gaps, with the same pads on both sides, are written")
    average = op.kind == "AveragePool"
    if (any(pads) and (ceil or (average and get("count_include_pad", 0)))) or (ceil and average):
        raise refuse(op, "TNN counts what lies outside of the picture otherwise")
    params = (int(average), *kernel, *strides, *pads[:2], -1, -1, AUTO[auto], ceil, 0, -1, -1)
    one(op, blobs, "Pooling", params, codes=not average and AUTO[auto] == EXPLICIT)


def global_pool(op: Op, blobs: Blobs) -> None:
    """GlobalAveragePool and GlobalMaxPool of pictures."""
    x = op.inputs[0]
    assert x is not None
    if len(blobs.dims(x, op)) != 4:
        raise refuse(op, "only pictures of two axes are pooled")
    one(op, blobs, "Pooling", (int(op.kind == "GlobalAveragePool"), 0, 0, 1, 1, 0, 0, -1, -1, EXPLICIT, 0, 0, -1, -1))


def resize(op: Op, blobs: Blobs) -> None:
    """Resize of the two axes of a picture."""
    x, get = op.inputs[0], op.attributes.get
    assert x is not None
    dims, mode = blobs.dims(x, op), str(get("mode", "nearest"))
    how = str(get("coordinate_transformation_mode", "half_pixel"))
    scales = _scales(op, blobs)
    sizes = fixed(op, 3, "sizes", blobs) if scales is None else None
    if len(dims) != 4 or "axes" in op.attributes or mode not in KINDS or (scales is None and sizes is None):
        raise refuse(op, "only the two axes of a picture are resized, by constant scales or to constant lengths")
    target = scales or [float(n) for n in sizes or ()]
    same = [1.0, 1.0] if scales is not None else [target[0], float(dims[1]) if isinstance(dims[1], int) else -1.0]
    whole = scales is not None and all(s == int(s) for s in target[2:])
    if target[:2] != same or (scales is not None and not whole and not _whole(dims, target)):
        raise refuse(op, "it resizes other axes than the last two, or to lengths that TNN rounds otherwise")
    _check_resize(op, mode, how, whole)
    corners = int(how == "align_corners")
    lengths = [] if scales is not None else [int(n) for n in target[2:]]
    factors = target[2:] if scales is not None else [0.0, 0.0]
    one(op, blobs, "Upsample", (KINDS[mode], *factors, corners, *lengths), codes=mode == "nearest")


def _whole(dims: Dims, scales: Sequence[float]) -> bool:
    """Whether the lengths are known and become whole numbers."""
    pairs = list(zip(dims[2:], scales[2:], strict=True))
    return all(isinstance(d, int) and (d * s) == int(d * s) for d, s in pairs)


def _scales(op: Op, blobs: Blobs) -> list[float] | None:
    tensor = op.inputs[2] if len(op.inputs) > 2 else op.inputs[1] if blobs.network.opset < 11 else None
    data = None if tensor is None else tensor.data
    return None if data is None or data.size != 4 else [float(v) for v in data.ravel()]


def _check_resize(op: Op, mode: str, how: str, whole: bool) -> None:
    rounding = str(op.attributes.get("nearest_mode", "round_prefer_floor"))
    floor = how == "asymmetric" and rounding == "floor"
    middle = whole and how == "half_pixel" and rounding.startswith("round")  # the same pixel, scaled by a whole number
    if mode == "nearest" and not (floor or middle):
        raise refuse(op, f"TNN has no nearest neighbour by '{how}' and '{rounding}'")
    if mode == "linear" and how not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise refuse(op, f"TNN does not interpolate by '{how}'")


def pad(op: Op, blobs: Blobs) -> None:
    """Pad by known amounts."""
    x, *rest = op.inputs
    assert x is not None
    rank, mode = len(blobs.dims(x, op)), str(op.attributes.get("mode", "constant"))
    amounts, named = fixed(op, 1, "pads", blobs), fixed(op, 3, "axes", blobs)
    filling = rest[1] if len(rest) > 1 else None
    if amounts is None or mode not in PADS or (filling is not None and filling.constant is None):
        raise refuse(op, "how far it pads, or with what, is computed")
    value = float(op.attributes.get("value", 0.0)) if filling is None else float(blobs.values(filling).ravel()[0])
    axes = [a % rank for a in (range(rank) if named is None else named)]
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = amounts[i], amounts[i + len(axes)]
    if min((*before, *after)) < 0 or (mode != "constant" and (rank != 4 or any((*before[:2], *after[:2])))):
        raise refuse(op, "it pads by less than nothing, or repeats along other axes than those of a picture")
    if rank == 4 and not before[0] and not after[0]:
        ends = [n for i in (2, 3, 1) for n in (before[i], after[i])]
        one(op, blobs, "Pad", (0, 0, *ends, PADS[mode], value))
        return
    one(op, blobs, "PadV2", (rank, *before, *after, PADS[mode], value))
