"""Promised: a file whose inputs and outputs are codes is judged by what its codes mean, and says why it has none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven import demo
from halfeven.errors import BadOption

DATA = Path(demo.__file__).parent
NET = (
    "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[8,3,3,3] a, float[8] ab, float[4,8,1,1] b> {"
    " c = Conv <pads = [1, 1, 1, 1]> (x, a, ab)  r = Relu(c)  y = Conv(r, b) }"
)
X = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32)
PICTURES = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
NORMAL = "unit,mean=0.5:0.4:0.3,std=0.2:0.25:0.3"


def _saved(result: halfeven.Result, tmp_path: Path, name: str = "q.onnx") -> Path:
    result.save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(("target", "io"), [("integer", "int8"), ("onnxruntime", "uint8")])
def test_codes_are_judged_as_the_floats_they_stand_for(
    build: Callable[..., ir.Model], tmp_path: Path, target: str, io: str
) -> None:
    model, found = build(NET), []
    for kind in ("float", io):
        result = halfeven.quantize(build(NET), X, target=target, prefer="size", io=kind, verify=False)
        found.append(halfeven.verify(model, _saved(result, tmp_path, f"{kind}.onnx"), X))
    assert {v.dtype.name for v in (*result.model.graph.inputs, *result.model.graph.outputs) if v.dtype} == {io.upper()}
    assert found[1].outputs == found[0].outputs
    assert 20 < found[1].sqnr_db < 60


@pytest.mark.parametrize("normal", [NORMAL, "unit,mean=0.5,std=0.25"])
def test_bytes_are_judged_as_the_pictures_that_the_float_model_sees(
    build: Callable[..., ir.Model], tmp_path: Path, normal: str
) -> None:
    model = build(NET)
    settings = {"preprocess": normal, "prefer": "size"}
    result = halfeven.quantize(model, PICTURES, io="uint8", **settings)
    found = halfeven.verify(model, _saved(result, tmp_path), PICTURES, preprocess=normal)
    assert result.model.graph.inputs[0].dtype is ir.DataType.UINT8
    assert found.sqnr_db > 20
    assert result.verification is not None
    assert found.sqnr_db == pytest.approx(result.verification.sqnr_db, abs=3)  # that is of samples held out


def test_codes_that_nobody_explains_are_refused(build: Callable[..., ir.Model]) -> None:
    result = halfeven.quantize(build(NET), X, target="integer", io="int8", verify=False)
    del result.model.metadata_props["halfeven.io.x"]
    with pytest.raises(BadOption, match=r"'x' is int8 in the second, whose metadata do not say .*halfeven.io.x"):
        halfeven.verify(build(NET), result.model, X)


@pytest.mark.parametrize("key", ["halfeven.io.x", "halfeven.options"])
@pytest.mark.parametrize("text", ["{", "[1]", '{"scale": "a", "folded": 7}', '{"scale": 1, "folded": {"mean": 1}}'])
def test_damaged_metadata_are_refused_by_name(build: Callable[..., ir.Model], key: str, text: str) -> None:
    result = halfeven.quantize(build(NET), X, target="integer", io="int8", verify=False)
    result.model.metadata_props[key] = text
    with pytest.raises(BadOption, match=f"metadata '{key}' are damaged"):
        halfeven.verify(build(NET), result.model, X)


def test_an_interface_that_does_not_pay_is_refused_with_what_helps() -> None:
    x = (np.load(DATA / "calibration.npz")["x"][:20, None] / np.float32(255)).astype(np.float32)
    net = DATA / "fashion_mnist_mbv2.onnx"
    with pytest.raises(BadOption, match=r"^--io uint8: .* Conv '/f/f.0/.*' does not pay .* --prefer size quantizes it"):
        halfeven.quantize(net, x, io="uint8", verify=False)
    with pytest.raises(BadOption, match="is quantized as int8 for onnxruntime, whose activations are uint8"):
        halfeven.quantize(net, x, io="int8", verify=False)


@pytest.mark.parametrize(
    ("net", "normal", "why"),
    [
        (NET, NORMAL, "Conv 'Conv_c' pads with zeros, which among bytes are 127.5, 102, 76.5 in its channels"),
        (NET.replace("c = ", "m = Relu(x) c = ").replace("(x, a", "(m, a"), NORMAL, "Relu 'Relu_m' reads the input"),
        (NET.replace("y = Conv", "s = Shape(x) y = Conv"), NORMAL, "several nodes read the input"),
        (NET.replace("pads = [1, 1, 1, 1]", 'auto_pad = "SAME_UPPER"'), NORMAL, "auto_pad = SAME_UPPER"),
    ],
)
def test_a_normalisation_that_does_not_fold_says_why(
    build: Callable[..., ir.Model], net: str, normal: str, why: str
) -> None:
    model = build(net)
    if "Shape" in net:
        model.graph.outputs.append(next(v for node in model.graph for v in node.outputs if v.name == "s"))
    result = halfeven.quantize(model, PICTURES, io="uint8", preprocess=normal, prefer="size", verify=False)
    (note,) = (note for note in result.notes if note.startswith("the normalisation of pictures is a Mul and an Add"))
    assert why in note
