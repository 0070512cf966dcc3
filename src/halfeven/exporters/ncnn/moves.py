"""Operators that move numbers about, and pools.

    ONNX                           ncnn
    Reshape Flatten                Reshape 0 = w, 1 = h, 11 = d, 2 = c; one length may be -1
    Squeeze Unsqueeze              Squeeze, ExpandDims 3 = axes
    Transpose                      Permute 0 = order
    Concat, Split, Slice           Concat 0 = axis; Slice 0 = sizes, 1 = axis; Crop 9 = starts, 10 = ends, 11 = axes
    Pad                            Padding 0..3 = top, bottom, left, right, 7, 8 = front, behind, 4 = kind, 5 = value
    Resize                         Interp 0 = 1 nearest, 2 linear, 3 cubic, 1, 2 = scales, 3, 4 = lengths, 6 = corners
    MatMul of two activations      MatMul
    MaxPool AveragePool            Pooling 0 = 0 1, 1 2 3 11.. = window, 5 = 1 explicit pads, 6 = pads count
    GlobalAveragePool GlobalMax    Pooling 4 = 1, whose output has one axis, and a Reshape to (channels, 1, 1)

`Permute` knows its orders by number: `ORDERS` lists which axis of the input stands where, the innermost first.
An end of -233 of a Crop is the end of the axis. Sources: ncnn src/layer, 20261020.
"""

from math import prod

from halfeven.exporters.computed_shapes import fixed, numbers
from halfeven.exporters.ncnn.blobs import Blobs, View, refuse
from halfeven.exporters.ncnn.parts import Param
from halfeven.graph.network import Op, Tensor

Params = dict[int, Param]
KEYS = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}
ORDERS = {
    2: ("WH", "HW"),
    3: ("WHC", "HWC", "WCH", "CWH", "HCW", "CHW"),
    4: (
        *("WHDC", "HWDC", "WDHC", "DWHC", "HDWC", "DHWC", "WHCD", "HWCD", "WCHD", "CWHD", "HCWD", "CHWD"),
        *("WDCH", "DWCH", "WCDH", "CWDH", "DCWH", "CDWH", "HDCW", "DHCW", "HCDW", "CHDW", "DCHW", "CDHW"),
    ),
}
TO_THE_END = -233
FAR = 1 << 30
KINDS = {"nearest": 1, "linear": 2, "cubic": 3}
PADS = {"constant": 0, "edge": 1, "reflect": 2}


def reshape(op: Op, blobs: Blobs) -> None:
    """Reshape, Flatten."""
    x = op.inputs[0]
    assert x is not None
    view = blobs.view(x)
    target = _flattened(op, view) if op.kind == "Flatten" else numbers(op.inputs[1], blobs)
    if target is None:
        raise refuse(op, "its shape depends on the input in a way that ncnn cannot follow")
    if not op.attributes.get("allowzero", 0):
        target = [view.dims[i] if n == 0 and i != view.batch else n for i, n in enumerate(target)]
    batch = 0 if view.batch == 0 and target and _keeps_batch(view, target) else None
    dims = [None if n == -1 else n for i, n in enumerate(target) if i != batch] or [1]
    if dims.count(None) > 1 or len(dims) > 4 or 0 in dims:
        raise refuse(op, f"the shape {target} has more than one open axis, or more than four")
    known = prod(d or 1 for d in view.blob)
    whole = tuple(1 if i == batch else d for i, d in enumerate(target))
    if None not in view.blob and None in dims:
        rest = known // prod(d or 1 for d in dims)
        dims = [rest if d is None else d for d in dims]
        whole = tuple(rest if d in (None, -1) and i != batch else d for i, d in enumerate(whole))
    shape: Params = {key: -1 if d is None else d for key, d in zip(KEYS[len(dims)], dims, strict=True)}
    [top] = blobs.emit("Reshape", op.name, [blobs.real(x)], shape)
    out = tuple(None if d == -1 else d for d in whole)
    blobs.give(op.outputs[0], top, View((view.dims[0], *out[1:]) if batch == 0 else out, batch), op.clamp)


