"""Runs a network in true integers, as one machine does.

    codes      int8, uint8, int16, int4, ... arrays between operators; the machine's kernels compute them
    regions    operators without an integer kernel: ONNX Runtime, on real numbers, between a dequantization and a
               quantization, as on the device
    watch      names of tensors whose arrays are wanted besides the outputs: codes where the tensor is coded

So every integer is the machine's own wherever its kernels compute it, and wherever a region's real numbers are: those
are computed by this machine's ONNX Runtime, whose float sums another instruction set may round differently.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from halfeven.draft import Batch
from halfeven.errors import BadCalibration, BadOption
from halfeven.graph.network import Network, Op, Tensor
from halfeven.numerics.grid import IntGrid
from halfeven.run.integer.borders import Through, ToCodes, ToReal, half_even_codes, to_codes, to_real
from halfeven.run.integer.machine import Array, Kernel, Machine, constant_codes
from halfeven.run.integer.partition import Partition
from halfeven.run.integer.regions import Region, outer, real_of
from halfeven.run.samples import cores
from halfeven.run.signed_pairs import signed_again

Step = Callable[[dict[str, Array]], None]


@dataclass
class IntegerExecutor:
    """Runs `network` as `machine` does; call it with feeds, get a batch of its outputs and of what is watched."""

    network: Network
    machine: Machine
    threads: int = 0
    _plans: dict[frozenset[str], list[tuple[Step, list[str]]]] = field(default_factory=dict, repr=False)
    _turned: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.machine.prepare is not None:
            given = {t.name: t for op in self.network.ops for t in op.outputs if t.coded}
            self.network = self.machine.prepare(self.network)
            made = (t for op in self.network.ops for t in op.outputs if t.coded and t.name in given)
            self._turned = {t.name: given[t.name] for t in made if _grid(t) != _grid(given[t.name])}
        self._kernels = [self.machine.kernel(op, self.network) or self._border(op) for op in self.network.ops]
        self._constants = _constants(self.network)
        pairs = zip(self.network.ops, self._kernels, strict=True)
        from_real = [op for op, kernel in pairs if kernel is None or op.kind == "QuantizeLinear"]
        self._shaped = frozenset(t.name for t in (*self.network.inputs, *(t for op in from_real for t in op.outputs)))

    def _border(self, op: Op) -> Kernel | None:
        """What makes or changes codes where the machine has no rule for it, as for a type that it does not know."""
        quantizer = self.machine.quantizer or half_even_codes
        borders: dict[str, Kernel] = {
            "QuantizeLinear": ToCodes(quantizer),
            "DequantizeLinear": ToReal(),
            "Requantize": Through(quantizer),
        }
        return borders.get(op.kind) if len(op.inputs) == 1 else None

    @property
    def integer_ops(self) -> list[Op]:
        """The operators that an integer kernel computes."""
        return [op for op, kernel in zip(self.network.ops, self._kernels, strict=True) if kernel is not None]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What can be watched, by name, with the codes that the network was given with."""
        made = [*self.network.inputs, *(t for op in self.network.ops for t in op.outputs)]
        return {t.name: self._turned.get(t.name, t) for t in made if t.name}

    def __call__(self, feeds: Batch, watch: Collection[str] = ()) -> Batch:
        """Run once: outputs by name, and what is watched.

        Raises:
            BadOption: a watched tensor does not exist.
            BadCalibration: an input is missing, or the runtime refuses it.
        """
        for name in watch:
            if name not in self.tensors:
                raise BadOption(f"The network has no tensor '{name}', so it cannot be watched.")
        wanted = [*dict.fromkeys([*(t.name for t in self.network.outputs), *watch])]
        missing = [t.name for t in self.network.inputs if t.name not in feeds]
        if missing:
            raise BadCalibration(f"Input '{missing[0]}' is not fed; the network reads it.")
        values: dict[str, Array] = {**self._constants, **feeds}
        kept = set(wanted)
        for step, last in self._plan(frozenset(t for t in watch if not self.tensors[t].coded)):
            step(values)
            for name in last:
                if name not in kept and name not in self._constants:
                    values.pop(name, None)
        return {name: self._shown(name, values[name]) for name in wanted}

    def _shown(self, name: str, array: Array) -> Array:
        """Codes of what a kernel left real for the next one, as that is part of it; of what was turned, those given."""
        tensor = self.tensors.get(name)
        if tensor is None or not tensor.coded:
            return array
        if array.dtype.kind == "f":
            return to_codes(tensor, array, self.machine.quantizer or half_even_codes)
        if name not in self._turned:
            return array
        return signed_again(array)

    def _plan(self, watched: frozenset[str]) -> list[tuple[Step, list[str]]]:
        """The steps in order, each with the tensors that nobody reads after it; real tensors watched are outputs."""
        if watched in self._plans:
            return self._plans[watched]
        real = frozenset(i for i, kernel in enumerate(self._kernels) if kernel is None)
        parts = Partition(self.network, real).ordered()
        asked = {t.name for t in self.network.outputs} | watched
        named = [[self._names(i) for i in part] for part in parts]
        later: set[str] = set()
        steps: list[tuple[Step, list[str]]] = []
        readers = [set().union(*(reads for reads, _ in ops)) for ops in named]
        for at in reversed(range(len(parts))):
            names = readers[at].union(*(made for _, made in named[at]))
            elsewhere = asked.union(*(reads for i, reads in enumerate(readers) if i != at))
            step = self._region(parts[at], elsewhere) if parts[at][0] in real else self._integer(parts[at][0])
            steps.append((step, sorted(names - later)))
            later |= names
        self._plans[watched] = steps[::-1]
        return self._plans[watched]

    def _names(self, index: int) -> tuple[set[str], set[str]]:
        """What an operator reads, and what it makes."""
        op = self.network.ops[index]
        return {t.name for t in (*op.inputs, *outer(op)) if t is not None}, {t.name for t in op.outputs if t.name}

    def _integer(self, index: int) -> Step:
        op, kernel = self.network.ops[index], self._kernels[index]
        assert kernel is not None
        run = kernel(op, self.threads or cores())

        def step(values: dict[str, Array]) -> None:
            made = run([None if t is None else values[t.name] for t in op.inputs])
            values.update({t.name: x for t, x in zip(op.outputs, made, strict=True) if t.name})

        return step

    def _region(self, part: list[int], elsewhere: set[str]) -> Step:
        """A region gives what others read, and codes; more outputs would keep the runtime from fusing operators."""
        ops = [self.network.ops[i] for i in part]
        wanted = [t for op in ops for t in op.outputs if t.name and (t.coded or t.name in elsewhere)]
        region = Region(ops, wanted, self.network.opset, self.threads, self._shaped)
        quantizer = self.machine.quantizer or half_even_codes

        def step(values: dict[str, Array]) -> None:
            fed: dict[str, Array] = {}
            for tensor in region.feeds:
                real = to_real(tensor, values[tensor.name]) if tensor.coded else values[tensor.name]
                fed[real_of(tensor.name) if tensor.coded else tensor.name] = real
            found = region(fed)
            for tensor in wanted:
                if tensor.coded:
                    made = found[real_of(tensor.name)]  # integers where the operator worked on integers
                    values[tensor.name] = made if made.dtype.kind in "iu" else to_codes(tensor, made, quantizer)
                else:
                    values[tensor.name] = found[tensor.name]

        return step


def _grid(tensor: Tensor) -> IntGrid | None:
    return None if tensor.params is None else tensor.params.scheme.grid


def _constants(network: Network) -> Mapping[str, Array]:
    """Arrays of constants; codes in the type of their grid."""
    found: dict[str, Array] = {}
    for tensor in (t for op in network.ops for t in op.inputs if t is not None and t.constant is not None):
        found[tensor.name] = constant_codes(tensor)
    return found
