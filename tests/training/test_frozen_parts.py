# ruff: noqa: E402
"""Promised: what a module keeps out of training stays as it is: parameters without gradients, buffers, constants of
forward; what it trains is trained, also behind a wrapper. Weights that a mask of PyTorch's pruning holds at zero are
zero in the file.
"""

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from torch.nn.utils import prune

from halfeven import qat

nn = torch.nn


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.still, self.again = nn.Linear(4, 4), nn.Linear(4, 3)
        self.still.requires_grad_(False)
        self.register_buffer("table", torch.linspace(0.5, 2, 4))

    def forward(self, x: Any) -> Any:
        return self.again(torch.relu(self.still(x)) * self.table + torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_what_the_module_does_not_train_stays_and_is_counted() -> None:
    torch.manual_seed(0)
    module, x = Parts(), torch.randn(16, 4)
    network = qat.prepare(nn.DataParallel(module), x)
    assert any("3 tensors of the module not trained, as in the module" in note for note in network.notes)
    trained = {name for name, p in network.named_parameters() if p.requires_grad and "quantizers" not in name}
    assert trained == {"again.weight", "again.bias"}
    before = {name: tensor.clone() for name, tensor in network.weights().items()}
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    network.train()(x).square().mean().backward()
    optimizer.step()
    moved = {name for name, tensor in network.weights().items() if not torch.equal(tensor, before[name])}
    assert moved == {"again.weight", "again.bias"}


def test_pruned_weights_are_zero_in_the_file_after_training(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(32, 8)
    masks = [prune.l1_unstructured(module[i], "weight", 0.5).weight_mask for i in (0, 2)]
    network = qat.prepare(module, x)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        network.train()(x).square().mean().backward()
        optimizer.step()
    assert not torch.equal(dict(network.named_parameters())["0.weight_orig"], before["0.weight_orig"])
    qat.export(network.eval(), tmp_path / "pruned.onnx")
    held = [v.const_value for v in ir.load(tmp_path / "pruned.onnx").graph.initializers.values()]
    codes = [t.numpy() for t in held if t is not None and t.dtype == ir.DataType.INT8 and len(t.shape) == 2]
    assert len(codes) == 2
    for mask in masks:
        zeros = mask.numpy() == 0
        assert any(not array[at].any() for array in codes for at in (zeros, zeros.T) if array.shape == at.shape)