def _flattened(op: Op, view: View) -> list[int | None]:
    axis = int(op.attributes.get("axis", 1)) % (len(view.dims) + 1)
    dims = [1 if i == view.batch else d for i, d in enumerate(view.dims)]
    first, last = (None if None in part else prod(d or 1 for d in part) for part in (dims[:axis], dims[axis:]))
    return [first, last]


def _keeps_batch(view: View, target: list[int | None]) -> bool:
    """Whether the first axis of the target is the samples: all the rest fits into one of them."""
    rest = target[1:]
    if target[0] in (0, 1):
        return True
    return (
        target[0] in (-1, None)
        and -1 not in rest
        and None not in (*rest, *view.blob)
        and (prod(d or 1 for d in rest) == prod(d or 1 for d in view.blob))
    )


def identity(op: Op, blobs: Blobs) -> None:
    """What changes nothing."""
    x = op.inputs[0]
    assert x is not None
    blobs.give(op.outputs[0], blobs.real(x), blobs.view(x), op.clamp)


def squeeze(op: Op, blobs: Blobs) -> None:
    """Squeeze and Unsqueeze; of the batch axis too, as it has the length 1."""
    x = op.inputs[0]
    assert x is not None
    view = blobs.view(x)
    given, down = fixed(op, 1, "axes", blobs), op.kind == "Squeeze"
    if down and len(op.inputs) < 2 and "axes" not in op.attributes:
        given = [i for i, d in enumerate(view.dims) if d == 1 and i != view.batch]
    if given is None:
        raise refuse(op, "its axes are computed")
    rank = len(view.dims) + (0 if down else len(given))
    axes = sorted(a % rank for a in given)
    if down:
        out = View(tuple(d for i, d in enumerate(view.dims) if i not in axes), _before(view.batch, axes))
        inner = [view.axis(a) for a in axes if a != view.batch]
    else:
        rest = iter(range(len(view.dims)))
        source = [None if i in axes else next(rest) for i in range(rank)]
        batch = source.index(view.batch) if view.batch is not None else None
        out = View(tuple(1 if s is None else view.dims[s] for s in source), batch)
        inner = [out.axis(a) for a in axes]
    kept = [a for a in inner if a is not None]
    if len(view.blob) == len(kept) and down:
        kept = kept[1:]
    kind = "Squeeze" if down else "ExpandDims"
    top = blobs.emit(kind, op.name, [blobs.real(x)], {3: kept})[0] if kept else blobs.real(x)
    blobs.give(op.outputs[0], top, out, op.clamp)


def _before(batch: int | None, gone: list[int]) -> int | None:
    return None if batch is None or batch in gone else batch - sum(a < batch for a in gone)


def transpose(op: Op, blobs: Blobs) -> None:
    """Transpose; the batch may go anywhere."""
    x = op.inputs[0]
    assert x is not None
    view = blobs.view(x)
    rank = len(view.dims)
    perm = [int(p) for p in op.attributes.get("perm", range(rank)[::-1])]
    inner = [a for p in perm if (a := view.axis(p)) is not None]
    names = "CDHW" if len(inner) == 4 else "CHW"[-len(inner) :]
    wanted = "".join(names[a] for a in reversed(inner))
    out = View(tuple(view.dims[p] for p in perm), None if view.batch is None else perm.index(view.batch))
    top = blobs.real(x)
    if inner != sorted(inner):
        [top] = blobs.emit("Permute", op.name, [top], {0: ORDERS[len(inner)].index(wanted)})
    blobs.give(op.outputs[0], top, out, op.clamp)


def concat(op: Op, blobs: Blobs) -> None:
    """Concat of blobs with equally many axes."""
    tensors = [t for t in op.inputs if t is not None]
    views = [blobs.view(t) for t in tensors]
    view = next((v for t, v in zip(tensors, views, strict=True) if t.constant is None), views[0])
    axis = int(op.attributes["axis"]) % len(view.dims)
    inner = view.axis(axis)
    if inner is None:
        raise refuse(op, "it joins samples along the batch axis")
    sources = [_part(op, t, view, blobs) for t in tensors]
    [top] = blobs.emit("Concat", op.name, sources, {0: inner})
    lengths = [v.dims[axis] for v in views]
    total = None if None in lengths else sum(d or 0 for d in lengths)
    dims = tuple(total if i == axis else d for i, d in enumerate(view.dims))
    blobs.give(op.outputs[0], top, View(dims, view.batch), op.clamp)


