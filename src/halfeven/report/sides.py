"""What a machine runs: the quantized ONNX network, or what a .tflite file of it holds.

    machine                       network
    litert@..., tflite-micro      the .tflite file that is written of the model, read back; a .tflite model as it is
    any other                     the model

A file's network takes and gives what the model does: names, layout and types are fitted (`run.runtimes`). A tensor of
the file stands for the model's of the same name, or of its name without the suffix `_quantized`, where both have one
scale and it is the same; codes are compared as distances from the zero point, as uint8 becomes int8 in a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Batch, Draft, pipeline
from halfeven.errors import UnsupportedModel
from halfeven.exporters.formats import FORMATS, exporter_named, target_of
from halfeven.graph.constants import lift_constants
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.graph.network import Network, Tensor
from halfeven.graph.ops import QUANTIZED_OPS
from halfeven.importers.litert.reader import import_tflite
from halfeven.importers.models import is_tflite, read_as_stored
from halfeven.importers.qdq import draft_of, refuse_codes
from halfeven.importers.shifting import as_target_takes
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.litert import Port
from halfeven.run.runtimes import RUNTIMES, Fitted
from halfeven.steps.trace import Trace
from halfeven.targets import target_named

Source = str | PathLike[str] | ir.Model
Offsets = npt.NDArray[np.int64]
Codes = npt.NDArray[np.integer]
OF_FILES = ("litert", "tflite-micro")
SUFFIX = "_quantized"


def fitting(model: ir.Model, draft: Draft | None, data: Sequence[tuple[str, Batch]], format: str) -> Draft:
    """What is exported: the draft itself where its codes are the format's, else one of the model, for its target.

    Raises:
        UnsupportedModel: the model holds no codes, or an integer operator that has no QDQ form.
    """
    made_for = model.metadata_props.get("halfeven.target", "") if draft is None else draft.target.name
    target = target_named(target_of(format, made_for))
    if draft is not None and not as_target_takes(draft.plan, target)[1]:
        return draft if draft.shapes else pipeline(Trace())(draft, data[:1])
    read = draft_of(model.clone(), target)
    refuse_codes(read.model)
    return pipeline(Trace())(replace(read, plan=as_target_takes(read.plan, target)[0]), data[:1])


@dataclass(frozen=True, eq=False)
class Ported:
    """An executor with the ports of a file, as `Fitted` wants them; `watched` is what the last call watched."""

    executor: IntegerExecutor
    watch: tuple[str, ...]
    watched: Batch

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What it takes."""
        return tuple(_port(tensor) for tensor in self.executor.network.inputs)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What it gives."""
        return tuple(_port(tensor) for tensor in self.executor.network.outputs)

    def __call__(self, feeds: Batch) -> Batch:
        """Run once."""
        found = self.executor(feeds, self.watch)
        self.watched.update({name: found[name] for name in self.watch})
        return {t.name: found[t.name] for t in self.executor.network.outputs}


def _port(tensor: Tensor) -> Port:
    shape = tuple(n if isinstance(n, int) else 1 for n in tensor.shape or ())
    if tensor.params is None:
        return Port(tensor.name, shape, tensor.dtype.numpy())
    params = tensor.params
    zero = params.zero_point.ravel().astype(np.int64)
    return Port(tensor.name, shape, params.scheme.grid.dtype, params.scale.ravel(), zero)


@dataclass(frozen=True, eq=False)
class Side:
    """A network on a machine, called as the model is. `of_file`: the network is that of a .tflite file."""

    executor: IntegerExecutor
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    of_file: bool

    @property
    def network(self) -> Network:
        """What runs."""
        return self.executor.network

    def __call__(self, feeds: Batch, watch: Sequence[str] = ()) -> tuple[Batch, Batch]:
        """Outputs under the model's names, a file's codes as real numbers, and what is watched."""
        if not self.of_file:
            found = self.executor(feeds, watch)
            return {name: found[name] for name in self.gives}, {name: found[name] for name in watch}
        ported = Ported(self.executor, tuple(watch), {})
        return Fitted(ported, RUNTIMES[".tflite"], self.takes, self.gives)(feeds), ported.watched

    def offsets(self, name: str, codes: npt.NDArray[np.generic]) -> Offsets:
        """Codes of a tensor as distances from its zero point."""
        params = self.executor.tensors[name].params
        assert params is not None
        return np.asarray(codes.astype(np.int64) - int(params.zero_point.ravel()[0]), np.int64)


def sides(source: Source, names: Sequence[str], first: Sequence[tuple[str, Batch]], threads: int = 0) -> list[Side]:
    """The machines of these names, each with its network of the model; `first`: one sample, for the shapes of a file.

    Raises:
        BadOption: there is no such machine, or what writes a .tflite file is not installed.
        UnsupportedModel: the model cannot be read, holds no codes, or holds others than the machine's.
        UnsupportedByTarget: the model cannot be written as a .tflite file.
    """
    machines = [machine_named(name) for name in names]
    model = read_as_stored(source)[0]
    refuse_real(model)
    stored = not isinstance(source, ir.Model) and is_tflite(Path(source))
    held = model if stored else model.clone()
    lift_constants(held)
    name_everything(held)
    networks: dict[bool, Network] = {}
    made = []
    for machine in machines:
        of_file = not stored and machine.name.partition("@")[0] in OF_FILES
        if of_file not in networks:
            networks[of_file] = lower(_as_file(held, first)) if of_file else lower(held)
        takes = tuple(v.name or "" for v in held.graph.inputs if v.name not in held.graph.initializers)
        gives = tuple(v.name or "" for v in held.graph.outputs)
        made.append(Side(IntegerExecutor(networks[of_file], machine, threads), takes, gives, of_file or stored))
    return made


def refuse_real(model: ir.Model) -> None:
    """Refuse a float model.

    Raises:
        UnsupportedModel: no operator of it makes or takes codes.
    """
    if not any(node.op_type in QUANTIZED_OPS for node in model.graph.all_nodes()):
        raise UnsupportedModel(
            "The model holds real numbers alone, so there are no integers to simulate: QuantizeLinear and "
            "DequantizeLinear, or operators on codes, were expected. Quantize it first: halfeven quantize."
        )


def _as_file(model: ir.Model, first: Sequence[tuple[str, Batch]]) -> ir.Model:
    """The model as a .tflite file of it is read back."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / f"model{FORMATS['tflite'].suffix}"
        exporter_named("tflite")(fitting(model, None, first, "tflite"), path)
        read = import_tflite(memoryview(path.read_bytes()), str(path)).model
    name_everything(read)
    return read


