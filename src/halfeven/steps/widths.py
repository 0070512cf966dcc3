"""Other widths than a target's own: its table with weights of 4 bits, or activations of 16.

    --bits 4              weights of MatMul and Gemm: int4, one scale for each output
    --conv-bits 4         weights of Conv and ConvTranspose: int4, one scale for each output channel
    --activation-bits 16  activations and constant operands: uint16 or int16, as the target's 8-bit ones are signed

What the table chooses is replaced where the target's runtime takes the other codes (`Target.takes`); no kernel computes
on them: ONNX Runtime makes 4-bit weights real before it multiplies, and computes what is between 16-bit codes in float.
So the file is smaller, or as exact as 16 bits are, but not faster, and all is quantized that can be.

Not every mode has such choices (`MODES`); one that would do nothing is refused.
"""

from collections.abc import Iterable
from dataclasses import replace

from halfeven.errors import BadOption
from halfeven.graph.bits import in_bits
from halfeven.numerics.scheme import Scheme
from halfeven.targets.target import OpRule, Target

MODES: dict[str, tuple[str, ...]] = {
    "bits": ("static", "weight-only"),
    "conv_bits": ("static", "weight-only"),
    "reduce_range": ("static", "dynamic"),
    "activation_bits": ("static",),
    "block": ("weight-only",),
    "block_scales": ("weight-only",),
    "zero_points": ("weight-only",),
}
"""Options of `Place` that are of some modes only."""
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
SAID_WEIGHTS = (
    "weights of 4 bits are made real by {target} before it multiplies: the file is smaller, the network no faster than "
    "in float"
)
SAID_ACTIVATIONS = (
    "activations of 16 bits have no integer kernels in {target}, which computes between them in float: this shows what "
    "16 bits keep and is slower than float. ONNX Runtime 1.32 rounds what a Gemm or MatMul reads to 8 bits, unless the "
    "session option session.qdq_matmulnbits_accuracy_level is 0"
)


def refuse_idle(mode: str, given: Iterable[str]) -> None:
    """Raise BadOption for the first of the given options of `Place` that does nothing in a mode."""
    for name in given:
        modes = MODES.get(name, (mode,))
        if mode not in modes:
            flag, plural = "--" + name.replace("_", "-"), "s" if len(modes) > 1 else ""
            raise BadOption(
                f"{flag} is of the mode{plural} {' and '.join(modes)}; it does nothing in {mode}. Leave it out."
            )


def in_widths(target: Target, bits: int, conv_bits: int, activation_bits: int) -> tuple[Target, tuple[str, ...]]:
    """The target with codes of other widths in its rows, and what that means for the user.

    Raises:
        BadOption: there are no such widths, or the target takes none of them.
    """
    for flag, value, allowed in (
        ("--bits", bits, (4, 8)),
        ("--conv-bits", conv_bits, (4, 8)),
        ("--activation-bits", activation_bits, (8, 16)),
    ):
        if value not in allowed:
            raise BadOption(f"{flag} {value}: choose {allowed[0]} or {allowed[1]}.")
    if (bits, conv_bits, activation_bits) == (8, 8, 8):
        return target, ()
    rules = tuple(
        _changed(target, replace(rule, ops=ops), bits, conv_bits, activation_bits)
        for rule in target.rules
        for ops in _parted(rule.ops)
    )
    said = [SAID_WEIGHTS] if 4 in (bits, conv_bits) else []
    said += [SAID_ACTIVATIONS] if activation_bits == 16 else []
    return replace(target, rules=rules), tuple(text.format(target=target.name) for text in said)


def _parted(ops: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The operators of a row: convolutions, lookups of tables, and the rest, each for itself."""
    kinds = [("Gather" in op, op in CONVOLUTIONS) for op in ops]
    return [tuple(op for op, k in zip(ops, kinds, strict=True) if k == kind) for kind in dict.fromkeys(kinds)]


def _changed(target: Target, rule: OpRule, bits: int, conv_bits: int, activation_bits: int) -> OpRule:
    data, weight = rule.data, rule.weight
    if activation_bits == 16:
        data = _taken(target, rule.data, 16, "--activation-bits")
    wanted = conv_bits if CONVOLUTIONS.issuperset(rule.ops) else bits if "Gather" not in rule.ops else 8
    if weight is not None and wanted == 4:
        weight = _taken(target, weight, 4, "--conv-bits" if CONVOLUTIONS.issuperset(rule.ops) else "--bits")
    return replace(rule, data=data, weight=weight)


def _taken(target: Target, scheme: Scheme, bits: int, flag: str) -> Scheme:
    """A scheme of a table in other bits, if the target takes it."""
    found = in_bits(scheme, bits)
    rows = [*target.takes, *(rule.data for rule in target.rules), *(r.weight for r in target.rules if r.weight)]
    if not any(found.grid == taken.grid and (found.symmetric or not taken.symmetric) for taken in rows):
        raise BadOption(f"{flag} {bits}: {target.name} takes no {found.grid}. `--target onnxruntime` does.")
    return found
