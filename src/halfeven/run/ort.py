"""Float and QDQ execution through ONNX Runtime; any tensor of the top graph can be watched.

The one door to `onnxruntime`. Watched values become graph outputs of a clone; weights kept in external files stay
there: the session is told their folder; weights in memory are shared with it. So a model of any size is built from a
small description.
"""

import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.errors import BadCalibration, UnsupportedModel
from halfeven.graph import ops
from halfeven.graph.model import load
from halfeven.graph.names import name_everything
from halfeven.run.processor import on_arm
from halfeven.run.signed_pairs import signed_again, unsigned

WIDTHS: dict[str, type[np.floating]] = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}
LARGE = 4096  # bytes; smaller tensors travel with the graph
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"


Opened: TypeAlias = tuple[object, dict[str, np.ndarray]]
"""A session, and the weights that it reads where they are."""


@dataclass(frozen=True)
class OrtExecutor:
    """Runs a model; call it with feeds, get a batch of its outputs and of what is watched.

    `threads` 0 lets the runtime choose. `optimize=False` runs the graph as written, so that every float is rounded
    where the graph says so. `written` receives the runtime's optimised graph; `signed` lets x86 fuse signed activations
    too, as Arm does.
    """

    model: ir.Model | str | Path
    watch: tuple[str, ...] = ()
    threads: int = 0
    optimize: bool = True
    written: Path | None = None
    signed: bool = False
    _turned: list[str] = field(default_factory=list, repr=False, compare=False)
    _open: list[Opened] = field(default_factory=list, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def session(self) -> "object":
        """The runtime's session, made on first use, by whichever thread is first."""
        with self._lock:
            if not self._open:
                self._open.append(_session(self))
        return self._open[0][0]

    @property
    def outputs(self) -> list[str]:
        """Names of what a call returns, in order."""
        return [out.name for out in self.session.get_outputs()]  # type: ignore[attr-defined]

    @property
    def as_computed(self) -> bool:
        """Whether a call returns every output as the runtime gave it."""
        return not self._turned

    @property
    def widths(self) -> dict[str, type[np.floating]]:
        """The types of its real inputs, by name."""
        ports = self.session.get_inputs()  # type: ignore[attr-defined]
        return {port.name: WIDTHS[port.type] for port in ports if port.type in WIDTHS}

    def __call__(self, feeds: Batch, label: str = "") -> Batch:
        """Run once.

        Raises:
            BadCalibration: the runtime refuses the feeds; its reason is given.
        """
        names = self.outputs
        try:
            values = self.session.run(names, feeds)  # type: ignore[attr-defined]
        except Exception as error:
            raise refused(feeds, label, error) from error
        found = dict(zip(names, values, strict=True))
        return found | {name: signed_again(found[name]) for name in self._turned}


def _session(run: OrtExecutor) -> Opened:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = run.threads
    if run.watch:  # much is allocated in each run: neither planned nor kept, it does not add up
        options.enable_mem_pattern = options.enable_cpu_mem_arena = False
    if run.watch or not run.optimize:
        # work is done between runs, or there is one run: threads that spin meanwhile would take a fifth of the time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not run.optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if run.written is not None:
        options.optimized_model_filepath = str(run.written)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
    options.add_session_config_entry("session.qdqisint8allowed", "1" if run.signed or on_arm() else "0")
    try:
        if isinstance(run.model, (str, Path)) and not run.watch:
            return ort.InferenceSession(str(run.model), options, providers=["CPUExecutionProvider"]), {}
        held = run.model if isinstance(run.model, ir.Model) else load(run.model)
        if run.watch and run.optimize:
            held, run._turned[:] = unsigned(held, frozenset(run.watch), run.signed)
        model = with_outputs(held, run.watch)
        if (folder := _external_folder(model)) is not None:
            options.add_session_config_entry(EXTERNAL_FOLDER, str(folder))
        model, weights = without_weights(model, own=model is not run.model)
        shared = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), shared)
        data = ir.to_proto(model).SerializeToString()
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]), weights
    except UnsupportedModel:
        raise
    except Exception as error:
        raise UnsupportedModel(
            f"ONNX Runtime cannot load the model: {_reason(error)} Check that it runs there in float; newer operators "
            "need a newer onnxruntime."
        ) from error


def without_weights(model: ir.Model, own: bool) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """The model (if not `own`, a clone) with the larger of its initializers taken out, and these by name, uncopied.

    In their place stand references to a file that does not exist; tensors in real files stay as they are.
    """
    taken = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and _is_large(value.const_value)
    }
    if not taken:
        return model, {}
    light = model if own else model.clone()
    for name, tensor in taken.items():
        light.graph.initializers[name].const_value = ir.ExternalTensor(
            "memory",
            0,
            tensor.nbytes,
            ir.DataType(tensor.dtype),
            shape=ir.Shape(ops.dims_of(tensor)),
            name=name,
            base_dir="",
        )
    return light, {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in taken.items()}


