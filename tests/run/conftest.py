"""What the tests of PyTorch modules share; PyTorch itself is imported only when they run."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.run.ort import OrtExecutor
from halfeven.run.torch import TOLERANCE


@pytest.fixture
def seeded() -> None:
    """PyTorch's random numbers begin anew."""
    pytest.importorskip("torch").manual_seed(0)


def _dims(values: Sequence[ir.Value]) -> dict[str, list[object]]:
    return {str(v.name): [d if isinstance(d, int) else d.value for d in v.shape or ()] for v in values}


def _assert_same(module: Any, model: ir.Model, *inputs: Any) -> None:
    """The model, run by ONNX Runtime, gives what the module gives."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected = copy.deepcopy(module).eval()(*inputs)
    parts = expected.values() if isinstance(expected, dict) else [expected] if hasattr(expected, "shape") else expected
    feeds = {str(v.name): t.numpy() for v, t in zip(model.graph.inputs, inputs, strict=True)}
    found = OrtExecutor(model, optimize=False)(feeds)
    for ours, theirs in zip(found.values(), parts, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=TOLERANCE * float(theirs.abs().max()))


@pytest.fixture(scope="session")
def dims() -> Callable[[Sequence[ir.Value]], dict[str, list[object]]]:
    """`dims(values)`: the shape of each by its name, open dimensions by theirs."""
    return _dims


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """`assert_same(module, model, *inputs)`: the model, run by ONNX Runtime, gives what the module gives."""
    return _assert_same
