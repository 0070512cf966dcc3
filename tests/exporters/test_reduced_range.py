"""Promised: weights of 7 bits are int8 codes from -63 to 63 in every file, and the runtimes compute what the simulators do;
a QDQ file that is read back has the same codes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.exporters.mnn.write import write_mnn
from halfeven.exporters.onnx import to_qdq
from halfeven.graph import ops
from halfeven.graph.lower import lower
from halfeven.graph.network import Network
from halfeven.importers.qdq import draft_of
from halfeven.run.integer.machine import constant_codes
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.targets import target_named

Build = Callable[..., ir.Model]
NET = """g (float[N,8,6,6] x) => (float[N,5] y) <float[16,8,3,3] w, float[16] b, float[16,16,1,1] v, float[16,5] m> {
    a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) d = Conv(r, v) p = GlobalAveragePool(d) f = Flatten(p) y = MatMul(f, m)
}"""
RNG = np.random.default_rng(0)
DATA = {"x": RNG.normal(size=(12, 8, 6, 6)).astype(np.float32)}
GIVEN: dict[str, Any] = {"prefer": "size", "verify": False, "reduce_range": ("*",), "calibrate": "mse"}


def weights(network: Network) -> dict[str, np.ndarray]:
    """The codes of each layer's weights."""
    layers = [op for op in network.ops if op.kind in ("Conv", "MatMul", "Gemm")]
    return {op.name: constant_codes(op.inputs[1]) for op in layers if op.inputs[1] is not None}


@pytest.mark.parametrize(
    ("target", "runtime", "package"),
    [
        ("onnxruntime", "onnxruntime", "onnxruntime"),
        ("onnxruntime-arm", "onnxruntime", "onnxruntime"),
        ("litert", "litert", "ai_edge_litert"),
        ("ncnn", "ncnn", "ncnn"),
        ("openvino", "openvino", "openvino"),
        ("integer", "c", "onnxruntime"),
    ],
)
def test_runtimes_compute_what_their_simulators_do(build: Build, target: str, runtime: str, package: str) -> None:
    pytest.importorskip(package)
    draft = halfeven.quantize(build(NET), DATA, target=target, **GIVEN).draft
    held = weights(lower(to_qdq(draft)))
    assert len(held) == 3
    assert {codes.dtype for codes in held.values()} == {np.dtype(np.int8)}
    assert max(int(np.abs(codes.astype(int)).max()) for codes in held.values()) == 63
    (found,) = halfeven.conform(draft, DATA, (runtime,)).runtimes
    assert (found.refused, found.differing) == ("", 0)
    assert found.compared > 0


def test_integer_operators_have_the_same_codes(build: Build, tmp_path: Path) -> None:
    draft = halfeven.quantize(build(NET), DATA, **GIVEN).draft
    held = {}
    for form in ("qdq", "qoperator"):
        halfeven.export(draft, tmp_path / f"{form}.onnx", form)
        tensors = [v.const_value for v in ir.load(tmp_path / f"{form}.onnx").graph.initializers.values()]
        codes = [t.numpy().ravel() for t in tensors if t is not None and t.dtype == ir.DataType.INT8 and t.size > 16]
        held[form] = sorted(np.sort(one).tolist() for one in codes)
    assert held["qdq"] == held["qoperator"]
    assert len(held["qdq"]) == 3
    assert max(abs(code) for codes in held["qdq"] for code in codes) == 63


def test_scales_that_each_run_finds_go_with_them_too(build: Build) -> None:
    text = "g (float[N,32] x) => (float[N,5] y) <float[32,32] w, float[32,5] m> { h = MatMul(x, w) y = MatMul(h, m) }"
    data = {"x": RNG.normal(size=(8, 32)).astype(np.float32)}
    given = {"prefer": "size", "verify": False, "mode": "dynamic"}
    seven, eight = (halfeven.quantize(build(text), data, **given, reduce_range=r).model for r in (("*",), ()))
    for model, most in ((seven, 63), (eight, 127)):
        products = [node for node in model.graph if node.op_type == "MatMulInteger"]
        tensors = [ops.constant_of(node.inputs[1]) for node in products]
        assert [int(np.abs(t.numpy().astype(int)).max()) for t in tensors if t is not None] == [most, most]
    assert sqnr_db(OrtExecutor(build(text))(data)["y"], OrtExecutor(seven)(data)["y"]) > 25


def test_a_file_that_is_read_back_has_the_same_codes_of_eight_bits(build: Build) -> None:
    model = to_qdq(halfeven.quantize(build(NET), DATA, **GIVEN).draft)
    read = draft_of(model.clone(), target_named("onnxruntime"))
    grids = {str(q.scheme.grid) for q in read.plan.groups.values() if q.role == "weight"}
    assert grids == {"int8 narrow"}
    ours, theirs = (weights(lower(m)) for m in (model, to_qdq(read)))
    for name, codes in ours.items():
        np.testing.assert_array_equal(theirs[name], codes)


def test_mnn_stores_them_as_int8(build: Build, tmp_path: Path) -> None:
    pytest.importorskip("MNN")
    from halfeven.run.mnn import int8_layers, open_mnn

    draft = halfeven.quantize(build(NET.replace("N,", "1,")), DATA, target="mnn", **GIVEN).draft
    write_mnn(draft, tmp_path / "net.mnn")
    run, reference = open_mnn(tmp_path / "net.mnn"), OrtExecutor(to_qdq(draft), optimize=False)
    feeds = {"x": DATA["x"][:1]}
    assert sqnr_db(reference(feeds)["y"], run(feeds)["y"]) > 100
    assert sum(layer.integer for layer in int8_layers(run, feeds)) == 3
