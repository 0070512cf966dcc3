"""C++ and NumPy give the same bits, whatever the data, the stride and the number of threads."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.numerics import native
from halfeven.numerics.bins import exponent_for, sides

both = pytest.mark.skipif(not native.BUILT, reason="the extension is not built: there is nothing to compare")
ANY_FLOATS = hnp.arrays(np.float32, st.integers(0, 70), elements=st.floats(width=32))
DATA: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "relu": lambda rng, n: np.maximum(rng.standard_normal(n), -0.0),
    "constant": lambda rng, n: np.full(n, 2.5),
    "zeros": lambda rng, n: np.zeros(n) * rng.choice([-1, 1], n),
    "growing": lambda rng, n: rng.standard_normal(n) * 2.0 ** (np.arange(n) / max(n, 1) * 200 - 100),
    "any bits": lambda rng, n: rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32),
    "one outlier": lambda rng, n: np.where(np.arange(n) == n - 1, 1e4, rng.standard_normal(n)),
}


def same_histogram(x: np.ndarray, stride: int, threads: int) -> None:
    found = native.histogram(x, stride, threads)
    with native.use_numpy():
        expected = native.histogram(x, stride, threads)
    assert found[:2] == expected[:2]
    np.testing.assert_array_equal(found[2], expected[2], strict=True)


@both
@pytest.mark.parametrize("size", [0, 1, 3, 15, 16, 17, 33, 64, 1000, 4096, 10007])
@pytest.mark.parametrize("name", DATA)
def test_the_same_histogram_and_extrema(name: str, size: int) -> None:
    with np.errstate(invalid="ignore"):
        x = DATA[name](np.random.default_rng(size), size).astype(np.float32)
    found = native.extrema(x)
    with native.use_numpy():
        assert native.extrema(x) == found
    for stride in (1, 2, 7, 5000):
        same_histogram(x, stride, 1)


@both
@pytest.mark.parametrize(
    ("shape", "block"),
    [
        *(((1, 1), 1), ((1, 3, 1), 1), ((2, 5, 63), 1), ((1, 7, 64), 1), ((3, 4, 5, 13), 1), ((2, 2, 4097), 1)),
        *(((1, 16, 7, 7), 8), ((2, 32, 5, 3), 16), ((1, 48, 33), 16), ((2, 6, 9), 3), ((2, 8, 1, 1), 8)),
    ],
)
@pytest.mark.parametrize("name", DATA)
def test_the_same_summary_of_channels(name: str, shape: tuple[int, ...], block: int) -> None:
    with np.errstate(invalid="ignore"):
        x = DATA[name](np.random.default_rng(7), int(np.prod(shape))).astype(np.float32).reshape(shape)
    for stride, threads in ((1, 1), (4, 2), (5000, 1)):
        found = native.channel_summary(x, stride, block, threads)
        with native.use_numpy(), np.errstate(invalid="ignore"):
            expected = native.channel_summary(x, stride, block)
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs, strict=True)
            assert not np.signbit(mine[mine == 0]).any()


@both
@given(x=ANY_FLOATS, stride=st.integers(1, 9))
def test_the_same_histogram_of_any_floats(x: np.ndarray, stride: int) -> None:
    same_histogram(x, stride, 1)


@both
@pytest.mark.parametrize("name", DATA)
def test_the_number_of_threads_changes_nothing(name: str) -> None:
    with np.errstate(invalid="ignore"):
        x = DATA[name](np.random.default_rng(0), 600_001).astype(np.float32)
    for threads in (2, 3):
        same_histogram(x, 5, threads)
        assert native.extrema(x, threads) == native.extrema(x)


@both
@given(
    edges=hnp.arrays(np.float64, 16, elements=st.floats(-1e6, 1e6)),
    weights=hnp.arrays(np.float64, 16, elements=st.floats(-1e6, 1e6)),
    scale=hnp.arrays(np.float64, 3, elements=st.floats(1e-30, 1e30)),
)
def test_the_same_bits_of_grid_errors(edges: np.ndarray, weights: np.ndarray, scale: np.ndarray) -> None:
    low, high = np.array([-128.0, 0.0, -7.0]), np.array([127.0, 255.0, 8.0])
    found = native.grid_errors(edges, weights, scale, low, high)
    with native.use_numpy():
        np.testing.assert_array_equal(native.grid_errors(edges, weights, scale, low, high), found, strict=True)


@both
def test_the_same_bits_of_grid_errors_over_many_edges() -> None:
    rng = np.random.default_rng(3)
    for size in (8, 64, 4096, 4104):
        edges, weights = np.sort(rng.standard_normal(size)), rng.standard_normal(size)
        args = (edges, weights, rng.random(20) + 1e-3, np.full(20, -100.0), np.full(20, 155.0))
        found = native.grid_errors(*args)
        with native.use_numpy():
            np.testing.assert_array_equal(native.grid_errors(*args), found, strict=True)


def test_the_error_of_a_grid_is_the_integral_of_the_squared_difference() -> None:
    """Against the mean over a fine sample of [-2, 3], evenly spread, of which the codes -8..7 cover [-1.6, 1.4]."""
    edges = np.array([-2.0, 3.0] + [0.0] * 6)
    weights = np.array([-1 / 5, 1 / 5] + [0.0] * 6)  # density 1/5 starts at -2 and ends at 3
    found = native.grid_errors(edges, weights, np.array([0.2]), np.array([-8.0]), np.array([7.0]))[0]
    x = (np.arange(1_000_000) + 0.5) * 5e-6 - 2
    values = np.clip(np.rint(x / 0.2), -8, 7) * 0.2
    assert found == pytest.approx(np.mean((x - values) ** 2), rel=1e-6)


@given(x=ANY_FLOATS)
def test_a_histogram_counts_every_finite_element_once(x: np.ndarray) -> None:
    (low, high, nans, infs), zeros, counts = native.histogram(x)
    assert zeros + counts.sum() + nans + infs == x.size
    assert (counts >= 0).all()
    assert counts.size == sum(sides(low, high, exponent_for(low, high)))
    assert nans == np.isnan(x).sum()
    assert infs == np.isinf(x).sum()


def test_arrays_of_any_shape_and_layout_are_read_in_c_order() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    by_column = native.histogram(x.T, stride=5)
    flat = native.histogram(np.ascontiguousarray(x.T), stride=5)
    np.testing.assert_array_equal(by_column[2], flat[2])
    frozen = x.copy()
    frozen.flags.writeable = False
    assert native.extrema(frozen[::2, ::3]) == (0.0, 15.0, 0, 0)


def test_use_numpy_ends_with_its_block() -> None:
    assert native.native() == native.BUILT
    with native.use_numpy():
        assert not native.native()
    assert native.native() == native.BUILT


@both
def test_the_extension_refuses_what_it_cannot_read() -> None:
    x, three = np.zeros(8), np.zeros(3)
    with pytest.raises(ValueError, match="a multiple of 8"):
        native.grid_errors(three, three, x, x, x)
    with pytest.raises(ValueError, match="must have one length"):
        native.grid_errors(x, x, x, x, three)
    with pytest.raises(ValueError, match="stride must be at least 1"):
        native.histogram(np.zeros(3, np.float32), stride=0)
    with pytest.raises(TypeError):
        native.extrema(np.zeros(3, np.float64))  # type: ignore[arg-type]
