# ruff: noqa: E402
"""Promised: BatchNormalization is trained live wherever it stands: behind Linear, matrix products and grouped transposed
convolutions, in modules that are called twice, and by itself. Its statistics move as the module's own do, parameters
bear the module's names, the file computes what the network does, and all goes back to the module.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from halfeven import qat
from halfeven.errors import BadOption
from halfeven.run.ort import OrtExecutor
from halfeven.training import loop

nn, F = torch.nn, torch.nn.functional
S = nn.Sequential
KINDS = ("krishnamoorthi", "jacob", "frozen")


class Product(nn.Module):
    """Products with parameters, one with an Add behind it, and normalizations."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.add = (nn.Parameter(torch.randn(*shape) / 2) for shape in ((6, 8), (8, 5), (5,)))
        self.bn1, self.bn2, self.head = nn.BatchNorm1d(8), nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.bn1(x @ self.one))
        return self.head(torch.relu(self.bn2(x @ self.two + self.add)))


class Twice(nn.Module):
    """A convolution and its normalization, called twice; the convolution once more, with another normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn, self.other = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.stem(x))
        for norm in (self.bn, self.bn, self.other):
            x = F.relu(norm(self.c(x)))
        return self.c(x).mean((2, 3))


class Before(nn.Module):
    """Normalizations before activations and layers: of the input, of what others read too, and behind ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn, self.last = nn.BatchNorm2d(3), nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False)
        self.stem, self.c = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Any) -> Any:
        x = self.stem(self.first(x))
        return self.last(F.relu(x + self.c(F.relu(self.bn(x)))))


PLACES: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "Linear": (
        lambda: S(
            S(nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=0.3), nn.ReLU()),
            S(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, 3)),
        ),
        (32, 6),
        2,
    ),
    "products": (Product, (32, 6), 2),
    "grouped transposed": (
        lambda: S(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2), nn.BatchNorm2d(6)),
        (8, 3, 8, 8),
        1,
    ),
    "called twice": (Twice, (16, 3, 6, 6), 3),
    "alone": (Before, (16, 3, 6, 6), 3),
}
"""Modules, the shape of their input, and how many normalizations run."""


def noise(*shape: int, seed: int = 1) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def settled(place: str) -> tuple[Any, Any]:
    """A module whose statistics have moved, with scales that are not 1, and an input."""
    make, shape, _ = PLACES[place]
    torch.manual_seed(0)
    module = make()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1 and not name.endswith("add"):
                parameter.add_(0.3 * torch.randn(parameter.shape))
        for seed in range(12):
            module.train()(noise(*shape, seed=seed))
    return module.eval(), noise(*shape)


def prepared(place: str, kind: str) -> tuple[Any, Any, Any]:
    module, x = settled(place)
    return module, qat.prepare(module, x, batchnorm=kind), x


def step(network: Any, x: Any, rate: float = 1e-2) -> None:
    optimizer = torch.optim.Adam(network.parameters(), rate)
    (network.train()(x) - 0.1).square().mean().backward()
    optimizer.step()
    network.eval()


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("place", PLACES)
def test_in_float_it_computes_and_moves_as_the_module_does_in_training(place: str, kind: str) -> None:
    module, network, x = prepared(place, kind)
    assert len(network.live_norms()) == PLACES[place][2]
    network.float_only = True
    for seed in (1, 2, 3):
        given = noise(*x.shape, seed=seed) + 0.2 * seed
        np.testing.assert_allclose(
            network.train()(given).detach(), module.train()(given).detach(), rtol=1e-3, atol=2e-4
        )
    for name, buffer in module.named_buffers():
        np.testing.assert_allclose(network.get_buffer(name), buffer, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_it_is_trained_exported_and_restored_under_the_names_of_the_module(
    place: str, kind: str, tmp_path: Path
) -> None:
    module, network, x = prepared(place, kind)
    own = {name for name, _ in module.named_parameters()}
    assert own == {name for name, _ in network.named_parameters() if not name.startswith("quantizers.")}
    assert set(module.state_dict()) <= set(network.state_dict())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for seed in range(6):
        step(network, noise(*x.shape, seed=seed) + 0.2)
    still = own & {live.norm.bias for live in network.live_norms().values() if kind != "frozen"}
    assert {name for name in own if torch.equal(before[name], network.get_parameter(name))} == still
    for name in before:
        if name.endswith(("running_mean", "running_var")):
            assert torch.equal(before[name], network.get_buffer(name)) is (kind == "frozen"), name
    qat.export(network, tmp_path / "m.onnx")
    ours = network(x).detach().numpy()
    (given,) = OrtExecutor(tmp_path / "m.onnx", optimize=False)({network.program.inputs[0]: x.numpy()}).values()
    assert np.mean(np.abs(ours - given) > 1e-5 * np.abs(ours).max()) < 0.03  # sums in another order that met a tie
    again = qat.prepare(settled(place)[0], x, batchnorm=kind)
    again.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(again.eval()(x), network(x))
    assert torch.equal(copy.deepcopy(network)(x), network(x))
    restored = qat.restore(module, network).eval()
    network.float_only = True
    np.testing.assert_allclose(network(x).detach(), restored(x).detach(), rtol=1e-3, atol=1e-4)
    for name, tensor in restored.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_a_lone_normalization_is_in_the_file_with_its_last_statistics(tmp_path: Path) -> None:
    _, network, x = prepared("alone", "krishnamoorthi")
    for _ in range(3):
        step(network, x + 1.0)
    qat.export(network, tmp_path / "m.onnx")
    file = onnx.load(tmp_path / "m.onnx").graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in file.initializer}
    found = [node for node in file.node if node.op_type == "BatchNormalization"]
    assert len(found) == 3
    for node in found:
        for name in node.input[3:5]:
            np.testing.assert_array_equal(stored[name], network.get_buffer(name).numpy())


