"""Promised: float codes are those of NumPy and ml_dtypes, bit for bit, over every code, every midpoint between two codes
and its float32 neighbours, and a million random bit patterns; those of ONNX's reference Cast and of ONNX Runtime where
it has the type; the documented tables hold; and what is no number has a stated code.
"""

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from halfeven.errors import BadOption
from halfeven.numerics import floats
from halfeven.numerics.floats import FloatGrid, Specials, saturating
from halfeven.numerics.quantize import fake_quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import QParams, Scheme

PEERS: dict[str, tuple[FloatGrid, type]] = {
    "float32": (floats.FLOAT32, np.float32),
    "float16": (floats.FLOAT16, np.float16),
    "bfloat16": (floats.BFLOAT16, ml_dtypes.bfloat16),
    "float8_e4m3": (floats.FLOAT8_E4M3, ml_dtypes.float8_e4m3),
    "float8_e4m3fn": (floats.FLOAT8_E4M3FN, ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": (floats.FLOAT8_E4M3FNUZ, ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": (floats.FLOAT8_E5M2, ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": (floats.FLOAT8_E5M2FNUZ, ml_dtypes.float8_e5m2fnuz),
    "float8_e3m4": (FloatGrid(3, 4), ml_dtypes.float8_e3m4),
    "float8_e4m3b11fnuz": (FloatGrid(4, 3, Specials.FNUZ, bias=11), ml_dtypes.float8_e4m3b11fnuz),
    "float6_e2m3": (floats.FLOAT6_E2M3, ml_dtypes.float6_e2m3fn),
    "float6_e3m2": (floats.FLOAT6_E3M2, ml_dtypes.float6_e3m2fn),
    "float4_e2m1": (floats.FLOAT4_E2M1, ml_dtypes.float4_e2m1fn),
    "float8_e8m0": (floats.FLOAT8_E8M0, ml_dtypes.float8_e8m0fnu),
}
SHORT = [name for name in PEERS if name != "float32"]


def codes_of(grid: FloatGrid) -> np.ndarray:
    return np.arange(1 << grid.bits).astype(grid.dtype)


def hard_values(grid: FloatGrid, count: int = 1_000_000) -> np.ndarray:
    """Every value and midpoint of the grid, their neighbours, special values, and random bit patterns."""
    rng = np.random.default_rng(7)
    drawn = [rng.integers(0, 2**32, count // 2, dtype=np.uint32).view(np.float32)]
    drawn.append((rng.standard_normal(count // 2) * grid.high / 8).astype(np.float32))
    drawn.append(np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38], np.float32))
    if grid.bits <= 16:
        found = grid.decode(codes_of(grid))
        values = np.unique(found[np.isfinite(found)])
        with np.errstate(over="ignore"):
            exact = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32)
            drawn += [exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))]
    return np.concatenate(drawn)


@pytest.mark.parametrize("name", SHORT)
def test_every_code_has_the_value_that_numpy_and_ml_dtypes_give_it(name: str) -> None:
    grid, peer = PEERS[name]
    with np.errstate(invalid="ignore"):
        theirs = codes_of(grid).view(peer).astype(np.float64)
    ours = grid.decode(codes_of(grid))
    np.testing.assert_array_equal(ours, theirs)
    number = ~np.isnan(theirs)
    np.testing.assert_array_equal(np.signbit(ours)[number], np.signbit(theirs)[number])


@pytest.mark.parametrize("name", PEERS)
def test_codes_are_those_of_numpy_and_ml_dtypes(name: str) -> None:
    grid, peer = PEERS[name]
    x = hard_values(grid)
    with np.errstate(all="ignore"):
        theirs = x.astype(peer).view(grid.dtype)
    ours = replace(grid, saturate=False).encode(x)
    asked = ~np.isnan(x)
    if name == "float8_e8m0":  # ml_dtypes sends subnormal float32 up that are nearer to the least value
        asked &= (x <= 0) | (x >= 2.0**-126)
    np.testing.assert_array_equal(ours[asked], theirs[asked])
    if grid.specials is not Specials.NONE:
        assert np.isnan(grid.decode(ours[np.isnan(x)])).all()
    else:
        assert (grid.decode(ours[np.isnan(x)]) == 0).all()


def test_what_is_below_the_least_power_of_two_gets_the_nearest() -> None:
    x = np.array([1e-45, 2.0**-128, 2.0**-127, 1.49 * 2.0**-127, 1.51 * 2.0**-127, 2.0**-126], np.float32)
    assert floats.FLOAT8_E8M0.encode(x).tolist() == [0, 0, 0, 0, 1, 1]


def cast(name: str, saturate: int, opset: int) -> onnx.ModelProto:
    to = getattr(TensorProto, name)
    node = helper.make_node("Cast", ["x"], ["y"], to=to, saturate=saturate)
    x, y = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None]), helper.make_tensor_value_info("y", to, [None])
    graph = helper.make_graph([node], "cast", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)


