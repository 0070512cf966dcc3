"""A model run in pieces, so that what is watched of one piece is seen before it leaves the caches.

Outputs of a model that is run as a whole go to memory and come back from there: a tenth of the time in which a small
network is watched. So the graph is cut wherever about `PIECE` bytes of watched values have been made. The pieces run
one after the other, each into the same memory but for what later ones read, and compute what the whole computes: they
hold the nodes of a graph that is already optimised.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.errors import BadCalibration
from halfeven.graph import edit
from halfeven.run.ort import OrtExecutor, refused
from halfeven.run.reused import Ground, Part, ReusedOutputs

PIECE = 10 << 20  # bytes
MOST = 8  # pieces: each is a session, and of values that fit into no cache nothing is gained
FLOAT = ir.TensorType(ir.DataType.FLOAT)  # of values without a type at a border: those that the runtime puts in blocks
BLOCKS = "com.microsoft.nchwc"  # the domain of operators on them


@dataclass(frozen=True)
class Piece:
    """A part of a model: it reads feeds and what earlier pieces made; later ones read `kept`."""

    model: ir.Model
    reads: tuple[str, ...]
    kept: frozenset[str]


@dataclass(frozen=True)
class InPieces:
    """Runs pieces in a row."""

    pieces: tuple[tuple[Piece, ReusedOutputs], ...]

    @classmethod
    def of(cls, pieces: Sequence[Piece], threads: int) -> "InPieces":
        """Sessions that run the pieces as they are written.

        Raises:
            UnsupportedModel: the runtime cannot load one.
        """
        ground = Ground(PIECE) if len(pieces) > 1 else None
        made = []
        for piece in pieces:
            names = tuple(v.name or "" for v in piece.model.graph.outputs)
            run = OrtExecutor(piece.model, names, threads, optimize=False)
            run.outputs  # noqa: B018  reads the weights, whose file may not stay
            made.append((piece, ReusedOutputs(run, ground, piece.kept)))
        return cls(tuple(made))

    def __call__(self, feeds: Batch, label: str = "") -> Iterator[Part]:
        """The outputs of each piece, which stand until the next is asked for; raises what `OrtExecutor` does."""
        known = dict(feeds)
        for piece, run in self.pieces:
            try:
                part = run({name: known[name] for name in piece.reads if name in known}, label)
            except BadCalibration as error:  # it names what the piece reads
                raise refused(feeds, label, error.__cause__) from error.__cause__
            known.update((name, part.values[name]) for name in piece.kept)
            yield part


def whole(model: ir.Model) -> Piece:
    """The model as one piece."""
    return Piece(model, tuple(v.name or "" for v in model.graph.inputs), frozenset())


def split(model: ir.Model, sizes: Mapping[str, int]) -> list[Piece]:
    """The model in pieces whose outputs have about `PIECE` bytes, or more, as `sizes` tells of values by name.

    A model with nodes that hold graphs, or with an output that no node makes, stays whole. No border lies between what
    makes and what reads a value that is no tensor, or of which nobody knows the type.
    """
    if not _divisible(model):
        return [whole(model)]
    nodes, borders, held = list(model.graph), [0], 0
    made = [sum(sizes.get(v.name or "", 0) for v in node.outputs if v.is_graph_output()) for node in nodes]
    full, closed = max(PIECE, sum(made) // MOST), _closed(nodes)
    for i, more in enumerate(made):
        if held and held + more > full and i not in closed:
            borders.append(i)
            held = 0
        held += more
    if len(borders) == 1:
        return [whole(model)]
    place = np.searchsorted(borders, np.arange(len(nodes)), "right") - 1
    return [_cut_out(model, place.tolist(), number) for number in range(len(borders))]


def _divisible(model: ir.Model) -> bool:
    makers = [value.producer() for value in model.graph.outputs]
    return None not in makers and not any(True for node in model.graph for _ in edit.subgraphs(node))


def _closed(nodes: Sequence[ir.Node]) -> set[int]:
    """The nodes before which no border may lie."""
    at, closed, blocked = {node: i for i, node in enumerate(nodes)}, set[int](), set[ir.Value]()
    for node in nodes:
        for value in node.outputs:
            if value.type is None and (node.domain == BLOCKS or not blocked.isdisjoint(v for v in node.inputs if v)):
                blocked.add(value)  # the runtime made it, and only of float32
            elif not isinstance(value.type, ir.TensorType):
                closed.update(range(at[node] + 1, max((at[use.node] for use in value.uses()), default=0) + 1))
    return closed


def _cut_out(model: ir.Model, place: Sequence[int], number: int) -> Piece:
    """The piece of this number, of a model whose nodes lie in the pieces `place`."""
    clone = model.clone()
    graph, nodes = clone.graph, list(clone.graph)
    at = dict(zip(nodes, place, strict=True))
    mine = [node for node in nodes if at[node] == number]
    read = dict.fromkeys(v for node in mine for v in node.inputs if v is not None)
    made = [v for node in mine for v in node.outputs]
    kept = [v for v in made if any(at[use.node] > number for use in v.uses())]
    outputs = [v for v in graph.outputs if v in made]
    inputs = [v for v in graph.inputs if v in read and v.name not in graph.initializers]
    graph.outputs[:] = [*outputs, *(v for v in kept if v not in outputs)]
    for value in [v for v in read if (maker := v.producer()) is not None and at[maker] != number]:
        value.replace_all_uses_with(given := ir.Value(name=value.name, type=value.type or FLOAT))
        inputs.append(given)
    graph.inputs[:] = inputs
    for node in reversed([node for node in nodes if at[node] != number]):
        graph.remove(node, safe=True)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return Piece(clone, tuple(v.name or "" for v in inputs), frozenset(v.name or "" for v in kept))
