"""Promised: a table that is cut off, hostile, or of another network gives one sentence and no traceback; what a plan
cannot hold is read exactly or refused.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.errors import BadOption, QuantError, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.formats import exporter_named
from halfeven.exporters.tables.tensorrt import write_cache
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.importers.formats import import_plan
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import QParams, Scheme
from halfeven.report.inspection import inspect_draft
from halfeven.targets import target_named

TARGET = target_named("tensorrt")
ENTRY = {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "offset": -128, "scale": 0.1}
WHOLE = {"version": "0.6.1", "activation_encodings": {"x": [ENTRY]}, "param_encodings": {}}


def given(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def refused(path: Path, model: ir.Model | None, name: str | None = None) -> str:
    """The one sentence or two with which a file is refused."""
    with pytest.raises(QuantError) as caught:
        import_plan(path, model, TARGET, name)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def aimet(**changes: Any) -> dict[str, Any]:
    return {**WHOLE, "activation_encodings": {"x": [{**ENTRY, **changes}]}}


NESTED: Any = 1.0
for _ in range(600):
    NESTED = [NESTED]
BROKEN: dict[str, Any] = {
    "nothing": "",
    "lists in lists": {"version": "2.0.0", "encodings": [{"name": "w", "output_dtype": "int8", "y_scale": NESTED}]},
    "cut off": json.dumps(WHOLE)[:60],
    "a list": "[1, 2]",
    "deep": "[" * 100_000,
    "no text": {**WHOLE, "activation_encodings": 3},
    "twice": '{"version": "0.6.1", "version": "0.6.1"}',
    "NaN": json.dumps(aimet(scale=float("nan"))),
    "infinite": json.dumps(aimet(scale=float("inf"))),
    "negative": aimet(scale=-0.1),
    "zero": aimet(scale=0),
    "a text": aimet(scale="0.1"),
    "true": aimet(scale=True),
    "beyond float32": aimet(scale=1e39),
    "below float32": aimet(scale=1e-60),
    "positive offset": aimet(offset=3),
    "half an offset": aimet(offset=-0.5),
    "offset beyond the codes": aimet(offset=-300),
    "many bits": aimet(bitwidth=4000),
    "contradicted": aimet(min=5.0),
    "no scale": {**WHOLE, "activation_encodings": {"x": [{k: v for k, v in ENTRY.items() if k != "scale"}]}},
    "no encodings": {**WHOLE, "activation_encodings": {"x": []}},
    "several for an activation": {**WHOLE, "activation_encodings": {"x": [ENTRY, ENTRY]}},
    "too many for a weight": {**WHOLE, "param_encodings": {"w": [ENTRY] * 5}},
    "a million": {**WHOLE, "param_encodings": {"w": [ENTRY] * 100_000}},
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_encodings_file_gets_one_sentence(fault: str, model: ir.Model, tmp_path: Path) -> None:
    path = given(tmp_path / "net.encodings", BROKEN[fault])
    assert str(path) in refused(path, model, "aimet")


OTHERS: dict[str, tuple[str, Any]] = {
    "header": ("tensorrt-cache", "x: 3c008912\n"),
    "no hex": ("tensorrt-cache", "TRT-8601-EntropyCalibration2\nx: zz\n"),
    "too much hex": ("tensorrt-cache", "TRT-8601-EntropyCalibration2\nx: 3c0089123\n"),
    "six digits": ("tensorrt-cache", "TRT-8601-EntropyCalibration2\nx: 3c0089\n"),
    "subnormal": ("tensorrt-cache", "TRT-8601-EntropyCalibration2\nx: 003c0089\n"),
    "negative bits": ("tensorrt-cache", "TRT-8601-EntropyCalibration2\nx: bc008912\n"),
    "NaN bits": ("tensorrt-cache", "TRT-8601-EntropyCalibration2\nx: 7fc00000\n"),
    "a line twice": ("tensorrt-cache", "TRT-8601-EntropyCalibration2\nx: 3c008912\nx: 3c008912\n"),
    "only names of others": ("tensorrt-cache", "TRT-8601-EntropyCalibration2\nz: 3c008912\n"),
    "amax": ("ppq-tensorrt", {"act_quant_info": {"x": -1}}),
    "a list of ranges": ("ppq-tensorrt", {"act_quant_info": [1]}),
    "codes": ("ppq-ppl", {"quant_info": {"x": {"scale": 1, "zero_point": 0, "q_min": -3, "q_max": 127}}}),
    "zero point": ("ppq-ppl", {"quant_info": {"x": {"scale": 1, "zero_point": 900, "q_min": -128, "q_max": 127}}}),
    "lengths": ("ppq-ppl", {"quant_info": {"w": {"scale": [1, 2], "zero_point": [0], "q_min": -128, "q_max": 127}}}),
    "min": ("ppq-qnn", {"activation_encodings": {"x": [{"scale": 1, "offset": 0}]}, "param_encodings": {}}),
    "order": ("ort-calibration", {"CLS": "", "calibration_method": 0, "data": {"x": {"lowest": 2, "highest": 1}}}),
    "array": ("ort-calibration", {"CLS": "", "calibration_method": 0, "data": {"x": {"lowest": [], "highest": 1}}}),
    "no layers": ("mnn-params", {"algo": [{"quant_params": 5}]}),
    "two scales": (
        "mnn-params",
        {"algo": [{"quant_params": {"layer": [{"input": [{"name": "x", "scales": [1, 2]}]}]}}]},
    ),
    "fix": ("vitis-fix", {"param": {}, "input": {}, "output": {"x": [[8, 4000]]}}),
    "fix of a text": ("vitis-fix", {"param": {}, "input": {}, "output": {"x": [[8, "a"]]}}),
    "no number": ("ncnn-table", "product 1.0 nan\n"),
    "other layers": ("ncnn-table", "conv_param_0 1.0\nconv 1.0\n"),
    "alone": ("ncnn-table", "product\n"),
    "version": ("encodings", {"halfeven_encodings": 9, "tensors": []}),
    "kind": ("encodings", {"halfeven_encodings": 1, "tensors": [{"kind": []}], "float_nodes": {}}),
    "tensors": ("encodings", {"halfeven_encodings": 1, "tensors": {}, "float_nodes": {}}),
    "type": (
        "aimet-2.0",
        {"version": "2.0.0", "encodings": [{"name": "x", "output_dtype": "float8e4m3fn", "y_scale": 1}]},
    ),
    "shape": (
        "aimet-2.0",
        {"version": "2.0.0", "encodings": [{"name": "w", "output_dtype": "int8", "y_scale": [[1, 2], 3]}]},
    ),
    "axis": (
        "aimet-2.0",
        {"version": "2.0.0", "encodings": [{"name": "w", "output_dtype": "int8", "y_scale": [1, 2], "axis": 7}]},
    ),
    "not a list": ("aimet-2.0", {"version": "2.0.0", "encodings": 3}),
    "entries": ("aimet-2.0", {"version": "2.0.0", "encodings": [3]}),
}


@pytest.mark.parametrize("fault", OTHERS)
def test_another_broken_table_gets_one_sentence(fault: str, model: ir.Model, tmp_path: Path) -> None:
    name, data = OTHERS[fault]
    path = given(tmp_path / "net.table", data)
    assert path.name in refused(path, model, name)


def test_bytes_that_are_no_text_get_one_sentence(model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "net.cache"
    path.write_bytes(b"TRT-8601-EntropyCalibration2\n\xff\xfe")
    assert "text was expected" in refused(path, model)


def test_without_the_model_a_table_is_refused(tmp_path: Path) -> None:
    assert "give the float model" in refused(given(tmp_path / "net.encodings", WHOLE), None)


def test_names_that_the_model_lacks_are_listed_in_one_sentence(model: ir.Model, tmp_path: Path) -> None:
    data = {**WHOLE, "activation_encodings": {name: [ENTRY] for name in ("a", "b", "x")}}
    text = refused(given(tmp_path / "net.encodings", data), model)
    assert "2 tensors that the model lacks: 'a', 'b'." in text


def test_a_cache_may_name_tensors_of_its_own(model: ir.Model, tmp_path: Path) -> None:
    data = "TRT-8601-MinMaxCalibration\nx: 3c008912\n(Unnamed Layer* 4) [Fully Connected]_output: 3d65992f\n"
    plan = import_plan(given(tmp_path / "net.cache", data), model, TARGET)
    quantizer = plan.at(Site("x", "product", 0))
    assert quantizer is not None
    assert "names 1 tensor that the model lacks" in quantizer.reason
    assert quantizer.params is not None
    assert float(quantizer.params.scale) == float.fromhex("0x1.0112240000000p-7")


@pytest.mark.parametrize(("symmetric", "offset", "low", "zero"), [("True", -128, -128, 0), ("True", -127, -127, 0)])
def test_symmetric_codes_of_aimet_are_int8(
    symmetric: str, offset: int, low: int, zero: int, model: ir.Model, tmp_path: Path
) -> None:
    path = given(tmp_path / "net.encodings", aimet(offset=offset, is_symmetric=symmetric))
    params = import_plan(path, model, TARGET).at(Site("x", "product", 0))
    assert params is None
    weights = {**aimet(offset=offset), "param_encodings": {"w": [ENTRY]}}
    plan = import_plan(given(tmp_path / "net.encodings", weights), model, TARGET)
    quantizer = plan.at(Site("x", "product", 0))
    assert quantizer is not None
    assert quantizer.params is not None
    assert quantizer.scheme.grid.low == low
    assert int(quantizer.params.zero_point) == zero


def test_an_asymmetric_encoding_keeps_its_real_values(model: ir.Model, tmp_path: Path) -> None:
    entry = {**ENTRY, "is_symmetric": "False", "offset": -100, "scale": 0.5}
    data = {**WHOLE, "activation_encodings": {"x": [entry]}, "param_encodings": {"w": [ENTRY]}}
    for name, low in (("onnxruntime", 0), ("integer", -128)):
        plan = import_plan(given(tmp_path / "net.encodings", data), model, target_named(name))
        quantizer = plan.seen_by("x", "product", 0)
        assert quantizer is not None
        assert quantizer.params is not None
        assert quantizer.scheme.grid.low == low
        assert (low - int(quantizer.params.zero_point)) * float(quantizer.params.scale) == -50.0


def test_a_file_without_a_version_whose_offset_is_a_zero_point_is_ppqs(model: ir.Model, tmp_path: Path) -> None:
    entry = {"bitwidth": 8, "scale": 0.5, "offset": 100, "min": -50.0, "max": 77.5}
    sections = {
        "activation_encodings": {"x": [entry]},
        "param_encodings": {"w": [{**entry, "offset": 0, "min": -64.0, "max": 63.5}]},
    }
    plan = import_plan(given(tmp_path / "net.json", sections), model, target_named("onnxruntime"))
    quantizer = plan.seen_by("x", "product", 0)
    assert quantizer is not None
    assert quantizer.params is not None
    assert int(quantizer.params.zero_point) == 100


def test_codes_between_the_integers_are_refused(model: ir.Model, tmp_path: Path) -> None:
    entry = {
        "name": "w",
        "dtype": "INT",
        "enc_type": "PER_TENSOR",
        "bw": 8,
        "is_sym": True,
        "scale": [1],
        "offset": [-128],
    }
    data = {"version": "1.0.0", "activation_encodings": [], "param_encodings": [{**entry, "zero_point_shift": [0.5]}]}
    with pytest.raises(UnsupportedModel, match="between the integers"):
        import_plan(given(tmp_path / "net.encodings", data), model, TARGET)


def test_a_tensor_that_a_file_keeps_in_float_stays_so(model: ir.Model, tmp_path: Path) -> None:
    params = {"w": [{**ENTRY, "offset": -127}]}
    data = {**WHOLE, "activation_encodings": {"x": [{"bitwidth": 16, "dtype": "float"}]}, "param_encodings": params}
    sites = import_plan(given(tmp_path / "net.encodings", data), model, TARGET).sites
    assert [site.value for site in sites] == ["w"]


HOLLOW: dict[str, tuple[str, Any]] = {
    "header only": ("tensorrt-cache", "TRT-8601-EntropyCalibration2\n"),
    "no ranges": ("ppq-tensorrt", {"act_quant_info": {}}),
    "all float": ("aimet", {**WHOLE, "activation_encodings": {"x": [{"bitwidth": 16, "dtype": "float"}]}}),
}


@pytest.mark.parametrize("fault", HOLLOW)
def test_a_table_without_a_scale_is_refused(fault: str, model: ir.Model, tmp_path: Path) -> None:
    name, data = HOLLOW[fault]
    assert "holds no scale" in refused(given(tmp_path / "net.table", data), model, name)


def test_a_layer_whose_weights_alone_have_a_scale_is_not_called_float(model: ir.Model, tmp_path: Path) -> None:
    data = {**WHOLE, "activation_encodings": {}, "param_encodings": {"w": [{**ENTRY, "offset": -127}]}}
    plan = import_plan(given(tmp_path / "net.encodings", data), model, TARGET)
    assert plan.floats == {}
    assert inspect_draft(Draft(model, TARGET, plan)).layers == (1, 1)


def test_a_tensor_with_two_scales_cannot_be_in_a_table(model: ir.Model, tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["": 21]> g (float[n, 8] x) => (float[n, 2] y, float[n, 2] z) {y = MatMul(x, w) z = MatMul(x, v)}'
    proto = onnx.parser.parse_model(text)
    for name, node in zip("wv", proto.graph.node, strict=True):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 2), np.float32), name))
        node.name = f"product {name}"
    scheme = Scheme(IntGrid(8))
    groups = {
        i: Quantizer(scheme, "by hand", "activation", QParams(scheme, np.array(s, np.float32), np.array(0, np.int32)))
        for i, s in enumerate((0.5, 0.25))
    }
    sites = {Site("x", "product w", 0): 0, Site("x", "product v", 0): 1}
    draft = Draft(ir.serde.deserialize_model(proto), TARGET, Plan(groups, sites))
    with pytest.raises(UnsupportedByTarget, match="one way"):
        exporter_named("tensorrt-cache")(draft, tmp_path / "net.cache")


def test_a_version_of_tensorrt_is_a_number(model: ir.Model, tmp_path: Path) -> None:
    scheme = Scheme(IntGrid(8))
    quantizer = Quantizer(scheme, "test", params=QParams(scheme, np.array(0.5, np.float32), np.array(0, np.int32)))
    draft = Draft(model, TARGET, Plan({0: quantizer}, {Site("x"): 0}))
    with pytest.raises(BadOption, match="no version"):
        write_cache(draft, tmp_path / "net.cache", version="8.6\nx")
    write_cache(draft, tmp_path / "net.cache", version="101000", calibrator="MinMaxCalibration")
    assert (tmp_path / "net.cache").read_text().startswith("TRT-101000-MinMaxCalibration\n")
