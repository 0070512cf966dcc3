"""The rounding rules of `numerics.rounding` on tensors, bit for bit, on any device.

Each rule is written in PyTorch operators that IEEE 754 defines (add, floor, ceil, trunc, round to even, compare, copy
of a sign), one kernel each, so that no compiler contracts two of them into one that rounds once. float16, bfloat16,
float32 and float64 are rounded in their own dtype, as NumPy does. NaN, infinities and the sign of zero are as there.

Subnormal numbers need PyTorch's default; `torch.set_flush_denormal(True)` takes them for zero, and the bits differ.

Stochastic rounding draws one float64 an element from a `torch.Generator` on the tensor's device: floor(x) + 1 with the
probability x - floor(x), else floor(x). (Gupta et al. 2015, arXiv:1502.02551, section 3.) The formula is NumPy's, the
draws are not.
"""

from collections.abc import Callable
from typing import TypeAlias

from halfeven.numerics.rounding import Rounding
from halfeven.training.pytorch import Generator, Tensor, torch

How: TypeAlias = Rounding | Generator


def rounded(x: Tensor, how: How = Rounding.HALF_EVEN) -> Tensor:
    """Whole numbers, as floats of `x`'s dtype and shape: by a rule, or at random with a generator."""
    return _RULES[how](x) if isinstance(how, Rounding) else _stochastic(x, how)


def _stochastic(x: Tensor, generator: Generator) -> Tensor:
    below = x.floor()
    chance = x.double() - below.double()
    draw = torch.rand(x.shape, dtype=torch.float64, device=x.device, generator=generator)
    return torch.copysign(below + (draw < chance), x)


def _half_up(x: Tensor) -> Tensor:
    below = x.floor()
    return torch.copysign(below + (x - below >= 0.5), x)


def _half_down(x: Tensor) -> Tensor:
    return -_half_up(-x)


def _half_dpu5(x: Tensor) -> Tensor:
    return torch.where(x < 0, _half_up(x), x.round())


def _mirrored(rule: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Apply `rule` to the magnitude and give the sign back."""
    return lambda x: torch.copysign(rule(x.abs()), x)


def _sum_up(x: Tensor) -> Tensor:
    return (x + 0.5).floor()


def _sum_down(x: Tensor) -> Tensor:
    return (x - 0.5).ceil()


_RULES: dict[Rounding, Callable[[Tensor], Tensor]] = {
    Rounding.HALF_EVEN: torch.round,
    Rounding.HALF_UP: _half_up,
    Rounding.HALF_DOWN: _half_down,
    Rounding.HALF_AWAY: _mirrored(_half_up),
    Rounding.HALF_ZERO: _mirrored(_half_down),
    Rounding.HALF_DPU5: _half_dpu5,
    Rounding.FLOOR: torch.floor,
    Rounding.CEIL: torch.ceil,
    Rounding.TRUNC: torch.trunc,
    Rounding.SUM_UP: _sum_up,
    Rounding.SUM_DOWN: _sum_down,
    Rounding.SUM_AWAY: _mirrored(_sum_up),
    Rounding.SUM_ZERO: _mirrored(_sum_down),
}
