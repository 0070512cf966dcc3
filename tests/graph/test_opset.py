"""A converted model computes the same, keeps names, metadata and the very weights, and is valid; or it is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from halfeven.errors import UnsupportedModel
from halfeven.graph.model import load, save
from halfeven.graph.opset import convert_opset
from halfeven.graph.prepare import prepare

Build = Callable[..., ir.Model]
Compute = Callable[..., list[np.ndarray]]

X = np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)

OLD = """
g (float[2,3,8,8] x) => (float[2,4] y, float[2,1,1] z, float[2,3,16,16] u) {
  [conv] a = Conv <pads = [1, 1, 1, 1]> (x, w, c)
  [clip] b = Clip <min = 0.0, max = 6.0> (a)
  [mean] d = ReduceMean <axes = [2, 3], keepdims = 0> (b)
  [drop] e = Dropout <ratio = 0.5> (d)
  [soft] y = Softmax <axis = 1> (e)
  [sum] f = ReduceSum <axes = [1], keepdims = 1> (d)
  [wide] z = Unsqueeze <axes = [2]> (f)
  [up] u = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]> (x)
}
"""

CONTROL = """
g (float[2,3] x, bool p) => (float[2,1] y, float[3] s) <int64 n = {3}, bool t = {1}> {
  h = Relu(x)
  [branch] y = If (p) <
    then_branch = a () => (float[2,1] q) { r = Add(h, w)  q = ReduceSum <axes = [1]> (r) },
    else_branch = b () => (float[2,1] o) {
      m = ReduceMax <axes = [1], keepdims = 0> (h)  o = Unsqueeze <axes = [1]> (m)
    }
  >
  z = ReduceMean <axes = [0], keepdims = 0> (x)
  [loop] s = Loop (n, t, z) <body = c (int64 i, bool go, float[3] v) => (bool on, float[3] e) {
    on = Identity(go)  k = Unsqueeze <axes = [0]> (v)  j = Squeeze <axes = [0]> (k)  e = Add(j, v)
  }>
}
"""


def _assert_same(before: list[np.ndarray], after: list[np.ndarray]) -> None:
    for was, now in zip(before, after, strict=True):
        np.testing.assert_allclose(now, was, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize("version", [13, 18, 21])
def test_old_operators_compute_the_same_in_later_opsets(
    build: Build, compute: Compute, opset: int, version: int
) -> None:
    text = OLD if opset < 9 else OLD.replace(", float[2,3,16,16] u", "").replace(OLD[OLD.index("  [up]") : -2], "")
    rng = np.random.default_rng(1)
    model = build(text, opset=opset, w=rng.normal(0, 1, (4, 3, 3, 3)).astype(np.float32), c=np.ones(4, np.float32))
    before = compute(model, {"x": X})
    prepared, _ = prepare(load(model))
    converted = convert_opset(prepared, version)
    assert converted.opset_imports[""] == version
    _assert_same(before, compute(converted, {"x": X}))


@pytest.mark.parametrize("condition", [True, False])
def test_subgraphs_are_converted_too(build: Build, compute: Compute, condition: bool) -> None:
    model = build(CONTROL, opset=11, w=np.full((2, 3), 0.5, np.float32))
    feeds = {"x": X[0, 0, :2, :3], "p": np.array(condition)}
    before = compute(model, feeds)
    converted = convert_opset(prepare(model)[0], 21)
    _assert_same(before, compute(converted, feeds))


def test_names_metadata_and_weights_are_kept(build: Build) -> None:
    weight = ir.tensor(np.ones((4, 300), np.float32), name="w")
    text = """g (float[N,300] x) => (float[N] y) {
      [fc] h = Gemm <transB = 1> (x, w)  [sum] y = ReduceSum <axes = [1], keepdims = 0> (h)
    }"""
    model = build(text, opset=11, w=weight.numpy())
    model.graph.initializers["w"].const_value = weight
    model.metadata_props["author"] = "someone"
    model.producer_name, model.doc_string, model.graph.doc_string = "tool", "words", "more words"
    model.graph[0].metadata_props["path"] = "a.b"
    model.graph[0].doc_string = "layer"
    before = ir.to_onnx_text(model)
    converted = convert_opset(model, 21)
    assert ir.to_onnx_text(model) == before
    assert [node.name for node in converted.graph] == ["fc", "sum"]
    assert converted.graph.initializers["w"].const_value is weight
    assert [value.name for value in converted.graph.inputs] == ["x"]
    assert converted.metadata_props == {"author": "someone"}
    assert (converted.producer_name, converted.doc_string, converted.graph.doc_string) == (
        "tool",
        "words",
        "more words",
    )
    assert converted.graph[0].metadata_props == {"path": "a.b"}
    assert converted.graph[0].doc_string == "layer"
    assert converted.ir_version >= 10


def test_external_weights_stay_external(build: Build, tmp_path: Path) -> None:
    model = build("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", opset=11, w=np.eye(64, dtype=np.float32))
    model.graph.initializers["w"].const_value = ir.tensor(np.eye(64, dtype=np.float32))
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    converted = convert_opset(load(tmp_path / "m.onnx"), 21)
    assert isinstance(converted.graph.initializers["w"].const_value, ir.ExternalTensor)
    save(converted, tmp_path / "n.onnx")
    onnx.checker.check_model(tmp_path / "n.onnx")


def test_the_same_opset_is_the_same_model(build: Build) -> None:
    model = build("g (float[1] x) => (float[1] y) { y = Relu(x) }")
    assert convert_opset(model, 17) is model


def test_custom_operators_pass_through(build: Build) -> None:
    model = build("g (float[2] x) => (float[2] y) { h = custom.Magic <k = 3> (x)  y = Relu(h) }", opset=11)
    converted = convert_opset(model, 21)
    assert [(node.domain, node.op_type) for node in converted.graph] == [("custom", "Magic"), ("", "Relu")]


@pytest.mark.parametrize(("version", "message"), [(10, "only higher opsets"), (9999, "only higher opsets up to")])
def test_what_is_not_possible_is_refused(build: Build, version: int, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        convert_opset(build("g (float[1] x) => (float[1] y) { y = Relu(x) }"), version)


def test_a_removed_operator_is_refused_with_the_reason(build: Build) -> None:
    model = build("g (float[4,1,2] x, float[1,8,2] w) => (float[4,1,2] y) { y = Scatter(x, w) }", opset=10)
    with pytest.raises(UnsupportedModel, match="from opset 10 to 21: "):
        convert_opset(model, 21)


def test_functions_must_be_inlined_first(build: Build) -> None:
    model = build("""g (float[1] x) => (float[1] y) { y = local.F(x) }
    <domain: "local", opset_import: ["" : 17]> F (a) => (b) { b = Relu(a) }""")
    with pytest.raises(UnsupportedModel, match="Inline them first"):
        convert_opset(model, 21)


def test_bodies_and_outputs_of_unknown_rank_are_converted(build: Build, compute: Compute) -> None:
    model = build(CONTROL, opset=11, w=np.ones((2, 3), np.float32))
    loop = next(node for node in model.graph if node.op_type == "Loop")
    unknown = [loop.attributes["body"].as_graph().inputs[2], *model.graph.outputs]
    for value in unknown:
        value.shape = None
    converted = convert_opset(model, 17)
    feeds = {"x": X[0, 0, :2, :3], "p": np.array(True)}
    _assert_same(compute(model, feeds), compute(converted, feeds))
