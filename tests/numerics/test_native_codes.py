"""C++ and NumPy give the same codes, values and gradients, bit for bit, over millions of adversarial elements."""

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadOption
from halfeven.numerics import lsq, native
from halfeven.numerics.grid import INT8, INT8_NARROW, INT16, INT32, UINT8, IntGrid
from halfeven.numerics.quantize import dequantize, fake_quantize, quantize
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, Tiling, ZeroRule, per_channel

both = pytest.mark.skipif(not native.BUILT, reason="the extension is not built: there is nothing to compare")
GRIDS = (INT8, UINT8, INT8_NARROW, INT16, IntGrid(16, signed=False), INT32, IntGrid(4), IntGrid(1), IntGrid(20))
LAYOUTS = {
    "per tensor": (PER_TENSOR, (41, 5, 7)),
    "per channel, long runs": (per_channel(0), (6, 90)),
    "per channel, short runs": (per_channel(1), (41, 5, 7)),
    "per channel, last axis": (per_channel(2), (13, 3, 33)),
    "groups": (Tiling(((0, 1), (1, 32))), (3, 96)),
    "groups that rows share": (Tiling(((1, 32),)), (3, 96)),
    "one row longer than a stretch": (per_channel(1), (2, 3000)),
    "empty": (per_channel(1), (0, 4, 3)),
}
MILLION = 1 << 20


def adversaries(rng: np.random.Generator, count: int, scale: float = 2.0**-4) -> np.ndarray:
    """A third any bits (NaN, infinities, subnormals among them), a third ties and their neighbours, a third normal."""
    bits = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    ties = ((rng.integers(-40000, 40000, count) + 0.5) * scale).astype(np.float32)
    near = np.nextafter(ties, rng.choice(np.float32([-np.inf, 0, np.inf]), count))
    return np.choose(rng.integers(0, 3, count), [bits, np.where(rng.random(count) < 0.3, ties, near),
                                                  rng.standard_normal(count, dtype=np.float32)])  # fmt: skip


def params_on(rng: np.random.Generator, grid: IntGrid, tiling: Tiling, shape: tuple[int, ...]) -> QParams:
    scale_shape = tiling.scale_shape(shape)
    scale = rng.choice(np.float32([2**-4, 0.0123, 1.1754944e-38, 3e37, 0.37]), scale_shape)
    zero = rng.integers(grid.low, grid.high, scale_shape, endpoint=True) * rng.integers(0, 2, scale_shape)
    return QParams(Scheme(grid, tiling, zero_point=ZeroRule.FREE), scale, zero.astype(np.int32))


def same_codes_and_values(x: np.ndarray, params: QParams) -> None:
    grid = params.scheme.grid
    with native.use_numpy():
        codes = quantize(x, params)
        values = dequantize(codes, params)
        assert values.tobytes() == fake_quantize(x, params).tobytes()
    by = (params.scale, params.zero_point)
    found = native.quantize(x, *by, grid.low, grid.high, grid.dtype)
    assert found is not None
    np.testing.assert_array_equal(found, codes, strict=True)
    for again in (native.dequantize(codes, *by), native.fake_quantize(x, *by, grid.low, grid.high)):
        assert again is not None
        assert (again.dtype, again.shape, again.tobytes()) == (values.dtype, values.shape, values.tobytes())


@both
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_codes_and_values(grid: IntGrid, layout: str) -> None:
    rng = np.random.default_rng(7)
    tiling, shape = LAYOUTS[layout]
    x = adversaries(rng, int(np.prod(shape))).reshape(shape)
    same_codes_and_values(x, params_on(rng, grid, tiling, shape))


@both
@pytest.mark.parametrize("grid", [INT8, UINT8, INT16, INT32], ids=str)
@pytest.mark.parametrize("tiling", [PER_TENSOR, per_channel(0), per_channel(1)], ids=["tensor", "long", "last"])
def test_the_same_codes_and_values_of_a_million_elements(grid: IntGrid, tiling: Tiling) -> None:
    rng = np.random.default_rng(8)
    x = adversaries(rng, MILLION).reshape(1024, 1024)
    params = params_on(rng, grid, tiling, x.shape)
    if tiling is PER_TENSOR:  # of which all thirds of the data are on the grid, ties as well
        params = QParams(params.scheme, np.full((1, 1), 2.0**-4, np.float32), params.zero_point)
    same_codes_and_values(x, params)


