"""From ONNX with QuantizeLinear (Q) and DequantizeLinear (DQ), by whatever tool, to a float model and a plan.

Integer operators (QLinearConv, QGemm, ...) are unfolded to such pairs first: `graph.unfold`.

    value -> Q -> DQ -> readers          a site: the value as all its readers see it, or as each of these does
    codes, constant -> DQ -> reader      a float32 initializer and a site of role weight, or bias (int32, at its port)
    number, constant -> Q -> DQ -> ...   the same, from the numbers that stand there
    codes -> DQ -> Transpose -> ...      the constant transposed
    Q -> Reshape, MaxPool, ... -> DQ     codes moved: Q -> DQ -> the operator -> Q -> DQ, which moves the same codes
    Q -> DQ -> Q -> DQ                   nothing more if the parameters are the same, else Identity between the pairs
    input of codes -> DQ, Q -> output    a float input or output; a note says so

The plan's parameters are pinned, so `halfeven.exporters.onnx.to_qdq` writes a graph that computes the same integers.
Sites whose pairs read one scale initializer are one group. Values get the names that they had before they were
quantized, where the names of Q and DQ tell (`x_quantized`, `x_QuantizeLinear_Output`). Types that a file cannot state,
a narrow grid and whether a zero point of 0 was chosen, are taken from the target's table where it has a scheme for the
file's codes. A Q or DQ whose scale is computed, or of half precision, whose codes are no integers, or whose codes an
integer operator reads, stays as it is, and a note says so.
"""

from pathlib import Path

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedModel
from halfeven.graph.constants import fold_constants, lift_constants
from halfeven.graph.model import load
from halfeven.graph.names import name_everything
from halfeven.graph.plan import Plan
from halfeven.graph.prepare import inline_functions
from halfeven.graph.shapes import infer_shapes
from halfeven.graph.unfold import on_codes, unfold
from halfeven.importers.qdq_moves import clamps_first
from halfeven.importers.qdq_pairs import Reading
from halfeven.targets.target import Target


def draft_of(model: ir.Model, target: Target) -> Draft:
    """The float model and the plan that a QDQ or QOperator model stands for; `model` is left as it is.

    Raises:
        UnsupportedModel: it has no Q or DQ with constant scales, or one of them makes no sense.
    """
    copy = model.clone()
    notes = inline_functions(copy)
    name_everything(copy)
    notes += lift_constants(copy)
    notes += fold_constants(copy)
    if unfold(copy):
        clamps_first(copy)
        name_everything(copy)
    reading = Reading(copy, target)
    plan = reading.plan()
    if not plan.sites:
        refuse_codes(copy)
        raise UnsupportedModel(
            "The model has no QuantizeLinear or DequantizeLinear with constant scales, so there is no plan in it. "
            "`halfeven quantize` makes one of a float model."
        )
    name_everything(copy)
    infer_shapes(copy)
    return Draft(copy, target, plan).noting(*notes, *reading.said())


def refuse_codes(model: ir.Model) -> None:
    """Refuse an integer operator that is left because it has no QDQ form.

    Raises:
        UnsupportedModel: there is one.
    """
    left = next((node for node in model.graph if on_codes(node)), None)
    if left is not None:
        raise UnsupportedModel(
            f"{left.op_type} '{left.name}' computes on codes in a form that no plan can hold, so that no other "
            "file can be written of it. Give the model in QDQ form, with QuantizeLinear and DequantizeLinear."
        )


def plan_of_onnx(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan in a QDQ file; of a float `model` nothing is needed."""
    return draft_of(load(path), target).plan


def plan_of_json(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """A plan that Halfeven saved."""
    return Plan.load(path)
