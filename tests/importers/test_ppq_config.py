"""Promised: the JSON that PPQ writes of its own quantization is read as PPQ means it, and what no plan holds is refused.

`golden/ppq_config.json` was written by PPQ 0.6.6 itself (OnnxExporter.export_quantization_config), of the network below,
for TensorRT (`trt`) and for a DSP (`dsp`).
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from halfeven.draft import Draft
from halfeven.errors import BadOption, QuantError, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.tables.ppq_config import write_ppq_config
from halfeven.graph.plan import Plan, Quantizer, Site, changes
from halfeven.importers.formats import import_plan, sniff
from halfeven.numerics.grid import INT8
from halfeven.numerics.scheme import QParams, Scheme, per_group
from halfeven.targets import TARGETS

NET = """<ir_version: 8, opset_import: ["" : 13]>
net (float[1,3,8,8] x) => (float[1,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w2, b2)  s = Add(c, b)  d = Relu(s)
    e = Flatten(d)  y = Gemm<transB=1>(e, w3, b3)
}"""
SHAPES = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "b2": (4,), "w3": (5, 256), "b3": (5,)}
RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "ppq_config.json").read_text())


@pytest.fixture
def model() -> ir.Model:
    """A residual block and a product."""
    proto = onnx.parser.parse_model(NET)
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{number}"
    rng = np.random.default_rng(0)
    drawn = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in drawn.items())
    return ir.serde.deserialize_model(proto)


def read(data: Any, model: ir.Model, target: str, folder: Path) -> Plan:
    path = folder / "net.json"
    path.write_text(json.dumps(data))
    assert sniff(path) == "ppq-config"
    return import_plan(path, model, TARGETS[target])


def values_of(data: dict[str, Any], node: str, tensor: str) -> tuple[list[float], list[float]]:
    """Scales and zero points that PPQ's file gives a tensor at a node."""
    found = data["values"][str(data["configs"][node][tensor]["dominator"])]
    return tuple(np.ravel(found[key]).tolist() for key in ("scale", "zero_point"))  # type: ignore[return-value]


PLACES = {
    ("x", "Conv_0"): Site("x", "Conv_0", 0),
    ("w1", "Conv_0"): Site("w1", "Conv_0", 1),
    ("w2", "Conv_2"): Site("w2", "Conv_2", 1),
    ("b", "Add_3"): Site("b"),
    ("c", "Add_3"): Site("c"),
    ("d", "Relu_4"): Site("d"),
    ("w3", "Gemm_6"): Site("w3", "Gemm_6", 1),
    ("y", "Gemm_6"): Site("y"),
}


@pytest.mark.parametrize(("name", "target"), [("trt", "tensorrt"), ("dsp", "onnxruntime")])
def test_a_file_of_ppq_is_read_with_its_scales_and_zero_points(
    name: str, target: str, model: ir.Model, tmp_path: Path
) -> None:
    data = RECORDED[name]
    plan = read(data, model, target, tmp_path)
    for (tensor, node), site in PLACES.items():
        params = plan.groups[plan.sites[site]].params
        assert params is not None
        scales, zeros = values_of(data, node, tensor)
        assert params.scale.ravel().tolist() == np.array(scales, np.float32).tolist(), site
        least = -128 if params.scheme.grid.signed else 0  # codes may have moved to the sign that the target takes
        shift = least - data["configs"][node][tensor]["quant_min"]
        assert params.zero_point.ravel().tolist() == [zero + shift for zero in zeros], site
    assert "a" not in {site.value for site in plan.sites}  # between a convolution and its Relu
    onnx.checker.check_model(ir.serde.serialize_model(to_qdq(Draft(model, TARGETS[target], plan))))


def test_what_only_moves_numbers_has_the_scale_of_what_it_moves(model: ir.Model, tmp_path: Path) -> None:
    plan = read(RECORDED["trt"], model, "tensorrt", tmp_path)
    moved, source = plan.at(Site("e", "Gemm_6", 0)), plan.at(Site("d"))
    assert moved is not None
    assert source is not None
    assert moved.params is not None
    assert source.params is not None
    assert moved.params.scale == source.params.scale


def test_biases_are_derived_and_only_where_the_target_takes_codes(model: ir.Model, tmp_path: Path) -> None:
    found = {t: read(RECORDED["dsp"], model, t, tmp_path) for t in ("onnxruntime", "tensorrt")}
    biases = {t: [s.value for s, g in plan.sites.items() if plan.groups[g].role == "bias"] for t, plan in found.items()}
    assert biases == {"onnxruntime": ["b1", "b2", "b3"], "tensorrt": []}


