"""What scales and zero points are made of that an optimizer moves: numbers held in range, factors, powers of two.

Powers of two are made of bits, as exp2 need not be exact on every device.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from typing import Any

import numpy as np

from halfeven.numerics.grid import IntGrid
from halfeven.training.pytorch import Tensor, torch

MOST_GAIN = 16.0  # a scale that is trained to 1e-7 of what it was has lost its way
LOG2_ENDS = (-126.0, 127.0)
"""The exponents of normal float32 numbers."""


def power_of_two(exponent: Tensor) -> Tensor:
    """2**exponent, float32; of whole numbers within `LOG2_ENDS`."""
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def covering_power(x: Tensor, grid: IntGrid) -> Tensor:
    """The least power of two whose codes reach all of `x`, float32 of shape (): the scale of `numerics.params_of`.

    Of symmetric codes, which reach `grid.high` times their scale. NaN and infinities give no power that means anything.
    """
    ideal = x.detach().abs().amax().double() / grid.high
    mantissa, exponent = torch.frexp(ideal)
    exponent = exponent - (mantissa == 0.5).to(exponent.dtype)
    return power_of_two(torch.where(ideal > 0, exponent, LOG2_ENDS[0]).clamp(*LOG2_ENDS))


class Held(torch.autograd.Function):
    """The nearest number from low to high, whole if asked; descent passes inside, and outside if it leads back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor | float, high: float, whole: bool) -> Tensor:
        """Of the shape of `x`; `low` may be of it too."""
        least = torch.as_tensor(low, dtype=x.dtype, device=x.device)
        ctx.save_for_backward(x, least)
        ctx.high = high
        held = x.maximum(least).clamp_max(high)
        return held.round() if whole else held

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of what is learned."""
        x, least = ctx.saved_tensors
        return _leading_back(x, grad, least, ctx.high), None, None, None


class Gained(torch.autograd.Function):
    """scale * exp(gain), the gain held to its ends; the scale is fixed, the gain learned."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, gain: Tensor) -> Tensor:
        """Of the scale's shape."""
        found = scale * gain.clamp(-MOST_GAIN, MOST_GAIN).exp()
        ctx.save_for_backward(gain, found)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of what is learned."""
        gain, found = ctx.saved_tensors
        return None, _leading_back(gain, grad * found, -MOST_GAIN, MOST_GAIN)


class PowerOfTwo(torch.autograd.Function):
    """2**ceil(x), x held to the exponents of normal float32 numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """float32, of the shape of `x`."""
        scale = power_of_two(x.clamp(*LOG2_ENDS).ceil())
        ctx.save_for_backward(x, scale)
        return scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of what is learned."""
        x, scale = ctx.saved_tensors
        return (_leading_back(x, grad * scale * float(np.log(2)), *LOG2_ENDS),)


def _leading_back(x: Tensor, grad: Tensor, low: Tensor | float, high: float) -> Tensor:
    stray = ((x < low) & (grad > 0)) | ((x > high) & (grad < 0))
    return torch.where(stray, 0.0, grad)
