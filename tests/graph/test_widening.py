"""Promised: a network in float16, bfloat16 or float64 becomes one in float32 that computes the same from the same inputs,
behind inputs and outputs of their own types; any other network stays the very object it was.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from halfeven.graph.edit import graphs, values
from halfeven.graph.widen import LARGEST, widened
from halfeven.run.ort import OrtExecutor

Build = Callable[..., ir.Model]
FLOAT, HALF, DOUBLE = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE
NETWORKS = {
    "layers": "g (T[2,4] x) => (T[2,3] y) {"
    " h = Gemm(x, w, b)  r = Relu(h)  y = MatMul(r, v) }",
    "a constant node": "g (T[2,4] x) => (T[2,4] y) {"
    " k = Constant <value = T[4] {1, 2, 3, 4.5}> ()  h = MatMul(x, w)  y = Add(h, k) }",
    "casts inside": "g (T[2,4] x, int64[2,4] i) => (T[2,4] y) {"
    " c = Cast <to = TO> (i)  d = Cast <to = 1> (x)  e = Cast <to = TO> (d)  s = Add(c, e)  y = MatMul(s, w) }",
    "a float output": "g (T[2,4] x) => (float[2,4] y, T[2,4] h) { h = MatMul(x, w)  y = Cast <to = 1> (h) }",
    "made tensors": "g (T[2,4] x) => (T[2,4] y) { n = Shape(x)  c = ConstantOfShape <value = T[1] {0.5}> (n)"
    " e = EyeLike <dtype = TO> (x)  h = MatMul(x, w)  s = Add(h, c)  y = Sub(s, e) }",
    "branches": "g (T[2,4] x, bool c) => (T[2,4] y) { h = MatMul(x, w)  y = If(c) <"
    " then_branch = t () => (T[2,4] p) { k = Constant <value = T[1] {0.5}> ()  p = Mul(h, k) },"
    " else_branch = e () => (T[2,4] q) { q = MatMul(h, w) }> }",
    "an output twice, and an input": "g (T[2,4] x) => (T[2,4] y, T[2,4] y, T[2,4] x) { y = MatMul(x, w) }",
    "a weight handed out": "g (T[2,4] x) => (T[2,4] y, T[4,4] w) { y = MatMul(x, w) }",
}  # fmt: skip
KINDS = {"float16": HALF, "double": DOUBLE}
RNG = np.random.default_rng(1)
WEIGHTS = {"w": RNG.normal(size=(4, 4)), "b": RNG.normal(size=4), "v": RNG.normal(size=(4, 3))}


def weights(kind: ir.DataType = FLOAT) -> dict[str, np.ndarray]:
    return {name: array.astype(kind.numpy()) for name, array in WEIGHTS.items()}


def model_of(build: Build, name: str, kind: str) -> ir.Model:
    text = NETWORKS[name].replace("TO>", f"{int(KINDS[kind])}>").replace("T[", f"{kind}[")
    if kind == "float16":  # which the text form of ONNX has as bits
        text = text.replace("{1, 2, 3, 4.5}", "{15360, 16384, 16896, 17536}").replace("{0.5}", "{14336}")
    return build(text, **weights(KINDS[kind]))


def feeds_of(model: ir.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        drawn = rng.normal(0, 2, value.shape.numpy())
        found[str(value.name)] = np.asarray(
            drawn > 0 if value.dtype == ir.DataType.BOOL else drawn, value.dtype.numpy()
        )
    return found


def of_type(model: ir.Model, kind: ir.DataType) -> set[str]:
    """Values of that type, those of inputs and outputs apart."""
    ends = {v.name for v in (*model.graph.inputs, *model.graph.outputs)}
    return {str(v.name) for g in graphs(model) for v in values(g) if v.dtype is kind and v.name not in ends}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_widened_network_is_float32_inside_and_gives_the_same(build: Build, name: str, kind: str) -> None:
    model = model_of(build, name, kind)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    wide, notes = widened(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert of_type(wide, KINDS[kind]) == set()
    for a, b in ((model.graph.inputs, wide.graph.inputs), (model.graph.outputs, wide.graph.outputs)):
        assert [(v.name, v.dtype, v.shape) for v in a] == [(v.name, v.dtype, v.shape) for v in b]
    proto = ir.to_proto(wide)
    if "twice" not in name:  # which onnx's checker refuses, and runtimes take
        onnx.checker.check_model(proto, full_check=True)
    assert len(notes) == 1
    assert "inputs and outputs keep their type" in notes[0]
    feeds = feeds_of(model)
    expected, found = (OrtExecutor(m, optimize=False)(feeds) for m in (model, wide))
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_allclose(found[key], array, rtol=4e-3, atol=4e-3)


def test_weights_of_float16_keep_every_value(build: Build) -> None:
    model = model_of(build, "layers", "float16")
    wide, notes = widened(model)
    for name, value in model.graph.initializers.items():
        tensor = wide.graph.initializers[name].const_value
        assert tensor is not None
        assert tensor.dtype == FLOAT
        np.testing.assert_array_equal(tensor.numpy(), value.const_value.numpy())  # type: ignore[union-attr]
    assert notes[0].startswith("the network is in float16: 3 constants turned into float32 without loss")


def test_weights_of_bfloat16_keep_every_value(build: Build) -> None:
    codes = np.arange(0x3F00, 0x3F10, dtype=np.uint16).reshape(4, 4)
    model = build("g (float[2,4] x) => (float[2,4] y) { c = Cast <to = 16> (x)  h = MatMul(c, w)"
                  "  y = Cast <to = 1> (h) }", w=codes.view(ir.DataType.BFLOAT16.numpy()))  # fmt: skip
    wide, notes = widened(model)
    assert [node.op_type for node in wide.graph] == ["MatMul", "Cast"]  # an output's name is kept by its Cast
    found = OrtExecutor(wide)({"x": np.eye(2, 4, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(found, (codes.astype(np.uint32) << 16).view(np.float32)[:2])
    assert "bfloat16" in notes[0]
    assert "inputs and outputs" not in notes[0]


def test_weights_of_float64_are_rounded_and_stay_finite(build: Build) -> None:
    weight = np.array([[1 / 3, -1e300], [1e39, np.inf]])
    model = build("g (double[1,2] x) => (double[1,2] y) { y = MatMul(x, w) }", w=weight)
    wide, notes = widened(model)
    tensor = wide.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), np.array([[1 / 3, -LARGEST], [LARGEST, np.inf]], np.float32))
    assert notes[0].startswith("the network is in float64: 1 constant rounded to float32")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("g (float[2,4] x) => (float[2,4] y) { y = MatMul(x, w) }", FLOAT),
        # float64 that only arithmetic on sizes uses
        (
            "g (float[2,4] x) => (float[2,4] y, double d) <double k = {0.1}> {"
            " n = Size(x)  c = Cast <to = 11> (n)  d = Mul(c, k)  y = MatMul(x, w) }",
            FLOAT,
        ),
        # as many weights in float32 as in float16
        (
            "g (float16[2,4] x) => (float[2,4] y) { h = MatMul(x, w)  c = Cast <to = 1> (h)  k = Constant <value ="
            f" float[4,4] {{{', '.join('1' * 16)}}}> ()  y = MatMul(c, k) }}",
            HALF,
        ),
        # float16 that is merely stored
        ("g (float[2,4] x) => (float[2,4] y) { c = Cast <to = 1> (w)  y = MatMul(x, c) }", HALF),
        (
            "g (float16[2,4] x) => (float16[2,4] y) { c = Cast <to = 1> (x)  h = MatMul(c, w)"
            "  y = Cast <to = 10> (h) }",
            FLOAT,
        ),
    ],
)
def test_a_network_whose_layers_are_float32_stays_the_object_it_was(build: Build, text: str, kind: ir.DataType) -> None:
    model = build(text, **weights(kind))
    found, notes = widened(model)
    assert found is model
    assert notes == []


def test_only_the_kinds_asked_for_are_widened(build: Build) -> None:
    model = model_of(build, "layers", "float16")
    assert widened(model, [DOUBLE])[0] is model
    assert widened(model, [HALF])[0] is not model


def test_names_that_a_cast_would_get_are_taken_already(build: Build) -> None:
    model = build("g (float16[2,4] x) => (float16[2,4] y) {"
                  " [y_Cast] h = MatMul(x, y_float32)  y = Add(h, x_float32) }", y_float32=weights(HALF)["w"], x_float32=weights(HALF)["b"])  # fmt: skip
    wide, _ = widened(model)
    names = [v.name for v in values(wide.graph)]
    assert len(set(names)) == len(names)
    onnx.checker.check_model(ir.to_proto(wide), full_check=True)
    feeds = feeds_of(model)
    expected, found = (OrtExecutor(m)(feeds)["y"] for m in (model, wide))
    np.testing.assert_allclose(found, expected, rtol=4e-3, atol=4e-3)
