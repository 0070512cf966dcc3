# ruff: noqa: E402
"""Promised: what is trained is what is exported. Five architectures go through prepare, train and export; the file
computes in ONNX Runtime what the trained network computes, up to few codes; weights come back to the module; all state
is saved, copied and resumed to the bit.
"""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.errors import BadOption
from halfeven.run.ort import OrtExecutor

nn, F = torch.nn, torch.nn.functional


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 2, 1, bias=False)
        self.bn1, self.conv, self.bn2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.stem(x)))
        return self.head(F.relu(self.bn2(self.conv(x)) + x).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.bn1 = nn.Conv2d(1, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.deep, self.bn2 = nn.Conv2d(12, 12, 3, 2, 1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.down, self.head = nn.Conv2d(12, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        x = F.hardtanh(self.bn1(self.up(x)), 0.0, 6.0)
        return self.head(self.down(F.relu6(self.bn2(self.deep(x)))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Linear(12, 16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Any) -> Any:
        x = self.embed(x[:, 0])
        return self.head(self.norm(x + self.attend(x, x, x, need_weights=False)[0]).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = nn.Linear(12, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(self.embed(x[:, 0]))[0][:, -1])


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.merge, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        fine = F.relu(self.one(x))
        coarse = F.interpolate(F.relu(self.two(fine)), scale_factor=2.0, mode="nearest")
        return self.head(F.relu(self.merge(torch.cat([fine, coarse], 1))).amax((2, 3)))


LEARNED = {"Residual": 0.3, "Depthwise": 0.02, "Attention": 0.3, "Recurrent": 0.5, "Detector": 0.15}
"""Half of what the loss on one batch of 64 falls by in 25 steps, or a little more."""
NETWORKS = {cls.__name__: cls for cls in (Residual, Depthwise, Attention, Recurrent, Detector)}


def pictures(count: int, seed: int) -> tuple[Any, Any]:
    """Noise with a bright quarter, 12 x 12, and which quarter it is."""
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.randn(count, 1, 12, 12, generator=rng), torch.randint(0, 4, (count,), generator=rng)
    for i, quarter in enumerate(y.tolist()):
        x[i, 0, 6 * (quarter // 2) : 6 * (quarter // 2) + 6, 6 * (quarter % 2) : 6 * (quarter % 2) + 6] += 1.0
    return x, y


def train(network: Any, steps: int, rate: float = 2e-3, seed: int = 0) -> float:
    """The last loss."""
    optimizer = torch.optim.Adam(network.parameters(), rate)
    network.train()
    for step in range(steps):
        x, y = pictures(32, 1000 * seed + step)
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    return float(loss.detach())


def learn(network: Any, x: Any, y: Any, steps: int, rate: float) -> tuple[float, float]:
    """The loss in evaluation on one batch, before and after training on it."""
    optimizer, losses = torch.optim.Adam(network.parameters(), rate), []
    for count in (0, steps):
        network.train()
        for _ in range(count):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
        network.eval()
        losses.append(float(F.cross_entropy(network(x), y).detach()))
    return losses[0], losses[1]


def answers(path: Path, x: Any) -> np.ndarray:
    """What ONNX Runtime, told to optimize nothing, makes of the file."""
    run = OrtExecutor(path, optimize=False)
    return next(iter(run({run.session.get_inputs()[0].name: x.numpy()}).values()))  # type: ignore[attr-defined]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_prepared_trained_and_exported_as_it_is(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = NETWORKS[name]()
    train(module, 30)
    x, y = pictures(64, 77)
    network = qat.prepare(module, x)
    assert {key for key, _ in module.named_parameters()} <= {key for key, _ in network.named_parameters()}
    before, after = learn(network, x, y, 25, 1e-2)
    assert after < before - LEARNED[name]
    qat.export(network, tmp_path / "m.onnx")
    ours = network(x).detach().numpy()
    given = answers(tmp_path / "m.onnx", x)
    steps = np.abs(ours - given) / np.abs(ours).max()
    assert np.mean(steps < 1e-5) > 0.97  # the rest: sums in another order that met a tie
    assert steps.max() < 0.05
    with torch.no_grad():
        exact = qat.restore(NETWORKS[name](), network).eval()(x)
        network.float_only = True
        np.testing.assert_allclose(network(x).numpy(), exact.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scales", ["fixed", "linear"])
def test_scales_stay_or_are_trained_themselves_and_are_exported(scales: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Residual()
    train(module, 30)
    x, y = pictures(64, 79)
    network = qat.prepare(module, x, scales=scales, batchnorm="folded")
    layers = dict(network.quantizers.items())
    before = {name: layer.scale.detach().clone() for name, layer in layers.items()}
    assert {isinstance(layer.scale, nn.Parameter) for layer in layers.values()} == {scales == "linear"}
    first, last = learn(network, x, y, 25, 2e-3)  # straight through: weights learn with scales that stay
    assert last < first - 0.02
    stayed = [torch.equal(before[name], layer.scale.detach()) for name, layer in layers.items()]
    assert all(stayed) if scales == "fixed" else not any(stayed)
    qat.export(network, tmp_path / "m.onnx")
    ours = network(x).detach().numpy()
    assert np.mean(np.abs(ours - answers(tmp_path / "m.onnx", x)) < 1e-5 * np.abs(ours).max()) > 0.97


@pytest.mark.parametrize("batchnorm", ["jacob", "krishnamoorthi", "frozen", "folded"])
def test_batch_normalization_is_exported_as_evaluation_computes_it(batchnorm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Residual()
    train(module, 30)
    x, _ = pictures(64, 78)
    network = qat.prepare(module, x, batchnorm=batchnorm)
    moving = "bn1.running_mean" in dict(network.named_buffers())
    before = network.get_buffer("bn1.running_mean").clone() if moving else None
    train(network, 10, seed=3)
    assert moving is (batchnorm != "folded")
    if moving:
        assert torch.equal(before, network.get_buffer("bn1.running_mean")) is (batchnorm == "frozen")
    qat.export(network, tmp_path / "m.onnx")
    ours = network(x).detach().numpy()
    assert np.mean(np.abs(ours - answers(tmp_path / "m.onnx", x)) < 1e-5 * np.abs(ours).max()) > 0.97


def test_live_normalization_in_float_is_that_of_the_module() -> None:
    torch.manual_seed(0)
    module = Residual()
    train(module, 5)
    x, _ = pictures(32, 5)
    for kind in ("jacob", "krishnamoorthi"):
        network = qat.prepare(copy.deepcopy(module).eval(), x, batchnorm=kind)
        network.float_only = True
        network.train()
        other = copy.deepcopy(module).train()
        np.testing.assert_allclose(network(x).detach().numpy(), other(x).detach().numpy(), rtol=1e-3, atol=1e-4)
        for name in ("bn1.running_mean", "bn1.running_var", "bn2.running_mean", "bn2.running_var"):
            np.testing.assert_allclose(network.get_buffer(name), other.get_buffer(name), rtol=1e-3, atol=1e-5)


def test_all_state_is_saved_copied_and_resumed_to_the_bit() -> None:
    torch.manual_seed(0)
    x, _ = pictures(16, 3)
    network = qat.prepare(Depthwise(), x, learn_zero_point=True)
    train(network, 3)
    expected = network(x)
    stored = io.BytesIO()
    torch.save(network.state_dict(), stored)
    other = qat.prepare(Depthwise(), x, learn_zero_point=True)
    other.load_state_dict(torch.load(io.BytesIO(stored.getvalue()), weights_only=True), strict=True)
    for again in (other.eval(), copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(again(x), expected)
        assert train(copy.deepcopy(again), 2, seed=9) == train(copy.deepcopy(network), 2, seed=9)


def test_a_module_that_was_folded_cannot_be_restored() -> None:
    x, _ = pictures(8, 3)
    module = Residual()
    network = qat.prepare(module, x, batchnorm="folded")
    with pytest.raises(BadOption, match=r"'bn1\.weight' of the module is not in the trained network"):
        qat.restore(module, network)


def test_wrong_inputs_are_named() -> None:
    x, _ = pictures(8, 3)
    network = qat.prepare(Detector(), x)
    with pytest.raises(BadOption, match="The network takes x; found 0 inputs and y names"):
        network(y=x)
    with pytest.raises(BadOption, match="choose one of krishnamoorthi"):
        qat.prepare(Detector(), x, batchnorm="live")
