"""Promised: LiteRT's softmax in fixed point is the exact one to two codes, down to the least scale that it can shift."""

import numpy as np
import pytest

from halfeven.errors import BadOption
from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.gemmlowp import softmax

OUT = Output(Affine(1 / 256, -128), -128, 127)


@pytest.mark.parametrize("scale", [0.1, 0.01, 2.0**-27])
def test_softmax_is_the_exact_one_to_two_codes(scale: float) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (16, 10)).astype(np.int8)
    e = np.exp((x - x.max(-1, keepdims=True).astype(np.float64)) * scale)
    exact = np.rint(e / e.sum(-1, keepdims=True) * 256) - 128
    assert np.abs(softmax(x, Affine(scale), OUT) - np.clip(exact, -128, 127)).max() <= 2


@pytest.mark.parametrize("scale", [1e-9, 2.0**-28, 7.4e-9])
def test_a_scale_that_cannot_be_shifted_left_is_refused_and_named(scale: float) -> None:
    with pytest.raises(BadOption, match=f"codes of scale {scale:.6g}: .* at least 2"):
        softmax(np.zeros((1, 4), np.int8), Affine(scale), OUT)
