"""A network as a PyTorch module whose trace ExecuTorch's XNNPACK backend turns into int8 kernels.

The partitioner knows an int8 operator by the pairs around it, of which each reader has one of its own:

    codes -> D -> conv, weight codes -> D by channel, float bias -> relu or hardtanh -> Q -> codes

    Q, D     quantize_per_tensor and dequantize_per_tensor of `quantized_decomposed`, by the plan's scale and zero point
    bias     the real numbers of its int32 codes; the backend makes codes of them again, by the same scale
    clamp    relu or hardtanh, taken into layers; relu into sums. Elsewhere it is an operator on the codes behind
    moved    codes of another scale than the output's are requantized first (D, Q), then moved
    number   of Add, Sub, Mul, Div: code 127 or -127, its scale |number| / 127; a divisor's reciprocal
    pad      in front of convolutions alone, it stands between D and them, without a pair

All else computes in real numbers by `training.operators`, behind D and in front of Q, which the backend runs as
conversions. Sources: executorch 1.5.1 backends/xnnpack; torch.ao.quantization.fx._decomposed.
"""

# mypy: disallow-subclassing-any=False

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.executorch.forms import channel_axis, is_int8, number_of, same_params
from halfeven.graph.network import Network, Op, Tensor
from halfeven.graph.plan import Plan
from halfeven.numerics.grid import INT8
from halfeven.numerics.scheme import QParams
from halfeven.training.program import instruction_of
from halfeven.training.pytorch import Tensor as Value
from halfeven.training.pytorch import torch

F = torch.nn.functional
Values = dict[str, Value]
Read = Callable[[Values], Value]
Step = Callable[[Values], None]
Array = npt.NDArray[Any]
CODES = (INT8.low, INT8.high)


class TracedNetwork(torch.nn.Module):
    """Steps in order, and the constants they read as buffers; call it with the network's inputs, get its outputs.

    `write(op, module)` gives the step of an operator.
    """

    def __init__(self, network: Network, write: Callable[[Op, "TracedNetwork"], Step]) -> None:
        super().__init__()
        self.network = network
        self.results = frozenset(t.name for t in network.outputs)
        self.padded: dict[str, tuple[Tensor, list[int]]] = {}
        self.steps = tuple(write(op, self) for op in network.ops)
        self.finals = tuple(self.read(tensor) for tensor in network.outputs)

    def forward(self, *inputs: Value) -> tuple[Value, ...]:
        """The outputs, in the graph's order."""
        values: Values = {t.name: x for t, x in zip(self.network.inputs, inputs, strict=True)}
        for step in self.steps:
            step(values)
        return tuple(final(values) for final in self.finals)

    def hold(self, array: Array) -> Read:
        """A constant as a buffer of the program."""
        name = f"constant{len(self._buffers)}"
        self.register_buffer(name, torch.from_numpy(np.array(array)))
        return lambda values: getattr(self, name)

    def read(self, tensor: Tensor) -> Read:
        """The real numbers of a value or constant; those of codes through a dequantization of their own."""
        if tensor.constant is not None:
            values = tensor.values
            assert values is not None
            return self.hold(values)
        name, params = tensor.name, tensor.params
        if name in self.padded:
            source, widths = self.padded[name]
            unpadded = self.read(source)
            return lambda values: F.pad(unpadded(values), widths)
        if params is None:
            return lambda values: values[name]
        return lambda values: dequantized(values[name], params)

    def codes(self, tensor: Tensor, wanted: Tensor) -> Read:
        """The codes of a value or constant, in the scale that `wanted` has."""
        assert tensor.params is not None
        assert wanted.params is not None
        mine, other, name = tensor.params, wanted.params, tensor.name
        if tensor.constant is None:
            stored: Read = lambda values: values[name]  # noqa: E731
        else:
            assert tensor.data is not None
            stored = self.hold(tensor.data.astype(np.int8))
        if same_params(tensor, wanted):
            return stored
        return lambda values: quantized(dequantized(stored(values), mine), other)

    def operand(self, tensor: Tensor, rank: int) -> Read:
        """What an operator on two tensors reads, behind a dequantization; constants with as many axes as its output."""
        if tensor.constant is None:
            return self.read(tensor)
        if tensor.params is None:
            number = number_of(tensor)
            assert number is not None
            return self.number(number)
        assert tensor.data is not None
        params, shape = tensor.params, tensor.data.shape
        stored = self.hold(tensor.data.astype(np.int8).reshape((1,) * (rank - len(shape)) + shape))
        return lambda values: dequantized(stored(values), params)

    def number(self, number: float) -> Read:
        """One number as a code."""
        scale = float(np.float32(abs(number) / INT8.high))
        code = self.hold(np.array([INT8.high if number > 0 else -INT8.high], np.int8))
        return lambda values: decomposed().dequantize_per_tensor(code(values), scale, 0, *CODES, torch.int8)

    def weight(self, op: Op) -> Read:
        """A layer's weight behind a dequantization by channel; that of a matrix has its outputs first."""
        weight, axis = op.inputs[1], channel_axis(op)
        assert weight is not None
        assert weight.params is not None
        assert weight.data is not None
        codes, count = weight.data.astype(np.int8), weight.data.shape[axis]
        if op.kind in ("Gemm", "MatMul"):
            codes, axis = np.moveaxis(codes, axis, 0), 0
        scales = np.ascontiguousarray(np.broadcast_to(weight.params.scale.ravel().astype(np.float32), (count,)))
        if op.kind == "ConvTranspose" and int(op.attributes.get("group", 1)) > 1:
            stored, scale = self.hold(np.ascontiguousarray(codes)), float(scales[0])
            return lambda values: decomposed().dequantize_per_tensor(stored(values), scale, 0, *CODES, torch.int8)
        held = [self.hold(np.ascontiguousarray(part)) for part in (codes, scales, np.zeros(count, np.int64))]
        return lambda values: decomposed().dequantize_per_channel(
            *(read(values) for read in held), axis, *CODES, torch.int8
        )

    def attributes(self, op: Op) -> dict[str, Any]:
        """An operator's attributes as Python values."""
        return dict(op.attributes) if op.node is None else dict(instruction_of(op.node, Plan()).attributes)


