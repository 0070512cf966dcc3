"""The quantized network as a device sees it: operators on codes, and the real islands between them.

A graph with QuantizeLinear and DequantizeLinear says what every number becomes, but its layers are written in real
numbers. `halfeven.graph.lower` folds each pair into the operators around it; what it gives is this:

    Tensor    a value: codes with their parameters, or real numbers (or indices, shapes: no params either)
    Op        an operator of the float graph. Operands that had a DequantizeLinear are codes; the output is codes if
              nothing but one QuantizeLinear read it. `clamp` holds the bounds of Relu and Clip in between
    Network   the operators in an order in which they can run

    x codes, w codes, b int32 codes  ->  Conv, clamp (0, inf)  ->  y codes          an integer layer
    x codes                          ->  Softmax               ->  y real           codes in, real numbers out
    x real                           ->  QuantizeLinear        ->  x codes          a border
    x codes                          ->  Reshape               ->  y codes          codes moved, their params kept

Every simulator and every writer of a device's file reads this one form, so they agree on which layers are integer. An
`Op` whose operands and outputs are codes may still have no integer kernel on a device; it then runs on real numbers,
between a dequantization and a quantization, and gives the same as the graph it was read from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.numerics.quantize import dequantize
from halfeven.numerics.scheme import QParams

Shape: TypeAlias = tuple[int | str | None, ...]
BORDERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value; `real = (code - zero_point) * scale` where it has `params`.

    Holds: names are unique in a network; `data` of a constant are its codes if it has params, else its values, in
    `dtype`; `shape` is None when it is not known, an axis of open length is a name or None.
    """

    name: str
    dtype: ir.DataType
    shape: Shape | None = None
    params: QParams | None = None
    constant: ir.TensorProtocol | None = None

    @property
    def coded(self) -> bool:
        """Whether it holds codes."""
        return self.params is not None

    @property
    def data(self) -> npt.NDArray[np.generic] | None:
        """The array of a constant, codes where it has params; None for what is computed."""
        return None if self.constant is None else np.asarray(self.constant.numpy())

    @property
    def values(self) -> npt.NDArray[np.generic] | None:
        """The numbers that a constant stands for: codes made real; None for what is computed."""
        if self.data is None or self.params is None:
            return self.data
        return dequantize(self.data.astype(np.int32), self.params)


@dataclass(frozen=True, eq=False)
class Op:
    """One operator, named after the node of the graph that it stands for.

    `kind` is the ONNX operator's name; `domain` its domain. `inputs` has None where an optional input is left out.
    `clamp`: least and greatest real value of the output, applied before it becomes codes; None: no activation follows.
    `explicit`: the file itself has it as one operator on codes, so no runtime decides whether it is one.
    """

    kind: str
    name: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    clamp: tuple[float, float] | None = None
    domain: str = ""
    node: ir.Node | None = None
    explicit: bool = False

    @property
    def reads_codes(self) -> bool:
        """Whether an operand holds codes."""
        return any(t is not None and t.coded for t in self.inputs)

    @property
    def integer(self) -> bool:
        """Whether it goes from codes to codes."""
        return self.kind not in BORDERS and self.reads_codes and all(t.coded for t in self.outputs)


@dataclass(frozen=True, eq=False)
class Network:
    """Operators in order, and what goes in and out. `opset` is that of the ONNX operators."""

    ops: tuple[Op, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int = 21

    def readers(self, name: str) -> list[Op]:
        """The operators that read a tensor, in order."""
        return [op for op in self.ops if any(t is not None and t.name == name for t in op.inputs)]

    def maker(self, name: str) -> Op | None:
        """The operator that computes a tensor; None for inputs and constants."""
        return next((op for op in self.ops if any(t.name == name for t in op.outputs)), None)

    def only_reader(self, op: Op, kind: str) -> Op | None:
        """The operator of a kind that alone reads an operator's real output, if that is no output of the network."""
        made = op.outputs[0]
        readers, ends = self.readers(made.name), any(t.name == made.name for t in self.outputs)
        return readers[0] if len(readers) == 1 and readers[0].kind == kind and not ends and not made.coded else None


def divisor(op: Op) -> float:
    """The one number that an operator divides by (Div); 0 where it divides by none, by several, or by codes."""
    tensor = op.inputs[1] if len(op.inputs) > 1 else None
    if tensor is None or tensor.coded or tensor.data is None or tensor.data.size != 1:
        return 0.0
    return float(tensor.data.ravel()[0])


def looked_up(op: Op) -> Mapping[str, Any]:
    """What a table of `numerics.code_tables` is made of besides codes: the attributes; of a Div its divisor."""
    return {"divisor": divisor(op)} if op.kind == "Div" else op.attributes
