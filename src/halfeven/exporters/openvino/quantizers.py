"""QuantizeLinear and DequantizeLinear in OpenVINO's terms.

    activation    Q                            FakeQuantize(x, il, ih, low, high) -> Convert; levels = high - low + 1
                  DQ                           Convert f32 -> Subtract z -> Multiply s
                  il = f32(s (low - z))        ih = f32(s (high - z))
    weight        int8 or int4 constant, DQ    Const i8, i4 -> Convert f32 -> Subtract z -> Multiply s
    in blocks     the same                     Reshape (.., n / block, block, ..) in front, back behind
    bias          int32 constant, DQ           Const f32: what DQ gives
    table         Gather of codes, DQ          Gather -> Convert -> Subtract z -> Multiply s

`Subtract` is left out where z is 0. This is what OpenVINO makes of Q and DQ in an ONNX file, so that both give the same
bits; output limits in real numbers would let it derive scales anew, some units in the last place off. What it makes of
that, int8 kernels with their scales, is its own work: `halfeven.run.openvino` tells which it chose.
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.openvino.values import FLOAT, Values, extent, refuse
from halfeven.exporters.openvino.xml import Array, Port, Shape
from halfeven.graph import ops
from halfeven.graph.pairs import DEQUANTIZE, TYPES, codes_type, is_border, params_at, same
from halfeven.numerics.fake_quantize import openvino_limits
from halfeven.numerics.quantize import dequantize
from halfeven.numerics.scheme import QParams, Tiling


def quantizer(node: ir.Node, values: Values) -> None:
    """A QuantizeLinear whose readers all make real numbers of it again, by the same parameters."""
    params = params_at(node)
    readers = [use.node for use in node.outputs[0].uses()]
    if params is None or params.scheme.grid.high - params.scheme.grid.low > 0xFFFF:
        raise refuse(node, "its scale is computed, or its codes have more than 16 bits")
    back = [params_at(n) if is_border(n, DEQUANTIZE) else None for n in readers]
    if node.outputs[0].is_graph_output() or any(p is None or not same(p, params) for p in back):
        raise refuse(node, "its codes leave the network, or are read by another operator than DequantizeLinear")
    grid = params.scheme.grid
    limits = openvino_limits(params.scale, params.zero_point, grid.low, grid.high)
    shape = () if params.scale.size == 1 else params.scale.shape
    low, high = (values.number(limit.reshape(shape)) for limit in (limits.low, limits.high))
    inputs = [values.at(node.inputs[0]), low, high, values.number(float(grid.low)), values.number(float(grid.high))]
    attributes = {"levels": grid.high - grid.low + 1, "auto_broadcast": "numpy"}
    extents = inputs[0].shape
    port = values.inner("FakeQuantize", inputs, attributes, dtype=FLOAT, shape=extents)
    dtype = TYPES[grid]
    values.give(node, values.inner("Convert", [port], {"destination_type": dtype}, dtype=dtype, shape=extents))


def dequantizer(node: ir.Node, values: Values) -> None:
    """A DequantizeLinear: behind a QuantizeLinear nothing, else the arithmetic."""
    source = node.inputs[0]
    assert source is not None
    params = params_at(node)
    if params is None:
        raise refuse(node, "its scale or zero point is computed")
    tensor = ops.constant_of(source)
    if tensor is not None and codes_type(node) == ir.DataType.INT32:
        shape = ops.dims_of(tensor)
        values.give(node, values.document.constant(FLOAT, shape, lambda: _real(tensor, params), source.name or ""))
        return
    values.give(node, real_of(values.at(source), params, values, extent(node.outputs[0])))


def grouped_weight(value: ir.Value | None, shape: Shape, values: Values) -> Port:
    """A constant weight with an axis of groups in front; its scales move with the first axis.

    Raises:
        UnsupportedByTarget: it is computed, or its scales lie along another axis.
    """
    assert value is not None
    maker = value.producer()
    if maker is None or not is_border(maker, DEQUANTIZE):
        if ops.constant_of(value) is None:
            raise UnsupportedByTarget(f"OpenVINO IR: '{value.name}', the weight of a grouped layer, is computed.")
        return values.reshaped(value, shape)
    params, source = params_at(maker), maker.inputs[0]
    if params is None or source is None or ops.constant_of(source) is None:
        raise refuse(maker, "its scale is computed")
    if params.scale.size > 1:
        if params.scheme.tiling.axis != 0:
            raise refuse(maker, "its scales lie along another axis than the outputs of a grouped layer")
        moved = (*shape[:2], *[1] * (len(shape) - 2))
        params = QParams(params.scheme, params.scale.reshape(moved), params.zero_point.reshape(moved))
    return real_of(values.reshaped(source, shape), params, values, shape)


def real_of(codes: Port, params: QParams, values: Values, shape: Shape | None) -> Port:
    """Convert, Subtract, Multiply."""
    runs = [(axis, run) for axis, run in params.scheme.tiling.tiles if run > 1]
    if runs and shape is not None:
        return _real_of_blocks(codes, params, values, shape, *runs[0])
    flat = () if params.scale.size == 1 else params.scale.shape
    port = values.inner("Convert", [codes], {"destination_type": FLOAT}, dtype=FLOAT, shape=shape)
    if params.zero_point.any():
        zero = values.number(params.zero_point.reshape(flat))
        port = values.inner("Subtract", [port, zero], {"auto_broadcast": "numpy"}, shape=shape)
    scale = values.number(params.scale.reshape(flat))
    return values.inner("Multiply", [port, scale], {"auto_broadcast": "numpy"}, shape=shape)


def _real_of_blocks(codes: Port, params: QParams, values: Values, shape: Shape, axis: int, run: int) -> Port:
    """The same with a scale for each run of codes along an axis, which becomes two axes meanwhile."""
    if shape[axis] % run:
        raise UnsupportedByTarget(f"OpenVINO IR: a weight of {shape} does not split into blocks of {run}.")
    apart = (*shape[:axis], shape[axis] // run, run, *shape[axis + 1 :])
    runs = (*params.scale.shape[: axis + 1], 1, *params.scale.shape[axis + 1 :])
    scale, zero = params.scale.reshape(runs), params.zero_point.reshape(runs)
    scheme = replace(params.scheme, tiling=Tiling(tuple((i, 1) for i, n in enumerate(scale.shape) if n > 1)))
    split = values.inner("Reshape", [codes, values.whole(apart)], {"special_zero": False}, shape=apart)
    port = real_of(split, QParams(scheme, scale, zero), values, apart)
    return values.inner("Reshape", [port, values.whole(shape)], {"special_zero": False}, dtype=FLOAT, shape=shape)


def _real(tensor: ir.TensorProtocol, params: QParams) -> Array:
    return np.asarray(dequantize(np.asarray(tensor.numpy()), params), np.float32)
