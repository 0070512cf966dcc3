"""Layers with weights: Convolution, ConvolutionDepthWise, InnerProduct and Deconvolution, in int8 where ncnn can.

    layer                   weights               scales in the .bin behind the bias
    Convolution             (out, in, kh, kw)     out of the weights, 1 of the input, 1 of the output if 8=101
    ConvolutionDepthWise    (out, in / g, kh, kw) groups of the weights, 1 of the input, 1 of the output if 8=101
    InnerProduct            (out, in)             out of the weights, 1 of the input; its output is float

`8=1`: int8 in, float out; `8=101`: int8 in and out. All scales are reciprocals. What the kernels compute:

    acc = sum of products of codes, int32;   y = fma(float32(acc), 1 / f32(s_in s_w), bias);   y = activation(y)
    code = float2int8(f32(y s_out)),  half away from zero, -127..127

InnerProduct rounds the product before it adds the bias; the depthwise kernel for x86 takes 1 / f32(s_in s_w) by the
processor's approximate reciprocal if the channels are a multiple of 8. In float: Convolution1D, Deconvolution, and
grouped convolutions whose channels have scales of their own within a group, or with a multiple of 8 outputs a group:
what ncnn's int8 kernels for x86 give for those has no meaning.

Sources: ncnn src/layer/{convolution,convolutiondepthwise,innerproduct,deconvolution}.cpp and x86/, 20261020.
"""

import numpy as np

from halfeven.exporters.ncnn.blobs import Blobs, View, clamped, refuse
from halfeven.exporters.ncnn.parts import Array, Param, codes, plain, reciprocals, tagged
from halfeven.exporters.patterns import bounds
from halfeven.graph.network import Op, Tensor
from halfeven.numerics.scheme import QParams

Params = dict[int, Param]
RELU, CLIP = 1, 3  # activation types
SAME_UPPER, SAME_LOWER = -233, -234
CONVOLUTIONS = {1: ("Convolution1D", "ConvolutionDepthWise1D"), 2: ("Convolution", "ConvolutionDepthWise")}


def convolution(op: Op, blobs: Blobs) -> None:
    """Conv of one or two spatial axes."""
    x, w, bias = _operands(op, blobs)
    weights, view = w.data, blobs.view(x)
    assert weights is not None
    spatial = weights.ndim - 2
    if spatial not in CONVOLUTIONS or len(view.blob) != spatial + 1:
        raise refuse(op, f"a convolution over {spatial} axes of a blob with {len(view.blob)}")
    group = int(op.attributes.get("group", 1))
    params = {0: weights.shape[0], **_window(op, weights.shape[2:]), 5: int(bias is not None)}
    params |= {6: weights.size} | ({7: group} if group > 1 else {})
    kind = CONVOLUTIONS[spatial][group > 1]
    out = View((*view.dims[:1], weights.shape[0], *_lengths(op, view.dims[2:], weights.shape[2:])), view.batch)
    scales = _weight_scales(op, w, group, blobs) if spatial == 2 else None
    if scales is None:
        if x.coded:
            blobs.notes.append(
                f"{op.kind} '{op.name}' runs in float: ncnn has no int8 kernel, or a wrong one, for its groups or axes."
            )
        held = [tagged(blobs.values(w)), *_bias(bias, blobs)]
        _finish(op, blobs, blobs.emit(kind, op.name, [blobs.real(x)], params | _activation(op, blobs), held)[0], out)
        return
    _int8(op, blobs, kind, params, scales, out)


def _int8(op: Op, blobs: Blobs, kind: str, params: Params, scales: Array, out: View) -> None:
    """An int8 convolution, with codes out where the network goes on in codes."""
    (x, w, bias), y = _operands(op, blobs), op.outputs[0]
    assert w.data is not None
    assert x.params is not None
    grouped = kind == "ConvolutionDepthWise" and params[7] != params[0]
    recode = y.params is not None and not grouped
    held = [codes(w.data), *_bias(bias, blobs), plain(scales), plain(reciprocals(x.params))]
    if recode:
        assert y.params is not None
        blobs.check_codes(y)
        held.append(plain(reciprocals(y.params)))
    params = params | {8: 101 if recode else 1} | _activation(op, blobs)
    [top] = blobs.emit(kind, op.name, [blobs.codes(x)], params, held)
    blobs.integer.append(op.name)
    if recode:
        blobs.give_codes(y, top, out)
    else:
        _finish(op, blobs, top, out)


