"""ncnn's int8 layers on x86-64 and Arm64; `numerics.ncnn` has their arithmetic.

    operator                in ncnn                       on x86-64       on Arm64
    Conv                    Convolution                   fused           folded
                            other groups                  fused           fused
    Conv, depthwise         8 n channels, quick           intel or amd    folded
                            8 n channels                  intel or amd    separate
                            quick                         fused           fused; in blocks separate, from -128
                            others                        separate        divided
    Gemm, MatMul            InnerProduct                  separate        separate
    QuantizeLinear          Quantize                      profile `ncnn` of `numerics.profiles`

"Folded" is fused, but before a Relu and codes the scale of the output joins the factors. "Quick": a window of 3 x 3,
not dilated, moved by 1 or 2, no clip behind that has an upper bound. "In blocks": codes of whole blocks of 8 columns
are made by instructions that multiply and add apart and saturate as int8 does; the columns behind are fused by the
compiler and end at -127, as all other codes of ncnn.

A layer's input is int8 with one scale and no zero point, its weights int8 with a scale for each output, or each group,
its bias real. All else runs on real numbers, GlobalAveragePool by a sum in order, HardSwish by `swish`.

Grouped convolutions with a multiple of 8 outputs a group give numbers on x86-64 that mean nothing; they are written in
float and have no row.

Sources: ncnn 20261020 src/layer/x86, src/layer/arm; measured.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from halfeven.errors import UnsupportedModel
from halfeven.graph.network import Network, Op
from halfeven.numerics.fused import Floats32
from halfeven.numerics.grid import INT8, INT8_NARROW
from halfeven.numerics.ncnn import ONE, Scaling, real_sums, reciprocals
from halfeven.numerics.profiles import profile_named
from halfeven.numerics.quantize import Array as Floats
from halfeven.numerics.scheme import QParams
from halfeven.run.integer.borders import ToCodes, ToReal, to_real
from halfeven.run.integer.conditions import spatial, types
from halfeven.run.integer.machine import (
    Array,
    Arrays,
    Condition,
    Machine,
    Rule,
    Run,
    given,
    operand,
    params_of,
)
from halfeven.run.integer.real_layers import Sums, plain, product
from halfeven.run.integer.swish import HardSwish, with_swishes
from halfeven.run.processor import AMD, SAID, on_arm, vendor

PROFILE = profile_named("ncnn")
LOW, HIGH = -127, 127
BLOCK = 8
Shape: TypeAlias = tuple[int, ...]


def ncnn_codes(x: Floats, params: QParams, low: int = LOW) -> Array:
    """Codes as ncnn makes them: by the reciprocal scale, half away from zero.

    Raises:
        UnsupportedModel: ncnn has no such codes.
    """
    if params.scheme.grid not in (INT8, INT8_NARROW) or params.scale.size != 1 or params.zero_point.any():
        raise UnsupportedModel(
            f"The network holds {params.scheme} codes; ncnn's are int8, symmetric, with one scale. Quantize it with "
            "--target ncnn."
        )
    codes = PROFILE.quantize(np.asarray(x, np.float32), reciprocals(params.scale)[0], 0, low, HIGH)
    return codes.astype(params.scheme.grid.dtype)


@dataclass(frozen=True)
class Int8Layer:
    """A layer: int32 sums made real, clamped, and codes if the output is coded.

    `folded`: before a Relu and codes the scale of the output joins the factors. `blocked`: codes of whole blocks of 8
    columns are scaled separately, and the lowest is -128.
    """

    scaling: Scaling = Scaling.FUSED
    folded: bool = False
    blocked: bool = False

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """What computes it."""
        sums = Sums.of(op, 0, threads)
        ours, theirs = (reciprocals(params_of(op, port).scale) for port in (0, 1))
        by, bias, made = theirs.reshape(sums.channels), sums.bias(), op.outputs[0].params
        folded = self.folded and made is not None and op.clamp == (0.0, np.inf)
        top = reciprocals(made.scale)[0] if folded and made is not None else ONE

        def run(arrays: Arrays) -> tuple[Array, ...]:
            acc = sums(given(arrays, 0))
            real = real_sums(acc, ours, by, bias, self.scaling, top)
            if folded and made is not None:
                codes = PROFILE.quantize(np.maximum(real, np.float32(0)), ONE, 0, LOW, HIGH)
                return (codes.astype(made.scheme.grid.dtype),)
            found = _finished(op, real)
            if self.blocked and made is not None:
                cut = acc.shape[-1] // BLOCK * BLOCK
                real = real_sums(acc[..., :cut], ours, by, bias, Scaling.SEPARATE)
                found[..., :cut] = _finished(op, real, INT8.low)
            return (found,)

        return run


def _finished(op: Op, real: Floats32, low: int = LOW) -> Array:
    """Clamped, and codes of it where the network goes on in codes."""
    if op.clamp is not None:
        real = np.clip(real, *np.asarray(op.clamp, np.float32))
    made = op.outputs[0]
    return real if made.params is None else ncnn_codes(real, made.params, low)


@dataclass(frozen=True)
class OrderedMean:
    """GlobalAveragePool of real numbers: one sum after the other, times the reciprocal of their count."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The means."""
        source, made = op.inputs[0], op.outputs[0]
        assert source is not None

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = given(arrays, 0)
            real = x if source.params is None else to_real(source, x)
            flat = real.reshape(*real.shape[:2], -1).astype(np.float32)
            total = np.zeros(flat.shape[:2], np.float32)
            for at in range(flat.shape[2]):
                total += flat[..., at]
            mean = (total * np.float32(1 / flat.shape[2])).reshape(*real.shape[:2], *(1,) * (real.ndim - 2))
            return (mean if made.params is None else ncnn_codes(mean, made.params),)

        return run


