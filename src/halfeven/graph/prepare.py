"""Preparing: everything that can be settled about a float model before it is quantized, in one order.

    functions inlined -> names -> constants lifted, folded -> shapes -> channel affines and BatchNormalization folded
    -> dead code

The order matters. Names are given after inlining, as copies of a function's body share them, and before folding,
which looks values up by name. Shapes come after folding, which makes target shapes known, and before
BatchNormalization, which needs ranks. A scale or shift between a Conv and its BatchNormalization must go in first.

The prepared model computes what the source computes, but for the rounding of folded weights.
"""

import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.batchnorm import fold_batchnorm, fold_channel_affine
from halfeven.graph.constants import fold_constants, lift_constants
from halfeven.graph.edit import root_cause
from halfeven.graph.names import name_everything
from halfeven.graph.prune import remove_dead
from halfeven.graph.shapes import infer_shapes


def prepare(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """Simplify a float model without changing what it computes.

    Args:
        model: As `model.load` returns it; never changed.

    Returns:
        A new model, which shares unfolded tensors with the source, and notes for the user.

    Raises:
        UnsupportedModel: The model cannot be copied, as its nodes are not in the order of computation.
    """
    try:
        copy = model.clone()
    except Exception as error:
        raise UnsupportedModel(f"the model cannot be copied ({root_cause(error)}). Load it with 'load'.") from None
    notes = inline_functions(copy)
    name_everything(copy)
    notes += lift_constants(copy)
    notes += fold_constants(copy)
    notes += infer_shapes(copy)
    notes += fold_channel_affine(copy)
    notes += fold_batchnorm(copy)
    notes += fold_channel_affine(copy)
    remove_dead(copy)
    name_everything(copy)
    return copy, notes


def inline_functions(model: ir.Model) -> list[str]:
    """Replace calls of model-local functions by their bodies, in place.

    Returns:
        A note if some function cannot be inlined (it needs another opset, or calls itself); its calls then stay, as
        operators that no target knows.
    """
    if not model.functions:
        return []
    from onnx_ir.passes.common import InlinePass  # loads all passes, and ONNX's reference

    try:
        InlinePass()(model)
    except Exception as error:  # raised before the call it concerns is touched, so that the model stays whole
        return [f"model-local functions stay calls and in float ({root_cause(error)})"]
    return []
