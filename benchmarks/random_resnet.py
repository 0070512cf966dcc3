"""A network of ResNet-50's size with random weights: for cost, not for accuracy.

He et al. 2015, arXiv:1512.03385, table 1, column "50-layer" (the stride lies on the 3x3 convolution, as in today's
weights): 53 convolutions, each followed by BatchNormalization, 25.6 million parameters, input
[N, 3, 224, 224], opset 17. Weights are He-normal; the last BatchNormalization of each block is small, so that
activations keep their size.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, width, stride of the first block
EXPANSION = 4
CLASSES = 1000


def _node(kind: str, inputs: list[str], output: str, attributes: Mapping[str, int | list[int]]) -> onnx.NodeProto:
    node = helper.make_node(kind, inputs, [output], name=output)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return node


class _Builder:
    """Nodes and constants in the order they are made; each method returns the name of the value it made."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.NDArray[np.float64]) -> str:
        self.constants.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], **attributes: int | list[int]) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(_node(kind, inputs, name, attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, gain: float = 1.0) -> str:
        """Convolution and BatchNormalization."""
        at = f"conv{len(self.nodes)}"
        shape = (outputs, inputs, kernel, kernel)
        weight = self.rng.normal(0, np.sqrt(2 / (inputs * kernel * kernel)), shape)
        kernels = self.constant(f"{at}.weight", weight)
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        y = self.node("Conv", [x, kernels], **window)
        statistics = {
            "gamma": gain * np.exp(self.rng.normal(0, 0.3, outputs)),
            "beta": self.rng.normal(0, 0.2, outputs),
            "mean": np.zeros(outputs),
            "var": np.ones(outputs),
        }
        return self.node("BatchNormalization", [y, *(self.constant(f"{at}.{k}", v) for k, v in statistics.items())])

    def block(self, x: str, inputs: int, width: int, stride: int) -> str:
        """1x1 down, 3x3, 1x1 up, beside a shortcut."""
        y = self.node("Relu", [self.conv(x, inputs, width, 1)])
        y = self.node("Relu", [self.conv(y, width, width, 3, stride)])
        y = self.conv(y, width, width * EXPANSION, 1, gain=0.25)
        if inputs != width * EXPANSION:
            x = self.conv(x, inputs, width * EXPANSION, 1, stride)
        return self.node("Relu", [self.node("Add", [y, x])])


def build(path: Path, seed: int = 0) -> Path:
    """Write the network to `path`; the same seed gives the same bytes."""
    make = _Builder(seed)
    x = make.node("Relu", [make.conv("input", 3, 64, 7, 2)])
    x = make.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for blocks, width, stride in STAGES:
        for i in range(blocks):
            x = make.block(x, channels, width, stride if i == 0 else 1)
            channels = width * EXPANSION
    x = make.node("Flatten", [make.node("GlobalAveragePool", [x])])
    weight = make.constant("fc.weight", make.rng.normal(0, channels**-0.5, (channels, CLASSES)))
    logits = make.node("Gemm", [x, weight, make.constant("fc.bias", np.zeros(CLASSES))])
    graph = helper.make_graph(
        make.nodes,
        "random_resnet50",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", CLASSES])],
        make.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
