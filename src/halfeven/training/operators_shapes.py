"""ONNX operators that make shapes, move elements about or pick some, as PyTorch functions.

Shapes are int64 tensors on the CPU, so that reading them waits for no device.
"""

from typing import Any

from halfeven.errors import UnsupportedModel
from halfeven.training.operators_pointwise import Attributes, Operator, integers, together
from halfeven.training.pytorch import Tensor, torch

F = torch.nn.functional


def _shape(attributes: Attributes, x: Tensor) -> Tensor:
    dims = list(x.shape)[attributes.get("start", 0) : attributes.get("end")]
    return torch.tensor(dims, dtype=torch.int64)


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = integers(shape)
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = int(attributes.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    return x.reshape(rows, -1) if x.numel() else x.reshape(rows, int(x[:1].numel()) if axis == 1 else 0)


def _axes(attributes: Attributes, axes: Tensor | None) -> list[int]:
    return integers(axes) or [int(a) for a in attributes.get("axes", [])]


def _squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attributes, axes)
    return x.squeeze(tuple(chosen)) if chosen else x.squeeze()


def _unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attributes, axes)
    rank = x.ndim + len(chosen)
    for axis in sorted(a % rank for a in chosen):
        x = x.unsqueeze(axis)
    return x


def _transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(tuple(attributes.get("perm", range(x.ndim - 1, -1, -1))))


def _concat(attributes: Attributes, *inputs: Tensor) -> Tensor:
    return torch.cat(together(*inputs), int(attributes["axis"]))


