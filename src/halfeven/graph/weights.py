"""Reading and replacing constant operands, without touching what other nodes read."""

import mmap

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph import ops
from halfeven.graph.edit import add_initializer, unused, value_names


def array_at(node: ir.Node, port: int) -> npt.NDArray[np.generic] | None:
    """The constant that a node reads at `port`, as an array; None when there is none."""
    tensor = ops.constant_of(node.inputs[port]) if port < len(node.inputs) else None
    return None if tensor is None else tensor.numpy()


def put_constant(node: ir.Node, port: int, array: npt.NDArray[np.generic], model: ir.Model) -> str:
    """Let input `port` of `node` be `array`; a constant with other readers is left to them, under its name.

    Returns the name of what the node reads now.
    """
    if port >= len(node.inputs):
        node.resize_inputs(port + 1)
    value = node.inputs[port]
    alone = value is not None and len(value.uses()) == 1 and not value.is_graph_output()
    if value is not None and alone and value.graph is node.graph:
        value.const_value = ir.tensor(array, name=value.name)
        value.shape = ir.Shape(array.shape)
        return value.name or ""
    base = value.name if value is not None and value.name else f"{node.inputs[1].name}_bias"  # type: ignore[union-attr]
    name = unused(base, value_names(model))
    assert node.graph is not None
    node.replace_input_with(port, add_initializer(node.graph, name, ir.tensor(array, name=name)))
    return name


def let_go(tensor: ir.TensorProtocol | None) -> None:
    """Give the pages of a constant in a mapped file back to the system, which reads them again when they are asked for.

    Views of the weight stay valid. Without it a model of many gigabytes would fill the memory, as it is read in turn.
    """
    if isinstance(tensor, ir.ExternalTensor) and tensor.raw is not None and hasattr(mmap, "MADV_DONTNEED"):
        tensor.raw.madvise(mmap.MADV_DONTNEED)


def weigh(model: ir.Model) -> int:
    """Bytes of the initializers."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(t.nbytes for t in tensors if t is not None and t.dtype != ir.DataType.STRING)


def shared(node: ir.Node, port: int) -> bool:
    """Whether the constant at `port` has readers besides this one, or is handed out."""
    value = node.inputs[port]
    return value is not None and (len(value.uses()) > 1 or value.is_graph_output())
