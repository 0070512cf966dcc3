"""ExecuTorch on CPU: lowers a traced module to its XNNPACK backend, and runs .pte files. The door to its package.

    compiled          module, arrays -> torch.export -> to_edge_transform_and_lower(XnnpackPartitioner) -> .pte bytes
    open_executorch   a .pte file as an executor; shapes are those the file was made for
    int8_layers       its layers with weights, and which of them run on codes (`run.executorch_file`)

A method `halfeven` beside `forward` returns JSON, which names inputs and outputs. A file made for a batch of 1 runs the
samples of its feeds one by one. Source: executorch 1.5.1, exir, runtime/__init__.py.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.draft import Batch
from halfeven.errors import BadCalibration, BadOption, UnsupportedModel
from halfeven.run.executorch_file import METHOD, MISSING, Kernel, content_of, first_line, kernels_of, quiet
from halfeven.run.streams import silent

TOLD = "halfeven"
TYPES = {0: np.uint8, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.int64, 5: np.float16, 6: np.float32, 7: np.float64,
         11: np.bool_}  # fmt: skip
"""By the number that ExecuTorch, like PyTorch, gives an element type."""


@dataclass(frozen=True)
class Port:
    """An input or output of a file."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Program:
    """A method, and what must live as long as it does: the runtime keeps no hold of a program or its bytes."""

    method: Any
    program: Any
    content: bytes


_Loaded: TypeAlias = tuple[_Program, tuple[Port, ...], tuple[Port, ...]]


@dataclass(frozen=True)
class ExecutorchExecutor:
    """Runs a file; call it with feeds by name, get a batch of its outputs."""

    path: Path
    threads: int = 1
    _open: list[_Loaded] = field(default_factory=list, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What it takes, in the file's order."""
        return self._loaded()[1]

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What it gives, in the file's order."""
        return self._loaded()[2]

    def __call__(self, feeds: Batch, label: str = "") -> Batch:
        """The outputs by name.

        Raises:
            BadCalibration: an input is missing, or has another dtype or shape than the file was made for.
        """
        program, inputs, outputs = self._loaded()
        arrays = [_checked(self.path, port, feeds, label) for port in inputs]
        one = all(port.shape[:1] == (1,) for port in (*inputs, *outputs)) and bool(arrays)
        if one and len({len(a) for a in arrays}) == 1 and len(arrays[0]) != 1:
            rows = [self._run(program, outputs, [a[i : i + 1] for a in arrays]) for i in range(len(arrays[0]))]
            return {port.name: np.concatenate([row[port.name] for row in rows]) for port in outputs}
        wrong = [(port, a) for port, a in zip(inputs, arrays, strict=True) if a.shape != port.shape]
        if wrong:
            port, array = wrong[0]
            raise BadCalibration(
                f"{label or 'a sample'}: '{self.path}' was made for '{port.name}' of shape {list(port.shape)}, found "
                f"{list(array.shape)}."
            )
        return self._run(program, outputs, arrays)

    def _run(self, program: _Program, outputs: Sequence[Port], arrays: Sequence[npt.NDArray[Any]]) -> Batch:
        import torch

        try:
            with self._lock:
                found = program.method.execute([torch.from_numpy(np.ascontiguousarray(a)) for a in arrays])
                return {port.name: np.array(x.numpy()) for port, x in zip(outputs, found, strict=True)}
        except RuntimeError as error:
            raise BadCalibration(f"ExecuTorch cannot run '{self.path}': {first_line(error)}") from error

    def _loaded(self) -> _Loaded:
        with self._lock:
            if not self._open:
                self._open.append(_load(content_of(self.path), self.path, self.threads))
        return self._open[0]


def open_executorch(path: str | Path, threads: int = 1) -> ExecutorchExecutor:
    """An executor of a .pte file; `threads` counts for all files of this process.

    Raises:
        BadOption: ExecuTorch is not installed.
        UnsupportedModel: the file is missing, is no .pte file, or ExecuTorch cannot load it.
    """
    _package()
    run = ExecutorchExecutor(Path(path), threads)
    run._loaded()
    return run


def check_program(content: bytes, path: Path) -> None:
    """Load a program as a device would, without running it.

    Raises:
        UnsupportedModel: the runtime refuses it.
    """
    _load(content, path, 1)


def compiled(module: Any, inputs: Sequence[npt.NDArray[Any]], told: dict[str, Any]) -> bytes:
    """The bytes of a .pte file of a torch.nn.Module, traced on arrays of the shapes it is for.

    Raises:
        BadOption: ExecuTorch is not installed.
        UnsupportedModel: PyTorch cannot trace it, or ExecuTorch has no such operator.
    """
    import torch

    try:
        with quiet():
            import torch.ao.quantization.fx._decomposed  # registers the operators on codes
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    except ImportError:
        raise BadOption(MISSING) from None
    examples = tuple(torch.from_numpy(np.array(array)) for array in inputs)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(module.eval(), examples, strict=False)
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
                constant_methods={TOLD: json.dumps(told, sort_keys=True)},
            )
            return bytes(edge.to_executorch().buffer)
    except (BadOption, UnsupportedModel):
        raise
    except Exception as error:
        raise UnsupportedModel(f"ExecuTorch cannot take the network: {first_line(error)}") from error


