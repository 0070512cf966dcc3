# ruff: noqa: E402
"""Promised: under DistributedDataParallel in two processes a prepared network stays one network. Parameters and trained
scales are the same on both ranks, bit for bit, after every step. What only follows data, running statistics and moving
ranges, is each rank's own after a step, as plain DDP has it, and is rank 0's from the next forward pass on; rank 0's
network is exported as what it computes.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("this PyTorch has no gloo", allow_module_level=True)

from halfeven import qat
from halfeven.run.ort import OrtExecutor

NET = """g (float[N,1,8,8] x) => (float[N,3] y)
<float[4,1,3,3] w, float[4] gamma, float[4] beta, float[4] mean, float[4] variance, float[3,256] t, float[3] c> {
    p = Conv<pads=[1,1,1,1]>(x, w) n = BatchNormalization(p, gamma, beta, mean, variance) r = Relu(n)
    f = Flatten(r) y = Gemm<transB=1>(f, t, c)
}"""
RANK = """
import sys
from datetime import timedelta
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
meeting = (folder / "meeting").as_uri()
torch.distributed.init_process_group("gloo", meeting, timedelta(seconds=60), world_size=2, rank=rank)
x, y = torch.load(folder / "batch.pt")
x, y = x[rank::2], y[rank::2]
for name in ("log", "moving"):
    network = torch.load(folder / f"{name}.pt", weights_only=False)
    wrapped = DistributedDataParallel(network.train())
    optimizer = torch.optim.Adam(wrapped.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(wrapped(x), y).backward()
        optimizer.step()
    torch.save(network.state_dict(), folder / f"{name}{rank}.trained.pt")
    with torch.no_grad():
        wrapped.eval()(x)
    torch.save(network.state_dict(), folder / f"{name}{rank}.seen.pt")
torch.distributed.destroy_process_group()
"""
States = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def batch() -> tuple[Any, Any]:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(12) % 3
    return torch.randn(12, 1, 8, 8, generator=rng) + y.reshape(-1, 1, 1, 1), y


@pytest.fixture(scope="module")
def networks(build: Callable, batch: tuple[Any, Any]) -> dict[str, Any]:
    """One with trained scales, one with moving ranges."""
    rng = np.random.default_rng(0)
    model = build(NET, mean=rng.normal(size=4), variance=rng.uniform(0.5, 2, 4), gamma=np.ones(4))
    data = {"x": batch[0].numpy()}
    return {name: qat.prepare(model, data=data, scales=name) for name in ("log", "moving")}


@pytest.fixture(scope="module")
def states(networks: dict[str, Any], batch: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> States:
    """What both ranks hold, by network, rank and time, after training on halves of the batch."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(batch, folder / "batch.pt")
    for name, network in networks.items():
        torch.save(network, folder / f"{name}.pt")
    (folder / "rank.py").write_text(RANK, "utf-8")
    words = [sys.executable, str(folder / "rank.py"), str(folder)]
    ranks = [subprocess.Popen([*words, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    try:
        told = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(told)
    return {path.stem: torch.load(path) for path in folder.glob("*.*.pt")}


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_parameters_and_trained_scales_are_the_same_on_both_ranks(networks: dict[str, Any], states: States) -> None:
    for name, network in networks.items():
        apart = differing(states[f"{name}0.trained"], states[f"{name}1.trained"])
        assert not apart & {parameter for parameter, _ in network.named_parameters()}
        assert differing(states[f"{name}0.trained"], network.state_dict()) >= {"w", "gamma", "beta"}
    trained = {name for name in states["log0.trained"] if name.startswith("quantizers.")}
    assert any(name in trained for name in differing(states["log0.trained"], networks["log"].state_dict()))
    assert not differing(states["log0.trained"], states["log1.trained"]) & trained


def test_what_follows_data_is_each_ranks_own_until_the_next_forward_pass(states: States) -> None:
    assert differing(states["log0.trained"], states["log1.trained"]) == {"mean", "variance"}
    moved = differing(states["moving0.trained"], states["moving1.trained"])
    assert moved > {"mean", "variance"}
    assert all(name.startswith("quantizers.") for name in moved - {"mean", "variance"})
    for name in ("log", "moving"):
        assert not differing(states[f"{name}0.seen"], states[f"{name}1.seen"])
        assert not differing(states[f"{name}0.seen"], states[f"{name}0.trained"])


def test_the_network_of_rank_0_is_exported_as_what_it_computes(
    networks: dict[str, Any], states: States, batch: tuple[Any, Any], tmp_path: Path
) -> None:
    for name, network in networks.items():
        network.load_state_dict(states[f"{name}0.trained"])
        network.eval()
        qat.export(network, tmp_path / "m.onnx")
        ours = network(batch[0]).detach().numpy()
        (theirs,) = OrtExecutor(tmp_path / "m.onnx", optimize=False)({"x": batch[0].numpy()}, "batch").values()
        assert np.mean(np.abs(ours - theirs) > 1e-5 * np.abs(ours).max()) < 0.03  # sums in another order
        assert np.array_equal(ours.argmax(1), theirs.argmax(1))