def _is_large(tensor: ir.TensorProtocol) -> bool:
    plain = tensor.dtype in (ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32)
    return plain and not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes >= LARGE


def _external_folder(model: ir.Model) -> Path | None:
    tensors = (v.const_value for v in model.graph.initializers.values())
    return next((Path(t.base_dir).resolve() for t in tensors if isinstance(t, ir.ExternalTensor)), None)


def with_outputs(model: ir.Model, names: Collection[str]) -> ir.Model:
    """The model, or a clone whose graph also returns the values named and whose nodes have names of their own."""
    nodes = [node.name for node in model.graph.all_nodes()]
    if not names and len(set(nodes)) == len(nodes) and None not in nodes:
        return model
    clone = model.clone()
    name_everything(clone)
    present = {v.name for v in clone.graph.outputs}
    values = {v.name: v for v in (*clone.graph.inputs, *(v for node in clone.graph for v in node.outputs))}
    for name in names:
        if name in present:
            continue
        if name not in values:
            raise UnsupportedModel(f"The model has no value '{name}', so it cannot be watched.")
        clone.graph.outputs.append(values[name])
    return clone


def observe(
    model: ir.Model, feeds: Batch, label: str = "", sized: Collection[str] = ()
) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    """Shapes of all values of the top graph in one run, and the magnitude of `sized` and of those of 1e8 and more.

    Values that the runtime cannot return (sequences, optionals) are left out.
    """
    wanted = [v.name for node in model.graph for v in node.outputs if v.name and _is_tensor(v)]
    found = {**feeds, **OrtExecutor(model, tuple(wanted), optimize=False)(feeds, label)}
    arrays = {k: v for k, v in found.items() if isinstance(v, np.ndarray)}
    shapes = {k: v.shape for k, v in arrays.items()}
    sizes = {k: _size(v) for k, v in arrays.items() if v.dtype.kind == "f"}
    return shapes, {k: size for k, size in sizes.items() if size >= HUGE or k in sized}


HUGE = 1e8


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)


def _size(x: np.ndarray) -> float:
    if x.size == 0:
        return 0.0
    return float(max(abs(float(np.nanmin(x))), abs(float(np.nanmax(x))))) if not np.isnan(x).all() else 0.0


def refused(feeds: Batch, label: str, error: BaseException | None) -> BadCalibration:
    """That the runtime refused feeds, with its reason."""
    shapes = ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in feeds.items())
    return BadCalibration(f"{label or 'a sample'} ({shapes}) cannot be run: {_reason(error)}")


def _reason(error: BaseException | None) -> str:
    """The runtime's words without its file names and codes."""
    text = " ".join(str(error).split()).split("Status Message:")[-1]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text.strip())
    return re.sub(r"/\S+\.(cc|h):\d+ .*?\) (?=[A-Z'\"])", "", text)[:300]


def integer_nodes(model: ir.Model | str | Path) -> tuple[int, int]:
    """How many layers the runtime executes with integer kernels, and how many layers there are, after its optimiser."""
    with tempfile.TemporaryDirectory(prefix="halfeven-") as folder:
        path = Path(folder) / "optimized.onnx"
        OrtExecutor(model, written=path).outputs  # noqa: B018  the optimised graph is written when the session opens
        return integer_nodes_of(path)


def integer_nodes_of(optimized: Path) -> tuple[int, int]:
    """The same, of an optimised graph that a session has written."""
    import onnx

    nodes = onnx.load(optimized, load_external_data=False).graph.node
    integer = sum(node.op_type in INTEGER_LAYERS for node in nodes)
    return integer, integer + sum(node.op_type in FLOAT_LAYERS for node in nodes)


INTEGER_LAYERS = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
FLOAT_LAYERS = frozenset(
    {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "ConvTranspose", "LSTM", "GRU"}
)


def first(samples: Iterable[tuple[str, Batch]]) -> tuple[str, Batch] | None:
    """The first sample, if there is one."""
    return next(iter(samples), None)


def interleaved(
    a: Callable[[Batch], Batch], b: Callable[[Batch], Batch], feeds: Batch, seconds: float, least: int = 5
) -> list[tuple[float, float]]:
    """Milliseconds of a run of `a` and one of `b`, in turn (A B, B A, ...), until `seconds` are over; two warm-ups."""
    for _ in range(2):
        a(feeds)
        b(feeds)
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < least or (time.perf_counter() < end and len(pairs) < 500):
        times = [0.0, 0.0]
        for which in (0, 1) if len(pairs) % 2 == 0 else (1, 0):
            start = time.perf_counter()
            (a, b)[which](feeds)
            times[which] = (time.perf_counter() - start) * 1000
        pairs.append((times[0], times[1]))
    return pairs