def decomposed() -> Any:
    """The operators that quantize and dequantize; they are there once PyTorch's module of them is imported."""
    return torch.ops.quantized_decomposed


def quantized(x: Value, params: QParams) -> Value:
    """int8 codes of real numbers."""
    return decomposed().quantize_per_tensor(x, *_scalars(params), *CODES, torch.int8)


def dequantized(codes: Value, params: QParams) -> Value:
    """Real numbers of int8 codes."""
    return decomposed().dequantize_per_tensor(codes, *_scalars(params), *CODES, torch.int8)


def clamped(x: Value, bounds: tuple[float, float] | None, params: QParams) -> Value:
    """`x` between bounds, as relu or hardtanh; an open end is that of the codes that `params` are for."""
    if bounds is None or bounds == (-inf, inf):
        return x
    if bounds == (0.0, inf):
        return torch.relu(x)
    scale, zero = _scalars(params)
    ends = [(code - zero) * scale for code in CODES]
    low, high = (end if np.isinf(bound) else bound for bound, end in zip(bounds, ends, strict=True))
    return F.hardtanh(x, min(low, high), high) if low < high else x.clamp(low, high)


def clamp_behind(codes: Value, bounds: tuple[float, float] | None, params: QParams) -> Value:
    """Codes held between bounds, by an operator of their own."""
    if bounds is None or bounds == (-inf, inf):
        return codes
    return quantized(clamped(dequantized(codes, params), bounds, params), params)


def check_codes(network: Network) -> None:
    """Refuse activations whose codes XNNPACK does not have.

    Raises:
        UnsupportedByTarget: they are not int8 of all codes, one scale for a tensor; names the value.
    """
    for tensor in (*network.inputs, *(t for op in network.ops for t in op.outputs)):
        if tensor.params is not None and not (is_int8(tensor) and tensor.params.scheme.grid == INT8):
            raise UnsupportedByTarget(
                f"'{tensor.name}' is {tensor.params.scheme}, but ExecuTorch's XNNPACK takes int8 activations with one "
                "scale. Quantize for --target executorch."
            )


def _scalars(params: QParams) -> tuple[float, int]:
    return float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
