"""Placement of weights alone: which are stored in few bits, and which layers quantize what they read in each run.

    mode          weights                              activations                       what the runtime computes in
    static        int8                                 scales from data                  integers
    dynamic       int8, by output channel              uint8, scales found in each run   integers, between floats
    weight-only   int8 by output channel, or int8 or   float                             float, after the codes were
                  int4 by blocks along the sum                                           made real: smaller, seldom
                                                                                         faster
    float         float                                float                             float

MatMul and Gemm take blocks, 4 bits and zero points, convolutions if they are asked for in 4 bits; else these, lookup
tables and recurrent weights are int8, one scale for each output channel (of a recurrent network: for each gate of each
unit and direction). A depthwise convolution has nothing to make blocks of. A last block may
be shorter than the others. `dynamic` takes MatMul, Gemm and LSTM, and convolutions where size is preferred: their
integer kernels without constant scales are slower than float. GRU and RNN have no dynamic operator in ONNX Runtime; in
that mode they stay float.

Neither weight-only nor dynamic needs data; with data, `gptq` rounds the weights of both by what the layers read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import BadCalibration, BadOption
from halfeven.graph import ops
from halfeven.graph.plan import DYNAMIC, LPBQ, Plan, Quantizer, Site
from halfeven.graph.weights import array_at
from halfeven.numerics.grid import INT8_NARROW, UINT8, IntGrid
from halfeven.numerics.lpbq import lpbq_params
from halfeven.numerics.ragged import is_ragged, ragged_params
from halfeven.numerics.scheme import PER_TENSOR, Scheme, ZeroRule, per_channel, per_group

Mode: TypeAlias = Literal["static", "dynamic", "weight-only", "float"]
BLOCKS = (16, 32, 64, 128)
HALVED_CODES = IntGrid(4)
MOVING = Scheme(UINT8, zero_point=ZeroRule.FREE)
SAID = {
    "dynamic": "activations are quantized anew in each run, at the cost of a pass over what each layer reads; its "
    "matrix products are of integers",
    "weight-only": "only weights are quantized: the file is smaller; the runtime makes them real and computes in "
    "float, no faster, in ONNX Runtime slower unless session.disable_quant_qdq is 1",
    "float": "nothing is quantized",
}
"""What each mode means for size and speed, as a note for the user."""


@dataclass(frozen=True)
class Packing:
    """How weights of matrix products are stored; `whole`: 4-bit weights in blocks have scales of `numerics.lpbq`.

    Raises:
        BadOption: bits that are not 4 or 8, a block that is not 0, 16, 32, 64 or 128, or nothing whose scales could be
            whole multiples.
    """

    bits: int = 8
    block: int = 0
    affine: bool = False
    conv_bits: int = 8
    whole: bool = False

    def __post_init__(self) -> None:
        for flag, bits in (("--bits", self.bits), ("--conv-bits", self.conv_bits)):
            if bits not in (4, 8):
                raise BadOption(f"{flag} {bits}: weights alone are stored in 4 or 8 bits.")
        if self.block not in (0, *BLOCKS):
            raise BadOption(f"--block {self.block}: choose one of {', '.join(map(str, BLOCKS))}, or 0 for none.")
        if self.whole and (not self.block or self.affine or 4 not in (self.bits, self.conv_bits)):
            raise BadOption(
                "--block-scales integer is of weights of 4 bits in blocks without zero points: give --bits 4 (or "
                "--conv-bits 4) and --block, and no --zero-points free."
            )

    def scheme(self, rank: int, output: int | None, summed: int) -> Scheme:
        """The scheme of a weight of `rank` axes: a scale for each index of `output`, or for runs along `summed`."""
        grid = IntGrid(self.bits, signed=False) if self.affine else INT8_NARROW if self.bits == 8 else HALVED_CODES
        if self.block:
            tiling = per_group(rank, summed, self.block)
        else:
            tiling = PER_TENSOR if output is None else per_channel(output)
        return Scheme(grid, tiling, zero_point=ZeroRule.FREE if self.affine else ZeroRule.NONE)

    def for_convolution(self, shape: tuple[int, ...], output: int | None) -> Scheme:
        """The scheme of a convolution's weight; of 8 bits by channel, of 4 in blocks where a block has channels."""
        if self.conv_bits == 8:
            return Scheme(INT8_NARROW, PER_TENSOR if output is None else per_channel(output))
        summed = 1 if output == 0 else 0
        blocked = self.block if output is not None and self.block <= shape[summed] else 0
        whole = self.whole and blocked > 0
        return replace(self, bits=self.conv_bits, block=blocked, whole=whole).scheme(len(shape), output, summed)


def place_weights(draft: Draft, mode: Mode, kept: Mapping[str, str], packing: Packing, *, every: bool) -> Draft:
    """The draft with a plan of one of the modes that quantize no activation by a constant scale.

    Args:
        draft: Prepared.
        mode: Any but static.
        kept: Nodes that stay float, with the reason.
        packing: For weight-only.
        every: For dynamic: convolutions too.

    Raises:
        BadCalibration: a weight holds NaN or infinity.
    """
    quantizers: dict[Site, Quantizer] = {}
    floats: dict[str, str] = {}
    for node in draft.model.graph:
        reason = kept.get(node.name or "") or _refusal(node, mode, every=every)
        if reason:
            floats[node.name or ""] = reason
            continue
        for port, scheme in _schemes(node, packing if mode == "weight-only" else Packing()):
            quantizers[Site(_name(node, port), node.name or "", port)] = _weight(node, port, scheme, packing.whole)
        if mode == "dynamic" and node.op_type != "Gather":
            site, what = Site(_name(node, 0), node.name or "", 0), f"input of {node.op_type} '{node.name}'"
            quantizers[site] = Quantizer(MOVING, f"{what}, quantized in each run", "activation", method=DYNAMIC)
    plan = _grouped(quantizers)
    floats.update({name: why for name, why in kept.items() if name not in floats})
    return replace(draft, plan=replace(plan, floats=floats)).noting(SAID[mode], *_plain(draft, plan, packing, mode))