ONNX_TYPES = {
    "FLOAT8E4M3FN": floats.FLOAT8_E4M3FN,
    "FLOAT8E4M3FNUZ": floats.FLOAT8_E4M3FNUZ,
    "FLOAT8E5M2": floats.FLOAT8_E5M2,
    "FLOAT8E5M2FNUZ": floats.FLOAT8_E5M2FNUZ,
    "FLOAT4E2M1": floats.FLOAT4_E2M1,
}


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("name", ONNX_TYPES)
def test_codes_are_those_of_onnx_cast(name: str, saturate: int) -> None:
    grid = replace(ONNX_TYPES[name], saturate=bool(saturate))
    x = hard_values(grid, 100_000)
    x = x[~np.isnan(x)]
    with np.errstate(all="ignore"):
        theirs = ReferenceEvaluator(cast(name, saturate, 23)).run(None, {"x": x})[0].view(np.uint8)
    np.testing.assert_array_equal(grid.encode(x), theirs)


@pytest.mark.parametrize("name", [name for name in ONNX_TYPES if name != "FLOAT4E2M1"])
def test_saturating_values_are_those_of_onnx_runtime(name: str) -> None:
    """Read back through float, as ONNX Runtime hands out no float8 array."""
    grid, x = ONNX_TYPES[name], hard_values(ONNX_TYPES[name], 200_000)
    model = cast(name, 1, 19)
    model.graph.node.append(helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None]))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"x": x})
    ours = grid.decode(grid.encode(x)).astype(np.float32)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(ours[number].view(np.uint32), theirs[number].view(np.uint32))
    assert np.isnan(theirs[~number]).all()
    assert np.isnan(ours[~number]).all()


