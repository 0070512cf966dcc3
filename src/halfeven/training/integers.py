"""Integer grids on tensors: codes, values, and their gradients.

    steps = round(clip(r, low - z, high - z))     r = x / scale, a true division; NaN gives low
    code  = steps + z                             value = steps * scale

in float32, or in float64 where codes have more than 23 bits, as in `numerics.quantize`; a code has no negative zero.

A clamp (a, b) in front, such as that of ReLU6 (0, 6), is part of the same pass: x stands for x clipped to a..b, and its
gradient is 0 unless a < x < b. The bits are those of the two one after the other, and no tensor is kept between them.

Where x is float32 without gaps on the CPU and ties go to even, C++ computes the values, if it is built, and
`numerics.lsq` the gradients of scale and zero point, if codes have at most 16 bits. With one scale, x may lie in any
order (channels last, say), in which the sums then go, and PyTorch's number of threads share the work. Otherwise the
same formulas run in tensor operators, on any device: values and the gradient of x have the same bits; the two other
gradients are summed in float64, so that they may differ from those of `numerics.lsq` by what its float32 sums lose.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from dataclasses import dataclass
from typing import Any

from halfeven.numerics import lsq, native
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.lsq import OPEN
from halfeven.numerics.native import Ends
from halfeven.numerics.rounding import Rounding
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.rounding import How, rounded
from halfeven.training.tiles import tiles_of


def wide(x: Tensor) -> Tensor:
    """`x` as the numbers that quantization computes with: float32, or float64 if that is what they are."""
    return x if x.dtype == torch.float64 else x.float()


def integer_codes(
    x: Tensor, scale: Tensor, zero_point: Tensor, grid: IntGrid, rounding: How = Rounding.HALF_EVEN
) -> Tensor:
    """`numerics.quantize.quantize` on tensors: codes of `x`'s shape, of the grid's dtype; not differentiable.

    `scale`, float32, and `zero_point`, int32 or whole numbers in float32, have one shape, that of `Tiling.scale_shape`.
    """
    with torch.no_grad():
        part = _Part.of(x, scale, zero_point, grid)
        codes = rounded(part.clipped(), rounding).double() + part.zero_point
    return codes.long().to(getattr(torch, grid.dtype.name)).reshape(x.shape)


class Integers(torch.autograd.Function):
    """Fake quantization to integers; `apply(x, scale, zero_point, grid, how, gradient, clamp)`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, grid: IntGrid, how: How, gradient: float, clamp: Ends
    ) -> Tensor:
        """Values, of the shape and dtype of `x`."""
        ctx.grid, ctx.how, ctx.gradient, ctx.clamp = grid, how, gradient, clamp
        values, drawn = _native_values(x, scale, zero_point, grid, how, clamp), None
        if values is None:
            part = _Part.of(x, scale, zero_point, grid, clamp)
            steps = rounded(part.clipped(), how) + 0.0  # a code has no negative zero
            values = (steps.float() * part.scale).reshape(x.shape)
            drawn = None if isinstance(how, Rounding) else steps
        ctx.save_for_backward(x, scale, zero_point, drawn)
        return values.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, and of scale and zero point if they are learned, times `gradient`."""
        x, scale, zero_point, drawn = ctx.saved_tensors
        learned = ctx.needs_input_grad[1:3]
        found = _native_gradients(x, grad, scale, zero_point, ctx, any(learned))
        if found is None:
            part = _Part.of(x, scale, zero_point, ctx.grid, ctx.clamp)
            by_x, sums = part.by_x(grad), [None, None]
            if ctx.clamp != OPEN:
                by_x = torch.where((x > ctx.clamp[0]) & (x < ctx.clamp[1]), by_x, 0.0)
            if any(learned):
                steps = rounded(part.clipped(), ctx.how) if drawn is None else drawn
                sums = list(part.by_parameters(grad, steps))
            found = (by_x, *sums)
        by_scale, by_zero = (
            total * ctx.gradient if asked else None for total, asked in zip(found[1:], learned, strict=True)
        )
        return found[0], by_scale, by_zero, None, None, None, None


@dataclass(frozen=True, eq=False)
class _Part:
    """Ratios and bounds of a tensor, seen by its tiles."""

    ratio: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    @staticmethod
    def of(x: Tensor, scale: Tensor, zero_point: Tensor, grid: IntGrid, clamp: Ends = OPEN) -> "_Part":
        """`x / scale` and the ends of the grid less the zero point, in the dtype that the definition rounds in."""
        x = x if clamp == OPEN else x.clamp(*clamp)
        tiles = tiles_of(tuple(x.shape), tuple(scale.shape))
        dtype = torch.float64 if grid.bits > 23 else torch.float32
        step, zero = scale.reshape(tiles.scale), zero_point.reshape(tiles.scale).to(dtype)
        ratio = (wide(x).reshape(tiles.tensor) / step).to(dtype)
        return _Part(ratio, grid.low - zero, grid.high - zero, step, zero, (tuple(x.shape), tuple(scale.shape)))

    def clipped(self) -> Tensor:
        """NaN goes to the lowest code."""
        return torch.fmin(torch.fmax(self.ratio, self.low), self.high)

    def inside(self) -> Tensor:
        """What is strictly between the ends."""
        return (self.ratio > self.low) & (self.ratio < self.high)

    def by_x(self, grad: Tensor) -> Tensor:
        """The straight-through estimator."""
        return torch.where(self.inside(), grad.reshape(self.ratio.shape), 0.0).reshape(self.shapes[0])

    def by_parameters(self, grad: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of scale and zero point, float32, of the scale's shape."""
        tiles = tiles_of(*self.shapes)
        inside, g = self.inside(), wide(grad).reshape(self.ratio.shape)
        by_scale = tiles.total(g * torch.where(inside, steps - self.ratio, steps), self.shapes[1])
        beyond = tiles.total(torch.where(inside, 0.0, g), self.shapes[1])
        by_zero = -self.scale.reshape(self.shapes[1]).double() * beyond + 0.0
        return by_scale.float(), by_zero.float()


