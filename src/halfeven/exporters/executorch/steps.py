"""The steps of operators: those with an int8 kernel between quantize and dequantize pairs, all others in real numbers.

`step_of(op, module)` gives what an operator does with the values before it; see `executorch.module` for the pairs.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.executorch.forms import (
    CLAMPS,
    LAYERS,
    MEANS,
    PAIRS,
    SHAPED,
    moved,
    number_of,
    rank_of,
    sizes_of,
    why_float,
)
from halfeven.exporters.executorch.module import (
    Read,
    Step,
    TracedNetwork,
    Values,
    clamp_behind,
    clamped,
    dequantized,
    quantized,
)
from halfeven.exporters.executorch.reals import REALS, setting
from halfeven.graph.clamps import clamp_bounds
from halfeven.graph.network import Op
from halfeven.numerics.scheme import QParams
from halfeven.training.operators import OPERATORS
from halfeven.training.pytorch import Tensor as Value
from halfeven.training.pytorch import torch

F = torch.nn.functional
TRANSPOSED = "ConvTranspose"
Function = Callable[..., Value]


def step_of(op: Op, module: TracedNetwork) -> Step:
    """What an operator does with the values before it.

    Raises:
        UnsupportedByTarget: an operator that is not known here; names the node.
    """
    if op.kind in ("QuantizeLinear", "DequantizeLinear", "Requantize"):
        return _border(op, module)
    if not op.integer or why_float(op):
        return _real(op, module)
    if op.kind in LAYERS:
        return _layer(op, module)
    if op.kind in PAIRS or op.kind == "Div":
        return _pair(op, module)
    if op.kind in CLAMPS:
        return _clamp(op, module)
    if op.kind in MEANS:
        return _mean(op, module)
    if op.kind == "Pad" and _before_convolutions(op, module):
        return _deferred(op, module)
    return _moved(op, module)


def _border(op: Op, module: TracedNetwork) -> Step:
    source, output = op.inputs[0], op.outputs[0]
    assert source is not None
    read, name, params = module.read(source), output.name, output.params

    def step(values: Values) -> None:
        values[name] = read(values) if params is None else quantized(read(values), params)

    return step


def _params(op: Op) -> QParams:
    params = op.outputs[0].params
    assert params is not None
    return params


# --------------------------------------------------------------------------------------------- on codes


def _layer(op: Op, module: TracedNetwork) -> Step:
    data, bias = op.inputs[0], op.inputs[2] if len(op.inputs) > 2 else None
    assert data is not None
    x, weight, params, name = module.read(data), module.weight(op), _params(op), op.outputs[0].name
    held = None
    if bias is not None:
        assert bias.values is not None
        held = module.hold(np.ascontiguousarray(bias.values.reshape(-1).astype(np.float32)))
    attributes = module.attributes(op)
    uneven = _uneven(attributes) if op.kind == TRANSPOSED else None

    def step(values: Values) -> None:
        added = None if held is None else held(values)
        found = clamped(_product(op.kind, attributes, x(values), weight(values), added), op.clamp, params)
        codes = quantized(found, params)
        for axis, (before, after) in enumerate(uneven or ()):
            codes = _cut(codes, axis + 2, before, codes.shape[axis + 2] - after, params)
        values[name] = codes

    return step


def _product(kind: str, attributes: dict[str, Any], x: Value, weight: Value, bias: Value | None) -> Value:
    if kind in ("Gemm", "MatMul"):
        return F.linear(x, weight, bias)
    if kind == "Conv":
        return OPERATORS[kind](attributes, x, weight, bias)
    strides, dilations = (list(attributes.get(key, (1, 1))) for key in ("strides", "dilations"))
    pads, extra = list(attributes.get("pads", (0,) * 4)), list(attributes.get("output_padding", (0, 0)))
    both = [0, 0] if _uneven(attributes) else pads[:2]
    return F.conv_transpose2d(x, weight, bias, strides, both, extra, int(attributes.get("group", 1)), dilations)


def _uneven(attributes: dict[str, Any]) -> list[tuple[int, int]] | None:
    """What a transposed convolution loses before and after each axis, where the sides differ."""
    pads = list(attributes.get("pads", (0,) * 4))
    return None if pads[:2] == pads[2:] else list(zip(pads[:2], pads[2:], strict=True))


def _pair(op: Op, module: TracedNetwork) -> Step:
    a, b = op.inputs[:2]
    assert a is not None
    assert b is not None
    params, output = _params(op), op.outputs[0]
    rank = max(rank_of(t) for t in (output, a, b))  # that of the widest operand, where the output's is not known
    first, function = module.operand(a, rank), _TWO[op.kind]
    if op.kind == "Div":
        divisor = number_of(b)
        assert divisor is not None
        second: Read = module.number(1 / divisor)
    else:
        second = module.operand(b, rank)
    inside = op.clamp if op.kind == "Add" and op.clamp == (0.0, float("inf")) else None
    behind = None if inside is not None else op.clamp

    def step(values: Values) -> None:
        found = clamped(function(first(values), second(values)), inside, params)
        values[output.name] = clamp_behind(quantized(found, params), behind, params)

    return step


_TWO: Mapping[str, Function] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.mul}


def _clamp(op: Op, module: TracedNetwork) -> Step:
    source, params, name = op.inputs[0], _params(op), op.outputs[0].name
    assert source is not None
    assert source.params is not None
    assert op.node is not None
    x, ends, bounds = module.read(source), source.params, clamp_bounds(op.node)

    def step(values: Values) -> None:
        values[name] = clamp_behind(quantized(clamped(x(values), bounds, ends), params), op.clamp, params)

    return step


def _mean(op: Op, module: TracedNetwork) -> Step:
    source, params, name = op.inputs[0], _params(op), op.outputs[0].name
    assert source is not None
    x = module.read(source)
    flat = op.kind == "ReduceMean" and not op.attributes.get("keepdims", 1)

    def step(values: Values) -> None:
        codes = quantized(x(values).mean([2, 3], keepdim=True), params)
        if flat:
            codes = quantized(dequantized(codes, params).reshape(codes.shape[:2]), params)
        values[name] = clamp_behind(codes, op.clamp, params)

    return step


def _moved(op: Op, module: TracedNetwork) -> Step:
    params, attributes = _params(op), module.attributes(op)
    codes = [module.codes(t, op.outputs[0]) for t in moved(op) if t is not None]
    names = [t.name for t in op.outputs]
    if op.kind in ("Slice", "Split"):
        pieces = _pieces(op)

        def cut(values: Values) -> None:
            whole = codes[0](values)
            for name, piece in zip(names, pieces, strict=True):
                found = whole
                for axis, start, stop in piece:
                    found = _cut(found, axis, start, stop, params)
                values[name] = found

        return cut
    settings = [setting(op, port) for port in range(1, len(op.inputs))] if op.kind != "Concat" else []

    def step(values: Values) -> None:
        real = [dequantized(read(values), params) for read in codes]
        found = quantized(_mover(op.kind, attributes, real, settings), params)
        values[names[0]] = clamp_behind(found, op.clamp, params)

    return step


def _mover(kind: str, attributes: dict[str, Any], inputs: list[Value], settings: list[Any]) -> Value:
    x = inputs[0]
    if kind == "Concat":
        return torch.cat(inputs, int(attributes["axis"]))
    if kind == "MaxPool":
        kernel = list(attributes["kernel_shape"])
        strides, dilations = (list(attributes.get(key, (1, 1))) for key in ("strides", "dilations"))
        return F.max_pool2d(x, kernel, strides, list(attributes.get("pads", (0, 0)))[:2], dilations)
    found = REALS.get(kind, OPERATORS[kind])(attributes, x, *settings)
    found = found[0] if isinstance(found, tuple) else found
    return x.reshape(found.shape) if kind in SHAPED else found


def _cut(codes: Value, axis: int, start: int, stop: int, params: QParams) -> Value:
    """Codes from `start` to `stop` along an axis."""
    if (start, stop) == (0, codes.shape[axis]):
        return codes
    return quantized(dequantized(codes, params).narrow(axis, start, stop - start), params)


def _pieces(op: Op) -> list[list[tuple[int, int, int]]]:
    """Of each output of a Slice or Split: axis, first place and end of what it takes."""
    sizes, rank = sizes_of(op.inputs[0]), len(sizes_of(op.inputs[0]))
    second = setting(op, 1) if len(op.inputs) > 1 else None
    if op.kind == "Split":
        axis = int(op.attributes.get("axis", 0)) % rank
        given = second if second is not None else op.attributes.get("split")
        each = -(-sizes[axis] // len(op.outputs))
        parts = [each] * (len(op.outputs) - 1) if given is None else [int(n) for n in np.ravel(given)][:-1]
        ends = [0, *np.cumsum(parts).astype(int).tolist(), sizes[axis]]
        return [[(axis, a, b)] for a, b in pairwise(ends)]
    ports = [setting(op, port) if len(op.inputs) > port else None for port in (1, 2, 3)]
    starts, ends_, axes = (
        list(op.attributes.get(key, ())) if port is None else np.ravel(port).tolist()
        for key, port in zip(("starts", "ends", "axes"), ports, strict=True)
    )
    found = []
    for axis, start, end in zip(axes or range(len(starts)), starts, ends_, strict=True):
        first, stop, _ = slice(start, end).indices(sizes[axis % rank])
        found.append((axis % rank, first, max(first, stop)))
    return [found]


def _before_convolutions(op: Op, module: TracedNetwork) -> bool:
    """Whether only int8 convolutions read the output of a pad."""
    source, output = op.inputs[0], op.outputs[0]
    readers = module.network.readers(output.name)
    taken = all(r.kind == "Conv" and r.inputs[0] is output and r.integer and not why_float(r) for r in readers)
    assert source is not None
    return taken and bool(readers) and output.name not in module.results and source.params is not None


def _deferred(op: Op, module: TracedNetwork) -> Step:
    """A pad that its readers apply; its input's codes need no other scale for that."""
    source = op.inputs[0]
    assert source is not None
    rank = len(sizes_of(source))
    pads = setting(op, 1) if len(op.inputs) > 1 else op.attributes.get("pads", ())
    axes = setting(op, 3) if len(op.inputs) > 3 and op.inputs[3] is not None else range(rank)
    chosen, widths = [int(a) % rank for a in np.ravel(axes)], [int(p) for p in np.ravel(pads)]
    around = [(0, 0)] * rank
    for i, axis in enumerate(chosen):
        around[axis] = widths[i], widths[len(chosen) + i]
    module.padded[op.outputs[0].name] = source, [width for pair in reversed(around) for width in pair]
    return lambda values: None


