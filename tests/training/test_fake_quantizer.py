"""Promised of the layer: parameters go in and come out exactly; its state saves, loads, copies and moves; what is learned
gets the gradient that the papers give it, stays within what is allowed, and makes a small network better.
"""

# ruff: noqa: E402

import copy
import io
import math
from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import halfeven
from halfeven.errors import BadOption
from halfeven.numerics import floats, native
from halfeven.numerics.binary import BinaryGrid, TernaryGrid
from halfeven.numerics.codebook import NF4
from halfeven.numerics.grid import INT8, INT16, INT32, UINT8, Grid, IntGrid
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.quantize import fake_quantize, params_of
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import (
    PER_TENSOR,
    QParams,
    ScaleRule,
    Scheme,
    Tiling,
    ZeroRule,
    per_channel,
    per_group,
    per_token,
)
from halfeven.training.quantizer import FakeQuantizer

GRIDS: list[Grid] = [INT8, UINT8, IntGrid(4), INT16, INT32, floats.FLOAT8_E4M3FN, floats.FLOAT4_E2M1, floats.BFLOAT16,
                     LogGrid(4), NF4, BinaryGrid(), TernaryGrid()]  # fmt: skip
TILINGS = [PER_TENSOR, per_channel(0), per_channel(1), per_token(2), per_group(2, 1, 16), Tiling(((1, 16),))]
X = np.random.default_rng(0).standard_normal((6, 64), np.float32)
Bits = Callable[[object], np.ndarray]


def schemes(grid: Grid) -> list[Scheme[Grid]]:
    zeros = ZeroRule if isinstance(grid, IntGrid) else [ZeroRule.NONE]
    return [Scheme(grid, tiling, scale, zero) for tiling in TILINGS for scale in ScaleRule for zero in zeros]


def options_of(scheme: Scheme[Grid]) -> list[dict[str, bool]]:
    learnable = not scheme.symmetric and scheme.grid.bits <= 16
    zeros = (False, True) if learnable else (False,)
    return [{"learn_scale": scale, "learn_zero_point": zero} for scale in (False, True) for zero in zeros]


def same(one: QParams[Grid], other: QParams[Grid]) -> bool:
    parts = [[(a.tobytes(), a.shape, a.dtype) for a in (p.scale, p.zero_point, p.threshold) if a is not None]
             for p in (one, other)]  # fmt: skip
    return one.scheme == other.scheme and parts[0] == parts[1]


def test_it_is_a_public_name() -> None:
    assert halfeven.FakeQuantizer is FakeQuantizer


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_params_come_back_exactly_and_values_are_those_of_numpy(grid: Grid, device: str, bits: Bits) -> None:
    for scheme in schemes(grid):
        params = params_of(X, scheme)
        with native.use_numpy():
            expected = bits(fake_quantize(X, params))
        for options in options_of(scheme):
            layer = FakeQuantizer.from_params(params, **options).to(device)
            assert same(layer.to_params(), params)
            np.testing.assert_array_equal(bits(layer(torch.tensor(X, device=device)).detach().cpu()), expected)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_state_is_saved_and_loaded(grid: Grid) -> None:
    for scheme in schemes(grid):
        params = params_of(X, scheme)
        for options in options_of(scheme):
            layer = FakeQuantizer.from_params(params, **options)
            file = io.BytesIO()
            torch.save(layer.state_dict(), file)
            file.seek(0)
            fresh = FakeQuantizer(scheme, params.scale.shape, **options)
            fresh.load_state_dict(torch.load(file, weights_only=True))
            assert same(fresh.to_params(), params)


