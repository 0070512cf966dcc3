"""Tensors that preparing a graph made of others: transposed, reshaped, joined weights.

Exporters to ONNX write a weight as the module holds it, and operators that turn it into what a layer reads; preparing
folds these into one constant. To train the module's own tensors under their own names, the folded constants are
computed from them again, in every forward pass, by the operators that were folded.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from halfeven.graph.constants import fold_constants, lift_constants
from halfeven.graph.names import name_everything
from halfeven.graph.plan import Plan
from halfeven.graph.prepare import inline_functions
from halfeven.training.operators import OPERATORS
from halfeven.training.program import TRAINED, Instruction, instruction_of, tensor_of
from halfeven.training.pytorch import Tensor


@dataclass(frozen=True)
class Derived:
    """Instructions that compute the tensors `made`, the tensors these begin with, and what is made of no weight.

    What is made of no weight are constants that an exporter writes as a number and an Expand, say.

    Holds: `weights` are floating-point initializers of the source with several elements, or of `parameters`; `settings`
    are the others.
    """

    instructions: tuple[Instruction, ...]
    made: frozenset[str]
    weights: dict[str, Tensor]
    settings: dict[str, Tensor]
    unlearned: frozenset[str]


def derived(source: ir.Model, folded: Collection[str], parameters: Collection[str] = ()) -> Derived:
    """How initializers `folded` of a prepared graph come from those of its source, `parameters` of a module or not."""
    model = source.clone()
    inline_functions(model)
    name_everything(model)
    lift_constants(model)
    given = set(model.graph.initializers)
    model.graph.inputs.extend(v for v in model.graph.initializers.values() if is_weight(v, parameters))  # else folded
    fold_constants(model)
    makers = {value.name: node for node in model.graph for value in node.outputs}
    chosen: set[ir.Node] = set()
    made, unlearned = set(), set()
    weights: dict[str, Tensor] = {}
    settings: dict[str, Tensor] = {}
    for name in folded:
        if name in model.graph.initializers and name not in given:
            unlearned.add(name)
        if name not in makers:
            continue
        nodes, leaves = _ancestry(makers[name])
        if nodes is None:
            continue
        learned = {v.name: v for v in leaves if is_weight(v, parameters)}
        if not learned:
            unlearned.add(name)
            continue
        made.add(name)
        chosen |= nodes
        for value in leaves:
            tensor = value.const_value
            assert tensor is not None
            (weights if value.name in learned else settings)[value.name or ""] = tensor_of(tensor)
    instructions = tuple(instruction_of(node, Plan()) for node in model.graph if node in chosen)
    return Derived(instructions, frozenset(made), weights, settings, frozenset(unlearned))


def _ancestry(last: ir.Node) -> tuple[set[ir.Node] | None, list[ir.Value]]:
    """The nodes that a constant comes from, and the initializers they begin with; None if data have a part in it."""
    nodes: set[ir.Node] = set()
    leaves: list[ir.Value] = []
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node in nodes:
            continue
        if node.domain or node.op_type not in OPERATORS:
            return None, []
        nodes.add(node)
        for value in node.inputs:
            if value is None:
                continue
            maker = value.producer()
            if maker is not None:
                waiting.append(maker)
            elif value.const_value is not None:
                leaves.append(value)
            else:
                return None, []
    return nodes, leaves


def is_weight(value: ir.Value, parameters: Collection[str] = ()) -> bool:
    """Whether a value is a floating-point constant of several elements, or of one and among `parameters`."""
    tensor = value.const_value
    if tensor is None or tensor.dtype not in TRAINED:
        return False
    count = int(np.prod(tensor.shape.numpy()))
    return count > 1 or (count == 1 and value.name in parameters)
