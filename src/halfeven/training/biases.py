"""The codes of biases in training: in every forward pass those that the exported file will hold.

    scheme in the plan    scale
    FREE                  input scale * weight scale, that of the accumulator, channel by channel
    POWER_OF_TWO          max(least power of two that covers the bias, the largest of those), as `graph.stored_biases`

A scale that a plan gives a bias of its own is kept where scales are not trained (`scales="fixed"`). Else the scale is
made anew in each pass, of the bias and the two other scales as they are, and no gradient passes through it. So a bias
is never cut, however far training moves it, and has no state. TQT learns thresholds (Jain et al. 2020,
arXiv:1903.08066); one for a bias would have little to gain, as cutting the largest shifts a whole channel, and would
get no gradient while a normalization is alive behind the layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from halfeven.graph.plan import Plan, Quantizer
from halfeven.graph.stored_biases import METHOD, fit_biases
from halfeven.numerics.scheme import ScaleRule, Scheme
from halfeven.training.fake_quantize import fake_quantize
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.scales import covering_power


@dataclass(frozen=True)
class BiasCodes:
    """How the biases of a group become codes; `own` is the scale that nothing changes, if there is one."""

    scheme: Scheme
    own: tuple[float, ...] = ()

    def values(self, bias: Tensor, data: Tensor, weight: Tensor) -> Tensor:
        """The values of the codes of `bias`, of its shape; `data` and `weight`: the scales of the layer's operands."""
        with torch.no_grad():
            scale = self._scale(bias, data.reshape(-1) * weight.reshape(-1))
            scale = scale.reshape((1,) * (bias.ndim - 1) + (-1,))
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return fake_quantize(bias, scale, zero, self.scheme.grid)

    def _scale(self, bias: Tensor, accumulator: Tensor) -> Tensor:
        if self.own:
            return torch.tensor(self.own, dtype=torch.float32, device=bias.device)
        if self.scheme.scale is not ScaleRule.POWER_OF_TWO:
            return accumulator
        return torch.maximum(covering_power(bias, self.scheme.grid), accumulator.amax()).reshape(1)


def bias_codes(groups: Mapping[int, Quantizer], *, fixed: bool) -> dict[int, BiasCodes]:
    """Those of the bias groups of a plan; `fixed`: scales are not trained, so what the plan gives a bias stays."""
    return {group: BiasCodes(q.scheme, _own(q) if fixed else ()) for group, q in groups.items() if q.role == "bias"}


def _own(quantizer: Quantizer) -> tuple[float, ...]:
    """The scale that a plan gives a bias and the rule would not."""
    if quantizer.params is None or quantizer.method == METHOD:
        return ()
    return tuple(np.ravel(quantizer.params.scale).tolist())


def with_biases(model: ir.Model, plan: Plan, biases: Mapping[int, BiasCodes]) -> Plan:
    """The plan of a trained model, whose biases have the scales of `biases`."""
    groups = dict(plan.groups)
    for group, codes in biases.items():
        if not codes.own:
            groups[group] = replace(groups[group], params=None, method="")
    return fit_biases(model, replace(plan, groups=groups))
