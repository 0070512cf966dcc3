"""Correct: biases that make up for what rounded weights do to the mean, without data.

A layer with weights W + eps makes of inputs x an output whose mean is off by E[eps x] = eps E[x]. E[x] follows from the
BatchNormalization before (`steps.expected`), so that by channel

    b -= sum over the kernel of eps E[x]          eps = dequantize(quantize(W)) - W

(Nagel et al. 2019, arXiv:1906.04721, section 4.2, equations 8 to 14). What padding adds is taken for the rest. The
weights of these layers are rounded to nearest: second moments, which `gptq` would take from noise, are let go.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Draft, Progress, Samples
from halfeven.graph.plan import Site
from halfeven.graph.stored_biases import fit_biases
from halfeven.graph.weights import array_at, put_constant
from halfeven.numerics.ragged import fake_quantize_ragged
from halfeven.numerics.scheme import QParams
from halfeven.steps.absorb import response
from halfeven.steps.expected import expected
from halfeven.wording import counted

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Correct:
    """Without data: move biases by the mean error that rounded weights make, where the inputs' mean is known."""

    name: ClassVar[str] = "correct"

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with corrected biases. Needs parameters of weights (from Calibrate)."""
        means = expected(draft.model, draft.shapes).means
        model, plan, done = draft.model.clone(), draft.plan, []
        for node in model.graph:
            params = _params(draft, node)
            mean = means.get(node.inputs[0].name or "") if params is not None and node.inputs[0] is not None else None
            if params is None or mean is None:
                continue
            bias = array_at(node, 2)
            assert bias is not None
            new = bias.astype(np.float64) - mean_error(node, params, mean)
            plan = plan.reading(node.name or "", 2, put_constant(node, 2, new.astype(np.float32), model))
            done.append(node.name or "")
        if not done:
            return draft
        moments = {name: found for name, found in draft.moments.items() if name not in done}
        note = f"the biases of {counted(len(done), 'layer')} make up for rounded weights, by BatchNormalization's means"
        return replace(draft, model=model, plan=fit_biases(model, plan), moments=moments).noting(note)


def mean_error(node: ir.Node, params: QParams, mean: Doubles) -> Doubles:
    """What rounding a layer's weights adds to the mean of its outputs: inputs' means (C,) -> (outputs,)."""
    weight = array_at(node, 1)
    assert weight is not None
    x = weight.astype(np.float32)
    return response(node, fake_quantize_ragged(x, params).astype(np.float64) - x, mean)


def _params(draft: Draft, node: ir.Node) -> QParams | None:
    """How the weight of a layer with a constant bias is rounded."""
    if node.op_type not in ("Conv", "Gemm") or node.domain != "" or array_at(node, 2) is None:
        return None
    value = node.inputs[1]
    quantizer = draft.plan.at(Site(value.name or "", node.name or "", 1)) if value is not None else None
    return quantizer.rounding if quantizer is not None and quantizer.role == "weight" else None
