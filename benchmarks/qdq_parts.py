"""Parts of a QDQ model in the making, and what differs of its numbers, for the benchmarks of exactness."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
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


@dataclass
class Count:
    """Codes and real numbers compared, those that differ, by how many steps codes do at most; networks."""

    codes: int = 0
    reals: int = 0
    differing: int = 0
    step: int = 0
    networks: int = 0
    first: str = ""

    def add(self, name: str, ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> None:
        """Compare two arrays of the same numbers, flat."""
        one, other = ours.ravel(), theirs.ravel()
        wrong = one != other
        real = one.dtype.kind == "f"
        self.codes, self.reals = self.codes + one.size * (not real), self.reals + one.size * real
        if wrong.any():
            gap = 0 if real else int(np.abs(one[wrong].astype(np.int64) - other[wrong].astype(np.int64)).max())
            self.step, self.first = max(self.step, gap), self.first or name
            self.differing += int(wrong.sum())
