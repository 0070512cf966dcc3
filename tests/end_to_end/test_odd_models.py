"""Odd models: texts beside numbers, wrong declarations, weights that are NaN, layers in bodies alone, codes already; each
is quantized, or refused in a sentence that says what to do.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import halfeven
from halfeven import BadCalibration, UnsupportedByTarget, UnsupportedModel

Feeds = dict[str, np.ndarray]
Build = Callable[..., onnx.ModelProto]
Quantize = Callable[..., halfeven.Result]
Draw = Callable[..., list[Feeds]]
Ran = Callable[..., list[dict[str, object]]]
Sqnr = Callable[..., float]

TEXTS = (
    "g (float[1,8] x, string[K] s) => (float[1,4] y, string[K] t) <float[8,8] w, float[8,4] v> { h = MatMul(x, w)"
    "  r = Relu(h)  y = MatMul(r, v)  t = Identity(s) }"
)


@pytest.mark.parametrize("form", ["none", "arrays", "file", "generator", "list"])
def test_a_network_that_also_reads_texts_is_quantized(
    build: Build, form: str, tmp_path: Path, quantize: Quantize
) -> None:
    x = np.random.default_rng(0).normal(size=(8, 1, 8)).astype(np.float32)
    arrays = {"x": x, "s": np.array([["ab", f"{i}"] for i in range(8)])}
    np.savez(tmp_path / "data.npz", **arrays)
    rows = [{"x": a, "s": np.array(b, object)} for a, b in zip(*arrays.values(), strict=True)]
    data = {
        "none": None,
        "arrays": arrays,
        "file": tmp_path / "data.npz",
        "generator": (row for row in rows),
        "list": [{"x": row["x"], "s": list(row["s"])} for row in rows],
    }
    result = quantize(build(TEXTS), data[form], verify=True)
    assert "2 of 2 layers" in result.summary()
    assert result.verification is not None
    assert result.verification.sqnr_db > 10
    assert not any("object" in note for note in result.notes)


def test_a_bfloat16_input_is_refused_in_a_sentence(build: Build, quantize: Quantize) -> None:
    text = "g (bfloat16[1,8] x) => (float[1,8] y) <float[8,8] w> { c = Cast<to = 1>(x)  y = MatMul(c, w) }"
    with pytest.raises(
        UnsupportedModel, match=r"^Input 'x' is bfloat16, which .* cannot be fed .* and Cast it to bfloat16\.$"
    ):
        quantize(build(text), None)


def test_what_a_model_wrongly_declares_of_its_shapes_is_corrected_and_told(
    build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, tmp_path: Path, quantize: Quantize
) -> None:
    proto = build(
        "g (float[1,3,8,8] x) => (float[1,99,3] y) <float[16,3,3,3] w, float[16,16,3,3] v> {"
        " a = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(a)  y = Conv<pads = [1, 1, 1, 1]>(r, v) }"
    )
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 7, 7]))
    samples = draw(proto, 16)
    result = quantize(proto, samples, verify=True)
    assert "output 'y' declares shape [1, 99, 3], but has [1, 16, 8, 8]" in result.notes
    result.save(tmp_path / "q.onnx")
    onnx.checker.check_model(tmp_path / "q.onnx", full_check=True)
    found = ran((tmp_path / "q.onnx").read_bytes(), samples)
    assert sqnr([row["y"] for row in ran(proto.SerializeToString(), samples)], [row["y"] for row in found]) > 15


def test_a_weight_with_nan_is_named(build: Build, draw: Draw, plain: str, quantize: Quantize) -> None:
    proto = build(plain)
    samples = draw(proto, 8)
    for tensor in proto.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((8, 8), np.nan, np.float32), "w"))
    with pytest.raises(BadCalibration, match=r"^Weight 'w' of MatMul 'named 0' holds NaN"):
        quantize(proto, samples)


BODIES = (
    "g (float[1,8] x, bool p) => (float[1,8] y) <float[8,8] w, float[8,8] v> { y = If (p) <"
    " then_branch = a () => (float[1,8] q) { q = MatMul(x, w) }, else_branch = b () => (float[1,8] o) { o = MatMul(x, v) }> }"
)


def test_layers_in_bodies_alone_are_refused_without_an_advice_that_does_not_help(
    build: Build, draw: Draw, plain: str, quantize: Quantize
) -> None:
    proto = build(BODIES)
    with pytest.raises(UnsupportedByTarget, match="inside the body of a control-flow operator") as caught:
        quantize(proto, draw(proto, 8))
    assert "--prefer size" not in str(caught.value)
    source = build(plain)
    with pytest.raises(UnsupportedByTarget, match="--prefer size quantizes the weights all the same"):
        quantize(source, draw(source, 8), prefer="speed")


@pytest.mark.parametrize("mode", ["static", "weight-only"])
def test_what_is_codes_already_is_not_taken_for_products_of_activations(
    build: Build, draw: Draw, mode: str, plain: str, quantize: Quantize
) -> None:
    proto = build(plain)
    samples = draw(proto, 8)
    twice = halfeven.inspect(quantize(proto, samples).model, mode=mode)[0]
    told = {why for op, why in twice.floats.values() if op == "MatMul"}
    assert len(told) == 1
    assert "in the source model" in told.pop()
