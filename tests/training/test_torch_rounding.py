"""Promised: a rounding rule gives the same bits in PyTorch as in NumPy, on ties, next to them, and on a million others;
the vectors that all languages read hold; stochastic rounding is the stated formula on PyTorch's own draws.
"""

# ruff: noqa: E402

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from halfeven.numerics.rounding import Rounding
from halfeven.training.rounding import rounded

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ties.json").read_text("utf-8"))["rules"]
each_rule = pytest.mark.parametrize("rule", Rounding)
Bits = Callable[[object], np.ndarray]


@each_rule
def test_the_golden_ties_hold(rule: Rounding, device: str, bits: Bits) -> None:
    x, expected = np.array([[int(word, 16) for word in pair] for pair in GOLDEN[rule]], np.uint32).T.copy()
    found = rounded(torch.tensor(x.view(np.float32), device=device), rule)
    np.testing.assert_array_equal(bits(found.cpu()), bits(expected.view(np.float32)))


def test_the_vector_of_ties_that_the_three_languages_share(device: str, bits: Bits) -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], device=device)
    np.testing.assert_array_equal(bits(rounded(x).cpu()), bits(np.float32([-2, -2, -0.0, 0, 2, 2])))


@each_rule
def test_a_million_floats_round_to_the_same_bits(
    rule: Rounding, device: str, bits: Bits, adversaries: Callable[..., np.ndarray]
) -> None:
    rng = np.random.default_rng(1)
    borders = np.concatenate([np.arange(-300, 300) / 2, np.float64([2**22 - 0.5, 2**23 - 0.5, 2**23 + 1, 2**24 - 1])])
    x = adversaries(rng, 1 << 20, borders)
    found = rounded(torch.tensor(x, device=device), rule)
    with np.errstate(invalid="ignore"):  # signalling NaN
        np.testing.assert_array_equal(bits(found.cpu()), bits(rule(x)))


@each_rule
def test_every_half_precision_number_and_doubles_round_to_the_same_bits(
    rule: Rounding, device: str, bits: Bits
) -> None:
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    double = np.arange(-1000, 1000) / 2 * (1 + 2.0**-52 * np.arange(-1, 1)[:, None])
    for x in (half, double):
        found = rounded(torch.tensor(x, device=device), rule)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(bits(found.cpu()), bits(rule(x)))


def test_stochastic_rounding_is_the_formula_on_the_draws(device: str, bits: Bits) -> None:
    x = torch.tensor(np.random.default_rng(2).normal(0, 3, 100_000).astype(np.float32), device=device)
    x[:5] = torch.tensor([2.0, -3.0, torch.inf, -torch.inf, -0.0])
    found = rounded(x, torch.Generator(device).manual_seed(3))
    draw = torch.rand(x.shape, dtype=torch.float64, device=device, generator=torch.Generator(device).manual_seed(3))
    below = np.floor(x.cpu().numpy())
    with np.errstate(invalid="ignore"):
        chance = x.cpu().numpy().astype(np.float64) - below
    expected = np.copysign(below + (draw.cpu().numpy() < chance), x.cpu().numpy()).astype(np.float32)
    np.testing.assert_array_equal(bits(found.cpu()), bits(expected))
    error = (found - x)[5:].double()
    assert (
        abs(float(error.mean())) < 5 * float(error.std()) / error.numel() ** 0.5
    )  # five deviations of an unbiased mean
