"""Fix positions of Vitis AI's quantizer (quant_info.json): powers of two for Xilinx' DPU.

    {param: {NAME: [[bits, fix]]}, output: {NAME: [[bits, fix]]}, input: {}, fast_finetuned: false,
     bias_corrected: true, version}

    value = code * 2**-fix, codes -2**(bits - 1) .. 2**(bits - 1) - 1

Per-tensor all of it: weights, biases and outputs, eight bits. A layer's accumulator has fix = fix(input) + fix(weight);
the DPU shifts the bias left by what is missing to that, adds it and shifts right to the output:

    shift_bias = fix(input) + fix(weight) - fix(bias)       in min(0, shift_cut - 16) .. 16
    shift_cut  = fix(input) + fix(weight) - fix(output)     in 0 .. 16

What lies outside is refused: the DPU has no such shift. Vitis' own quantizer moves fix positions instead. NAME of an
output is, there, that of a node of the traced PyTorch module; here it is the ONNX value's, so a file for vai_q_pytorch
itself must be renamed. Weights round half away from zero (method 3), feature maps half up (method 2).
Source: Vitis-AI 3.5 nndct_shared/quantization/quant_info.py (DPUQConfigImp) and pytorch_nndct's TORCHQuantizer.
"""

import json
from pathlib import Path

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.tables.entries import entries_of, write_table
from halfeven.graph import ops
from halfeven.graph.encodings import Encoding, written
from halfeven.wording import counted

MOST_SHIFT = 16
Fix = tuple[int, int]


def write_fix_positions(draft: Draft, path: Path) -> tuple[str, ...]:
    """Fix positions of all quantized tensors.

    Raises:
        BadOption: a scale is no power of two, or an activation has a zero point.
        UnsupportedByTarget: a tensor has scales by channel, or a layer needs a shift that the DPU does not have.
    """
    fixes = {entry.name: _fix(entry) for entry in entries_of(draft)}
    nodes = [node for node in draft.model.graph if ops.is_layer(node)]
    for node in nodes:
        _check_shifts(node, fixes)
    constants = draft.model.graph.initializers
    param = {name: [list(fix)] for name, fix in fixes.items() if name in constants}
    output = {name: [list(fix)] for name, fix in fixes.items() if name not in constants}
    flags = {"fast_finetuned": False, "bias_corrected": True, "version": "halfeven"}
    data = {"param": param, "output": output, "input": {}, **flags}
    notes = write_table(draft, path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    if left := sum(node.op_type == "Min" for node in draft.model.graph):
        notes.append(
            f"{counted(left, 'Min operator')} left to the host: equalized, a ReLU6 has a bound for each channel, "
            "which the DPU lacks; --skip equalize keeps ReLU6, at a cost in accuracy"
        )
    return tuple(notes)


def _fix(entry: Encoding) -> Fix:
    if entry.params.scale.size != 1:
        raise UnsupportedByTarget(
            f"'{entry.name}' has {entry.params.scale.size} scales; a fix position is one for the whole tensor. "
            "Quantize with --target vitis-dpu."
        )
    return entry.params.scheme.grid.bits, int(written(entry, "shift")[0]["shift"])


def _check_shifts(node: ir.Node, fixes: dict[str, Fix]) -> None:
    """Refuse a layer whose accumulator the DPU cannot bring to its output or its bias."""
    weight, data = ops.weight_port(node), ops.data_ports(node)
    bias, end = ops.bias_of(node), _end(node, fixes)
    names = [node.inputs[port] for port in (*data[:1], *([] if weight is None else [weight]))]
    known = [fixes[v.name or ""][1] for v in names if v is not None and v.name in fixes]
    if len(known) != 2:
        return
    if end is not None and not 0 <= (cut := sum(known) - end[1]) <= MOST_SHIFT:
        raise UnsupportedByTarget(_out_of_reach(node, "output", cut, 0))
    low = min(0, sum(known) - end[1] - MOST_SHIFT) if end is not None else 0
    fix = None if bias is None else fixes.get(bias.name or "")
    if fix is not None and not low <= (shift := sum(known) - fix[1]) <= MOST_SHIFT:
        raise UnsupportedByTarget(_out_of_reach(node, "bias", shift, low))


def _end(node: ir.Node, fixes: dict[str, Fix]) -> Fix | None:
    """The fix position of what a layer hands on, behind activations that only it feeds."""
    value = node.outputs[0]
    while (value.name or "") not in fixes:
        uses = list(value.uses())
        if len(uses) != 1 or uses[0].node.op_type not in ("Relu", "Clip", "LeakyRelu"):
            return None
        value = uses[0].node.outputs[0]
    return fixes[value.name or ""]


def _out_of_reach(node: ir.Node, what: str, shift: int, low: int) -> str:
    return (
        f"{node.op_type} '{node.name}': a shift of {shift} bits would be needed to its {what}, and the DPU has "
        f"{low} to {MOST_SHIFT}. Keep the layer float with --keep-float, or calibrate with another method."
    )
