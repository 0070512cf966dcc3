"""Integer matrix product and convolution equal their loops in Python's integers, wrap as a register does, and give what
the papers' equations say; ONNX Runtime's MatMulInteger and ConvInteger agree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.numerics.elementwise import Addition, Affine, Output, add, convert, multiply
from halfeven.numerics.integer_ops import conv2d, matmul, matmul_saturating_pairs, patches
from halfeven.numerics.multiplier import float_multiplier
from halfeven.numerics.requant import Requant, requantize

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "integer_ops.json").read_text("utf-8"))


def c_int(x: int, bits: int) -> int:
    return (x + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def looped_matmul(a: Any, b: Any, za: int, zb: Any, bias: Any, bits: int = 32) -> list[list[int]]:
    a, b = a.tolist(), b.tolist()
    return [
        [c_int(sum((x - za) * (row[n] - zb[n]) for x, row in zip(line, b, strict=True)) + bias[n], bits)
         for n in range(len(b[0]))]
        for line in a
    ]  # fmt: skip


def looped_conv2d(
    x: np.ndarray, w: np.ndarray, zx: int, zw: Any, bias: Any, strides: Any, pads: Any, dilations: Any, groups: int
) -> np.ndarray:
    n, _, height, width = x.shape
    out, channels, r, s = w.shape
    rows = (height + pads[0] + pads[2] - (r - 1) * dilations[0] - 1) // strides[0] + 1
    cols = (width + pads[1] + pads[3] - (s - 1) * dilations[1] - 1) // strides[1] + 1
    acc = np.zeros((n, out, rows, cols), object)
    for i, o, y, z in np.ndindex(acc.shape):
        total = int(bias[o])
        for c, p, q in np.ndindex(channels, r, s):
            at = (y * strides[0] + p * dilations[0] - pads[0], z * strides[1] + q * dilations[1] - pads[1])
            if 0 <= at[0] < height and 0 <= at[1] < width:
                source = (o // (out // groups)) * channels + c
                total += (int(x[i, source, at[0], at[1]]) - zx) * (int(w[o, c, p, q]) - int(zw[o]))
        acc[i, o, y, z] = c_int(total, 32)
    return acc


@pytest.mark.parametrize("depth", [1, 3, 15, 16, 17, 33, 64])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_matrix_product_is_its_loops(depth: int, bits: int) -> None:
    """4-bit codes (R010), 8, and 16, whose sums leave 32 bits and wrap."""
    rng = np.random.default_rng((depth, bits))
    a, b = rng.integers(0, 1 << bits, (3, depth)), rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (depth, 5))
    za, zb, bias = 1 << (bits - 1), rng.integers(-7, 8, 5), rng.integers(-(2**31), 2**31, 5)
    assert matmul(a, b, za, zb, bias).tolist() == looped_matmul(a, b, za, zb, bias)


@pytest.mark.parametrize("bits", [16, 24, 48])
def test_the_accumulator_has_the_bits_it_is_given(bits: int) -> None:
    """INT16 accumulators among them (R012)."""
    rng = np.random.default_rng(bits)
    a, b = rng.integers(-(2**15), 2**15, (2, 40)), rng.integers(-(2**15), 2**15, (40, 3))
    assert matmul(a, b, 0, 0, 9, bits).tolist() == looped_matmul(a, b, 0, [0] * 3, [9] * 3, bits)


def test_sums_beyond_float64_are_exact() -> None:
    a, b = np.full((1, 99), 2**31 - 1), np.full((99, 1), -(2**31) + 3)
    assert matmul(a, b).tolist() == looped_matmul(a, b, 0, [0], [0])


def test_batches_multiply() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 255, (2, 3, 4)), rng.integers(-9, 9, (2, 4, 5))
    for i in range(2):
        np.testing.assert_array_equal(matmul(a, b, 7)[i], matmul(a[i], b[i], 7))


@pytest.mark.parametrize("case", VECTORS["matmul"])
def test_the_shared_matrix_products_are_their_loops(case: dict[str, Any]) -> None:
    a, b, acc = (np.array(case[name]["codes"]).reshape(case[name]["shape"]) for name in ("a", "b", "acc"))
    assert acc.tolist() == looped_matmul(a, b, case["a_zero_point"], case["b_zero_point"], case["bias"])


@pytest.mark.parametrize("case", VECTORS["conv2d"])
def test_the_shared_convolutions_are_their_loops(case: dict[str, Any]) -> None:
    x, w, acc = (np.array(case[name]["codes"]).reshape(case[name]["shape"]) for name in ("x", "weight", "acc"))
    want = looped_conv2d(x, w, case["x_zero_point"], case["weight_zero_point"], case["bias"], case["strides"],
                         case["pads"], case["dilations"], case["groups"])  # fmt: skip
    np.testing.assert_array_equal(acc, want)


@given(data=st.data())
def test_a_convolution_is_its_loops(data: st.DataObject) -> None:
    def draw(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    groups, channels, out = draw(1, 2), draw(1, 2), draw(1, 2)
    kernel, dilations, strides = [(draw(1, 2), draw(1, 3)) for _ in range(3)]
    pads = (draw(0, 2), draw(0, 2), draw(0, 2), draw(0, 1))
    rng = np.random.default_rng(draw(0, 2**32))
    x = rng.integers(-128, 128, (1, channels * groups, draw(3, 6), draw(7, 8)))
    w = rng.integers(-128, 128, (out * groups, channels, *kernel))
    zx, zw, bias = draw(-128, 127), rng.integers(-9, 9, len(w)), rng.integers(-(2**31), 2**31, len(w))
    acc = conv2d(x, w, zx, zw, bias, strides, pads, dilations, groups)
    np.testing.assert_array_equal(acc, looped_conv2d(x, w, zx, zw, bias, strides, pads, dilations, groups))


def test_equation_7_of_the_integer_arithmetic_paper() -> None:
    """Sum q1 q2 - Z1 sum q2 - Z2 sum q1 + N Z1 Z2 is the accumulator (R053); with Z2 = 0 two terms remain (R055)."""
    rng = np.random.default_rng(7)
    q1, q2, z1, z2, n = rng.integers(0, 256, (4, 9)), rng.integers(-128, 128, (9, 3)), 77, -5, 9
    plain = q1 @ q2
    full = plain - z1 * q2.sum(0) - z2 * q1.sum(1, keepdims=True) + n * z1 * z2
    np.testing.assert_array_equal(matmul(q1, q2, z1, z2), full)
    np.testing.assert_array_equal(matmul(q1, q2, z1), plain - z1 * q2.sum(0))
    np.testing.assert_array_equal(matmul(q1, q2), plain)


def test_a_quantized_product_is_near_the_real_one() -> None:
    """The real product within half a step of the output, as M differs from its integer form by 2**-31: R049, R052."""
    rng = np.random.default_rng(8)
    q1, q2, bias = rng.integers(0, 256, (20, 30)), rng.integers(-127, 128, (30, 10)), rng.integers(-5000, 5000, 10)
    s1, s2, s3, z1 = 0.02, 0.01, 0.5, 128
    real = ((q1 - z1) * s1) @ (q2 * s2) + bias * s1 * s2
    codes = requantize(matmul(q1, q2, z1, 0, bias), float_multiplier(s1, s2, s3), 3, -128, 127, Requant.RNDNU)
    inside = np.abs(real / s3) < 120
    assert inside.mean() > 0.9
    assert np.abs((codes - 3) * s3 - real)[inside].max() <= s3 / 2 * (1 + 1e-5)


def test_offsets_are_widened_before_they_are_multiplied() -> None:
    """20 - 50 = -30 (R051), not the 226 of uint8."""
    a, b = np.array([[20]], np.uint8), np.array([[3]], np.int8)
    assert matmul(a, b, 50).tolist() == [[-90]]
    assert conv2d(a[None, None], b[None, None], 50).ravel().tolist() == [-90]
    out = Output(Affine(1.0), -128, 127)
    assert multiply(a, b, Affine(1.0, 50), Affine(1.0), out, Requant.SINGLE_ROUNDING).tolist() == [[-90]]


def test_a_pad_is_a_real_zero() -> None:
    rng = np.random.default_rng(9)
    x, w = rng.integers(0, 256, (1, 2, 4, 4)), rng.integers(-9, 9, (3, 2, 3, 3))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=99)
    np.testing.assert_array_equal(conv2d(x, w, 99, 1, pads=(1, 1, 1, 1)), conv2d(padded, w, 99, 1))


def runtime(text: str, **feeds: np.ndarray) -> np.ndarray:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def test_onnx_runtime_s_integer_operators_agree() -> None:
    """uint8 times uint8: exact on every instruction set."""
    rng = np.random.default_rng(10)
    a, b = rng.integers(0, 256, (9, 70), np.uint8), rng.integers(0, 256, (70, 6), np.uint8)
    za, zb = np.uint8(200), rng.integers(0, 256, 6, np.uint8)
    text = (
        "g (uint8[9,70] a, uint8[70,6] b, uint8 za, uint8[6] zb) => (int32[9,6] y) { y = MatMulInteger(a, b, za, zb) }"
    )
    np.testing.assert_array_equal(matmul(a, b, za, zb), runtime(text, a=a, b=b, za=np.array(za), zb=zb))
    x, w = rng.integers(0, 256, (2, 4, 9, 8), np.uint8), rng.integers(0, 256, (6, 2, 3, 2), np.uint8)
    text = """g (uint8[2,4,9,8] x, uint8[6,2,3,2] w, uint8 zx, uint8 zw) => (int32[N,M,H,W] y) {
        y = ConvInteger <group = 2, strides = [2, 1], pads = [1, 0, 2, 1], dilations = [1, 2]> (x, w, zx, zw) }"""
    acc = conv2d(x, w, 200, 50, 0, (2, 1), (1, 0, 2, 1), (1, 2), 2)
    np.testing.assert_array_equal(acc, runtime(text, x=x, w=w, zx=np.array(za), zw=np.array(np.uint8(50))))


def test_pairs_saturate_and_singles_do_not() -> None:
    a, b = np.array([[255, 255, 255]], np.uint8), np.array([[127], [127], [127]], np.int8)
    assert matmul_saturating_pairs(a, b).tolist() == [[32767 + 255 * 127]]
    assert matmul_saturating_pairs(a, -b).tolist() == [[-32768 - 255 * 127]]
    small = (b // 2).astype(np.int8)
    assert matmul_saturating_pairs(a, small).tolist() == matmul(a, small).tolist()


@pytest.mark.parametrize(("a", "b"), [((3,), (4, 1)), ((2, 3), (4, 1)), ((2, 3), (3,))])
def test_matrices_that_do_not_multiply_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(BadOption, match="do not multiply"):
        matmul(np.zeros(a, np.int8), np.zeros(b, np.int8))
    with pytest.raises(BadOption, match="do not multiply"):
        matmul_saturating_pairs(np.zeros(a, np.uint8), np.zeros(b, np.int8))


def test_convolutions_that_do_not_fit_are_refused() -> None:
    x, w = np.zeros((1, 4, 5, 5), np.int8), np.zeros((6, 2, 3, 3), np.int8)
    with pytest.raises(BadOption, match=r"4 channels, weight .* and 1 groups do not fit"):
        conv2d(x, w)
    with pytest.raises(BadOption, match=r"want .N, C, H, W. and .O, C, R, S."):
        conv2d(x[0], w)
    for wrong in [{"strides": (0, 1)}, {"pads": (0, -1, 0, 0)}, {"pads": (0, 0)}, {"dilations": (1, 0)}]:
        with pytest.raises(BadOption, match="want 2 from 1 on"):
            conv2d(x, w, groups=2, **wrong)  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="does not fit in padded"):
        conv2d(x, w, groups=2, dilations=(3, 1))
    with pytest.raises(BadOption, match="uint8 times int8"):
        matmul_saturating_pairs(np.zeros((1, 2), np.int8), np.zeros((2, 1), np.int8))


def test_patches_are_what_each_output_sees() -> None:
    x = np.arange(16).reshape(1, 1, 4, 4)
    seen = patches(x, (1, 1, 2, 2), (2, 2), (1, 0, 0, 0), (1, 1), 1, -7)
    assert seen.shape == (1, 1, 4, 2, 2)
    assert seen[0, 0, :, 0, 0].tolist() == [-7, -7, 0, 1]
    assert seen[0, 0, :, 1, 1].tolist() == [6, 7, 10, 11]


# ---- sums and changes of scale ---------------------------------------------------------------------------------------

INT8 = {"low": -128, "high": 127}


@pytest.mark.parametrize("kernel", Addition)
@given(sa=st.floats(0.004, 0.1), sb=st.floats(0.004, 0.1), seed=st.integers(0, 99))
def test_every_addition_is_within_a_code_of_the_real_sum(kernel: Addition, sa: float, sb: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-128, 128, (2, 50))
    in_a, in_b, out = Affine(sa, 3), Affine(sb, -7), Output(Affine(0.13, 5), **INT8)
    real = ((a - 3) * np.float64(np.float32(sa)) + (b + 7) * np.float64(np.float32(sb))) / np.float64(
        np.float32(0.13)
    ) + 5
    assert np.abs(add(a, b, in_a, in_b, out, kernel) - np.clip(real, -128, 127)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("sa", "za", "sb", "zb", "sc", "zc", "one"),
    [
        (0.015625, 117, 0.015628814697265625, 255, 0.062530517578125, 206, 251),
        (0.20999999344348907, 179, 0.10999999940395355, 162, 0.3799999952316284, 241, 201),
        (0.05999999865889549, 55, 0.32600000500679016, 86, 0.29600000381469727, 19, 142),
    ],
)
def test_onnx_runtime_s_addition_of_one_number(
    sa: float, za: int, sb: float, zb: int, sc: float, zc: int, one: int
) -> None:
    """The same: the number's product is not rounded by itself, which these scales would show.

    The runtime's kernel is that of the machine which runs the test.
    """
    a, b = np.arange(256, dtype=np.uint8), np.array([one], np.uint8)
    in_a, in_b, of_c = Affine(sa, za), Affine(sb, zb), Affine(sc, zc)
    node = onnx.helper.make_node(
        "QLinearAdd", ["a", "sa", "za", "b", "sb", "zb", "sc", "zc"], ["y"], domain="com.microsoft"
    )
    inits = []
    for letter, given_affine in zip("abc", (in_a, in_b, of_c), strict=True):
        inits.append(onnx.numpy_helper.from_array(np.array(given_affine.scale, np.float32), "s" + letter))
        inits.append(onnx.numpy_helper.from_array(np.array(given_affine.zero_point, np.uint8), "z" + letter))
    value = onnx.helper.make_tensor_value_info
    uint8 = onnx.TensorProto.UINT8
    graph = onnx.helper.make_graph([node], "g", [value("a", uint8, [256]), value("b", uint8, [1])],
                                   [value("y", uint8, [256])], inits)  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    codes = session.run(None, {"a": a, "b": b})[0]
    ours = [
        add(a, b, in_a, in_b, Output(of_c, 0, 255), kernel)
        for kernel in (Addition.FLOAT32_FUSED, Addition.FIXED_HALF_AWAY)
    ]
    assert any(np.array_equal(codes, own) for own in ours)


def test_scales_too_far_apart_for_xnnpack_to_add_are_refused() -> None:
    code = np.array([1], np.int8)
    with pytest.raises(BadOption, match="the kernel holds"):
        add(code, code, Affine(1.0), Affine(1e-6), Output(Affine(1.0), **INT8), Addition.FIXED_HALF_UP)


def test_the_tail_of_a_vector_kernel_has_its_own_flavour() -> None:
    codes = np.full(37, -3, np.int8)
    given_affine, out = Affine(0.25), Output(Affine(1.0), **INT8)
    flavours = Requant.NEON, Requant.DOUBLE_ROUNDING
    body, tail = (int(convert(codes[:1], given_affine, out, f)[0]) for f in flavours)
    assert body != tail
    assert convert(codes, given_affine, out, *flavours).tolist() == [body] * 32 + [tail] * 5
