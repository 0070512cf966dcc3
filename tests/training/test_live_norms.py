# ruff: noqa: E402
"""Promised: with a scale for each channel, codes of weights do not depend on BatchNormalization, whose statistics then
settle also with few bits; the ready loop estimates them anew before it freezes them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.training.loop import Recipe, fit

nn = torch.nn


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.bn = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.bn(self.inner(torch.relu(self.stem(x))))).mean((2, 3)))


def data(seed: int) -> Any:
    return torch.randn(32, 1, 9, 9, generator=torch.Generator().manual_seed(seed))


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


def test_the_loop_estimates_statistics_before_it_freezes_them() -> None:
    network, x = prepared(2), data(1).numpy()
    with torch.no_grad():
        network.get_buffer("bn.running_mean").add_(5.0)
    readers = [lambda i=i: ({"x": x[i : i + 1]}, i % 3) for i in range(len(x))]
    fit(network, readers, Recipe(epochs=1, batch=16, rate=1e-6, scale_rate=1e-6, frozen=0.0))
    judged = network(torch.tensor(x)).detach()
    for norm in network.live_norms().values():
        norm.kind = "krishnamoorthi"
    trained = network.train()(torch.tensor(x)).detach()
    assert float((judged - trained).square().mean() / trained.square().mean()) < 0.01
