"""A PyTorch network, trained here for a moment, becomes an INT8 ONNX file: `python quantize_torch.py [out.onnx]`.

The data are made up: noise with one half of the picture brighter, and the class says which half that is.
"""

import sys

import torch
from torch import nn

import halfeven


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with one half brightened, float32 (count, 1, 32, 32); and which: left, right, top or bottom."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 32, 32, generator=generator)
    labels = torch.randint(0, 4, (count,), generator=generator)
    halves = ((..., slice(16)), (..., slice(16, 32)), (slice(16), ...), (slice(16, 32), ...))
    for image, label in zip(images, labels, strict=True):
        image[0][halves[int(label)]] += 0.5
    return images, labels


def block(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Convolution, BatchNormalization, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """A few steps of Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    for rows, classes in zip(images.split(32), labels.split(32), strict=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(rows), classes).backward()
        optimizer.step()


def main(path: str = "bright_half.int8.onnx") -> None:
    """Train, quantize, say how well it went, save."""
    torch.manual_seed(0)
    body = [block(1, 16, stride=2), block(16, 64, stride=2), block(64, 64, stride=1), nn.MaxPool2d(4)]
    network = nn.Sequential(*body, nn.Flatten(), nn.Linear(64 * 2 * 2, 4))
    images, labels = pictures(512, seed=1)
    train(network, images, labels)
    samples = list(zip(images, labels, strict=True))
    result = halfeven.quantize(network.eval(), data=samples, example_inputs=images[:1], target="onnxruntime")
    print(result.summary())
    result.save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
