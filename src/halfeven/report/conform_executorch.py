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
from halfeven.exporters.executorch.write import write_watched
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.names import name_everything
from halfeven.graph.network import Tensor
from halfeven.report.beside import Beside
from halfeven.report.sides import in_order, pairs, sides
from halfeven.run.executorch import open_executorch
from halfeven.run.integer.litert import LITERT_XNNPACK, LITERT_XNNPACK_ARM64
from halfeven.run.processor import on_arm
from halfeven.run.runtimes import open_file

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
    coded = {t.name: t for t in write_watched(draft, watched)}
    common = {ours: theirs for ours, theirs in pairs(named, machine).items() if ours in coded}
    beside = Beside("executorch", kernels.name, kernels.evidence, inner=True)
    run, inner = open_file(path, model), open_executorch(watched)
    outputs: list[Batch] = []
    alike = True
    for label, feeds in data:
        outputs.append(run(feeds, label))
        found, ours = inner(run._fed(feeds), label), machine(feeds, list(common.values()))[1]
        for name, other in common.items():
            simulated, codes = machine.offsets(other, ours[other]), _offsets(coded[name], found[name])
            if (turned := in_order(codes, simulated)) is not None:
                maker = named.network.maker(name)
                beside.add(name, name if maker is None else maker.name, label, turned, codes)
        told = [port.name for port in run.run.outputs]
        alike &= all(
            np.array_equal(found[t], x, equal_nan=True) for t, x in zip(told, outputs[-1].values(), strict=True)
        )
    return beside, outputs, () if alike else (CHANGED,)


def _offsets(tensor: Tensor, real: np.ndarray) -> np.ndarray:
    """Codes as distances from the zero point, of the real numbers that a dequantization makes of them."""
    assert tensor.params is not None
    return np.asarray(np.rint(real / tensor.params.scale.ravel()[0]), np.int64)