def _native_values(x: Tensor, scale: Tensor, zero_point: Tensor, grid: IntGrid, how: How, clamp: Ends) -> Tensor | None:
    """Values by C++; None where it has no form of it."""
    if not (native.native() and _plain(x, how)):
        return None
    order = order_of(x) if scale.numel() == 1 and grid.bits <= 16 else None
    if order is not None:
        zero, codes = int(zero_point.item()), (grid.low, grid.high)
        lying, threads = _array(x.permute(order)), torch.get_num_threads()
        return _ordered(native.fake_quantize_clamped(lying, scale.item(), zero, codes, clamp, threads), order)
    if clamp != OPEN or not x.is_contiguous():
        return None
    arrays = (_array(x), _array(scale), _array(zero_point.to(torch.int32)))
    values = native.fake_quantize(*arrays, grid.low, grid.high)
    return None if values is None else torch.from_numpy(values)


def _native_gradients(
    x: Tensor, grad: Tensor, scale: Tensor, zero_point: Tensor, ctx: Any, learned: bool
) -> tuple[Tensor | None, ...] | None:
    """Gradients of x, scale and zero point by C++ or `numerics.lsq`; None where they have no form of it."""
    grid, clamp, threads = ctx.grid, ctx.clamp, torch.get_num_threads()
    if not (_plain(x, ctx.how) and grid.bits <= 16 and (learned or native.native())):
        return None
    order = order_of(x) if scale.numel() == 1 or x.is_contiguous() else None
    if order is None or native.cut(tuple(x.shape), tuple(scale.shape)) is None:
        return None
    parts = _array(x.permute(order)), _array(grad.permute(order))
    if scale.numel() == 1 and not learned:
        zero, codes = int(zero_point.item()), (grid.low, grid.high)
        found = native.lsq_backward_clamped(*parts, scale.item(), zero, codes, clamp, threads, sums=False)
        return None if found is None else (_ordered(found[0], order), None, None)
    own = _array(scale), _array(zero_point.to(torch.int32))
    by_x, *sums = lsq.lsq_backward(*parts, *own, grid.low, grid.high, clamp, threads)
    return _ordered(by_x, order), *(torch.from_numpy(total) for total in sums)


def _plain(x: Tensor, how: How) -> bool:
    """On the CPU, float32, ties to even: what NumPy can share memory with, and C++ reads."""
    real = type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu"  # not what stands for a tensor
    return real and x.dtype == torch.float32 and how is Rounding.HALF_EVEN


def order_of(x: Tensor) -> list[int] | None:
    """The axes from the one with the longest stride on, if the tensor is without gaps in that order."""
    if x.is_contiguous():
        return list(range(x.ndim))
    order = sorted(range(x.ndim), key=lambda axis: -x.stride(axis))
    return order if x.permute(order).is_contiguous() else None


def _ordered(array: Any, order: list[int]) -> Tensor:
    """A tensor over an array whose axes are those of `order`."""
    if order == sorted(order):
        return torch.from_numpy(array)
    back = sorted(range(len(order)), key=lambda place: order[place])
    return torch.from_numpy(array).permute(back)


def _array(x: Tensor) -> Any:
    """The tensor's memory, in C order (a gradient may have one number for many elements)."""
    return x.detach().contiguous().numpy()
