# ruff: noqa: E402
"""Promised: a module may call its parts and parameters whatever it likes, also what a network calls its own."""

from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from halfeven import qat

nn = torch.nn


class Layers(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, nn.ModuleList([nn.Linear(6, 6), nn.BatchNorm1d(6)]))

    def forward(self, x: Any) -> Any:
        for layer in getattr(self, self.name):
            x = layer(x)
        return x.relu()


class Table(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.register_parameter(name, nn.Parameter(torch.randn(6, 6)))

    def forward(self, x: Any) -> Any:
        return (x @ getattr(self, self.name)).relu()


@pytest.mark.parametrize(("kind", "names"), [
    (Layers, ("norms", "quantizers", "fixed", "paths", "notes")), (Table, ("norms", "fixed", "takes", "origin")),
])  # fmt: skip
def test_names_of_a_module_that_a_network_uses_itself(kind: Any, names: Sequence[str]) -> None:
    for name in names:
        check(kind, name)


def check(kind: Any, name: str) -> None:
    torch.manual_seed(0)
    module, x = kind(name).eval(), torch.randn(8, 6)
    network = qat.prepare(module, x)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 1e-2)
    (network.train()(x) - 1).square().mean().backward()
    optimizer.step()
    state, (y, live) = network.eval().state_dict(), (network(x), network.live_norms())
    assert len(live) == (kind is Layers)
    again = qat.prepare(module, x)
    again.load_state_dict(state)
    assert torch.equal(again.eval()(x), y)
    qat.restore(module, network)
    assert not any(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items() if "bias" not in key)
    network.float_only = True
    torch.testing.assert_close(network(x), module(x))