def test_a_state_brings_its_scales_into_a_layer_of_other_data_and_old_states_load() -> None:
    scheme = Scheme(INT8)
    small, large = (FakeQuantizer.from_params(params_of(x, scheme), learn_scale=True) for x in (X, X * 1e6))
    large.load_state_dict(small.state_dict())
    assert same(large.to_params(), small.to_params())
    with torch.no_grad():
        small.scale.mul_(1e-6)  # held at the least
        large.load_state_dict(small.state_dict())
    assert same(large.to_params(), small.to_params())
    old = {name: value for name, value in small.state_dict().items() if name != "least"}
    fresh = FakeQuantizer.from_params(params_of(X, scheme), learn_scale=True)
    fresh.load_state_dict(old)
    assert same(fresh.to_params(), small.to_params())


def test_a_scale_of_any_size_that_params_allow_comes_back() -> None:
    scale = np.float32([[1e-45], [1.1754944e-38], [3.4028235e38], [0.1]])
    for learned in (False, True):
        params = QParams(Scheme(INT8, per_channel(0)), scale, np.zeros((4, 1), np.int32))
        assert same(FakeQuantizer.from_params(params, learn_scale=learned).to_params(), params)
    powers = QParams(
        Scheme(INT8, PER_TENSOR, ScaleRule.POWER_OF_TWO), np.float32([2.0**-126, 2.0**127]), np.zeros(2, np.int32)
    )
    assert same(FakeQuantizer.from_params(powers, learn_scale=True).to_params(), powers)


def test_a_copy_is_independent_and_equal() -> None:
    scheme = Scheme(UINT8, zero_point=ZeroRule.FREE)
    generator = torch.Generator().manual_seed(0)
    layer = FakeQuantizer.from_params(params_of(X, scheme), learn_scale=True, learn_zero_point=True, rounding=generator)
    other = copy.deepcopy(layer)
    assert same(layer.to_params(), other.to_params())
    assert torch.equal(layer(torch.tensor(X)), other(torch.tensor(X)))
    with torch.no_grad():
        other.scale.mul_(2)
    assert not same(layer.to_params(), other.to_params())


def test_half_precision_models_keep_the_scale(bits: Bits) -> None:
    scheme = Scheme(UINT8, per_channel(0), zero_point=ZeroRule.FREE)
    params = params_of(X, scheme)
    for options in options_of(scheme):
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), FakeQuantizer.from_params(params, **options))
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            model.to(dtype)
            assert model[0].weight.dtype == dtype
            assert same(model[1].to_params(), params)
            values = model[1](torch.tensor(X).to(dtype))
            assert values.dtype == dtype
            expected = torch.tensor(fake_quantize(torch.tensor(X).to(dtype).numpy() if dtype != torch.bfloat16
                                                  else torch.tensor(X).to(dtype).float().numpy(), params)).to(dtype)  # fmt: skip
            assert torch.equal(values, expected)
        assert all(part.grad_fn is None for part in model[1].parameters())


def test_nothing_is_recorded_without_gradients_and_fixed_layers_have_no_parameters() -> None:
    layer = FakeQuantizer.from_params(params_of(X, Scheme(INT8)))
    assert list(layer.parameters()) == []
    x = torch.tensor(X, requires_grad=True)
    assert layer(x).requires_grad
    with torch.no_grad():
        assert not layer(x).requires_grad
    with torch.inference_mode():
        for grid in GRIDS:
            FakeQuantizer.from_params(params_of(X, Scheme(grid)), learn_scale=True)(torch.tensor(X))
    for grid in GRIDS:  # tables that inference made can be used in training
        quantizer = FakeQuantizer.from_params(params_of(X, Scheme(grid)), learn_scale=True)
        quantizer(x).sum().backward()
        assert quantizer.scale.grad.isfinite().all()


def test_the_scales_gradient_has_lsqs_factor() -> None:
    """1 / sqrt(N * Q): arXiv:1902.08153, section 2.2; 64 elements share a scale, 127 is the highest code."""
    params = params_of(X, Scheme(INT8, per_channel(0)))
    found = []
    for gradient in (1.0, None):
        layer = FakeQuantizer.from_params(params, learn_scale=True, gradient=gradient)
        layer(torch.tensor(X)).sum().backward()
        found.append(layer.scale.grad)
    torch.testing.assert_close(found[1], found[0] / math.sqrt(64 * 127))