@both
def test_every_float_around_each_boundary_of_int8_gets_its_code() -> None:
    """1000 floats on either side of each of the 255 boundaries, for scales that are no powers of two."""
    for scale in np.float32([0.0123, 1 / 3, 0.0784313772, 7.0]):
        ties = ((np.arange(-128, 127) + 0.5) * np.float64(scale)).astype(np.float32)
        bits = ties.view(np.int32)[:, None] + np.arange(-1000, 1001, dtype=np.int32)
        for zero in (0, 3):
            params = QParams(Scheme(INT8), np.array([[scale]]), np.array([[zero]], np.int32))
            same_codes_and_values(bits.view(np.float32), params)


@both
@given(
    x=hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)),
    scale=st.floats(2.0**-126, 2.0**120, width=32),
    zero=st.integers(-128, 127),
)
def test_the_same_codes_of_any_floats(x: np.ndarray, scale: float, zero: int) -> None:
    params = QParams(Scheme(INT8), np.float32([scale]), np.array([zero], np.int32))
    same_codes_and_values(x, params)


@both
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32])
def test_any_code_of_any_type_has_the_same_value(dtype: type[np.integer]) -> None:
    rng = np.random.default_rng(9)
    info = np.iinfo(dtype)
    codes = rng.integers(info.min, info.max, MILLION, dtype, endpoint=True).reshape(64, -1)
    zero = rng.integers(-(2**20) if info.bits < 32 else -(2**31), 2**20, (64, 1)).astype(np.int32)
    params = QParams(Scheme(INT32, per_channel(0)), rng.random((64, 1), np.float32) + np.float32(1e-9), zero)
    with native.use_numpy():
        expected = dequantize(codes, params)
    np.testing.assert_array_equal(native.dequantize(codes, params.scale, params.zero_point), expected, strict=True)


def test_the_vector_of_the_specification_in_eight_sixteen_and_thirty_two_bits() -> None:
    x = np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, -0.0, np.inf, -np.inf, np.nan])
    one, zero = np.ones(1, np.float32), np.zeros(1, np.int32)
    for grid in (INT8, INT16, INT32):
        expected = [-2, -2, 0, 0, 2, 2, 0, grid.high, grid.low, grid.low]
        assert quantize(x, QParams(Scheme(grid), one, zero)).tolist() == expected
        if native.BUILT:
            found = native.quantize(x, one, zero, grid.low, grid.high, grid.dtype)
            assert found is not None
            assert (found.dtype, found.tolist()) == (grid.dtype, expected)
    for dtype in (np.int8, np.int32):
        codes = np.array([-5, 3, 100], dtype)
        affine = QParams(Scheme(INT8), np.float32([0.5]), np.array([3], np.int32))
        assert dequantize(codes, affine).tolist() == [-4.0, 0.0, 48.5]


@both
def test_arrays_of_any_layout_are_read_in_c_order() -> None:
    x = np.arange(-12, 12, dtype=np.float32).reshape(4, 6)
    x.flags.writeable = False
    scale, zero = np.full((1, 4), 0.5, np.float32), np.zeros((1, 4), np.int32)
    for view in (x.T, x.T[::-1], np.asfortranarray(x.T)):
        found = native.quantize(view, scale, zero, -128, 127, np.dtype(np.int8))
        np.testing.assert_array_equal(found, (view * 2).astype(np.int8), strict=True)


@both
@pytest.mark.parametrize("shape", [(12,), (3, 4), (1,), (0,)], ids=str)
def test_broadcast_and_strided_arrays_are_read_as_their_copies_are(shape: tuple[int, ...]) -> None:
    """Zero strides are what expanding a tensor gives, and steps of two what slicing gives, along one axis or all."""
    half, eight = np.broadcast_to(np.float32(0.5), shape), np.broadcast_to(np.int8(8), shape)
    scale, zero = (np.broadcast_to(one, (1,) * len(shape)) for one in (np.float32(0.25), np.int32(3)))
    sliced = np.full(2 * max(shape), 0.5, np.float32)[::2] if len(shape) == 1 else half
    for x in (half, sliced):
        codes = native.quantize(x, scale, zero, -128, 127, np.dtype(np.int8))
        np.testing.assert_array_equal(codes, np.full(shape, 5, np.int8), strict=True)
        values = native.fake_quantize(x, scale, zero, -128, 127)
        np.testing.assert_array_equal(values, np.full(shape, 0.5, np.float32), strict=True)
        found = native.lsq_backward(x, x, scale, zero, -128, 127)
        assert found is not None
        np.testing.assert_array_equal(found[0], np.full(shape, 0.5, np.float32), strict=True)
    np.testing.assert_array_equal(native.dequantize(eight, scale, zero), np.full(shape, 1.25, np.float32), strict=True)


