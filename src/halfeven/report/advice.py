"""What to do about sums of two products that leave 16 bits, in sentences.

    saturating    on x86 without VNNI: weights of 7 bits (`--reduce-range`) for the layers that `paired_layers` finds
    wrapping      in ONNX Runtime on Arm64: weights from -127

The option is as it is typed, with the layers' names; of many layers with their operators, which is short and fits
other versions of the network too, but takes in layers that do not need it.
"""

from collections.abc import Iterator
from shlex import quote

from halfeven.report.simulate import ARM64, Simulation
from halfeven.wording import counted

VNNI = "onnxruntime@x86-vnni"
NAMED = 4  # so many layers are named
EVERY = "*"


def advise(found: Simulation, *, differs: bool, everything: bool = False) -> tuple[str, str]:
    """What to do, in a sentence or two, and the option that does it, which they end in, empty if there is none.

    Args:
        found: Two machines.
        differs: Whether some code or some output does.
        everything: Name each layer, however many there are.
    """
    said = [*_wrapping(found), *_saturating(found, differs=differs, everything=everything)]
    if differs and not found.wrapping and not found.saturating:
        said.append("Verify on the device if the outputs above differ more than you accept.")
    short = _operators(found) if _many(found) and not everything else patterns(found)
    return " ".join(said), " ".join(f"--reduce-range {quote(name)}" for name in short)


def patterns(found: Simulation) -> list[str]:
    """What `--reduce-range` is to be given: the layers' names; every layer where a file has names of its own."""
    return [EVERY] if "" in found.operators.values() else list(found.saturating)


def _operators(found: Simulation) -> list[str]:
    return list(dict.fromkeys(found.operators.values()))


def _many(found: Simulation) -> bool:
    return len(patterns(found)) > NAMED


def _wrapping(found: Simulation) -> Iterator[str]:
    if found.wrapping:
        yield (
            f"{counted(len(found.wrapping), 'depthwise layer')} can be off by 2^16 in a sum on {ARM64}, where two "
            "weights of -128 meet two inputs of the lowest code. Quantize again with weights from -127."
        )


def _saturating(found: Simulation, *, differs: bool, everything: bool) -> Iterator[str]:
    count = counted(len(found.saturating), "layer")
    match found.saturating_on:
        case ():
            if found.without_vnni:
                yield "No sum can saturate: every pair of products fits 16 bits."
            return
        case (one,):
            yield f"{count} can saturate on {one}{'.' if differs else '; on these data nothing differs.'}"
        case _:
            yield f"{count} can saturate on both sides; what that changes shows beside {VNNI}."
    whose = "them, while the others keep 8"
    if _many(found) and not everything:
        whose = "all layers of their operators (--all names those that need it)"
    elif patterns(found) == [EVERY]:
        whose = "all layers"
    yield f"No sum saturates with weights of 7 bits. Quantize the float network again with them for {whose}:"
