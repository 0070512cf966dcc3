"""MNN on CPU: runs a .mnn file, tells which of its layers ran on codes, and converts ONNX. The one door to its package.

    session       backend CPU, precision normal (float32 for what is not integer), `threads`
    shapes        a session has one set of shapes; other feeds make it anew
    int8          an operator that ran on codes is called "KIND [ DT_INT8 ]" by `runSessionWithCallBackInfo`

The converter is the compiled module `_tools`, called in a process of its own, as it prints, and may end the process.
Not MNN.tools: importing that installs a package by pip and asks a server for leave to report what was converted.
What MNN prints to standard output while it loads is kept from there. Source: MNN 3.6.1, pymnn/src, pymnn/pip_package.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from halfeven.draft import Batch
from halfeven.errors import BadCalibration, BadOption, UnsupportedModel
from halfeven.run.streams import silent

MISSING = "MNN is not installed: pip install 'halfeven[mnn]'."
WEIGHTED = ("Convolution", "Deconvolution", "MatMul")
CODED = "[ DT_INT8 ]"
CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
CHATTER = ("The device supports", "Start to", "ONNX Model ", "Converted Failed")
"""How lines of the converter begin that say nothing of the reason."""
STANDARD_OUTPUT = 1


@dataclass(frozen=True)
class MnnExecutor:
    """Runs a network; call it with feeds by name, get a batch of its outputs. One call runs at a time."""

    path: Path
    threads: int = 1
    _open: list[Any] = field(default_factory=list, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def inputs(self) -> list[str]:
        """Names of what it takes."""
        net, session = self._session()
        return list(net.getSessionInputAll(session))

    @property
    def outputs(self) -> list[str]:
        """Names of what a call returns."""
        net, session = self._session()
        return list(net.getSessionOutputAll(session))

    def __call__(self, feeds: Batch, label: str = "") -> Batch:
        """Run once.

        Raises:
            BadCalibration: a feed is missing, or MNN refuses them.
        """
        net, session = self._session()
        with self._lock, self._fed(net, session, feeds, label):
            failed = net.runSession(session)
            if failed:
                raise BadCalibration(f"{_told(feeds, label)}: MNN cannot run '{self.path}' (code {failed}).")
            return {name: _taken(tensor) for name, tensor in net.getSessionOutputAll(session).items()}

    def kinds(self, feeds: Batch, label: str = "") -> list[tuple[str, str]]:
        """The name and kind of every operator as it ran.

        Raises:
            BadCalibration: as for a call.
        """
        net, session = self._session()
        found: list[tuple[str, str]] = []

        def ran(_: Any, info: Any) -> bool:
            found.append((info.getName(), info.getType().strip()))
            return True

        with self._lock, self._fed(net, session, feeds, label):
            net.runSessionWithCallBackInfo(session, lambda *_: True, ran)
        return found

    def _session(self) -> tuple[Any, Any]:
        with self._lock:
            if not self._open:
                self._open.append(_load(self))
        return self._open[0]  # type: ignore[no-any-return]

    @contextmanager
    def _fed(self, net: Any, session: Any, feeds: Batch, label: str) -> Iterator[None]:
        """The session with the feeds in it; quiet where their shapes are new, as MNN prints what it finds wrong."""
        ports = net.getSessionInputAll(session)
        missing = [name for name in ports if name not in feeds]
        if missing:
            raise BadCalibration(f"{_told(feeds, label)}: '{self.path}' needs '{missing[0]}' too.")
        given = {name: np.asarray(feeds[name]) for name in ports}
        new = any(tuple(port.getShape()) != given[name].shape for name, port in ports.items())
        with silent(STANDARD_OUTPUT) if new else nullcontext():
            if new:
                for name, port in ports.items():
                    net.resizeTensor(port, given[name].shape)
                net.resizeSession(session)
                ports = net.getSessionInputAll(session)
            for name, port in ports.items():
                port.copyFrom(_tensor(given[name].shape, port.getDataType(), given[name]))
            yield


@dataclass(frozen=True)
class Ran:
    """A layer with weights, its kind, and whether it ran on codes."""

    name: str
    kind: str
    integer: bool


def open_mnn(path: str | Path, *, threads: int = 1) -> MnnExecutor:
    """An executor of a .mnn file.

    Raises:
        BadOption: MNN is not installed, or there is no such file.
        UnsupportedModel: MNN cannot load it.
    """
    run = MnnExecutor(Path(path), threads)
    run.inputs  # noqa: B018  loaded now, so that what is wrong with the file is said here
    return run


def int8_layers(run: MnnExecutor, feeds: Batch) -> tuple[Ran, ...]:
    """The layers with weights, as one run of the feeds showed them."""
    found = (Ran(name, kind.split()[0], CODED in kind) for name, kind in run.kinds(feeds) if kind)
    return tuple(layer for layer in found if layer.kind.startswith(WEIGHTED))


def convert_onnx(source: Path, made: Path, params: Path | None = None) -> None:
    """Let MNN's converter make `made` of an ONNX file, with quantization parameters if they are given; whole paths.

    Raises:
        BadOption: MNN is not installed.
        UnsupportedModel: the converter refuses the file; what it says last is told.
    """
    if find_spec("_tools") is None or find_spec("MNN") is None:
        raise BadOption(MISSING)
    words = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(made), "--bizCode", "halfeven"]
    words += ["--compressionParamsFile", str(params)] if params is not None else []
    command = [sys.executable, "-c", CONVERT, *words]
    done = subprocess.run(  # it leaves a file where it is called from
        command, cwd=made.parent, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode or not made.is_file() or not made.stat().st_size:
        raise UnsupportedModel(f"MNN's converter refuses the network: {_why(done.stdout + done.stderr)}.")


def _why(log: str) -> str:
    """The converter's reason, of what it prints: the operators that it lacks, else its last words."""
    if lacking := dict.fromkeys(re.findall(r"ONNX::(\w+)", log)):
        return f"it has no {', '.join(lacking)}; keep to operators that it has, or export to another format"
    lines = [re.sub(r"^\[[\d:]+\] (@ \d+|:\d+)?:?\s*", "", line).strip() for line in log.splitlines()]
    told = [line for line in lines if line and not line.startswith(CHATTER)]
    return " ".join(told[-2:])[:300].rstrip(".") or "it ended without saying why"


