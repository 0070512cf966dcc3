"""LiteRT (TensorFlow Lite): a draft as a .tflite file, written without TensorFlow.

    mode        activations         weights    bias              kernels
    auto        as the plan says: one of those below
    integer     as the plan has     int8       int32 or int64    integer; real numbers where LiteRT has no integer one
    dynamic     float32             int8       float32           hybrid: activations become codes as they come
    weights     float32             int8       float32           float, behind a DEQUANTIZE of the weights
    float       float32             float32    float32           float

A plan of int8 affine activations (target litert) gives the full-integer file, one of int16 symmetric activations
(litert-int16) the 16x8 file. Inputs and outputs are float32, or, with io="int8" ("int16"), codes. A value of four axes
is channels last inside the file; so are such inputs and outputs, unless layout="onnx" asks for transposes there.

Metadata `halfeven` is JSON: version, target, digest of the plan, mode, and the order of each input's and output's axes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from halfeven.draft import Draft
from halfeven.errors import BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.litert.builder import Builder
from halfeven.exporters.litert.clamping import absorbed, fused
from halfeven.exporters.litert.decompose import simplified
from halfeven.exporters.litert.fixing import fixed, has_batch, open_axes, weights_only, without_plan
from halfeven.exporters.litert.flatbuffer import FileGraph, to_bytes
from halfeven.exporters.litert.forms import Settling, settled
from halfeven.exporters.litert.layout import Order, channels_last, plain
from halfeven.exporters.litert.operators import why_not, write
from halfeven.exporters.litert.recurrent import RECURRENT
from halfeven.exporters.litert.windows import FixedLengthError
from halfeven.exporters.storage import refuse_halves
from halfeven.files import write_file
from halfeven.graph.network import Network, Op, Tensor
from halfeven.graph.plan import DYNAMIC
from halfeven.run.litert import prepare
from halfeven.version import __version__
from halfeven.wording import counted

MODES = ("auto", "integer", "dynamic", "weights", "float")
TYPES = ("float", "int8", "int16")
LAYOUTS = ("litert", "onnx")
SPATIAL = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize",
                     "DepthToSpace", "SpaceToDepth"})  # fmt: skip
PASSING = frozenset({"QuantizeLinear", "DequantizeLinear", "Requantize", "Relu", "Clip", "Add", "Sub", "Mul", "Div",
                     "Sigmoid", "LeakyRelu", "PRelu", "HardSwish", "Pad", "Concat", "Identity", "Cast"})  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A file's bytes and what there is to say about it."""

    data: bytes
    notes: tuple[str, ...]
    integer: int
    operators: int


def write_litert(
    draft: Draft, path: Path, *, mode: str = "auto", io: str = "float", layout: str = "litert"
) -> tuple[str, ...]:
    """Write a draft as a .tflite file; the notes say what runs in real numbers, and how inputs are laid out.

    Raises:
        BadOption: an option that does not exist, or LiteRT's package is not installed.
        UnsupportedByTarget: an operator or type that a .tflite file cannot express, or that the runtime refuses; names
            the node.
    """
    made = to_litert(draft, mode=mode, io=io, layout=layout)
    try:
        prepare(made.data, path)
    except UnsupportedModel as error:
        raise UnsupportedByTarget(f"The runtime refuses what would be written: {error}") from error
    write_file(path, lambda file: file.write(made.data))
    return made.notes


def to_litert(draft: Draft, *, mode: str = "auto", io: str = "float", layout: str = "litert") -> Written:
    """The bytes of the file and its notes; the arguments are those of `write_litert`."""
    for name, value, known in (("mode", mode, MODES), ("io", io, TYPES), ("layout", layout, LAYOUTS)):
        if value not in known:
            raise BadOption(f"LiteRT {name} '{value}' is not known. Choose one of: {', '.join(known)}.")
    refuse_halves(draft, "LiteRT")
    mode = _planned(draft) if mode == "auto" else mode
    if mode == "integer":
        _check_types(draft)
    chosen = {"integer": lambda d: d, "dynamic": weights_only, "weights": weights_only, "float": without_plan}[mode]
    draft = chosen(draft)
    notes: list[str] = []
    if has_batch(draft):
        one, two = fixed(draft, 1), fixed(draft, 2)
        axes = open_axes(one, two)
        if axes is not None:
            try:
                return _written(draft, one, axes, mode, io, layout, notes)
            except FixedLengthError as why:
                notes.append(f"the batch is fixed as in the traced sample: {why} needs to know it")
        else:
            notes.append("the batch is fixed as in the traced sample: shapes inside depend on it")
    return _written(draft, fixed(draft, None), {}, mode, io, layout, notes)


