"""What MNN's converter takes and then computes wrongly: refused by this table, and by one run of what was written.

    MaxPool, AveragePool    dilations: they are dropped; auto_pad SAME_LOWER: pads as SAME_UPPER does
    Resize nearest          a coordinate between two elements: ceil takes the lower, round_prefer_ceil too at a tie
    Resize cubic            exact where no coordinate is below zero (asymmetric, align_corners, or smaller by
                            half_pixel), with a coefficient of -0.75 and without exclude_outside
    Resize, antialias       is dropped, which shows where the output is smaller
    ReduceL1, L2, ...       axes that are an input are not read; kept axes are dropped
    Shrink                  gives other numbers

`prove` runs the file beside the QDQ network, on the sample that the draft was traced with or, if there is none, on a
synthetic one. An output parts if MNN adds more noise than quantization did, or more than 20 dB below the signal; in
that case, or if its shape differs, the file is not written. Source: MNN 3.6.1, operator by operator, in float32.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.data.synthetic import Synthetic
from halfeven.draft import Batch, Draft
from halfeven.errors import BadCalibration, QuantError, UnsupportedByTarget
from halfeven.exporters.onnx import to_qdq
from halfeven.graph import ops
from halfeven.graph.weights import array_at
from halfeven.run.mnn import open_mnn
from halfeven.run.ort import OrtExecutor
from halfeven.run.specs import index_limits, input_specs
from halfeven.stats.distance import sqnr_db

POOLS = ("MaxPool", "AveragePool")
NORMS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
CUBIC = -0.75
ENOUGH = 20.0
"""dB to the QDQ network that are enough, whatever quantization cost."""
TWICE = 6.0
"""dB: noise of twice the size."""

Shapes = Mapping[str, tuple[int, ...]]
Places = npt.NDArray[np.float64]
Array = npt.NDArray[np.generic]


def refuse_wrong(draft: Draft) -> None:
    """Refuse a network with an operator that MNN computes wrongly.

    Raises:
        UnsupportedByTarget: names the first one.
    """
    for node in draft.model.graph:
        reason = wrong(node, draft.shapes) if node.domain == "" else ""
        if reason:
            raise UnsupportedByTarget(
                f"{node.op_type} '{node.name}': MNN computes it wrongly, {reason}; export to another format, or "
                "replace the operator."
            )


def wrong(node: ir.Node, shapes: Shapes) -> str:
    """What MNN does wrongly with a node; empty: nothing that is known."""
    if node.op_type in POOLS:
        if any(step != 1 for step in ops.attribute(node, "dilations", ())):
            return "as it drops the dilations"
        return "as it pads SAME_LOWER behind" if ops.attribute(node, "auto_pad", "") == "SAME_LOWER" else ""
    if node.op_type in NORMS:
        kept = ops.attribute(node, "keepdims", 1) or "axes" not in node.attributes
        return "as it reads axes from an attribute alone and keeps none" if kept else ""
    if node.op_type == "Resize":
        return _wrong_resize(node, shapes)
    return "with other numbers" if node.op_type == "Shrink" else ""


def _wrong_resize(node: ir.Node, shapes: Shapes) -> str:
    axes = [places for places in _coordinates(node, shapes) if places is not None]
    mode = ops.attribute(node, "mode", "nearest")
    smaller = any(places.size == 1 or np.diff(places).max(initial=0) > 1 for places in axes)
    if ops.attribute(node, "antialias", 0) and smaller:
        return "as it drops antialias"
    if mode == "cubic":
        plain = ops.attribute(node, "cubic_coeff_a", CUBIC) == CUBIC and not ops.attribute(node, "exclude_outside", 0)
        inside = all(places.min(initial=0) >= 0 for places in axes)
        return "" if plain and inside else "as its cubic interpolation is exact for other coordinates alone"
    if mode != "nearest":
        return ""
    rest = [places - np.floor(places) for places in axes]
    rule = ops.attribute(node, "nearest_mode", "round_prefer_floor")
    if rule == "ceil" and any((part > 0).any() for part in rest):
        return "as it has no nearest_mode ceil"
    ties = rule == "round_prefer_ceil" and any((part == 0.5).any() for part in rest)
    return "as it rounds ties down, not by round_prefer_ceil" if ties else ""


def _coordinates(node: ir.Node, shapes: Shapes) -> list[Places | None]:
    """Of each axis that a Resize changes, where its output's elements lie in the input; None: not known."""
    before, after = (shapes.get(value.name or "") if value is not None else None
                     for value in (node.inputs[0], node.outputs[0]))  # fmt: skip
    if before is None or after is None:
        return []
    given = array_at(node, 2) if len(node.inputs) > 2 else None
    factors: list[float] = [m / n for n, m in zip(before, after, strict=True)]
    if given is not None and given.size == len(before):
        factors = [float(factor) for factor in given]
    how = ops.attribute(node, "coordinate_transformation_mode", "half_pixel")
    return [_places(n, m, s, how) for n, m, s in zip(before, after, factors, strict=True) if n != m]


def _places(before: int, after: int, factor: float, how: str) -> Places | None:
    where = np.arange(after, dtype=np.float64)
    if how == "asymmetric":
        return where / factor
    if how == "align_corners":
        return where * (before - 1) / max(after - 1, 1)
    if how == "pytorch_half_pixel" and after == 1:
        return np.zeros(1)
    return (where + 0.5) / factor - 0.5 if how in ("half_pixel", "pytorch_half_pixel") else None


def prove(draft: Draft, path: Path) -> tuple[str, ...]:
    """Run the file at `path` beside the QDQ network of the draft; a note where there is nothing to compare it with.

    Raises:
        UnsupportedByTarget: MNN cannot run it, or an output parts; names the first one.
    """
    feeds = _sample(draft)
    try:
        quantized, floating = OrtExecutor(to_qdq(draft), optimize=False)(feeds), OrtExecutor(draft.model)(feeds)
    except QuantError as error:
        return (f"what MNN computes of the file was not compared, as the QDQ network does not run: {error}",)
    try:
        found = open_mnn(path)(feeds)
    except BadCalibration as error:
        raise UnsupportedByTarget(f"MNN cannot run what its converter makes of the network: {error}") from error
    for name, expected in quantized.items():
        if apart := _apart(expected, found.get(name), floating[name]):
            raise UnsupportedByTarget(
                f"MNN computes output '{name}' of the converted network wrongly, {apart}, so no file was written: "
                "export to another format."
            )
    return ()


def _apart(expected: Array, found: Array | None, real: Array) -> str:
    """How an output parts from the QDQ network's; empty: it does not."""
    if found is None:
        return "which it does not give"
    if found.shape != expected.shape:
        return f"of shape {found.shape}, where {expected.shape} was expected"
    if expected.dtype.kind != "f" or not (np.isfinite(expected).all() and np.isfinite(real).all()):
        return ""
    least = min(sqnr_db(real, expected) - TWICE, ENOUGH)
    kept = sqnr_db(expected, found)
    return "" if kept >= least else f"with {kept:.1f} dB SQNR to the QDQ network, where {least:.1f} were expected"


def _sample(draft: Draft) -> Batch:
    """The sample that the draft was traced with, else a synthetic one of the same shapes."""
    specs = input_specs(draft.model)
    if all(spec.name in draft.sample for spec in specs):
        return {spec.name: np.asarray(draft.sample[spec.name]).astype(spec.dtype, copy=False) for spec in specs}
    known = [type(spec)(spec.name, spec.dtype, draft.shapes.get(spec.name, spec.shape)) for spec in specs]
    return next(iter(Synthetic(known, index_limits(draft.model), 1)))[1]
