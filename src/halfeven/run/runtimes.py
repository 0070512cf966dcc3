"""The runtimes that read files other than ONNX, by suffix, and what fits their inputs and outputs to a float model's.

    file      runtime     axes of four           codes at its border
    .tflite   LiteRT      channels last          made of real numbers here, and made real again
    .param    ncnn        as in ONNX             none
    .xml      OpenVINO    as in ONNX             none
    .mnn      MNN         as in ONNX             none
    .pte      ExecuTorch  as in ONNX             none

An executor of one takes the feeds of the float model: names that differ are matched by position, an axis of channels is
moved where only so the shapes agree, whole numbers get the file's width. Modules are imported when a file is opened.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import dequantize, quantize
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule

Array = npt.NDArray[np.generic]


class Executor(Protocol):
    """Runs a network: feeds by name in, outputs by name out; `label` names the sample in errors."""

    def __call__(self, feeds: Batch, label: str = "") -> Batch:
        """Run once."""
        ...


@dataclass(frozen=True)
class Runtime:
    """A runtime: its name, what opens its files (`module:function`), the format that writes them, and files beside.

    `layers`, if there is one, says of an opened file and feeds which layers with weights ran on codes.
    """

    name: str
    home: str
    format: str
    beside: tuple[str, ...] = ()
    layers: str = ""


RUNTIMES: Mapping[str, Runtime] = {
    ".tflite": Runtime("LiteRT", "halfeven.run.litert:open_litert", "tflite"),
    ".param": Runtime("ncnn", "halfeven.run.ncnn:open_ncnn", "ncnn", (".bin",), "halfeven.run.ncnn:int8_layers"),
    ".xml": Runtime(
        "OpenVINO", "halfeven.run.openvino:open_openvino", "openvino-ir", (".bin",), "halfeven.run.openvino:int8_layers"
    ),
    ".mnn": Runtime("MNN", "halfeven.run.mnn:open_mnn", "mnn", layers="halfeven.run.mnn:int8_layers"),
    ".pte": Runtime(
        "ExecuTorch",
        "halfeven.run.executorch:open_executorch",
        "executorch",
        layers="halfeven.run.executorch:int8_layers",
    ),
}


@dataclass(frozen=True)
class Fitted:
    """An opened file that takes and gives what the float model does, under its names."""

    run: Any
    runtime: Runtime
    takes: tuple[str, ...]
    gives: tuple[str, ...]

    def __call__(self, feeds: Batch, label: str = "") -> Batch:
        """Run once.

        Raises:
            BadCalibration: the file has another number of inputs or outputs, or the runtime refuses the feeds.
        """
        found = self.run(self.fed(feeds))
        ports = self._matched(self.run.outputs, self.gives, "outputs")
        return {ours: _real(found[_name(port)], port) for ours, port in ports.items()}

    def integer_layers(self, feeds: Batch) -> tuple[int, int] | None:
        """How many layers with weights ran on codes, and how many there are; None where the runtime does not tell."""
        if not self.runtime.layers:
            return None
        layers = _named(self.runtime.layers)(self.run, self.fed(feeds))
        return sum(bool(layer.integer) for layer in layers), len(layers)

    def fed(self, feeds: Batch) -> Batch:
        """The feeds under the file's names, in its layouts and types."""
        ports = self._matched(self.run.inputs, self.takes, "inputs")
        return {_name(port): _fit(feeds[ours], port) for ours, port in ports.items()}

    def _matched(self, ports: Sequence[Any], ours: tuple[str, ...], what: str) -> dict[str, Any]:
        """The file's ports by the float model's names: the same ones, else one after another."""
        by_name = {_name(port): port for port in ports}
        if set(ours) <= set(by_name):
            return {name: by_name[name] for name in ours}
        if len(ports) != len(ours):
            theirs = ", ".join(by_name)
            raise BadCalibration(f"The file has other {what} than the float model: {theirs}; not {', '.join(ours)}.")
        return dict(zip(ours, ports, strict=True))


def runtime_of(path: Any) -> Runtime | None:
    """The runtime that reads a file, by its suffix; None for ONNX and for what is no path."""
    return RUNTIMES.get(Path(path).suffix.lower()) if isinstance(path, (str, Path)) else None


def open_file(path: str | Path, model: ir.Model) -> Fitted:
    """Open a file with the runtime of its suffix, to be called as the float `model` is.

    Raises:
        BadOption: the suffix is of no runtime, or its package is not installed.
        UnsupportedModel: the runtime cannot load it.
    """
    runtime = runtime_of(path)
    if runtime is None:
        raise BadOption(f"'{path}' is of no runtime that can be run here; these are: {', '.join(RUNTIMES)}.")
    takes = tuple(v.name or "" for v in model.graph.inputs if v.name not in model.graph.initializers)
    return Fitted(_named(runtime.home)(path), runtime, takes, tuple(v.name or "" for v in model.graph.outputs))


def bytes_of(path: str | Path) -> int:
    """The size of a file and of those that belong beside it."""
    runtime, file = runtime_of(path), Path(path)
    parts = [file, *(file.with_suffix(suffix) for suffix in (runtime.beside if runtime is not None else ()))]
    return sum(part.stat().st_size for part in parts if part.is_file())


def alike(reference: Array, other: Array) -> Array:
    """`other` with its channels where `reference` has them, if only so their shapes agree."""
    if reference.ndim == other.ndim > 2 and reference.shape != other.shape:
        moved = np.moveaxis(other, -1, 1)
        return moved if moved.shape == reference.shape else other
    return other


def _named(home: str) -> Callable[..., Any]:
    module, _, function = home.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def _name(port: Any) -> str:
    return port if isinstance(port, str) else str(port.name)


def _params(port: Any) -> QParams | None:
    """Of a port of codes, how they are meant."""
    scale, dtype = getattr(port, "scale", None), getattr(port, "dtype", None)
    if scale is None or dtype is None or np.dtype(dtype).kind not in "iu" or np.asarray(scale).size != 1:
        return None
    grid = IntGrid(np.dtype(dtype).itemsize * 8, signed=np.dtype(dtype).kind == "i")
    zero = np.asarray(port.zero_point).astype(np.int32).reshape(())
    return QParams(Scheme(grid, zero_point=ZeroRule.FREE), np.asarray(scale, np.float32).reshape(()), zero)


def _fit(array: Array, port: Any) -> Array:
    """A feed in the file's layout and type."""
    shape, dtype = getattr(port, "shape", None), getattr(port, "dtype", None)
    if shape is not None and array.ndim == len(shape) > 2 and array.shape[1:] != tuple(shape)[1:]:
        moved = np.moveaxis(array, 1, -1)
        array = np.ascontiguousarray(moved) if moved.shape[1:] == tuple(shape)[1:] else array
    params = _params(port)
    if params is not None and array.dtype.kind == "f":
        return quantize(array.astype(np.float32, copy=False), params)
    if dtype is not None and array.dtype.kind in "iub" and np.dtype(dtype).kind in "iu":
        return array.astype(dtype, copy=False)
    return array


def _real(array: Array, port: Any) -> Array:
    params = _params(port)
    return array if params is None or array.dtype.kind not in "iu" else dequantize(array, params)  # type: ignore[arg-type]
