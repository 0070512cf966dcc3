"""What ONNX Runtime's optimiser changes in a quantized network before its kernels run, as far as it changes numbers.

Q is QuantizeLinear, DQ is DequantizeLinear. Of Conv, ConvTranspose and Gemm whose data are codes of one scale sx and
whose output, over Relu and Clip, is read by one Q alone, constant real numbers become codes:

    weights w    int8, one scale: s = f32(f32(max(w, 0) - min(w, 0)) / 255), z = half_even(-128 - f32(min / s)),
                 code = clip(half_even(f32(w / s)) + z)
    bias b       int32: code = half_even(f32(b / f32(sx * sw))), sw the weights' scale, or that of each output

They stay codes behind a DQ even where the layer then runs on real numbers.

Pairs Q -> DQ of int8 become pairs of uint8 with 128 added to the zero point, so that what lies between them finds the
kernels of uint8: those of `run.signed_pairs`. On x86 alone, and not if the session says `session.qdqisint8allowed`.

Sources: onnxruntime/core/optimizer/qdq_transformer/weight_bias_quantization.cc; the graphs that ONNX Runtime
1.31.1 writes.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph.network import Network, Op, Tensor
from halfeven.numerics.grid import INT8, INT32, UINT8
from halfeven.numerics.quantize import quantize
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, ZeroRule, per_channel
from halfeven.run.integer.machine import operand
from halfeven.run.signed_pairs import OFFSET, pairs

LAYERS = ("Conv", "ConvTranspose", "Gemm")
CLAMPS = ("Relu", "Clip")


def with_coded_constants(network: Network) -> Network:
    """Weights and biases of real numbers as codes, where the optimiser makes them so."""
    return replace(network, ops=tuple(_coded_constants(op, network) for op in network.ops))


def with_unsigned_pairs(network: Network) -> Network:
    """The same, and the int8 codes that become uint8 codes."""
    network = with_coded_constants(network)
    graphs = {op.node.graph for op in network.ops if op.node is not None}
    explicit = {op.node for op in network.ops if op.explicit}
    found = [pair for graph in graphs if isinstance(graph, ir.Graph) for pair in pairs(graph)]
    names = {q.outputs[0].name for q, dq in found if not explicit & _around(q, dq)}
    turned = {
        t.name: replace(t, dtype=ir.DataType.UINT8, params=_unsigned(t.params))
        for op in network.ops
        for t in op.outputs
        if t.params is not None and t.name in names
    }
    return replace(network, ops=tuple(_with(op, turned) for op in network.ops))


def _around(q: ir.Node, dq: ir.Node) -> set[ir.Node | None]:
    """What makes the number that becomes codes, and what reads it again; an integer operator has no Q or DQ there."""
    source = q.inputs[0]
    return {None if source is None else source.producer(), *(use.node for use in dq.outputs[0].uses())}


def _unsigned(params: QParams) -> QParams:
    scheme = replace(params.scheme, grid=UINT8, zero_point=ZeroRule.FREE)
    return replace(params, scheme=scheme, zero_point=params.zero_point + np.int32(OFFSET))


def _with(op: Op, turned: Mapping[str, Tensor]) -> Op:
    if not any(t is not None and t.name in turned for t in (*op.inputs, *op.outputs)):
        return op
    inputs = tuple(None if t is None else turned.get(t.name, t) for t in op.inputs)
    return replace(op, inputs=inputs, outputs=tuple(turned.get(t.name, t) for t in op.outputs))


def _coded_constants(op: Op, network: Network) -> Op:
    data, weights, bias = operand(op, 0), operand(op, 1), operand(op, 2)
    if op.kind not in LAYERS or op.domain or data is None or weights is None or not _becomes_codes(op, network):
        return op
    if data.params is None or data.params.scale.size != 1 or data.constant is not None:
        return op
    if weights.params is None and _real(weights):
        weights = _coded_weights(weights, op)
    if weights.params is None:
        return op
    more: tuple[Tensor | None, ...] = op.inputs[2:]
    if bias is not None and bias.params is None and _real(bias):
        sizes = {n for n in weights.params.scale.shape if n > 1}
        if len(sizes) < 2:  # blocked weights have scales along two axes
            more = (_coded_bias(bias, data.params, weights.params, op), *op.inputs[3:])
    return replace(op, inputs=(data, weights, *more))


def _real(tensor: Tensor) -> bool:
    return tensor.data is not None and tensor.data.dtype == np.float32


def _becomes_codes(op: Op, network: Network) -> bool:
    """Whether one Q alone reads the output, over Relu and Clip."""
    out = op.outputs[0]
    while not out.coded:
        readers = network.readers(out.name)
        if len(readers) != 1 or readers[0].kind not in (*CLAMPS, "QuantizeLinear"):
            return False
        out = readers[0].outputs[0]
    return True


def _coded_weights(weights: Tensor, op: Op) -> Tensor:
    values = np.asarray(weights.data, np.float32)
    low, high = (np.float32(f(values, initial=np.float32(0))) for f in (np.min, np.max))
    scale = np.float32(high - low) / np.float32(255)
    scale = scale if scale > 0 else np.float32(1)
    zero = int(np.clip(np.rint(np.float32(-128) - low / scale), -128, 127))
    one = (1,) * values.ndim
    params = QParams(
        Scheme(INT8, PER_TENSOR, zero_point=ZeroRule.FREE), np.full(one, scale), np.full(one, zero, np.int32)
    )
    return _constant(f"{weights.name}@{op.name}", quantize(values, params), params)


def _coded_bias(bias: Tensor, data: QParams, weights: QParams, op: Op) -> Tensor:
    scale = np.asarray(np.float32(data.scale.ravel()[0]) * weights.scale.ravel(), np.float32)
    codes = np.clip(np.rint(np.asarray(bias.data, np.float32) / scale), -(2.0**31), 2.0**31 - 1)
    tiling = per_channel(0) if scale.size > 1 else PER_TENSOR
    params = QParams(Scheme(INT32, tiling), scale, np.zeros(scale.shape, np.int32))
    return _constant(f"{bias.name}@{op.name}", codes.astype(np.int64), params)


def _constant(name: str, codes: npt.NDArray[np.integer], params: QParams) -> Tensor:
    kind = ir.DataType.INT32 if params.scheme.grid == INT32 else ir.DataType.INT8
    held = ir.Tensor(codes.astype(kind.numpy()), dtype=kind, name=name)
    return Tensor(name, kind, tuple(codes.shape), params, held)
