"""Promised: the scales in TNN's files become a plan for the float model: those of activations bit for bit, those of
weights so that their products with them are the file's; what is damaged or does not fit is told in a sentence.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft
from halfeven.errors import BadOption, UnsupportedModel
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.tnn.parts import Made, model_bytes, proto_text, raw
from halfeven.exporters.tnn.write import write_tnn
from halfeven.graph.plan import Plan
from halfeven.importers.formats import import_plan, sniff
from halfeven.run.ort import OrtExecutor
from halfeven.run.tnn_file import Layer, read_tnn
from halfeven.targets import TARGETS

DEMO = Path(halfeven.__file__).parent / "demo"
TNN = TARGETS["tnn"]


@cache
def drafted() -> Draft:
    """The shipped network calibrated on four pictures."""
    options = {"preprocess": "fashion-mnist", "limit": 4, "verify": False, "skip": ("gptq",)}
    network, data = DEMO / "fashion_mnist_mbv2.onnx", str(DEMO / "calibration.npz")
    return halfeven.quantize(network, data=data, target="tnn", **options).draft


def test_the_plan_comes_back_with_the_scales_of_the_file(tmp_path: Path) -> None:
    draft, path = drafted(), tmp_path / "net.tnnproto"
    write_tnn(draft, path)
    assert sniff(path) == "tnn"
    plan = import_plan(path, draft.model, TNN)
    places = [
        {site for site, group in one.sites.items() if one.groups[group].role != "bias"} for one in (plan, draft.plan)
    ]
    assert places[0] == places[1]
    weights = 0
    for site, group in plan.sites.items():
        ours, theirs = draft.plan.seen_by(site.value, site.consumer, site.port), plan.groups[group]
        if theirs.role == "activation":
            np.testing.assert_array_equal(theirs.params.scale.ravel(), ours.params.scale.ravel())
        if theirs.role == "weight":
            weights += 1
            node = next(node for node in draft.model.graph if node.name == site.consumer)
            read = plan.seen_by(node.inputs[0].name, site.consumer, 0).params.scale.ravel()
            product = theirs.params.scale.ravel() * read
            np.testing.assert_array_equal(product, ours.params.scale.ravel() * read)
    assert weights == 35


def test_the_network_of_the_plan_read_back_computes_the_same(tmp_path: Path) -> None:
    draft, path = drafted(), tmp_path / "net.tnnproto"
    write_tnn(draft, path)
    back = replace(draft, plan=import_plan(path, draft.model, TNN))
    x = np.random.default_rng(0).normal(size=(4, 1, 28, 28)).astype(np.float32)
    first, second = (next(iter(OrtExecutor(to_qdq(one))({"input": x}).values())) for one in (draft, back))
    np.testing.assert_allclose(first, second, rtol=0, atol=float(np.abs(first).max()) / 100)


def written(folder: Path, scales: dict[str, float], layer: bytes) -> Path:
    """A network of one convolution, as some other tool may have written it."""
    made = [Made(Layer("QuantizedConvolution", "conv", ("x",), ("y",), ("1", "2", "1", "1", "1")), layer)]
    (folder / "net.tnnproto").write_text(proto_text({"x": (1, 2, 3, 3)}, ["y"], [one.layer for one in made]))
    (folder / "net.tnnmodel").write_bytes(b"".join(model_bytes(made, scales)))
    return folder / "net.tnnproto"


def layer_of(scale: float) -> bytes:
    return bytes(8) + raw(np.array([3, -4], np.int8)) + raw(np.array([scale], np.float32))


@pytest.mark.parametrize(
    ("scales", "scale", "message"),
    [
        ({"x": 0.5, "y": 0.25}, 0.0, "entry 'conv': scale: a scale is positive"),
        ({"x": -0.5, "y": 0.25}, 0.1, "entry 'x': scale: a scale is positive"),
        ({"y": 0.25}, 0.1, "entry 'conv': it has no scales, or what it reads has not one"),
    ],
)
def test_scales_that_make_no_sense_are_told(
    build: Callable[..., ir.Model], tmp_path: Path, scales: dict[str, float], scale: float, message: str
) -> None:
    model = build("g (float[1,2,3,3] x) => (float[1,1,3,3] y) <float[1,2,1,1] w> { [conv] y = Conv(x, w) }")
    with pytest.raises(BadOption, match=message):
        import_plan(written(tmp_path, scales, layer_of(scale)), model, TNN)


def test_a_file_of_another_network_or_none_is_told(build: Callable[..., ir.Model], tmp_path: Path) -> None:
    path = written(tmp_path, {"x": 0.5, "y": 0.25}, layer_of(0.125))
    assert read_tnn(path).scales["x"].values == np.float32(0.5)
    model = build("g (float[1,2,3,3] x) => (float[1,1,3,3] y) <float[1,2,1,1] w> { [conv] y = Conv(x, w) }")
    assert isinstance(import_plan(path, model, TNN), Plan)
    with pytest.raises(BadOption, match="give the float model"):
        import_plan(path, None, TNN)
    other = build("g (float[1,2] a) => (float[1,2] b) { b = Relu(a) }")
    with pytest.raises(UnsupportedModel, match="names 2 tensors that the model lacks"):
        import_plan(path, other, TNN)
    path.with_suffix(".tnnmodel").write_bytes(b"\x00" * 20)
    with pytest.raises(UnsupportedModel, match=r"no \.tnnmodel file"):
        import_plan(path, model, TNN)
