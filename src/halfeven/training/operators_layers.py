"""ONNX convolutions, pools and normalizations as PyTorch functions.

Padding that is not the same on both sides, and `auto_pad`, are applied before the layer; a convolution's by zeros, a
pool's by what does not count.
"""

import math
from collections.abc import Sequence
from typing import Any

from halfeven.errors import UnsupportedModel
from halfeven.training.operators_pointwise import Attributes, Operator
from halfeven.training.pytorch import Tensor, torch

F = torch.nn.functional
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
Pairs = list[tuple[int, int]]


def _text(attributes: Attributes, name: str, default: str) -> str:
    value = attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _each(attributes: Attributes, name: str, rank: int, default: int = 1) -> list[int]:
    return [int(i) for i in attributes.get(name, [default] * rank)]


def paddings(
    attributes: Attributes,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Pairs:
    """Zeros before and after each axis, of `pads` or `auto_pad`."""
    auto, rank = _text(attributes, "auto_pad", "NOTSET"), len(kernel)
    if auto in ("NOTSET", ""):
        pads = [int(p) for p in attributes.get("pads", [0] * 2 * rank)]
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if auto == "VALID":
        return [(0, 0)] * rank
    found = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        needed = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        half = needed // 2
        found.append((half, needed - half) if auto == "SAME_UPPER" else (needed - half, half))
    return found


def _padded(x: Tensor, pads: Pairs, value: float) -> tuple[Tensor, list[int]]:
    """The tensor padded where the sides differ, and what is left to pad on both sides."""
    if all(a == b for a, b in pads):
        return x, [a for a, _ in pads]
    return F.pad(x, [width for pair in reversed(pads) for width in pair], value=value), [0] * len(pads)


def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.ndim - 2
    strides, dilations = _each(attributes, "strides", rank), _each(attributes, "dilations", rank)
    pads = paddings(attributes, x.shape[2:], weight.shape[2:], strides, dilations)
    x, both = _padded(x, pads, 0.0)
    group = int(attributes.get("group", 1))
    return CONV[rank](x, weight, bias, strides, both, dilations, group)


def _conv_transpose(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.ndim - 2
    strides, dilations = _each(attributes, "strides", rank), _each(attributes, "dilations", rank)
    extra, group = _each(attributes, "output_padding", rank, 0), int(attributes.get("group", 1))
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    sizes = [s * (n - 1) + k + e for s, n, k, e in zip(strides, x.shape[2:], kernel, extra, strict=True)]
    if "output_shape" in attributes:
        cut = [max(size - int(want), 0) for size, want in zip(sizes, attributes["output_shape"], strict=True)]
        upper = _text(attributes, "auto_pad", "NOTSET") == "SAME_UPPER"
        short = [max(int(want) - size, 0) for size, want in zip(sizes, attributes["output_shape"], strict=True)]
        extra = [e + more for e, more in zip(extra, short, strict=True)]
        pads = [(c // 2, c - c // 2) if upper else (c - c // 2, c // 2) for c in cut]
    elif _text(attributes, "auto_pad", "NOTSET").startswith("SAME"):
        cut = [max(k + e - s, 0) for k, e, s in zip(kernel, extra, strides, strict=True)]
        pads = [(c // 2, c - c // 2) for c in cut]
    else:
        pads = paddings(attributes, x.shape[2:], weight.shape[2:], strides, dilations)
    whole = TRANSPOSED[rank](x, weight, bias, strides, 0, extra, group, dilations)
    for axis, (before, after) in enumerate(pads):
        whole = whole.narrow(axis + 2, before, whole.shape[axis + 2] - before - after)
    return whole


def _window(attributes: Attributes, x: Tensor) -> tuple[list[int], list[int], list[int], Pairs]:
    """Kernel, strides, dilations and pads of a pool, the last widened where `ceil_mode` asks for one more window."""
    kernel = [int(k) for k in attributes["kernel_shape"]]
    strides, dilations = _each(attributes, "strides", len(kernel)), _each(attributes, "dilations", len(kernel))
    pads = paddings(attributes, x.shape[2:], kernel, strides, dilations)
    if not attributes.get("ceil_mode", 0):
        return kernel, strides, dilations, pads
    wider = []
    for (before, after), size, k, s, d in zip(pads, x.shape[2:], kernel, strides, dilations, strict=True):
        span = size + before + after - (k - 1) * d - 1
        count = -(-span // s)
        if count * s >= size + before:  # a window that would begin in the padding behind is dropped
            count -= 1
        wider.append((before, after + max(count * s - span, 0)))
    return kernel, strides, dilations, wider


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    if int(attributes.get("outputs", 1)) > 1:
        raise UnsupportedModel("A MaxPool whose second output, the indices, is used was found; training has no such.")
    kernel, strides, dilations, pads = _window(attributes, x)
    lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    x = F.pad(x, [width for pair in reversed(pads) for width in pair], value=lowest)
    return MAX_POOL[len(kernel)](x, kernel, strides, 0, dilations)


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel, strides, dilations, pads = _window(attributes, x)
    rank = len(kernel)
    plain = paddings(attributes, x.shape[2:], kernel, strides, dilations)
    if set(dilations) != {1}:
        raise UnsupportedModel("An AveragePool with gaps (dilations) was found; training knows it without.")
    if not any(a or b for a, b in pads):
        return AVERAGE_POOL[rank](x, kernel, strides)
    total = AVERAGE_POOL[rank](_widened(x, pads), kernel, strides) * math.prod(kernel)
    ones = torch.ones_like(x[:1, :1])
    if attributes.get("count_include_pad", 0):
        ones = F.pad(ones, [width for pair in reversed(plain) for width in pair], value=1.0)
        pads = [(0, b - after) for (_, b), (_, after) in zip(pads, plain, strict=True)]
    counted = AVERAGE_POOL[rank](_widened(ones, pads), kernel, strides) * math.prod(kernel)
    return total / counted


def _widened(x: Tensor, pads: Pairs) -> Tensor:
    return F.pad(x, [width for pair in reversed(pads) for width in pair])


def _global(function: Any) -> Operator:
    return lambda attributes, x: function(x, list(range(2, x.ndim)))


def _lp_pool(attributes: Attributes, x: Tensor) -> Tensor:
    p = float(attributes.get("p", 2))
    return x.abs().pow(p).sum(list(range(2, x.ndim)), keepdim=True).pow(1 / p)


# --------------------------------------------------------------------------------------------- normalizations


def _batch_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    if attributes.get("training_mode", 0):
        raise UnsupportedModel("A BatchNormalization in training mode was found; export the network for inference.")
    epsilon = float(attributes.get("epsilon", 1e-5))
    if mean.requires_grad or var.requires_grad:  # of the batch: PyTorch's own takes them for constants
        shape = (1, -1) + (1,) * (x.ndim - 2)
        gain = scale / torch.sqrt(var + epsilon)
        return (x - mean.reshape(shape)) * gain.reshape(shape) + bias.reshape(shape)
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def _layer_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = int(attributes.get("axis", -1)) % x.ndim
    epsilon = float(attributes.get("epsilon", 1e-5))
    shape = x.shape[axis:]
    weight = scale.expand(shape)
    y = F.layer_norm(x, shape, weight, None if bias is None else bias.expand(shape), epsilon)
    if int(attributes.get("outputs", 1)) == 1:
        return (y,)
    axes = list(range(axis, x.ndim))
    mean = x.mean(axes, keepdim=True)
    return y, mean, torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)


def _instance_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=float(attributes.get("epsilon", 1e-5)))


def _group_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = int(attributes["num_groups"])
    if scale.numel() == groups != x.shape[1]:  # opset 18 scales groups, 21 channels
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, float(attributes.get("epsilon", 1e-5)))


def _rms_norm(attributes: Attributes, x: Tensor, scale: Tensor) -> Tensor:
    axis = int(attributes.get("axis", -1)) % x.ndim
    mean = (x * x).mean(list(range(axis, x.ndim)), keepdim=True)
    return x * torch.rsqrt(mean + float(attributes.get("epsilon", 1e-5))) * scale


def _lrn(attributes: Attributes, x: Tensor) -> Tensor:
    size, alpha = int(attributes["size"]), float(attributes.get("alpha", 1e-4))
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = F.pad((x * x).movedim(1, -1), (before, after)).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / (float(attributes.get("bias", 1.0)) + alpha / size * squares) ** float(attributes.get("beta", 0.75))


def _lp_norm(attributes: Attributes, x: Tensor) -> Tensor:
    axis, p = int(attributes.get("axis", -1)), int(attributes.get("p", 2))
    size = x.abs().sum(axis, keepdim=True) if p == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return torch.where(size == 0, torch.zeros_like(x), x / size)


LAYERS: dict[str, Operator] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalMaxPool": _global(lambda x, axes: x.amax(axes, keepdim=True)),
    "GlobalAveragePool": _global(lambda x, axes: x.mean(axes, keepdim=True)),
    "GlobalLpPool": _lp_pool,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "RMSNormalization": _rms_norm,
    "LRN": _lrn,
    "LpNormalization": _lp_norm,
}