def int8_layers(run: ExecutorchExecutor, feeds: Batch) -> tuple[Kernel, ...]:
    """The layers with weights, after one run; which kernel ran follows from the types in the file."""
    run(feeds)
    return tuple(kernel for kernel in kernels_of(run.path) if kernel.weighted)


def _package() -> tuple[Any, Any]:
    """ExecuTorch's library, and its runtime."""
    try:
        with quiet():
            import executorch  # noqa: F401  its absence is seen even where a part of it is loaded
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime
    except ImportError:
        raise BadOption(MISSING) from None
    return portable_lib, Runtime.get()


def _load(content: bytes, path: Path, threads: int) -> _Loaded:
    library, runtime = _package()
    if content[4:6] != b"ET":
        raise UnsupportedModel(f"'{path}' is no .pte file: it lacks the mark ET.")
    try:
        with quiet(), silent(2):  # each failure that its C++ code writes there ends in an exception besides
            if library._threadpool_get_thread_count() != threads:
                library._unsafe_reset_threadpool(threads)
            program = runtime.load_program(content)
            method = program.load_method(METHOD)
            teller = program.load_method(TOLD) if TOLD in program.method_names else None
            told = json.loads(teller.execute([])[0]) if teller is not None else {}
            meta = method.metadata
            inputs = [meta.input_tensor_meta(i) for i in range(meta.num_inputs())]
            outputs = [meta.output_tensor_meta(i) for i in range(meta.num_outputs())]
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UnsupportedModel(f"ExecuTorch cannot load '{path}': {first_line(error)}") from error
    kept = _Program(method, program, content)
    return kept, _ports(inputs, told.get("inputs"), "input"), _ports(outputs, told.get("outputs"), "output")


def _ports(metas: Sequence[Any], names: Any, what: str) -> tuple[Port, ...]:
    named = isinstance(names, list) and len(names) == len(metas)
    return tuple(
        Port(str(names[i]) if named else f"{what}_{i}", tuple(meta.sizes()), np.dtype(TYPES.get(meta.dtype(), object)))
        for i, meta in enumerate(metas)
    )


def _checked(path: Path, port: Port, feeds: Batch, label: str) -> npt.NDArray[Any]:
    if port.name not in feeds:
        raise BadCalibration(f"'{path}': input '{port.name}' was not fed; there are {', '.join(sorted(feeds))}.")
    array = np.asarray(feeds[port.name])
    if array.dtype != port.dtype:
        raise BadCalibration(f"{label or 'a sample'}: '{path}' takes '{port.name}' as {port.dtype}, not {array.dtype}.")
    return array