def inner_product(op: Op, blobs: Blobs) -> None:
    """Gemm, or MatMul with a constant on the right, over blobs of one or two axes; of more after a Reshape."""
    x, w, bias = _operands(op, blobs)
    weights, view = blobs.values(w), blobs.view(x)
    across = op.kind == "MatMul" or not op.attributes.get("transB", 0)
    if weights.ndim != 2 or any(float(op.attributes.get(k, 1.0)) != 1.0 for k in ("alpha", "beta")):
        raise refuse(op, "alpha and beta are 1, and the weight has two axes, in an InnerProduct")
    if op.attributes.get("transA", 0) or (
        bias is not None and blobs.values(bias).size not in (1, weights.shape[across])
    ):
        raise refuse(op, "its data are transposed, or its bias is not one number for each output")
    rows = weights.T if across else weights
    flat = len(view.blob) > 2
    scales = _row_scales(op, w, rows.shape[0], blobs)
    source = blobs.real(x) if scales is None else blobs.codes(x)
    if flat:
        [source] = blobs.emit("Reshape", f"{op.name}_rows", [source], {0: rows.shape[1], 1: -1})
    params: Params = {0: rows.shape[0], 1: int(bias is not None), 2: rows.size}
    held = _bias(bias, blobs, rows.shape[0])
    if scales is not None:
        assert x.params is not None
        assert w.data is not None
        data = codes(np.ascontiguousarray(w.data.T if across else w.data))
        params[8] = 1
        held = [data, *held, plain(scales), plain(reciprocals(x.params))]
        blobs.integer.append(op.name)
    else:
        held = [tagged(rows), *held]
    [top] = blobs.emit("InnerProduct", op.name, [source], params | _activation(op, blobs), held)
    out = View((*view.dims[:-1], rows.shape[0]), view.batch)
    _finish(op, blobs, _unflat(op, blobs, top, out) if flat else top, out)