def test_a_power_of_twos_gradient_is_that_of_its_logarithm() -> None:
    """scale * ln 2 * sum of g * t, the clipped by their ends: arXiv:1903.08066, equations 7 and 8."""
    scheme = Scheme(IntGrid(4), scale=ScaleRule.POWER_OF_TWO)
    layer = FakeQuantizer(scheme, (1, 1), learn_scale=True)
    with torch.no_grad():
        layer.log2_scale.fill_(-2.3)
    assert layer.to_params().scale.tolist() == [[0.25]]
    g = np.random.default_rng(1).standard_normal(X.shape)
    layer(torch.tensor(X)).backward(torch.tensor(g, dtype=torch.float32))
    r = X.astype(np.float64) / 0.25
    t = np.where((r > -8) & (r < 7), np.rint(r) - r, np.clip(r, -8, 7))
    np.testing.assert_allclose(layer.log2_scale.grad, [[0.25 * math.log(2) * (g * t).sum()]], rtol=1e-5)


def test_a_zero_point_is_used_as_the_nearest_whole_number(bits: Bits) -> None:
    params = params_of(X, Scheme(UINT8, zero_point=ZeroRule.FREE))
    layer = FakeQuantizer.from_params(params, learn_zero_point=True)
    with torch.no_grad():
        layer.zero_point.sub_(10.4)
    moved = QParams(params.scheme, params.scale, params.zero_point - 10)
    assert same(layer.to_params(), moved)
    np.testing.assert_array_equal(bits(layer(torch.tensor(X)).detach()), bits(fake_quantize(X, moved)))


def test_what_leaves_its_range_is_held_and_can_come_back() -> None:
    scheme = Scheme(UINT8, zero_point=ZeroRule.FREE)
    layer = FakeQuantizer(scheme, (1,), learn_scale=True, learn_zero_point=True)
    with torch.no_grad():
        layer.scale.fill_(-1)
        layer.zero_point.fill_(300.2)
    params = layer.to_params()
    assert params.scale.tolist() == [float(np.finfo(np.float32).smallest_subnormal)]
    assert params.zero_point.tolist() == [255]
    for sign in (1.0, -1.0):
        layer.zero_grad()
        scale, zero_point = layer.scale_and_zero_point()
        (scale * sign + zero_point * sign).sum().backward()
        assert layer.scale.grad.tolist() == [min(sign, 0.0)]  # descent must make the scale larger, ...
        assert layer.zero_point.grad.tolist() == [max(sign, 0.0)]  # ... and the zero point smaller


@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("grid", [IntGrid(4), IntGrid(4, False), floats.FLOAT4_E2M1, LogGrid(4), NF4], ids=str)
def test_a_learned_scale_moves_to_a_lower_squared_error(grid: Grid, rule: ScaleRule) -> None:
    """From a quarter of the best scale and from four times that, halfway to the best error there is, at least.

    Four times the best scale is as good as the best for a logarithm, whose steps grow with the number.
    """
    x = np.random.default_rng(2).standard_normal(4000).astype(np.float32)
    affine = grid == IntGrid(4, False)
    scheme = Scheme(grid, scale=rule, zero_point=ZeroRule.FREE if affine else ZeroRule.NONE)
    zero = np.array([8 if affine else 0], np.int32)

    def error(params: QParams[Grid]) -> float:
        return float(np.square(fake_quantize(x, params) - x).mean())

    tried = [QParams(scheme, np.float32([2.0 ** (i / 8)]), zero) for i in range(-48, 24, 8 if rule != "free" else 1)]
    best = min(tried, key=error)
    for factor in (0.25,) if isinstance(grid, LogGrid) else (0.25, 4):
        start = QParams(scheme, best.scale * np.float32(factor), zero)
        layer = FakeQuantizer.from_params(start, learn_scale=True, learn_zero_point=affine, gradient=1.0)
        optimizer = torch.optim.Adam(layer.parameters(), 0.05)
        data = torch.tensor(x)
        for _ in range(150):
            optimizer.zero_grad()
            (layer(data) - data).square().mean().backward()
            optimizer.step()
        assert error(layer.to_params()) < (error(start) + error(best)) / 2


