"""A machine's arithmetic as data: which operators it computes on codes, and how.

    Kernel      a value that, given an operator, settles all that is known before the data and gives back a function of
                the operands' arrays; its fields are the arithmetic: accumulator, multiplier, requantization, clamp
    Condition   of an operator in its network: its types, its attributes, what follows it
    Rule        kinds of operators, the kernel that computes them, and the conditions; the first rule that holds counts
    Machine     rules by name. An operator without a rule has no integer kernel: it runs on real numbers, between a
                dequantization and a quantization, in ONNX Runtime

A kernel gets the arrays of all operands, constants too, None for those left out, and gives one array for each output:
codes of the tensor's type where it is coded, else real numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.graph.network import Network, Op, Tensor
from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.integer_target import affine_of, output_of
from halfeven.numerics.scheme import QParams

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Sequence[Array | None]
Run: TypeAlias = Callable[[Arrays], tuple[Array, ...]]
Condition: TypeAlias = Callable[[Op, Network], bool]
Quantizer: TypeAlias = Callable[[npt.NDArray[np.float32], QParams], Array]


class Kernel(Protocol):
    """Settles what is known of an operator before the data; `threads` changes no bit."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """What computes the operator's outputs."""


@dataclass(frozen=True)
class Rule:
    """Operators of some kinds that a machine computes by one kernel, if all conditions hold."""

    kinds: tuple[str, ...]
    kernel: Kernel
    when: tuple[Condition, ...] = ()
    domain: str = ""

    def holds(self, op: Op, network: Network) -> bool:
        """Whether the rule is for this operator."""
        return op.kind in self.kinds and op.domain == self.domain and all(known(op, network) for known in self.when)


@dataclass(frozen=True)
class Machine:
    """One runtime on one instruction set. `source` says how it was established, `evidence` how exact it is.

    `quantizer` makes codes of what regions of real numbers give; None: ONNX Runtime's. `prepare` joins operators that
    the runtime computes as one, or refuses a network that it cannot run.
    """

    name: str
    source: str
    evidence: str
    rules: tuple[Rule, ...]
    quantizer: Quantizer | None = None
    prepare: Callable[[Network], Network] | None = None

    def kernel(self, op: Op, network: Network) -> Kernel | None:
        """What computes an operator on codes; None: nothing does."""
        return next((rule.kernel for rule in self.rules if rule.holds(op, network)), None)


def operand(op: Op, port: int) -> Tensor | None:
    """What an operator reads at a port; None where that is left out."""
    return op.inputs[port] if port < len(op.inputs) else None


def given(arrays: Arrays, port: int) -> Array:
    """The array of an operand that must be there.

    Raises:
        BadOption: it is not.
    """
    found = arrays[port] if port < len(arrays) else None
    if found is None:
        raise BadOption(f"Operand {port} of an operator on codes is missing.")
    return found


def params_of(op: Op, port: int) -> QParams:
    """The parameters of a coded operand.

    Raises:
        BadOption: it is not coded.
    """
    tensor = operand(op, port)
    if tensor is None or tensor.params is None:
        raise BadOption(f"{op.kind} '{op.name}': operand {port} holds no codes.")
    return tensor.params


def affine(op: Op, port: int) -> Affine:
    """Scale and zero point of a coded operand that has one scale."""
    return affine_of(params_of(op, port))


def result(op: Op) -> Output:
    """Scale, zero point and limits of the first output, narrowed by the operator's clamp.

    Raises:
        BadOption: it is not coded.
    """
    params = op.outputs[0].params
    if params is None:
        raise BadOption(f"{op.kind} '{op.name}': the output holds no codes.")
    return output_of(params, op.clamp)


def code_type(tensor: Tensor) -> np.dtype[Any]:
    """The array type of a coded tensor."""
    assert tensor.params is not None
    return tensor.params.scheme.grid.dtype


def constant_codes(tensor: Tensor) -> Array:
    """The codes of a constant, in the type of its grid; the values of one that is not coded."""
    data = tensor.data
    assert data is not None
    return data if tensor.params is None else data.astype(code_type(tensor))
