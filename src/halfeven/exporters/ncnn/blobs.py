"""Tensors of a network as ncnn's blobs: which axes they have, where they are real numbers and where codes.

ncnn has no batch axis. A network that runs one sample at a time loses the axis along which samples are stacked; what
is left is a blob of one to four axes, the outermost first: (c, d, h, w). A `View` says how:

    tensor     (N, 64, 28, 28)      batch 0    blob (64, 28, 28)
    tensor     (3, N, 8, T, 15)     batch 1    blob (3, 8, T, 15)       a Transpose moved the axis
    tensor     (1, 64)              batch 0    blob (64,)
    constant   (64, 1, 1)           no batch   blob (64, 1, 1)

An int8 layer reads int8 blobs; every other layer reads float32. A tensor's codes are made real where a float layer
reads them, once (Cast from int8, BinaryOp with the scale), and its real numbers become codes by a Quantize layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.ncnn.parts import Array, Layer, Param, plain, reciprocals, safe_name
from halfeven.graph.network import Network, Op, Tensor
from halfeven.numerics.quantize import dequantize
from halfeven.numerics.scheme import QParams

MOST_AXES = 4
LARGEST = 3.402823466e38
MULTIPLY = 2  # of BinaryOp
FLOAT32, INT8 = 1, 3  # of Cast
Dims = tuple[int | None, ...]


@dataclass(frozen=True)
class View:
    """The axes of a tensor, None where a length is open, and which of them is the batch."""

    dims: Dims
    batch: int | None = None

    @property
    def blob(self) -> Dims:
        """The axes of the blob; a scalar has one."""
        return tuple(d for i, d in enumerate(self.dims) if i != self.batch) or (1,)

    def axis(self, axis: int) -> int | None:
        """Where an axis of the tensor is in the blob; None for the batch."""
        axis %= max(1, len(self.dims))
        if axis == self.batch:
            return None
        return axis - (self.batch is not None and axis > self.batch)


@dataclass
class Blobs:
    """A conversion in progress: the layers so far, and under which names the tensors are found."""

    network: Network
    layers: list[Layer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    known: dict[str, Array] = field(default_factory=dict)
    """Shapes and indices: arrays of int, None where a number depends on the input."""
    done: set[int] = field(default_factory=set)
    """Operators that were converted with one before them, by `id`."""
    integer: list[str] = field(default_factory=list)
    """Layers that run on codes."""
    _reals: dict[str, str] = field(default_factory=dict)
    _codes: dict[str, str] = field(default_factory=dict)
    _titles: set[str] = field(default_factory=set)
    _names: set[str] = field(default_factory=set)
    _ends: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ends = {t.name: safe_name(t.name, self._names) for t in (*self.network.inputs, *self.network.outputs)}

    # ------------------------------------------------------------------------------------------- layers

    def emit(
        self,
        kind: str,
        name: str,
        inputs: Sequence[str],
        params: Mapping[int, Param] | None = None,
        weights: Sequence[bytes] = (),
        outputs: int = 1,
    ) -> list[str]:
        """Add a layer; the names of its output blobs."""
        title = safe_name(name, self._titles)
        tops = [safe_name(f"{title}_out" if outputs == 1 else f"{title}_out{i}", self._names) for i in range(outputs)]
        self.layers.append(Layer(kind, title, tuple(inputs), tuple(tops), dict(params or {}), tuple(weights)))
        return tops

    def feed(self, tensor: Tensor) -> None:
        """An input of the network, of the same name."""
        dims = tensor.shape
        if dims is None or tensor.dtype.name != "FLOAT" or len(dims) > MOST_AXES + 1:
            raise UnsupportedByTarget(
                f"Input '{tensor.name}' is {tensor.dtype.name} of shape {dims}; ncnn's networks take float32 of a "
                f"known rank of up to {MOST_AXES} axes beside the batch."
            )
        view = View(tuple(d if isinstance(d, int) else None for d in dims), 0 if len(dims) > 1 else None)
        if view.batch == 0 and view.dims[0] not in (1, None):
            raise UnsupportedByTarget(
                f"Input '{tensor.name}' has a fixed first axis of {view.dims[0]}: ncnn has no batch axis. Export the "
                "model with a batch of 1, or an open one."
            )
        name = self._ends[tensor.name]
        extent = _extent(view.blob) if None not in view.blob else {}
        self.layers.append(Layer("Input", safe_name(name, self._titles), (), (name,), extent))
        self.views[tensor.name], self._reals[tensor.name] = view, name

    def name_outputs(self) -> list[str]:
        """Give the blobs of the network's outputs their names; these."""
        renamed: dict[str, str] = {}
        for tensor in self.network.outputs:
            blob, name = self.real(tensor), self._ends[tensor.name]
            blob = renamed.get(blob, blob)
            if blob not in self._ends.values():
                renamed[blob] = name
                self.layers = [_renamed(layer, blob, name) for layer in self.layers]
            elif blob != name:  # it is an input, or another output, too
                self.layers.append(Layer("Noop", safe_name(f"{name}_copy", self._titles), (blob,), (name,)))
        return [self._ends[tensor.name] for tensor in self.network.outputs]

    # ------------------------------------------------------------------------------------------ tensors

    def view(self, tensor: Tensor) -> View:
        """The axes of a tensor that was fed, computed, or is constant."""
        if tensor.constant is not None:
            return View(tuple(int(d) for d in np.shape(tensor.data)))  # type: ignore[arg-type]
        return self.views[tensor.name]

    def lengths(self, tensor: Tensor, op: Op) -> list[int | None] | None:
        """As a Shape gives them: 1 for the batch, None for an open one; None for a tensor that is not written."""
        if tensor.constant is None and tensor.name not in self.views:
            return None
        view = self.view(tensor)
        return [1 if i == view.batch else d for i, d in enumerate(view.dims)]

    def values(self, tensor: Tensor) -> Array:
        """The real numbers of a constant."""
        data = tensor.data
        assert data is not None
        if tensor.params is None:
            return data
        return np.asarray(dequantize(data.astype(np.int64), fitting(tensor.params, data.ndim)), np.float32)

    def real(self, tensor: Tensor) -> str:
        """The blob that holds a tensor's real numbers; codes are made real."""
        if tensor.name not in self._reals:
            if tensor.constant is not None:
                self._reals[tensor.name] = self.memory(self.values(tensor), tensor.name)
            elif tensor.params is not None and tensor.name in self._codes:
                self._reals[tensor.name] = self._made_real(tensor, f"{tensor.name}_real")
            else:
                raise UnsupportedByTarget(f"'{tensor.name}' holds no numbers that ncnn computes.")
        return self._reals[tensor.name]

    def _made_real(self, tensor: Tensor, name: str) -> str:
        assert tensor.params is not None
        step = float(tensor.params.scale.ravel()[0])
        [cast] = self.emit("Cast", f"{name}_cast", [self._codes[tensor.name]], {0: INT8, 1: FLOAT32})
        return self.emit("BinaryOp", name, [cast], {0: MULTIPLY, 1: 1, 2: step})[0]

    def codes(self, tensor: Tensor) -> str:
        """The blob that holds a computed tensor's codes."""
        return self._codes[tensor.name]

    def memory(self, values: Array, name: str) -> str:
        """A blob with constant contents, of the shape given."""
        data = np.asarray(values, np.float32)
        data = data.reshape(data.shape or (1,))
        if data.ndim > MOST_AXES or not data.size:
            raise UnsupportedByTarget(f"Constant '{name}' of shape {data.shape}: ncnn has one to {MOST_AXES} axes.")
        return self.emit("MemoryData", name, [], _extent(data.shape), [plain(data)])[0]

    # ------------------------------------------------------------------------------------------ results

    def give(self, tensor: Tensor, blob: str, view: View, clamp: tuple[float, float] | None = None) -> None:
        """Real numbers that a layer made; codes of them, if the network goes on in codes."""
        if len(view.blob) > MOST_AXES:
            raise UnsupportedByTarget(
                f"'{tensor.name}' has {len(view.blob)} axes beside the batch; ncnn has {MOST_AXES}."
            )
        self.views[tensor.name] = view
        if tensor.params is None:
            self._reals[tensor.name] = blob
            return
        if clamp is not None:
            low, high = clamped(clamp)
            [blob] = self.emit("Clip", f"{tensor.name}_clip", [blob], {0: low, 1: high})
        self.check_codes(tensor)
        scale = plain(reciprocals(tensor.params))
        [self._codes[tensor.name]] = self.emit("Quantize", tensor.name, [blob], {0: 1}, [scale])

    def give_codes(self, tensor: Tensor, blob: str, view: View) -> None:
        """Codes that an int8 layer made."""
        self.views[tensor.name], self._codes[tensor.name] = view, blob

    def check_codes(self, tensor: Tensor) -> None:
        """Refuse codes that ncnn does not have."""
        params = tensor.params
        assert params is not None
        if tensor.dtype.name != "INT8" or params.zero_point.any() or params.scale.size != 1:
            raise UnsupportedByTarget(
                f"'{tensor.name}' holds {params.scheme} codes; ncnn's are int8, symmetric, with one scale. Quantize "
                "with --target ncnn."
            )


