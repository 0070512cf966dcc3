# ruff: noqa: E402
"""Promised: a prepared network goes through the loops that people write: DDP, autocast, weight averaging, moving ranges
with modules called several times; what their wrappers hold is exported as what it computes.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.errors import BadOption
from halfeven.run.ort import OrtExecutor

nn, F = torch.nn, torch.nn.functional
Maker = Any


class Shared(nn.Module):
    """One convolution called three times, with BatchNormalization before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.again, self.head = nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.norm(self.stem(x)))
        for _ in range(3):
            x = torch.relu(self.again(x))
        return self.head(x.mean((2, 3)))


def batch() -> tuple[Any, Any]:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(12) % 3
    return torch.randn(12, 1, 8, 8, generator=rng) + y.reshape(-1, 1, 1, 1), y


@pytest.fixture(scope="module")
def trained() -> Any:
    """The module, with running statistics of its own."""
    torch.manual_seed(0)
    module, (x, _) = Shared().train(), batch()
    for _ in range(20):
        module(x)
    return module.eval()


@pytest.fixture(scope="module")
def original(trained: Any) -> Any:
    return qat.prepare(trained, batch()[0])


def fit(network: Any, steps: int = 8, rate: float = 1e-2, dtype: Any = None) -> list[float]:
    """The losses; under autocast if a dtype is given."""
    optimizer, (x, y), losses = torch.optim.Adam(network.parameters(), rate), batch(), []
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * steps)
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            loss = F.cross_entropy(network(x).float(), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    network.eval()
    return losses


def same_in_onnx_runtime(network: Any, path: Path) -> bool:
    """Whether the exported file, run without optimization, gives the outputs up to the order of sums."""
    qat.export(network, path)
    x, run = batch()[0], OrtExecutor(path, optimize=False)
    ours, (theirs,) = network(x).detach().numpy(), run({"x": x.numpy()}).values()
    return bool(np.mean(np.abs(ours - theirs) > 1e-5 * np.abs(ours).max()) < 0.03)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this PyTorch has no gloo")
    torch.distributed.init_process_group("gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_trains_what_a_plain_loop_trains(original: Any, tmp_path: Path) -> None:
    plain, inner = copy.deepcopy(original), copy.deepcopy(original)
    wrapped = nn.parallel.DistributedDataParallel(inner)
    assert fit(wrapped) == fit(plain)
    assert all(torch.equal(a, b) for a, b in zip(inner.state_dict().values(), plain.state_dict().values(), strict=True))
    assert same_in_onnx_runtime(wrapped, tmp_path / "m.onnx")


def test_under_autocast_quantizers_compute_in_float32_and_the_network_learns(original: Any, tmp_path: Path) -> None:
    network, (x, _) = copy.deepcopy(original), batch()
    quantizer, low = network.quantizers["0"], x.bfloat16()
    wanted = quantizer(x), quantizer(low.float()).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(x), wanted[0])
        assert torch.equal(quantizer(low), wanted[1])
    losses = fit(network, 15, 3e-2, torch.bfloat16)
    assert losses[-1] < losses[0] - 0.05
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert same_in_onnx_runtime(network, tmp_path / "m.onnx")


def test_averaged_weights_and_scales_are_exported_from_their_wrapper(
    original: Any, trained: Any, tmp_path: Path
) -> None:
    network = copy.deepcopy(original)
    decay = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    averaged = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    for _ in range(3):
        fit(network, 2)
        averaged.update_parameters(network)
    averaged.eval()
    x = batch()[0]
    assert not torch.equal(averaged(x), network(x))
    assert same_in_onnx_runtime(averaged, tmp_path / "m.onnx")
    restored = qat.restore(copy.deepcopy(trained), averaged)
    assert torch.equal(restored.head.weight, averaged.module.get_parameter("head.weight"))


def test_ranges_move_in_a_module_that_is_called_several_times(trained: Any) -> None:
    network = qat.prepare(trained, batch()[0], scales="moving")
    before = {name: b.clone() for name, b in network.named_buffers() if name.endswith("scale")}
    losses = fit(network)
    assert losses[-1] < losses[0]
    assert any(not torch.equal(b, network.get_buffer(name)) for name, b in before.items())


def test_a_module_that_was_not_prepared_is_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="Shared is no network to train: give what `prepare` returned"):
        qat.export(trained, tmp_path / "m.onnx")


def test_what_preparing_leaves_out_or_cannot_know_is_said() -> None:
    parts = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.1), nn.Flatten(), nn.Linear(144, 3))
    said = " ".join(qat.prepare(parts, batch()[0]).notes)
    assert "the network drops nothing in training, as the exported graph drops nothing: dropout of '2'" in said
    assert "1 BatchNormalization with a mean of 0 and a variance of 1, as before any training" in said
