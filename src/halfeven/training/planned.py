"""From a quantizer of the plan to the fake quantizer that is trained."""

from typing import Literal

from halfeven.errors import BadOption
from halfeven.graph.plan import Quantizer
from halfeven.numerics.grid import Grid, IntGrid
from halfeven.numerics.scheme import QParams
from halfeven.training.methods import AVERAGE, method_of
from halfeven.training.quantizer import FakeQuantizer

Scales = Literal["log", "linear", "fixed", "moving"]


def planned(
    group: int, quantizer: Quantizer, params: QParams[Grid] | None, scales: Scales, learn_zero_point: bool, method: str
) -> FakeQuantizer:
    """The fake quantizer of a group, which begins at `params`; the other arguments are those of `QuantizedNetwork`.

    Raises:
        BadOption: there are no parameters: the plan was not calibrated.
    """
    if params is None:
        raise BadOption(f"Group {group} of the plan ({quantizer.reason}) has no scale: calibrate the plan first.")
    grid = params.scheme.grid
    zero = learn_zero_point and not params.scheme.symmetric and isinstance(grid, IntGrid) and grid.bits <= 16
    moving = scales == "moving"
    return FakeQuantizer.from_params(
        params,
        learn_scale=scales in ("log", "linear"),
        logarithmic=scales == "log",
        learn_zero_point=zero and not moving,
        method=method_of(method, quantizer.role, grid),
        moving=0.0 if not moving else 1.0 if quantizer.role == "weight" else AVERAGE,
        seed=group,
    )