def refuse(op: Op, why: str) -> UnsupportedByTarget:
    """The error of an operator that ncnn cannot run."""
    return UnsupportedByTarget(f"{op.kind} '{op.name}' cannot be written for ncnn: {why}.")


def fitting(params: QParams, rank: int) -> QParams:
    """A per-tensor scale in the rank of its tensor."""
    if params.scale.size != 1 or params.scale.ndim == rank:
        return params
    shape = (1,) * rank
    return replace(params, scale=params.scale.reshape(shape), zero_point=params.zero_point.reshape(shape))


def clamped(bounds: tuple[float, float]) -> tuple[float, float]:
    """Bounds as ncnn writes them: the largest float for infinity."""
    return max(bounds[0], -LARGEST), min(bounds[1], LARGEST)


def _extent(dims: Sequence[int | None]) -> dict[int, Param]:
    """Parameters of Input and MemoryData: 0 = w, 1 = h, 11 = d, 2 = c."""
    keys = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(dims)]
    return {key: int(dims[i] or 0) for key, i in sorted((key, i) for i, key in enumerate(keys))}


def _renamed(layer: Layer, old: str, new: str) -> Layer:
    def swap(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in names)

    return replace(layer, inputs=swap(layer.inputs), outputs=swap(layer.outputs))
