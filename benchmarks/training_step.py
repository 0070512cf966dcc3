"""What a training step of a fake-quantized MobileNetV2 costs, in time and memory, beside a step in float.

    python benchmarks/training_step.py [--assets DIR] [--size 224] [--batch 16] [--threads 1 2] [--turns 7] [--memory]

A step is forward, cross-entropy, backward and SGD with momentum, on random pictures: what they show changes no time.
Five networks of one shape take turns in one process, a turn is one step of each:

    module       torch.nn.Conv2d, BatchNorm2d, ReLU6: what a user has before quantization
    float        the network that `halfeven.prepare` gives, quantizers off: the same layers by its table of operators
    unchecked    the same with its quantizers on, but for `check_finite`, which looks for NaN
    quantized    the same with its quantizers on; scales are learned unless --scales says otherwise
    torch        the same with PyTorch's own fake-quantization operators in their place, those with LSQ's gradients
                 where scales are learned, behind clamps of their own

With --batchnorm folded all have BatchNormalization folded into the layers; otherwise it is alive in all, as
`training.batchnorm` says. Ratios are medians over turns, of CPU time and of wall time. With --memory each network takes
three steps in a process of its own: the peak of resident memory over these steps, and by how much it is above what the
process held before the first. With assets the weights are those of DIR/models/mobilenet_v2/model.onnx, else random.
"""

# mypy: disallow-subclassing-any=False

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import add_options
from rich.console import Console
from rich.table import Table

from halfeven import qat

KINDS = ("module", "float", "unchecked", "quantized", "torch")
BASES = KINDS[:3]
ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks, stride of the first: Sandler et al. 2018, arXiv:1801.04381, table 2."""
Step = Callable[[], None]


def layer(inputs: int, outputs: int, kernel: int, stride: int, groups: int, normed: bool, relu: bool) -> Iterator[Any]:
    """Convolution, normalization unless it is folded, ReLU6."""
    yield torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=not normed)
    if normed:
        yield torch.nn.BatchNorm2d(outputs)
    if relu:
        yield torch.nn.ReLU6()


class Block(torch.nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down; beside a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, normed: bool) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        up = layer(inputs, hidden, 1, 1, 1, normed, True) if expansion > 1 else ()
        deep = layer(hidden, hidden, 3, stride, hidden, normed, True)
        self.layers = torch.nn.Sequential(*up, *deep, *layer(hidden, outputs, 1, 1, 1, normed, False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        found: torch.Tensor = self.layers(x)
        return x + found if self.adds else found


class MobileNetV2(torch.nn.Module):
    """With random weights."""

    def __init__(self, normed: bool = True) -> None:
        super().__init__()
        parts, channels = [*layer(3, 32, 3, 2, 1, normed, True)], 32
        for expansion, outputs, blocks, stride in ROWS:
            for i in range(blocks):
                parts.append(Block(channels, outputs, expansion, stride if i == 0 else 1, normed))
                channels = outputs
        self.features = torch.nn.Sequential(*parts, *layer(channels, 1280, 1, 1, 1, normed, True))
        self.classifier = torch.nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of classes."""
        scores: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return scores


def prepared(arguments: argparse.Namespace) -> Any:
    """The network to train, with the weights of the assets or random ones."""
    pictures = np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32)
    options = {"batchnorm": arguments.batchnorm, "scales": arguments.scales}
    if arguments.assets:
        return qat.prepare(arguments.assets / "models" / "mobilenet_v2" / "model.onnx", data=pictures, **options)
    torch.manual_seed(0)
    return qat.prepare(MobileNetV2().eval(), torch.from_numpy(pictures), **options)


def with_torchs_quantizers(network: Any) -> Any:
    """The network with PyTorch's fake quantization in each of its quantizers."""

    def one(quantizer: Any) -> Callable[..., torch.Tensor]:
        grid, shape = quantizer.scheme.grid, quantizer.zero_point.shape
        many = quantizer.zero_point.numel() > 1
        axis = max(range(len(shape)), key=lambda i: shape[i]) if many else 0
        learned = any(True for _ in quantizer.parameters())

        def forward(
            x: torch.Tensor, ends: tuple[float, float] = (-np.inf, np.inf), stretch: Any = None
        ) -> torch.Tensor:
            x = x if ends == (-np.inf, np.inf) else torch.nn.functional.hardtanh(x, *ends)
            scale, zero = (part.reshape(-1) for part in quantizer.scale_and_zero_point(stretch))
            if learned:
                zero = zero.float()
                if many:
                    return torch._fake_quantize_learnable_per_channel_affine(x, scale, zero, axis, grid.low, grid.high)
                return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, grid.low, grid.high)
            if many:
                return torch.fake_quantize_per_channel_affine(x, scale, zero, axis, grid.low, grid.high)
            return torch.fake_quantize_per_tensor_affine(x, scale, zero, grid.low, grid.high)

        return forward

    for quantizer in network.quantizers.values():
        quantizer.forward = one(quantizer)
    return network


