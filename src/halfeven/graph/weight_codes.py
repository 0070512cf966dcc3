"""Weights in codes of few bits: where their scales begin, and what stands for them in a file.

    weight_bits    codes                                          in the file
    1, "binary"    the sign (XNOR-Net, arXiv:1603.05279)          -1, 1                    scale alpha
    "ternary"      -1, 0, 1 (arXiv:1605.04711)                    the same                 scale alpha
    "log2"         0 and signed powers of two, of 4 bits          0, 1, 2, 4, ... 64       scale alpha / 64
    2..7           integers                                       the same

A plan may also give each weight its own (`Quantizer.bits`), as a search does; then these are its integers.

Every one of these values is a code times the scale, exactly, so that a file of 8-bit codes holds what was trained.
Scales begin where the squared error is least: of integers at one of twenty shares of the range, channel by channel.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.errors import BadCalibration
from halfeven.graph.plan import Plan
from halfeven.graph.weights import array_at, put_constant
from halfeven.numerics.binary import BinaryGrid, TernaryGrid
from halfeven.numerics.grid import Grid
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.quantize import fake_quantize, params_of
from halfeven.numerics.ragged import fake_quantize_ragged
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme

WEIGHT_CODES: Mapping[int | str, Grid] = {
    1: BinaryGrid(),
    "binary": BinaryGrid(),
    "ternary": TernaryGrid(),
    "log2": LogGrid(4),
}
SHARES = np.arange(1, 21) / 20


def weight_params(model: ir.Model, plan: Plan, group: int, grid: Grid) -> QParams[Grid]:
    """Where the scale of a weight group begins in codes of `grid`: that of the least squared error.

    Raises:
        BadCalibration: the weight is not finite.
    """
    nodes = {node.name: node for node in model.graph}
    site = plan.members(group)[0]
    array = array_at(nodes[site.consumer], site.port)
    assert array is not None
    x, own = array.astype(np.float32), plan.groups[group].scheme
    if not np.isfinite(x).all():
        raise BadCalibration(f"Weight '{site.value}' holds NaN or infinity; it cannot be quantized.")
    scheme: Scheme[Grid] = Scheme(grid, own.tiling, own.scale, own.zero_point)
    covering = params_of(x, scheme)
    if isinstance(grid, BinaryGrid | TernaryGrid) or own.scale is not ScaleRule.FREE or not own.symmetric:
        return covering
    tried = [replace(covering, scale=covering.scale * np.float32(share)) for share in SHARES]
    errors = np.stack([_errors(x, params) for params in tried])
    best = np.argmin(errors, axis=0)
    scale = covering.scale * SHARES.astype(np.float32)[best].reshape(covering.scale.shape)
    return replace(covering, scale=np.maximum(scale, np.finfo(np.float32).tiny))


def within_bits(model: ir.Model, plan: Plan) -> tuple[ir.Model, Plan]:
    """A model whose weights of fewer bits than their scheme's have the values of their codes, and the plan of schemes.

    What is made of the two stores no other codes. They are given back as they are where no weight has `bits`, or those
    that have are not calibrated yet.
    """
    held = {group: q for group, q in plan.groups.items() if q.bits is not None and q.params is not None}
    if not held:
        return model, plan
    model = model.clone()
    nodes = {node.name: node for node in model.graph}
    for site, group in sorted(plan.sites.items()):
        if group not in held:
            continue
        node, rounding = nodes[site.consumer], held[group].rounding
        array = array_at(node, site.port)
        assert array is not None
        assert rounding is not None
        values = fake_quantize_ragged(array.astype(np.float32), rounding).astype(array.dtype)
        plan = plan.reading(site.consumer, site.port, put_constant(node, site.port, values, model))
    groups = {group: replace(q, bits=None) if group in held else q for group, q in plan.groups.items()}
    return model, replace(plan, groups=groups)


def _errors(x: npt.NDArray[np.float32], params: QParams[Grid]) -> npt.NDArray[np.float64]:
    """Squared error over what shares a scale, of the scale's shape."""
    squares = np.square((fake_quantize(x, params) - x).astype(np.float64))
    view = [d for n, size in zip(params.scale.shape, x.shape, strict=True) for d in (n, size // n if n else 0)]
    return np.asarray(squares.reshape(view).sum(tuple(range(1, 2 * x.ndim, 2))))
