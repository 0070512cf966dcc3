"""Gptq: weights rounded one after another, each making up for the errors of those before.

Rounding to nearest minimises the error of the weights; what matters is the error of the layer's output. For a row w of
weights, codes q and inputs x that error is E[((w - q) . x)^2]. Where the bias may move, its mean part costs nothing and
the quadratic form is the covariance C of the inputs (stats/moments.py): b += (w - q) . E[x]. Frantar et al. 2022,
arXiv:2210.17323: in the order of columns j, with U the upper Cholesky factor of C^-1 (C^-1 = U^T U),

    q_j = quantize(w_j);   e = (w_j - q_j) / U_jj;   w_k -= e U_jk  for k > j               (eqs. 2, 3 of the paper)

C is damped by a share of its mean diagonal, and columns are taken from the largest variance to the least. A group of
channels (depthwise: each channel) has its own C. A weight that is zero stays zero, so that a pruned network stays
pruned; the weights behind take up its error. The result is kept only where it has less expected error than rounding to
nearest has, row by row, so the step can only help on the data it has seen.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Draft, Progress, Samples
from halfeven.graph import ops
from halfeven.graph.patches import matrix_of, weight_of
from halfeven.graph.plan import Site
from halfeven.graph.stored_biases import fit_biases
from halfeven.graph.weights import array_at, put_constant, shared
from halfeven.numerics.feedback import round_columns
from halfeven.numerics.quantize import dequantize, quantize, spread
from halfeven.numerics.ragged import is_ragged
from halfeven.numerics.scheme import QParams
from halfeven.run.samples import cores, in_order
from halfeven.stats.moments import Moments
from halfeven.wording import counted

Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
AT_ONCE = 2  # layers, each with a few matrices of the size of its second moments
BLOCK = 64  # columns
NEVER = 2.0**600  # the step of a pruned weight: whatever it takes up, its code is 0


class Rounded(NamedTuple):
    """What a layer gets: weights on their grid, of the shape they had, and the bias, if it has one."""

    weight: Singles
    bias: Singles | None


@dataclass(frozen=True)
class Gptq:
    """Round weights so that each layer's output, not each weight, is kept; move the bias by the mean error."""

    name: ClassVar[str] = "gptq"
    damping: float = 0.01
    """Share of the mean variance that is added to each; more trusts the data less."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with weights on their grids, and corrected biases. Needs `draft.moments` (from Observe)."""
        model = draft.model.clone()
        layers = [(node, g) for node in model.graph if (g := _weight_group(draft, node)) is not None]
        plan = draft.plan

        def work(layer: tuple[ir.Node, int]) -> Rounded | None:
            node, group = layer
            params = plan.groups[group].rounding
            return None if params is None else self._round(node, params, draft.moments[node.name or ""])

        for i, rounded in enumerate(in_order(work, layers, min(cores(), AT_ONCE))):
            node = layers[i][0]
            if rounded is not None:
                put_constant(node, 1, rounded.weight, model)
                if rounded.bias is not None:
                    plan = plan.reading(node.name or "", 2, put_constant(node, 2, rounded.bias, model))
            progress("round weights", i + 1, len(layers))
        left = sum(ops.is_layer(n) and n.name not in draft.plan.floats for n in model.graph) - len(layers)
        if layers and left > 0:
            draft = draft.noting(
                f"the weights of {counted(left, 'layer')} are rounded to nearest: no second moments were taken, or a "
                "block is short"
            )
        return replace(draft, model=model, plan=fit_biases(model, plan)) if layers else draft

    def _round(self, node: ir.Node, params: QParams, moments: Moments) -> Rounded:
        """Round one layer."""
        weight = array_at(node, 1)
        assert weight is not None
        bias = array_at(node, 2) if node.op_type in ("Conv", "Gemm") else None
        x = weight.astype(np.float32)
        matrix = matrix_of(node, x).astype(np.float64)
        scale, zero = (
            matrix_of(node, np.ascontiguousarray(spread(p, x.shape) * np.ones(x.shape))).astype(np.float64)
            for p in (params.scale, params.zero_point)
        )
        limits = params.scheme.grid.low, params.scheme.grid.high
        free = bias is not None
        form = moments.covariance if free else moments.gram / max(moments.count, 1)
        nearest = matrix_of(node, dequantize(quantize(x, params), params)).astype(np.float64)
        shifted = matrix + zero * scale  # with a zero point, w - (q - z) s = (w + z s) - q s
        pruned = matrix == 0
        steps = np.where(pruned & (zero == 0), NEVER, scale)
        found = np.where(pruned, 0.0, (solve_gptq(shifted, steps, form, limits, self.damping) - zero) * scale)
        better = _error(matrix - found, form) < _error(matrix - nearest, form)
        chosen = np.where(better[:, :, None], found, nearest)
        if bias is not None:
            bias = bias + np.einsum("gok,gk->go", matrix - chosen, moments.mean).reshape(bias.shape)
        return Rounded(
            weight_of(node, chosen, x.shape).astype(np.float32), None if bias is None else bias.astype(np.float32)
        )


