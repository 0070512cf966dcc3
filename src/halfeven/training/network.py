"""The network that is trained: a float graph in PyTorch, every planned value seen through its fake quantizer.

    network = QuantizedNetwork(draft.model, draft.plan)
    network(x)            what the quantized file computes in float, with gradients; one tensor, or a tuple, or by name

What is quantized, and how, is the plan's: an activation is rounded where an operator reads it, by the quantizer of its
group, once for all readers; a weight by its own; a bias to the codes that the exported file holds (`training.biases`).
So the forward pass is the QuantizeLinear/DequantizeLinear graph, in the same order.

Ties of feature maps go to the even neighbour, as in the file; with `network.rounding = "device"` where the target's
device sends them (its `Numerics`). Either holds in training and in evaluation, and what is exported is the same: codes
of weights and biases are in the file, and how feature maps are rounded is up to what runs it.

Parameters bear the names of the graph's initializers, which for a graph made from a module are those of the module
(`conv1.weight`); quantizers are `quantizers.GROUP`. All state is in parameters, buffers and what a `state_dict` holds
beside them as tensors (what is frozen, bits that were raised): `state_dict`, `deepcopy`, pickling, EMA and moving to a
device work as for any module.
"""

# mypy: disallow-subclassing-any=False

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from halfeven.errors import BadCalibration, BadOption, UnsupportedModel
from halfeven.graph.plan import Quantizer
from halfeven.numerics.grid import Grid, IntGrid
from halfeven.numerics.lsq import OPEN
from halfeven.numerics.native import Ends
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams
from halfeven.training.arguments import Arguments, inputs_of
from halfeven.training.batchnorm import LiveNorm, LoneNorm
from halfeven.training.biases import bias_codes
from halfeven.training.clamps import Clamp, clamps_of
from halfeven.training.fake_quantize import clamped
from halfeven.training.holding import Fixed, hold, keep, nested
from halfeven.training.methods import step_of
from halfeven.training.normed import Normed
from halfeven.training.operators import OPERATORS
from halfeven.training.planned import Scales, planned
from halfeven.training.program import Constants, Instruction, Program
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.quantizer import FakeQuantizer
from halfeven.training.watch import Watch, watched

QUANTIZERS, NORMS, FIXED = "quantizers", "norms", "fixed"
Values = dict[str, Any]
Rounds = Literal["file", "device"]