def _refusal(node: ir.Node, mode: Mode, *, every: bool) -> str:
    """Why a node has no weights that are quantized; empty where it has."""
    op = node.op_type
    if node.domain != "" or mode == "float":
        return "nothing is quantized" if mode == "float" else f"operator {node.domain}.{op} has no form here"
    if ops.has_codes(node):
        return "its weights are codes in the source model already; left as they are"
    recurrent = op in ops.RECURRENT_OPS and all(_is_weight(node, port) for port in (1, 2))
    if ops.weight_port(node) is None and not recurrent:
        return "computes in float: it has no constant weights"
    if mode == "weight-only" or op == "Gather":
        return "" if op != "Gather" or ops.weight_axis(node, 0) is not None else "its table is not looked up by rows"
    if op in ("GRU", "RNN"):
        return f"ONNX Runtime has no dynamically quantized {op}"
    if op == "ConvTranspose":
        return "there is no integer ConvTranspose"
    if op == "Conv":
        return "" if every else "a dynamically quantized Conv is slower than float; --prefer size takes it"
    return _shape_refusal(node)


def _shape_refusal(node: ir.Node) -> str:
    """Why MatMulInteger or DynamicQuantizeLSTM cannot stand for a node."""
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "layout": 0}
    odd = [name for name, usual in plain.items() if ops.attribute(node, name, usual) != usual]
    if odd:
        return f"the integer operator has no {odd[0]}"
    if node.op_type == "MatMul" and ops.weight_port(node) != 1:
        return "its weight is the first factor; integer kernels take it as the second"
    return ""


def _is_weight(node: ir.Node, port: int) -> bool:
    tensor = ops.constant_of(node.inputs[port]) if port < len(node.inputs) else None
    return tensor is not None and tensor.dtype in ops.FLOATS and len(tensor.shape) == 3


def _schemes(node: ir.Node, packing: Packing) -> Iterable[tuple[int, Scheme]]:
    """The weights of a node, by port, with their scheme."""
    if node.op_type in ops.RECURRENT_OPS:
        for port in (1, 2):
            directions, _, inputs = _shape(node, port)
            tiling = per_channel(1) if directions == 1 else per_group(3, 2, inputs)
            yield port, Scheme(INT8_NARROW, tiling)
        return
    weight = ops.weight_port(node)
    assert weight is not None
    axis, rank = ops.weight_axis(node, weight), len(_shape(node, weight))
    if node.op_type in ("MatMul", "Gemm"):
        transposed = node.op_type == "Gemm" and ops.attribute(node, "transB", 0)
        summed = rank - 1 if weight == 0 or transposed else rank - 2
        yield weight, packing.scheme(rank, axis, summed)
    else:
        convolution = node.op_type != "Gather"
        yield weight, (packing if convolution else Packing()).for_convolution(_shape(node, weight), axis)


def _weight(node: ir.Node, port: int, scheme: Scheme, whole: bool) -> Quantizer:
    """The quantizer of a weight; with parameters where Calibrate, which finds those of min-max, would give no such."""
    reason, shape = f"weight of {node.op_type} '{node.name}'", _shape(node, port)
    channel = ops.weight_axis(node, port)
    lpbq = whole and channel is not None and scheme.grid.bits == 4 and any(run > 1 for _, run in scheme.tiling.tiles)
    if not lpbq and not is_ragged(shape, scheme.tiling):
        return Quantizer(scheme, reason, "weight")
    array = array_at(node, port)
    assert array is not None
    x = array.astype(np.float32)
    if not np.isfinite(x).all():
        raise BadCalibration(f"Weight '{_name(node, port)}' holds NaN or infinity; it cannot be quantized.")
    if lpbq and channel is not None:
        return Quantizer(scheme, reason, "weight", lpbq_params(x, scheme, channel), LPBQ)
    return Quantizer(scheme, reason, "weight", ragged_params(x, scheme), "minmax")


def _grouped(quantizers: Mapping[Site, Quantizer]) -> Plan:
    """A plan: a group for each weight, shared by the nodes that read it alike, and one for each activation."""
    ids: dict[object, int] = {}
    groups: dict[int, Quantizer] = {}
    sites: dict[Site, int] = {}
    for site, quantizer in quantizers.items():
        group = ids.setdefault((site.value, quantizer.role, quantizer.scheme), len(ids))
        groups.setdefault(group, quantizer)
        sites[site] = group
    return Plan(groups, sites)


def _plain(draft: Draft, plan: Plan, packing: Packing, mode: Mode) -> list[str]:
    """What is stored otherwise than asked for."""
    asked = mode == "weight-only" and (packing.bits < 8 or packing.block or packing.affine)
    layers = {site.consumer for site, group in plan.sites.items() if plan.groups[group].role == "weight"}
    odd = {n.op_type for n in draft.model.graph if n.name in layers} - {"MatMul", "Gemm"}
    odd -= {"Conv", "ConvTranspose"} if packing.conv_bits == 4 else set()
    if not asked or not odd:
        return []
    return [f"weights of {', '.join(sorted(odd))} are int8, one scale for each output channel, whatever --bits says"]


def _name(node: ir.Node, port: int) -> str:
    value = node.inputs[port]
    return (value.name or "") if value is not None else ""


def _shape(node: ir.Node, port: int) -> tuple[int, ...]:
    tensor = ops.constant_of(node.inputs[port])
    assert tensor is not None
    return ops.dims_of(tensor)
