"""Ways to train quantized, beside LSQ: what each changes of a fake quantizer, as data and functions.

    name         of            values                         gradients
    lsq          both          -                              -
    pact         activations   -                              of the scale: v / scale where x is clipped, else 0
    dorefa       weights       of t * top, not of x           through tanh
    dsq          integers      -                              of x: times phi'(x / scale)
    stochastic   integers      in training rounded at random  -

For v the value, `top` the largest value that codes express and t = tanh(x) / max|tanh(x)| over what shares a scale:

    PACT         the clip is alpha = (high - zero_point) * scale, and its gradient the sum of g where x >= alpha, which
                 is that of the scale / (high - zero_point); none inside (Choi et al. 2018, arXiv:1805.06085, section
                 3). Signed codes have a second clip, which moves with the first
    DoReFa       (Zhou et al. 2016, arXiv:1606.06160, equation 9.) Its own codes are 2 * r - 1 for r on k bits, which
                 have no zero and no integer zero point; here they are the target's. t * top in place of t keeps the
                 size of a weight that was trained in float
    DSQ          phi is a row of tanh, one for each step: phi'(r) = k / 2 * (1 - tanh(k * (r - m))**2) / tanh(k / 2),
                 m = floor(r) + 1/2, k = log(2 / alpha - 1), whose mean over a step is 1. alpha, 0.2 here, is how far it
                 is from the staircase. (Gong et al. 2019, arXiv:1908.05033, equations 3 to 8; there alpha is learned.)
    stochastic   `training.rounding`; the seed and the number of draws are a buffer, so a resumed training draws alike

`dsq` and `stochastic` are for integers; other codes of weights are the nearest all the same. PACT needs scales that are
learned. Values that are not changed are those of the plain fake quantizer, to the bit. Names are joined by `+`:
"pact+dorefa".

Moving ranges (Jacob et al. 2018, arXiv:1712.05877, section 3.1) follow the data in place of gradients: `tile_range`.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from collections.abc import Collection
from dataclasses import dataclass
from math import log, prod, tanh
from typing import Any

from halfeven.errors import BadOption
from halfeven.numerics.grid import INT8, Grid, IntGrid
from halfeven.numerics.logs import LogGrid
from halfeven.training.integers import wide
from halfeven.training.pytorch import Generator, Tensor, torch
from halfeven.training.tiles import tiles_of

NAMES = ("lsq", "pact", "dorefa", "dsq", "stochastic")
ALPHA = 0.2
AVERAGE = 0.01
"""The share of a moving range that is new."""


@dataclass(frozen=True)
class Method:
    """What one fake quantizer does."""

    clip: bool = False
    tanh: bool = False
    soft: bool = False
    stochastic: bool = False


def method_of(names: str, role: str, grid: Grid = INT8) -> Method:
    """The method of a quantizer for "activation" or "weight" with codes of `grid`.

    What is for integers does nothing to other codes of weights (binary, ternary, log2): those are the nearest, with the
    straight-through gradient. `idle_methods` says so.

    Raises:
        BadOption: a name that is none.
    """
    chosen = names.split("+")
    for name in chosen:
        if name not in NAMES:
            raise BadOption(f"method {names!r}: choose of {', '.join(NAMES)}, several joined by '+'.")
    weight = role == "weight"
    clip, squeeze = "pact" in chosen and not weight, "dorefa" in chosen and weight
    whole = not weight or isinstance(grid, IntGrid)
    return Method(clip, squeeze, "dsq" in chosen and whole, "stochastic" in chosen and whole)


def idle_methods(names: str, scales: str, learn_zero_point: bool, weights: Collection[Grid]) -> tuple[str, ...]:
    """What of a choice of methods changes nothing, as sentences for the user; `weights` are the codes of weights."""
    chosen, said = names.split("+"), []
    learned = scales in ("log", "linear")
    if "pact" in chosen and not learned:
        said.append(
            f"method 'pact' changes nothing with scales='{scales}': the clip that it learns is a scale, and none is "
            "learned; choose scales='log' or 'linear'"
        )
    if learn_zero_point and scales == "moving":
        said.append("learn_zero_point changes nothing with scales='moving': zero points follow the ranges")
    others = sorted({str(grid) for grid in weights if not isinstance(grid, IntGrid)})
    for name in ("dsq", "stochastic"):
        if name in chosen and others:
            said.append(
                f"method '{name}' is for integer codes: {' and '.join(others)} weights are rounded to the nearest"
            )
    return tuple(said)


def squeezed(x: Tensor, scale: Tensor, top: float) -> Tensor:
    """DoReFa's weights: tanh(x) / max|tanh(x)| * top * scale, the maximum over what shares a scale; `x`'s shape."""
    tiles = tiles_of(tuple(x.shape), tuple(scale.shape))
    bent = torch.tanh(x.reshape(tiles.tensor))
    most = bent.abs().amax(tiles.shared, keepdim=True) if tiles.shared else bent.abs()
    least = torch.finfo(x.dtype).tiny
    return (bent / most.clamp_min(least) * (top * scale.reshape(tiles.scale))).reshape(x.shape).to(x.dtype)


def softened(x: Tensor, scale: Tensor) -> Tensor:
    """`x`, whose gradient will be multiplied by DSQ's phi'(x / scale)."""
    return _Softened.apply(x, scale)


def clip_learned(v: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, grid: IntGrid, factor: float) -> Tensor:
    """`v`, values of `x`, from which `scale` gets PACT's gradient times `factor`."""
    return _Clipped.apply(v, x, scale, zero_point, grid, factor)


