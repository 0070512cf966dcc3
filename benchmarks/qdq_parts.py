"""Parts of a QDQ model in the making, for the benchmarks of exactness."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


@dataclass
class Parts:
    """Nodes and constants; with `ties` scales are powers of two, so that halves are met."""

    rng: np.random.Generator
    ties: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def scale(self, low: float, high: float) -> np.float32:
        """A power of two, or any number, between two of them."""
        exponent = self.rng.uniform(low, high)
        return np.float32(2.0 ** round(exponent) if self.ties else 2.0**exponent)

    def constant(self, name: str, x: object) -> str:
        """An initializer."""
        self.constants.append(numpy_helper.from_array(np.asarray(x), name))
        return name

    def node(self, kind: str, inputs: list[str], made: str, **attributes: Any) -> str:
        """An operator, named after what it makes."""
        self.nodes.append(helper.make_node(kind, inputs, [made], name=f"{made}_node", **attributes))
        return made
