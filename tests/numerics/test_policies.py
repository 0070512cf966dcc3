"""Promised: PPQ's eight policies and their dynamic ones, the triple of type, algorithm and granularity, and Ristretto's
minifloat are schemes and values by those names.
"""

from itertools import product

import numpy as np
import pytest

from halfeven.errors import BadOption
from halfeven.numerics.grid import INT8, UINT8
from halfeven.numerics.policies import (
    ALGORITHMS,
    POLICIES,
    config_scheme,
    minifloat_exponent,
    ppq_policy,
    ristretto_minifloat,
)
from halfeven.numerics.quantize import dequantize, dynamic_quantize, fake_quantize, params_of
from halfeven.numerics.scheme import PER_TENSOR, ScaleRule, ZeroRule, per_channel
from halfeven.stats.estimate import METHODS


@pytest.mark.parametrize(
    ("symmetry", "grain", "rule"), list(product(["", "A"], ["TENSOR", "CHANNEL"], ["", "POWER_OF_2"]))
)
def test_the_eight_policies(symmetry: str, grain: str, rule: str) -> None:
    flags = [f"{symmetry}SYMMETRICAL", "LINEAR", f"PER_{grain}", *([rule] if rule else [])]
    for name in (" | ".join(flags), "|".join(f"QuantizationProperty.{flag}" for flag in reversed(flags))):
        scheme = ppq_policy(name, axis=1)
        assert scheme.grid == (UINT8 if symmetry else INT8)
        assert scheme.zero_point is (ZeroRule.FREE if symmetry else ZeroRule.NONE)
        assert scheme.tiling == (per_channel(1) if grain == "CHANNEL" else PER_TENSOR)
        assert scheme.scale is (ScaleRule.POWER_OF_TWO if rule else ScaleRule.FREE)
        assert ppq_policy(f"{name} | DYNAMIC", axis=1) == scheme


def test_there_are_eight_and_each_has_its_scheme() -> None:
    assert len(POLICIES) == 8
    assert len({ppq_policy(name) for name in POLICIES}) == 8


@pytest.mark.parametrize("name", POLICIES)
def test_each_policy_quantizes_within_half_a_step_and_keeps_zero(name: str) -> None:
    x = (np.random.default_rng(0).standard_normal((6, 40)) * np.exp2(np.arange(-3, 3))[:, None]).astype(np.float32)
    x[:, 0] = 0
    codes, params = dynamic_quantize(x, ppq_policy(name))
    back = dequantize(codes, params)
    assert (back[x == 0] == 0).all()
    # An affine range may lose half a step at each end, where the zero point is rounded.
    assert (np.abs(back - x) <= params.scale * (1.0 if "ASYMMETRICAL" in name else 0.5) * 1.00001).all()
    if "POWER_OF_2" in name:
        free = params_of(x, ppq_policy(name.removesuffix(" | POWER_OF_2"))).scale
        np.testing.assert_array_equal(params.scale, np.exp2(np.ceil(np.log2(free.astype(np.float64)))))


def test_an_affine_power_of_two_has_its_zero_point_of_the_scale_that_was_taken() -> None:
    x = np.array([-1.0, 3.0], np.float32)
    params = params_of(x, ppq_policy("ASYMMETRICAL | LINEAR | PER_TENSOR | POWER_OF_2"))
    assert (params.scale.tolist(), params.zero_point.tolist()) == ([2.0**-5], [32])
    assert fake_quantize(x, params).tolist() == [-1.0, 3.0]


def test_dynamic_parameters_are_those_of_each_tensor() -> None:
    scheme = ppq_policy("SYMMETRICAL | LINEAR | PER_TENSOR | DYNAMIC")
    scales = [float(dynamic_quantize(np.array([m, -m / 2], np.float32), scheme)[1].scale[0]) for m in (1.27, 12.7)]
    assert scales == [pytest.approx(0.01), pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SYMMETRIC | LINEAR | PER_TENSOR", "there is no flag 'SYMMETRIC'"),
        ("SYMMETRICAL | PER_TENSOR", "expected one of SYMMETRICAL"),
        ("SYMMETRICAL | ASYMMETRICAL | LINEAR | PER_TENSOR", "expected one of"),
        ("SYMMETRICAL | LINEAR | LINEAR | PER_TENSOR", "expected one of"),
        ("", "there is no flag ''"),
    ],
)
def test_flags_that_are_no_policy_are_refused(name: str, message: str) -> None:
    with pytest.raises(BadOption, match=message.replace("|", r"\|")):
        ppq_policy(name)


