"""Nodes named by the user: glob patterns on names, or operator types.

A name that is written out is itself, whatever characters it has: `layers[0]/fc` is no choice of characters.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from halfeven.errors import BadOption


def named(
    nodes: Iterable[ir.Node], patterns: Sequence[str], flag: str, none: str = "matches no node"
) -> dict[str, str]:
    """The names of the nodes that a pattern fits, each with the last such pattern.

    Raises:
        BadOption: a pattern fits none of `nodes`, as it is most likely a slip; `none` says so in the sentence.
    """
    nodes = list(nodes)
    found: dict[str, str] = {}
    for pattern in patterns:
        names = [node.name or "" for node in nodes if _fits(node, pattern)]
        if not names:
            raise BadOption(f"{flag} '{pattern}' {none}. `halfeven inspect` lists the names.")
        found.update(dict.fromkeys(names, pattern))
    return found


def _fits(node: ir.Node, pattern: str) -> bool:
    return pattern in (node.name, node.op_type) or fnmatchcase(node.name or "", pattern)