def _groups(op: Op) -> tuple[int, int, Shape]:
    """Groups of a convolution, outputs of each, and the shape of the weights."""
    w, groups = operand(op, 1), int(op.attributes.get("group", 1))
    shape = () if w is None or w.data is None else w.data.shape
    return groups, shape[0] // groups if shape else 0, shape


def one_scale_a_group(op: Op, _: Network) -> bool:
    """The scales of a grouped convolution's weights are the same within a group."""
    groups, w = _groups(op)[0], operand(op, 1)
    if groups == 1 or w is None or w.params is None or w.params.scale.size == 1:
        return True
    each = w.params.scale.reshape(groups, -1)
    return bool((each == each[:, :1]).all())


def depthwise(op: Op, _: Network) -> bool:
    """One channel and one output in each of several groups."""
    groups, each, shape = _groups(op)
    return groups > 1 and each == 1 and shape[1] == 1


def whole(op: Op, _: Network) -> bool:
    """One group."""
    return _groups(op)[0] == 1


def in_blocks(op: Op, _: Network) -> bool:
    """A multiple of 8 groups."""
    return _groups(op)[0] % BLOCK == 0


def three_by_three(op: Op, network: Network) -> bool:
    """A window of 3 x 3, not dilated, moved by 1 or by 2, whose output no Clip but perhaps a Relu follows."""
    moved = tuple(op.attributes.get("strides", (1, 1))) in ((1, 1), (2, 2))
    readers = [] if op.outputs[0].coded else network.readers(op.outputs[0].name)
    clipped = op.clamp not in (None, (0.0, np.inf)) or [reader.kind for reader in readers] == ["Clip"]
    plain_window = _groups(op)[2][2:] == (3, 3) and set(op.attributes.get("dilations", (1, 1))) == {1}
    return plain_window and moved and not clipped


def lost(op: Op, _: Network) -> bool:
    """Groups of a multiple of 8 outputs, which ncnn's kernels for x86 get wrong."""
    groups, each, _shape = _groups(op)
    return groups > 1 and each % BLOCK == 0


def unless(condition: Condition) -> Condition:
    """The opposite."""
    return lambda op, network: not condition(op, network)


INT8S = types(*((x, w) for x in (INT8, INT8_NARROW) for w in (INT8, INT8_NARROW)), output=False)
CONV: tuple[Condition, ...] = (INT8S, plain, spatial(2), one_scale_a_group)
X86 = (
    Rule(("Conv",), Int8Layer(), (*CONV, depthwise, three_by_three)),
    Rule(("Conv",), Int8Layer(Scaling.SEPARATE), (*CONV, depthwise)),
    Rule(("Conv",), Int8Layer(), (*CONV, unless(lost))),
)
ARM = (
    Rule(("Conv",), Int8Layer(folded=True), (*CONV, depthwise, three_by_three, in_blocks)),
    Rule(("Conv",), Int8Layer(blocked=True), (*CONV, depthwise, three_by_three)),
    Rule(("Conv",), Int8Layer(Scaling.SEPARATE), (*CONV, depthwise, in_blocks)),
    Rule(("Conv",), Int8Layer(Scaling.DIVIDED), (*CONV, depthwise)),
    Rule(("Conv",), Int8Layer(folded=True), (*CONV, whole)),
    Rule(("Conv",), Int8Layer(), (*CONV, unless(lost))),
)
BOTH = (
    Rule(("QuantizeLinear",), ToCodes(ncnn_codes), (lambda op, _: len(op.inputs) == 1,)),
    Rule(("DequantizeLinear",), ToReal(), (lambda op, _: len(op.inputs) == 1,)),
    Rule(("Gemm", "MatMul"), Int8Layer(Scaling.SEPARATE), (INT8S, plain, product)),
    Rule(("GlobalAveragePool",), OrderedMean()),
    Rule(("HardSwish",), HardSwish()),
)
_EXCEPT = ", but for codes behind functions that ncnn rounds otherwise, such as Softmax"
NCNN_X86 = Machine(
    "ncnn@x86",
    "ncnn 20261020 on x86-64 of Intel with AVX512, one thread",
    "no code differs in 10 million of each int8 layer, nor in whole networks, run beside the runtime" + _EXCEPT,
    (Rule(("Conv",), Int8Layer(Scaling.INTEL), (*CONV, depthwise, in_blocks)), *X86, *BOTH),
    ncnn_codes,
    with_swishes,
)
NCNN_X86_AMD = replace(
    NCNN_X86,
    name="ncnn@x86-amd",
    source="ncnn 20261020 on x86-64 of AMD with AVX512, one thread",
    rules=(Rule(("Conv",), Int8Layer(Scaling.AMD), (*CONV, depthwise, in_blocks)), *X86, *BOTH),
)
NCNN_ARM64 = Machine(
    "ncnn@arm64",
    "ncnn 20261020 on Arm64, one thread",
    "no code differs in 10 million of each int8 layer, nor in whole networks, run under qemu (Cortex-A76)" + _EXCEPT,
    (*ARM, *BOTH),
    ncnn_codes,
    with_swishes,
)
NCNN = (NCNN_X86, NCNN_X86_AMD, NCNN_ARM64)


def this_ncnn(said: Path = SAID) -> Machine:
    """What ncnn is on this processor; on x86-64 of a vendor that is not known, what it is on Intel's."""
    if on_arm():
        return NCNN_ARM64
    return NCNN_X86_AMD if vendor(said) == AMD else NCNN_X86
