"""Numbers that are hard to quantize, bits to compare, the devices there are, and a small training."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from halfeven.numerics import native


def _adversaries(rng: np.random.Generator, count: int, borders: np.ndarray, scale: float = 1.0) -> np.ndarray:
    bits = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        ties = (rng.choice(borders, count) * np.float64(scale)).astype(np.float32)
    near = np.nextafter(ties, rng.choice(np.float32([-np.inf, 0, np.inf]), count))
    normal = rng.standard_normal(count, dtype=np.float32)
    special = rng.choice(np.float32([0, -0.0, np.inf, -np.inf, np.nan]), count)
    return np.choose(rng.choice(5, count, p=[0.3, 0.1, 0.29, 0.3, 0.01]), [bits, ties, near, normal, special])


def _bits(x: object) -> np.ndarray:
    array = np.asarray(x)
    width = {2: np.uint16, 4: np.uint32, 8: np.uint64}[array.dtype.itemsize]
    return np.where(np.isnan(array), array.dtype.type(np.nan), array).view(width)


@pytest.fixture(scope="session")
def adversaries() -> Callable[..., np.ndarray]:
    """`adversaries(rng, count, borders, scale)`: any float32 bits, borders * scale and their neighbours, normal numbers,
    zeros of both signs, infinities and NaN.
    """
    return _adversaries


@pytest.fixture(scope="session")
def bits() -> Callable[[object], np.ndarray]:
    """The bits of floats, with one NaN for all."""
    return _bits


@pytest.fixture(params=["cpu", "cpu without C++", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each place where tensors are quantized."""
    torch = pytest.importorskip("torch")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with native.use_numpy() if "without" in request.param else nullcontext():
        yield request.param.split()[0]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: small networks are trained faster so, and alike."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _pictures(count: int, seed: int) -> tuple[Any, Any]:
    import torch

    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (count,), generator=rng)
    return torch.randn(count, 1, 8, 8, generator=rng) + y.reshape(-1, 1, 1, 1), y


def _train(network: Any, steps: int, seed: int) -> list[float]:
    import torch

    optimizer, losses = torch.optim.Adam(network.parameters(), 5e-3), []
    network.train()
    for step in range(steps):
        x, y = _pictures(32, 1000 * seed + step)
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    return losses


@pytest.fixture(scope="session")
def pictures() -> Callable[[int, int], tuple[Any, Any]]:
    """`pictures(count, seed)`: 8 x 8, brighter with their class, of which there are 3; and the classes."""
    return _pictures


@pytest.fixture(scope="session")
def train() -> Callable[[Any, int, int], list[float]]:
    """`train(network, steps, seed)` on such pictures; gives the losses, and leaves the network in evaluation."""
    return _train
