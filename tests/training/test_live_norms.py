# ruff: noqa: E402
"""Promised: with a scale for each channel, codes of weights do not depend on BatchNormalization, whose statistics then
settle also with few bits; the ready loop estimates them anew before it freezes them, where samples are many enough. What
is frozen stays so in a state that is stored. Damping brings what a quantizer sees nearer to its codes.
"""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.training.loop import FEWEST, Recipe, fit

nn = torch.nn


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.bn = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.bn(self.inner(torch.relu(self.stem(x))))).mean((2, 3)))


def data(seed: int, count: int = 32) -> Any:
    return torch.randn(count, 1, 9, 9, generator=torch.Generator().manual_seed(seed))


def prepared(bits: int) -> Any:
    torch.manual_seed(0)
    return qat.prepare(Deep(), data(0), weight_bits=bits)


def codes_and_scales(network: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    qat.export(network, path)
    stored = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    (codes,) = (array for array in stored if array.shape == (6, 6, 3, 3))
    scales = [array for array in stored if array.shape == (6,) and array.dtype == np.float32 and (array > 0).all()]
    return codes, np.sort(np.stack(scales).ravel())


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_stay_when_the_normalization_moves(bits: int, tmp_path: Path) -> None:
    network = prepared(bits)
    before, scales = codes_and_scales(network, tmp_path / "before.onnx")
    with torch.no_grad():
        network.get_buffer("bn.running_var").mul_(torch.tensor([0.01, 0.1, 1.0, 4.0, 30.0, 100.0]))
        network.get_parameter("bn.weight").mul_(torch.tensor([5.0, 2.0, 0.5, 1.0, 3.0, 0.1]))
    after, changed = codes_and_scales(network, tmp_path / "after.onnx")
    assert np.mean(before != after) < 0.01  # a weight in the middle of two codes may fall to either
    assert np.abs(changed / scales - 1).max() > 1


@pytest.mark.parametrize("bits", [1, 2])
def test_statistics_settle_where_training_and_evaluation_agree(bits: int) -> None:
    network, x = prepared(bits), data(1)
    network.train()
    with torch.no_grad():
        for _ in range(160):
            trained = network(x)
        settled = network.get_buffer("bn.running_var").clone()
        for _ in range(80):
            network(x)
    torch.testing.assert_close(network.get_buffer("bn.running_var"), settled, rtol=1e-2, atol=0)
    judged = network.eval()(x).detach()
    assert float((judged - trained).square().mean() / trained.square().mean()) < 0.01


def readers(x: np.ndarray) -> list[Any]:
    return [lambda i=i: ({"x": x[i : i + 1]}, i % 3) for i in range(len(x))]


def test_the_loop_estimates_statistics_before_it_freezes_them() -> None:
    network, x = prepared(2), data(1, FEWEST).numpy()
    with torch.no_grad():
        network.get_buffer("bn.running_mean").add_(5.0)
    fit(network, readers(x), Recipe(epochs=1, batch=16, rate=1e-6, scale_rate=1e-6, frozen=0.0))
    judged = network(torch.tensor(x)).detach()
    for norm in network.live_norms().values():
        norm.kind = "krishnamoorthi"
    trained = network.train()(torch.tensor(x)).detach()
    assert float((judged - trained).square().mean() / trained.square().mean()) < 0.01


def test_with_few_samples_the_loop_keeps_the_statistics_that_ran_along() -> None:
    network = prepared(2)
    with torch.no_grad():
        network.get_buffer("bn.running_mean").add_(5.0)
    before = network.get_buffer("bn.running_mean").clone(), network.get_buffer("bn.running_var").clone()
    fit(network, readers(data(1, FEWEST - 1).numpy()), Recipe(epochs=1, batch=16, frozen=1.0))
    after = network.get_buffer("bn.running_mean"), network.get_buffer("bn.running_var")
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {norm.kind for norm in network.live_norms().values()} == {"frozen"}


def step(network: Any, x: Any) -> float:
    optimizer = torch.optim.SGD(network.parameters(), 1e-2)
    optimizer.zero_grad()
    loss = network(x).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_frozen_stays_so_in_a_stored_state(frozen: bool) -> None:
    torch.manual_seed(0)
    network = qat.prepare(Deep(), data(0), weight_bits=4, scales="moving").train()
    fresh = copy.deepcopy(network)
    step(network, data(1))
    if frozen:
        network.freeze_ranges()
        network.raise_bits(6)
        for norm in network.live_norms().values():
            norm.kind = "frozen"
    stored = io.BytesIO()
    torch.save(network.state_dict(), stored)
    stored.seek(0)
    fresh.load_state_dict(torch.load(stored, weights_only=True), strict=True)
    averaged = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    averaged.update_parameters(network)
    for other in (fresh, averaged.module, copy.deepcopy(network)):
        kinds = {norm.kind for norm in other.live_norms().values()}
        assert kinds == {"frozen" if frozen else "krishnamoorthi"}
        assert {layer.following for layer in other.quantizers.values()} == {not frozen}
    assert step(fresh, data(2) * 3) == step(network, data(2) * 3)
    for name, tensor in network.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name


def distance(network: Any) -> float:
    """Mean square of what the quantizer of the inner layer sees from its codes, in steps."""
    instruction = next(i for i in network.program.instructions if i.name in network.live_norms())
    seen, layer = [], network.quantizer(instruction.groups[1])
    hook = layer.register_forward_hook(lambda layer, given, out: seen.append((given[0], given[2], out)))
    with torch.no_grad():
        network.eval()(data(3))
        hook.remove()
        ((weight, stretch, rounded),) = seen
        scale = layer.scale_and_zero_point(stretch)[0]
        return float(((weight - rounded) / scale).square().mean())


def test_damping_brings_what_the_quantizer_sees_nearer_to_its_codes() -> None:
    found = {}
    for damping in (0.0, 30.0):
        torch.manual_seed(0)
        module = Deep()
        with torch.no_grad():  # so that the folded weight is not the layer's
            module.bn.weight.copy_(torch.tensor([5.0, 2.0, 0.5, 1.3, 3.0, 0.3]))
        network = qat.prepare(module, data(0), weight_bits=4)
        recipe = Recipe(epochs=10, batch=16, rate=2e-3, scale_rate=0.0, damping=damping)
        fit(network, readers(data(1).numpy()), recipe)
        found[damping] = distance(network)
    assert found[30.0] < 0.5 * found[0.0], found


def test_by_default_statistics_stay_as_estimated_first_and_moving_ranges_move_until_the_end_is_near() -> None:
    torch.manual_seed(0)
    network = qat.prepare(Deep(), data(0, FEWEST), weight_bits=4, scales="moving")
    samples = readers(3 * data(1, FEWEST).numpy())
    still = copy.deepcopy(network)
    fit(still, samples, Recipe(epochs=1, rate=0.0, scale_rate=0.0))
    ranges = [{n: t.clone() for n, t in net.named_buffers() if "quantizers" in n} for net in (network, still)]
    assert any(not torch.equal(ranges[0][name], ranges[1][name]) for name in ranges[0])
    kinds: list[set[str]] = []
    fit(network, samples, Recipe(epochs=1), lambda *_: kinds.append({n.kind for n in network.live_norms().values()}))
    assert kinds == [{"frozen"}] * 4
    for name in ("bn.running_mean", "bn.running_var"):
        assert torch.equal(network.get_buffer(name), still.get_buffer(name))
