"""Groups of operators that are one layer in ncnn and TNN, found in a network; clamps with constant bounds.

Softmax over rows, Reshape to the shape before, behind a Flatten      what an older Softmax becomes
x * Clip(x + 3, 0, 6) / 6                                             HardSwish
"""

import numpy as np

from halfeven.graph.network import Network, Op, Tensor


def bounds(op: Op) -> tuple[float, float] | None:
    """Of a Relu or Clip, if they are constant."""
    if op.kind == "Relu":
        return 0.0, np.inf
    found = [float(op.attributes.get("min", -np.inf)), float(op.attributes.get("max", np.inf))]
    for port, tensor in enumerate(op.inputs[1:3]):
        if tensor is not None:
            if tensor.data is None or tensor.coded or tensor.data.size != 1:
                return None
            found[port] = float(tensor.data.ravel()[0])
    return found[0], found[1]


def softmax_group(flat: Op, network: Network) -> list[Op]:
    """The Softmax over rows, and the Reshape to the shape before, behind a Flatten; none if there are no such."""
    soft = network.only_reader(flat, "Softmax")
    back = None if soft is None else network.only_reader(soft, "Reshape")
    if soft is None or back is None or back.inputs[1] is None or int(soft.attributes.get("axis", -1)) not in (-1, 1):
        return []
    shape = network.maker(back.inputs[1].name)
    whole = shape is not None and shape.kind == "Shape" and shape.inputs[0] is flat.inputs[0] and not shape.attributes
    return [soft, back] if whole else []


def hard_swish_group(add: Op, network: Network) -> tuple[Tensor | None, list[Op]]:
    """What a HardSwish that begins with an Add of 3 is of, and the operators behind the Add; None: there is none."""
    x, three = _with_constant(add)
    clip = network.only_reader(add, "Clip")
    product = None if clip is None else network.only_reader(clip, "Mul")
    ratio = None if product is None else network.only_reader(product, "Div")
    if x is None or three != 3.0 or clip is None or product is None or ratio is None:
        return None, []
    plain = bounds(clip) == (0.0, 6.0) and {t.name for t in product.inputs if t is not None} == {
        x.name,
        clip.outputs[0].name,
    }
    same, six = _with_constant(ratio)
    fits = plain and six == 6.0 and same is ratio.inputs[0] and ratio.clamp is None
    return (x, [clip, product, ratio]) if fits else (None, [])


def _with_constant(op: Op) -> tuple[Tensor | None, float | None]:
    """The operand that is computed, and the number that the other holds for all."""
    computed = [t for t in op.inputs if t is not None and t.constant is None]
    held = [t.data for t in op.inputs if t is not None and t.constant is not None and not t.coded]
    if len(computed) != 1 or len(held) != 1 or held[0] is None or held[0].size != 1 or held[0].ndim > 1:
        return None, None
    return computed[0], float(held[0].ravel()[0])
