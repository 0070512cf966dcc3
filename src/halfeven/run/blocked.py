"""Watching a float model without bringing what is watched back into order.

ONNX Runtime runs convolutions on tensors whose channels lie in blocks of 8 or 16 (NCHWc), and puts an operator
ReorderOutput before everything that is to be as it is written. Reordering all that calibration watches costs more than
half as much as running a small network. So the optimised graph is taken from the runtime, each ReorderOutput of which
only the caller reads is cut off, and what stands before it is returned as it lies: [batch, channels / block, plane,
block]. How many channels a block has depends on the processor; a small convolution shows it. What is watched comes in
pieces (run/pieces.py).
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.weights import weigh
from halfeven.memory import give_back
from halfeven.run.ort import OrtExecutor
from halfeven.run.pieces import InPieces, split

PROBED = 64  # channels of the probe, a multiple of every block


@dataclass(frozen=True)
class Blocked:
    """A float model that gives the values of `names` as they lie."""

    run: InPieces
    names: Mapping[str, str]
    """What each watched value is called in the parts that `run` gives."""
    blocks: Mapping[str, int]
    """The block of each watched value that lies in blocks, by name."""


def blocked(model: ir.Model, watch: Mapping[str, int], threads: int) -> Blocked:
    """A session of the model from which `watch` comes as it lies; costs about twice as much to open as an ordinary one.

    `watch` gives for each value about how many bytes it has.

    Raises:
        UnsupportedModel: the runtime cannot load the model, or a value does not exist.
    """
    return _cut(model, watch, threads, _block())


def _cut(model: ir.Model, watch: Mapping[str, int], threads: int, block: int) -> Blocked:
    with tempfile.TemporaryDirectory(prefix="halfeven-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "optimized.onnx"
        OrtExecutor(model, tuple(watch), threads, written=path).outputs  # noqa: B018  writes the optimised graph
        give_back(weigh(model))  # the session is gone, and held the weights twice
        optimized = ir.load(path)
        inside = {name: _before(value, block) for value in optimized.graph.outputs if (name := value.name) in watch}
        found = {name: value for name, value in inside.items() if value is not None and name is not None}
        outputs = optimized.graph.outputs
        for i, value in enumerate(list(outputs)):
            if value.name in found:
                outputs[i] = found[value.name]
        for node in [n for n in optimized.graph if n.op_type == "ReorderOutput" and not _read(n.outputs[0])]:
            optimized.graph.remove(node, safe=True)
        names = {name: (found[name].name or "") if name in found else name for name in watch}
        pieces = split(optimized, {inside: watch[name] for name, inside in names.items()})
        return Blocked(InPieces.of(pieces, threads), names, dict.fromkeys(found, block))


def _before(value: ir.Value, block: int) -> ir.Value | None:
    """What is reordered to this value, if only the caller reads it and no channel is there to fill a block."""
    node = value.producer()
    if node is None or node.op_type != "ReorderOutput" or block == 1 or value.uses():
        return None
    channels, turned = ops.attribute(node, "channels", 0), ops.attribute(node, "channels_last", 0)
    return node.inputs[0] if channels and channels % block == 0 and not turned else None


def _read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


@cache
def _block() -> int:
    """How many channels lie together on this processor; 1 when the runtime has no such form."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    x_in = ir.Value(name="x", type=kind, shape=ir.Shape([1, PROBED, 2, 1]))
    eye = np.eye(PROBED, dtype=np.float32).reshape(PROBED, PROBED, 1, 1)
    weight = ir.Value(name="w", type=kind, shape=ir.Shape(eye.shape), const_value=ir.tensor(eye, name="w"))
    y = ir.Value(name="y", type=kind, shape=x_in.shape)
    conv = ir.Node("", "Conv", [x_in, weight], outputs=[y], name="probe")
    graph = ir.Graph([x_in], [y], nodes=[conv], initializers=[weight], opset_imports={"": 17}, name="probe")
    model = ir.Model(graph, ir_version=8)
    x = np.zeros((1, PROBED, 2, 1), np.float32)
    x[0, :, 1] = 1  # the second position: it lies as far from the first as a block is wide
    probe = _cut(model, {"y": 0}, 1, PROBED)
    (part,) = probe.run({"x": x})
    return int(np.argmax(np.ravel(part.values[probe.names["y"]])))
