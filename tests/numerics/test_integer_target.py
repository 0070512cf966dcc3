"""Promised: the operators of the integer target are their formulas, each rounded once, half up: against exact fractions;
sums against XNNPACK's kernel, which they are; geometry against ONNX Runtime's operators on whole numbers.
"""

from fractions import Fraction
from math import floor

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from halfeven.errors import BadOption
from halfeven.numerics import elementwise, integer_target
from halfeven.numerics.elementwise import Addition, Affine, Output
from halfeven.numerics.grid import INT8
from halfeven.numerics.integer_target import affine_of, fixed_multiplier, output_of, rescale
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule, per_channel
from halfeven.numerics.windows import Window

scales = st.floats(2.0**-20, 2.0**6).map(np.float32).map(float)
zeros = st.integers(-128, 127)
affines = st.builds(Affine, scales, zeros)
outputs = st.builds(lambda a: Output(a, -128, 127), affines)


def onnxruntime(kind: str, *operands: np.ndarray, opset: int = 19, **attributes: object) -> np.ndarray:
    """One operator of ONNX Runtime."""
    infos = [
        helper.make_tensor_value_info(f"i{k}", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for k, x in enumerate(operands)
    ]
    node = helper.make_node(kind, [i.name for i in infos], ["y"], **attributes)
    graph = helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {i.name: x for i, x in zip(infos, operands, strict=True)})[0])


