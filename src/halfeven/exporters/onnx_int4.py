"""ONNX QDQ with weights of few bits in four: what was trained to 4 bits and fewer, in half the room.

A network trained with `weight_bits` up to 4, binary or ternary has weights whose codes of 8 bits lie within -8..7. Here
these are INT4, two in a byte (opset 21), of the same scale, so that every value stays the same to the last bit:

    INT8 codes -> DequantizeLinear -> Conv         INT4 codes -> DequantizeLinear -> Conv

Weights with other codes stay INT8, as do lookup tables, whose Gather takes no INT4. ONNX Runtime has integer kernels
for INT8 weights only: with INT4 it makes weights real and computes in float. This file is for size, `qdq` for speed.

Sources: ONNX DequantizeLinear-21; onnxruntime 1.31 core/optimizer/qdq_transformer, run and compared.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Quantizer
from halfeven.graph.saving import save, spare
from halfeven.graph.weights import array_at
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import quantize
from halfeven.numerics.ragged import is_ragged
from halfeven.numerics.scheme import QParams
from halfeven.run.specs import external_files
from halfeven.wording import counted

INT4 = IntGrid(4)


def write_qdq_int4(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write the quantized model as ONNX QDQ, weights of at most 4 bits as INT4.

    Raises:
        UnsupportedByTarget: no weight fits 4 bits, or the target takes none of 4 bits; nothing is written.
    """
    narrowed, notes = in_int4(draft)
    spare(path, external_files(draft.model))
    save(to_qdq(narrowed), path)
    return notes


def in_int4(draft: Draft) -> tuple[Draft, tuple[str, ...]]:
    """The draft with the weights that fit planned as INT4 of the same scales, and a note.

    Raises:
        UnsupportedByTarget: none fits.
    """
    plan, done, left = draft.plan, 0, 0
    nodes = {node.name or "": node for node in draft.model.graph}
    for group, quantizer in draft.plan.groups.items():
        if quantizer.role != "weight":
            continue
        members = draft.plan.members(group)
        tables = any(nodes[site.consumer].op_type == "Gather" for site in members)
        found = [_narrow(quantizer, array_at(nodes[site.consumer], site.port)) for site in members]
        params = None if tables or None in found else found[0]
        done, left = done + (params is not None), left + (params is None)
        if params is not None:
            plan = plan.with_group(group, replace(quantizer, scheme=params.scheme, params=params))
    if not done:
        raise UnsupportedByTarget(
            "No weight has codes of 4 bits, so there is nothing to store as INT4. Train with weight_bits of at most 4, "
            "quantize with --bits 4 --conv-bits 4, or choose the format qdq."
        )
    more = f"; {counted(left, 'other')} need more bits" if left else ""
    return replace(draft, plan=plan), (f"{counted(done, 'weight')} of at most 4 bits stored as INT4{more}",)


def _narrow(quantizer: Quantizer, array: npt.NDArray[np.generic] | None) -> QParams | None:
    """The parameters of the same values in INT4, if all codes are of 4 bits."""
    params = quantizer.params
    if params is None or array is None or params.zero_point.any() or is_ragged(array.shape, params.scheme.tiling):
        return None
    if params.scheme.grid != INT4:
        codes = quantize(array.astype(np.float32), params)
        if codes.size and not (INT4.low <= codes.min() and codes.max() <= INT4.high):
            return None
    return replace(params, scheme=replace(params.scheme, grid=INT4))
