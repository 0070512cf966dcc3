"""Quantization-aware training, from a module to three runtimes: `python train_and_deploy.py` in an empty folder.

A small network learns Fashion-MNIST, with the pictures that come with Halfeven; then it is trained quantized, saved
half way and resumed, and written for ONNX Runtime, for LiteRT and as C. Each is run, and every integer that it computes
is compared with the simulator of its arithmetic. Needs `pip install 'halfeven[torch,litert]'` and a C compiler.
"""

from importlib.resources import files

import numpy as np
import torch
from torch import nn

import halfeven


class Network(nn.Module):
    """Two convolutions, one beside a shortcut, and a layer of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.body, self.head = nn.Conv2d(16, 16, 3, 1, 1), nn.Linear(16 * 7 * 7, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the ten classes."""
        x = torch.relu(self.norm(self.stem(x)))
        scores: torch.Tensor = self.head(nn.functional.max_pool2d(x + torch.relu(self.body(x)), 2).flatten(1))
        return scores


def train(network: nn.Module, optimizer: torch.optim.Optimizer, pictures: slice) -> None:
    """One pass, in batches of 16: a loop as anyone writes it."""
    network.train()
    for some, classes in zip(x[pictures].split(16), y[pictures].split(16), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(some), classes).backward()
        optimizer.step()
    network.eval()


with np.load(str(files("halfeven.demo") / "test.npz")) as held:
    x, y = torch.tensor(held["x"][:, None] / np.float32(255)), torch.tensor(held["y"].astype(np.int64))
train(module := Network(), torch.optim.Adam(module.parameters(), 3e-3), slice(800))
network, again = (halfeven.prepare(module, x[:1], data=x[:64], target="litert") for _ in range(2))
optimizer, resumed = (torch.optim.Adam(part.parameters(), 1e-3) for part in (network, again))

train(network, optimizer, slice(400))
torch.save([network.state_dict(), optimizer.state_dict()], "half_way.pt")
train(network, optimizer, slice(400, 800))
states = torch.load("half_way.pt", weights_only=True)
again.load_state_dict(states[0])
resumed.load_state_dict(states[1])
train(again, resumed, slice(400, 800))
print("trained in one go and resumed, the outputs have equal bits:", torch.equal(network(x), again(x)))

for file in ("fashion.onnx", "fashion.tflite", "fashion.c"):
    halfeven.export(network, file)
samples = list(zip(x[800:], y[800:], strict=True))
for one in halfeven.conform(network, samples, ("onnxruntime", "litert", "c"), limit=32).runtimes:
    print(f"{one.sentence} {one.effect.hits[1]} of {one.effect.labelled} pictures are named rightly.")
