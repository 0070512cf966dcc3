"""Questions about the nodes of an exported graph, and the nodes that rewriting it makes.

A Transpose puts channels last by [0, 2, 3, 1], and behind the batch by [0, 3, 1, 2], for rank 4; so for any rank.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def to_last(rank: int) -> list[int]:
    """The permutation that puts channels last."""
    return [0, *range(2, rank), 1]


def to_first(rank: int) -> list[int]:
    """The permutation that puts them behind the batch."""
    return [0, rank - 1, *range(1, rank - 1)]


def transposed(value: ir.Value, perm: Sequence[int]) -> ir.Node:
    """A Transpose, in no graph yet."""
    node = ir.node("Transpose", [value], {"perm": list(perm)})
    node.outputs[0].type = value.type
    if value.shape is not None:
        node.outputs[0].shape = ir.Shape([value.shape[axis] for axis in perm])
    return node


def perm_of(node: ir.Node) -> list[int]:
    """How a Transpose orders the axes."""
    value = node.inputs[0]
    rank = 0 if value is None or value.shape is None else value.shape.rank()
    return list(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))


def integers(value: ir.Value | None) -> list[int] | None:
    """The integers of an initializer."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return [int(i) for i in value.const_value.numpy().reshape(-1)]


def put_constant(node: ir.Node, port: int, array: npt.NDArray[Any]) -> None:
    """Let an input of `node` be this array."""
    made = ir.node("Constant", [], {"value": ir.tensor(np.ascontiguousarray(array))})
    made.metadata_props.update(node.metadata_props)
    assert node.graph is not None
    node.graph.insert_before(node, made)
    node.replace_input_with(port, made.outputs[0])


def maker_of(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that computes `value`, if it is of that kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and not node.domain else None


def first_input(node: ir.Node | None) -> ir.Value | None:
    """What a node, if there is one, reads first."""
    return None if node is None else node.inputs[0]


def only_reader(node: ir.Node | None, op_type: str) -> ir.Node | None:
    """The one node that reads the result of `node`, if it is of that kind."""
    if node is None or node.outputs[0].is_graph_output() or len(uses := tuple(node.outputs[0].uses())) != 1:
        return None
    return uses[0].node if uses[0].node.op_type == op_type else None
