"""Layers with weights, pools and normalizations as OpenVINO layers.

    ONNX                  OpenVINO
    Conv                  Convolution-1; GroupConvolution-1, weight (group, out / group, in / group, ..); Add of bias
    ConvTranspose         ConvolutionBackpropData-1; GroupConvolutionBackpropData-1, weight (group, in / group, ..)
    Gemm, MatMul          MatMul-1; Multiply by alpha and beta, Add of bias
    MaxPool AveragePool   MaxPool-1, AvgPool-1
    GlobalAveragePool     ReduceMean-1 over the spatial axes
    BatchNormalization    BatchNormInference-5, whose inputs begin with the data
    LayerNormalization    MVN-6, Multiply, Add

Source: OpenVINO documentation, operation specifications.
"""

import numpy as np
import onnx_ir as ir

from halfeven.exporters.openvino.quantizers import grouped_weight
from halfeven.exporters.openvino.values import Values, constant_at, extent, get, rank_of, refuse
from halfeven.exporters.openvino.xml import Port
from halfeven.graph import ops
from halfeven.graph.pairs import shape_of

AUTO_PAD = {"NOTSET": "explicit", "VALID": "valid", "SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}
NUMPY = {"auto_broadcast": "numpy"}


def convolution(node: ir.Node, values: Values) -> None:
    """Conv and ConvTranspose, of any number of spatial axes."""
    shape, group = _weight_shape(node), int(get(node, "group", 1))
    transposed, axes = node.op_type == "ConvTranspose", len(shape) - 2
    attributes: dict[str, object] = {**_window(node, axes)}
    if transposed:
        if get(node, "output_shape", ()):
            raise refuse(node, "its output_shape is given; state output_padding instead")
        attributes["output_padding"] = get(node, "output_padding", (0,) * axes)
    kind = "ConvolutionBackpropData" if transposed else "Convolution"
    if group > 1:
        kind = f"Group{kind}"
        filters = grouped_weight(node.inputs[1], (group, shape[0] // group, *shape[1:]), values)
    else:
        filters = values.at(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    inputs = [values.at(node.inputs[0]), filters]
    if bias is None:
        values.layer(node, kind, inputs, attributes)
        return
    product = values.inner(kind, inputs, attributes, shape=extent(node.outputs[0]))
    values.layer(node, "Add", [product, _column(bias, axes, values)], NUMPY)


def _weight_shape(node: ir.Node) -> tuple[int, ...]:
    shape = None if node.inputs[1] is None else shape_of(node.inputs[1])
    if shape is None or not all(isinstance(d, int) for d in shape):
        raise refuse(node, "the shape of its weight is not known")
    return tuple(int(d) for d in shape if isinstance(d, int))


def _window(node: ir.Node, axes: int) -> dict[str, tuple[int, ...] | str]:
    pads = get(node, "pads", (0,) * 2 * axes) or (0,) * 2 * axes
    return {
        "strides": get(node, "strides", (1,) * axes) or (1,) * axes,
        "dilations": get(node, "dilations", (1,) * axes) or (1,) * axes,
        "pads_begin": pads[:axes],
        "pads_end": pads[axes:],
        "auto_pad": AUTO_PAD[get(node, "auto_pad", "NOTSET") or "NOTSET"],
    }


def _column(bias: ir.Value, axes: int, values: Values) -> Port:
    """A bias with an axis of length 1 for each spatial one."""
    size = shape_of(bias)
    length = size[0] if size and isinstance(size[0], int) else -1
    shape = (1, length, *[1] * axes)
    if ops.constant_of(bias) is not None:
        return values.reshaped(bias, shape)
    return values.inner("Reshape", [values.at(bias), values.whole(shape)], {"special_zero": False}, shape=shape)


def product(node: ir.Node, values: Values) -> None:
    """MatMul and Gemm."""
    a, b = (values.at(v) for v in node.inputs[:2])
    flags = {"transpose_a": bool(get(node, "transA", 0)), "transpose_b": bool(get(node, "transB", 0))}
    alpha, beta = (float(get(node, name, 1.0)) for name in ("alpha", "beta"))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None and alpha == 1.0:
        values.layer(node, "MatMul", [a, b], flags)
        return
    shape = extent(node.outputs[0])
    made = values.inner("MatMul", [a, b], flags, shape=shape)
    for factor in [alpha] if alpha != 1.0 else []:
        made = values.inner("Multiply", [made, values.number(factor)], NUMPY, shape=shape)
    if bias is None:
        values.give(node, made)
        return
    added = values.at(bias)
    if beta != 1.0:
        added = values.inner("Multiply", [added, values.number(beta)], NUMPY, shape=added.shape)
    values.layer(node, "Add", [made, added], NUMPY)


def pool(node: ir.Node, values: Values) -> None:
    """MaxPool and AveragePool."""
    kernel = get(node, "kernel_shape", ())
    attributes: dict[str, object] = {**_window(node, len(kernel))}
    if set(get(node, "dilations", (1,))) != {1} or len(node.outputs) > 1 or get(node, "storage_order", 0):
        raise refuse(node, "gaps in its window, and indices, are not written")
    del attributes["dilations"]
    attributes |= {"kernel": kernel, "rounding_type": "ceil" if get(node, "ceil_mode", 0) else "floor"}
    if node.op_type == "AveragePool":
        attributes["exclude-pad"] = not get(node, "count_include_pad", 0)
    values.layer(node, "MaxPool" if node.op_type == "MaxPool" else "AvgPool", [values.at(node.inputs[0])], attributes)


def global_pool(node: ir.Node, values: Values) -> None:
    """GlobalAveragePool and GlobalMaxPool."""
    kind = "ReduceMean" if node.op_type == "GlobalAveragePool" else "ReduceMax"
    axes = values.whole(list(range(2, rank_of(node.inputs[0], node))))
    values.layer(node, kind, [values.at(node.inputs[0]), axes], {"keep_dims": True})


def batch_norm(node: ir.Node, values: Values) -> None:
    """BatchNormalization in inference."""
    if len(node.outputs) > 1 or get(node, "training_mode", 0):
        raise refuse(node, "it is in training mode")
    epsilon = float(get(node, "epsilon", 1e-5))
    values.layer(node, "BatchNormInference", values.reads(node)[:5], {"epsilon": epsilon}, opset=5)


def layer_norm(node: ir.Node, values: Values) -> None:
    """LayerNormalization, without its optional outputs."""
    if len([v for v in node.outputs if v.name]) > 1:
        raise refuse(node, "its mean and deviation leave it")
    rank = rank_of(node.inputs[0], node)
    axes = values.whole(list(range(int(get(node, "axis", -1)) % rank, rank)))
    x, *affine = values.reads(node)
    attributes = {"eps": float(get(node, "epsilon", 1e-5)), "normalize_variance": True, "eps_mode": "inside_sqrt"}
    shape = extent(node.outputs[0])
    made = values.inner("MVN", [x, axes], attributes, opset=6, shape=shape)
    made = values.inner("Multiply", [made, affine[0]], NUMPY, shape=shape)
    if len(affine) > 1:
        made = values.inner("Add", [made, affine[1]], NUMPY, shape=shape)
    values.give(node, made)


def prelu(node: ir.Node, values: Values) -> None:
    """LeakyRelu and PRelu: slopes for all, or for each channel."""
    x = values.at(node.inputs[0])
    if node.op_type == "LeakyRelu":
        values.layer(node, "PReLU", [x, values.number([float(get(node, "alpha", 0.01))])])
        return
    slope = constant_at(node, 1)
    if slope is None or slope.size not in (1, slope.shape[0] if slope.ndim else 1):
        raise refuse(node, "it has other slopes than one for each channel")
    values.layer(node, "PReLU", [x, values.number(np.ravel(slope))])