@pytest.mark.parametrize("name", [name for name in ONNX_TYPES if name != "FLOAT4E2M1"])
def test_quantized_codes_are_those_of_onnx_runtime(name: str) -> None:
    """QuantizeLinear to float8: x / scale in float32, then the saturating cast."""
    grid, scale = ONNX_TYPES[name], np.float32(0.3)
    x = hard_values(grid, 100_000)
    x = x[~np.isnan(x)]
    to = getattr(TensorProto, name)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "o"], ["y"]),
        helper.make_node("DequantizeLinear", ["y", "s", "o"], ["z"]),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None]) for n in "xz"]
    constants = [helper.make_tensor("s", TensorProto.FLOAT, [], [scale]), helper.make_tensor("o", to, [], [0.0])]
    graph = helper.make_graph(nodes, "quantize", info[:1], info[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    params = QParams(Scheme(grid), np.array([scale]), np.zeros(1, np.int32))
    np.testing.assert_array_equal(fake_quantize(x, params), session.run(None, {"x": x})[0])


def documented_table() -> list[tuple[str, float, float, float]]:
    """`format largest least-normal least-subnormal`, two of them a line."""
    assert floats.__doc__ is not None
    rows = []
    for line in floats.__doc__.split("format      largest")[-1].splitlines()[1:6]:
        words = line.split()
        rows += [words[i : i + 4] for i in range(0, len(words), 4)]
    return [(row[0], *(float(eval(word)) for word in row[1:])) for row in rows if len(row) == 4]  # type: ignore[misc]


@pytest.mark.parametrize(("name", "largest", "normal", "subnormal"), documented_table())
def test_documented_formats(name: str, largest: float, normal: float, subnormal: float) -> None:
    (grid,) = (
        one for word, (one, _) in PEERS.items() if word in (name, f"float8_{name}", f"float6_{name}", f"float4_{name}")
    )
    assert grid.high == largest
    assert 2.0**grid.least_exponent == normal
    assert grid.decode(np.array([1], grid.dtype))[0] == subnormal


def test_the_documented_table_names_nine_formats() -> None:
    assert len(documented_table()) == 8 + 1


@given(x=st.floats(width=64, allow_nan=False), rounding=st.sampled_from(list(Rounding)), name=st.sampled_from(SHORT))
def test_every_rounding_rule_gives_one_of_the_two_neighbours_or_a_stated_end(
    x: float, rounding: Rounding, name: str
) -> None:
    grid = saturating(PEERS[name][0])
    if not grid.signed and x <= 0:
        return
    got = float(grid.decode(grid.encode(np.array([x]), rounding))[0])
    found = grid.decode(codes_of(grid))
    values = np.unique(found[np.isfinite(found)])
    if x >= grid.high or (grid.signed and x <= -grid.high):
        assert got == np.copysign(grid.high, x)
    else:
        below, above = values[values <= x], values[values >= x]
        assert got in {*below[-1:].tolist(), *above[:1].tolist()}


def test_rules_towards_zero_stop_at_the_largest_number() -> None:
    x = np.array([1e9, -1e9, np.inf])
    assert floats.FLOAT16.decode(floats.FLOAT16.encode(x, Rounding.TRUNC)).tolist() == [65504, -65504, np.inf]
    assert floats.FLOAT16.decode(floats.FLOAT16.encode(x, Rounding.FLOOR)).tolist() == [65504, -np.inf, np.inf]
    assert floats.FLOAT16.decode(floats.FLOAT16.encode(x, Rounding.CEIL)).tolist() == [np.inf, -65504, np.inf]
    assert floats.FLOAT16.decode(floats.FLOAT16.encode(x)).tolist() == [np.inf, -np.inf, np.inf]


def test_float64_is_encoded_from_float64_without_loss() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**64, 200_000, dtype=np.uint64).view(np.float64)
    x = np.concatenate([x[~np.isnan(x)], [0.0, -0.0, 5e-324, -5e-324, np.inf, -np.inf, 1.7976931348623157e308]])
    codes = floats.FLOAT64.encode(x)
    np.testing.assert_array_equal(codes, x.view(np.uint64))
    np.testing.assert_array_equal(floats.FLOAT64.decode(codes).view(np.uint64), x.view(np.uint64))


@pytest.mark.parametrize("name", PEERS)
def test_codes_are_monotone(name: str) -> None:
    grid = saturating(PEERS[name][0])
    x = np.sort(hard_values(grid, 20_000))
    x = x[(x > 0) | (grid.signed & ~np.isnan(x))]
    assert (np.diff(grid.decode(grid.encode(x))[np.isfinite(x)]) >= 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FloatGrid(0, 3), "0 exponent and 3 fraction bits"),
        (lambda: FloatGrid(4, 53), "there are 1 to 11 and 0 to 52"),
        (lambda: FloatGrid(5, 0), "infinity and NaN take the highest exponent"),
        (lambda: FloatGrid(1, 0, Specials.FN), "no other code is left"),
        (lambda: FloatGrid(8, 1, Specials.FNU), "has no fraction bits"),
    ],
)
def test_formats_that_do_not_exist_are_refused(make: object, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        make()  # type: ignore[operator]


def test_names() -> None:
    named = [floats.FLOAT16, floats.FLOAT8_E4M3FN, floats.FLOAT8_E8M0, FloatGrid(4, 3, Specials.FNUZ, bias=11)]
    assert [str(grid) for grid in named] == ["float16e5m10", "float8e4m3fn", "float8e8m0fnu", "float8e4m3b11fnuz"]