@both
def test_a_scale_broadcast_over_the_channels_is_every_channels_scale() -> None:
    x = np.arange(-12, 12, dtype=np.float32).reshape(4, 6)
    for shape in ((4, 1), (1, 6)):
        scale, zero = np.broadcast_to(np.float32(0.5), shape), np.broadcast_to(np.int32(3), shape)
        codes = native.quantize(x, scale, zero, -128, 127, np.dtype(np.int8))
        np.testing.assert_array_equal(codes, (x * 2 + 3).astype(np.int8), strict=True)


@both
def test_what_has_no_form_in_c_is_left_to_numpy() -> None:
    x, one, zero = np.zeros((2, 3, 4), np.float32), np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.int32)
    int8 = np.dtype(np.int8)
    apart = np.ones((2, 1, 4), np.float32)
    assert native.quantize(x.astype(np.float64), one, zero, -128, 127, int8) is None
    assert native.quantize(x, one, zero, 0, 2**32 - 1, np.dtype(np.uint32)) is None
    assert native.quantize(x, apart, np.zeros((2, 1, 4), np.int32), -128, 127, int8) is None
    assert native.dequantize(x.astype(np.int64), one, zero) is None
    assert native.fake_quantize(x, one, zero, 0, 2**32 - 1) is None
    with native.use_numpy():
        assert native.quantize(x, one, zero, -128, 127, int8) is None


@both
def test_the_extension_refuses_arrays_that_do_not_fit() -> None:
    x, codes = np.zeros(6, np.float32), np.zeros(6, np.int8)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="outer \\* channels \\* inner"):
        native._native.quantize(x, (1, 1, 7), one, zero, -128, 127, codes)
    with pytest.raises(ValueError, match="outer \\* channels \\* inner"):
        native._native.quantize(x, (1, 1, 6), one, zero, -128, 127, codes[:5])
    with pytest.raises(ValueError, match="one element per channel"):
        native._native.quantize(x, (1, 2, 3), one, zero, -128, 127, codes)
    with pytest.raises(ValueError, match=r"within 2\*\*20"):
        native._native.quantize(x, (1, 1, 6), one, zero + 2**21, -128, 127, codes)
    with pytest.raises(ValueError, match="a gradient must have the size"):
        native._native.lsq_backward(x, x[:5], (1, 1, 6), one, zero, -128, 127, x.copy(), one.copy(), one.copy())
    frozen = codes.copy()
    frozen.flags.writeable = False
    with pytest.raises(TypeError):
        native._native.quantize(x, (1, 1, 6), one, zero, -128, 127, frozen)


SHAPES = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))


@given(shape=SHAPES, scaled=st.tuples(*[st.booleans()] * 4))
def test_a_cut_gives_each_element_the_channel_whose_scale_it_has(
    shape: tuple[int, ...], scaled: tuple[bool, ...]
) -> None:
    scale_shape = tuple(size if mine else 1 for size, mine in zip(shape, scaled, strict=True))
    parts = native.cut(shape, scale_shape)
    axes = [axis for axis, n in enumerate(scale_shape) if n != 1]
    between = [axis for axis in range(axes[0], axes[-1]) if shape[axis] != 1] if axes else []
    if any(axis not in axes for axis in between):
        assert parts is None
        return
    assert parts is not None
    index = np.arange(np.prod(scale_shape)).reshape(scale_shape)
    expected = np.broadcast_to(index, shape).ravel()
    by_parts = np.broadcast_to(np.arange(parts[1]).reshape(1, -1, 1), parts).ravel()
    np.testing.assert_array_equal(by_parts, expected)


# ---- gradients ---------------------------------------------------------------------------------------------------


def by_hand(x: float, g: float, scale: float, zero: int, low: int, high: int) -> tuple[float, Fraction, Fraction]:
    """One element's three gradients, exact but for the float32 quotient."""
    r = np.float32(x) / np.float32(scale)
    if np.float32(low - zero) < r < np.float32(high - zero):
        return g, Fraction(g) * (round(Fraction(float(r))) - Fraction(float(r))), Fraction(0)
    end = high - zero if r >= np.float32(high - zero) else low - zero
    return 0.0, Fraction(g) * end, -Fraction(g) * Fraction(float(np.float32(scale)))


