"""LiteRT (TensorFlow Lite): runs a .tflite file with one of the runtime's three sets of kernels. The one door to it.

    kernels      what the runtime is asked for                                 integers
    xnnpack      its default delegate, as on a phone                           float32 multiplier, half to even
    optimized    its own kernels without a delegate                            fixed point, half up twice on x86
    reference    its plain loops                                               fixed point, gemmlowp's double rounding

The three disagree by one code here and there (`halfeven.numerics.requant`), so what is compared names its kernels.
`schema` gives the classes of the file format that the package ships. Source: ai_edge_litert 2.3, interpreter.py.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.draft import Batch
from halfeven.errors import BadCalibration, BadOption, UnsupportedModel

KERNELS: Mapping[str, str] = {
    "xnnpack": "AUTO",
    "optimized": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
MISSING = "LiteRT is not installed: pip install 'halfeven[litert]'."


@dataclass(frozen=True, eq=False)
class Port:
    """An input, output or inner tensor of a file; `scale` is None where it holds no codes. Open axes count as 1."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    scale: npt.NDArray[np.float32] | None = None
    zero_point: npt.NDArray[np.int64] | None = None
    index: int = -1
    """In the file."""


@dataclass(frozen=True, eq=False)
class LitertExecutor:
    """Runs a file; call it with feeds by name, get a batch of its outputs.

    Feeds have the dtype and layout that `inputs` tells; along an axis that the file leaves open they may be longer.
    """

    path: Path
    kernels: str = "xnnpack"
    threads: int = 1
    _open: dict[bool, Any] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What it takes, in the file's order."""
        return tuple(_port(detail) for detail in self._interpreter().get_input_details())

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What it gives, in the file's order."""
        return tuple(_port(detail) for detail in self._interpreter().get_output_details())

    def __call__(self, feeds: Batch) -> Batch:
        """The outputs by name.

        Raises:
            BadCalibration: an input is missing, or has another dtype or a shape that does not fit.
            UnsupportedModel: the runtime fails on it.
        """
        return self._run(feeds, every=False)

    def tensors(self, feeds: Batch) -> Batch:
        """Every tensor of the graph by name, codes as codes: to compare integers layer by layer.

        The delegate hides what lies inside a part that it takes over, so each operator becomes a part of its own.
        """
        return self._run(feeds, every=True)

    def meanings(self) -> dict[str, Port]:
        """Every tensor of the graph by name, with its scale and zero point."""
        return {p.name: p for p in map(_port, self._interpreter(every=True).get_tensor_details())}

    def _run(self, feeds: Batch, *, every: bool) -> Batch:
        with self._lock:
            runner = self._interpreter(every=every)
            details = runner.get_input_details()
            resized = [self._fit(runner, detail, feeds) for detail in details]
            if any(resized):
                _guarded(self.path, runner.allocate_tensors)
            for detail in details:
                runner.set_tensor(detail["index"], feeds[_name(detail)])
            _guarded(self.path, runner.invoke)
            if not every:
                return {_name(d): runner.get_tensor(d["index"]) for d in runner.get_output_details()}
            return _all_tensors(runner)

    def _fit(self, runner: Any, detail: dict[str, Any], feeds: Batch) -> bool:
        """Whether an input had to be given another shape."""
        name = _name(detail)
        if name not in feeds:
            raise BadCalibration(f"'{self.path}': input '{name}' was not fed; there are {', '.join(sorted(feeds))}.")
        array, shape = feeds[name], tuple(int(d) for d in detail["shape"])
        signature = tuple(int(d) for d in detail["shape_signature"]) or shape
        fits = array.ndim == len(shape) and all(s in (-1, d) for s, d in zip(signature, array.shape, strict=True))
        if array.dtype != detail["dtype"] or not fits:
            wanted = f"{np.dtype(detail['dtype'])} {signature}"
            raise BadCalibration(f"'{self.path}': input '{name}' is {wanted}, found {array.dtype} {array.shape}.")
        if array.shape == shape:
            return False
        runner.resize_tensor_input(detail["index"], array.shape)
        return True

    def _interpreter(self, *, every: bool = False) -> Any:
        if every not in self._open:
            self._open[every] = _opened(self.path, self.kernels, self.threads, every=every)
        return self._open[every]


def open_litert(path: str | Path, kernels: str = "xnnpack", threads: int = 1) -> LitertExecutor:
    """Open a .tflite file with a set of kernels.

    Raises:
        BadOption: LiteRT is not installed, or there is no such set.
        UnsupportedModel: the file is missing, is no .tflite file, or has an operator that the runtime lacks.
    """
    if kernels not in KERNELS:
        raise BadOption(f"LiteRT has no kernels '{kernels}'. Choose one of: {', '.join(KERNELS)}.")
    executor = LitertExecutor(Path(path), kernels, threads)
    executor._interpreter()
    return executor


def schema() -> Any:
    """The classes of the file format, generated from its schema, with their object API.

    Raises:
        BadOption: LiteRT is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise BadOption(MISSING) from error
    return schema_py_generated


def prepare(content: bytes, path: Path, kernels: str = "optimized", threads: int = 1, *, every: bool = False) -> Any:
    """The runtime's interpreter of a file's bytes, with memory for its tensors; `path` is named in errors.

    Raises:
        BadOption: LiteRT is not installed.
        UnsupportedModel: the bytes are no .tflite file, or hold what the runtime does not run.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise BadOption(MISSING) from error
    if content[4:8] != b"TFL3":
        raise UnsupportedModel(f"'{path}' is no .tflite file: it lacks the mark TFL3.")

    def open_and_allocate() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what keeping all tensors costs
            runner = Interpreter(
                model_content=content,
                num_threads=threads,
                experimental_op_resolver_type=OpResolverType[KERNELS[kernels]],
                experimental_preserve_all_tensors=every,
                experimental_disable_delegate_node_fusion=every,
            )
        runner.allocate_tensors()
        return runner

    return _guarded(path, open_and_allocate)


def _opened(path: Path, kernels: str, threads: int, *, every: bool) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnsupportedModel(f"'{path}' cannot be read: {error.strerror or error}.") from error
    return prepare(content, path, kernels, threads, every=every)


def _guarded(path: Path, act: Callable[[], Any]) -> Any:
    """What `act` gives; a failure of the runtime as one sentence."""
    try:
        return act()
    except (RuntimeError, ValueError) as error:
        raise UnsupportedModel(f"LiteRT cannot run '{path}': {' '.join(str(error).split())}") from error


def _all_tensors(runner: Any) -> Batch:
    found: Batch = {}
    for detail in runner.get_tensor_details():
        try:
            found[_name(detail)] = runner.get_tensor(detail["index"])
        except ValueError:  # temporaries, and what a delegate keeps to itself, have no data
            continue
    return found


def _name(detail: Mapping[str, Any]) -> str:
    return str(detail["name"])


def _port(detail: Mapping[str, Any]) -> Port:
    params = detail["quantization_parameters"]
    coded = len(params["scales"]) > 0
    return Port(
        _name(detail),
        tuple(int(d) for d in detail["shape"]),
        np.dtype(detail["dtype"]),
        np.asarray(params["scales"], np.float32) if coded else None,
        np.asarray(params["zero_points"], np.int64) if coded else None,
        int(detail["index"]),
    )
