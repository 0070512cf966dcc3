"""OpenVINO on CPU: runs ONNX and IR files, tells which of their layers run in integers. The one door to its package.

What is not integer is float32 (`INFERENCE_PRECISION_HINT`), and weights alone make no layer quantize its data by
itself (`DYNAMIC_QUANTIZATION_GROUP_SIZE=0`). The compiled network's own graph says for each layer what it is
(`layerType`), in which type it computes (`runtimePrecision`) and by which kernel (`primitiveType`). On processors
without VNNI, its products of uint8 and int8 are summed with saturation (ONEDNN_MAX_CPU_ISA shows it elsewhere).
Source: OpenVINO 2026.4, CompiledModel.get_runtime_model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from halfeven.draft import Batch
from halfeven.errors import BadCalibration, BadOption, UnsupportedModel

MISSING = "OpenVINO is not installed: pip install 'halfeven[openvino]'."
INTEGER = frozenset({"I8", "U8", "i8", "u8", "int8_t", "uint8_t"})
LAYERS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "GroupConvolution"})
UNCOUNTED = frozenset({"Input", "Output", "Reorder", "Result", "Parameter"})


@dataclass(frozen=True)
class OpenvinoExecutor:
    """Runs a file; call it with feeds by name, get a batch of its outputs. `threads` 0 lets the runtime choose.

    `watch`: names of inner tensors that are made outputs too. Of the codes of layers that changes nothing but an output
    more, except where a sum would become part of the layer: `halfeven.run.integer.openvino.hidden` names those.
    """

    path: Path
    threads: int = 0
    watch: tuple[str, ...] = ()
    _open: list[Any] = field(default_factory=list, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def compiled(self) -> Any:
        """The runtime's compiled model, made on first use."""
        with self._lock:
            if not self._open:
                self._open.append(_compile(self))
        return self._open[0]

    @property
    def inputs(self) -> list[str]:
        """Names of what it takes."""
        return [port.get_any_name() for port in self.compiled.inputs]

    @property
    def outputs(self) -> list[str]:
        """Names of what a call returns, in order."""
        taken, found = set(self.inputs), []
        for port in self.compiled.outputs:
            names = sorted(port.get_names())  # of a value that is an output twice, or an input too, there are several
            found.append(next((name for name in names if name not in taken), names[0]))
            taken.add(found[-1])
        return found

    def __call__(self, feeds: Batch, label: str = "") -> Batch:
        """Run once.

        Raises:
            BadCalibration: the runtime refuses the feeds.
        """
        try:
            found = self.compiled(dict(feeds))
        except Exception as error:
            shapes = ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in feeds.items())
            raise BadCalibration(f"{label or 'a sample'} ({shapes}) cannot be run: {_reason(error)}") from error
        return {name: np.array(found[i]) for i, name in enumerate(self.outputs)}


@dataclass(frozen=True)
class Executed:
    """A layer of the compiled network: the nodes it was made of, its kind, its type of numbers and its kernel."""

    name: str
    kind: str
    precision: str
    kernel: str
    nodes: tuple[str, ...] = ()

    @property
    def integer(self) -> bool:
        """Whether it computes on codes."""
        return self.precision in INTEGER

    @property
    def weighted(self) -> bool:
        """Whether it multiplies by constant weights."""
        return self.kind in LAYERS


def open_openvino(path: str | Path, *, threads: int = 0, watch: Sequence[str] = ()) -> OpenvinoExecutor:
    """An executor of an .onnx or .xml file.

    Raises:
        BadOption: OpenVINO is not installed, there is no such file, or nothing of a name to watch in it.
        UnsupportedModel: OpenVINO cannot load it.
    """
    run = OpenvinoExecutor(Path(path), threads, tuple(watch))
    run.compiled  # noqa: B018  compiled now, so that what is wrong with the file is said here
    return run


def integer_share(run: OpenvinoExecutor) -> tuple[Executed, ...]:
    """What the compiled network executes, but for constants, inputs and changes of layout."""
    found: list[Executed] = []
    constant: set[str] = set()
    for layer in run.compiled.get_runtime_model().get_ordered_ops():
        info = {key: str(layer.rt_info[key].astype(str)) for key in _KEYS if key in layer.rt_info}
        sources = {port.get_node().get_friendly_name() for port in layer.input_values()}
        if info.get("layerType", "") == "Const" or (sources and sources <= constant):
            constant.add(layer.get_friendly_name())
            continue
        if info.get("layerType", "") in UNCOUNTED:
            continue
        nodes = tuple(name for name in info.get("originalLayersNames", "").split(",") if name)
        kind, precision = info.get("layerType", ""), info.get("runtimePrecision", "")
        found.append(Executed(layer.get_friendly_name(), kind, precision, info.get("primitiveType", ""), nodes))
    return tuple(found)


def int8_layers(run: OpenvinoExecutor, feeds: Batch) -> tuple[Executed, ...]:
    """The layers with weights, after one run: of open shapes the kernels are chosen then."""
    run(feeds)
    return tuple(layer for layer in integer_share(run) if layer.weighted)


_KEYS = ("layerType", "runtimePrecision", "primitiveType", "originalLayersNames")


def _compile(run: OpenvinoExecutor) -> Any:
    try:
        import openvino
    except ImportError:
        raise BadOption(MISSING) from None
    if not run.path.is_file():
        raise BadOption(f"'{run.path}' is not there.")
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    if run.threads:
        options["INFERENCE_NUM_THREADS"] = run.threads
    try:
        core = openvino.Core()
        model = core.read_model(str(run.path))
        if run.watch:
            model.add_outputs(_ports(model, run))
        return core.compile_model(model, "CPU", options)
    except BadOption:
        raise
    except Exception as error:
        raise UnsupportedModel(f"OpenVINO cannot load '{run.path}': {_reason(error)}") from error


def _ports(model: Any, run: OpenvinoExecutor) -> list[Any]:
    """Where the watched tensors are computed."""
    ports = {name: port for layer in model.get_ordered_ops() for port in layer.outputs() for name in port.get_names()}
    missing = [name for name in run.watch if name not in ports]
    if missing:
        raise BadOption(f"'{run.path}' has no tensor '{missing[0]}' in OpenVINO, so it cannot be watched.")
    return [ports[name] for name in run.watch]


def _reason(error: Exception) -> str:
    """The runtime's words without its file names."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "[ "))]
    return " ".join(kept or lines)[:300]