def test_no_note_calls_a_live_normalization_folded_and_what_is_folded_is_named() -> None:
    _, network, _ = prepared("alone", "krishnamoorthi")
    assert not any("trained so" in note for note in network.notes)
    torch.manual_seed(0)
    module = S(nn.Conv2d(3, 4, 3), Scaled(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    network = qat.prepare(module, noise(8, 3, 6, 6))
    assert "1 BatchNormalization folded together with other operators, and trained so: '2/BatchNormalization'" in (
        network.notes
    )
    with pytest.raises(BadOption, match=r"'2\.weight' .* let no other scale or shift stand between"):
        qat.restore(module, network)


class Scaled(nn.Module):
    """Doubles what it gets."""

    def forward(self, x: Any) -> Any:
        return x * 2.0


def test_a_layer_without_a_bias_whose_normalization_is_new_can_be_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = qat.prepare(S(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), noise(32, 6))
    step(network, noise(32, 6) + 1.0)
    qat.export(network, tmp_path / "m.onnx")
    ours, x = network(noise(32, 6)).detach().numpy(), noise(32, 6).numpy()
    (given,) = OrtExecutor(tmp_path / "m.onnx", optimize=False)({network.program.inputs[0]: x}).values()
    np.testing.assert_allclose(ours, given, rtol=1e-5, atol=1e-6)


def test_the_loop_estimates_shared_statistics_as_the_mean_of_all_calls() -> None:
    _, network, _ = prepared("called twice", "krishnamoorthi")
    network.float_only = True
    x = noise(loop.FEWEST, 3, 6, 6).numpy()
    readers = [lambda i=i: ({"x": x[i : i + 1]}, None) for i in range(len(x))]
    with torch.no_grad():
        network.get_buffer("bn.running_mean").fill_(9.0)
        seen: list[Any] = []
        state = copy.deepcopy(network).train()
        given = torch.tensor(x)
        hidden = F.relu(F.conv2d(given, state.get_parameter("stem.weight"), state.get_parameter("stem.bias")))
        for _ in range(2):
            hidden = F.conv2d(hidden, state.get_parameter("c.weight"), padding=1)
            seen.append(hidden.mean((0, 2, 3)))
            weights = (state.get_parameter("bn.weight"), state.get_parameter("bn.bias"))
            hidden = F.relu(F.batch_norm(hidden, None, None, *weights, training=True))
    recipe = loop.Recipe(epochs=1, batch=loop.FEWEST, rate=0.0, scale_rate=0.0, frozen=1.0)
    loop.fit(network, readers, recipe)
    np.testing.assert_allclose(network.get_buffer("bn.running_mean"), (seen[0] + seen[1]) / 2, rtol=1e-3, atol=1e-4)


def test_a_normalization_without_running_statistics_trains_by_those_of_the_batch() -> None:
    torch.manual_seed(0)
    module = S(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()).train()
    x = torch.randn(6, 3, 8, 8)
    network = qat.prepare(copy.deepcopy(module).eval(), x).train()
    network.float_only = True
    for model in (module, network):
        model(x).square().mean().backward()
    for name, parameter in module.named_parameters():
        if name != "0.bias":  # the normalization takes it away: rounding is left
            torch.testing.assert_close(network.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(network(x), module(x), rtol=1e-4, atol=1e-5)