class QuantizedNetwork(torch.nn.Module):
    """A program with its constants and quantizers.

    `float_only` switches all rounding off. `check_finite` lets training refuse what a quantizer cannot round, NaN and
    infinity, and name it (`training.watch`).

    Args:
        program: What to run; `program_of` makes it from a graph and a plan.
        constants: Its tensors. Those to train become parameters, the others buffers that no state_dict holds.
        groups: The plan's quantizers that the program refers to, with parameters but for biases.
        norms: BatchNormalization that is kept alive, and how; `live_norms` finds it.
        scales: How they are trained: "log" by a factor exp(p), "linear" themselves (LSQ), "fixed", or "moving" with the
            ranges of what passes, until `freeze_ranges`.
        learn_zero_point: Whether zero points of affine codes of up to 16 bits are trained (LSQ+).
        method: Names of `training.methods`, joined by "+".
        codes: Parameters of the groups that are trained with other codes than the plan's.
        given: Groups whose scale and zero point are the target's own, so that nothing changes them.
        device_rounding: The rule by which the target's device rounds feature maps, for `rounding = "device"`.

    `takes` and `returns` are those of the module it was made from, if any; `unused` names its tensors that forward does
    not use, and `renamed` gives the names here of those that the graph calls otherwise; `lacking` are weights of the
    float graph that are not trained as they are, as they were folded into others; `notes` are sentences for the user.

    Raises:
        BadOption: a group has no parameters: the plan was not calibrated.
    """

    accepts_loss_kwargs = False  # asked by Hugging Face's Trainer, which would feed more names than there are inputs

    def __init__(
        self,
        program: Program,
        constants: Constants,
        groups: Mapping[int, Quantizer],
        norms: Mapping[str, LoneNorm] | None = None,
        *,
        scales: Scales = "log",
        learn_zero_point: bool = False,
        method: str = "lsq",
        codes: Mapping[int, QParams[Grid]] | None = None,
        given: Collection[int] = (),
        device_rounding: Rounding = Rounding.HALF_EVEN,
    ) -> None:
        super().__init__()
        self.program = program
        self.device_rounding = device_rounding
        self.float_only, self.rounding, self.check_finite = False, "file", True
        self.takes: Arguments | None = None
        self._watch: Watch | None = None
        self.returns: Any = None
        self.origin: Any = None
        self.notes: tuple[str, ...] = ()
        self.lacking: tuple[str, ...] = ()
        self.unused: frozenset[str] = frozenset()
        self.renamed: dict[str, str] = {}
        self.maps = {*program.inputs, *(name for made in program.instructions for name in made.outputs)}
        self.biases = bias_codes(groups, fixed=scales == "fixed")
        norms = norms or {}
        moving = {name for live in norms.values() for name in (live.norm.mean, live.norm.variance)}
        self.clamps = clamps_of(program, constants.fixed)
        self.places = {name: f"layer{i}" for i, name in enumerate(norms)}
        self.paths: dict[str, str] = {}
        for name, tensor in constants.trained.items():  # under no name that is set above
            self.hold(name, tensor, learned=name not in moving)
        self.fixed = Fixed(constants.fixed)
        self.add_module(NORMS, torch.nn.ModuleDict({self.places[n]: live for n, live in norms.items()}))
        layers = {}
        for group, quantizer in groups.items():
            if quantizer.role != "bias":
                params = (codes or {}).get(group, quantizer.params)
                how: tuple[Scales, bool] = ("fixed", False) if group in given else (scales, learn_zero_point)
                layers[str(group)] = planned(group, quantizer, params, *how, method)
        self.add_module(QUANTIZERS, torch.nn.ModuleDict(layers))

    @property
    def rounding(self) -> Rounds:
        """Whose rule breaks the ties of feature maps: the "file"'s, half to even, or the target "device"'s."""
        return self._rounding

    @rounding.setter
    def rounding(self, whose: Rounds) -> None:
        if whose not in ("file", "device"):
            raise BadOption(f"rounding {whose!r}: choose 'file' or 'device'.")
        self._rounding = whose
        self._rule = self.device_rounding if whose == "device" else Rounding.HALF_EVEN

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The outputs as the module returned them (`returns`); else a tensor if there is one, else a tuple, in order.

        Inputs as the module's forward takes them (`takes`), or in the graph's order, or by its names.
        """
        found = self.computed(*inputs, **named)
        if self.returns is not None:
            return nested(self.returns, dict(zip(self.program.outputs, found, strict=True)))
        return found[0] if len(found) == 1 else found

    def computed(self, *inputs: Any, **named: Any) -> tuple[Tensor, ...]:
        """The outputs in the graph's order; inputs as for `forward`."""
        values: Values = inputs_of(self.takes, self.program.inputs, inputs, named)
        return self.outputs_of(self.program, values)

    def outputs_of(self, program: Program, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The outputs of the network's program, or of it with more outputs (`training.features`); inputs by name.

        Raises:
            BadCalibration: in training, an input is not finite, as a quantizer found.
            BadOption: in training, a parameter or a tensor inside is not.
        """
        with watched(self, inputs) as self._watch:
            return tuple(self.run(program, {**inputs, **self.derived()}))

    def derived(self) -> Values:
        """The tensors that are made of weights before all else."""
        values: Values = {}
        for instruction in self.program.preamble:
            values.update(zip(instruction.outputs, self._results(instruction, values, {}), strict=False))
        return values

    def run(self, program: Program, values: Values) -> list[Tensor]:
        """The outputs of a program; `values` are the inputs, and for a body what stands around it."""
        seen: dict[tuple[str, int], Tensor] = {}
        for i, instruction in enumerate(program.instructions):
            for name, value in zip(instruction.outputs, self._results(instruction, values, seen), strict=False):
                values[name] = value
            for name in program.last.get(i, ()):
                values.pop(name, None)
                for key in [key for key in seen if key[0] == name]:
                    del seen[key]
        groups = program.output_groups or (None,) * len(program.outputs)
        return [self._seen(values, seen, n, g) for n, g in zip(program.outputs, groups, strict=True)]

    def _results(self, instruction: Instruction, values: Values, seen: dict[tuple[str, int], Tensor]) -> Sequence[Any]:
        if instruction.op == "Constant":
            return (instruction.attributes["value"],)
        if instruction.op == "If":
            branch = "then_branch" if bool(self._value(values, instruction.inputs[0])) else "else_branch"
            return self.run(instruction.bodies[branch], dict(values))
        if instruction.name in self.places and (normed := self._normed(instruction, values, seen)) is not None:
            return (normed,)
        clamp = self.clamps.get(instruction.outputs[0])
        if clamp is not None:
            return (self._clamped(instruction, clamp, values, seen),)
        operands: list[Tensor | None] = []
        for name, group in zip(instruction.inputs, instruction.groups, strict=True):
            if not name:
                operands.append(None)
            elif group is not None and group in self.biases and not self.float_only:
                operands.append(self._bias(instruction, self._watched(group, name, self._value(values, name)), group))
            else:
                operands.append(self._seen(values, seen, name, group))
        try:
            found = OPERATORS[instruction.op](instruction.attributes, *operands)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            shapes = ", ".join("-" if t is None else str(tuple(t.shape)) for t in operands)
            raise UnsupportedModel(
                f"{instruction.op} '{instruction.name}' ({shapes}) cannot be run: {error}"
            ) from error
        return found if isinstance(found, tuple | list) else (found,)

    def _value(self, values: Values, name: str) -> Tensor:
        if name in values:
            return values[name]
        path = self.paths.get(name)
        if path is None:
            return self.fixed[name]
        return self._at(path)

    def _at(self, path: str) -> Tensor:
        folder, _, last = path.rpartition(".")
        return getattr(self.get_submodule(folder), last)

    def _normed(self, instruction: Instruction, values: Values, seen: dict[tuple[str, int], Tensor]) -> Tensor | None:
        """A normalization that is alive, with its layer if it has one; None if it is to run as it stands."""
        live = getattr(self, NORMS)[self.places[instruction.name]]
        operator, attributes, groups = OPERATORS[instruction.op], instruction.attributes, (*instruction.groups, None)
        x, tensors = self._seen(values, seen, instruction.inputs[0], groups[0]), self.tensors(live.norm, values)
        if not isinstance(live, LiveNorm):
            return live(tensors, x)

        def plain(weight: Tensor, bias: Tensor | None) -> Tensor:
            if live.norm.apart:
                return operator(attributes, x, weight) if bias is None else operator(attributes, x, weight) + bias
            return operator(attributes, x, weight, bias)

        def quantized(
            weight: Tensor, bias: Tensor | None, rounded: bool, over: Tensor | None, stretch: Tensor
        ) -> Tensor:
            if not self.float_only and groups[1] is not None:
                weight = self._rounded(groups[1], instruction.inputs[1], weight, stretch=stretch)
            if over is not None:
                weight = weight / over
            coded = groups[2] if rounded and not self.float_only else None
            if bias is not None and coded is not None and coded in self.biases:
                bias = self._bias(instruction, self._watched(coded, instruction.inputs[2], bias), coded, stretch)
            return plain(weight, bias)

        self._watched(None, live.norm.mean, tensors[live.norm.mean])
        out, shift = live(tensors, plain, quantized)
        if shift is not None:
            values[live.norm.apart] = shift
        return out

    def _clamped(
        self, instruction: Instruction, clamp: Clamp, values: Values, seen: dict[tuple[str, int], Tensor]
    ) -> Tensor:
        """A clamp, and the quantizer that all see it through."""
        x = self._seen(values, seen, instruction.inputs[0], instruction.groups[0])
        if clamp.group is None or self.float_only:
            return clamped(x, clamp.ends)
        name, key = instruction.inputs[0], (instruction.outputs[0], clamp.group)
        found = seen[key] = self._rounded(clamp.group, name, x, clamp.ends, rule=self._rule)
        return found

    def tensors(self, norm: Normed, values: Values) -> dict[str, Tensor]:
        """What a normalization and its layer hold, by name; `values` has what is made of others."""
        return {name: self._value(values, name) for name in norm.tensors}

    def _seen(self, values: Values, seen: dict[tuple[str, int], Tensor], name: str, group: int | None) -> Tensor:
        """A value through the quantizer of a group."""
        value = self._value(values, name)
        if group is None or self.float_only:
            return value
        if (name, group) not in seen:
            rule = self._rule if name in self.maps else Rounding.HALF_EVEN  # a constant is stored as codes
            seen[name, group] = self._rounded(group, name, value, rule=rule)
        return seen[name, group]

    def _rounded(
        self,
        group: int,
        name: str,
        value: Tensor,
        ends: Ends = OPEN,
        stretch: Tensor | None = None,
        rule: Rounding = Rounding.HALF_EVEN,
    ) -> Tensor:
        """A tensor, held to the ends of a clamp, through the quantizer of a group, which an error names."""
        try:
            return self.quantizer(group)(self._watched(group, name, value), ends, stretch, rule)
        except BadCalibration as error:
            raise BadCalibration(f"{QUANTIZERS}.{group}: {error}") from error

    def _watched(self, group: int | None, name: str, value: Tensor) -> Tensor:
        """The value itself, that a group is about to round, watched where that is on."""
        if self._watch is not None:
            self._watch.see(group, name, value)
        return value

    def _bias(self, instruction: Instruction, bias: Tensor, group: int, stretch: Tensor | None = None) -> Tensor:
        """The values of the codes of a layer's bias, whose scale is not trained through."""
        data, weight = (self.quantizer(g) for g in instruction.groups[:2])  # biases stand in such layers only
        with torch.no_grad():
            step = step_of(weight.scale_and_zero_point(stretch)[0], weight.scheme.grid)
            scale = data.scale_and_zero_point()[0]
        return self.biases[group].values(bias, scale, step)

    def quantizer(self, group: int | None) -> FakeQuantizer:
        """The fake quantizer of a group of the plan."""
        layer = getattr(self, QUANTIZERS)[str(group)]
        assert isinstance(layer, FakeQuantizer)
        return layer

    def stretches(self) -> dict[int, Tensor]:
        """What the scales of weights are multiplied with for their normalization, by group; see `LiveNorm.stretch`."""
        found, made, live = {}, self.derived(), self.live_norms()
        for instruction in self.program.instructions:
            norm = live.get(instruction.name)
            if isinstance(norm, LiveNorm) and instruction.groups[1] is not None:
                tensors = self.tensors(norm.norm, made)
                found[instruction.groups[1]] = norm.stretch(tensors, tensors[norm.norm.variance])
        return found

    def raise_bits(self, bits: int) -> None:
        """Let integer codes of fewer bits have so many for now: a finer grid over the same range; 0 ends it."""
        for layer in getattr(self, QUANTIZERS).values():
            grid = layer.scheme.grid
            layer.extra_bits = max(bits - grid.bits, 0) if isinstance(grid, IntGrid) else 0

    def freeze_ranges(self) -> None:
        """Keep the ranges that moved as they are, from now on."""
        for layer in getattr(self, QUANTIZERS).values():
            layer.following = False

    def keep(self, name: str) -> None:
        """Make a buffer of the tensor of this name."""
        keep(self, self.paths[name])

    def hold(self, name: str, tensor: Tensor, *, learned: bool = False) -> None:
        """Have a parameter or a buffer under a name, its path being another where the network uses that itself."""
        self.paths[name] = hold(self, name, tensor, learned=learned, taken=(QUANTIZERS, NORMS, FIXED))

    def weights(self) -> dict[str, Tensor]:
        """The tensors by the names that the graph's initializers have; running statistics too, and their counts."""
        return {name: self._at(path) for name, path in self.paths.items()}

    def live_norms(self) -> dict[str, LoneNorm]:
        """The normalizations that are alive, by the name of their layer, or their own; in the order they run in."""
        return {name: getattr(self, NORMS)[place] for name, place in self.places.items()}
