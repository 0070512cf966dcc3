"""Outputs of a session written into the same arrays again and again, one set for each thread.

New arrays for every run are memory taken from the system, filled with zeros by it, and given back: a third of the time
of a small network of which much is watched. So samples of the shapes that a thread's last one had are computed into the
arrays of that one. Where shapes depend on the data the runtime refuses such arrays: then all further samples are run as
any, with the same result.
"""

from dataclasses import dataclass, field
from threading import local
from typing import Any

import numpy as np

from halfeven.draft import Batch
from halfeven.run.ort import OrtExecutor


@dataclass(frozen=True)
class ReusedOutputs:
    """Runs a model as `run` does; what a call returns stands until the same thread's next call."""

    run: OrtExecutor
    _held: local = field(default_factory=local, repr=False, compare=False)

    def __call__(self, feeds: Batch, label: str = "") -> Batch:
        """Run once; raises what `OrtExecutor` does."""
        shapes = {name: (x.shape, x.dtype) for name, x in feeds.items()}
        if (again := getattr(self._held, "shapes", None) == shapes) and self._again(feeds):
            return dict(self._held.values)
        self._held.shapes = None
        values = self.run(feeds, label)
        self._held.refused = again or getattr(self._held, "refused", False)  # it runs, but not into those arrays
        if not self._held.refused and self.run.as_computed and all(_plain(x) for x in values.values()):
            self._held.binding, self._held.values, self._held.shapes = self._bound(values), values, shapes
        return dict(values)

    def _bound(self, values: Batch) -> Any:
        binding = self.run.session.io_binding()  # type: ignore[attr-defined]
        for name, x in values.items():
            binding.bind_output(name, "cpu", 0, x.dtype, x.shape, x.ctypes.data)
        return binding

    def _again(self, feeds: Batch) -> bool:
        """Whether the feeds were computed into the arrays that are held."""
        binding = self._held.binding
        taken = {name: np.ascontiguousarray(x) for name, x in feeds.items()}
        try:
            for name, x in taken.items():
                binding.bind_cpu_input(name, x)
            self.run.session.run_with_iobinding(binding)  # type: ignore[attr-defined]
        except Exception:  # another shape inside, or feeds that an ordinary run refuses with its reason
            return False
        return True


def _plain(x: object) -> bool:
    """Whether an output is an array of numbers, which an array can receive; not a sequence, texts or nothing at all."""
    return isinstance(x, np.ndarray) and x.dtype.kind in "fiub" and x.size > 0
