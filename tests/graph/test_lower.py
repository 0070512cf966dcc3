"""Promised: a graph with quantize and dequantize pairs becomes operators on codes, borders stand where real numbers
begin and end, and nothing is lost on the way.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.errors import UnsupportedModel
from halfeven.graph.lower import lower
from halfeven.graph.network import Network, Op

Build = Callable[..., ir.Model]
ARRAYS = {
    "w": np.arange(-8, 10, dtype=np.int8).reshape(2, 1, 3, 3),
    "ws": np.array([0.5, 0.25], np.float32),
    "wz": np.zeros(2, np.int8),
    "b": np.array([3, -4], np.int32),
    "bs": np.array([0.05, 0.025], np.float32),
    "bz": np.zeros(2, np.int32),
    "table": np.arange(12, dtype=np.int8).reshape(4, 3),
    "s": np.array(0.1, np.float32),
    "z": np.array(3, np.uint8),
    "t": np.array(0.2, np.float32),
    "zi": np.array(0, np.int8),
    "none": np.array(0.0, np.float32),
    "six": np.array(6.0, np.float32),
    "bad": np.array(-1.0, np.float32),
}
CONV = (
    "wd = DequantizeLinear <axis = 0> (w, ws, wz)  bd = DequantizeLinear <axis = 0> (b, bs, bz)"
    "  xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)  [conv] c = Conv(xd, wd, bd)"
)


def lowered(build: Build, text: str) -> Network:
    return lower(build(f"g {text}", opset=21, **ARRAYS))


def shown(op: Op) -> str:
    """`kind: operands -> outputs`, codes in brackets."""
    names = ["-" if t is None else f"[{t.name}]" if t.coded else t.name for t in (*op.inputs, *op.outputs)]
    clamp = "" if op.clamp is None else f" {op.clamp[0]:g}..{op.clamp[1]:g}"
    return f"{op.kind}: {', '.join(names[: len(op.inputs)])} -> {', '.join(names[len(op.inputs) :])}{clamp}"


IMAGE = "(float[1,1,4,4] x) => (float[1,2,2,2] y)"
CASES = {
    "a layer between pairs": (
        f"{IMAGE} {{ {CONV}  yq = QuantizeLinear(c, t, z)  y = DequantizeLinear(yq, t, z) }}",
        ["QuantizeLinear: x -> [xq]", "Conv: [xq], [w], [b] -> [yq]", "DequantizeLinear: [yq] -> y"],
    ),
    "an activation joins its layer": (
        f"{IMAGE} {{ {CONV}  r = Relu(c)  k = Clip(r, none, six)  yq = QuantizeLinear(k, t, z)"
        "  y = DequantizeLinear(yq, t, z) }",
        ["QuantizeLinear: x -> [xq]", "Conv: [xq], [w], [b] -> [yq] 0..6", "DequantizeLinear: [yq] -> y"],
    ),
    "an output that is not quantized is real": (
        f"{IMAGE} {{ {CONV}  y = Relu(c) }}",
        ["QuantizeLinear: x -> [xq]", "Conv: [xq], [w], [b] -> c", "Relu: c -> y"],
    ),
    "a border stays where a real value has other readers": (
        f"(float[1,1,4,4] x) => (float[1,2,2,2] y, float[1,2,2,2] e) {{ {CONV}  yq = QuantizeLinear(c, t, z)"
        "  y = DequantizeLinear(yq, t, z)  e = Exp(c) }",
        ["QuantizeLinear: x -> [xq]", "Conv: [xq], [w], [b] -> c", "QuantizeLinear: c -> [yq]",
         "DequantizeLinear: [yq] -> y", "Exp: c -> e"],
    ),
    "a real operator does not swallow a border": (
        "(float[2] x) => (float[2] y) { e = Exp(x)  q = QuantizeLinear(e, s, z)  y = DequantizeLinear(q, s, z) }",
        ["Exp: x -> e", "QuantizeLinear: e -> [q]", "DequantizeLinear: [q] -> y"],
    ),
    "the same parameters twice are no operator": (
        "(float[2] x) => (float[2] y) { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        "  p = QuantizeLinear(d, s, z)  y = DequantizeLinear(p, s, z) }",
        ["QuantizeLinear: x -> [q]", "DequantizeLinear: [q] -> y"],
    ),
    "other parameters are a change of scale": (
        "(float[2] x) => (float[2] y) { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        "  p = QuantizeLinear(d, t, z)  y = DequantizeLinear(p, t, z) }",
        ["QuantizeLinear: x -> [q]", "Requantize: [q] -> [p]", "DequantizeLinear: [p] -> y"],
    ),
    "both outputs of a split": (
        "(float[4] x) => (float[2] y, float[2] v) { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        "  a, b2 = Split <num_outputs = 2> (d)  aq = QuantizeLinear(a, s, z)  y = DequantizeLinear(aq, s, z)"
        "  bq = QuantizeLinear(b2, s, z)  v = DequantizeLinear(bq, s, z) }",
        ["QuantizeLinear: x -> [q]", "Split: [q] -> [aq], [bq]", "DequantizeLinear: [aq] -> y",
         "DequantizeLinear: [bq] -> v"],
    ),
    "one output of a split that stays real keeps the other real": (
        "(float[4] x) => (float[2] y, float[2] v) { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        "  a, v = Split <num_outputs = 2> (d)  aq = QuantizeLinear(a, s, z)  y = DequantizeLinear(aq, s, z) }",
        ["QuantizeLinear: x -> [q]", "Split: [q] -> a, v", "QuantizeLinear: a -> [aq]", "DequantizeLinear: [aq] -> y"],
    ),
    "integers at the interface are codes": (
        "(uint8[2] x) => (uint8[2] y) { d = DequantizeLinear(x, s, z)  r = Relu(d)  y = QuantizeLinear(r, t, z) }",
        ["Relu: [x] -> [y]"],
    ),
    "a lookup in a table of codes": (
        "(int64[2] i) => (float[2,3] y) { c = Gather(table, i)  y = DequantizeLinear(c, s, zi) }",
        ["Gather: [table], i -> [c]", "DequantizeLinear: [c] -> y"],
    ),
    "computed scales are operators like any other": (
        "(float[2] x) => (uint8[2] q, float[2] y) { q, k, o = DynamicQuantizeLinear(x)"
        "  y = DequantizeLinear(q, k, o) }",
        ["DynamicQuantizeLinear: x -> q, k, o", "DequantizeLinear: q, k, o -> y"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pairs_become_operators_on_codes(build: Build, name: str) -> None:
    text, expected = CASES[name]
    assert [shown(op) for op in lowered(build, text).ops] == expected


def test_what_the_body_of_an_if_reads_stays_real(build: Build) -> None:
    text = (
        "(float[2] x, bool c) => (float[2] y) { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)"
        "  y = If (c) <then_branch = t1 () => (float[2] a) { a = Exp(d) },"
        " else_branch = t2 () => (float[2] a2) { a2 = Identity(d) }> }"
    )
    assert [shown(op) for op in lowered(build, text).ops][1:] == ["DequantizeLinear: [q] -> d", "If: c -> y"]


def test_tensors_carry_their_parameters_codes_and_shapes(build: Build) -> None:
    network = lowered(build, CASES["a layer between pairs"][0])
    conv = network.ops[1]
    assert conv.integer
    x, w, b = conv.inputs
    assert x is not None and w is not None and b is not None  # noqa: PT018
    assert x.params is not None and w.params is not None and b.params is not None  # noqa: PT018
    assert (x.shape, x.dtype, int(x.params.zero_point.item())) == ((1, 1, 4, 4), ir.DataType.UINT8, 3)
    assert w.params.scale.shape == (2, 1, 1, 1)
    assert w.params.scheme.tiling.axis == 0
    np.testing.assert_array_equal(w.data, ARRAYS["w"])
    np.testing.assert_array_equal(b.data, ARRAYS["b"])
    assert network.maker("yq") is conv
    assert network.readers("xq") == [conv]
    assert network.maker("x") is None
    assert network.outputs[0].name == "y"


def test_a_constant_read_in_two_ways_is_two_tensors(build: Build) -> None:
    text = (
        "(float[4,3] x) => (float[4,3] y) { a = DequantizeLinear(table, s, zi)  b2 = DequantizeLinear(table, t, zi)"
        "  c = Add(x, a)  y = Add(c, b2) }"
    )
    first, second = (op.inputs[1] for op in lowered(build, text).ops)
    assert first is not None and second is not None  # noqa: PT018
    assert first.name == "table" != second.name
    np.testing.assert_array_equal(first.data, second.data)


def test_a_scale_that_makes_no_sense_is_refused(build: Build) -> None:
    with pytest.raises(UnsupportedModel, match=r"QuantizeLinear 'bad_q' cannot be used: .*positive"):
        lowered(build, "(float[2] x) => (uint8[2] y) { [bad_q] y = QuantizeLinear(x, bad, z) }")