def test_a_small_network_trains_through_its_quantizers() -> None:
    """Two layers, 3-bit weights and activations with learned scales, against a teacher: a tenth of the error is left."""
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    y = torch.tanh(x @ torch.randn(8, 4)) @ torch.randn(4, 1)
    weights = [torch.nn.Parameter(torch.randn(8, 32) * 0.3), torch.nn.Parameter(torch.randn(32, 1) * 0.2)]
    on_weights = [FakeQuantizer.from_params(params_of(w.detach().numpy(), Scheme(IntGrid(3), per_channel(1))), learn_scale=True)
                  for w in weights]  # fmt: skip
    hidden = params_of(np.float32([[0, 3]]), Scheme(IntGrid(4, False), zero_point=ZeroRule.FREE))
    on_hidden = FakeQuantizer.from_params(hidden, learn_scale=True, learn_zero_point=True)
    parts = torch.nn.ModuleList([*on_weights, on_hidden])
    starts = [copy.deepcopy(part).to_params() for part in parts]
    optimizer = torch.optim.Adam([*weights, *parts.parameters()], 0.01)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        found = on_hidden(torch.relu(x @ on_weights[0](weights[0]))) @ on_weights[1](weights[1])
        loss = (found - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert not any(same(part.to_params(), start) for part, start in zip(parts, starts, strict=True))


def test_stochastic_rounding_is_for_training() -> None:
    layer = FakeQuantizer(Scheme(INT8), rounding=torch.Generator().manual_seed(0))
    x = torch.full((10_000,), 0.25)
    assert set(layer(x).tolist()) == {0.0, 1.0}
    assert abs(float(layer(x).mean()) - 0.25) < 5 * (0.25 * 0.75 / 10_000) ** 0.5
    assert layer.eval()(x).tolist() == [0.0] * 10_000
    assert FakeQuantizer(Scheme(INT8), rounding=Rounding.CEIL)(x).tolist() == [1.0] * 10_000


def test_its_name_says_what_it_does() -> None:
    layer = FakeQuantizer(Scheme(UINT8, per_channel(1), zero_point=ZeroRule.FREE), (1, 3, 1), learn_scale=True)
    assert str(layer) == "FakeQuantizer(uint8 affine per-channel, scale learned)"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadOption, match=r"zero point of int8 symmetric per-tensor cannot be learned"):
        FakeQuantizer(Scheme(INT8), learn_zero_point=True)
    with pytest.raises(BadOption, match="cannot be learned"):
        FakeQuantizer(Scheme(INT32, zero_point=ZeroRule.FREE), learn_zero_point=True)
    odd = QParams(Scheme(INT8, scale=ScaleRule.POWER_OF_TWO), np.float32([0.3]), np.zeros(1, np.int32))
    with pytest.raises(BadOption, match=r"2\*\*-126 to 2\*\*127, found \[0\.3\]"):
        FakeQuantizer.from_params(odd, learn_scale=True)
    with pytest.raises(BadOption, match="does not fit"):
        FakeQuantizer(Scheme(INT8, per_channel(0)), (3, 1))(torch.zeros(4, 2))
    layer = FakeQuantizer(Scheme(INT8), learn_scale=True)
    with torch.no_grad():
        layer.scale.fill_(torch.nan)
    with pytest.raises(BadOption, match="positive and finite"):
        layer.to_params()
