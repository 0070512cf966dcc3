"""ExecuTorch beside the simulator of XNNPACK's arithmetic.

A program gives its outputs alone, so a second one is compiled of the same plan that gives every quantized tensor too:
such an output is read through a dequantization, and leaves the int8 kernels as they are. Where the outputs of the two
programs differ, being watched has changed what is computed, and it is said.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch, Draft
from halfeven.errors import UnsupportedModel
from halfeven.exporters.executorch.write import write_watched
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.names import name_everything
from halfeven.graph.network import Tensor
from halfeven.report.beside import Beside
from halfeven.report.sides import Side, in_order, pairs, sides
from halfeven.run.executorch import open_executorch
from halfeven.run.integer.litert import LITERT_XNNPACK, LITERT_XNNPACK_ARM64
from halfeven.run.processor import on_arm
from halfeven.run.runtimes import open_file
from halfeven.wording import counted

CHANGED = "Being watched changes outputs of ExecuTorch; the inner codes are those of the program that is watched."


def beside_executorch(
    path: Path, draft: Draft, model: ir.Model, data: Sequence[tuple[str, Batch]], threads: int
) -> tuple[Beside, list[Batch], tuple[str, ...]]:
    """The program at `path`, written of `draft`, beside XNNPACK's machine; outputs by `model`'s names, notes."""
    quantized = to_qdq(draft)
    name_everything(quantized)
    kernels = LITERT_XNNPACK_ARM64 if on_arm() else LITERT_XNNPACK
    named, machine = sides(quantized, ["integer", kernels.name], data[:1], threads)
    watched = path.with_name(f"watched{path.suffix}")
    try:
        coded = {t.name: t for t in write_watched(draft, watched)}
        inner = open_executorch(watched)
    except UnsupportedModel as error:
        coded, inner = {}, None
        notes = [f"Only outputs are compared: a program that gives more cannot be made ({error})."]
    else:
        notes = []
    common = {ours: theirs for ours, theirs in pairs(named, machine).items() if ours in coded}
    beside = Beside("executorch", kernels.name, kernels.evidence, inner=inner is not None)
    run, outputs, alike = open_file(path, model), list[Batch](), True
    for label, feeds in data:
        outputs.append(run(feeds, label))
        if inner is None:
            continue
        found, ours = inner(run.fed(feeds), label), machine(feeds, list(common.values()))[1]
        for name, other in common.items():
            simulated, codes = machine.offsets(other, ours[other]), _offsets(coded[name], found[name])
            if (turned := in_order(codes, simulated)) is not None:
                beside.add(name, _layer(named, name), label, turned, codes)
        told = [port.name for port in run.run.outputs]
        alike &= all(
            np.array_equal(found[t], x, equal_nan=True) for t, x in zip(told, outputs[-1].values(), strict=True)
        )
    all_of_them = [t.name for op in named.network.ops for t in op.outputs if t.coded and t.name]
    if inner is not None and len(beside.tensors) < len(all_of_them):
        left = counted(len(all_of_them) - len(beside.tensors), "quantized tensor")
        notes.append(
            f"{left} of {len(all_of_them)} not compared: no output of the program, or of no tensor in LiteRT's."
        )
    return beside, outputs, (*notes, *([] if alike else [CHANGED]))


def _layer(side: Side, name: str) -> str:
    maker = side.network.maker(name)
    return name if maker is None else maker.name


def _offsets(tensor: Tensor, real: np.ndarray) -> np.ndarray:
    """Codes as distances from the zero point, of the real numbers that a dequantization makes of them."""
    assert tensor.params is not None
    return np.asarray(np.rint(real / tensor.params.scale.ravel()[0]), np.int64)
