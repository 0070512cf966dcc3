"""Resize: by LiteRT's own operators where they read the same places as ONNX, nearest else by GATHER.

    where an output place o reads the input, x(o), with scale = out / in

    ONNX      half_pixel (o + .5) / scale - .5    asymmetric o / scale    align_corners o * (in - 1) / (out - 1)
    LiteRT    half_pixel_centers                  neither flag            align_corners
    nearest   ONNX: round_prefer_floor ceil(x - .5), round_prefer_ceil floor(x + .5), floor, ceil
              LiteRT: floor(x) asymmetric, floor(x + .5) half pixel, round(x) with corners aligned

For nearest the places are computed by both rules and compared, so that LiteRT's operator is used exactly where it gives
the same. Linear is taken where scale is out / in; cubic, antialiasing and cropping have no form in LiteRT.
Sources: ONNX operator Resize; TensorFlow Lite reference/resize_nearest_neighbor.h, resize_bilinear.h.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from halfeven.exporters.litert.builder import Builder
from halfeven.exporters.litert.layout import channels_last
from halfeven.exporters.litert.moving import first, given, pick
from halfeven.exporters.litert.windows import FixedLengthError, ints, refuse, text
from halfeven.graph.network import Op

Places = npt.NDArray[np.int64]
MODES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


def resize(b: Builder, op: Op) -> None:
    """Resize and Upsample."""
    x = first(op)
    dims, out = b.dims(x), b.dims(op.outputs[0])
    rank = dims.rank
    mode = text(op, "mode", "nearest")
    coordinates = text(op, "coordinate_transformation_mode", "half_pixel" if op.kind == "Resize" else "asymmetric")
    axes = [a for a in range(rank) if dims.sizes[a] != out.sizes[a]]
    if dims.open != out.open or dims.open not in (None, 0):
        raise FixedLengthError(f"{op.kind} '{op.name}'")
    if mode not in ("nearest", "linear") or coordinates not in MODES or op.attributes.get("antialias", 0):
        raise refuse(op, f"LiteRT resizes nearest and linear, without cropping and antialiasing, not {mode} "
                         f"{coordinates}.")  # fmt: skip
    scales = _scales(op, rank, dims.sizes, out.sizes)
    if not axes:
        b.wires[op.outputs[0].name] = b.wire(x)
    elif mode == "nearest":
        _nearest(b, op, axes, scales, coordinates)
    else:
        _linear(b, op, axes, scales, coordinates)


def _scales(op: Op, rank: int, sizes: Sequence[int], out: Sequence[int]) -> list[float]:
    """Scale of each axis: as given, else out / in."""
    port = 1 if op.kind == "Upsample" else 2
    told = given(op, port, "scales") if len(op.inputs) > port else None
    axes = ints(op, "axes", range(rank))
    found = [o / i for i, o in zip(sizes, out, strict=True)]
    if told is not None and told.size:
        for axis, scale in zip(axes, told.ravel(), strict=True):
            found[axis % rank] = float(scale)
    return found


def _nearest(b: Builder, op: Op, axes: Sequence[int], scales: Sequence[float], coordinates: str) -> None:
    dims, out = b.dims(first(op)), b.dims(op.outputs[0])
    rule = text(op, "nearest_mode", "round_prefer_floor" if op.kind == "Resize" else "floor")
    places = {a: _places(dims.sizes[a], out.sizes[a], scales[a], coordinates, rule) for a in axes}
    if dims.rank == 4 and set(axes) <= {2, 3}:
        for corners, half in ((False, False), (False, True), (True, False)):
            if all((_litert(dims.sizes[a], out.sizes[a], corners, half) == p).all() for a, p in places.items()):
                _emit(b, op, "RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions", corners=corners, half=half)
                return
    wire = b.wire(first(op))
    index = wire.index
    for number, (axis, chosen) in enumerate(places.items()):
        place, entries = wire.order.index(axis), [int(p) for p in chosen]
        if number < len(places) - 1:
            index = pick(b, index, place, entries, f"{op.name}_axis_{axis}")
        else:
            made = b.output(op.outputs[0], wire.order)
            b.emit("GATHER", [index, b.numbers(entries, "indices")], [made], "GatherOptions", axis=place)


def _linear(b: Builder, op: Op, axes: Sequence[int], scales: Sequence[float], coordinates: str) -> None:
    dims, out = b.dims(first(op)), b.dims(op.outputs[0])
    exact = all(abs(scales[a] * dims.sizes[a] - out.sizes[a]) < 1e-4 for a in axes)
    if dims.rank != 4 or not set(axes) <= {2, 3} or (not exact and coordinates != "align_corners"):
        raise refuse(op, "LiteRT's RESIZE_BILINEAR scales height and width by the ratio of their sizes only.")
    if coordinates == "pytorch_half_pixel" and 1 in (out.sizes[2], out.sizes[3]):
        raise refuse(op, "LiteRT has no pytorch_half_pixel to a size of 1.")
    half, corners = coordinates.endswith("half_pixel"), coordinates == "align_corners"
    _emit(b, op, "RESIZE_BILINEAR", "ResizeBilinearOptions", corners=corners, half=half)


def _emit(b: Builder, op: Op, code: str, options: str, *, corners: bool, half: bool) -> None:
    order = channels_last(4)
    wire = b.operand(first(op), order)
    size = b.numbers(b.dims(op.outputs[0]).sizes[2:], "size")
    made = b.output(op.outputs[0], order)
    b.emit(code, [wire.index, size], [made], options, alignCorners=corners, halfPixelCenters=half)


def _places(size: int, out: int, scale: float, coordinates: str, rule: str) -> Places:
    """Which input place each output place takes, by ONNX."""
    o, scale = np.arange(out, dtype=np.float32), float(np.float32(scale))
    if coordinates == "align_corners":
        x = o * np.float32(size - 1) / np.float32(max(out - 1, 1)) if out > 1 else np.zeros(out, np.float32)
    elif coordinates == "asymmetric":
        x = o / np.float32(scale)
    else:
        x = (o + np.float32(0.5)) / np.float32(scale) - np.float32(0.5)
        if coordinates == "pytorch_half_pixel" and out == 1:
            x = np.zeros(out, np.float32)
    half = np.float32(0.5)
    match rule:
        case "floor":
            chosen = np.floor(x)
        case "ceil":
            chosen = np.ceil(x)
        case "round_prefer_ceil":
            chosen = np.floor(x + half)
        case _:
            chosen = np.ceil(x - half)
    return np.asarray(np.clip(chosen, 0, size - 1), np.int64)


def _litert(size: int, out: int, corners: bool, half: bool) -> Places:
    """The same by LiteRT."""
    scale = np.float32((size - 1) / (out - 1)) if corners and out > 1 else np.float32(size) / np.float32(out)
    x = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * scale
    whole = np.floor(x + np.float32(0.5)) if corners else np.floor(x)
    return np.asarray(np.clip(whole, 0, size - 1), np.int64)
