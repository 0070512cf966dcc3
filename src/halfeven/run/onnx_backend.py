"""The executor as an ONNX backend, as `onnx.backend.base` prescribes: for onnx's own tests, and whoever speaks that.

prepare(model)        lowers the model and gives a `Prepared`, whose `run(inputs)` takes arrays in the order of the
                      model's inputs, or a mapping by name, and gives the outputs in order
run_model, run_node   that in one step
supports_device       "CPU" alone
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.backend.base import Backend, BackendRep

from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named

MACHINE = "onnxruntime@x86-vnni"


class Prepared(BackendRep):
    """A network and its executor."""

    def __init__(self, executor: IntegerExecutor) -> None:
        """Keep the executor."""
        self.executor = executor

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray[Any, Any], ...]:
        """Outputs in order."""
        network = self.executor.network
        fed: Mapping[str, Any]
        if isinstance(inputs, Mapping):
            fed = inputs
        else:
            arrays: Sequence[Any] = inputs if isinstance(inputs, list | tuple) else [inputs]
            fed = dict(zip((t.name for t in network.inputs), arrays, strict=True))
        found = self.executor({name: np.asarray(x) for name, x in fed.items()})
        return tuple(found[t.name] for t in network.outputs)


class HalfevenBackend(Backend):
    """Runs models in integers, by default as ONNX Runtime does on x86 with VNNI."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """The model, ready to run. `machine` names another one."""
        onnx.checker.check_model(model)
        held = ir.from_proto(model)
        name_everything(held)
        return Prepared(IntegerExecutor(lower(held), machine_named(kwargs.get("machine", MACHINE))))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether it is the CPU."""
        return device == "CPU"
