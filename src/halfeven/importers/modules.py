"""A model as a user gives it: a file or a model that is read, or a module of PyTorch or Keras that is traced."""

from typing import Any

import onnx_ir as ir

from halfeven.errors import BadOption
from halfeven.graph.model import load
from halfeven.importers.models import read_model
from halfeven.run import torch as torch_door


def read_given(model: Any, example_inputs: Any = None) -> tuple[ir.Model, tuple[str, ...]]:
    """The float model, and what reading or tracing it has to say.

    Args:
        model: Path, ModelProto, onnx-ir model, torch.nn.Module or Keras model.
        example_inputs: What a module's forward takes; of anything else not asked.

    Raises:
        BadOption: A module comes without `example_inputs`, or does not take them.
        UnsupportedModel: There is no such file, or it cannot be read, or the module not traced.
    """
    if not torch_door.is_module(model):
        return read_model(model)
    if example_inputs is None:
        raise BadOption("A torch module needs example_inputs: what its forward takes, to trace it.")
    converted, notes = torch_door.from_module(model, example_inputs)
    return load(converted), tuple(notes)
