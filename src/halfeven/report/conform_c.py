"""C beside the machine `integer`: every tensor that the generated function computes, on codes of the same samples.

A sample becomes codes as the header says: the nearest integers of real / scale, ties to even, plus the zero point. The
outputs' codes are made real again, to be judged beside those of other runtimes.
"""

from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from halfeven.draft import Batch, Draft
from halfeven.errors import BadCalibration
from halfeven.exporters.c.build import build
from halfeven.exporters.c.identifiers import identifier, remark
from halfeven.exporters.c.program import own_name
from halfeven.exporters.c.text import shapes_of
from halfeven.exporters.c.write import input_shapes
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.graph.network import Tensor
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.report.beside import Beside
from halfeven.run.c_program import compile_c
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.wording import counted

MACHINE = "integer"
Codes = npt.NDArray[np.int8]


def beside_c(path: Path, draft: Draft, data: Sequence[tuple[str, Batch]], threads: int) -> tuple[Beside, list[Batch]]:
    """The C file that was written of `draft` at `path`, compiled and run, beside the machine; its outputs.

    Raises:
        BadOption: there is no C compiler.
        BadCalibration: a sample has another shape than the C code is for.
    """
    network = lower(to_qdq(draft))
    program = build(network, input_shapes(network, draft), {})
    machine = IntegerExecutor(network, machine_named(MACHINE), threads)
    shapes = shapes_of(program, program.inputs)
    fed = [
        [_codes(feeds[t], tensor, shape, label) for (t, tensor), shape in zip(program.inputs, shapes, strict=True)]
        for label, feeds in data
    ]
    gives = [prod(shape) for shape in shapes_of(program, program.outputs)]
    run = compile_c(path, identifier(path.stem), [prod(shape) for shape in shapes], gives)
    known = Counter(remark(name) for name in machine.tensors)  # two names that are one in C tell nothing
    coded = [name for name, t in machine.tensors.items() if t.coded]
    names = {name: remark(name) for name in coded if known[remark(name)] == 1}
    watch = list(dict.fromkeys([*names, *(tensor.name for _, tensor in program.outputs)]))
    beside = Beside("c", MACHINE, machine.machine.evidence, inner=True)
    if left := len(set(coded) - set(watch)):
        beside.notes = (f"{counted(left, 'inner tensor')} not compared: in C another tensor has the same name",)
    outputs: list[Batch] = []
    for (label, feeds), (traced, made) in zip(data, run(fed), strict=True):
        ours = machine(feeds, watch)
        theirs = {name: traced[there] for name, there in names.items() if there in traced}
        theirs |= {tensor.name: codes for (_, tensor), codes in zip(program.outputs, made, strict=True)}
        for name, codes in theirs.items():
            simulated: Codes = np.asarray(ours[name], np.int8)
            maker = network.maker(name)
            beside.add(name, name if maker is None else maker.name, label, simulated, codes.reshape(simulated.shape))
        outputs.append({title: _real(theirs[t.name], t, program.shapes[own_name(t)]) for title, t in program.outputs})
    return beside, outputs


def _codes(array: npt.NDArray[np.generic], tensor: Tensor, shape: tuple[int, ...], label: str) -> Codes:
    if array.shape != shape:
        raise BadCalibration(f"{label}: the C code is for '{tensor.name}' of shape {list(shape)}, not {array.shape}.")
    assert tensor.params is not None
    held = array if array.dtype == np.int8 else quantize(array.astype(np.float32), tensor.params)
    return held.astype(np.int8)


def _real(codes: Codes, tensor: Tensor, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    assert tensor.params is not None
    return dequantize(codes.reshape(shape), tensor.params)
