"""Clamps: what stands between an operator and its readers only to bound it, taken into the operator.

`absorbed`, on codes. Rounding to codes keeps the order of numbers, so a bound may be applied before or after it:

    Conv: codes -> real; Relu, Clip; Min with a bound for each channel; QuantizeLinear
    Conv, clamp: codes -> codes; Min of codes with the codes of the bounds

`fused`, on real numbers: a Relu or Clip that alone reads a layer's or sum's output becomes its clamp.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from halfeven.exporters.litert.forms import LAYERS, in_codes
from halfeven.graph.clamps import clamp_bounds
from halfeven.graph.network import Network, Op, Tensor

CLAMPED = frozenset({*LAYERS, "Add", "Sub", "Mul", "Div"})
"""Operators whose kernels take an activation along."""


def absorbed(network: Network) -> Network:
    """The network with every QuantizeLinear behind clamps taken into the operator on codes in front of them."""
    makers = {t.name: op for op in network.ops for t in op.outputs}
    counts = Counter(t.name for op in network.ops for t in op.inputs if t is not None)
    counts.update(t.name for t in network.outputs)
    new: dict[int, list[Op]] = {}
    gone: set[int] = set()
    for op in network.ops:
        chain = _chain(op, makers, counts) if op.kind == "QuantizeLinear" else []
        if len(chain) > 1:
            new[id(chain[0])] = _on_codes(chain, op.outputs[0])
            gone.update(id(part) for part in (*chain[1:], op))
    ops = [part for op in network.ops if id(op) not in gone for part in new.get(id(op), [op])]
    return replace(network, ops=tuple(ops))


def _chain(quantize_op: Op, makers: dict[str, Op], counts: Counter[str]) -> list[Op]:
    """The operator on codes whose output is clamped and then quantized, and the clamps; empty if there is none."""
    chain: list[Op] = []
    value = quantize_op.inputs[0]
    while value is not None and counts[value.name] == 1 and value.name in makers:
        maker = makers[value.name]
        chain.insert(0, maker)
        if maker.kind not in ("Relu", "Clip", "Min", "Max") or not _constant_bounds(maker):
            usable = maker.reads_codes and len(maker.outputs) == 1 and maker.clamp is None
            return chain if usable and maker.kind != "DequantizeLinear" else []
        value = maker.inputs[0]
    return []


def _constant_bounds(op: Op) -> bool:
    bounds = [t for t in op.inputs[1:] if t is not None]
    return op.inputs[0] is not None and all(t.constant is not None and not t.coded for t in bounds)


def _on_codes(chain: Sequence[Op], output: Tensor) -> list[Op]:
    """The operator with the output's codes, scalar clamps in front, then the others as operators on codes."""
    first, clamps = chain[0], list(chain[1:])
    low, high = -np.inf, np.inf
    while clamps and clamps[0].kind in ("Relu", "Clip"):
        node = clamps.pop(0).node
        assert node is not None
        least, most = clamp_bounds(node)
        low, high = min(max(low, least), most), max(min(high, most), least)
    bounds = (low, high) if (low, high) != (-np.inf, np.inf) else None
    made: list[Op] = []
    value = output if not clamps else replace(output, name=f"{first.outputs[0].name}_codes")
    made.append(replace(first, outputs=(value,), clamp=bounds))
    for number, clamp in enumerate(clamps):
        assert output.params is not None
        after = output if number == len(clamps) - 1 else replace(output, name=f"{clamp.outputs[0].name}_codes")
        limits = [in_codes(t, output.params) for t in clamp.inputs[1:] if t is not None]
        if clamp.kind in ("Relu", "Clip"):
            node = clamp.node
            assert node is not None
            made.append(Op("Clip", clamp.name, (value,), (after,), {}, clamp_bounds(node), node=node))
        else:
            made.append(replace(clamp, inputs=(value, *limits), outputs=(after,)))
        value = after
    return made


def fused(ops: Sequence[Op], outputs: Iterable[str]) -> list[Op]:
    """Operators on real numbers with the Relu or Clip behind them as their clamp, where nothing else reads them."""
    kept = set(outputs)
    counts = Counter(t.name for op in ops for t in op.inputs if t is not None)
    made: list[Op] = []
    place: dict[str, int] = {}
    for op in ops:
        source = op.inputs[0] if op.inputs and op.kind in ("Relu", "Clip") else None
        at = place.get(source.name) if source is not None else None
        before = None if at is None else made[at]
        if source is not None and before is not None and counts[source.name] == 1 and source.name not in kept:
            assert op.node is not None
            low, high = clamp_bounds(op.node)
            if low <= high and not op.outputs[0].coded and op.clamp is None:
                made[at] = replace(before, outputs=op.outputs, clamp=(low, high))  # type: ignore[index]
                continue
        if op.kind in CLAMPED and op.clamp is None and not op.outputs[0].coded:
            place[op.outputs[0].name] = len(made)
        made.append(op)
    return made
