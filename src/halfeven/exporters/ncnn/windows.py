"""Pools, Resize and Pad: operators on windows of an image; `moves` lists ncnn's parameters."""

from halfeven.exporters.computed_shapes import fixed
from halfeven.exporters.ncnn.blobs import Blobs, View, refuse
from halfeven.exporters.ncnn.moves import KINDS, PADS, Params
from halfeven.graph.network import Op

EXPLICIT, UPPER, LOWER = 1, 2, 3


def pool(op: Op, blobs: Blobs) -> None:
    """MaxPool and AveragePool of two axes."""
    x = op.inputs[0]
    assert x is not None
    view = blobs.view(x)
    get = op.attributes.get
    kernel = [int(k) for k in op.attributes["kernel_shape"]]
    strides = [int(s) for s in get("strides", (1,) * len(kernel))]
    pads = [int(p) for p in get("pads", (0,) * 2 * len(kernel))]
    if len(kernel) != 2 or get("ceil_mode", 0) or set(get("dilations", (1,))) != {1} or len(op.outputs) > 1:
        raise refuse(op, "only windows over two axes, without gaps, ceil_mode and indices, are written")
    auto = str(get("auto_pad", "NOTSET") or "NOTSET")
    mode = {"SAME_UPPER": UPPER, "SAME_LOWER": LOWER}.get(auto, EXPLICIT)
    params: Params = {0: int(op.kind == "AveragePool"), 1: kernel[1], 2: strides[1], 3: pads[1], 5: mode}
    params |= {
        6: int(get("count_include_pad", 0)),
        11: kernel[0],
        12: strides[0],
        13: pads[0],
        14: pads[3],
        15: pads[2],
    }
    [top] = blobs.emit("Pooling", op.name, [blobs.real(x)], params)
    lengths = [
        None if d is None else -(-d // s) if mode != EXPLICIT else (d + pads[i] + pads[i + 2] - k) // s + 1
        for i, (d, k, s) in enumerate(zip(view.dims[2:], kernel, strides, strict=True))
    ]
    blobs.give(op.outputs[0], top, View((*view.dims[:2], *lengths), view.batch), op.clamp)


def global_pool(op: Op, blobs: Blobs) -> None:
    """GlobalAveragePool and GlobalMaxPool; of ncnn's one axis, three are made again."""
    x = op.inputs[0]
    assert x is not None
    view = blobs.view(x)
    if len(view.blob) != 3:
        raise refuse(op, "only images of two axes are pooled")
    params: Params = {0: int(op.kind == "GlobalAveragePool"), 4: 1}
    [pooled] = blobs.emit("Pooling", op.name, [blobs.real(x)], params)
    [top] = blobs.emit("Reshape", f"{op.name}_axes", [pooled], {0: 1, 1: 1, 2: -1})
    blobs.give(op.outputs[0], top, View((*view.dims[:2], 1, 1), view.batch), op.clamp)


def resize(op: Op, blobs: Blobs) -> None:
    """Resize of the two axes of an image."""
    x = op.inputs[0]
    assert x is not None
    view, get = blobs.view(x), op.attributes.get
    mode = str(get("mode", "nearest"))
    how = str(get("coordinate_transformation_mode", "half_pixel"))
    scales = _scales(op, blobs)
    sizes = fixed(op, 3, "sizes", blobs) if scales is None else None
    target = [float(n) for n in sizes] if sizes is not None else scales
    axes = [int(a) for a in get("axes", range(len(view.dims)))]
    if len(view.blob) != 3 or mode not in KINDS or target is None:
        raise refuse(op, "only the two axes of an image are resized, by constant scales or to constant lengths")
    given = dict(zip(axes, target, strict=True))
    same = [1.0 if scales is not None else float(d or 1) for d in view.dims[:2]]
    if any(given.get(i, same[i]) not in (same[i], 1.0) for i in (0, 1)) or not {2, 3} <= set(given):
        raise refuse(op, "it resizes other axes than the last two")
    high, wide = given[2], given[3]
    _check_resize(op, mode, how, scales is not None and high == int(high) and wide == int(wide))
    params: Params = {0: KINDS[mode], 6: int(how == "align_corners")}
    params |= {1: high, 2: wide} if scales is not None else {3: int(high), 4: int(wide)}
    [top] = blobs.emit("Interp", op.name, [blobs.real(x)], params)
    ends = [
        int(length) if scales is None else None if (d := view.dims[i]) is None else int(d * length)
        for i, length in ((2, high), (3, wide))
    ]
    blobs.give(op.outputs[0], top, View((*view.dims[:2], *ends), view.batch), op.clamp)


def _scales(op: Op, blobs: Blobs) -> list[float] | None:
    tensor = op.inputs[2] if len(op.inputs) > 2 else op.inputs[1] if blobs.network.opset < 11 else None
    data = None if tensor is None else tensor.data
    return None if data is None or not data.size else [float(v) for v in data.ravel()]


def _check_resize(op: Op, mode: str, how: str, whole: bool) -> None:
    """Nearest reads at floor(y / scale) if nearest, else between the centres of pixels, or of the corners."""
    rounding = str(op.attributes.get("nearest_mode", "round_prefer_floor"))
    floor = how == "asymmetric" and rounding == "floor"
    middle = whole and how == "half_pixel" and rounding.startswith("round")  # the same pixel, scaled by a whole number
    if mode == "nearest" and not (floor or middle):
        raise refuse(op, f"ncnn has no nearest neighbour by '{how}' and '{rounding}'")
    if mode != "nearest" and how not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise refuse(op, f"ncnn does not interpolate by '{how}'")
    if mode == "cubic" and float(op.attributes.get("cubic_coeff_a", -0.75)) != -0.75:
        raise refuse(op, "ncnn's cubic coefficient is -0.75")


def pad(op: Op, blobs: Blobs) -> None:
    """Pad of the axes beside the batch."""
    x, *rest = op.inputs
    assert x is not None
    view, rank = blobs.view(x), len(blobs.view(x).dims)
    filling = rest[1] if len(rest) > 1 else None
    mode, value = str(op.attributes.get("mode", "constant")), 0.0
    amounts, named = fixed(op, 1, "pads", blobs), fixed(op, 3, "axes", blobs)
    if amounts is None or mode not in PADS or (filling is not None and filling.constant is None):
        raise refuse(op, "how far it pads, or with what, is computed")
    if filling is not None:
        value = float(blobs.values(filling).ravel()[0])
    axes = [a % rank for a in (range(rank) if named is None else named)]
    half = len(amounts) // 2
    each = {view.axis(a): (amounts[i], amounts[i + half]) for i, a in enumerate(axes)}
    if any(each.get(None, (0, 0))) or len(view.blob) > 3 or min(map(min, each.values())) < 0:
        raise refuse(op, "it pads the batch, more than three axes, or by less than nothing")
    front, top, left = (each.get(len(view.blob) - n, (0, 0)) for n in (3, 2, 1))
    params: Params = {0: top[0], 1: top[1], 2: left[0], 3: left[1], 4: PADS[mode], 5: value, 7: front[0], 8: front[1]}
    [made] = blobs.emit("Padding", op.name, [blobs.real(x)], params)
    dims = list(view.dims)
    for i, axis in enumerate(axes):
        length = dims[axis]
        dims[axis] = None if length is None else length + amounts[i] + amounts[i + half]
    blobs.give(op.outputs[0], made, View(tuple(dims), view.batch), op.clamp)
