"""Windows of layers that a trace has in pieces.

    Conv(Transpose(Pad(x)))                    Conv(Transpose(x)), its pads larger by those of zeros
    Slice(ConvTranspose(x))                    ConvTranspose(x), its pads larger by what is cut off
    Reshape(Expand(Unsqueeze(x, k + 1)))       Resize(x), nearest: each place of axis k stands `times` times

The rules give no result; they change the graph where the pattern is met in full.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph.edit import constant, remove
from halfeven.run.torch_nodes import first_input, integers, maker_of, only_reader, perm_of, transposed
from halfeven.run.torch_operators import substitute

FAR = 2**31 - 1
"""The end of a slice that goes to the end."""
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def unpad(conv: ir.Node) -> None:
    """Take what is padded with zeros before into the pads of the layer."""
    turned = maker_of(conv.inputs[0], "Transpose")
    pad = maker_of(first_input(turned) if turned is not None else conv.inputs[0], "Pad")
    if pad is None or only_reader(pad, "Transpose" if turned is not None else "Conv") is None:
        return
    x, added = pad.inputs[0], integers(pad.inputs[1])
    value = constant(pad.inputs[2]) if len(pad.inputs) > 2 else None
    zero = len(pad.inputs) < 3 or pad.inputs[2] is None or (value is not None and not value.numpy().any())
    whole = len(pad.inputs) < 4 or pad.inputs[3] is None
    if (
        x is None
        or added is None
        or not zero
        or not whole
        or pad.attributes.get_string("mode", "constant") != "constant"
    ):
        return
    rank = len(added) // 2
    order = perm_of(turned) if turned is not None else list(range(rank))
    begins, ends = [added[axis] for axis in order], [added[rank + axis] for axis in order]
    if any(begins[:2] + ends[:2]) or min(added) < 0 or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return
    own = conv.attributes.get_ints("pads", (0,) * (2 * rank - 4))
    total = [a + b for a, b in zip(own, begins[2:] + ends[2:], strict=True)]
    conv.attributes["pads"] = ir.AttrInt64s("pads", total)
    if turned is not None:
        made = transposed(x, order)
        made.metadata_props.update(turned.metadata_props)
        assert conv.graph is not None
        conv.graph.insert_before(conv, made)
        x = made.outputs[0]
    conv.replace_input_with(0, x)


def unslice(node: ir.Node) -> None:
    """Take what is cut off behind a ConvTranspose into its pads; a Slice that cuts nothing goes."""
    value, parts = node.inputs[0], [integers(v) for v in node.inputs[1:]]
    if value is None or len(parts) < 3 or any(part is None or len(part) != 1 for part in parts):
        return
    (start,), (end,), (axis,), (step,) = [*(part or [] for part in parts), [1]][:4]
    if start == 0 and end >= FAR and step == 1:
        node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
        remove(node)
        return
    conv = maker_of(value, "ConvTranspose")
    if conv is None or only_reader(conv, "Slice") is None or value.shape is None or step != 1 or axis < 2:
        return
    size, places = value.shape[axis], value.shape.rank() - 2
    fixed = "output_shape" in conv.attributes or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    if not isinstance(size, int) or fixed:
        return
    first, last, _ = slice(start, end).indices(size)
    pads = list(conv.attributes.get_ints("pads", (0,) * (2 * places)))
    pads[axis - 2] += first
    pads[places + axis - 2] += size - last
    conv.attributes["pads"] = ir.AttrInt64s("pads", pads)
    value.shape = ir.Shape([last - first if i == axis else dim for i, dim in enumerate(value.shape)])
    node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
    remove(node)


def resize(node: ir.Node) -> None:
    """Make a Resize of the repetition along one axis, and one of two."""
    expand = maker_of(node.inputs[0], "Expand")
    unsqueeze = maker_of(first_input(expand), "Unsqueeze")
    x, axes = first_input(unsqueeze), integers(unsqueeze.inputs[1]) if unsqueeze is not None else None
    made = node.outputs[0].shape
    if x is None or x.shape is None or made is None or axes is None or len(axes) != 1:
        return
    rank, axis = x.shape.rank(), axes[0] % (x.shape.rank() + 1) - 1
    wide = expand.outputs[0].shape if expand is not None else None
    if rank not in (3, 4, 5) or made.rank() != rank or not 0 < axis < rank or wide is None or wide.rank() != rank + 1:
        return
    size, times = x.shape[axis], wide[axis + 1]
    same = [made[i] == x.shape[i] == wide[i + (i > axis)] for i in range(rank) if i != axis]
    if not isinstance(size, int) or not isinstance(times, int) or made[axis] != size * times or not all(same):
        return
    scales = np.ones(rank, np.float32)
    scales[axis] = times
    before = maker_of(x, "Resize")
    if before is not None and before.inputs[0] is not None and (inner := _times(before)) is not None:
        x, scales = before.inputs[0], scales * inner
    tensor = ir.node("Constant", [], {"value": ir.tensor(scales)})
    substitute(node, tensor, ir.node("Resize", [x, None, tensor.outputs[0]], NEAREST))


def _times(node: ir.Node) -> npt.NDArray[np.float32] | None:
    """The scales of a Resize that `resize` made."""
    if any(node.attributes.get_string(name, "") != value for name, value in NEAREST.items()) or len(node.inputs) != 3:
        return None
    value = node.inputs[2]
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy().astype(np.float32)
