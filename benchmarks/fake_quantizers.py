"""Time fake quantization in training, forward and back, as layers: Halfeven's and PyTorch's own, on one thread.

    python benchmarks/fake_quantizers.py [--elements 1048576] [--repeat 30]

A row is one step: the layer on a tensor that wants a gradient, then the way back. `fixed` has constant scales, one per
channel, `learned` has them as parameters. "torch" is torch.fake_quantize_per_channel_affine, and its learnable relative
that has LSQ's gradients; "composed" is LSQ written in PyTorch's operators, as papers' code does. Least CPU time of
`--repeat` turns, taken in turns; "NumPy's sums" is Halfeven where C++ is not built.
"""

import argparse

import numpy as np
import torch
from kernels import least_seconds
from rich.console import Console
from rich.table import Table
from summaries import Work, in_numpy

from halfeven.numerics import floats
from halfeven.numerics.codebook import NF4
from halfeven.numerics.grid import INT8, Grid
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.quantize import params_of
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.training.quantizer import FakeQuantizer


def layers(x: torch.Tensor, g: torch.Tensor) -> dict[str, Work]:
    """Steps of Halfeven's layers, for one grid of each kind."""

    def step(grid: Grid, learned: bool) -> Work:
        params = params_of(x.detach().numpy(), Scheme(grid, per_channel(0)))
        layer = FakeQuantizer.from_params(params, learn_scale=learned)
        return lambda: layer(x).backward(g)

    grids: dict[str, Grid] = {"float8": floats.FLOAT8_E4M3FN, "log4": LogGrid(4), "NF4": NF4}
    return {
        "int8 fixed": step(INT8, False),
        "int8 learned": step(INT8, True),
        "int8 learned, NumPy's sums": in_numpy(step(INT8, True)),
        **{f"{name} learned": step(grid, True) for name, grid in grids.items()},
    }


def of_torch(x: torch.Tensor, g: torch.Tensor) -> dict[str, Work]:
    """Steps of what PyTorch has, and of LSQ in its operators."""
    scale = torch.tensor(params_of(x.detach().numpy(), Scheme(INT8, per_channel(0))).scale)
    flat, zero = scale.ravel(), torch.zeros(scale.numel())
    learned, steps = flat.clone().requires_grad_(), scale.clone().requires_grad_()

    def composed() -> torch.Tensor:
        limited = torch.clamp(x / steps, -128, 127)
        return (limited + (torch.round(limited) - limited).detach()) * steps

    fixed = torch.fake_quantize_per_channel_affine
    learnable = torch._fake_quantize_learnable_per_channel_affine
    return {
        "torch fixed": lambda: fixed(x, flat, zero.int(), 0, -128, 127).backward(g),
        "torch learned": lambda: learnable(x, learned, zero, 0, -128, 127).backward(g),
        "composed": lambda: composed().backward(g),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 20, help="cut to rows of 4096")
    parser.add_argument("--repeat", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, g = (torch.tensor(rng.standard_normal((arguments.elements // 4096, 4096), np.float32)) for _ in range(2))
    x.requires_grad_()
    least = least_seconds({**layers(x, g), **of_torch(x, g)}, arguments.repeat)
    table = Table("step", "ns / element", "times int8 learned", title=f"{x.numel()} elements")
    for name, seconds in least.items():
        table.add_row(name, f"{seconds / x.numel() * 1e9:.3f}", f"{seconds / least['int8 learned']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
