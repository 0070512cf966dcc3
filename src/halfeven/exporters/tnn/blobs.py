"""A network on its way into TNN's layers: which blob holds which tensor, and where its numbers are codes.

TNN's blobs have the axes of ONNX's tensors, the batch among them. A blob is int8 where a layer whose type begins with
`Quantized` reads or makes it; it then has a scale of its own in the .tnnmodel file. Where float layers stand next to
such a layer, TNN inserts a Reformat by itself that makes the codes real or the numbers codes, so one blob stands for a
tensor's numbers and for its codes, and what quantizes alone is no layer. A copy (Clip without bounds) stands where one
blob cannot be both:

    numbers that become codes of two scales, or are read as they are too         before the codes
    a Requantize                                                                 between its two scales
    an output of the network that int8 layers read too, or that is an input      before the output
    an input of the network that int8 and float layers read                      behind the input

After that `settled` puts copies where TNN's optimizer would take a float layer for an int8 one, or lose a blob:

    Upsample that touches an int8 blob           TNN makes it int8, with its own arithmetic
    Add or Concat, all of whose blobs are int8   the same
    several outputs of a layer made codes        the Reformat of an older TNN takes one name for all of them

Where a float layer reads numbers that it makes codes for an int8 layer, TNN's float layers read the numbers as they
were before: less rounded than the plan says, never more. A note counts these tensors.
Sources: TNN optimizer/net_optimizer_convert_int8_layers.cc, net_optimizer_insert_int8_reformat.cc,
net_optimizer_fuse_conv_add.cc; core/default_network.cc.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.tnn.parts import LARGEST, Array, Made, Param, line_of, safe_name, word
from halfeven.graph.network import Network, Op, Tensor
from halfeven.numerics.quantize import dequantize
from halfeven.run.tnn_file import LONGEST_LINE, QUANTIZED, Layer

MOST_AXES = 5
SMALLEST = float(np.finfo(np.float32).tiny)
SUFFIX = "_quantized"  # of the codes of a value, see exporters.onnx
ONE_WAY, TWO_WAY = ("Upsample",), ("Add", "Concat")
Length: TypeAlias = int | str
Dims: TypeAlias = tuple[Length, ...]


@dataclass
class Blobs:
    """A conversion in progress: the layers so far, and the blobs in which the tensors are found."""

    network: Network
    made: list[Made] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
    """Of each blob whose numbers have codes, the scale."""
    known: dict[str, Array] = field(default_factory=dict)
    """Shapes and indices that need no layer: whole numbers, names of open lengths, None."""
    done: set[int] = field(default_factory=set)
    """Operators that were converted with one before them, by `id`."""
    blobs: dict[str, str] = field(default_factory=dict)
    feeds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _dims: dict[str, Dims] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _titles: set[str] = field(default_factory=set)
    _ends: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in dict.fromkeys(t.name for t in (*self.network.inputs, *self.network.outputs)):
            self._ends[name] = safe_name(name, self._names)
            if self._ends[name] != name:
                self.notes.append(f"{name!r} is called '{self._ends[name]}' in TNN, whose names are single words.")

    # ------------------------------------------------------------------------------------------- layers

    def emit(
        self,
        kind: str,
        name: str,
        inputs: Sequence[str],
        params: Sequence[Param] = (),
        weights: Callable[[str], bytes] | None = None,
        outputs: Sequence[str] = (),
    ) -> list[str]:
        """Add a layer; the names of its output blobs, near `outputs`, or `name`. `weights`: of the layer's name."""
        title = safe_name(name, self._titles)
        tops = tuple(safe_name(out.removesuffix(SUFFIX), self._names) for out in outputs or (name,))
        layer = Layer(kind, title, tuple(inputs), tops, tuple(map(word, params)))
        self.made.append(Made(layer, None if weights is None else weights(title)))
        return list(tops)

    def layer(
        self,
        op: Op,
        kind: str,
        inputs: Sequence[str],
        params: Sequence[Param] = (),
        weights: Callable[[str], bytes] | None = None,
    ) -> None:
        """Add the float layer that an operator becomes, and what follows from its output's codes and clamp."""
        y = op.outputs[0]
        names = (y.name,) if op.clamp is None else ()
        self.give(y, self.emit(kind, op.name, inputs, params, weights, names)[0], op.clamp)

    def copy(self, blob: str, name: str) -> str:
        """A blob with the same real numbers."""
        return self.emit("Clip", f"{name}_copy", [blob], (-LARGEST, LARGEST), outputs=(name,))[0]

    # ------------------------------------------------------------------------------------------ tensors

    def feed(self, tensor: Tensor) -> None:
        """An input of the network, of the same name."""
        dims = tensor.shape
        if dims is None or tensor.dtype.name != "FLOAT" or not 0 < len(dims) <= MOST_AXES:
            raise UnsupportedByTarget(
                f"Input '{tensor.name}' is {tensor.dtype.name} of shape {dims}; TNN's networks take float32 of a known "
                f"rank of 1 to {MOST_AXES} axes."
            )
        name = self._ends[tensor.name]
        open_axes = [i for i, d in enumerate(dims) if not isinstance(d, int) and i]
        if open_axes:
            self.notes.append(
                f"'{tensor.name}' has open lengths, which are 0 in the file: give TNN its shape when a network is made."
            )
        self.feeds[name] = tuple(d if isinstance(d, int) else int(not i) for i, d in enumerate(dims))
        self.blobs[tensor.name] = name

    def dims(self, tensor: Tensor, op: Op | None = None) -> Dims:
        """The lengths of a tensor's axes; what is open has a name.

        Raises:
            UnsupportedByTarget: not even their number is known; `op` is named as their reader.
        """
        if tensor.name not in self._dims:
            shape = tensor.shape if tensor.constant is None else tuple(int(d) for d in np.shape(tensor.data))  # type: ignore[arg-type]
            if shape is None:
                raise refuse(op, f"how many axes '{tensor.name}' has is not known")
            named = (d if d is not None and d != "?" else f"{tensor.name} {i}" for i, d in enumerate(shape))
            self._dims[tensor.name] = tuple(named)
        return self._dims[tensor.name]

    def lengths(self, tensor: Tensor, op: Op) -> Dims | None:
        """As a Shape gives them, an open one by its name; None for a tensor that is not written."""
        return None if tensor.constant is None and tensor.name not in self.blobs else self.dims(tensor, op)

    def values(self, tensor: Tensor) -> Array:
        """The real numbers of a constant."""
        data, params = tensor.data, tensor.params
        assert data is not None
        if params is None:
            return data
        if params.scale.size == 1:
            shape = (1,) * data.ndim
            params = replace(params, scale=params.scale.reshape(shape), zero_point=params.zero_point.reshape(shape))
        return np.asarray(dequantize(data.astype(np.int64), params), np.float32)

    def blob(self, tensor: Tensor | None, op: Op) -> str:
        """The blob of a computed tensor."""
        if tensor is None or tensor.name not in self.blobs:
            what = "an operand is left out" if tensor is None else f"'{tensor.name}' is no tensor that TNN computes"
            raise refuse(op, what)
        return self.blobs[tensor.name]

    def give(self, tensor: Tensor, blob: str, clamp: tuple[float, float] | None = None) -> None:
        """What a float layer made, the scale of its codes with it if the network goes on in codes."""
        if clamp is not None:
            low, high = (float(np.clip(bound, -LARGEST, LARGEST)) for bound in clamp)
            [blob] = self.emit("Clip", f"{tensor.name}_clip", [blob], (low, high), outputs=(tensor.name,))
        if tensor.coded:
            scale = self.scale(tensor)
            blob = self.copy(blob, tensor.name) if self.scales.get(blob, scale) != scale else blob
            self.scales[blob] = scale
        self.blobs[tensor.name] = blob

    def give_codes(self, tensor: Tensor, blob: str) -> None:
        """What an int8 layer made."""
        self.scales[blob] = self.scale(tensor)
        self.blobs[tensor.name] = blob

    def scale(self, tensor: Tensor) -> float:
        """The scale of a tensor's codes.

        Raises:
            UnsupportedByTarget: they are none of TNN's.
        """
        params = tensor.params
        assert params is not None
        if tensor.dtype.name != "INT8" or params.zero_point.any() or params.scale.size != 1:
            raise UnsupportedByTarget(
                f"'{tensor.name}' holds {params.scheme} codes; TNN's are int8, symmetric, with one scale. Quantize "
                "with --target tnn."
            )
        found = float(params.scale.ravel()[0])
        if found < SMALLEST:
            raise UnsupportedByTarget(f"'{tensor.name}' has a scale of {found:.3g}, which TNN takes as zero.")
        return found

    # ------------------------------------------------------------------------------------------ outputs

    def quantize(self, op: Op) -> None:
        """QuantizeLinear and Requantize: the blob that is there, or a copy where it cannot be both."""
        x, y = op.inputs[0], op.outputs[0]
        assert x is not None
        blob = self.blob(x, op)
        ends = any(t.name == x.name for t in self.network.outputs)
        alone = len(self.network.readers(x.name)) == 1 and not ends and blob not in self.scales
        self.give(y, blob if alone else self.copy(blob, y.name))

    def finish(self) -> tuple[list[Made], list[str]]:
        """The layers, with the outputs under their names and copies where TNN needs them, and these names."""
        for tensor in self.network.outputs:
            if tensor.name not in self.blobs:
                raise refuse(None, f"its output '{tensor.name}' is no tensor that TNN computes")
            blob, name = self.blobs[tensor.name], self._ends[tensor.name]
            read = any(blob in one.layer.inputs for one in self.made)
            if blob != name and blob not in self._ends.values() and not (read and blob in self.scales):
                self.made = [_renamed(one, {blob: name}) for one in self.made]
                self.blobs = {key: name if value == blob else value for key, value in self.blobs.items()}
                if blob in self.scales:
                    self.scales[name] = self.scales.pop(blob)
            elif blob != name:
                self.made.append(self._plain(blob, name))
        self._free_inputs()
        made = self._settled()
        for one in made:
            if len(line_of(one.layer).encode()) > LONGEST_LINE - 2:
                raise UnsupportedByTarget(
                    f"{one.layer.kind} '{one.layer.name}': TNN reads {LONGEST_LINE} bytes a line."
                )
        return made, [self._ends[tensor.name] for tensor in self.network.outputs]

    def int8_blobs(self) -> set[str]:
        """The blobs that are int8 in TNN."""
        touched = (one.layer for one in self.made if one.layer.quantized)
        return {blob for layer in touched for blob in (*layer.inputs, *layer.outputs)}

    def _free_inputs(self) -> None:
        """Copy an input that int8 and float layers read: in an older TNN a Reformat stands behind layers alone."""
        for name in sorted(set(self.feeds) & self.int8_blobs()):
            if all(one.layer.quantized for one in self.made if name in one.layer.inputs):
                continue
            blob = safe_name(f"{name}_copy", self._names)
            read = [_renamed(one, {name: blob}) for one in self.made]
            self.made = [self._plain(name, blob), *read]
            self.scales[blob] = self.scales.pop(name)

    def _settled(self) -> list[Made]:
        codes = self.int8_blobs()
        found: list[Made] = []
        for one in self.made:
            layer = one.layer
            before, after = [b for b in layer.inputs if b in codes], [b for b in layer.outputs if b in codes]
            if layer.quantized or not _mistaken(layer, before, after):
                found.append(one)
                continue
            reads = before if layer.kind in ONE_WAY else []
            swaps = {blob: safe_name(f"{blob}_real", self._names) for blob in (*reads, *after)}
            found += [self._plain(blob, swaps[blob]) for blob in dict.fromkeys(reads)]
            found.append(_renamed(one, swaps))
            found += [self._plain(swaps[blob], blob) for blob in after]
        return found

    def _plain(self, blob: str, name: str) -> Made:
        title = safe_name(f"{name}_copy", self._titles)
        return Made(Layer("Clip", title, (blob,), (name,), (word(-LARGEST), word(LARGEST))))


def _mistaken(layer: Layer, before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether TNN would take a float layer for an int8 one, or name several outputs alike."""
    if layer.kind in ONE_WAY:
        return bool(before or after)
    if layer.kind in TWO_WAY:
        return len(before) == len(layer.inputs) and len(after) == len(layer.outputs)
    return len(layer.outputs) > 1 and bool(after)


def _renamed(one: Made, names: dict[str, str]) -> Made:
    inputs, outputs = (tuple(names.get(b, b) for b in blobs) for blobs in (one.layer.inputs, one.layer.outputs))
    return replace(one, layer=replace(one.layer, inputs=inputs, outputs=outputs))


def refuse(op: Op | None, why: str) -> UnsupportedByTarget:
    """The error of an operator that TNN cannot run."""
    where = "The network" if op is None else f"{op.kind} '{op.name}'"
    return UnsupportedByTarget(f"{where} cannot be written for TNN: {why}.")


def quantized(kind: str) -> str:
    """The type of a layer with int8 codes."""
    return QUANTIZED + kind
