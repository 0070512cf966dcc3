"""The door to ONNX Runtime: any tensor can be watched, weights may lie in files, and each failure is named."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.errors import BadCalibration, UnsupportedModel
from halfeven.run.ort import OrtExecutor, first, integer_nodes, observe, with_outputs

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
X = {"x": np.array([[1, 2]], np.float32)}


def _model(body: str, outputs: str = "float[1,2] y", inputs: str = "float[1,2] x") -> ir.Model:
    return ir.from_onnx_text(f"{HEADER}g ({inputs}) => ({outputs}) <float[2,2] w = {{1, 2, 3, 4}}> {{ {body} }}")


CHAIN = "h = MatMul(x, w)  r = Relu(h)  k = Neg(r)  y = MatMul(k, w)"


@pytest.mark.parametrize("optimize", [True, False])
def test_any_tensor_can_be_watched(optimize: bool) -> None:
    found = OrtExecutor(_model(CHAIN), ("r", "h"), optimize=optimize)(X)
    assert list(found) == ["y", "r", "h"]
    np.testing.assert_array_equal(found["h"], [[7, 10]])
    np.testing.assert_array_equal(found["y"], [[-37, -54]])


def test_outputs_come_first_once_and_in_order() -> None:
    model = _model(CHAIN, "float[1,2] y, float[1,2] h")
    run = OrtExecutor(model, ("h", "r", "y"))
    assert run.outputs == ["y", "h", "r"]
    assert list(run(X)) == ["y", "h", "r"]
    assert [v.name for v in model.graph.outputs] == ["y", "h"]


def test_a_tensor_of_unknown_type_is_watched_as_well() -> None:
    model = _model(CHAIN)
    assert next(iter(model.graph)).outputs[0].type is None
    assert [v.name for v in with_outputs(model, ["h"]).graph.outputs] == ["y", "h"]


def test_a_watched_tensor_of_a_file_is_returned_too(tmp_path: Path) -> None:
    ir.save(_model(CHAIN), tmp_path / "m.onnx")
    assert list(OrtExecutor(tmp_path / "m.onnx")(X)) == ["y"]
    assert list(OrtExecutor(str(tmp_path / "m.onnx"), ("h",))(X)) == ["y", "h"]


def test_a_watched_name_that_the_model_lacks_is_an_error() -> None:
    with pytest.raises(UnsupportedModel, match="nope"):
        OrtExecutor(_model(CHAIN), ("h", "nope"))(X)


@pytest.mark.parametrize("named", [True, False])
def test_weights_in_a_file_beside_the_model_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    model = _model(CHAIN)
    (tmp_path / "deep").mkdir()
    ir.save(model, tmp_path / "deep" / "m.onnx", external_data="weights.bin", size_threshold_bytes=0)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "deep" / "m.onnx" if named else Path("deep/m.onnx")
    loaded = ir.load(path)
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
    for source in (loaded, path):
        np.testing.assert_array_equal(OrtExecutor(source)(X)["y"], [[-37, -54]])
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_a_session_is_made_once() -> None:
    run = OrtExecutor(_model(CHAIN))
    assert run.session is run.session


@pytest.mark.parametrize(
    ("feeds", "match"),
    [
        ({"x": np.ones((1, 3), np.float32)}, r"cat.jpg \(x float32\[1, 3\]\) cannot be run: .*3"),
        ({"x": np.ones((1, 2), np.float64)}, r"cat.jpg \(x float64\[1, 2\]\) cannot be run: .*double"),
        ({}, "cat.jpg .*cannot be run: .*x"),
        ({**X, "z": np.ones(1, np.float32)}, "cat.jpg .*cannot be run: .*z"),
    ],
)
def test_feeds_that_do_not_fit_are_named(feeds: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(BadCalibration, match=match):
        OrtExecutor(_model(CHAIN))(feeds, "cat.jpg")


def test_a_failure_while_running_is_named() -> None:
    model = _model("y = Reshape(x, s)", "float[n] y", "float[1,2] x, int64[1] s")
    with pytest.raises(BadCalibration, match=r"a sample \(x .*, s int64\[1\]\) cannot be run: .*[Rr]eshape"):
        OrtExecutor(model)({**X, "s": np.array([5])})


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"ONNX Runtime cannot load the model: .*Mystery"):
        OrtExecutor(_model("y = Mystery(x)"))(X)
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(UnsupportedModel, match="ONNX Runtime cannot load the model"):
        OrtExecutor(tmp_path / "m.onnx")(X)


def test_shapes_and_huge_values_of_one_run() -> None:
    model = _model(
        "h = MatMul(x, w)  big = Exp(h)  s = Shape(big)  e = NonZero(h)  neg = Log(z)  q = SequenceConstruct(x)  y ="
        " Add(big, h)",
        inputs="float[1,2] x, float[n] z",
    )
    shapes, huge = observe(model, {"x": np.full((1, 2), 3, np.float32), "z": np.array([0, 1, np.nan], np.float32)})
    assert shapes == {
        "x": (1, 2),
        "z": (3,),
        "h": (1, 2),
        "big": (1, 2),
        "s": (2,),
        "e": (2, 2),
        "neg": (3,),
        "y": (1, 2),
    }
    assert huge["neg"] == np.inf
    assert huge == {"neg": np.inf}
    huge = observe(model, {"x": np.full((1, 2), 5, np.float32), "z": np.full(0, 1, np.float32)})[1]
    assert set(huge) == {"big", "y"}
    assert huge["big"] == pytest.approx(np.exp(30), rel=1e-5)


def test_a_value_that_is_nothing_but_nan_is_not_huge() -> None:
    model = _model("y = Log(x)")
    assert observe(model, {"x": np.full((1, 2), -1, np.float32)})[1] == {}


def test_layers_are_counted_after_the_optimiser(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    ir.save(_model(CHAIN), path)
    assert integer_nodes(path) == (0, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


@pytest.mark.parametrize(("processor", "codes"), [("aarch64", ir.DataType.INT8), ("x86_64", ir.DataType.UINT8)])
def test_signed_codes_stay_signed_on_arm_and_become_unsigned_on_x86(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str, codes: ir.DataType
) -> None:
    monkeypatch.setattr("halfeven.run.processor.machine", lambda: processor)
    model = ir.from_onnx_text(f"""{HEADER}g (float[1,2,4,4] x) => (float[1,2,4,4] y) <
        float s = {{0.5}}, int8 z = {{3}}, int8 zw = {{0}}, int8[2,2,1,1] w = {{1, 2, 3, 4}}> {{
        xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)  wd = DequantizeLinear(w, s, zw)
        c = Conv(xd, wd)  cq = QuantizeLinear(c, s, z)  y = DequantizeLinear(cq, s, z) }}""")
    run = OrtExecutor(model, written=tmp_path / "fused.onnx")
    run({"x": np.ones((1, 2, 4, 4), np.float32)})
    fused = ir.load(tmp_path / "fused.onnx")
    layer = next(node for node in fused.graph if node.op_type == "QLinearConv")
    assert [layer.inputs[port].dtype for port in (2, 7)] == [codes, codes]


def test_the_first_sample_of_none_is_none() -> None:
    assert first([]) is None
    assert first([("a", X), ("b", X)]) == ("a", X)
