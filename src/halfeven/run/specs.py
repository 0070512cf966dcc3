"""What a model asks for, which model it is, and how large its file is."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.data.sample import InputSpec
from halfeven.errors import UnsupportedModel
from halfeven.graph import ops
from halfeven.graph.model import load


def input_specs(model: ir.Model) -> list[InputSpec]:
    """Name, dtype and shape of the inputs that a caller must feed."""
    specs = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        if value.dtype is None or not isinstance(value.type, ir.TensorType):
            raise UnsupportedModel(f"Input '{value.name}' is no tensor; models with sequences or maps are not handled.")
        if np.dtype(value.dtype.numpy()).isbuiltin != 1:
            kind = value.dtype.name.lower()
            raise UnsupportedModel(
                f"Input '{value.name}' is {kind}, which ONNX Runtime cannot be fed from Python, so the model cannot be "
                f"run here. Let it take float32 and Cast it to {kind}."
            )
        dims = None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
        specs.append(InputSpec(value.name or "", np.dtype(value.dtype.numpy()), dims))
    return specs


def class_count(model: ir.Model) -> int | None:
    """How many classes the first output scores, one table of them a sample, in its last axis, as `verify` counts them.

    0 if it is no such table; None if the model does not say.
    """
    output = next(iter(model.graph.outputs), None)
    if output is None or output.dtype is None or output.shape is None:
        return None
    if not output.dtype.is_floating_point() or output.shape.rank() not in (2, 3):
        return 0
    *_, rows, last = output.shape
    if output.shape.rank() == 3 and isinstance(rows, int) and rows != 1:
        return 0
    if not isinstance(last, int):
        return None
    return last if last > 1 else 0


def index_limits(model: ir.Model) -> dict[str, int]:
    """For integer inputs that look a table up: how many rows it has, of several the least."""
    found: dict[str, int] = {}
    for node in model.graph:
        if node.op_type == "Gather" and ops.attribute(node, "axis", 0) == 0:
            table, index = ops.constant_of(node.inputs[0]), node.inputs[1]
            if table is not None and index is not None and index.is_graph_input() and index.name:
                found[index.name] = min(ops.dims_of(table)[0], found.get(index.name, 1 << 62))
    return found


def model_digest(model: ir.Model) -> str:
    """Of the graph and its weights (the first and last 64 KiB of each), 16 hex digits."""
    state = hashlib.sha256()
    for node in model.graph.all_nodes():
        names = [v.name if v is not None else "" for v in (*node.inputs, *node.outputs)]
        state.update(repr((node.domain, node.op_type, names, sorted(node.attributes))).encode())
    for name, value in sorted(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        state.update(repr((name, tensor.dtype.name, tensor.shape.numpy())).encode())
        flat = tensor.numpy().reshape(-1)
        take = max(1, 65536 // max(flat.dtype.itemsize, 1))
        state.update(np.ascontiguousarray(flat[:take]).tobytes() + np.ascontiguousarray(flat[-take:]).tobytes())
    return state.hexdigest()[:16]


def file_size(model: Any, beside: Collection[Path] | None = None) -> int:
    """Bytes of a model's file and of its external data; of a model in memory, what its file would have.

    `beside`: the files of its external data, where they are known.
    """
    if isinstance(model, str | Path):
        if beside is None:  # a .tflite holds all that belongs to it
            beside = () if Path(model).suffix.lower() == ".tflite" else external_files(load(model))
        return Path(model).stat().st_size + sum(p.stat().st_size for p in beside)
    held = model if isinstance(model, ir.Model) else load(model)
    outside = [t.nbytes for v in held.graph.initializers.values() if isinstance(t := v.const_value, ir.ExternalTensor)]
    return int(ir.to_proto(held).ByteSize()) + sum(outside)


def external_files(model: ir.Model) -> set[Path]:
    """The files beside a model that hold its weights."""
    tensors = (v.const_value for v in model.graph.initializers.values())
    return {Path(t.base_dir) / t.location for t in tensors if isinstance(t, ir.ExternalTensor)}
