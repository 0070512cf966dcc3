"""ONNX with com.microsoft MatMulNBits: matrix products whose weights stay codes of 4 or 8 bits until they are used.

    DequantizeLinear(codes) -> MatMul          MatMulNBits(A, B, scales, zero_points)
    DequantizeLinear(codes) -> Gemm            the same, then Add of the bias

The weight (K, N) is stored by columns, each in blocks of b along K, the last filled up with zeros:

    B            uint8 (N, ceil(K / b), b * bits / 8)      4 bits: the code of the lower k in the low half of a byte
    scales       float32 (N * ceil(K / b),)
    zero_points  uint8 (N * ceil(ceil(K / b) * bits / 8),) packed alike; left out where all are 2 ** (bits - 1)
    value        (code - zero_point) * scale               signed codes have 2 ** (bits - 1) added, zero points too

A scale for each output alone is given to each of its blocks of 128. `accuracy_level` 0 multiplies float32 by float32; 4
rounds the activations of each block to int8 in the kernel, which is faster and less exact. The kernel may add up in
another order than MatMul, so that outputs agree to float32's accuracy, not bit for bit.

Sources: ONNX Runtime, docs/ContribOperators.md, com.microsoft.MatMulNBits; its kernel was run and compared.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.onnx import to_qdq
from halfeven.graph import ops
from halfeven.graph.edit import add_initializer, drop_unread, take_over, unused, value_names
from halfeven.graph.saving import save, spare
from halfeven.numerics.packing import pack
from halfeven.run.specs import external_files
from halfeven.wording import counted

CONTRIB = "com.microsoft"
LENGTHS = (16, 32, 64, 128, 256)
WHOLE = 128
KINDS = {ir.DataType.INT4: (4, 8), ir.DataType.UINT4: (4, 0), ir.DataType.INT8: (8, 128), ir.DataType.UINT8: (8, 0)}
"""Bits of a code, and what makes it unsigned."""
Bytes = npt.NDArray[np.uint8]


def write_nbits(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write weight-only quantized matrix products as MatMulNBits, with float32 activations."""
    return _write(draft, path, 0)


def write_nbits_int8(draft: Draft, path: Path) -> tuple[str, ...]:
    """The same, with activations rounded to int8 in the kernel."""
    return _write(draft, path, 4)


def _write(draft: Draft, path: Path, accuracy: int) -> tuple[str, ...]:
    spare(path, external_files(draft.model))
    model, notes = to_nbits(to_qdq(draft), accuracy)
    save(model, path)
    return notes


def to_nbits(model: ir.Model, accuracy: int = 0) -> tuple[ir.Model, tuple[str, ...]]:
    """The model, rewritten in place, with MatMulNBits for each product by a dequantized constant; and notes.

    Raises:
        UnsupportedByTarget: there is no such product.
    """
    names, done, packed = value_names(model), 0, dict[ir.Value, list[ir.Value]]()
    for node in list(model.graph):
        if node.op_type not in ("MatMul", "Gemm") or node.domain != "":
            continue
        weight = _weight(node)
        if weight is not None:
            _replace(node, weight, accuracy, names, packed)
            done += 1
    if not done:
        raise UnsupportedByTarget(
            "The network has no matrix product whose weights alone are quantized, so MatMulNBits has nothing to hold. "
            "Quantize with --mode weight-only, or choose the format qdq."
        )
    for node in reversed(list(model.graph)):
        if node.op_type == "DequantizeLinear" and not any(v.uses() or v.is_graph_output() for v in node.outputs):
            model.graph.remove(node, safe=True)
    drop_unread(model.graph)
    model.opset_imports.setdefault(CONTRIB, 1)
    level = "rounded to int8 in the kernel" if accuracy == 4 else "in float32"
    return model, (f"{counted(done, 'matrix product')} became MatMulNBits, activations {level}",)


