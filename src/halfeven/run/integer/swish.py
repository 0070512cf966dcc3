"""HardSwish in four operators, as older exporters write it, made one: runtimes compute it as one.

    Add 3 -> Clip 0..6 -> Mul by the first's operand -> Div 6        becomes        HardSwish

Each of the four is read by the next alone. `HardSwish` is x times h, h = x / 6 + 1/2 within 0 and 1, in float32:

    fused          h = fma(x, f32(1/6), 1/2)
    not fused      h = f32(f32(x f32(1/6)) + 1/2)

Sources: ncnn 20261020 src/layer/x86/hardswish_x86.cpp, measured.
"""

from dataclasses import dataclass, replace

import numpy as np

from halfeven.graph.clamps import clamp_bounds
from halfeven.graph.network import Network, Op, Tensor
from halfeven.numerics.fused import fma
from halfeven.run.integer.borders import to_real
from halfeven.run.integer.machine import Array, Arrays, Run, given

SIXTH = np.float32(1 / 6)


@dataclass(frozen=True)
class HardSwish:
    """The function of real numbers, or of what codes stand for."""

    fused: bool = True

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The function."""
        source = op.inputs[0]
        assert source is not None

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = given(arrays, 0)
            real = np.asarray(x if source.params is None else to_real(source, x), np.float32)
            half = np.float32(0.5)
            line = fma(real, SIXTH, half) if self.fused else np.asarray(real * SIXTH + half, np.float32)
            return (np.asarray(real * np.clip(line, np.float32(0), np.float32(1)), np.float32),)

        return run


def with_swishes(network: Network) -> Network:
    """The network with HardSwish where the four operators stand."""
    ops: list[Op] = []
    gone: set[int] = set()
    for op in network.ops:
        found = _chain(op, network) if op.kind == "Add" and id(op) not in gone else None
        if found is not None:
            x, chain = found
            gone.update(map(id, chain))
            last = chain[-1]
            ops.append(Op("HardSwish", last.name, (x,), last.outputs, clamp=last.clamp))
        elif id(op) not in gone:
            ops.append(op)
    return replace(network, ops=tuple(ops)) if gone else network


def _chain(add: Op, network: Network) -> tuple[Tensor, list[Op]] | None:
    x, three = _with_number(add)
    clip = network.only_reader(add, "Clip")
    product = None if clip is None else network.only_reader(clip, "Mul")
    ratio = None if product is None else network.only_reader(product, "Div")
    if x is None or three != 3 or clip is None or product is None or ratio is None:
        return None
    bounds = None if clip.node is None else clamp_bounds(clip.node)
    same, six = _with_number(ratio)
    read = {t.name for t in product.inputs if t is not None}
    if bounds != (0.0, 6.0) or read != {x.name, clip.outputs[0].name} or six != 6 or same is not ratio.inputs[0]:
        return None
    return (x, [add, clip, product, ratio]) if not ratio.outputs[0].coded else None


def _with_number(op: Op) -> tuple[Tensor | None, float | None]:
    """The operand that is computed, and the one number that the other holds."""
    computed = [t for t in op.inputs if t is not None and t.constant is None]
    held = [t.values for t in op.inputs if t is not None and t.constant is not None]
    if len(computed) != 1 or len(held) != 1 or held[0] is None or held[0].size != 1:
        return None, None
    return computed[0], float(held[0].ravel()[0])
