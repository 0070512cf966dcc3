"""Targets: everything known about a piece of hardware and its runtime, as data.

    OpRule     which operators take which schemes; several operators may share a row
    Cost       what an operator costs there, in float and in integer, fitted to measurements on the target
    Numerics   how the runtime rounds
    Target     the table

A rule's `output`:

    own        the output has a quantizer of its own
    as_input   the operator moves codes about, or picks some: output and inputs share one scale
    either     the runtime has an integer kernel with integer output and one with float output: codes where any reader
               is integer, for all readers (OpenVINO computes wrong numbers from a value read both ways), else floats
A rule's `where` names the values that an attribute may have, the usual one first; None: it is absent, or zero.
A rule with `residual` quantizes of two summands only the skip: what a layer makes for the sum alone stays float, as
the kernel adds the other summand while it still holds its accumulator.
A rule's `fixed` is the one scale and zero point that the kernel gives its output; data do not change them.
A target's `dynamic` names the layers that it quantizes anew in each run what they read, with codes for weights.
A rule with a scheme for the `second` operand is about products of two activations; the operator's other row about
those by weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import Scheme

UNDILATED: Mapping[str, tuple[object, ...]] = {"dilations": (None, (1,), (1, 1), (1, 1, 1))}
"""For `where`: a window without gaps, of one to three dimensions."""


@dataclass(frozen=True)
class OpRule:
    """One row: what the target can do with some operators."""

    ops: tuple[str, ...]
    data: Scheme
    weight: Scheme | None = None
    output: Literal["own", "as_input", "either"] = "own"
    fuses: tuple[str, ...] = ()
    ports: tuple[int, ...] | None = None
    where: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    constants: bool = True
    residual: bool = False
    fixed: tuple[float, int] | None = None
    second: Scheme | None = None


@dataclass(frozen=True)
class Cost:
    """Nanoseconds of one call: for each multiply-add, output element, weight, row of a window, and once."""

    mac: float = 0.0
    element: float = 0.0
    weight: float = 0.0
    tap: float = 0.0
    call: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Costs, in float and in integer, by kind of operator; of the borders between the two worlds; and where from.

    Those that are not `measured` are no times: they only say what counts for more.
    """

    source: str
    floats: Mapping[str, Cost]
    integers: Mapping[str, Cost]
    quantize: Cost
    dequantize: Cost
    measured: bool = True


@dataclass(frozen=True)
class Numerics:
    """How the target computes."""

    rounding: Rounding = Rounding.HALF_EVEN
    bias_bits: int = 32
    profile: str = ""
    """The name in `numerics.profiles` of how the toolchain quantizes; empty: by `rounding` as ONNX says."""


@dataclass(frozen=True)
class Target:
    """A table, and the documents it was read from."""

    name: str
    source: str
    rules: tuple[OpRule, ...]
    costs: Costs
    numerics: Numerics = Numerics()
    clamps_in_range: bool = True
    """Whether the saturation of codes may replace a clamp in the file."""
    clamp_by_channel: bool = True
    """Whether a clamp that has a bound for each channel runs as well as one of a single bound."""
    recurrent: str = ""
    formats: tuple[str, ...] = ("qdq",)
    takes: tuple[Scheme, ...] = ()
    """Schemes of codes, besides the rules', that the runtime runs too, though placement does not choose them."""
    dynamic: tuple[str, ...] = ()
    """Layers whose activation the runtime can quantize by a scale that it finds in each run."""

    def rule(self, op: str) -> OpRule | None:
        """The row of an operator, by weights where it multiplies."""
        return next((rule for rule in self.rules if op in rule.ops and rule.second is None), None)

    def product(self, op: str) -> OpRule | None:
        """The row of an operator that multiplies two activations."""
        return next((rule for rule in self.rules if op in rule.ops and rule.second is not None), None)
