"""Whether two models can be compared: what the second is fed, which shapes must agree, and what cannot run here."""

import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.errors import UnsupportedModel
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import Executor

OPEN_ENDED = frozenset({"NonMaxSuppression", "NonZero", "Unique", "Compress", "TopK", "Range", "If", "Loop", "Scan"})
"""Operators, and bodies, from which an output may get a length that depends on the data."""
KNOWN = ("", "ai.onnx", "com.microsoft")


def as_fed(first: OrtExecutor, second: OrtExecutor) -> Executor:
    """The second model, to be given the first one's feeds: real ones are cast where it takes others."""
    widths = second.widths
    if widths == first.widths:
        return second

    def run(feeds: Batch, label: str = "") -> Batch:
        return second({name: x.astype(widths.get(name, x.dtype), copy=False) for name, x in feeds.items()}, label)

    return run


def settled(model: object) -> bool:
    """Whether the shapes that a model gives follow from those that it is fed."""
    nodes = list(model.graph.all_nodes()) if isinstance(model, ir.Model) else []
    return bool(nodes) and not any(node.op_type in OPEN_ENDED or node.domain not in KNOWN for node in nodes)


def unverified(model: ir.Model, error: UnsupportedModel) -> str:
    """A sentence on why a model in bfloat16 could not be compared here.

    Raises:
        UnsupportedModel: `error`, if that is not the reason.
    """
    values = (v for node in model.graph.all_nodes() for v in (*node.inputs, *node.outputs))
    if not any(v is not None and v.dtype is ir.DataType.BFLOAT16 for v in values):
        raise error
    why = str(error).split(" Check that", maxsplit=1)[0].rstrip(".")
    return f"not verified, as ONNX Runtime has no bfloat16 kernels on this machine; verify it where there are ({why})"
