"""A float graph as plain data that PyTorch can run: instructions in order, and the constants they read.

An `Instruction` is a node: operator, attributes as Python values, the names it reads and writes, and of each input the
group of the plan through whose quantizer it sees the value (None: as it is). Bodies of If are programs of their own,
which also read the names around them. Plain data can be copied and pickled, which a graph cannot.

Constants are of two kinds. Floating-point ones that operators read as data are parameters, to be trained, under the
names the graph gives them, if they have several elements or are parameters of a module; all others (shapes, indices,
bounds, epsilons) are fixed.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.plan import Plan, Site
from halfeven.training.operators import OPERATORS
from halfeven.training.pytorch import Tensor, torch

FIXED_PORTS: Mapping[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Pad": (1, 2, 3),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "BatchNormalization": (3, 4),
    "Range": (0, 1, 2),
    "OneHot": (1, 2),
}
"""Inputs that are settings even where they are floating-point."""
TRAINED = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Instruction:
    """One node."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    groups: tuple[int | None, ...]
    bodies: Mapping[str, "Program"] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """Instructions in order. `last`: after which of them a value is not needed any more.

    `preamble` makes weights of others, before all else: see `training.derived`.
    """

    instructions: tuple[Instruction, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_groups: tuple[int | None, ...] = ()
    last: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    preamble: tuple[Instruction, ...] = ()


@dataclass(frozen=True)
class Constants:
    """Tensors by name: those to train, and those that are settings.

    `single` are those of `fixed` that operators read as data: of these, a module's parameters alone are trained.
    """

    trained: Mapping[str, Tensor]
    fixed: Mapping[str, Tensor]
    single: frozenset[str] = frozenset()


def program_of(model: ir.Model, plan: Plan | None = None) -> Program:
    """The main graph as a program, its inputs seen through the quantizers of `plan`.

    Raises:
        UnsupportedModel: an operator that PyTorch does not run here; all such are named.
    """
    missing = sorted({_label(node) for node in _nodes(model.graph) if not _known(node)})
    if missing:
        raise UnsupportedModel(
            f"Training has no operator {', '.join(missing)}. Train the part of the network before it, or replace it."
        )
    return _program(model.graph, Plan() if plan is None else plan)


def constants_of(model: ir.Model, parameters: Collection[str] = ()) -> Constants:
    """Every initializer, and tensors in Constant nodes, as PyTorch tensors of their own.

    `parameters` are those of the module that the graph was made from: they are trained even with one element.
    """
    settings = {
        value.name
        for node in _nodes(model.graph)
        for port, value in enumerate(node.inputs)
        if value is not None and port in FIXED_PORTS.get(node.op_type, ())
    }
    trained: dict[str, Tensor] = {}
    fixed: dict[str, Tensor] = {}
    single = set()
    for graph in (model.graph, *model.graph.subgraphs()):
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                raise UnsupportedModel(f"Initializer '{name}' has no data. Give the files that hold the weights.")
            data, count = tensor.dtype in TRAINED and name not in settings, np.prod(tensor.shape.numpy())
            learned = data and (count > 1 or (count == 1 and name in parameters))
            (trained if learned else fixed)[name] = tensor_of(tensor)
            if data and count == 1 and not learned:
                single.add(name)
    return Constants(trained, fixed, frozenset(single))


def tensor_of(tensor: ir.TensorProtocol) -> Tensor:
    """A PyTorch tensor with the data of an ONNX tensor."""
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.tensor(tensor.numpy().astype(np.float32)).bfloat16()
    return torch.tensor(np.array(tensor.numpy()))


def _known(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx") and (node.op_type in OPERATORS or node.op_type in ("If", "Constant"))


def _label(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type} ('{node.name}')" if node.domain else f"{node.op_type} ('{node.name}')"


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    yield from graph.all_nodes()


def _program(graph: ir.Graph, plan: Plan) -> Program:
    instructions = tuple(instruction_of(node, plan) for node in graph)
    outputs = tuple(value.name or "" for value in graph.outputs)
    groups = tuple(plan.sites.get(Site(name)) for name in outputs)
    inputs = tuple(v.name or "" for v in graph.inputs if v.const_value is None)
    return Program(instructions, inputs, outputs, groups, _last_uses(instructions, outputs))


def instruction_of(node: ir.Node, plan: Plan) -> Instruction:
    """One node as an instruction, its inputs seen through the quantizers of `plan`."""
    attributes: dict[str, Any] = {"outputs": len(node.outputs)}
    bodies = {}
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            raise UnsupportedModel(f"{node.op_type} '{node.name}' belongs to a function that was not inlined.")
        if attribute.type == ir.AttributeType.GRAPH:
            bodies[name] = _program(attribute.as_graph(), Plan())
        elif attribute.type == ir.AttributeType.TENSOR:
            attributes[name] = tensor_of(attribute.as_tensor())
        else:
            value = attribute.value
            attributes[name] = tuple(value) if isinstance(value, list | tuple) else value
    if node.op_type == "Constant":
        attributes = {"value": _constant(attributes)}
    names = tuple("" if value is None else value.name or "" for value in node.inputs)
    groups = tuple(_group(plan, value, node.name or "", port) for port, value in enumerate(names))
    outputs = tuple(value.name or "" for value in node.outputs)
    return Instruction(node.op_type, node.name or "", names, outputs, attributes, groups, bodies)


def _constant(attributes: dict[str, Any]) -> Tensor:
    """The tensor of a Constant node."""
    for name, value in attributes.items():
        if name == "value":
            return value
        if name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
        if name in ("value_float", "value_floats"):
            return torch.tensor(value, dtype=torch.float32)
    raise UnsupportedModel(f"A Constant with {', '.join(attributes)} was found, which is no tensor of numbers.")


def _group(plan: Plan, value: str, node: str, port: int) -> int | None:
    own = plan.sites.get(Site(value, node, port))
    return own if own is not None or not value else plan.sites.get(Site(value))


def _reads(instruction: Instruction) -> Iterator[str]:
    yield from instruction.inputs
    for body in instruction.bodies.values():
        made = {name for inner in body.instructions for name in inner.outputs}
        for inner in body.instructions:
            yield from (name for name in _reads(inner) if name not in made)
        yield from (name for name in body.outputs if name not in made)


def _last_uses(instructions: tuple[Instruction, ...], outputs: tuple[str, ...]) -> dict[int, tuple[str, ...]]:
    """Which values can be let go after which instruction."""
    latest: dict[str, int] = {}
    for i, instruction in enumerate(instructions):
        latest.update(dict.fromkeys((*instruction.outputs, *_reads(instruction)), i))
    found: dict[int, tuple[str, ...]] = {}
    for name, i in latest.items():
        if name and name not in outputs:
            found[i] = (*found.get(i, ()), name)
    return found
