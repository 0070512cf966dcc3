"""The Fashion-MNIST networks in PyTorch, with the weights of their ONNX files; the data; how a network is scored.

    fmnist_mbv2      3x3 convolution, 11 inverted residual blocks, 1x1 convolution, mean, linear; ReLU6
    fmnist_resnet    3x3 convolution, 6 residual blocks of two 3x3 convolutions, mean, linear; ReLU

Peers take modules, so they are written here by hand: parameters bear the names that the initializers have. `Layers`
says what a convolution, an activation and a value between blocks are, so that a library of quantized layers can put in
its own. Data is what the Debian package dataset-fashion-mnist holds: idx files, all 70,000 pictures.
"""

# mypy: disallow-subclassing-any=False

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from measure import session
from networks import FASHION_MEAN, FASHION_STD
from torch import nn

Array = npt.NDArray[Any]
FILES = {part: (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")}
MOBILE = ((16, 16, 8, 1), (8, 32, 16, 2), (16, 64, 16, 1), (16, 64, 24, 2), (24, 96, 24, 1), (24, 96, 24, 1),
          (24, 96, 32, 1), (32, 128, 32, 1), (32, 128, 32, 1), (32, 128, 48, 2), (48, 192, 48, 1))  # fmt: skip
RESIDUAL = ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))


@dataclass(frozen=True)
class Layers:
    """What the networks are made of; `between` stands behind a block and behind the input (first: True)."""

    conv: Callable[..., nn.Module] = nn.Conv2d
    relu: Callable[[], nn.Module] = nn.ReLU
    relu6: Callable[[], nn.Module] = nn.ReLU6
    linear: Callable[..., nn.Module] = nn.Linear
    between: Callable[[], nn.Module] = nn.Identity
    outer_conv: Callable[..., nn.Module] = nn.Conv2d
    outer: Callable[[], nn.Module] = nn.Identity


class Inverted(nn.Module):
    """An inverted residual block: expand, depthwise, project."""

    def __init__(self, layers: Layers, inputs: int, hidden: int, outputs: int, stride: int) -> None:
        super().__init__()
        expand = [layers.conv(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), layers.relu6()]
        self.c = nn.Sequential(
            *(expand if hidden != inputs else []),
            layers.conv(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            layers.relu6(),
            layers.conv(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs
        self.own, self.after = layers.between(), layers.between() if self.residual else nn.Identity()

    def forward(self, x: Any) -> Any:
        """The block's output."""
        found = self.own(self.c(x))
        return self.after(x + found) if self.residual else found


class Residual(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.c1 = layers.conv(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.b1, self.r1 = nn.BatchNorm2d(outputs), layers.relu()
        self.c2 = layers.conv(outputs, outputs, 3, padding=1, bias=False)
        self.b2, self.r2, self.own = nn.BatchNorm2d(outputs), layers.relu(), layers.between()
        changed = [layers.conv(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)]
        self.sc = nn.Sequential(*changed, layers.between()) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Any) -> Any:
        """The block's output."""
        return self.r2(self.own(self.b2(self.c2(self.r1(self.b1(self.c1(x)))))) + self.sc(x))


class Classifier(nn.Module):
    """A stem, blocks, the mean over the picture, and a linear layer; pictures [N, 1, 28, 28] to scores [N, 10]."""

    def __init__(self, blocks: list[nn.Module], stem: list[nn.Module], head: nn.Module, outer: nn.Module) -> None:
        super().__init__()
        self.enter, self.f, self.pooled, self.fc = outer, nn.Sequential(*stem, *blocks), nn.Identity(), head

    def forward(self, x: Any) -> Any:
        """Scores."""
        return self.fc(self.f(self.enter(x)).mean((2, 3)))


def classifier(name: str, layers: Layers, model: Path) -> nn.Module:
    """One of the networks, made of `layers`, with the weights of its ONNX file, in evaluation mode."""
    relu = layers.relu6 if name == "fmnist_mbv2" else layers.relu
    stem = [layers.outer_conv(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), relu()]
    if name == "fmnist_mbv2":
        blocks: list[nn.Module] = [Inverted(layers, *row) for row in MOBILE]
        blocks += [layers.conv(48, 192, 1, bias=False), nn.BatchNorm2d(192), relu()]
        network = Classifier(blocks, stem, layers.linear(192, 10), layers.outer())
    else:
        network = Classifier([Residual(layers, *row) for row in RESIDUAL], stem, layers.linear(64, 10), layers.outer())
    graph = onnx.load(model).graph
    held = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    # Tensors of equal values are stored once, and handed on by Identity.
    held |= {node.output[0]: held[node.input[0]] for node in graph.node if node.op_type == "Identity"}
    missing = network.load_state_dict({k: v for k, v in held.items() if k in network.state_dict()}, strict=False)
    own = [k for k in missing.missing_keys if k.endswith((".weight", ".bias", "running_mean", "running_var"))]
    if own:
        raise SystemExit(f"{model}: no initializer {own[0]}")
    return network.eval()


def pictures(folder: Path, part: str) -> tuple[Array, Array]:
    """Pictures, normalized float32 [N, 1, 28, 28], and classes int64 [N], of "train" or "t10k"."""
    images, labels = (_idx(folder, name) for name in FILES[part])
    return (images[:, None].astype(np.float32) / 255 - FASHION_MEAN) / FASHION_STD, labels.astype(np.int64)


def _idx(folder: Path, name: str) -> Array:
    """An idx file of bytes, also compressed."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if not found:
        raise SystemExit(f"{folder}: no {name}(.gz); `apt-get install dataset-fashion-mnist` brings them")
    data = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
    axes = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def file_score(model: Path, x: Array, y: Array) -> float:
    """The share of pictures that an ONNX file, run by ONNX Runtime, names rightly."""
    run = session(model, 1)
    (name,) = (i.name for i in run.get_inputs())
    right = [run.run(None, {name: x[i : i + 250]})[0].argmax(1) == y[i : i + 250] for i in range(0, len(x), 250)]
    return round(float(np.concatenate(right).mean()), 4)


def module_score(module: Any, x: Array, y: Array) -> float:
    """The same of a module, which is in evaluation mode."""
    with torch.no_grad():
        right = [
            module(torch.tensor(x[i : i + 250])).argmax(1).numpy() == y[i : i + 250] for i in range(0, len(x), 250)
        ]
    return round(float(np.concatenate(right).mean()), 4)
