"""Promised: a table that holds scales of activations is not written of a plan that has none; what a convention cannot hold
is said of the tensor; TensorRT's precision file names as half precision no node that it computes in an int8 kernel.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft, pipeline
from halfeven.errors import BadOption, UnsupportedByTarget
from halfeven.exporters.formats import FORMATS, exporter_named
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.numerics.grid import UINT8
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.observe import Observe
from halfeven.steps.place import Place
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
NET = """g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,3,3] w, float[4,4,3,3] v, float[4,4,3,3] u> {
    [first] a = Conv<pads=[1,1,1,1]>(x, w)  [relu] b = Relu(a)  [second] c = Conv<pads=[1,1,1,1]>(b, v)
    [add] s = Add(c, b)  [behind] d = Relu(s)  [third] e = Conv<pads=[1,1,1,1]>(d, u)  [last] f = Relu(e)
    [alone] y = Softmax(f) }"""


@pytest.mark.parametrize(
    "name", ["tensorrt-cache", "tensorrt-precision", "ppq-tensorrt", "ort-calibration", "ncnn-table"]
)
def test_weights_alone_give_no_table_of_activations(name: str, build: Build, tmp_path: Path) -> None:
    draft = halfeven.quantize(build(NET), mode="weight-only", target="tensorrt", verify=False).draft
    path = tmp_path / f"table{FORMATS[name].suffix}"
    with pytest.raises(UnsupportedByTarget, match="nothing would be written"):
        exporter_named(name)(draft, path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["vitis-fix", "tensorrt-cache"])
def test_a_zero_point_that_cannot_be_written_is_told_with_its_tensor(name: str, build: Build, tmp_path: Path) -> None:
    scheme = Scheme(UINT8, zero_point=ZeroRule.FREE)
    quantizer = Quantizer(scheme, "test", params=QParams(scheme, np.array(0.5, np.float32), np.array(133, np.int32)))
    draft = Draft(build(NET), TARGETS["onnxruntime"], Plan({0: quantizer}, {Site("x"): 0}))
    with pytest.raises(BadOption, match=r"'x' is uint8 affine per-tensor\. Convention .* 133 cannot be written"):
        exporter_named(name)(draft, tmp_path / "table")


def test_nodes_inside_an_int8_kernel_are_not_named_as_half_precision(build: Build, tmp_path: Path) -> None:
    feeds = [("a", {"x": np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)})]
    draft = pipeline(Place(prefer="size"), Observe(), Calibrate())(Draft(build(NET), TARGETS["tensorrt"]), feeds)
    exporter_named("tensorrt-precision")(draft, tmp_path / "net.json")
    found = json.loads((tmp_path / "net.json").read_text())
    assert set(found["int8_tensor_scales"]) == {"x", "b", "d"}
    assert found["fp16_nodes"] == [
        "last",
        "alone",
    ]  # `relu`, `add` and `behind` end in a scale; what `third` makes does not