def _planned(draft: Draft) -> str:
    """The mode that a plan stands for."""
    found = list(draft.plan.groups.values())
    if any(q.method == DYNAMIC for q in found):
        return "dynamic"
    if any(q.role == "activation" for q in found):
        return "integer"
    return "weights" if found else "float"


def _check_types(draft: Draft) -> None:
    for quantizer in draft.plan.groups.values():
        grid = quantizer.scheme.grid
        if quantizer.role == "activation" and (not grid.signed or grid.bits not in (8, 16)):
            raise UnsupportedByTarget(
                f"LiteRT takes int8 or int16 activations; the plan for {draft.target.name} has {grid}. "
                "Quantize for --target litert or litert-int16."
            )


def _written(
    draft: Draft, network: Network, axes: Mapping[str, int], mode: str, io: str, layout: str, notes: Sequence[str]
) -> Written:
    if io != "float":
        network = _coded_ends(network, io)
    settling = settled(simplified(absorbed(network), RECURRENT), why_not)
    ops = fused(_live(settling.ops, network.outputs), [t.name for t in network.outputs])
    b = Builder(open=axes, hybrid=mode == "dynamic", opset=network.opset)
    b.readers = _readers(ops)
    b.results = frozenset(t.name for t in network.outputs)
    for tensor in network.inputs:
        b.output(tensor, _input_order(tensor, b) if layout == "litert" else plain(len(tensor.shape or ())))
    inputs = [b.wires[t.name].index for t in network.inputs]
    for op in ops:
        write(b, op)
    outputs = [_result(b, tensor, layout, inputs) for tensor in network.outputs]
    ends = {t.name: b.wires[t.name].order for t in (*network.inputs, *network.outputs)}
    told = {"version": __version__, "target": draft.target.name, "plan": draft.plan.digest, "mode": mode, "axes": ends}
    metadata = {"halfeven": json.dumps(told, sort_keys=True).encode()}
    graph = FileGraph(b.tensors, b.ops, inputs, outputs, metadata)
    integer = sum(b.tensors[op.outputs[0]].scale is not None and op.code not in ("QUANTIZE", "DEQUANTIZE")
                  for op in b.ops)  # fmt: skip
    said = [*notes, *_notes(b, network, settling, axes, integer)]
    return Written(to_bytes(graph), tuple(said), integer, len(b.ops))


def _coded_ends(network: Network, io: str) -> Network:
    """The network without the borders at its inputs and outputs that are the only ones there."""
    ops, inputs, outputs = list(network.ops), list(network.inputs), list(network.outputs)
    done = 0
    for place, tensor in enumerate(inputs):
        readers = network.readers(tensor.name)
        if len(readers) == 1 and readers[0].kind == "QuantizeLinear" and _is(readers[0].outputs[0], io):
            ops.remove(readers[0])
            inputs[place] = readers[0].outputs[0]
            done += 1
    for place, tensor in enumerate(outputs):
        maker = network.maker(tensor.name)
        source = maker.inputs[0] if maker is not None and maker.kind == "DequantizeLinear" else None
        if maker is not None and source is not None and _is(source, io) and not network.readers(tensor.name):
            ops.remove(maker)
            outputs[place] = source
            done += 1
    if not done:
        raise BadOption(f"--io {io}: no input or output is quantized as {io} in this plan. Leave --io out.")
    return _renamed(replace(network, ops=tuple(ops), inputs=tuple(inputs), outputs=tuple(outputs)), network)


def _is(tensor: Tensor, io: str) -> bool:
    return tensor.params is not None and str(tensor.params.scheme.grid) == io


