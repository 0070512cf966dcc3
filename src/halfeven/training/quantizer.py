"""A fake quantizer as a PyTorch layer: fixed, or with a learned scale and zero point.

    layer = FakeQuantizer.from_params(params_of(weight, scheme), learn_scale=True)
    layer(tensor)                  values that the codes can express, with gradients (`training.fake_quantize`)
    layer.to_params()              the QParams that were trained; unchanged ones come back exactly

    state             fixed              learned
    scale             buffer, float32    parameter, float32                                  ScaleRule.FREE
    log2_scale        -                  parameter, float32; scale = 2**ceil(log2_scale)     ScaleRule.POWER_OF_TWO
    log_gain          -                  parameter, float32, beside the buffer `scale`, which it multiplies by
                                         exp(log_gain)                  `logarithmic`, ScaleRule.FREE
    zero_point        buffer, int32      parameter, float32; zero point = rint(zero_point)   codes of at most 16 bits
    least             -                  buffer, float32: what a scale that is learned is held at; a state_dict without
                                         it, as old ones are, leaves it as it is
    threshold         buffer, float32    -                         ternary codes; NaN where it is half the scale
    low, high         buffers, float32   -                         `moving`: the range that scale and zero point are of
    draws             buffer, int64      -                         stochastic `method`: seed and number of calls
    _extra_state      int64, (2,)        int64, (2,)               in a state_dict only: `following`, `extra_bits`

Gradients. That of the scale is LSQ's (Esser et al. 2020, arXiv:1902.08153, equation 3), times 1 / sqrt(N * Q) for N the
elements that share a scale in the call and Q the highest code (its section 2.2; for codes that are no integers, the
largest value at scale 1); that of the zero point is LSQ+'s (Bhalgat et al. 2020, arXiv:2004.09576), times the same. For
a power of two it is that of the logarithm, scale * ln 2 times the scale's, where ceil counts as the identity, and no
factor (Jain et al. 2020, TQT, arXiv:1903.08066, equations 7 and 8; TQT calls inside what rounds to a code). `gradient`
replaces the factor. Rounding the zero point counts as the identity too. `training.methods` has other gradients.

`moving` is the share c of a range that is new in each training call: range = (1 - c) * old + c * that of the tensor,
and parameters by `numerics.quantize.params_for`; 1 is for weights, whose range is known. Binary and ternary codes get
the means of `params_of`. `following = False` is the freeze. (Jacob et al. 2018, arXiv:1712.05877, section 3.1.)

`extra_bits` e gives integer codes so many more bits for a while: scale / 2**e and zero_point * 2**e on a grid of e bits
more, which has all the values of the own one and the same range, up to a step.

An optimizer may leave what is allowed: scales of at least 1/1024 of what they began with, and finite, logarithms from
-126 to 127, zero points that are codes. What has left is held at the end that it crossed, and gets a gradient only if
descent leads back; `held_scales` counts such scales.

Scales stay float32 in a model that is moved to half precision: they are parts of a grid, not of a network.
"""

# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np

from halfeven.errors import BadOption
from halfeven.numerics.binary import BinaryGrid, TernaryGrid
from halfeven.numerics.grid import Grid, IntGrid
from halfeven.numerics.lsq import OPEN
from halfeven.numerics.native import Ends
from halfeven.numerics.quantize import params_for, params_of
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme
from halfeven.training.fake_quantize import clamped, fake_quantize
from halfeven.training.methods import Method, clip_learned, generator, softened, squeezed, tile_range
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.rounding import How
from halfeven.training.scales import LOG2_ENDS, Gained, Held, PowerOfTwo

LEAST, MOST = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)
SHARE = 2.0**-10  # of what a scale began with: it is held there when a step of the optimizer would make it less


