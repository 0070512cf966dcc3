# ruff: noqa: E402
"""Promised: modules of every kind are prepared and trained as they are: convolutions of one and three axes, transposed
and grouped ones, embeddings, recurrent layers, functional calls, modules and weights that are shared, several inputs,
and outputs in tuples and dicts, which the network returns as the module did. What cannot be traced is named by its line,
and its modules can be prepared one by one.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.errors import UnsupportedModel
from halfeven.run.ort import OrtExecutor

nn, F = torch.nn, torch.nn.functional


class Signal(nn.Module):
    """A grouped convolution, a transposed one and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv1d(4, 6, 3, 2, 1, groups=2), nn.ConvTranspose1d(6, 5, 4, 2, 1)
        self.gru, self.head = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.gru(torch.relu(self.up(torch.relu(self.down(x)))).transpose(1, 2))[0][:, -1])


class Volume(nn.Module):
    """A convolution of three axes, and functions of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.weight = nn.Conv3d(1, 4, 3, padding=1), nn.Parameter(torch.randn(3, 4) / 2)

    def forward(self, x: Any) -> Any:
        return F.linear(F.gelu(self.conv(x)).mean((2, 3, 4)), self.weight)


class Words(nn.Module):
    """An embedding, attention cut with chunk, and a layer that is called twice and shares its weight with another."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Embedding(11, 8), nn.Linear(8, 24)
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight

    def forward(self, words: Any) -> Any:
        q, k, v = self.qkv(self.embed(words)).chunk(3, -1)
        found = (q @ k.transpose(1, 2) / 3).softmax(-1) @ v
        return self.other(torch.relu(self.one(torch.relu(self.one(found))))).mean(1)


class Several(nn.Module):
    """Two inputs, and outputs in a dict, a list and a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(5, 6)

    def forward(self, a: Any, b: Any) -> Any:
        x, y = torch.relu(self.left(a)), torch.sigmoid(self.right(b))
        return x * y, {"sum": x + y, "both": [x, y], "nothing": None}


class Branching(nn.Module):
    """Stops in the middle where a tensor's value decides."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = self.body(x)
        if x.sum() > 0:
            x = x * 2
        return self.head(x)


def noise(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


KINDS: dict[str, tuple[type, tuple[Any, ...], str]] = {
    "Signal": (Signal, (noise(4, 4, 8),), "litert"),
    "Volume": (Volume, (noise(4, 1, 4, 4, 4),), "onnxruntime"),
    "Words": (Words, (torch.arange(20).reshape(4, 5) % 11,), "integer"),
    "Several": (Several, (noise(6, 4), noise(6, 5)), "litert"),
}


def leaves(nest: Any) -> list[Any]:
    if isinstance(nest, dict | tuple | list):
        return [leaf for part in (nest.values() if isinstance(nest, dict) else nest) for leaf in leaves(part)]
    return [] if nest is None else [nest]


def frame(nest: Any) -> Any:
    """The nest without its tensors."""
    if isinstance(nest, dict):
        return {key: frame(part) for key, part in nest.items()}
    return type(nest)(map(frame, nest)) if isinstance(nest, tuple | list) else nest is None


@pytest.mark.parametrize("name", KINDS)
def test_a_module_trains_and_exports_and_returns_what_it_returned(name: str, tmp_path: Path) -> None:
    kind, inputs, target = KINDS[name]
    torch.manual_seed(0)
    module = kind().eval()
    network = qat.prepare(module, inputs, target=target)
    assert {key for key, _ in module.named_parameters()} == {
        key for key, _ in network.named_parameters() if not key.startswith("quantizers.")
    }
    with torch.no_grad():
        wanted = [0.5 * leaf + 0.1 for leaf in leaves(module(*inputs))]
    optimizer, losses = torch.optim.Adam(network.parameters(), 1e-2), []
    network.train()
    for _ in range(10):
        loss = sum(F.mse_loss(found, goal) for found, goal in zip(leaves(network(*inputs)), wanted, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert [key for key, parameter in network.named_parameters() if parameter.grad is None] == []
    assert frame(network.eval()(*inputs)) == frame(module(*inputs))
    qat.export(network, tmp_path / "m.onnx")
    run = OrtExecutor(tmp_path / "m.onnx", optimize=False)
    there = run(dict(zip(network.program.inputs, (x.numpy() for x in inputs), strict=True)))
    for ours, theirs in zip(leaves(network(*inputs)), there.values(), strict=True):
        gap = np.abs(ours.detach().numpy() - theirs)
        assert np.mean(gap > 1e-5 * np.abs(theirs).max()) < 0.03


def test_a_line_that_cannot_be_traced_is_named_and_the_modules_around_it_are_prepared() -> None:
    torch.manual_seed(0)
    module, x = Branching(), noise(8, 6)
    with pytest.raises(
        UnsupportedModel, match=r"test_module_kinds\.py:\d+, in forward: 'if x.sum\(\) > 0:'.*one by one"
    ):
        qat.prepare(module, x)
    module.body = qat.prepare(module.body, x)
    module.head = qat.prepare(module.head, noise(8, 8))
    optimizer, losses = torch.optim.Adam(module.parameters(), 1e-2), []
    for _ in range(8):
        loss = F.cross_entropy(module(x), torch.arange(8) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert len(module.body.quantizers) > 0