def _split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, given = int(attributes.get("axis", 0)), integers(sizes) or list(attributes.get("split", []))
    if given:
        return tuple(x.split(given, axis))
    count = int(attributes.get("num_outputs", attributes["outputs"]))
    return tuple(x.split(-(-x.shape[axis] // count), axis))


def _slice(attributes: Attributes, x: Tensor, *bounds: Tensor | None) -> Tensor:
    if not bounds:
        starts, ends = list(attributes["starts"]), list(attributes["ends"])
        axes, steps = list(attributes.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends, axes, steps = (integers(b) for b in (*bounds, None, None)[:4])
        axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _cut(x, start, end, axis, step)
    return x


def _cut(x: Tensor, start: int, end: int, axis: int, step: int) -> Tensor:
    size = x.shape[axis]
    if step > 0:
        begin, stop, _ = slice(start, end).indices(size)
        index: list[Any] = [slice(None)] * x.ndim
        index[axis] = slice(begin, max(stop, begin), step)
        return x[tuple(index)]
    places = list(range(size))[slice(start, end if end >= -size else None, step)]
    return x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))


def _gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = int(attributes.get("axis", 0)) % x.ndim
    at = torch.where(indices < 0, indices + x.shape[axis], indices).to(x.device)
    taken = x.index_select(axis, at.reshape(-1))
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_elements(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = int(attributes.get("axis", 0)) % x.ndim
    indices = indices.to(x.device)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _gather_nd(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if attributes.get("batch_dims", 0):
        raise UnsupportedModel("GatherND with batch_dims was found; training knows it without.")
    indices = indices.to(x.device)
    return x[tuple(indices[..., i] for i in range(indices.shape[-1]))]


def _scatter_nd(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    kind = attributes.get("reduction", "none")
    if kind not in ("none", "add"):
        raise UnsupportedModel(f"ScatterND with reduction {kind!r} was found; training knows none and add.")
    indices = indices.to(x.device)
    at = tuple(indices[..., i] for i in range(indices.shape[-1]))
    return x.index_put(at, updates.to(x.device), accumulate=kind == "add")


def _scatter_elements(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = int(attributes.get("axis", 0)) % x.ndim
    indices = indices.to(x.device)
    at = torch.where(indices < 0, indices + x.shape[axis], indices)
    kind = attributes.get("reduction", "none")
    if kind not in ("none", "add"):
        raise UnsupportedModel(f"ScatterElements with reduction {kind!r} was found; training knows none and add.")
    return x.scatter_add(axis, at, updates) if kind == "add" else x.scatter(axis, at, updates)


def _expand(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = integers(shape)
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(wanted)))


def _tile(attributes: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats))


PADDING = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(
    attributes: Attributes,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    widths = integers(pads) or [int(p) for p in attributes.get("pads", [])]
    chosen = [a % x.ndim for a in integers(axes)] or list(range(x.ndim))
    around = [(0, 0)] * x.ndim
    for i, axis in enumerate(chosen):
        around[axis] = widths[i], widths[len(chosen) + i]
    mode = attributes.get("mode", "constant")
    mode = PADDING[mode.decode() if isinstance(mode, bytes) else mode]
    if mode == "constant":
        fill = float(attributes.get("value", 0.0)) if value is None or not value.numel() else value.item()
        return F.pad(x, [width for pair in reversed(around) for width in pair], value=fill)
    return _mirror(x, around, mode)


def _mirror(x: Tensor, around: list[tuple[int, int]], mode: str) -> Tensor:
    """Pad axis by axis by picking elements, as `pad` of PyTorch has these modes for some ranks only."""
    for axis, (before, after) in enumerate(around):
        if before or after:
            size, at = x.shape[axis], torch.arange(-before, x.shape[axis] + after, device=x.device)
            if mode == "replicate":
                at = at.clamp(0, size - 1)
            elif mode == "circular":
                at = at % size
            elif size > 1:
                at = (at % (2 * size - 2)).abs()
                at = torch.where(at >= size, 2 * size - 2 - at, at)
            else:
                at = at * 0
            x = x.index_select(axis, at)
    return x


def _constant_of_shape(attributes: Attributes, shape: Tensor) -> Tensor:
    value = attributes.get("value")
    fill = torch.zeros(1) if value is None else value
    return fill.reshape(()).expand(integers(shape)).clone()


def _range(attributes: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _one_hot(attributes: Attributes, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count = int(depth.reshape(-1)[0])
    off, on = values[0], values[1]
    axis = int(attributes.get("axis", -1))
    places = torch.arange(count, device=indices.device)
    at = indices.long()
    hot = torch.where(at < 0, at + count, at).unsqueeze(-1) == places
    out = torch.where(hot, on.to(indices.device), off.to(indices.device))
    return out.movedim(-1, axis) if axis != -1 else out


def _top_k(attributes: Attributes, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    axis, largest = int(attributes.get("axis", -1)), bool(attributes.get("largest", 1))
    values, indices = x.sort(dim=axis, descending=largest, stable=True)  # of equal values the first counts
    count = int(k.reshape(-1)[0])
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _trilu(attributes: Attributes, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return x.triu(diagonal) if attributes.get("upper", 1) else x.tril(diagonal)


def _depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b, mode = int(attributes["blocksize"]), attributes.get("mode", "DCR")
    if mode in ("CRD", b"CRD"):
        parts = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // (b * b), h * b, w * b)


def _space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b, mode = int(attributes["blocksize"]), attributes.get("mode", "DCR")
    order = (0, 1, 3, 5, 2, 4) if mode in ("CRD", b"CRD") else (0, 3, 5, 1, 2, 4)
    parts = x.reshape(n, c, h // b, b, w // b, b).permute(order)
    return parts.reshape(n, c * b * b, h // b, w // b)


def _dropout(
    attributes: Attributes, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    if training is not None and bool(training):
        raise UnsupportedModel("A Dropout in training mode was found; export the network for inference.")
    return x, torch.ones_like(x, dtype=torch.bool)


SHAPES: dict[str, Operator] = {
    "Identity": lambda attributes, x: x,
    "Dropout": _dropout,
    "Shape": _shape,
    "Size": lambda attributes, x: torch.tensor(x.numel(), dtype=torch.int64),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "OneHot": _one_hot,
    "TopK": _top_k,
    "Trilu": _trilu,
    "NonZero": lambda attributes, x: x.nonzero().t().cpu(),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
