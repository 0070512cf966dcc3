"""Promised: the gradients are those of the formulas, bit for bit where they are `numerics.lsq`'s, and the derivatives of
the smooth functions that the straight-through estimator puts in place of rounding; there is one for every grid.
"""

# ruff: noqa: E402

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from halfeven.numerics import blocks, floats, lsq, native
from halfeven.numerics.binary import BinaryGrid, TernaryGrid
from halfeven.numerics.codebook import NF4
from halfeven.numerics.grid import INT8, INT8_NARROW, INT16, INT32, UINT8, Grid, IntGrid
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import PER_TENSOR, Tiling, per_channel
from halfeven.training.blocks import fake_quantize_blocks
from halfeven.training.fake_quantize import fake_quantize
from halfeven.training.values import ends_of, values_of

SHAPE = (6, 4, 40)
TILINGS = {"tensor": PER_TENSOR, "first": per_channel(0), "middle": per_channel(1), "last": per_channel(2),
           "groups": Tiling(((0, 1), (1, 1), (2, 8))), "both sides": Tiling(((0, 1), (2, 1)))}  # fmt: skip
INTS = [INT8, UINT8, INT8_NARROW, INT16, IntGrid(4), IntGrid(2)]
VALUES = [floats.FLOAT8_E4M3FN, floats.FLOAT4_E2M1, floats.FLOAT16, floats.FLOAT8_E4M3FNUZ, LogGrid(4),
          LogGrid(4, signed=False), NF4]  # fmt: skip
Bits = Callable[[object], np.ndarray]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def drawn(grid: Grid, tiling: Tiling, seed: int = 0) -> Arrays:
    """x, its gradient, scale and zero point; a fair part is beyond the ends."""
    rng = np.random.default_rng(seed)
    shape = tiling.scale_shape(SHAPE)
    top = float(grid.high) if not isinstance(grid, BinaryGrid | TernaryGrid) else 1.0
    scale = rng.uniform(0.5, 1, shape).astype(np.float32)
    zero = np.zeros(shape, np.int32)
    if isinstance(grid, IntGrid):
        zero = rng.integers(grid.low, grid.high, shape, endpoint=True).astype(np.int32)
    x = (rng.uniform(-1.5, 1.5, SHAPE) * top * 0.75).astype(np.float32)
    if isinstance(grid, IntGrid):  # the ends themselves, which are not inside
        whole = tiling != TILINGS["groups"]
        x[..., :8] = ((grid.low - zero) * scale)[..., :1] if whole else x[..., :8]
        x[..., -8:] = ((grid.high - zero) * scale)[..., -1:] if whole else x[..., -8:]
    return x, rng.standard_normal(SHAPE, np.float32), np.asarray(scale), np.asarray(zero)


def gradients(grid: Grid, arrays: Arrays, device: str, **options: object) -> list[np.ndarray]:
    """Gradients of x, scale and zero point by autograd."""
    x, g, scale, zero = (torch.tensor(a, device=device) for a in arrays)
    leaves = [x.requires_grad_(), scale.requires_grad_()]
    if isinstance(grid, IntGrid):
        zero = zero.float().requires_grad_()
        leaves.append(zero)
    fake_quantize(x, scale, zero, grid, **options).backward(g)
    return [leaf.grad.cpu().numpy() for leaf in leaves]


@pytest.mark.parametrize("grid", INTS, ids=str)
@pytest.mark.parametrize("tiling", [t for name, t in TILINGS.items() if name != "both sides"], ids=str)
def test_integers_have_the_gradients_of_lsq(grid: IntGrid, tiling: Tiling, device: str, bits: Bits) -> None:
    arrays = drawn(grid, tiling)
    with native.use_numpy():
        expected = lsq.lsq_backward(*arrays, grid.low, grid.high)
    found = gradients(grid, arrays, device)
    np.testing.assert_array_equal(bits(found[0]), bits(expected[0]))
    for one, other in zip(found[1:], expected[1:], strict=True):
        if device == "cpu":
            np.testing.assert_array_equal(bits(one), bits(other))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.abs(other).max())


@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
@pytest.mark.parametrize("grid", [*INTS, INT32, IntGrid(24, False)], ids=str)
def test_in_tensor_operators_the_sums_are_right_to_the_last_place(grid: IntGrid, tiling: Tiling, bits: Bits) -> None:
    """A tensor with gaps does not go through `numerics.lsq`; wide codes have zero points that are not learned."""
    x, g, scale, zero = arrays = drawn(grid, tiling)
    view = torch.tensor(np.repeat(x, 2, 2))[:, :, ::2].requires_grad_()
    step, rest = torch.tensor(scale, requires_grad=True), torch.tensor(zero)
    if grid.bits <= 16:
        rest = rest.float().requires_grad_()
    fake_quantize(view, step, rest, grid).backward(torch.tensor(g))
    by_x, by_scale, by_zero = closed_form(grid, arrays)
    np.testing.assert_array_equal(bits(view.grad), bits(by_x))
    np.testing.assert_array_max_ulp(step.grad.numpy(), by_scale, 1)
    if grid.bits <= 16:
        np.testing.assert_array_max_ulp(rest.grad.numpy(), by_zero, 1)


