"""How far two executions are apart: relative to the norm of the reference, the worst output named."""

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.run.compare import fidelity, relative_error, rounding_errors

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def _model(body: str, outputs: str = "float[2] y", inputs: str = "float[2] x, float[2] k") -> ir.Model:
    return ir.from_onnx_text(f"{HEADER}g ({inputs}) => ({outputs}) <float e = {{1.5}}> {{ {body} }}")


def _sample(x: list[float], k: list[float] | None = None) -> tuple[str, dict[str, np.ndarray]]:
    return "s", {"x": np.array(x, np.float32), "k": np.array(k or [0, 0], np.float32)}


def test_equal_models_are_not_apart() -> None:
    model = _model("y = Add(x, k)")
    assert relative_error(model, model.clone(), [_sample([1, 2]), _sample([0, 0])]) == (0.0, "")


def test_the_error_is_relative_to_the_references_norm() -> None:
    a, b = _model("y = Add(x, k)"), _model("z = Add(x, k)  y = Mul(z, e)")
    error, where = relative_error(a, b, [_sample([3, 4])])
    assert error == pytest.approx(0.5)
    assert where == "y"


def test_the_worst_output_of_all_samples_is_named() -> None:
    outputs = "float[2] y, float[2] z"
    a, b = (_model(f"y = Add(x, {last})  z = Mul(x, k)", outputs) for last in ("k", "e"))
    assert relative_error(a, b, [_sample([1, 1], [1.5, 1.5]), _sample([1, 1], [1, 1])]) == (pytest.approx(0.25), "y")


def test_outputs_of_another_shape_are_infinitely_apart() -> None:
    a, b = _model("y = Add(x, k)"), _model("y = Concat <axis = 0> (x, k)", "float[4] y")
    assert relative_error(a, b, [_sample([1, 1])]) == (float("inf"), "y")


@pytest.mark.parametrize(("x", "expected"), [([1, 0], 0.0), ([1, 2], float("inf"))])
def test_integers_must_be_equal(x: list[float], expected: float) -> None:
    a, b = (_model(f"b = Greater(x, k)  y = Cast <to = 7> ({last})", "int64[2] y") for last in "bx")
    assert relative_error(a, b, [_sample(x)])[0] == expected


def test_infinities_and_nan_in_the_same_places_are_equal() -> None:
    model = _model("y = Add(x, k)")
    assert relative_error(model, model.clone(), [_sample([1, 2], [-np.inf, np.nan])]) == (0.0, "")


def test_what_is_finite_beside_an_infinity_is_still_compared() -> None:
    a, b = _model("y = Add(x, k)"), _model("z = Mul(x, e)  y = Add(z, k)")
    assert relative_error(a, b, [_sample([1, 4], [-np.inf, 0])])[0] == pytest.approx(0.5)


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_an_infinity_or_nan_in_one_alone_is_infinitely_apart(odd: float) -> None:
    a, b = _model("y = Add(x, k)"), _model("y = Identity(x)")
    for pair in ((a, b), (b, a)):
        assert relative_error(*pair, [_sample([1, 2], [0, odd])])[0] == float("inf")


def test_a_difference_from_zero_is_not_hidden() -> None:
    a, b = _model("y = Mul(x, k)"), _model("y = Identity(x)")
    assert relative_error(a, b, [_sample([1, 2])])[0] > 1e20


def test_fidelity_is_of_floating_outputs_of_one_shape() -> None:
    rng = np.random.default_rng(0)
    a = {"y": rng.normal(size=100).astype(np.float32), "i": np.arange(3), "z": np.ones(3, np.float32)}
    b = {"y": a["y"] * 1.01, "i": np.arange(3), "z": np.ones(4, np.float32)}
    found = fidelity(a, b)
    assert list(found) == ["y"]
    assert found["y"].sqnr_db == pytest.approx(40, abs=0.01)


LOST = "y = Sub(x, one)"
"""Little is left of an x beside 1."""
NEAR = {"x": np.array([1.00001, 1.00002], np.float32)}


@pytest.mark.parametrize(
    "sizes",
    [
        'r = Resize <mode = "nearest"> (p, none, scales)',
        "s = Shape(p)  f = Cast <to = 1> (s)  g = Mul(f, scales)  i = Cast <to = 7> (g)"
        ' r = Resize <mode = "nearest"> (p, none, none, i)',
        'n = Identity(scales)  r = Resize <mode = "nearest"> (p, none, n)',
    ],
)
def test_the_neighbours_of_constants_that_decide_shapes_are_not_tried(sizes: str) -> None:
    text = (
        "g (float[1,1,3,3] p, float[1,1,6,6] o, float[2] x) => (float[2] y, float[1,1,6,6] z)"
        " <float[4] scales = {1, 1, 2, 2}, float[0] none = {}, float one = {1}> {"
        f" {sizes}  z = Add(r, o)  {LOST} }}"
    )
    pictures = {"p": np.ones((1, 1, 3, 3), np.float32), "o": np.ones((1, 1, 6, 6), np.float32)}
    found = rounding_errors(ir.from_onnx_text(HEADER + text), [("s", {**pictures, **NEAR})])
    assert found["y"] > 1e-3
    assert 0 < found["z"] < 1e-6


def test_neighbours_that_cannot_be_run_say_nothing_of_rounding() -> None:
    text = "<float one = {1}, float e = {1}, float[2] k = {1, 2}>"
    model = ir.from_onnx_text(
        f"{HEADER}g (float[2] x) => (float[2] y, float q) {text} {{ c = Ceil(e)  i = Cast <to = 7> (c)"
        f" q = Gather(k, i)  {LOST} }}"
    )
    found = rounding_errors(model, [("s", NEAR)])
    assert found["y"] > 1e-3
