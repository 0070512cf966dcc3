# ruff: noqa: E402
"""Promised: ranges of activations are moving averages of what passes (c = 0.01), and evaluation runs on uint8 codes: what
each operator reads is one of 256 values, the code that the exported file and the simulator have. A scale that a target's
kernel gives its output stays as it is.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.numerics.quantize import quantize
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named

nn, F = torch.nn, torch.nn.functional


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = torch.tanh(self.one(x))
        return self.head(x + torch.sigmoid(self.two(x)))


def noise(rows: int, seed: int) -> Any:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


def train(network: Any, steps: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    network.train()
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(noise(12, step)), torch.arange(12) % 3).backward()
        optimizer.step()
    network.eval()


def activations(network: Any) -> dict[str, Any]:
    layers = network.quantizers.items()
    return {n: q for n, q in layers if q.scheme.grid.bits == 8 and not q.scheme.grid.signed}


def watched(layers: dict[str, Any], note: Callable[[str, Any, Any], None]) -> list[Any]:
    return [layer.register_forward_hook(lambda _, x, y, n=n: note(n, x[0], y)) for n, layer in layers.items()]


def test_ranges_are_moving_averages_and_evaluation_runs_on_uint8_codes() -> None:
    torch.manual_seed(0)
    network = qat.prepare(Steps(), noise(16, 99), scales="moving")
    layers = activations(network)
    assert len(layers) >= 3
    wanted = {n: [layer.low.item(), layer.high.item()] for n, layer in layers.items()}

    def follow(name: str, x: Any, _: Any) -> None:
        for end, new in enumerate((x.min().item(), x.max().item())):
            wanted[name][end] = 0.99 * wanted[name][end] + 0.01 * new

    hooks = watched(layers, follow)
    train(network, 5)
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        np.testing.assert_allclose([layer.low.item(), layer.high.item()], wanted[name], rtol=1e-5, atol=1e-6)

    seen: dict[str, tuple[Any, Any]] = {}
    state = {key: value.clone() for key, value in network.state_dict().items()}
    hooks = watched(layers, lambda name, x, y: seen.update({name: (x, y)}))
    x = 10 * noise(16, 7)  # far outside of the ranges
    output = network(x)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    for name, layer in layers.items():
        given, made = seen[name]
        codes = quantize(given.detach().numpy(), layer.to_params())
        assert codes.dtype == np.uint8
        scale, zero = layer.scale_and_zero_point()
        assert torch.equal(made, (torch.tensor(codes.astype(np.float32)) - zero) * scale)
    machine = IntegerExecutor(lower(to_qdq(qat.draft_of_trained(network))), machine_named("onnxruntime@x86-vnni"))
    (simulated,) = machine({"x": x.numpy()}).values()
    assert np.mean(np.abs(simulated - output.detach().numpy()) > 1e-5) < 0.03


@pytest.mark.parametrize("scales", ["log", "moving"])
def test_a_scale_that_the_target_gives_is_not_trained(scales: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = qat.prepare(Steps(), noise(16, 99), target="litert", scales=scales)
    train(network, 3)
    scales_now = [layer.scale_and_zero_point()[0].reshape(-1)[0].item() for layer in network.quantizers.values()]
    assert 1 / 256 in scales_now  # of the Sigmoid's output
    qat.export(network, tmp_path / "m.onnx")  # which refuses another
