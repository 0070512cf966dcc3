"""What TensorFlow Lite Micro does before its kernels run: weights are made real by the scale of their first channel.

Its DEQUANTIZE knows one scale. Of weights that have one for each channel it takes the first for all, without a word,
where LiteRT takes each its own: a layer in real numbers that reads int8 weights (`--mode weight-only`, or a float layer
of a quantized network) computes something else there. Source: tflite-micro, kernels/dequantize_common.cc, the
tensor's one `params.scale`; measured: with all scales set to the first no bit of a network's outputs changed.
"""

from dataclasses import replace

import numpy as np

from halfeven.graph.network import Network, Op, Tensor
from halfeven.run.integer.machine import Rule


def first_scales(network: Network, rules: tuple[Rule, ...]) -> Network:
    """The network with the first scale for all channels of what operators without an integer kernel read."""
    made = [
        replace(op, inputs=tuple(map(_with_first, op.inputs))) if _real(op, network, rules) else op
        for op in network.ops
    ]
    return replace(network, ops=tuple(made))


def _real(op: Op, network: Network, rules: tuple[Rule, ...]) -> bool:
    return op.kind == "DequantizeLinear" or not any(rule.holds(op, network) for rule in rules)


def _with_first(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or tensor.params is None or tensor.constant is None or tensor.params.scale.size < 2:
        return tensor
    params = tensor.params
    scale = np.full_like(params.scale, params.scale.ravel()[0])
    return replace(tensor, name=f"{tensor.name}/first_scale", params=replace(params, scale=scale))
