"""Promised: boxes in pixels and scores up to 1, joined at a network's end, never share a scale, on any target."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import halfeven
from halfeven.graph.model import load
from halfeven.graph.names import name_everything
from halfeven.graph.plan import Site
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.heads import heads, joined_at_the_end

START = '<ir_version: 8, opset_import: ["": 17]> g (float[n,3,16,16] x) => (float[n,12,16,16] y) {'
BODY = START + " f = Conv<pads=[1,1,1,1]>(x, w)  r = Relu(f)  b = Conv(r, v)  c = Conv(r, u) "
PIXELS = "  p = Mul(b, stride)  s = Sigmoid(c)  y = Concat<axis=1>(p, s) }"
PLAIN = "  y = Concat<axis=1>(b, c) }"
READ = "  j = Concat<axis=1>(b, c)  y = Conv(j, z) }"


def detector(end: str, boxes: float = 1.0) -> onnx.ModelProto:
    """Four channels of boxes and eight of scores."""
    rng = np.random.default_rng(2)
    model = onnx.parser.parse_model(BODY + end)
    shapes = {"w": (16, 3, 3, 3), "v": (4, 16, 1, 1), "u": (8, 16, 1, 1), "z": (12, 12, 1, 1)}
    tensors = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items() if f", {name})" in BODY + end}
    tensors |= {"stride": np.array(64.0)} if "stride" in end else {}
    if "v" in tensors:
        tensors["v"] = tensors["v"] * boxes
    for name, array in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


X = np.random.default_rng(3).standard_normal((16, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-arm", "openvino", "tensorrt", "integer", "litert"])
@pytest.mark.parametrize(("end", "boxes"), [(PIXELS, 1.0), (PLAIN, 300.0)])
def test_scores_beside_boxes_in_pixels_keep_their_precision(end: str, boxes: float, target: str) -> None:
    model = detector(end, boxes)
    done = halfeven.quantize(model, X, target=target, prefer="size", verify=False)
    found = OrtExecutor(done.model)({"x": X[:4]})["y"]
    expected = OrtExecutor(load(model))({"x": X[:4]})["y"]
    assert sqnr_db(expected[:, 4:], found[:, 4:]) > 25
    assert sqnr_db(expected[:, :4], found[:, :4]) > 25
    assert any("must not share a scale" in why for why in done.plan.floats.values())


def test_what_has_one_size_is_joined_in_integers() -> None:
    done = halfeven.quantize(detector(PLAIN), X, target="integer", verify=False)
    assert not any("must not share a scale" in why for why in done.plan.floats.values())
    groups = {done.plan.sites[Site(name)] for name in "bcy"}
    assert len(groups) == 1


def test_what_a_layer_reads_is_no_end() -> None:
    assert not list(joined_at_the_end(load(detector(READ, 300.0))))


def test_only_what_leads_from_the_last_layers_stays_float() -> None:
    model = load(detector(PIXELS))
    name_everything(model)
    found = heads(model, {"p": 640.0, "s": 1.0})
    assert {node.op_type for node in model.graph if (node.name or "") in found} >= {"Mul", "Sigmoid", "Concat"}
    assert not {node.op_type for node in model.graph if (node.name or "") in found} & {"Conv", "Relu"}
    assert not heads(model, {"p": 10.0, "s": 1.0})


def test_statistics_taken_apart_place_the_end_alike() -> None:
    model = detector(PIXELS)
    record = halfeven.calibrate(model, X, target="integer")
    whole = halfeven.quantize(model, X, target="integer", verify=False)
    apart = halfeven.quantize(model, X, stats=record, target="integer", verify=False)
    assert apart.plan.floats == whole.plan.floats


@pytest.mark.parametrize("target", ["litert", "litert-int16"])
def test_a_value_whose_scale_the_target_fixes_is_not_joined_on_another(target: str) -> None:
    model = detector("  s = Sigmoid(c)  y = Concat<axis=1>(b, s) }")
    done = halfeven.quantize(model, X, target=target, prefer="size", verify=False)
    assert any(f"the one scale that {target} gives it" in why for why in done.plan.floats.values())
    found, expected = (OrtExecutor(m)({"x": X[:4]})["y"] for m in (done.model, load(model)))
    assert sqnr_db(expected, found) > 25
