"""A quantized network as a program of ExecuTorch (.pte) that runs on XNNPACK's int8 kernels.

    draft -> network of settled shapes -> `TracedNetwork` -> torch.export -> XNNPACK's partitioner -> .pte

Shapes are fixed: an open batch is 1, other open axes have the lengths of the sample that the draft was traced with.
What has no int8 kernel computes in float32. Before it is written the program is loaded by ExecuTorch, and its notes
count what its parts hold, not what was meant.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.executorch.forms import why_float
from halfeven.exporters.executorch.module import TracedNetwork, check_codes
from halfeven.exporters.executorch.steps import step_of
from halfeven.exporters.litert.fixing import fixed, has_batch
from halfeven.files import write_file
from halfeven.graph.network import Network, Tensor
from halfeven.graph.plan import DYNAMIC
from halfeven.run.executorch import check_program, compiled
from halfeven.run.executorch_file import Kernel, kernels_in
from halfeven.version import __version__
from halfeven.wording import counted

MOST = 20  # notes on operators in float


def write_executorch(draft: Draft, path: Path) -> tuple[str, ...]:
    """Write a draft as a .pte file; the notes say what runs in int8, and what in real numbers and why.

    Raises:
        UnsupportedByTarget: codes that XNNPACK does not have, an operator that PyTorch or ExecuTorch cannot run, scales
            found while it runs; nothing is written.
        BadOption: ExecuTorch is not installed, or the file cannot be written.
    """
    if any(q.method == DYNAMIC for q in draft.plan.groups.values()):
        raise UnsupportedByTarget("ExecuTorch programs are written with fixed scales here. Leave --mode dynamic out.")
    network = fixed(draft, 1 if has_batch(draft) else None)
    check_codes(network)
    told = {
        "version": __version__,
        "target": draft.target.name,
        "plan": draft.plan.digest,
        "inputs": [t.name for t in network.inputs],
        "outputs": [t.name for t in network.outputs],
    }
    try:
        content = compiled(TracedNetwork(network, step_of), [_example(t) for t in network.inputs], told)
        check_program(content, path)
        kernels = kernels_in(content, path)
    except UnsupportedModel as error:
        raise UnsupportedByTarget(f"{error} Nothing was written.") from error
    write_file(path, lambda file: file.write(content))
    return _notes(network, kernels)


def write_watched(draft: Draft, path: Path) -> tuple[Tensor, ...]:
    """Write a program that gives, beside its outputs, quantized tensors of one scale, which are returned.

    Where the batch is open, those are left out that do not begin with it: they could not be given sample by sample.

    Raises:
        UnsupportedByTarget, UnsupportedModel, BadOption: see `write_executorch`.
    """
    network = fixed(draft, 1 if has_batch(draft) else None)
    given = {t.name for t in network.outputs}
    made = [t for op in network.ops for t in op.outputs if t.params is not None and t.params.scale.size == 1]
    coded = tuple(t for t in made if t.name not in given and (not has_batch(draft) or (t.shape or ())[:1] == (1,)))
    whole = replace(network, outputs=(*network.outputs, *coded))
    told = {"inputs": [t.name for t in whole.inputs], "outputs": [t.name for t in whole.outputs]}
    content = compiled(TracedNetwork(whole, step_of), [_example(t) for t in whole.inputs], told)
    write_file(path, lambda file: file.write(content))
    return coded


def _example(tensor: Tensor) -> np.ndarray:
    """Zeros of an input's shape and type."""
    sizes = [d for d in tensor.shape or () if isinstance(d, int)]
    if tensor.shape is None or len(sizes) != len(tensor.shape) or tensor.dtype is ir.DataType.UNDEFINED:
        raise UnsupportedByTarget(f"Input '{tensor.name}' has no known shape and type; trace the model on a sample.")
    return np.zeros(sizes, tensor.dtype.numpy())


def _notes(network: Network, kernels: tuple[Kernel, ...]) -> tuple[str, ...]:
    layers = [k for k in kernels if k.weighted]
    count = sum(k.integer for k in layers)
    said = [f"{count} of {counted(len(layers), 'layer')} with weights run in int8 in XNNPACK."]
    floats = [(op, why) for op in network.ops if op.integer and (why := why_float(op))]
    said += [f"{op.kind} '{op.name}' runs in float: {why}." for op, why in floats[:MOST]]
    if len(floats) > MOST:
        said.append(f"And {len(floats) - MOST} more operators run in float.")
    own = Counter(k.kind.removeprefix("aten::") for k in kernels if not k.delegated)
    if own:
        listed = ", ".join(f"{name} ({n})" for name, n in own.most_common())
        said.append(f"ExecuTorch's own float kernels run what XNNPACK has not: {listed}.")
    shapes = ", ".join(f"'{t.name}' {list(t.shape or ())}" for t in network.inputs)
    said.append(f"Its shapes are fixed: {shapes}.")
    return tuple(said)
