"""Operators in real numbers as XNNPACK's backend takes them whole, and what of an operator's inputs is a setting.

    HardSwish, Gelu, ...    `training.operators` have them
    Resize                  linear, of pictures, as one upsampling; nearest by whole factors too. Others gather places
    AveragePool             one pooling where the pads count, or are the same on both sides
    Pad                     with a constant; others gather places

A setting (a shape, axes, bounds) is no tensor of the program: it is given as a NumPy array or a number.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from halfeven.graph.network import Op
from halfeven.training.operators import OPERATORS
from halfeven.training.operators_pointwise import Attributes, Operator
from halfeven.training.pytorch import Tensor, torch

F = torch.nn.functional
SETTINGS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "Split", "Trilu", "CumSum", "TopK"), (1,)),
    "Slice": (1, 2, 3, 4),
    **dict.fromkeys(("Pad", "Resize"), (1, 2, 3)),
    **dict.fromkeys(("Clip", "Dropout"), (1, 2)),
    "Upsample": (1,),
    "ConstantOfShape": (0,),
    **dict.fromkeys((name for name in OPERATORS if name.startswith("Reduce")), (1,)),
}
NEAREST = frozenset(
    {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
)
"""Coordinates and rules that give each element `factor` times, for whole factors."""


def setting(op: Op, port: int) -> Any:
    """The value of an input that is a setting: numbers of one element as Python has them; None if it is a tensor."""
    tensor = op.inputs[port] if port < len(op.inputs) else None
    if tensor is None or tensor.constant is None or port not in SETTINGS.get(op.kind, ()):
        return None
    values = tensor.values
    assert values is not None
    return float(values.ravel()[0]) if values.dtype.kind == "f" and values.size == 1 else np.array(values)


def _word(attributes: Attributes, name: str, default: str) -> str:
    value = attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _resize(attributes: Attributes, x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
    """One upsampling, where PyTorch has the same."""
    plain = OPERATORS["Resize"](attributes, x, roi, scales, sizes)
    mode, how = _word(attributes, "mode", "nearest"), _word(attributes, "coordinate_transformation_mode", "half_pixel")
    if x.ndim != 4 or plain.shape[:2] != x.shape[:2] or attributes.get("antialias", 0):
        return plain
    factors = [m / n for m, n in zip(plain.shape[2:], x.shape[2:], strict=True)]
    given = factors if scales is None or not np.size(scales) else [float(s) for s in np.ravel(scales)[-2:]]
    whole = all(f == int(f) for f in factors) and given == factors
    if mode == "nearest" and whole and (how, _word(attributes, "nearest_mode", "round_prefer_floor")) in NEAREST:
        return F.interpolate(x, scale_factor=factors, mode="nearest")
    if mode == "linear" and given == factors and how in ("half_pixel", "align_corners") and min(plain.shape[2:]) > 1:
        return F.interpolate(x, plain.shape[2:], mode="bilinear", align_corners=how == "align_corners")
    return plain


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    """One pooling of pictures, where both sides have the same pads."""
    kernel, pads = list(attributes["kernel_shape"]), list(attributes.get("pads", (0,) * 4))
    dilated = set(attributes.get("dilations", (1,))) != {1}
    odd = dilated or attributes.get("ceil_mode", 0) or _word(attributes, "auto_pad", "NOTSET") != "NOTSET"
    if x.ndim != 4 or odd or pads[:2] != pads[2:]:
        return OPERATORS["AveragePool"](attributes, x)
    strides = list(attributes.get("strides", (1, 1)))
    return F.avg_pool2d(x, kernel, strides, pads[:2], count_include_pad=bool(attributes.get("count_include_pad", 0)))


def _pad(attributes: Attributes, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    if _word(attributes, "mode", "constant") != "constant":
        return OPERATORS["Pad"](attributes, x, pads, None, axes)
    fill = attributes.get("value", 0.0) if value is None or not np.size(value) else np.ravel(value)[0]
    return OPERATORS["Pad"]({**attributes, "value": float(fill)}, x, pads, None, axes)


def _prelu(attributes: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    channels = slope.numel() in (1, x.shape[1] if x.ndim > 1 else 1) and slope.numel() == max(slope.shape, default=1)
    along = x.ndim > 1 and (slope.numel() == 1 or (slope.ndim == x.ndim - 1 and slope.shape[0] == x.shape[1]))
    return F.prelu(x, slope.reshape(-1)) if channels and along else OPERATORS["PRelu"](attributes, x, slope)


REALS: Mapping[str, Operator] = {
    "Resize": _resize,
    "AveragePool": _average_pool,
    "Pad": _pad,
    "PRelu": _prelu,
    "HardSwish": lambda attributes, x: F.hardswish(x),
}
