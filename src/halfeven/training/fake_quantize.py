"""Fake quantization with gradients: `numerics.quantize.fake_quantize` as PyTorch functions, on any device.

For r = x / scale, q the value of r at scale 1 (of integers code - zero_point), v = q * scale and g the gradient of v:

    grids                    inside                        gradient of x     gradient of scale    of zero point
    integers                 low - z < r < high - z        g inside, else 0  sum of g * t         -scale * sum of
    floats, logs, codebooks  lowest q < r < highest q      g inside, else 0  sum of g * t         g not inside
    binary                   |x| <= 1                      g inside, else 0  sum of g * q
    ternary                  everywhere                    g                 sum of g * q

    t = q - r inside, q elsewhere (0 where q is infinite or NaN); sums are over the elements that share a scale

The gradient of x is the straight-through estimator: rounding counts as the identity (Bengio et al. 2013,
arXiv:1308.3432), clipping as what it is. With it t is the derivative of v by the scale: LSQ's equation 3 (Esser et al.
2020, arXiv:1902.08153), here for any grid. The zero point is LSQ+'s offset, -zero_point * scale (Bhalgat et al. 2020,
arXiv:2004.09576). A sign passes the gradient where |x| <= 1 (Courbariaux et al. 2016, arXiv:1602.02830, equation 4;
XNOR-Net, arXiv:1603.05279); ternary weights are trained straight through (Li and Liu 2016, arXiv:1605.04711). Both are
linear in their scale (Zhu et al. 2017, TTQ, arXiv:1612.01064).

The bits of values and of x's gradient are NumPy's on every device. Values are computed in float32, whatever the dtype
of x (a float64 x is divided in float64, as NumPy does), and then rounded once to x's dtype.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from math import inf
from typing import Any

from halfeven.errors import BadOption
from halfeven.numerics.binary import BinaryGrid, TernaryGrid
from halfeven.numerics.grid import Grid, IntGrid
from halfeven.numerics.lsq import OPEN
from halfeven.numerics.native import Ends
from halfeven.numerics.rounding import Rounding
from halfeven.training.integers import Integers, wide
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.rounding import How
from halfeven.training.tiles import tiles_of
from halfeven.training.values import ValueGrid, ends_of, values_of


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    grid: Grid,
    *,
    threshold: Tensor | None = None,
    rounding: How = Rounding.HALF_EVEN,
    gradient: float = 1.0,
    clamp: Ends = OPEN,
) -> Tensor:
    """The values nearest to `x` that codes can express, of `x`'s shape, dtype and device, differentiable.

    `scale`, float32 and above zero, has the shape that `Tiling.scale_shape` gives, or one element; `zero_point`, int32
    or (to be learned) whole numbers in float32, and the `threshold` of ternary codes, float32, have the same shape.
    `rounding` is a rule, or a torch.Generator for stochastic rounding. `gradient` multiplies the gradients of scale
    and zero point.

    Raises:
        BadOption: `x` is not of floats, shapes do not fit, or a rounding for codes that have no ties.
    """
    if not x.is_floating_point():
        raise BadOption(f"fake_quantize: a tensor of {x.dtype}; floats are quantized.")
    if zero_point.shape != scale.shape or (threshold is not None and threshold.shape != scale.shape):
        raise BadOption(f"fake_quantize: a scale of {tuple(scale.shape)}, a zero point or threshold of another shape.")
    if isinstance(grid, IntGrid):
        return Integers.apply(x, scale, zero_point, grid, rounding, gradient, clamp)
    x = clamped(x, clamp)
    if not isinstance(grid, BinaryGrid | TernaryGrid):
        return _Values.apply(x, scale, grid, rounding, gradient)
    if rounding is not Rounding.HALF_EVEN:
        raise BadOption(f"fake_quantize: {grid} codes are the nearest; there are no ties for a rounding to break.")
    return _Signs.apply(x, scale, threshold, grid, gradient)


def clamped(x: Tensor, ends: Ends) -> Tensor:
    """`x` held to the ends, differentiable, with the gradient 0 at them; NaN stays NaN."""
    if ends == OPEN:
        return x
    return torch.relu(x) if ends == (0.0, inf) else torch.nn.functional.hardtanh(x, *ends)


class _Values(torch.autograd.Function):
    """Grids that have a value for each ratio: floats, logs, codebooks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, grid: ValueGrid, how: How, gradient: float) -> Tensor:
        ctx.grid, ctx.gradient = grid, gradient
        tiles = tiles_of(tuple(x.shape), tuple(scale.shape))
        step = scale.reshape(tiles.scale)
        found = values_of(wide(x).reshape(tiles.tensor) / step, grid, how)
        ctx.save_for_backward(x, scale, found if ctx.needs_input_grad[1] else None)
        return (found * step).reshape(x.shape).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, found = ctx.saved_tensors
        tiles = tiles_of(tuple(x.shape), tuple(scale.shape))
        ratio = wide(x).reshape(tiles.tensor) / scale.reshape(tiles.scale)
        low, high = ends_of(ctx.grid)
        inside = (ratio > low) & (ratio < high)
        g = grad.reshape(tiles.tensor)
        by_x = torch.where(inside, g, 0.0).reshape(x.shape)
        if not ctx.needs_input_grad[1]:
            return by_x, None, None, None, None
        t = torch.where(inside, found - ratio, torch.where(found.isfinite(), found, 0.0))
        by_scale = tiles.total(wide(g) * t, tuple(scale.shape)).float() * ctx.gradient
        return by_x, by_scale, None, None, None


class _Signs(torch.autograd.Function):
    """Binary and ternary codes, which are their own values at scale 1."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, threshold: Tensor | None, grid: BinaryGrid | TernaryGrid, gradient: float
    ) -> Tensor:
        ctx.grid, ctx.gradient = grid, gradient
        tiles = tiles_of(tuple(x.shape), tuple(scale.shape))
        step, real = scale.reshape(tiles.scale), wide(x).reshape(tiles.tensor)
        if isinstance(grid, BinaryGrid):
            codes = torch.where(real >= 0, 1, -1)
        else:
            limit = step / 2 if threshold is None else threshold.reshape(tiles.scale)
            codes = torch.where(real.isnan(), -1, torch.where(real.abs() > limit, real.sign(), 0).char())
        codes = codes.to(torch.int8)
        ctx.save_for_backward(x, scale, codes)
        return (codes.float() * step).reshape(x.shape).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, codes = ctx.saved_tensors
        by_x = torch.where(x.abs() <= 1, grad, 0.0) if isinstance(ctx.grid, BinaryGrid) else grad
        if not ctx.needs_input_grad[1]:
            return by_x, None, None, None, None
        tiles = tiles_of(tuple(x.shape), tuple(scale.shape))
        terms = wide(grad).reshape(tiles.tensor) * codes
        return by_x, tiles.total(terms, tuple(scale.shape)).float() * ctx.gradient, None, None, None
