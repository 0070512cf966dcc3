"""ONNX Resize and the recurrent layers as PyTorch functions.

Resize works on one axis after the other: the coordinate in the input of each output element by
`coordinate_transformation_mode`, then the nearest element, or two neighbours weighed by their distance.

LSTM, GRU and RNN run step by step, with gates in ONNX' order (i o f c; z r h), so that each product may be quantized.
"""

import math
from collections.abc import Callable
from typing import Any

from halfeven.errors import UnsupportedModel
from halfeven.training.operators_pointwise import Attributes, Operator, integers
from halfeven.training.pytorch import Tensor, torch

F = torch.nn.functional


def _word(attributes: Attributes, name: str, default: str) -> str:
    value = attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


# ------------------------------------------------------------------------------------------------------ resize


def _resize(
    attributes: Attributes,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    mode = _word(attributes, "mode", "nearest")
    axes = [int(a) % x.ndim for a in attributes.get("axes", range(x.ndim))]
    wanted, given = integers(sizes), [] if scales is None else [float(s) for s in scales.reshape(-1).tolist()]
    if _word(attributes, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnsupportedModel("A Resize that keeps the aspect ratio was found; training knows it only stretching.")
    if attributes.get("antialias", 0) or attributes.get("exclude_outside", 0):
        raise UnsupportedModel("A Resize with antialias or exclude_outside was found; training knows it without.")
    for i, axis in enumerate(axes):
        size = x.shape[axis]
        length = wanted[i] if wanted else math.floor(size * given[i])
        scale = length / size if wanted else given[i]
        if length == size and scale == 1.0:
            continue
        at = _coordinates(attributes, length, size, scale, x.device)
        if mode == "nearest":
            x = _pick_nearest(attributes, x, axis, at)
        else:
            a = float(attributes.get("cubic_coeff_a", -0.75))
            x = _pick_linear(x, axis, at) if mode == "linear" else _pick_cubic(x, axis, at, a)
    return x


def _coordinates(attributes: Attributes, length: int, size: int, scale: float, device: Any) -> Tensor:
    out = torch.arange(length, dtype=torch.float32, device=device)
    match _word(attributes, "coordinate_transformation_mode", "half_pixel"):
        case "asymmetric":
            return out / scale
        case "align_corners":
            return out * ((size - 1) / (size * scale - 1)) if size * scale != 1 else out * 0
        case "pytorch_half_pixel" if length == 1:
            return out * 0
        case "half_pixel" | "pytorch_half_pixel":
            return (out + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            centre = size / 2 * (1 - length / (size * scale))
            return centre + (out + 0.5) / scale - 0.5
        case other:
            raise UnsupportedModel(f"A Resize with coordinates '{other}' was found; training has no such.")


NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _pick_nearest(attributes: Attributes, x: Tensor, axis: int, at: Tensor) -> Tensor:
    rule = NEAREST[_word(attributes, "nearest_mode", "round_prefer_floor")]
    return x.index_select(axis, rule(at).long().clamp(0, x.shape[axis] - 1))


def _pick_linear(x: Tensor, axis: int, at: Tensor) -> Tensor:
    at = at.clamp(0, x.shape[axis] - 1)
    low = at.floor()
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    first = x.index_select(axis, low.long())
    second = x.index_select(axis, (low.long() + 1).clamp(max=x.shape[axis] - 1))
    return first * (1 - share) + second * share


def _pick_cubic(x: Tensor, axis: int, at: Tensor, a: float) -> Tensor:
    """Keys' kernel over four neighbours; those outside are the nearest inside."""
    low = at.floor()
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    total: Tensor = 0.0
    for offset in (-1, 0, 1, 2):
        d = (at - (low + offset)).abs()
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((d - 5) * d + 8) * d * a - 4 * a
        weight = torch.where(d <= 1, near, far).reshape(shape)
        total = total + x.index_select(axis, (low + offset).long().clamp(0, x.shape[axis] - 1)) * weight
    return total


# ---------------------------------------------------------------------------------------------------- recurrent


def _lstm_step(w: Tensor, r: Tensor, bw: Tensor, br: Tensor, attributes: Attributes) -> Callable[..., Any]:
    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = F.linear(x, w, bw) + F.linear(h, r, br)
        i, o, f, g = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    return step


def _gru_step(w: Tensor, r: Tensor, bw: Tensor, br: Tensor, attributes: Attributes) -> Callable[..., Any]:
    before = bool(attributes.get("linear_before_reset", 0))
    rz, rr, rh = r.chunk(3, 0)
    bz, b_r, bh = br.chunk(3, -1)

    def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        xz, xr, xh = F.linear(x, w, bw).chunk(3, -1)
        z = (xz + F.linear(h, rz, bz)).sigmoid()
        reset = (xr + F.linear(h, rr, b_r)).sigmoid()
        new = xh + (reset * F.linear(h, rh, bh) if before else F.linear(reset * h, rh, bh))
        return (1 - z) * new.tanh() + z * h, c

    return step


def _rnn_step(w: Tensor, r: Tensor, bw: Tensor, br: Tensor, attributes: Attributes) -> Callable[..., Any]:
    return lambda x, h, c: ((F.linear(x, w, bw) + F.linear(h, r, br)).tanh(), c)


def _recurrent(make: Callable[..., Callable[..., Any]], gates: int) -> Operator:
    """A layer from its step; inputs X, W, R, B, lengths, first state, first cell."""

    def run(attributes: Attributes, x: Tensor, weight: Tensor, recurrence: Tensor, *more: Tensor | None) -> Any:
        bias, lengths, h0, c0, *peepholes = (*more, *[None] * 5)[:5]
        if any(p is not None for p in peepholes) or attributes.get("activations") not in (None, *_usual(gates)):
            raise UnsupportedModel("A recurrent layer with peepholes or activations of its own cannot be trained.")
        x = x.transpose(0, 1) if attributes.get("layout", 0) else x
        if lengths is not None and bool((lengths != x.shape[0]).any()):
            raise UnsupportedModel("A recurrent layer with sequences of several lengths cannot be trained.")
        size, both = recurrence.shape[-1], weight.shape[0]
        blank = torch.zeros(both, 2 * gates * size, dtype=x.dtype, device=x.device)
        zero = torch.zeros(both, x.shape[1], size, dtype=x.dtype, device=x.device)
        first, cell = (
            zero if s is None else (s.transpose(0, 1) if attributes.get("layout", 0) else s) for s in (h0, c0)
        )
        outs, hs, cs = [], [], []
        for d in range(both):
            bw, br = (blank if bias is None else bias)[d].chunk(2)
            step, h, c = make(weight[d], recurrence[d], bw, br, attributes), first[d], cell[d]
            backward = d == 1 or _word(attributes, "direction", "forward") == "reverse"
            rows = []
            for t in reversed(range(x.shape[0])) if backward else range(x.shape[0]):
                h, c = step(x[t], h, c)
                rows.append(h)
            outs.append(torch.stack(rows[::-1] if backward else rows))
            hs.append(h)
            cs.append(c)
        y, last, cells = torch.stack(outs, 1), torch.stack(hs), torch.stack(cs)
        if attributes.get("layout", 0):
            y, last, cells = y.permute(2, 0, 1, 3), last.transpose(0, 1), cells.transpose(0, 1)
        return (y, last, cells) if gates == 4 else (y, last)

    return run


def _usual(gates: int) -> list[list[str]]:
    """The activations that a layer has by default, for one direction and for two."""
    names = {4: ["Sigmoid", "Tanh", "Tanh"], 3: ["Sigmoid", "Tanh"], 1: ["Tanh"]}[gates]
    return [names, names * 2]


SEQUENCES: dict[str, Operator] = {
    "Resize": _resize,
    "Upsample": lambda attributes, x, scales: _resize(
        {**attributes, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, x, None, scales
    ),
    "LSTM": _recurrent(_lstm_step, 4),
    "GRU": _recurrent(_gru_step, 3),
    "RNN": _recurrent(_rnn_step, 1),
}