def test_a_plan_comes_back_from_the_file_with_shared_scales_as_one_dominator(model: ir.Model, tmp_path: Path) -> None:
    plan = read(RECORDED["dsp"], model, "onnxruntime", tmp_path)
    path = tmp_path / "again.json"
    write_ppq_config(Draft(model, TARGETS["onnxruntime"], plan), path)
    again = import_plan(path, model, TARGETS["onnxruntime"])
    assert [c for c in changes(plan, again) if c.kind != "node"] == []
    data = json.loads(path.read_text())
    own = {one["hash"] for node in data["configs"].values() for one in node.values()}
    roots = {one["dominator"] for node in data["configs"].values() for one in node.values() if one["state"] != "FP32"}
    assert set(data) == {"configs", "dispatchings", "values"}
    assert {str(root) for root in roots} == set(data["values"])
    assert roots <= own
    assert set(data["configs"]["Conv_0"]["x"]) == set(RECORDED["dsp"]["configs"]["Conv_0"]["x"])
    assert data["configs"]["Conv_0"]["x"]["policy"] == RECORDED["dsp"]["configs"]["Conv_0"]["x"]["policy"]
    assert data["configs"]["Conv_2"]["b"]["state"] == "OVERLAPPED"
    assert data["configs"]["Conv_0"]["b1"]["state"] == "PASSIVE"
    assert data["configs"]["Conv_0"]["a"]["state"] == "FP32"


def test_an_operator_that_is_dispatched_to_floats_stays_float(model: ir.Model, tmp_path: Path) -> None:
    data = {**RECORDED["trt"], "dispatchings": {**RECORDED["trt"]["dispatchings"], "Gemm_6": "FP32"}}
    plan = read(data, model, "tensorrt", tmp_path)
    assert "Gemm_6" in plan.floats
    assert not any(site.consumer == "Gemm_6" for site in plan.sites)


def test_a_node_that_a_plan_keeps_in_float_is_dispatched_so_and_comes_back(model: ir.Model, tmp_path: Path) -> None:
    plan = read(RECORDED["trt"], model, "tensorrt", tmp_path)
    plan = replace(plan, floats={**plan.floats, "Flatten_5": "by hand"})
    path = tmp_path / "again.json"
    write_ppq_config(Draft(model, TARGETS["tensorrt"], plan), path)
    assert json.loads(path.read_text())["dispatchings"].get("Flatten_5", "FP32") == "FP32"
    assert set(import_plan(path, model, TARGETS["tensorrt"]).sites) == set(plan.sites)


def _state(data: Any, x: Any) -> None:
    x["state"] = "ASLEEP"


def _lost(data: Any, x: Any) -> None:
    del data["values"][str(x["dominator"])]


def _floating(data: Any, x: Any) -> None:
    x["policy"]["FLOATING"] = True


def _dynamic(data: Any, x: Any) -> None:
    x["policy"]["DYNAMIC"] = True


def _half(data: Any, x: Any) -> None:
    data["values"][str(x["dominator"])]["zero_point"] = 0.5


def _moved(data: Any, x: Any) -> None:
    data["values"][str(x["dominator"])]["zero_point"] = 3.0


def _unknown(data: Any, x: Any) -> None:
    data["configs"]["Conv_0"]["nobody"] = x


def _two_ways(data: Any, x: Any) -> None:
    data["configs"]["Conv_2"]["b"] = {**x, "state": "ACTIVATED"}


REFUSED: dict[str, tuple[Callable[[Any, Any], None], type[QuantError], str]] = {
    "unknown state": (_state, BadOption, "state 'ASLEEP' is none of PPQ's"),
    "no values": (_lost, BadOption, "has no values"),
    "floats of 8 bits": (_floating, UnsupportedModel, "'x' is FLOATING at 'Conv_0'"),
    "scales of each run": (_dynamic, UnsupportedModel, "'x' is DYNAMIC at 'Conv_0'"),
    "half a zero point": (_half, BadOption, "zero_point: a whole number"),
    "a zero point where there is none": (_moved, BadOption, "its policy is SYMMETRICAL"),
    "a tensor that the model lacks": (_unknown, UnsupportedModel, "the model lacks: 'nobody'"),
    "two ways": (_two_ways, UnsupportedModel, "'b' is quantized in one way at 'Conv_2' and in another at 'Add_3'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_plan_holds_is_refused_with_the_tensor(case: str, model: ir.Model, tmp_path: Path) -> None:
    spoil, kind, said = REFUSED[case]
    data = json.loads(json.dumps(RECORDED["trt"]))
    spoil(data, data["configs"]["Conv_0"]["x"])
    with pytest.raises(kind) as caught:
        read(data, model, "tensorrt", tmp_path)
    assert said in str(caught.value)


def test_block_scales_are_not_written(model: ir.Model, tmp_path: Path) -> None:
    scheme = Scheme(INT8, per_group(2, 1, 64))
    params = QParams(scheme, np.ones((5, 4), np.float32), np.zeros((5, 4), np.int32))
    plan = Plan({0: Quantizer(scheme, "test", "weight", params)}, {Site("w3", "Gemm_6", 1): 0})
    with pytest.raises(UnsupportedByTarget, match=r"'w3' is .* by tensor or channel"):
        write_ppq_config(Draft(model, TARGETS["onnxruntime"], plan), tmp_path / "net.json")
