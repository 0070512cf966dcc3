"""Promised: a PyTorch module stays as it was: its mode, its buffers, its weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from halfeven.run.torch import from_module

pytest.importorskip("onnxscript", reason="PyTorch models need onnxscript")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
pytestmark = pytest.mark.usefixtures("seeded")
Same = Callable[..., None]
TRAINING = "the module was in training mode"


class Depthwise(nn.Module):
    """As MobileNet: expand, depthwise, project, each limited to 6."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[Any] = []
        for cin, cout, groups, size in ((3, 8, 1, 3), (8, 8, 8, 3), (8, 12, 1, 1)):
            layers += [nn.Conv2d(cin, cout, size, groups=groups, bias=False), nn.BatchNorm2d(cout), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(12, 4))

    def forward(self, x: Any) -> Any:
        return self.head(self.features(x))


class Keeping(nn.Module):
    """Writes to a buffer and to an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.count += 1
        self.last = x * self.count
        return self.last + 1


def trained(module: Any, *shape: int) -> Any:
    """The module with statistics in its BatchNormalization, in evaluation mode."""
    with torch.no_grad():
        for _ in range(3):
            module.train()(torch.randn(8, *shape) * 2 + 1)
    return module.eval()


def test_a_module_in_training_mode_is_exported_in_evaluation_mode_and_set_back(assert_same: Same) -> None:
    module = trained(Depthwise(), 3, 9, 9).train()
    module.features[1].eval()
    flags = [part.training for part in module.modules()]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    model, notes = from_module(module, torch.randn(2, 3, 9, 9))
    assert [part.training for part in module.modules()] == flags
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert [note for note in notes if note.startswith(TRAINING)] == notes != []
    assert_same(module, model, torch.randn(3, 3, 9, 9))


def test_what_forward_writes_is_undone_and_said(assert_same: Same) -> None:
    module = Keeping().eval()
    model, notes = from_module(module, torch.randn(1, 3))
    assert module.count == 0
    assert not hasattr(module, "last")
    assert notes == ["forward writes to ['count']; the model starts from their present values in each run"]
    assert_same(module, model, torch.randn(2, 3))


def test_training_on_does_not_change_the_model() -> None:
    module = nn.Linear(3, 3).eval()
    model, _ = from_module(module, torch.ones(1, 3))
    with torch.no_grad():
        module.weight.zero_()
    tensor = model.graph.initializers["weight"].const_value
    assert tensor is not None
    assert np.any(tensor.numpy())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # by the import of torch.compile
@pytest.mark.parametrize("wrap", ["torch.compile", "DataParallel"])
def test_a_wrapped_module_is_exported_as_the_one_inside(wrap: str) -> None:
    inner = nn.Linear(3, 3).eval()
    outer = torch.compile(inner) if wrap == "torch.compile" else nn.DataParallel(inner)
    model, _ = from_module(outer.eval(), torch.ones(1, 3))
    assert set(model.graph.initializers) == {"weight", "bias"}
    assert [v.name for v in model.graph.inputs] == ["input"]
