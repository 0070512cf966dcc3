"""Clamps: their bounds, and that one called idle changes nothing that the codes can express."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfeven.graph.clamps import clamp_bounds, clamp_limits, idle
from halfeven.numerics.grid import INT8, UINT8
from halfeven.numerics.quantize import dequantize, params_for
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule

Build = Callable[..., ir.Model]
INF = float("inf")
CONSTANTS = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32), "low": np.array(-1, np.float32),
             "by_channel": np.array([[[3]], [[5]]], np.float32)}  # fmt: skip


def _node(build: Build, call: str, opset: int = 17) -> ir.Node:
    text = f"g (float[1,2,1,1] x, float dyn) => (float y) {{ y = {call} }}"
    return build(text, opset, **CONSTANTS).graph[0]


@pytest.mark.parametrize(
    ("call", "bounds"),
    [
        ("Relu(x)", (0, INF)),
        ("Clip(x, zero, six)", (0, 6)),
        ("Clip(x, low, six)", (-1, 6)),
        ("Clip(x, zero)", (0, INF)),
        ("Clip(x, , six)", (-INF, 6)),
        ("Clip(x)", (-INF, INF)),
        ("Min(x, six)", (-INF, 6)),
        ("Min(x, by_channel)", (-INF, 3)),
        ("Min(x, six, by_channel)", (-INF, 3)),
    ],
)
def test_the_bounds_of_a_clamp(build: Build, call: str, bounds: tuple[float, float]) -> None:
    assert clamp_bounds(_node(build, call)) == bounds


def test_the_bounds_of_an_old_clip_are_attributes(build: Build) -> None:
    assert clamp_bounds(_node(build, "Clip <min = 0.0, max = 6.0> (x)", opset=10)) == (0, 6)
    assert clamp_bounds(_node(build, "Clip <max = 6.0> (x)", opset=10)) == (-INF, 6)


SCHEMES = st.sampled_from(
    [Scheme(UINT8, zero_point=ZeroRule.FREE), Scheme(INT8, zero_point=ZeroRule.FREE), Scheme(INT8)]
)


def _clip(low: float, high: float) -> ir.Node:
    bounds = [
        ir.Value(name=n, const_value=ir.tensor(np.array(v, np.float32), name=n)) for n, v in (("l", low), ("h", high))
    ]
    x = ir.Value(name="x")
    graph = ir.Graph([x], [], nodes=[ir.Node("", "Clip", [x, *bounds])], initializers=bounds)
    return graph[0]


@settings(max_examples=200, deadline=None)
@given(
    SCHEMES,
    st.floats(-8, 0, width=32),
    st.floats(0, 8, width=32),
    st.floats(-8, 0, width=32),
    st.floats(0, 8, width=32),
)
def test_idle_means_that_no_code_lies_beyond_the_bounds(
    scheme: Scheme, low: float, high: float, floor: float, ceiling: float
) -> None:
    params = params_for(low, high, scheme)
    grid = scheme.grid
    values = dequantize(np.arange(grid.low, grid.high + 1), params).astype(np.float64)
    moved = float(np.abs(np.clip(values, floor, ceiling) - values).max())
    span = float(values.max() - values.min())
    if idle(_clip(floor, ceiling), params):
        assert moved <= 2e-6 * span
    else:
        assert moved > 0


def test_a_clamp_at_the_very_bound_of_the_codes_is_idle() -> None:
    params = params_for(0.0, 6.0, Scheme(UINT8, zero_point=ZeroRule.FREE))
    assert idle(_clip(0, 6), params)
    assert not idle(_clip(0, 5.97), params)
    assert not idle(_clip(0.03, 6), params)


@pytest.mark.parametrize("call", ["Clip(x, zero, dyn)", "Clip(x, dyn, six)", "Min(x, dyn)", "Min(x, six, dyn)"])
def test_a_clamp_with_a_bound_that_is_not_known_is_not_idle(build: Build, call: str) -> None:
    params = QParams(Scheme(UINT8, zero_point=ZeroRule.FREE), np.array(0.01, np.float32), np.array(0, np.int32))
    assert not idle(_node(build, call), params)


def test_the_limits_of_a_model_are_those_of_clamps_in_a_row(build: Build) -> None:
    model = build(
        "g (float[1,2,1,1] x, float dyn) => (float y) {"
        " a = Clip(x, zero, six)  b = Relu(a)  c = Min(b, by_channel)  d = Clip(c, zero, six)  e = Relu(x)"
        " f = Clip(e, low, zero)  h = Clip(x, zero, dyn)  i = custom.Clip(x, zero, six)  j = Add(a, a)  y = Clip(j,"
        " zero) }",
        **CONSTANTS,
    )  # fmt: skip
    assert clamp_limits(model) == {"a": 6, "b": 6, "c": 3, "d": 3}