# --------------------------------------------------------------------------------------------- in real numbers


def _real(op: Op, module: TracedNetwork) -> Step:
    if op.domain not in ("", "ai.onnx") or (op.kind not in OPERATORS and op.kind not in REALS):
        kind = f"{op.domain}.{op.kind}" if op.domain else op.kind
        raise UnsupportedByTarget(
            f"{kind} '{op.name}' has no form in PyTorch here. Replace the operator, or cut the model before it."
        )
    attributes, function = module.attributes(op), REALS.get(op.kind) or OPERATORS[op.kind]
    reads = [_argument(op, port, module) for port in range(len(op.inputs))]
    outputs = [(t.name, t.params) for t in op.outputs]

    def step(values: Values) -> None:
        found = function(attributes, *(read(values) for read in reads))
        for (name, params), value in zip(outputs, found if isinstance(found, tuple | list) else (found,), strict=False):
            if params is None:
                values[name] = value
            else:
                low, high = op.clamp or (None, None)
                bounded = value if low is None else value.clamp(low, high)
                values[name] = quantized(bounded, params)

    return step


def _argument(op: Op, port: int, module: TracedNetwork) -> Callable[[Values], Any]:
    tensor = op.inputs[port]
    if tensor is None:
        return lambda values: None
    chosen = setting(op, port)
    return module.read(tensor) if chosen is None else lambda values: chosen
