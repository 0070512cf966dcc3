"""Block formats on tensors: `numerics.blocks.encode_blocks(x, form).decode()`, differentiable.

Each run's scale is that of the run itself, so nothing is learned and next to nothing saturates: the gradient passes
straight through, also at a run's largest element, which moves its scale along (Rouhani et al. 2023, arXiv:2310.10537,
train in MX formats so). The scales are computed in float64 and coded by the same grids; the values have NumPy's bits.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from math import prod
from typing import Any

import numpy as np

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.blocks import BlockFormat
from halfeven.numerics.floats import FloatGrid
from halfeven.training.fake_quantize import fake_quantize
from halfeven.training.integers import wide
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.rounding import rounded
from halfeven.training.tiles import tiles_of
from halfeven.training.values import values_of

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


def fake_quantize_blocks(x: Tensor, form: BlockFormat) -> Tensor:
    """The values of `x` in a block format, of `x`'s shape, dtype and device; the gradient passes straight through.

    Raises:
        BadOption: the last axis is no multiple of the run, or `x` has no axis.
        BadCalibration: `x` has infinities or NaN.
    """
    if x.ndim == 0:
        raise BadOption(f"{form.name}: a single number has no axis to cut into runs of {form.length}.")
    return _Blocks.apply(x, form)


class BlockFakeQuantizer(torch.nn.Module):
    """`fake_quantize_blocks` as a layer: `BlockFakeQuantizer(MXFP4)(x)`. It has no state."""

    def __init__(self, form: BlockFormat) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        """The values of `x` in the format."""
        return fake_quantize_blocks(x, self.form)

    def extra_repr(self) -> str:
        """`MXFP4`."""
        return self.form.name


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, form: BlockFormat) -> Tensor:
        scale = block_scales(wide(x), form)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return fake_quantize(wide(x), scale, zero, form.element).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None


def block_scales(x: Tensor, form: BlockFormat) -> Tensor:
    """The float32 scale of each run, of `form.scheme(x.ndim).tiling.scale_shape(x.shape)`."""
    if not bool(x.isfinite().all()):
        raise BadCalibration(f"{form.name}: infinities and NaN would spoil their whole run; remove them first.")
    shape = form.scheme(x.ndim).tiling.scale_shape(tuple(x.shape))
    ideal = x.double().abs().reshape(*shape, form.length)
    ideal = (ideal.amax(-1) if prod(shape) else ideal.sum(-1)) / form.full
    outer = _outer(ideal, form)
    tiles = tiles_of(shape, tuple(outer.shape))
    spread = outer.reshape(tiles.scale)
    scales = _scales(ideal.reshape(tiles.tensor) / spread, form)
    unit = torch.full((), form.unit, dtype=torch.float32, device=x.device)
    return (scales.float() * spread * unit).clamp_min(SMALLEST).reshape(shape)


def _outer(ideal: Tensor, form: BlockFormat) -> Tensor:
    """The scale of the scales, float32; 1 where all are zero or the format has none."""
    if form.outer is None or not ideal.numel():
        return torch.ones((1,) * ideal.ndim, dtype=torch.float32, device=ideal.device)
    shape = form.outer.scale_shape(tuple(ideal.shape))
    tiles = tiles_of(tuple(ideal.shape), shape)
    cut = ideal.reshape(tiles.tensor)
    largest = ((cut.amax(tiles.shared) if tiles.shared else cut) / form.scale.high).float().reshape(shape)
    return torch.where(largest > 0, largest, 1.0)


def _scales(ratio: Tensor, form: BlockFormat) -> Tensor:
    """The values of the scales' codes, which are at least the least above zero."""
    grid = form.scale
    if not isinstance(grid, FloatGrid):
        return rounded(ratio, form.rounding).clamp(1, grid.high)
    least = float(grid.decode(np.array(1 if grid.signed else 0, grid.dtype)))
    values = values_of(ratio.clamp_max(grid.high), grid, form.rounding).double()
    return torch.where(ratio > 0, values, least).clamp_min(least)