def pairs(one: Side, other: Side) -> Mapping[str, str]:
    """The coded tensors of `one` that `other` has too, in order, with the name that they have there."""
    theirs = {t.name: t for op in other.network.ops for t in op.outputs if t.coded and t.name}
    found = {}
    for tensor in (t for op in one.network.ops for t in op.outputs if t.coded and t.name):
        for name in (tensor.name, tensor.name.removesuffix(SUFFIX), tensor.name + SUFFIX):
            if name in theirs and _same_scale(tensor, theirs[name]):
                found[tensor.name] = name
                break
    return found


def _same_scale(a: Tensor, b: Tensor) -> bool:
    assert a.params is not None
    assert b.params is not None
    return a.params.scale.size == b.params.scale.size == 1 and bool(
        (a.params.scale.ravel() == b.params.scale.ravel())[0]
    )


def in_order(ours: Codes, theirs: Codes) -> Codes | None:
    """Codes of the other side with their axes as ours; where several orders fit, that in which least differs."""
    ways = [theirs]
    if theirs.ndim > 2:
        ways += [np.moveaxis(theirs, -1, 1), np.moveaxis(theirs, 1, -1)]
    fitting_ones = [way for way in ways if way.shape == ours.shape]
    return min(fitting_ones, key=lambda way: int((way != ours).sum()), default=None)
