"""Promised: a residual network, with branches of one stride and of two, leaves for each runtime that is here with every
layer on codes, and gives there what its QDQ network does, as near as one code here and there allows.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.exporters.onnx import to_qdq
from halfeven.report.inspection import inspect_draft
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import open_file
from halfeven.stats.distance import sqnr_db

NET = """g (float[1,3,16,16] x) => (float[1,10] y) <float[16,3,3,3] w0, float[16] b0, float[16,16,3,3] w1, float[16] b1,
  float[16,16,3,3] w2, float[16] b2, float[32,16,3,3] w3, float[32] b3, float[32,32,3,3] w4, float[32] b4,
  float[32,16,1,1] w5, float[10,32] w6, float[10] b6> {
  s = Conv<pads=[1,1,1,1]>(x, w0, b0)  r = Relu(s)
  a = Conv<pads=[1,1,1,1]>(r, w1, b1)  c = Relu(a)  d = Conv<pads=[1,1,1,1]>(c, w2, b2)  e = Add(d, r)  f = Relu(e)
  h = Conv<pads=[1,1,1,1], strides=[2,2]>(f, w3, b3)  i = Relu(h)  j = Conv<pads=[1,1,1,1]>(i, w4, b4)
  k = Conv<strides=[2,2]>(f, w5)  l = Add(j, k)  m = Relu(l)
  n = GlobalAveragePool(m)  o = Flatten(n)  y = Gemm<transB=1>(o, w6, b6)
}"""
FILES = {"onnxruntime": ".onnx", "openvino": ".xml", "litert": ".tflite", "ncnn": ".param", "integer": ".c"}
NEEDS = {".xml": "openvino", ".tflite": "ai_edge_litert", ".param": "ncnn"}
LAYERS = 7


def _self_test(path: Path) -> None:
    """Compile what was written in C with its own test, which holds the simulation's codes, and run it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    made, parts = path.with_suffix(""), [str(path), str(path.with_name(f"{path.stem}_test.c"))]
    subprocess.run([compiler, "-std=c99", "-O1", *parts, "-o", str(made), "-lm"], check=True, cwd=path.parent)
    ran = subprocess.run([str(made)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("target", FILES)
def test_a_residual_network_computes_in_the_runtime_what_its_qdq_network_does(
    build: Callable[..., ir.Model], target: str, tmp_path: Path
) -> None:
    suffix = FILES[target]
    if suffix in NEEDS:
        pytest.importorskip(NEEDS[suffix])
    model, data = build(NET), np.random.default_rng(0).normal(size=(24, 1, 3, 16, 16)).astype(np.float32)
    done = halfeven.quantize(model, [{"x": x} for x in data], target=target, prefer="size", verify=False)
    assert inspect_draft(done.draft).layers == (LAYERS, LAYERS)
    path = tmp_path / f"net{suffix}"
    done.save(path)
    if suffix == ".c":
        _self_test(path)
        return
    run = OrtExecutor(path) if suffix == ".onnx" else open_file(path, model)
    expected, found, real = [], [], []
    for x in data[:6]:
        expected.append(OrtExecutor(to_qdq(done.draft))({"x": x})["y"])
        found.append(run({"x": x})["y"])
        real.append(OrtExecutor(model)({"x": x})["y"])
    assert sqnr_db(np.stack(expected), np.stack(found)) > 30
    assert sqnr_db(np.stack(real), np.stack(found)) > 20
    if suffix != ".onnx":
        integer = getattr(run, "integer_layers", lambda feeds: None)({"x": data[0]})
        assert integer in (None, (LAYERS, LAYERS))
