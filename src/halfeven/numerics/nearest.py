"""Resizing by the nearest neighbour: which input each output shows, along one axis.

    coordinate_transformation_mode     where output i lies in the input, in float32
    half_pixel                         (i + 1/2) / scale - 1/2
    pytorch_half_pixel                 the same, but 0 where there is one output
    asymmetric                         i / scale
    align_corners                      i (size - 1) / (outputs - 1), or 0 where there is one output
    half_pixel_symmetric               half_pixel, moved so that the middles of both meet

    nearest_mode                       round_prefer_floor (a tie goes down), round_prefer_ceil, floor, ceil

then limited to 0 .. size - 1. There are floor(size * scale) outputs. As ONNX Runtime computes it, in float32.

Source: ONNX operator Resize; ONNX Runtime onnxruntime/core/providers/cpu/tensor/upsamplebase.h.
"""

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption

COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def resized(size: int, scale: float) -> int:
    """The number of outputs of an axis."""
    return int(np.floor(np.float32(size) * np.float32(scale)))


def nearest_positions(
    size: int, outputs: int, scale: float, coordinates: str = "half_pixel", rounding: str = "round_prefer_floor"
) -> npt.NDArray[np.int64]:
    """The input, 0 .. `size` - 1, that each of the `outputs` shows.

    Raises:
        BadOption: the coordinates or the rounding are not in the table.
    """
    if coordinates not in COORDINATES or rounding not in ROUNDINGS:
        raise BadOption(
            f"Resize to the nearest by '{coordinates}' and '{rounding}': there are {', '.join(COORDINATES)}, and "
            f"{', '.join(ROUNDINGS)}."
        )
    at = _coordinates(size, outputs, np.float32(scale), coordinates)
    below = np.floor(at)
    if rounding == "floor":
        found = below
    elif rounding == "ceil":
        found = np.ceil(at)
    else:
        up = at - below >= np.float32(0.5) if rounding == "round_prefer_ceil" else at - below > np.float32(0.5)
        found = below + up
    return np.clip(found, 0, size - 1).astype(np.int64)


def _coordinates(size: int, outputs: int, scale: np.float32, mode: str) -> npt.NDArray[np.float32]:
    i, half = np.arange(outputs, dtype=np.float32), np.float32(0.5)
    if mode == "asymmetric":
        return np.asarray(i / scale, np.float32)
    if outputs == 1 and mode in ("align_corners", "pytorch_half_pixel"):
        return np.zeros(1, np.float32)
    if mode == "align_corners":
        return np.asarray(i * np.float32(size - 1) / np.float32(outputs - 1), np.float32)
    middle = np.float32(0)
    if mode == "half_pixel_symmetric":
        ratio = np.float32(outputs) / (scale * np.float32(size))
        middle = np.float32(size) / np.float32(2) * (np.float32(1) - ratio)
    return np.asarray(middle + (i + half) / scale - half, np.float32)