class _Softened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        tiles = tiles_of(tuple(x.shape), tuple(scale.shape))
        slope = log(2 / ALPHA - 1)
        ratio = wide(x).reshape(tiles.tensor) / scale.reshape(tiles.scale)
        bend = torch.tanh(slope * (ratio - ratio.floor() - 0.5))
        phi = (slope / 2 / tanh(slope / 2)) * (1 - bend * bend)
        return (grad * phi.reshape(x.shape)).to(x.dtype), None


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, v: Tensor, x: Tensor, scale: Tensor, zero_point: Tensor, grid: IntGrid, factor: float
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.grid, ctx.factor = grid, factor
        return v.view_as(v)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        tiles = tiles_of(tuple(x.shape), tuple(scale.shape))
        zero = zero_point.reshape(tiles.scale).float()
        low, high = ctx.grid.low - zero, ctx.grid.high - zero
        ratio = wide(x).reshape(tiles.tensor) / scale.reshape(tiles.scale)
        ends = torch.where(ratio >= high, high, torch.where(ratio <= low, low, 0.0))
        terms = wide(grad).reshape(tiles.tensor) * ends
        return grad, None, tiles.total(terms, tuple(scale.shape)).float() * ctx.factor, None, None, None


def tile_range(x: Tensor, scale_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The least and the greatest of the elements that share a scale, float32, of the scale's shape."""
    tiles = tiles_of(tuple(x.shape), scale_shape)
    view = x.detach().reshape(tiles.tensor)
    if prod(scale_shape) == 1:
        ends = torch.aminmax(view)  # one pass
    else:
        ends = (view.amin(tiles.shared), view.amax(tiles.shared)) if tiles.shared else (view, view)
    low, high = (end.float().reshape(scale_shape) for end in ends)
    return low, high


def generator(draws: Tensor, device: Any) -> Generator:
    """The generator of one call; `draws`, int64, is a seed and the number of calls so far, which is raised."""
    seed, count = draws.tolist()
    draws[1] += 1
    return torch.Generator(device).manual_seed((seed * 1_000_003 + count) % (1 << 63))


def step_of(scale: Tensor, grid: Grid) -> Tensor:
    """The scale of the integers that a file holds for codes of `grid`: a logarithm's are multiples of its least."""
    return scale * 2.0 ** (1 - grid.levels) if isinstance(grid, LogGrid) else scale