def deconvolution(op: Op, blobs: Blobs) -> None:
    """ConvTranspose of two spatial axes, in float."""
    x, w, bias = _operands(op, blobs)
    weights, view, group = blobs.values(w), blobs.view(x), int(op.attributes.get("group", 1))
    if weights.ndim != 4 or "output_shape" in op.attributes or str(op.attributes.get("auto_pad", "NOTSET")) != "NOTSET":
        raise refuse(op, "only two spatial axes with explicit pads are written")
    inputs, each, *kernel = weights.shape
    rows = weights.reshape(group, inputs // group, each, *kernel).swapaxes(1, 2)
    params = {0: group * each, **_window(op, tuple(kernel)), 5: int(bias is not None), 6: weights.size}
    extra = [int(n) for n in op.attributes.get("output_padding", (0, 0))]
    params |= ({7: group} if group > 1 else {}) | ({18: extra[1], 19: extra[0]} if any(extra) else {})
    held = [tagged(rows), *_bias(bias, blobs)]
    kind = "DeconvolutionDepthWise" if group > 1 else "Deconvolution"
    [top] = blobs.emit(kind, op.name, [blobs.real(x)], params | _activation(op, blobs), held)
    strides, dilations, pads = _geometry(op, 2)
    lengths = [
        None if d is None else (d - 1) * s + (k - 1) * e + 1 - pads[i] - pads[i + 2] + extra[i]
        for i, (d, k, s, e) in enumerate(zip(view.dims[2:], kernel, strides, dilations, strict=True))
    ]
    _finish(op, blobs, top, View((*view.dims[:1], group * each, *lengths), view.batch))


# ------------------------------------------------------------------------------------------------- pieces


def _operands(op: Op, blobs: Blobs) -> tuple[Tensor, Tensor, Tensor | None]:
    x, w = op.inputs[:2]
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    if x is None or w is None or w.constant is None or (bias is not None and bias.constant is None):
        raise refuse(op, "its weights and bias are not constant")
    if op.kind != "MatMul" and blobs.view(x).batch not in (0, None):
        raise refuse(op, "its batch is not the first axis")
    return x, w, bias


def _finish(op: Op, blobs: Blobs, top: str, view: View) -> None:
    """Hand the real numbers on: of the activation that was fused, if one was. A clamp has been applied already."""
    blobs.give(op.outputs[0], top, view)
    follower = _follower(op, blobs)
    if follower is not None:
        blobs.done.add(id(follower))
        blobs.give(follower.outputs[0], top, view, follower.clamp)


def _follower(op: Op, blobs: Blobs) -> Op | None:
    """The Relu or Clip with constant bounds that alone reads the real output."""
    y = op.outputs[0]
    if y.coded or any(t.name == y.name for t in blobs.network.outputs):
        return None
    readers = blobs.network.readers(y.name)
    if (
        len(readers) != 1
        or readers[0].kind not in ("Relu", "Clip")
        or readers[0].domain
        or readers[0].inputs[0] is not y
    ):
        return None
    return readers[0] if bounds(readers[0]) is not None else None


def _activation(op: Op, blobs: Blobs) -> Params:
    """Parameters 9 and 10: the clamp of codes, or of the real numbers' only reader."""
    follower = _follower(op, blobs)
    limits = op.clamp if follower is None else bounds(follower)
    if limits is None or limits == (-np.inf, np.inf):
        return {}
    return {9: RELU} if limits == (0.0, np.inf) else {9: CLIP, 10: clamped(limits)}


def _bias(bias: Tensor | None, blobs: Blobs, size: int = 0) -> list[bytes]:
    if bias is None:
        return []
    values = blobs.values(bias).ravel()
    return [plain(np.broadcast_to(values, (max(size, values.size),)))]


def _weight_scales(op: Op, w: Tensor, group: int, blobs: Blobs) -> Array | None:
    """The scales of a convolution's weights: one for each output, or each group; None: not in int8."""
    outputs = len(blobs.values(w))
    scales = _row_scales(op, w, outputs, blobs)
    if scales is None or group == 1:
        return scales
    if outputs // group % 8 == 0:
        return None
    each = scales.reshape(group, -1)
    return each[:, 0] if (each == each[:, :1]).all() else None


def _row_scales(op: Op, w: Tensor, outputs: int, blobs: Blobs) -> Array | None:
    """The scales of weights with one for each output; None where the operands are no codes that ncnn has."""
    x = op.inputs[0]
    assert x is not None
    if x.params is None or w.params is None or x.constant is not None:
        return None
    blobs.check_codes(x)
    if not _plain_weight(w, w.params, outputs):
        raise refuse(op, f"its weight holds {w.params.scheme} codes; ncnn's are int8 from -127, one scale an output")
    return np.broadcast_to(reciprocals(w.params), (outputs,))


def _plain_weight(w: Tensor, params: QParams, outputs: int) -> bool:
    assert w.data is not None
    named = w.dtype.name == "INT8" and not params.zero_point.any() and params.scale.size in (1, outputs)
    return named and int(w.data.min(initial=0)) >= -127


def _geometry(op: Op, axes: int) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads."""
    ones = (1,) * axes
    strides, dilations = (list(map(int, op.attributes.get(k, ones))) for k in ("strides", "dilations"))
    return strides, dilations, list(map(int, op.attributes.get("pads", (0,) * 2 * axes)))


def _window(op: Op, kernel: tuple[int, ...]) -> Params:
    """Parameters 1 to 4 and 11 to 16: kernel, dilation, stride and pads, of the width first."""
    strides, dilations, pads = _geometry(op, len(kernel))
    auto = str(op.attributes.get("auto_pad", "NOTSET") or "NOTSET")
    if auto != "NOTSET":
        pads = [{"SAME_UPPER": SAME_UPPER, "SAME_LOWER": SAME_LOWER}.get(auto, 0)] * (2 * len(kernel))
    last = len(kernel) - 1
    params: Params = {1: kernel[last], 2: dilations[last], 3: strides[last], 4: pads[last], 15: pads[2 * last + 1]}
    if last:
        params |= {11: kernel[0], 12: dilations[0], 13: strides[0], 14: pads[0], 16: pads[2]}
    return params


def _lengths(op: Op, dims: tuple[int | None, ...], kernel: tuple[int, ...]) -> list[int | None]:
    """Lengths of a convolution's output."""
    strides, dilations, pads = _geometry(op, len(kernel))
    auto = str(op.attributes.get("auto_pad", "NOTSET") or "NOTSET")
    found: list[int | None] = []
    for i, (d, k, s, e) in enumerate(zip(dims, kernel, strides, dilations, strict=True)):
        if d is None:
            found.append(None)
        elif auto.startswith("SAME"):
            found.append(-(-d // s))
        else:
            found.append((d + pads[i] + pads[i + len(kernel)] - e * (k - 1) - 1) // s + 1)
    return found


def _unflat(op: Op, blobs: Blobs, top: str, out: View) -> str:
    """Rows back in the shape that the tensor has."""
    dims = out.blob
    if dims.count(None) > 1:
        raise refuse(op, "more than one of its axes is open")
    keys = {3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(dims)]
    shape: Params = {key: -1 if d is None else d for key, d in zip(keys, dims, strict=True)}
    return blobs.emit("Reshape", f"{op.name}_back", [top], shape)[0]
