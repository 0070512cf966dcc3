"""Scales of a file, a flat list of them, as parameters of the tensor that they belong to.

one scale                       per-tensor: shape () of an activation, all ones of a constant
as many as output channels      per channel, along the axis that the file names or that of the layer's outputs
by block                        along the axis that is summed, one run of scales for each output channel
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.encodings import Encoding, gathered
from halfeven.graph.plan import Role
from halfeven.numerics.conventions import Canonical
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, Tiling, per_channel


def shaped(model: ir.Model, name: str, found: Sequence[Canonical], axis: int | None = None) -> Encoding:
    """The entry of one tensor of the model; a name that the model lacks gets one scale, to be listed later.

    Raises:
        ValueError: so many scales do not fit the tensor.
    """
    constant = model.graph.initializers.get(name)
    tensor = ops.constant_of(constant)
    if tensor is None or constant is None:
        known = any(v.name == name for node in model.graph for v in node.outputs) or any(
            v.name == name for v in model.graph.inputs
        )
        if known and len(found) != 1:
            raise ValueError(f"{len(found)} scales; an activation has one")
        return Encoding(name, gathered(found[:1]))
    dims = ops.dims_of(tensor)
    role, layer_axis = _use(constant)
    if len(found) == 1:
        return Encoding(name, gathered(found, PER_TENSOR, (1,) * len(dims)), role)
    along = layer_axis if axis is None else axis
    if along is None or not -len(dims) <= along < len(dims) or dims[along] != len(found):
        where = "" if along is None else f" along axis {along}"
        raise ValueError(f"{len(found)} scales do not fit a tensor of shape {list(dims)}{where}")
    along %= len(dims)
    shape = tuple(len(found) if i == along else 1 for i in range(len(dims)))
    return Encoding(name, gathered(found, per_channel(along), shape), role)


def blocked(model: ir.Model, name: str, found: np.ndarray, zeros: np.ndarray, scheme: Scheme) -> Encoding:
    """The entry of a weight by blocks: `found` has the rank of the tensor, and `scheme` the tiling.

    Raises:
        ValueError: the tensor is no constant of the model, or does not split so.
    """
    tensor = ops.constant_of(model.graph.initializers.get(name))
    if tensor is None:
        raise ValueError("it has block scales, but is no constant of the model")
    dims, runs = ops.dims_of(tensor), dict(scheme.tiling.tiles)
    shape = tuple(-(-d // runs[i]) if i in runs else 1 for i, d in enumerate(dims))
    if found.shape != shape or any(d % runs.get(i, 1) for i, d in enumerate(dims)):
        raise ValueError(f"scales of shape {list(found.shape)} do not fit a tensor of shape {list(dims)}")
    return Encoding(name, QParams(scheme, found.astype(np.float32), zeros.astype(np.int32)), "weight")


def block_axes(model: ir.Model, name: str) -> tuple[int, int, tuple[int, ...]]:
    """The axes of output channels and of blocks of a weight, and its shape. Raises ValueError: it is none."""
    constant = model.graph.initializers.get(name)
    tensor = ops.constant_of(constant)
    _, output = _use(constant) if constant is not None else ("weight", None)
    if tensor is None or output is None or len(tensor.shape) < 2:
        raise ValueError("it has block scales, but is no weight of a layer")
    dims = ops.dims_of(tensor)
    return output, 1 if output == 0 else 0, dims


def tiles(rank: int, scales: tuple[int, ...], dims: tuple[int, ...], axis: int, run: int) -> Tiling:
    """The tiling of scales of shape `scales` with blocks of `run` along `axis`."""
    named = [(i, run if i == axis else 1) for i in range(rank) if i == axis or scales[i] == dims[i] != 1 or rank == 2]
    return Tiling(tuple(named))


def _use(constant: ir.Value) -> tuple[Role, int | None]:
    """Whether a constant is a bias, and the axis of its output channels."""
    for use in constant.uses():
        traits = ops.TRAITS.get(use.node.op_type)
        if traits is not None and use.idx == traits.bias:
            return "bias", 0
        if ops.weight_port(use.node) == use.idx:
            return "weight", ops.weight_axis(use.node, use.idx)
    return "weight", None