def closed_form(grid: IntGrid, arrays: Arrays) -> list[np.ndarray]:
    """The table of `fake_quantize`'s docstring; x / scale and g * t are float32, if codes are, and sums float64."""
    x, g, scale, zero = arrays
    wide = [np.repeat(part, size // n, axis) if n not in (1, size) else part
            for part in (scale, zero) for axis, n, size in [(2, part.shape[2], SHAPE[2])]]  # fmt: skip
    r, s, z = (x / wide[0]).astype(np.float64), wide[0].astype(np.float64), wide[1].astype(np.float64)
    inside = (grid.low - z < r) & (r < grid.high - z)
    v = np.clip(r, grid.low - z, grid.high - z)
    t = np.where(inside, np.rint(v) - v, v).astype(np.float64 if grid.bits > 23 else np.float32)
    shape = [d for n, size in zip(scale.shape, SHAPE, strict=True) for d in (n, size // n)]
    terms = [np.asarray(part, np.float64).reshape(shape) for part in (g * t, -s * np.where(inside, 0, g))]
    sums = [part.sum((1, 3, 5)).astype(np.float32) for part in terms]
    return [np.where(inside, g, np.float32(0)), *sums]


@pytest.mark.parametrize("tiling", TILINGS.values(), ids=TILINGS)
@pytest.mark.parametrize("grid", VALUES, ids=str)
def test_floats_logs_and_codebooks_have_the_same_rule(grid: Grid, tiling: Tiling, device: str) -> None:
    arrays = x, g, scale, _ = drawn(grid, tiling)
    by_x, by_scale = gradients(grid, arrays, device)
    step = scale if scale.shape[2] in (1, 40) else scale.repeat(8, 2)
    r = x / step
    q = values_of(torch.tensor(r), grid).numpy()
    low, high = ends_of(grid)
    inside = (low < r) & (r < high)
    assert inside.any()
    assert not inside.all()
    np.testing.assert_array_equal(by_x, np.where(inside, g, 0))
    t = np.where(inside, q.astype(np.float64) - r, np.where(np.isfinite(q), q, 0))
    shape = [d for n, size in zip(scale.shape, SHAPE, strict=True) for d in (n, size // n)]
    expected = (g * t).reshape(shape).sum((1, 3, 5))
    np.testing.assert_allclose(by_scale, expected, rtol=3e-6, atol=1e-6 * np.abs(expected).max())


def test_beyond_a_float_that_does_not_saturate_there_is_no_gradient() -> None:
    x = torch.tensor([1.0, 1e6, torch.inf, torch.nan], requires_grad=True)
    scale = torch.ones(1, requires_grad=True)
    fake_quantize(x, scale, torch.zeros(1, dtype=torch.int32), floats.FLOAT16).backward(torch.ones(4))
    assert x.grad.tolist() == [1, 0, 0, 0]
    assert scale.grad.tolist() == [0]


@pytest.mark.parametrize("grid", [INT8, *VALUES], ids=str)
def test_the_gradient_is_the_derivative_of_the_surrogate(grid: Grid) -> None:
    """Between the ends the surrogate is x + scale * (q0 - r0), with rounding's error held; beyond it is scale * end.

    It is piecewise linear, so that central differences in float64 are exact but for rounding.
    """
    x, g, scale, zero = arrays = drawn(grid, per_channel(0), seed=3)
    zero[...] = 0
    low, high = (grid.low, grid.high) if isinstance(grid, IntGrid) else ends_of(grid)
    x64, s64 = x.astype(np.float64), scale.astype(np.float64)
    x64[np.abs(x64 / s64 - high) < 1e-3] += 0.01
    x64[np.abs(x64 / s64 - low) < 1e-3] += 0.01
    arrays = (x64, g, scale, zero)
    r0 = x64 / s64
    inside = (low < r0) & (r0 < high)
    end = fake_quantize(torch.tensor(r0), torch.ones(()), torch.zeros((), dtype=torch.int32), grid).numpy()
    end = np.where(np.isfinite(end), end, 0)

    def surrogate(x: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.where(inside, x + s * (end - r0), s * end)

    h = 1e-6
    by_x = (surrogate(x64 + h, s64) - surrogate(x64 - h, s64)) / (2 * h) * g
    by_scale = ((surrogate(x64, s64 + h) - surrogate(x64, s64 - h)) / (2 * h) * g).sum((1, 2), keepdims=True)
    found = gradients(grid, arrays, "cpu")
    np.testing.assert_allclose(found[0], by_x, atol=1e-7 * np.abs(end * s64).max())
    np.testing.assert_allclose(found[1], by_scale, rtol=1e-4, atol=1e-5 * np.abs(end).max())


def test_the_zero_point_moves_what_saturates_and_nothing_else(device: str) -> None:
    """With codes -4..3 and zero point 1, beyond the ends the value is (end - zero_point) * scale."""
    x = np.float32([-30, -1.1, 0.3, 1.2, 30])
    arrays = (x, np.float32([1, 10, 100, 1000, 7]), np.float32([2]), np.array([1], np.int32))
    by_x, by_scale, by_zero = gradients(IntGrid(3), arrays, device)
    assert by_x.tolist() == [0, 10, 100, 1000, 0]
    assert by_zero.tolist() == [-2 * (1 + 7)]
    t = [-4 - 1, -1 + 0.55, 0 - 0.15, 1 - 0.6, 3 - 1]
    np.testing.assert_allclose(by_scale, [np.dot(t, arrays[1])], rtol=1e-5)


def test_a_sign_passes_the_gradient_between_minus_one_and_one(device: str) -> None:
    x = np.float32([-1.5, -1, -0.2, 0, 0.7, 1, 1.0001])
    g = np.float32([1, 2, 3, 4, 5, 6, 7])
    by_x, by_scale = gradients(BinaryGrid(), (x, g, np.float32([0.3]), np.zeros(1, np.int32)), device)
    assert by_x.tolist() == [0, 2, 3, 4, 5, 6, 0]
    assert by_scale.tolist() == [-1 - 2 - 3 + 4 + 5 + 6 + 7]
    by_x, by_scale = gradients(TernaryGrid(), (x, g, np.float32([0.6]), np.zeros(1, np.int32)), device)
    assert by_x.tolist() == g.tolist()
    assert by_scale.tolist() == [-1 - 2 + 5 + 6 + 7]


def test_blocks_pass_the_gradient_straight_through(device: str) -> None:
    x = torch.randn(3, 64, device=device, requires_grad=True)
    g = torch.randn(3, 64, device=device)
    for form in (blocks.MXFP4, blocks.NVFP4, blocks.MXINT8):
        x.grad = None
        fake_quantize_blocks(x, form).backward(g)
        assert torch.equal(x.grad, g)


@pytest.mark.parametrize(
    "grid", [INT8, INT32, floats.FLOAT8_E4M3FN, LogGrid(4), NF4, BinaryGrid(), TernaryGrid()], ids=str
)
def test_half_precision_has_gradients_of_its_own_dtype(grid: Grid, device: str) -> None:
    x, g, scale, zero = (torch.tensor(a, device=device) for a in drawn(grid, per_channel(1)))
    full = [leaf.clone().requires_grad_() for leaf in (x.bfloat16().float(), scale)]
    fake_quantize(full[0], full[1], zero, grid).backward(g.bfloat16().float())
    half = [leaf.clone().requires_grad_() for leaf in (x.bfloat16(), scale)]
    fake_quantize(half[0], half[1], zero, grid).backward(g.bfloat16())
    assert half[0].grad.dtype == torch.bfloat16
    assert torch.equal(half[0].grad.float(), full[0].grad)
    torch.testing.assert_close(half[1].grad, full[1].grad, rtol=1e-5, atol=1e-3)


def test_the_factor_multiplies_the_gradients_of_what_is_learned_only(device: str) -> None:
    for grid in (INT8, floats.FLOAT4_E2M1, BinaryGrid()):
        plain, scaled = (gradients(grid, drawn(grid, PER_TENSOR), device, gradient=factor) for factor in (1.0, 0.5))
        np.testing.assert_array_equal(plain[0], scaled[0])
        for one, other in zip(plain[1:], scaled[1:], strict=True):
            np.testing.assert_array_equal(one * np.float32(0.5), other)


def test_stochastic_rounding_is_the_same_on_the_way_back(device: str) -> None:
    """The draws are kept, so that the gradient of the scale, sum of q - r, belongs to the values that were given."""
    for grid in (INT8, floats.FLOAT8_E4M3FN):
        x = torch.randn(2000, device=device).requires_grad_()
        scale = torch.full((1,), 0.25, device=device, requires_grad=True)
        zero = torch.zeros(1, dtype=torch.int32, device=device)
        generator = torch.Generator(device).manual_seed(1)
        values = fake_quantize(x, scale, zero, grid, rounding=generator)
        state = generator.get_state()
        values.sum().backward()
        assert torch.equal(generator.get_state(), state)
        expected = ((values / scale).double() - (x / scale).double()).sum()
        torch.testing.assert_close(scale.grad.double(), expected.reshape(1), rtol=1e-5, atol=1e-4)
        assert not torch.equal(values, fake_quantize(x, scale, zero, grid))


def test_any_rule_has_the_gradient_of_its_own_rounding(device: str) -> None:
    x, g, scale, zero = arrays = drawn(INT8, PER_TENSOR)
    _, by_scale, _ = gradients(INT8, arrays, device, rounding=Rounding.FLOOR)
    r = (x / scale).astype(np.float64)
    v = np.clip(r, -128 - zero, 127 - zero)
    t = np.where((r > -128 - zero) & (r < 127 - zero), np.floor(v) - v, v)
    np.testing.assert_allclose(by_scale.ravel(), [(g * t).sum()], rtol=3e-6)


def test_a_second_derivative_is_refused() -> None:
    x = torch.ones(3, requires_grad=True)
    values = fake_quantize(x, torch.ones(1), torch.zeros(1, dtype=torch.int32), INT8)
    (first,) = torch.autograd.grad(values.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