def _weight_group(draft: Draft, node: ir.Node) -> int | None:
    value = node.inputs[1] if len(node.inputs) > 1 else None
    moments = draft.moments.get(node.name or "")
    if value is None or moments is None or moments.count == 0 or shared(node, 1):
        return None
    group = draft.plan.sites.get(Site(value.name or "", node.name or "", 1))
    weight = ops.constant_of(value)
    if group is None or weight is None or is_ragged(ops.dims_of(weight), draft.plan.groups[group].scheme.tiling):
        return None
    return group


def _error(difference: Doubles, form: Doubles) -> Doubles:
    """d^T C d for each row: (groups, outputs, k) and (groups, k, k) -> (groups, outputs)."""
    return np.asarray(((difference @ form) * difference).sum(-1))


def solve_gptq(weight: Doubles, scale: Doubles, form: Doubles, limits: tuple[int, int], damping: float) -> Doubles:
    """Codes (symmetric, zero point 0) of least output error, as the module's text defines them.

    Args:
        weight: (groups, outputs, k).
        scale: the same shape, positive.
        form: (groups, k, k), symmetric, positive semidefinite.
        limits: lowest and highest code.
        damping: share of the mean diagonal added to it.

    Returns:
        Codes as floats, the shape of `weight`.
    """
    groups, _, k = weight.shape
    diagonal = np.einsum("gkk->gk", form)
    base = diagonal.mean(1, keepdims=True)
    base = np.where(base > 0, base, 1.0)
    form = form / base[:, :, None] + np.eye(k) * damping
    order = np.argsort(-diagonal, axis=1, kind="stable")
    rows = np.arange(groups)[:, None]
    form = form[rows[:, :, None], order[:, :, None], order[:, None, :]]
    factor = _factor(form)
    if factor is None:
        return np.clip(np.rint(weight / scale), *limits)
    left = np.take_along_axis(weight, order[:, None, :], 2)
    steps = np.take_along_axis(scale, order[:, None, :], 2)
    codes = np.empty_like(left)
    for start in range(0, k, BLOCK):
        stop = min(start + BLOCK, k)
        errors = round_columns(left, steps, factor, (start, stop), limits, codes)
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    back = np.argsort(order, axis=1)
    return np.take_along_axis(codes, back[:, None, :], 2)


def _factor(form: Doubles) -> Doubles | None:
    """U with form^-1 = U^T U, upper; None where the numbers do not allow it (NaN, infinities, no positive diagonal).

    With rows and columns in reverse, form = L L^T with L lower; its inverse, in reverse again, is U.
    """
    try:
        lower = np.linalg.cholesky(form[:, ::-1, ::-1]).astype(np.float64, copy=False)
        found = np.ascontiguousarray(_inverse(lower)[:, ::-1, ::-1])
    except np.linalg.LinAlgError:
        return None
    return found if np.isfinite(found).all() else None


def _inverse(lower: Doubles) -> Doubles:
    """Of lower triangular matrices (groups, k, k), by halves: a third of the work of inverting a whole matrix."""
    k = lower.shape[1]
    if k <= BLOCK:
        return np.tril(np.linalg.inv(lower))
    half = k // 2
    found = np.zeros_like(lower)
    found[:, :half, :half] = _inverse(lower[:, :half, :half])
    found[:, half:, half:] = _inverse(lower[:, half:, half:])
    found[:, half:, :half] = -(found[:, half:, half:] @ (lower[:, half:, :half] @ found[:, :half, :half]))
    return found