def _weight(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear of the second factor, if MatMulNBits can stand for the product."""
    usual = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if any(ops.attribute(node, name, value) != value for name, value in usual.items()):
        return None
    second, first = node.inputs[1], node.inputs[0]
    maker = second.producer() if second is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or len(maker.inputs) < 3:
        return None
    data = first.producer() if first is not None else None
    if data is not None and data.op_type == "DequantizeLinear":  # an integer layer: QLinearMatMul does it
        return None
    tensors = [ops.constant_of(value) for value in maker.inputs]
    if any(t is None for t in tensors) or tensors[0].dtype not in KINDS or len(tensors[0].shape) != 2:  # type: ignore[union-attr]
        return None
    length, axis = ops.attribute(maker, "block_size", 0), ops.attribute(maker, "axis", 1) % 2
    summed = 1 if ops.attribute(node, "transB", 0) else 0
    scalar = tensors[1] is not None and tensors[1].size == 1
    if length:
        return maker if axis == summed and length in LENGTHS else None
    return maker if scalar or axis != summed else None


def _replace(
    node: ir.Node, dequantize: ir.Node, accuracy: int, names: set[str], packed: dict[ir.Value, list[ir.Value]]
) -> None:
    codes, scale, zero = (ops.constant_of(value) for value in dequantize.inputs[:3])
    assert codes is not None
    assert scale is not None
    assert zero is not None
    assert isinstance(node.graph, ir.Graph)
    flipped = bool(ops.attribute(node, "transB", 0))
    length = int(ops.attribute(dequantize, "block_size", 0))
    bits, shift = KINDS[ir.DataType(codes.dtype)]
    rows = _rows(codes, flipped).astype(np.int16)
    second = dequantize.outputs[0]
    if second not in packed:
        scales, zeros = (_rows(t, flipped) if length else t.numpy().reshape(-1, 1) for t in (scale, zero))
        shifted = zeros.astype(np.int16) + shift
        parts = packed_weight(rows + shift, scales.astype(np.float32), shifted, bits, length)
        endings = ("B", "scales", "zero_points")
        packed[second] = []
        for array, ending in zip(parts, endings, strict=True):
            if array is not None:
                name = unused(f"{dequantize.inputs[0].name}_{ending}", names)  # type: ignore[union-attr]
                packed[second].append(add_initializer(node.graph, name, ir.tensor(array, name=name)))
    outputs, summed = rows.shape
    figures = {"K": summed, "N": outputs, "bits": bits, "block_size": length or WHOLE, "accuracy_level": accuracy}
    attributes = [ir.AttrInt64(name, value) for name, value in figures.items()]
    made = ir.Node(CONTRIB, "MatMulNBits", [node.inputs[0], *packed[second]], attributes, num_outputs=1, name=node.name)
    new = [made]
    bias = ops.bias_of(node)
    if bias is not None:
        made.outputs[0].name = unused(f"{node.outputs[0].name}_product", names)
        made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        new.append(ir.Node("", "Add", [made.outputs[0], bias], num_outputs=1, name=f"{node.name}_bias"))
    node.append(new)
    take_over(node.outputs[0], new[-1].outputs[0])
    node.graph.remove(node, safe=True)


def _rows(tensor: ir.TensorProtocol, flipped: bool) -> npt.NDArray[np.generic]:
    """A matrix with a row for each output."""
    array = tensor.numpy()
    array = array.astype(np.int16) if array.dtype.itemsize == 1 else array
    return array if flipped else array.T


def packed_weight(
    codes: npt.NDArray[np.int16],
    scale: npt.NDArray[np.float32],
    zero: npt.NDArray[np.int16],
    bits: int,
    length: int = 0,
) -> tuple[Bytes, npt.NDArray[np.float32], Bytes | None]:
    """B, scales and zero points of MatMulNBits.

    Args:
        codes: (N, K), unsigned.
        scale: (N, ceil(K / length)); with `length` 0, (N, 1) or (1, 1).
        zero: Zero points, unsigned, of the scale's shape.
        bits: 4 or 8.
        length: Of a block; 0: a scale covers a whole row.

    Returns:
        B (N, blocks, length * bits / 8), scales (N * blocks,), zero points or None where all are the default.
    """
    outputs, summed = codes.shape
    run = length or WHOLE
    blocks = -(-summed // run)
    padded = np.pad(codes, [(0, 0), (0, blocks * run - summed)]).astype(np.uint8)
    data = pack(padded, bits).reshape(outputs, blocks, run * bits // 8)
    scales = np.ascontiguousarray(np.broadcast_to(scale, (outputs, blocks))).reshape(-1)
    if (zero == 1 << (bits - 1)).all():
        return data, scales, None
    whole = np.broadcast_to(zero, (outputs, blocks))
    even = np.pad(whole, [(0, 0), (0, blocks % 2 if bits == 4 else 0)]).astype(np.uint8)
    return data, scales, pack(even, bits)