def _renamed(network: Network, before: Network) -> Network:
    """Codes at the ends of a network bear the names that its real inputs and outputs had."""
    names = {
        new.name: old.name
        for new, old in zip((*network.inputs, *network.outputs), (*before.inputs, *before.outputs), strict=True)
    }

    def named(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or tensor.name not in names else replace(tensor, name=names[tensor.name])

    ops = tuple(
        replace(op, inputs=tuple(map(named, op.inputs)), outputs=tuple(t for o in op.outputs if (t := named(o))))
        for op in network.ops
    )
    inputs = tuple(t for o in network.inputs if (t := named(o)))
    outputs = tuple(t for o in network.outputs if (t := named(o)))
    return replace(network, ops=ops, inputs=inputs, outputs=outputs)


def _live(ops: Sequence[Op], outputs: Sequence[Tensor]) -> list[Op]:
    """The operators that outputs depend on: what is dequantized for nobody is left out."""
    wanted = {t.name for t in outputs}
    kept: list[Op] = []
    for op in reversed(ops):
        if any(t.name in wanted for t in op.outputs):
            kept.append(op)
            wanted.update(t.name for t in op.inputs if t is not None)
    return kept[::-1]


def _readers(ops: Sequence[Op]) -> dict[str, list[Op]]:
    found: dict[str, list[Op]] = {}
    for op in ops:
        for tensor in op.inputs:
            if tensor is not None:
                found.setdefault(tensor.name, []).append(op)
    return found


def _input_order(tensor: Tensor, b: Builder) -> Order:
    """Channels last for an input that convolutions and their kin read, be it over element-wise operators."""
    rank = len(tensor.shape or ())
    if rank not in (3, 4):
        return plain(rank)
    waiting, seen = [tensor.name], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for op in b.readers.get(name, ()):
            if op.kind in SPATIAL and op.inputs[0] is not None and op.inputs[0].name == name:
                return channels_last(rank)
            if op.kind in PASSING:
                waiting += [t.name for t in op.outputs]
    return plain(rank)


def _result(b: Builder, tensor: Tensor, layout: str, inputs: Sequence[int]) -> int:
    """The tensor that holds an output, under its name; of three axes and fewer, or if asked for, in ONNX's order."""
    wire = b.wire(tensor)
    b.where = f"output '{tensor.name}'"
    last = channels_last(wire.dims.rank)
    image = wire.dims.rank == 4 and layout == "litert" and wire.order == last
    wire = b.arrange(wire, last if image else plain(wire.dims.rank))
    found = b.tensors[wire.index]
    if found.name != tensor.name:
        for place, other in enumerate(b.tensors):  # the name is the caller's; what bore it inside gets another
            if other.name == tensor.name and place not in inputs:
                b.tensors[place] = replace(other, name=b.name(f"{tensor.name}_inside"))
        shared = wire.index in inputs or any(
            name != tensor.name and name in b.wires and b.wires[name].index == wire.index for name in b.results
        )
        if shared or found.data is not None:
            wire = replace(wire, index=b.reshape(wire.index, found.shape, tensor.name, found.open))
        b.tensors[wire.index] = replace(b.tensors[wire.index], name=tensor.name)
    b.wires[tensor.name] = wire
    return wire.index


def _codes(b: Builder, index: int) -> bool:
    """Whether a tensor is a constant of codes."""
    return b.tensors[index].scale is not None and b.tensors[index].data is not None


def _by_channel(b: Builder, index: int) -> bool:
    """Whether a tensor is a constant of codes with a scale for each channel."""
    scale = b.tensors[index].scale
    return _codes(b, index) and scale is not None and scale.size > 1


def _notes(b: Builder, network: Network, settling: Settling, axes: Mapping[str, int], integer: int) -> list[str]:
    said = [f"{integer} of {counted(len(b.ops), 'operator')} run on integers"]
    hybrid = sum(b.tensors[op.outputs[0]].scale is None and any(_codes(b, i) for i in op.inputs[1:2]) for op in b.ops)
    if hybrid:
        layers = counted(hybrid, "layer")
        said.append(f"{layers} with int8 weights quantize what they read as it comes (hybrid kernels)")
    made_real = [op for op in b.ops if op.code == "DEQUANTIZE" and _by_channel(b, op.inputs[0])]
    if made_real:
        said.append(
            f"not for TensorFlow Lite Micro: it makes the weights of {counted(len(made_real), 'layer')} real by the "
            "scale of their first channel alone. LiteRT takes each channel's own"
        )
    for name, reason in list(settling.floats.items())[:20]:
        said.append(f"'{name}' runs in real numbers: {reason}")
    if b.shifted:
        first = ", ".join(b.shifted[:3])
        said.append(
            f"XNNPACK leaves {counted(len(b.shifted), 'product')} of two activations to LiteRT's own kernels, which "
            f"take ten times as long and more, as the second operand's zero point is not 0: {first}"
        )
    if b.transposes:
        first = ", ".join(dict.fromkeys(b.transposes))
        said.append(f"{counted(len(b.transposes), 'transpose')}: for {first}")
    for what, tensors in (("input", network.inputs), ("output", network.outputs)):
        for tensor in tensors:
            wire = b.wires[tensor.name]
            if wire.order != plain(wire.dims.rank):
                shape = ", ".join("any" if a == wire.dims.open else str(wire.dims.sizes[a]) for a in wire.order)
                said.append(f"{what} '{tensor.name}' has its channels last: ({shape})")
    return said