@pytest.fixture(params=["C++", "NumPy"])
def each_way(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "NumPy":
        with native.use_numpy():
            yield
    elif native.BUILT:
        yield
    else:
        pytest.skip("the extension is not built")


@pytest.mark.usefixtures("each_way")
def test_gradients_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(3)
    x, g = rng.standard_normal((2, 3, 20)).astype(np.float32) * 3, rng.standard_normal((2, 3, 20), np.float32)
    x[0, 0, :4] = [-8 * 0.25, 7 * 0.25, 0.125, 1e30]  # both ends, a tie, far beyond
    scale, zero = np.float32([0.25, 0.3, 0.01]).reshape(1, 3, 1), np.array([0, 2, -1], np.int32).reshape(1, 3, 1)
    grad_x, grad_scale, grad_zero = lsq.lsq_backward(x, g, scale, zero, -8, 7)
    for c in range(3):
        rows = [by_hand(float(a), float(b), float(scale[0, c, 0]), int(zero[0, c, 0]), -8, 7)
                for a, b in zip(x[:, c].ravel(), g[:, c].ravel(), strict=True)]  # fmt: skip
        assert grad_x[:, c].ravel().tolist() == [row[0] for row in rows]
        assert grad_scale[0, c, 0] == pytest.approx(float(sum(row[1] for row in rows)), rel=1e-6)
        assert grad_zero[0, c, 0] == pytest.approx(float(sum(row[2] for row in rows)), rel=1e-6)


@pytest.mark.usefixtures("each_way")
def test_beyond_the_ends_the_gradients_are_the_slopes_of_fake_quantization() -> None:
    """There the value is linear in scale and zero point, so a difference quotient is the derivative."""
    x, g = np.float32([-30, 30, 50]), np.float32([1, 0.5, -2])
    scheme = Scheme(INT8)

    def loss(scale: float, zero: int) -> float:
        params = QParams(scheme, np.float32([scale]), np.array([zero], np.int32))
        return float((fake_quantize(x, params).astype(np.float64) * g).sum())

    _, by_scale, by_zero = lsq.lsq_backward(x, g, np.float32([0.125]), np.array([3], np.int32), -128, 127)
    assert by_scale[0] == (loss(0.25 * 0.5 + 2**-10, 3) - loss(0.125, 3)) / 2**-10
    assert by_zero[0] == loss(0.125, 4) - loss(0.125, 3)


def same_gradients(x: np.ndarray, g: np.ndarray, params: QParams) -> None:
    grid = params.scheme.grid
    found = native.lsq_backward(x, g, params.scale, params.zero_point, grid.low, grid.high)
    with native.use_numpy():
        expected = lsq.lsq_backward(x, g, params.scale, params.zero_point, grid.low, grid.high)
    assert found is not None
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (np.float32, b.shape)
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


@both
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grid", [INT8, UINT8, INT16, IntGrid(4)], ids=str)
def test_the_same_gradients(grid: IntGrid, layout: str) -> None:
    rng = np.random.default_rng(4)
    tiling, shape = LAYOUTS[layout]
    x = adversaries(rng, int(np.prod(shape))).reshape(shape)
    same_gradients(x, rng.standard_normal(shape, np.float32), params_on(rng, grid, tiling, shape))


@both
@pytest.mark.parametrize("tiling", [PER_TENSOR, per_channel(0), per_channel(1)], ids=["tensor", "long", "last"])
def test_the_same_gradients_of_a_million_elements(tiling: Tiling) -> None:
    rng = np.random.default_rng(5)
    x = adversaries(rng, MILLION).reshape(1024, 1024)
    same_gradients(x, rng.standard_normal(x.shape, np.float32), params_on(rng, INT8, tiling, x.shape))


@both
@given(
    x=hnp.arrays(np.float32, (3, 2, 5), elements=st.floats(width=32)),
    g=hnp.arrays(np.float32, (3, 2, 5), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    axis=st.integers(0, 2),
)
def test_the_same_gradients_of_any_floats(x: np.ndarray, g: np.ndarray, axis: int) -> None:
    shape = per_channel(axis).scale_shape(x.shape)
    params = QParams(Scheme(INT8, per_channel(axis)), np.full(shape, 0.1, np.float32), np.ones(shape, np.int32))
    same_gradients(x, g, params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {**a, "grad": a["grad"][:1]}, "do not fit"),
        (lambda a: {**a, "high": 70000}, "more than 16 bits"),
        (lambda a: {**a, "scale": np.ones((2, 1, 4), np.float32), "zero_point": np.zeros((2, 1, 4), np.int32)},
         "axes with one between"),
    ],
)  # fmt: skip
def test_gradients_that_cannot_be_given_are_refused(change: Callable[[dict], dict], message: str) -> None:
    x = np.ones((2, 3, 4), np.float32)
    one, zero = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.int32)
    with pytest.raises(BadOption, match=message):
        lsq.lsq_backward(**change({"x": x, "grad": x, "scale": one, "zero_point": zero, "low": -128, "high": 127}))
