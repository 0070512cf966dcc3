"""Three files for bare metal: NAME.c, NAME.h, and NAME_test.c, whose main returns 0 if recorded codes come out again.

    gcc -std=c99 -O2 -c NAME.c                        what goes into the firmware
    gcc -std=c99 -O2 NAME.c NAME_test.c -o test       what shows that compiler and processor compute these integers

The arithmetic is that of `halfeven.numerics.integer_target`; the recorded outputs are `run.integer`'s, which computes
it with NumPy. The input has one shape, fixed here: open axes have the length they had in the sample, a batch axis 1.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from halfeven.draft import Batch, Draft
from halfeven.errors import BadOption, UnsupportedByTarget
from halfeven.exporters.c.blocks import Shape
from halfeven.exporters.c.build import build
from halfeven.exporters.c.identifiers import file_stem, identifier
from halfeven.exporters.c.program import MOST, Program, Values
from halfeven.exporters.c.text import Layout, header, laid_out, self_test, shapes_of, source
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.storage import refuse_halves
from halfeven.files import write_text
from halfeven.graph.lower import lower
from halfeven.graph.network import Network
from halfeven.numerics.quantize import dequantize
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.wording import counted

NOTHING: Mapping[str, str] = {}
VECTORS = 3
RECORDED = 1 << 15  # codes of inputs in the self-test; of larger networks one vector is recorded


def write_c(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write NAME.c at `path`, NAME.h and NAME_test.c beside it; nothing, if the network has no form in C.

    Raises:
        UnsupportedByTarget: a node computes with real numbers, or codes are not int8; the node is named.
        BadOption: the file's name cannot stand in an #include, or does not end in .c.
    """
    refuse_halves(draft, "bare metal")
    network = lower(to_qdq(draft))
    return write_network(network, input_shapes(network, draft), path, draft.plan.floats)


def write_network(
    network: Network, shapes: Mapping[str, Shape], path: Path, reasons: Mapping[str, str] = NOTHING
) -> tuple[str, ...]:
    """The same of a network on codes and the shapes of its inputs; `reasons`: why nodes were left in float, by name."""
    if path.suffix != ".c":
        raise BadOption(f"'{path}': C text has the suffix .c. Name the file {path.stem}.c.")
    stem = file_stem(path.stem)
    name = identifier(stem)
    program = build(network, shapes, reasons)
    layout = laid_out(program)
    if max(layout.arena, layout.constants) > MOST:
        raise UnsupportedByTarget(
            f"'{path}' would need an arena of {layout.arena} bytes and {layout.constants} bytes of constants; a C "
            f"int32_t holds {MOST}. Make the network or its input smaller."
        )
    vectors = recorded(network, program)
    written = {
        path: source(program, layout, name, stem),
        path.with_name(f"{stem}.h"): header(program, layout, name, stem),
        path.with_name(f"{stem}_test.c"): self_test(program, name, stem, vectors),
    }
    for file, text in written.items():
        write_text(file, text)
    return _said(program, layout, name, stem)


def input_shapes(network: Network, draft: Draft) -> dict[str, Shape]:
    """The shape of each input: its own, open axes as in the sample that was traced, a batch of 1.

    Raises:
        UnsupportedByTarget: an axis is open and there was no sample.
    """
    found = {}
    for tensor in network.inputs:
        seen, declared = draft.shapes.get(tensor.name), tensor.shape
        if declared is None:
            declared = (None,) * len(seen or ())
        sizes = [
            n if isinstance(n, int) else 1 if axis == 0 else seen[axis] if seen and axis < len(seen) else 0
            for axis, n in enumerate(declared)
        ]
        if (seen is None and tensor.shape is None) or 0 in sizes:
            raise UnsupportedByTarget(
                f"The input '{tensor.name}' has an open shape {list(declared)}, and C needs lengths: quantize with "
                "data of the shape that the device will see."
            )
        found[tensor.name] = tuple(sizes)
    return found


def recorded(network: Network, program: Program) -> list[tuple[list[Values], list[Values]]]:
    """Codes of inputs that look like noise, and what comes out, by NumPy."""
    shapes = shapes_of(program, program.inputs)
    count = VECTORS if VECTORS * sum(map(prod, shapes)) <= RECORDED else 1
    run = IntegerExecutor(network, machine_named("integer"), threads=1)
    vectors: list[tuple[list[Values], list[Values]]] = []
    for n in range(count):
        given = [_noise(shape, 97 * n + i) for i, shape in enumerate(shapes)]
        found = run(_fed(program, given), [tensor.name for _, tensor in program.outputs])
        vectors.append((given, [np.asarray(found[t.name], np.int8) for _, t in program.outputs]))
    return vectors


def _fed(program: Program, given: list[Values]) -> Batch:
    """What the network reads for these codes: themselves, or the numbers that are quantized to them."""
    found: Batch = {}
    for (name, tensor), codes in zip(program.inputs, given, strict=True):
        assert tensor.params is not None
        found[name] = codes if tensor.name == name else dequantize(codes.astype(np.int8), tensor.params)
    return found


def _noise(shape: Shape, seed: int) -> Values:
    """int8 codes that are spread over all 256, the same everywhere: a mix of the bits of each element's number."""
    z = (np.arange(prod(shape), dtype=np.uint64) + np.uint64(1 + 104729 * seed)) * np.uint64(0x9E3779B9)
    z = (z ^ (z >> np.uint64(15))) & np.uint64(0xFFFFFFFF)
    z = (z * np.uint64(0x85EBCA6B)) & np.uint64(0xFFFFFFFF)
    z ^= z >> np.uint64(13)
    return np.asarray(((z >> np.uint64(8)) & np.uint64(255)).astype(np.int64) - 128, np.int8).reshape(shape)


def _said(program: Program, layout: Layout, name: str, stem: str) -> tuple[str, ...]:
    listed = zip(program.inputs, shapes_of(program, program.inputs), strict=True)
    shapes = ", ".join(f"'{title}' {list(shape)}" for (title, _), shape in listed)
    return (
        f"{stem}.c: {counted(len(program.calls), 'call')}, {layout.constants} bytes of constants, an arena of "
        f"{layout.arena} bytes. Call {name}_run with int8 codes, as {stem}.h says; {stem}_test.c checks your compiler.",
        f"The C code is for inputs of one shape: {shapes}.",
        *dict.fromkeys(program.notes),
    )