class FakeQuantizer(torch.nn.Module):
    """Rounds what passes to the values of a scheme's codes; scale 1 and zero point 0 until parameters are loaded.

    Args:
        scheme: Grid, tiling, and what is free.
        scale_shape: `scheme.tiling.scale_shape(x.shape)` of the tensors that will pass; () for one scale in all.
        learn_scale: Whether the scale is a parameter to train.
        logarithmic: Learn a factor on the scale by its logarithm: a step of the optimizer then changes small and large
            scales by the same share, and none becomes 0, as those of weights do when Adam moves them by its rate.
        learn_zero_point: Whether the zero point is one; for affine integers of at most 16 bits.
        rounding: A rule, or a torch.Generator on the tensors' device: stochastic in training, half-even in evaluation.
        gradient: What the gradients of scale and zero point are multiplied with; None means the factor of the module.
        method: What else differs from LSQ; see `training.methods`.
        moving: The share of the range that is new in each call; 0: ranges do not move. Then nothing is learned.
        seed: Of a stochastic method.

    Raises:
        BadOption: a zero point that cannot be learned, a method or a rounding for codes that have no such, or a range
            that moves while its scale is learned.
    """

    def __init__(
        self,
        scheme: Scheme[Grid],
        scale_shape: tuple[int, ...] = (),
        *,
        learn_scale: bool = False,
        logarithmic: bool = False,
        learn_zero_point: bool = False,
        rounding: How = Rounding.HALF_EVEN,
        gradient: float | None = None,
        method: Method = Method(),  # noqa: B008 (frozen)
        moving: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if moving and (learn_scale or learn_zero_point):
            raise BadOption(
                "FakeQuantizer: a range moves with the data, or scale and zero point are learned; not both."
            )
        if (method.clip or method.stochastic) and not isinstance(scheme.grid, IntGrid):
            raise BadOption(f"FakeQuantizer: pact and stochastic are for integer codes, not for {scheme.grid}.")
        if learn_zero_point and (scheme.symmetric or scheme.grid.bits > 16):
            raise BadOption(f"FakeQuantizer: the zero point of {scheme} cannot be learned; affine codes can.")
        self.scheme, self.rounding, self.gradient, self.method = scheme, rounding, gradient, method
        self.moving, self.following, self.extra_bits = moving, moving > 0, 0
        self.log2 = learn_scale and scheme.scale is ScaleRule.POWER_OF_TWO
        one = torch.ones(scale_shape, dtype=torch.float32)
        beside = learn_scale and logarithmic and not self.log2
        self._hold("log2_scale" if self.log2 else "scale", one - 1 if self.log2 else one, learn_scale and not beside)
        own = learn_scale and not self.log2 and not beside
        self.register_buffer("least", torch.full_like(one, LEAST) if own else None)
        self.register_parameter("log_gain", torch.nn.Parameter(torch.zeros_like(one)) if beside else None)
        zero = torch.zeros(scale_shape, dtype=torch.float32 if learn_zero_point else torch.int32)
        self._hold("zero_point", zero, learn_zero_point)
        self.register_buffer("threshold", one * torch.nan if isinstance(scheme.grid, TernaryGrid) else None)
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros_like(one) if moving else None)
        self.register_buffer("draws", torch.tensor([seed, 0]) if method.stochastic else None)

    def _hold(self, name: str, value: Tensor, learned: bool) -> None:
        if learned:
            self.register_parameter(name, torch.nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @classmethod
    def from_params(cls, params: QParams[Grid], **options: Any) -> "FakeQuantizer":
        """A fake quantizer that begins at `params`; `options` are those of the class.

        Raises:
            BadOption: options that do not fit, or a scale to learn that should be a power of two and is none.
        """
        layer = cls(params.scheme, params.scale.shape, **options)
        scale = torch.tensor(params.scale)
        with torch.no_grad():
            layer.zero_point.copy_(torch.tensor(params.zero_point))
            if params.threshold is not None:
                layer.threshold.copy_(torch.tensor(params.threshold))
            if not layer.log2:
                layer.scale.copy_(scale)
                if layer.least is not None:
                    layer.least.copy_((scale * SHARE).clamp_min(LEAST))
                layer._begin_range()
                return layer
            mantissa, exponent = torch.frexp(scale)
            if not bool(((mantissa == 0.5) & (exponent - 1 >= LOG2_ENDS[0])).all()):
                raise BadOption(
                    f"FakeQuantizer: scales of {params.scheme} are 2**-126 to 2**127, found {params.scale.ravel()[:4]}."
                )
            layer.log2_scale.copy_(exponent - 1)
        return layer

    def to_params(self, stretch: Tensor | None = None) -> QParams[Grid]:
        """Scale and zero point as they are now; `stretch` as for `forward`.

        Raises:
            BadOption: training has made a scale infinite or NaN.
        """
        with torch.no_grad():
            scale, zero_point = (part.cpu().numpy().copy() for part in self.scale_and_zero_point(stretch))
        unset = self.threshold is None or bool(self.threshold.isnan().all())
        limit = None if unset else self.threshold.cpu().numpy().copy()
        return QParams(self.scheme, scale, zero_point.astype(np.int32), limit)

    def scale_and_zero_point(self, stretch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the next call uses, float32 and whole numbers, as differentiable functions of what is learned."""
        scale = PowerOfTwo.apply(self.log2_scale) if self.log2 else self.scale
        if self.log_gain is not None:
            scale = Gained.apply(scale, self.log_gain)
        if isinstance(scale, torch.nn.Parameter):
            scale = Held.apply(scale, self.least, MOST, False)
        if stretch is not None and self._stretches(stretch):
            scale = scale * stretch.reshape(scale.shape)
        zero_point, grid = self.zero_point, self.scheme.grid
        if isinstance(zero_point, torch.nn.Parameter) and isinstance(grid, IntGrid):
            zero_point = Held.apply(zero_point, grid.low, grid.high, True)
        return scale, zero_point

    def held_scales(self) -> int:
        """How many scales training has driven to nothing or below, so that they are held at the least."""
        return 0 if self.least is None else int((self.scale <= self.least).sum())

    def _stretches(self, stretch: Tensor) -> bool:
        """Whether each channel has a scale of its own, which may be any number."""
        return self.zero_point.numel() == stretch.numel() and self.scheme.scale is ScaleRule.FREE and not self.moving

    def forward(
        self, x: Tensor, clamp: Ends = OPEN, stretch: Tensor | None = None, rounding: Rounding | None = None
    ) -> Tensor:
        """The nearest values, of `x`'s shape and dtype; of `x` held to the ends of `clamp`, if it is given.

        `stretch`, above zero, multiplies the scale of each channel; a shared scale, a power of two, or one that moves
        stays as it is. `rounding` is the rule of this call, in place of the layer's; a stochastic method draws still.

        Raises:
            BadOption: a tensor that the scale's shape does not fit.
            BadCalibration: a range that moves has become infinite or NaN.
        """
        own = self.rounding if self.training or isinstance(self.rounding, Rounding) else Rounding.HALF_EVEN
        how = own if rounding is None else rounding
        if self.method != Method(stochastic=self.method.stochastic):  # they look at x more than once
            x, clamp = clamped(x, clamp), OPEN
        if self.training and self.following:
            self._follow(x, clamp)
        if self.training and self.draws is not None:
            how = generator(self.draws, x.device)
        return self._rounded(x, how, clamp, stretch)

    def values(self, x: Tensor, stretch: Tensor | None = None) -> Tensor:
        """What evaluation makes of `x`, without gradients; nothing moves."""
        how = self.rounding if isinstance(self.rounding, Rounding) else Rounding.HALF_EVEN
        with torch.no_grad():
            return self._rounded(x, how, OPEN, stretch)

    def _rounded(self, x: Tensor, how: How, clamp: Ends, stretch: Tensor | None) -> Tensor:
        scale, zero_point = self.scale_and_zero_point(stretch)
        if self.moving:  # the next call moves them in place, and this one's gradient needs what they are now
            scale, zero_point = scale.clone(), zero_point.clone()
        grid, limit = self.scheme.grid, self.threshold
        if self.extra_bits and isinstance(grid, IntGrid):
            grid = IntGrid(grid.bits + self.extra_bits, grid.signed, grid.narrow)
            scale, zero_point = scale / (1 << self.extra_bits), zero_point * (1 << self.extra_bits)
        learned = scale
        if limit is not None:
            limit = torch.where(limit.isnan(), scale.detach() / 2, limit)
        if self.method.tanh:
            x = squeezed(x, scale, 1.0 if isinstance(grid, BinaryGrid | TernaryGrid) else float(grid.high))
        if self.method.soft and isinstance(grid, IntGrid):
            x = softened(x, scale.detach())
        if self.method.clip:
            scale = scale.detach()
        factor = self._factor(x)
        found = fake_quantize(x, scale, zero_point, grid, threshold=limit, rounding=how, gradient=factor, clamp=clamp)
        if self.method.clip and isinstance(grid, IntGrid):
            return clip_learned(found, x, learned, zero_point.detach(), grid, factor)
        return found

    def _begin_range(self) -> None:
        """The range that the parameters are of."""
        if self.low is None or isinstance(self.scheme.grid, BinaryGrid | TernaryGrid):
            return
        top, zero = float(self.scheme.grid.high), self.zero_point
        low = self.scheme.grid.low - zero if isinstance(self.scheme.grid, IntGrid) else -top - zero
        self.low.copy_(low * self.scale)
        self.high.copy_((top - zero) * self.scale)

    @torch.no_grad()
    def _follow(self, x: Tensor, clamp: Ends) -> None:
        """Move the range by what `x` holds inside the clamp, and scale and zero point with it."""
        if not x.numel():
            return
        if isinstance(self.scheme.grid, BinaryGrid | TernaryGrid):
            params = params_of(clamped(x.detach(), clamp).float().cpu().numpy(), self.scheme)
        else:
            for end, new in zip((self.low, self.high), tile_range(x, tuple(self.scale.shape)), strict=True):
                end.lerp_(new.clamp(*clamp), self.moving)
            params = params_for(self.low.cpu().numpy(), self.high.cpu().numpy(), self.scheme)
        self.scale.copy_(torch.from_numpy(params.scale).reshape(self.scale.shape))
        self.zero_point.copy_(torch.from_numpy(params.zero_point).reshape(self.scale.shape))
        if params.threshold is not None:
            self.threshold.copy_(torch.from_numpy(params.threshold))

    def _factor(self, x: Tensor) -> float:
        """LSQ's 1 / sqrt(N * Q); 1 for the logarithm of a scale, and for methods that have none."""
        if self.gradient is not None or self.log2 or self.method.clip or self.method.tanh:
            return 1.0 if self.gradient is None else self.gradient
        grid = self.scheme.grid
        top = 1.0 if isinstance(grid, BinaryGrid | TernaryGrid) else max(float(grid.high), 1.0)
        return 1.0 / sqrt(max(x.numel() / max(self.zero_point.numel(), 1), 1.0) * top)

    def get_extra_state(self) -> Tensor:
        """What a state_dict holds besides parameters and buffers."""
        return torch.tensor([self.following, self.extra_bits], dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take it from a state_dict; ranges that do not move here are not followed either."""
        following, self.extra_bits = state.tolist()
        self.following = bool(following) and self.moving > 0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As of any module; `least`, which files from before it was stored lack, stays as it is then."""
        if self.least is not None and f"{prefix}scale" in state_dict:
            state_dict.setdefault(f"{prefix}least", self.least)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """`int8 symmetric per-channel, scale learned`."""
        learned = [name for name, _ in self.named_parameters()]
        return f"{self.scheme}, {' and '.join(learned) or 'nothing'} learned"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FakeQuantizer":
        """Move to a device, and leave the dtype."""

        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return found if found.dtype == tensor.dtype else tensor.to(found.device)

        super()._apply(moved, recurse)
        return self
