"""Promised: a PyTorch module becomes an ONNX model that computes the same, for any batch where the module allows it,
with parameters named as in its state_dict and nodes after its modules.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.graph.model import load
from halfeven.graph.prepare import prepare
from halfeven.run.torch import from_module

pytest.importorskip("onnxscript", reason="PyTorch models need onnxscript")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
pytestmark = pytest.mark.usefixtures("seeded")
Same = Callable[..., None]
Dims = Callable[[Sequence[ir.Value]], dict[str, list[object]]]
FIXED = "the inputs keep the shapes of example_inputs"


class Residual(nn.Module):
    """Convolutions without bias, BatchNormalization that has seen data, a sum, a mean over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, image: Any) -> Any:
        x = torch.relu(self.norm(self.stem(image)))
        return self.head((x + self.block(x)).mean((2, 3)))


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


class Recurrent(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 6, num_layers=2, bidirectional=True, **options)

    def forward(self, x: Any) -> Any:
        y, (hidden, _) = self.rnn(x)
        return y, hidden


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Any) -> Any:
        return self.norm(x + self.attend(x, x, x, need_weights=False)[0])


def trained(module: Any, *shape: int) -> Any:
    """The module with statistics in its BatchNormalization, in evaluation mode."""
    with torch.no_grad():
        for _ in range(3):
            module.train()(torch.randn(8, *shape) * 2 + 1)
    return module.eval()


def parameters(module: Any) -> dict[str, np.ndarray]:
    """What an inference needs of the state_dict."""
    return {k: v.numpy() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}


NETWORKS = {
    "residual": (lambda: trained(Residual(), 3, 8, 8), (3, 8, 8)),
    "depthwise": (lambda: trained(Depthwise(), 3, 9, 9), (3, 9, 9)),
    "recurrent": (lambda: Recurrent(batch_first=True).eval(), (5, 4)),
    "attention": (lambda: Attention().eval(), (5, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_the_same_for_any_batch_and_keeps_its_parameters(
    name: str, assert_same: Same, dims: Dims
) -> None:
    make, shape = NETWORKS[name]
    module = make()
    model, notes = from_module(module, torch.zeros(1, *shape))
    assert notes == []
    assert [v[0] for v in dims(model.graph.inputs).values()] == ["batch"]
    for rows in (1, 2, 5):
        assert_same(module, model, torch.randn(rows, *shape))
    weights = {k: v.const_value.numpy() for k, v in model.graph.initializers.items() if v.const_value is not None}
    expected = parameters(module)
    assert weights.keys() == expected.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(value, expected[key])
    assert_same(module, prepare(load(model))[0], torch.randn(3, *shape))


class Masked(nn.Module):
    """Attention to the places that a mask of integers leaves, as transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, ids: Any, mask: Any) -> Any:
        x = self.table(ids)[:, None]
        seen = nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask[:, None, None, :].bool())
        return self.head(seen[:, 0].mean(1))


def test_a_mask_of_ones_is_open_in_its_batch_as_no_row_is_tried_that_attends_to_nothing(
    assert_same: Same, dims: Dims
) -> None:
    module, ids = Masked().eval(), torch.randint(0, 9, (3, 6))
    model, notes = from_module(module, {"ids": ids, "mask": torch.ones_like(ids)})
    assert notes == []
    assert [v[0] for v in dims(model.graph.inputs).values()] == ["batch", "batch"]
    padded = torch.ones_like(ids)
    padded[1, 4:] = 0
    assert_same(module, model, torch.cat([ids, ids]), torch.cat([padded, padded]))


def test_convolutions_prepare_to_what_hardware_knows() -> None:
    module = trained(Depthwise(), 3, 9, 9)
    prepared, _ = prepare(load(from_module(module, torch.zeros(1, 3, 9, 9))[0]))
    kinds = [node.op_type for node in prepared.graph]
    assert kinds == ["Conv", "Clip"] * 3 + ["GlobalAveragePool", "Reshape", "Gemm"]
    clip = next(node for node in prepared.graph if node.op_type == "Clip")
    assert [float(v.const_value.numpy()) for v in clip.inputs[1:] if v and v.const_value is not None] == [0, 6]


def test_a_mean_over_space_is_global_pooling_and_a_mean_over_channels_is_not(assert_same: Same) -> None:
    class Means(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.mean((-1, -2)), x.mean((2, 3), keepdim=True), x.mean((1, 2)), x.mean(1)

    model, _ = from_module(Means().eval(), torch.randn(1, 3, 3, 3))
    kinds = [node.op_type for node in model.graph]
    assert (kinds.count("GlobalAveragePool"), kinds.count("Flatten"), kinds.count("ReduceMean")) == (2, 1, 2)
    assert_same(Means(), model, torch.randn(4, 3, 3, 3))


def test_nodes_are_called_after_modules() -> None:
    model, _ = from_module(Residual().eval(), torch.zeros(1, 3, 8, 8))
    names = {node.name for node in model.graph}
    assert {"stem/Conv", "norm/BatchNormalization", "block.0/Conv", "block.2/Relu", "Add", "head/Gemm"} <= names
    conv = model.graph.node("block.0/Conv")
    assert conv.outputs[0].name == "block.0/Conv_output_0"
    assert "torch.nn.modules.conv.Conv2d" in conv.metadata_props["pkg.torch.onnx.class_hierarchy"]


def test_the_file_says_nothing_of_the_machine_it_was_made_on() -> None:
    model, _ = from_module(Residual().eval(), torch.zeros(1, 3, 8, 8))
    assert __file__.encode() not in ir.to_proto(model).SerializeToString()


def test_both_branches_of_a_cond_are_exported(assert_same: Same) -> None:
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return torch.cond(x.sum() > 0, lambda v: self.a(v), lambda v: self.b(v) * 2, (x,))

    module = Choice().eval()
    model, _ = from_module(module, torch.ones(1, 3), dynamic_batch=False)
    for sign in (1.0, -1.0):
        assert_same(module, model, torch.full((1, 3), sign))


class Normalizing(nn.Module):
    def forward(self, x: Any) -> Any:
        return (x - x.mean(0)) / (x.std(0) + 1)


class Sized(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if x.shape[0] > 4 else x * 3


class Reshaping(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.reshape(-1).reshape(6, -1)


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (Recurrent(), (1, 1, 4), "influence each other"),
        (Recurrent(), (5, 1, 4), "influence each other"),
        (Normalizing(), (4, 3), "influence each other"),
        (Sized(), (2, 3), "the number of rows as a constant"),
        (Reshaping(), (3, 2), "fails on a batch of another size (RuntimeError: shape '[6, -1]' is invalid"),
    ],
)
def test_where_the_first_axis_is_no_open_batch_the_shape_is_kept_and_said(
    module: Any, shape: tuple[int, ...], reason: str, assert_same: Same, dims: Dims
) -> None:
    x = torch.zeros(shape) if shape[0] == 1 else torch.randn(shape)
    model, notes = from_module(module.eval(), x)
    assert dims(model.graph.inputs) == {"x": list(shape)}
    assert len(notes) == 1
    assert notes[0].startswith(FIXED)
    assert reason in notes[0]
    assert_same(module, model, torch.randn(shape))
