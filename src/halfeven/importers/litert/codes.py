"""QUANTIZE, DEQUANTIZE and DENSIFY: what says of a tensor in which form it is stored.

QUANTIZE      real numbers, or codes of other parameters, to codes: the pair behind every tensor of codes
DEQUANTIZE    of a constant in half precision: that constant in float32, no node
              of a constant of codes: that constant, whose readers get it with its DequantizeLinear
              of anything else: a DequantizeLinear of its own
DENSIFY       of a sparse constant: that constant, which was read into its dense form
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.importers.litert.builder import Builder
from halfeven.importers.litert.contents import Operator
from halfeven.importers.litert.schema import TYPES

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FLOAT = next(number for number, dtype in TYPES.items() if dtype == ir.DataType.FLOAT)


def quantize(b: Builder, op: Operator) -> None:
    """QUANTIZE."""
    index, out = op.input(0), op.output()
    if not b.tensors[out].coded:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} makes codes that have no scale. The file is damaged.")
    first = b.is_first(index)
    b.keep(out, b.read(index, first=first), first)


def dequantize(b: Builder, op: Operator) -> None:
    """DEQUANTIZE."""
    index, out = op.input(0), op.output()
    tensor, target = b.tensors[index], b.tensors[out]
    if tensor.data is not None and tensor.dtype in HALVES:
        b.spend(4 * tensor.data.size)
        b.tensors[out] = replace(target, dims=tensor.dims, kind=_FLOAT, data=tensor.data.astype(np.float32))
    elif tensor.data is not None and tensor.quantization is not None:
        b.tensors[out] = replace(tensor, index=out, name=target.name)
    elif tensor.coded:
        first = b.is_first(index)
        node = b.read(index, first=first).producer()
        assert node is not None
        axis = node.attributes.get("axis")
        b.give(out, b.call("DequantizeLinear", *node.inputs, axis=axis.value if axis else None), first=first)
    else:
        first = b.is_first(index)
        b.give(out, b.call("Cast", b.read(index, first=first), to=ir.DataType.FLOAT), first=first)


def densify(b: Builder, op: Operator) -> None:
    """DENSIFY."""
    tensor, out = b.tensors[op.input(0)], op.output()
    if tensor.data is None:
        raise UnsupportedModel(f"{b.contents.where}: {b.label} makes dense what is no constant.")
    b.tensors[out] = replace(tensor, index=out, name=b.tensors[out].name)