def codes(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def once(acc: int, real: float, out: Output) -> int:
    """The rule, in exact fractions: the multiplier in 31 bits, then one rounding, half up."""
    by = fixed_multiplier(real)
    value = floor(Fraction(acc) * int(by.mantissa) / 2 ** int(by.shift) + Fraction(1, 2)) + out.affine.zero_point
    return min(max(value, out.low), out.high)


@given(st.integers(-(2**31), 2**31 - 1), st.floats(2.0**-40, 2.0**20), outputs)
def test_rescale_rounds_once(acc: int, real: float, out: Output) -> None:
    assert int(rescale(np.array(acc), real, out)) == once(acc, real, out)


@given(st.floats(2.0**-31, 2.0**20))
def test_a_stored_multiplier_has_31_bits_and_a_shift_that_fits(real: float) -> None:
    by = fixed_multiplier(real)
    assert 1 << 30 <= int(by.mantissa) < 1 << 31
    assert 1 <= int(by.shift) <= 62
    assert abs(float(by.real) / real - 1) <= 2.0**-31


@given(affines, affines, outputs, st.sampled_from((1, -1)))
def test_a_sum_is_xnnpack_s_where_that_is_defined(a: Affine, b: Affine, out: Output, sign: int) -> None:
    x, y = codes(1, 500), codes(2, 500)
    ratios = np.array([a.scale, b.scale], np.float32) / np.float32(out.affine.scale)
    if not ratios.max() < 2.0**21:
        with pytest.raises(BadOption, match="input scales"):
            integer_target.sum_multipliers(a.scale, b.scale, out.affine.scale)
        return
    found = integer_target.add(x, y, a, b, out, sign)
    exact = (x.astype(int) - a.zero_point) * float(ratios[0]) + sign * (y.astype(int) - b.zero_point) * float(ratios[1])
    near = np.clip(exact + out.affine.zero_point, -128, 127)
    assert np.abs(found - near).max() <= 0.5 + 2 * 255 * 2.0**-21 * max(1.0, float(ratios.max()))
    if sign == 1 and ratios.min() >= 2.0**-10 and ratios.max() < 256:
        wanted = elementwise.add(x, y, a, b, out, Addition.FIXED_HALF_UP)
        np.testing.assert_array_equal(found, wanted)


def test_the_factors_of_a_sum_keep_it_in_32_bits() -> None:
    a, b, n = integer_target.sum_multipliers(0.3, 0.001, 0.7)
    assert 1 << 19 < a <= 1 << 21
    assert 255 * (a + b) < 1 << 31
    assert (a, b, n) == (round(float(np.float32(0.3) / np.float32(0.7)) * 2**22),
                         round(float(np.float32(0.001) / np.float32(0.7)) * 2**22), 22)  # fmt: skip


@given(affines, affines, outputs)
def test_a_product_is_rounded_once(a: Affine, b: Affine, out: Output) -> None:
    x, y = codes(3, 40), codes(4, 40)
    found = integer_target.multiply(x, y, a, b, out)
    real = a.scale * b.scale / out.affine.scale
    wanted = [once((int(p) - a.zero_point) * (int(q) - b.zero_point), real, out) for p, q in zip(x, y, strict=True)]
    np.testing.assert_array_equal(found, wanted)


@given(affines, affines, outputs)
def test_prelu_has_two_multipliers(a: Affine, slope: Affine, out: Output) -> None:
    x, s = codes(5, 8, 5), codes(6, 8, 1)
    found = integer_target.prelu(x, s, a, slope, out)
    for (i, j), code in np.ndenumerate(x):
        da, ds = int(code) - a.zero_point, int(s[i, 0]) - slope.zero_point
        plain, steep = a.scale / out.affine.scale, a.scale * slope.scale / out.affine.scale
        assert found[i, j] == (once(da, plain, out) if da >= 0 else once(da * ds, steep, out))


@given(affines, outputs, st.sampled_from([(0,), (1, 2), (0, 2), ()]), st.booleans())
def test_a_mean_folds_its_count_into_the_multiplier(a: Affine, out: Output, axes: tuple[int, ...], keep: bool) -> None:
    x = codes(7, 3, 4, 5)
    found = integer_target.mean(x, axes, a, out, keep)
    over = axes or (0, 1, 2)
    total = (x.astype(int) - a.zero_point).sum(over, keepdims=keep)
    count = int(np.prod([x.shape[i] for i in over]))
    wanted = np.vectorize(lambda n: once(int(n), a.scale / (count * out.affine.scale), out))(total)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("seed", range(24))
def test_a_transposed_convolution_sums_what_onnx_runtime_s_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, flat = int(rng.choice([1, 2])), seed % 4 == 0
    rank = 1 if flat else 2
    draw = lambda low, high: tuple(int(v) for v in rng.integers(low, high, rank))  # noqa: E731
    size, kernel, strides, dilations = draw(3, 7), draw(1, 4), draw(1, 4), draw(1, 3)
    pads = (*draw(0, 2), *draw(0, 2))
    more = tuple(int(rng.integers(0, s)) for s in strides)
    x, w = codes(seed, 2, 2 * groups, *size), codes(seed + 99, 2 * groups, 3, *kernel)
    bias = rng.integers(-999, 999, 3 * groups).astype(np.int32)
    given_, out = Affine(0.5, -3), Output(Affine(64.0, 5), -128, 127)
    real = [a.astype(np.float32) for a in (x.astype(np.int32) + 3, w, bias)]
    attributes = {"group": groups, "strides": strides, "pads": pads, "dilations": dilations, "output_padding": more}
    sums = onnxruntime("ConvTranspose", *real, **attributes)
    window = Window(kernel, strides, pads, dilations)
    scale = np.full(3 * groups, 0.25, np.float32)
    found = integer_target.convolve_transposed(x, w, bias, given_, scale, out, window, sums.shape[2:], groups)
    np.testing.assert_array_equal(found, rescale(sums.astype(np.int64), 0.5 * 0.25 / 64, out))


@pytest.mark.parametrize("flat", [False, True])
def test_a_convolution_has_a_multiplier_for_each_channel(flat: bool) -> None:
    x, w = codes(1, 2, 4, *([9] if flat else [7, 9])), codes(2, 6, 2, *([3] if flat else [2, 3]))
    bias, rank = np.arange(6, dtype=np.int32) * 100, 1 if flat else 2
    given_, out = Affine(0.5, 7), Output(Affine(16.0, -9), -100, 100)
    scale = np.linspace(0.01, 0.2, 6).astype(np.float32)
    real = [a.astype(np.float32) for a in (x.astype(np.int32) - 7, w, bias)]
    sums = onnxruntime("Conv", *real, group=2, strides=[2] * rank, pads=[1] * 2 * rank)
    window = Window(w.shape[2:], (2,) * rank, (1,) * 2 * rank, (1,) * rank)
    found = integer_target.convolve(x, w, bias, given_, scale, out, window, 2)
    by = np.float64(0.5) * scale.astype(np.float64) / 16.0
    shaped = by.reshape(1, 6, *[1] * rank)
    np.testing.assert_array_equal(found, rescale(sums.astype(np.int64), shaped, out))


def test_a_matrix_product_takes_scales_of_rows_or_columns() -> None:
    a, b = codes(1, 2, 3, 8), codes(2, 8, 5)
    out = Output(Affine(2.0, 3), -128, 127)
    sums = (a.astype(int) - 4) @ (b.astype(int) - 0) + np.arange(5)
    columns = np.linspace(0.001, 0.01, 5).astype(np.float32)
    found = integer_target.multiply_matrices(a, b, 0.5, columns, out, 4, 0, np.arange(5))
    np.testing.assert_array_equal(found, rescale(sums, 0.5 * columns.astype(np.float64) / 2, out))
    rows = np.array([[0.1], [0.2], [0.3]], np.float32)
    sums = (a.astype(int)) @ (b.astype(int) + 1)
    found = integer_target.multiply_matrices(a, b, rows, 0.5, out, 0, -1)
    np.testing.assert_array_equal(found, rescale(sums, rows.astype(np.float64) * 0.5 / 2, out))


def test_a_clamp_becomes_limits_as_its_bounds_become_codes() -> None:
    params = QParams(
        Scheme(INT8, zero_point=ZeroRule.FREE), np.array([[0.04]], np.float32), np.array([[-50]], np.int32)
    )
    out = output_of(params, (0.0, 6.0))
    assert (out.low, out.high, out.affine) == (-50, 100, affine_of(params))
    assert (output_of(params, (0.0, float("inf"))).high, output_of(params).low) == (127, -128)
    many = QParams(Scheme(INT8, per_channel(0)), np.ones(3, np.float32), np.zeros(3, np.int32))
    with pytest.raises(BadOption, match="found 3"):
        affine_of(many)