@pytest.mark.parametrize("algorithm", ["MINMAX", "KL", "ADMM"])
def test_the_triple_of_type_algorithm_and_granularity(algorithm: str) -> None:
    scheme, method = config_scheme("SYMMETRIC", algorithm, "per-channel")
    assert (scheme.grid, scheme.symmetric, scheme.tiling, method) == (INT8, True, per_channel(0), ALGORITHMS[algorithm])
    scheme, _ = config_scheme("NON-SYMMETRIC", algorithm, "per-layer")
    assert (scheme.grid, scheme.symmetric, scheme.tiling) == (UINT8, False, PER_TENSOR)


def test_the_methods_of_the_triple_are_those_of_calibration() -> None:
    assert set(ALGORITHMS.values()) <= set(METHODS)


@pytest.mark.parametrize(
    "triple", [("SYM", "KL", "per-layer"), ("SYMMETRIC", "MSE", "per-layer"), ("SYMMETRIC", "KL", "x")]
)
def test_words_that_are_not_known_are_refused(triple: tuple[str, str, str]) -> None:
    with pytest.raises(BadOption, match="is not known; choose one of"):
        config_scheme(*triple)


def minifloats(bits: int, exponent: int) -> np.ndarray:
    """All values of the format, positive: every exponent field is normal; the carry past the top included."""
    fraction, bias = bits - 1 - exponent, 2 ** (exponent - 1) - 1
    steps = np.arange(2**fraction) / 2**fraction
    values = [2.0 ** (field - bias) * (1 + steps) for field in range(2**exponent)]
    return np.array([0.0, *np.concatenate(values), 2.0 ** (2**exponent - bias)])


@pytest.mark.parametrize(("bits", "exponent"), [(8, 4), (8, 5), (6, 3), (16, 5)])
def test_ristretto_s_minifloat_takes_the_nearest_of_its_values(bits: int, exponent: int) -> None:
    table = minifloats(bits, exponent)
    rng = np.random.default_rng(bits)
    x = (rng.standard_normal(600) * np.exp2(rng.integers(-6, 5, 600))).astype(np.float32)
    got = ristretto_minifloat(x, bits, exponent).astype(np.float64)
    assert np.isin(np.abs(got), table).all()
    inside = (np.abs(x) >= table[1]) & (np.abs(x) < table[-2])
    nearest = np.abs(np.abs(x[:, None]) - table).min(1)
    np.testing.assert_allclose(np.abs(got - x)[inside], nearest[inside], rtol=0, atol=1e-12)


def test_ristretto_s_minifloat_flushes_saturates_and_carries_as_its_source_does() -> None:
    # 8 bits, 4 of exponent: bias 7, from 2**-7 to 1.875 * 2**8
    x = np.array(
        [0.0, -0.0, 2.0**-7.01, 2.0**-7, 480.0, 495.9, 496.0, 511.9, 512.0, -1e9, 1.0625, 1.1875, -1.0625], np.float32
    )
    expected = [0.0, -0.0, 0.0, 2.0**-7, 480.0, 480.0, 512.0, 512.0, 480.0, -480.0, 1.125, 1.25, -1.125]
    assert ristretto_minifloat(x, 8, 4).tolist() == expected
    assert [minifloat_exponent(m) for m in (0.5, 4.0, 100.0, 2.0**9, 2.0**9.5, 3e38)] == [4, 4, 4, 4, 5, 8]


@pytest.mark.parametrize(("bits", "exponent"), [(8, 7), (8, 0), (32, 8)])
def test_minifloats_that_do_not_exist_are_refused(bits: int, exponent: int) -> None:
    with pytest.raises(BadOption, match="Minifloat: "):
        ristretto_minifloat(np.ones(1, np.float32), bits, exponent)
