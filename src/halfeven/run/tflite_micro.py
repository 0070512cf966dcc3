"""TensorFlow Lite Micro: runs a .tflite file with the kernels of microcontrollers. The one door to the package.

Its kernels take one fixed shape, so a longer batch is run sample by sample along the first axis. It knows inputs and
outputs by number only.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from halfeven.errors import BadCalibration, BadOption, UnsupportedModel

MISSING = "TensorFlow Lite Micro is not installed: pip install 'halfeven[tflite-micro]'."
PRINTED = "What it printed before says which operator it lacks, or that the arena is too small."
ARENA = 16 << 20
LEAST_ARENA = 1 << 16  # in much less the runtime ends the whole process


@dataclass(frozen=True, eq=False)
class MicroExecutor:
    """Runs a file; call it with the inputs in the file's order, get its outputs in order."""

    path: Path
    arena: int = ARENA
    _open: list[Any] = field(default_factory=list, repr=False)

    def __call__(self, *arrays: np.ndarray, outputs: int = 1) -> tuple[np.ndarray, ...]:
        """The first `outputs` outputs of each sample, stacked along the first axis.

        Raises:
            BadCalibration: an array does not have an input's dtype, or its shape but for the first axis.
            UnsupportedModel: the runtime fails.
        """
        runner = self._interpreter()
        made: list[list[np.ndarray]] = [[] for _ in range(outputs)]
        for row in range(len(arrays[0])):
            for index, array in enumerate(arrays):
                detail = runner.get_input_details(index)
                sample = array[row : row + 1]
                shape = tuple(int(d) for d in detail["shape"])
                if sample.dtype != detail["dtype"] or sample.shape != shape:
                    wanted = f"{np.dtype(detail['dtype'])} {shape}"
                    raise BadCalibration(
                        f"'{self.path}': input {index} is {wanted}, found {array.dtype} {array.shape}."
                    )
                runner.set_input(sample, index)
            _guarded(self.path, runner.invoke)
            for index, rows in enumerate(made):
                rows.append(np.array(runner.get_output(index)))
        return tuple(np.concatenate(rows) for rows in made)

    def _interpreter(self) -> Any:
        if not self._open:
            self._open.append(_opened(self.path, self.arena))
        return self._open[0]


def open_tflite_micro(path: str | Path, arena: int = ARENA) -> MicroExecutor:
    """Open a .tflite file with an arena of so many bytes for its activations.

    Raises:
        BadOption: the package is not installed, or the arena has less than 64 KiB.
        UnsupportedModel: the file cannot be read, the arena is too small, or an operator is missing.
    """
    if arena < LEAST_ARENA:
        raise BadOption(f"An arena of {arena} bytes was asked for; TensorFlow Lite Micro needs {LEAST_ARENA} or more.")
    executor = MicroExecutor(Path(path), arena)
    executor._interpreter()
    return executor


def _opened(path: Path, arena: int) -> Any:
    try:
        from tflite_micro import runtime
    except ImportError as error:
        raise BadOption(MISSING) from error
    if not path.is_file():
        raise UnsupportedModel(f"'{path}' cannot be read: there is no such file.")

    def open_file() -> Any:
        return runtime.Interpreter.from_file(str(path), arena_size=arena)

    return _guarded(path, open_file)


def _guarded(path: Path, act: Any) -> Any:
    """What `act` gives; a failure of the runtime as one sentence."""
    try:
        return act()
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UnsupportedModel(f"TensorFlow Lite Micro cannot run '{path}': {said}. {PRINTED}") from error