def step_of(kind: str, arguments: argparse.Namespace) -> Step:
    """One training step of a network of its own."""
    network: Any = MobileNetV2(arguments.batchnorm != "folded") if kind == "module" else prepared(arguments)
    if kind == "torch":
        network = with_torchs_quantizers(network)
    network.train()
    if kind == "float":
        network.float_only = True
    if kind == "unchecked":
        network.check_finite = False
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(arguments.batch, 3, arguments.size, arguments.size, generator=draws)
    y = torch.randint(0, 1000, (arguments.batch,), generator=draws)
    if arguments.channels_last:
        network, x = network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 1e-5, momentum=0.9)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def times(steps: dict[str, Step], turns: int) -> dict[str, np.ndarray]:
    """CPU and wall seconds of each step, [turns, 2], by turns; who begins rotates."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in steps}
    for step in steps.values():
        step()  # the first allocates
    kinds = list(steps)
    for turn in range(turns):
        for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
            start = time.process_time(), time.perf_counter()
            steps[kind]()
            found[kind].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return {kind: np.array(rows) for kind, rows in found.items()}


def time_table(arguments: argparse.Namespace, threads: int) -> Table:
    """Medians, and ratios to the module and to the float network."""
    torch.set_num_threads(threads)
    found = times({kind: step_of(kind, arguments) for kind in arguments.kinds}, arguments.turns)
    title = (
        f"{threads} thread(s), batch {arguments.batch}, {arguments.size} x {arguments.size}, {arguments.turns} turns"
    )
    bases = [kind for kind in BASES if kind in found]
    head = ("step", "CPU s", "wall s", *(f"{clock}, times {kind}" for kind in bases for clock in ("CPU", "wall")))
    table = Table(*head, title=title)
    for kind, seconds in found.items():
        ratios = [f"{np.median(seconds / found[b], axis=0)[i]:.3f}" for b in bases for i in (0, 1)]
        table.add_row(kind, *(f"{s:.3f}" for s in np.median(seconds, axis=0)), *ratios)
    return table


def resident() -> dict[str, float]:
    """Resident memory now and at its peak, MB of 10**6 bytes, as Linux counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line[:5]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def measure_memory(kind: str, arguments: argparse.Namespace) -> None:
    """Print, as JSON, the resident memory before the first of three steps, and the peak over them."""
    torch.set_num_threads(arguments.threads[0])
    step = step_of(kind, arguments)
    before = resident()["VmRSS"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for _ in range(3):
        step()
    print(json.dumps({"before": before, "peak": resident()["VmHWM"]}))


def memory_table(arguments: argparse.Namespace) -> Table:
    """Peaks of each network in a process of its own."""
    head = (
        "step",
        "peak MB",
        "above start MB",
        *(f"{what}, times {kind}" for kind in BASES if kind in arguments.kinds for what in ("peak", "above")),
    )
    table = Table(*head, title=f"memory, batch {arguments.batch}, {arguments.size} x {arguments.size}")
    found: dict[str, np.ndarray] = {}
    for kind in arguments.kinds:
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.strip().splitlines()[-1])
        found[kind] = np.array([row["peak"], row["peak"] - row["before"]])
    for kind, peaks in found.items():
        ratios = [f"{(peaks / found[b])[i]:.2f}" for b in BASES if b in found for i in (0, 1)]
        table.add_row(kind, *(f"{p:.0f}" for p in peaks), *ratios)
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--batchnorm", default="krishnamoorthi")
    parser.add_argument("--scales", default="log")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--memory", action="store_true", help="measure memory (Linux) in place of time")
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        measure_memory(arguments.memory_of, arguments)
    elif arguments.memory:
        Console().print(memory_table(arguments))
    else:
        for threads in arguments.threads:
            Console().print(time_table(arguments, threads))


if __name__ == "__main__":
    main()