def _part(op: Op, tensor: Tensor, view: View, blobs: Blobs) -> str:
    if tensor.constant is None:
        if blobs.view(tensor).batch != view.batch:
            raise refuse(op, "the batch is another axis in each operand")
        return blobs.real(tensor)
    values = blobs.values(tensor)
    if view.batch is not None and values.shape[view.batch] != 1:
        raise refuse(op, "a constant has numbers for each sample")
    return blobs.memory(values if view.batch is None else values.squeeze(view.batch), f"{op.name}_part")


def split(op: Op, blobs: Blobs) -> None:
    """Split into parts of known lengths."""
    x = op.inputs[0]
    assert x is not None
    view = blobs.view(x)
    axis = int(op.attributes.get("axis", 0)) % len(view.dims)
    inner, length, count = view.axis(axis), view.dims[axis], len(op.outputs)
    sizes = fixed(op, 1, "split", blobs)
    if len(op.inputs) < 2 and "split" not in op.attributes and length is not None:
        each = -(-length // count)
        sizes = [each] * (count - 1) + [length - each * (count - 1)]
    if inner is None or sizes is None:
        raise refuse(op, "it splits the batch axis, or into parts of unknown length")
    tops = blobs.emit("Slice", op.name, [blobs.real(x)], {0: sizes, 1: inner}, outputs=count)
    for tensor, top, size in zip(op.outputs, tops, sizes, strict=True):
        dims = tuple(size if i == axis else d for i, d in enumerate(view.dims))
        blobs.give(tensor, top, View(dims, view.batch))


def crop(op: Op, blobs: Blobs) -> None:
    """Slice with steps of 1."""
    x = op.inputs[0]
    assert x is not None
    view = blobs.view(x)
    names = enumerate(("starts", "ends", "axes", "steps"), start=1)
    starts, ends, axes, steps = (fixed(op, port, name, blobs) for port, name in names)
    if starts is None or ends is None or set(steps or ()) - {1}:
        raise refuse(op, "its bounds depend on the input, or its step is not 1")
    along = [a % len(view.dims) for a in (range(len(starts)) if axes is None else axes)]
    inner = [view.axis(a) for a in along]
    if None in inner:
        raise refuse(op, "it cuts the batch axis")
    dims = list(view.dims)
    for axis, start, end in zip(along, starts, ends, strict=True):
        dims[axis] = _length(dims[axis], start, end)
    stops = [TO_THE_END if end > FAR else end for end in ends]
    params: Params = {9: starts, 10: stops, 11: [a for a in inner if a is not None]}
    [top] = blobs.emit("Crop", op.name, [blobs.real(x)], params)
    blobs.give(op.outputs[0], top, View(tuple(dims), view.batch), op.clamp)


def _length(length: int | None, start: int, end: int) -> int | None:
    if length is not None:
        return len(range(length)[start:end])
    return end - start if end < FAR and (start < 0) == (end < 0) else None


def matmul(op: Op, blobs: Blobs) -> None:
    """MatMul of two activations, or with a constant on the left."""
    a, b = op.inputs[:2]
    assert a is not None
    assert b is not None
    views = [blobs.view(a), blobs.view(b)]
    ranks = {len(v.dims) for v in views}
    batches = {v.batch for v in views}
    constant = any(t.constant is not None for t in (a, b))
    rank = max(ranks)
    if ((len(ranks) > 1 or len(batches) > 1) and not constant) or min(ranks) < 2 or batches & {rank - 1, rank - 2}:
        raise refuse(op, "its operands differ in their leading axes, or the batch is among the last two")
    [top] = blobs.emit("MatMul", op.name, [blobs.real(a), blobs.real(b)])
    lead = views[0] if len(views[0].dims) == rank and a.constant is None else views[1]
    dims = (*lead.dims[:-2], views[0].dims[-2], views[1].dims[-1])
    blobs.give(op.outputs[0], top, View(dims, lead.batch), op.clamp)