def _load(run: MnnExecutor) -> tuple[Any, Any]:
    with silent(STANDARD_OUTPUT):
        try:
            import MNN
        except ImportError:
            raise BadOption(MISSING) from None
        if not run.path.is_file():
            raise BadOption(f"'{run.path}' is not there.")
        try:
            net = MNN.Interpreter(str(run.path))
        except Exception as error:
            raise UnsupportedModel(f"MNN cannot load '{run.path}': it is no whole .mnn file.") from error
        session = net.createSession({"backend": "CPU", "numThread": run.threads, "precision": "normal"})
    return net, session


def _tensor(shape: tuple[int, ...], kind: Any, array: np.ndarray[Any, Any] | None = None) -> Any:
    """A tensor in memory, of MNN's type `kind`, with the channels where ONNX has them."""
    import MNN

    dtype = np.float32 if kind is MNN.Halide_Type_Float else np.int32
    data = np.zeros(shape, dtype) if array is None else np.ascontiguousarray(array, dtype)
    return MNN.Tensor(shape, kind, data, MNN.Tensor_DimensionType_Caffe)


def _taken(tensor: Any) -> np.ndarray[Any, Any]:
    shape = tuple(tensor.getShape())
    held = _tensor(shape, tensor.getDataType())
    tensor.copyToHostTensor(held)
    return np.array(held.getNumpyData()).reshape(shape)


def _told(feeds: Batch, label: str) -> str:
    shapes = ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in feeds.items())
    return f"{label or 'a sample'} ({shapes})"
