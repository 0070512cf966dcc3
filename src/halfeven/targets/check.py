"""Whether a target can run a plan: what its table forbids, node by node, in sentences.

    codes        the grid, the zero point and the powers of two of a row, or of `Target.takes`: schemes that the runtime
                 runs, though placement does not choose them; weights of 5 to 7 bits where those of 8 are
    tiling       one scale for an activation; a weight one too, or one for each output channel where the row says so
    output       the scale and zero point that a kernel fixes
    bias         of the bits of the accumulator, zero point 0; float where the target has no integer bias
    types        what is quantized computes in float32
    dynamic      scales that are found in each run, for layers that the runtime quantizes so

An operator that has no row, or a row whose conditions its attributes do not meet, is no fault: such a runtime makes
codes real, computes in float, and quantizes again. So are weights alone: a layer whose data are real reads them made
real. What a plan leaves float is never asked about. `refuse` stands before every file that is written.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.graph import ops
from halfeven.graph.bits import stored_grid
from halfeven.graph.plan import DYNAMIC, Plan, Quantizer, Site
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme
from halfeven.targets.target import OpRule, Target

SHOWN = 3


def check(target: Target, model: ir.Model, plan: Plan) -> list[str]:
    """What `target` cannot run of a plan for a float `model`: a sentence each, in the order of nodes."""
    return list(dict.fromkeys(_Checking(target, model, plan).faults()))


def refuse(target: Target, model: ir.Model, plan: Plan) -> None:
    """Do nothing if the target can run the plan.

    Raises:
        UnsupportedByTarget: it cannot; the first few sentences say what, and where.
    """
    found = check(target, model, plan)
    if found:
        more = f" And {len(found) - SHOWN} more." if len(found) > SHOWN else ""
        raise UnsupportedByTarget(f"{' '.join(found[:SHOWN])}{more} Choose another --target, or change the plan.")


@dataclass(frozen=True)
class _Checking:
    """One target, model and plan."""

    target: Target
    model: ir.Model
    plan: Plan

    def faults(self) -> Iterator[str]:
        """The sentences, some perhaps twice."""
        for node in self.model.graph:
            rule = self.target.rule(node.op_type) if node.domain == "" else None
            if rule is not None:
                yield from self._node(node, rule)
                yield from self._output(node, rule)
            yield from self._dynamic(node)
        for value in (*self.model.graph.inputs, *(v for node in self.model.graph for v in node.outputs)):
            quantizer = self.plan.at(Site(value.name or ""))
            if quantizer is not None:
                where = f"'{value.name}'"
                yield from self._scheme(where, quantizer, [rule.data for rule in self.target.rules])

    def _node(self, node: ir.Node, rule: OpRule) -> Iterator[str]:
        name, where = node.name or "", f"{node.op_type} '{node.name}'"
        seen = {
            port: quantizer
            for port, value in enumerate(node.inputs)
            if value is not None and (quantizer := self.plan.seen_by(value.name or "", name, port)) is not None
        }
        static = [q for q in seen.values() if q.role == "activation" and q.method != DYNAMIC]
        table = rule.weight is not None and node.op_type == "Gather"
        if not static and not table:  # weights alone, or scales found while it runs
            return
        for port, quantizer in seen.items():
            value = node.inputs[port]
            assert value is not None
            if value.dtype in ops.FLOATS - {ir.DataType.FLOAT}:
                yield f"{where} computes in {value.dtype.name}; only float32 is quantized."
            elif quantizer.role == "bias":
                yield from self._bias(where, quantizer)
            elif quantizer.role == "activation":
                yield from self._scheme(f"{where}, input {port}", quantizer, [rule.data])
            elif rule.weight is not None and port == ops.weight_port(node):
                yield from self._weight(node, port, quantizer, rule.weight)
            else:
                yield from self._scheme(f"{where}, constant '{value.name}'", quantizer, [rule.data])

    def _dynamic(self, node: ir.Node) -> Iterator[str]:
        """A layer whose data are quantized anew in each run, where the runtime finds no scales."""
        for port, value in enumerate(node.inputs):
            seen = None if value is None else self.plan.seen_by(value.name or "", node.name or "", port)
            if seen is None or seen.method != DYNAMIC or node.op_type in self.target.dynamic:
                continue
            able = ", ".join(self.target.dynamic) or "no layer"
            yield (
                f"{node.op_type} '{node.name}', input {port} is quantized anew in each run; of what is written for "
                f"{self.target.name} {able} can be (choose --mode static, or --keep-float for the node)."
            )

    def _output(self, node: ir.Node, rule: OpRule) -> Iterator[str]:
        """A kernel with one scale for its output takes no other."""
        quantizer = self.plan.at(Site(node.outputs[0].name or ""))
        params = None if quantizer is None else quantizer.params
        if rule.fixed is None or params is None or params.scale.size != 1:
            return
        found = float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
        if found != (float(np.float32(rule.fixed[0])), rule.fixed[1]):
            yield (
                f"{node.op_type} '{node.name}': its output has scale {found[0]:.6g} and zero point {found[1]}, but "
                f"{self.target.name} gives it {rule.fixed[0]:.6g} and {rule.fixed[1]}."
            )

    def _bias(self, where: str, quantizer: Quantizer) -> Iterator[str]:
        bits, grid = self.target.numerics.bias_bits, quantizer.scheme.grid
        if bits == 0:
            yield f"{where}: its bias is {grid}, but {self.target.name} takes it in float."
        elif (grid.bits, grid.signed, quantizer.scheme.symmetric) != (bits, True, True):
            yield f"{where}: its bias is {quantizer.scheme}, but {self.target.name} takes int{bits} symmetric."

    def _weight(self, node: ir.Node, port: int, quantizer: Quantizer, wanted: Scheme) -> Iterator[str]:
        where, tiling = f"{node.op_type} '{node.name}', weight", quantizer.scheme.tiling
        yield from self._codes(where, quantizer, [wanted, *self.target.takes])
        if not tiling.tiles or tiling == wanted.tiling:
            return
        tensor = ops.constant_of(node.inputs[port])
        rank, axis = len(ops.dims_of(tensor)) if tensor is not None else 0, ops.weight_axis(node, port)
        per_channel = tiling.axis is not None and axis is not None and tiling.axis % max(rank, 1) == axis
        if wanted.tiling.axis is None or not per_channel:
            fits = "one scale" if wanted.tiling.axis is None or axis is None else f"scales along axis {axis}"
            yield f"{where} has scales of tiling {tiling.tiles}, but {self.target.name} takes {fits}."

    def _scheme(self, where: str, quantizer: Quantizer, wanted: Iterable[Scheme]) -> Iterator[str]:
        """Faults of an activation, or of a constant that is treated as one."""
        yield from self._codes(where, quantizer, [*wanted, *self.target.takes])
        if quantizer.scheme.tiling.tiles and (quantizer.params is None or quantizer.params.scale.size > 1):
            yield f"{where} has several scales, but {self.target.name} takes one for an activation."

    def _codes(self, where: str, quantizer: Quantizer, wanted: list[Scheme]) -> Iterator[str]:
        reasons = [_misfit(quantizer, scheme) for scheme in wanted]
        if reasons and all(reasons):
            listed = " or ".join(dict.fromkeys(_spelled(scheme) for scheme in wanted))
            yield f"{where} is {_spelled(quantizer.scheme)}{reasons[0]}, but {self.target.name} takes {listed}."


def _misfit(quantizer: Quantizer, wanted: Scheme) -> str:
    """What keeps a quantizer from being of a scheme, as the rest of a sentence; empty when it is."""
    mine, params = quantizer.scheme, quantizer.params
    grid = stored_grid(mine.grid) if quantizer.role == "weight" else mine.grid
    if (grid.bits, grid.signed) != (wanted.grid.bits, wanted.grid.signed):
        return " codes"
    if wanted.grid.narrow and not grid.narrow:
        return f" with code {grid.low}"
    if wanted.symmetric and not mine.symmetric and (params is None or params.zero_point.any()):
        return _zero(params)
    if wanted.scale is ScaleRule.POWER_OF_TWO and params is not None and (np.frexp(params.scale)[0] != 0.5).any():
        return f" with scale {params.scale.ravel()[0]:.6g}, no power of two"
    return ""


def _zero(params: QParams | None) -> str:
    points = [] if params is None else [int(z) for z in params.zero_point.ravel() if z]
    return f" with zero point {points[0]}" if points else " with a free zero point"


def _spelled(scheme: Scheme) -> str:
    """The codes, without the tiling."""
    return str(scheme).rsplit(" ", 1)[0]
