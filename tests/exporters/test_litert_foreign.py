"""Promised: what another tool quantized leaves for LiteRT as the numbers that its codes stand for, parameters of
normalizations included.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven import api, deployment
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db

pytest.importorskip("ai_edge_litert")
Build = Callable[..., ir.Model]
TEXT = (
    "g (float[1,2,4,4] x) => (float[1,2,4,4] y) <int8[2] g, int8[2] b, int8[2] m, uint8[2] v, float gs, float bs, float vs,"
    " int8 z, uint8 uz, float xs, uint8 xz, float ys> {"
    "  xq = QuantizeLinear(x, xs, xz)  xd = DequantizeLinear(xq, xs, xz)  gd = DequantizeLinear(g, gs, z)"
    "  bd = DequantizeLinear(b, bs, z)  md = DequantizeLinear(m, bs, z)  vd = DequantizeLinear(v, vs, uz)"
    "  [norm] n = BatchNormalization(xd, gd, bd, md, vd)  yq = QuantizeLinear(n, ys, xz)  y = DequantizeLinear(yq, ys, xz) }"
)
ARRAYS = {
    **{"g": np.array([100, 50], np.int8), "b": np.array([-20, 90], np.int8), "m": np.array([7, -60], np.int8)},
    **{"v": np.array([200, 40], np.uint8), "gs": np.array(0.02, np.float32), "bs": np.array(0.01, np.float32)},
    **{"vs": np.array(0.005, np.float32), "z": np.array(0, np.int8), "uz": np.array(0, np.uint8)},
    **{"xs": np.array(0.02, np.float32), "xz": np.array(128, np.uint8), "ys": np.array(0.05, np.float32)},
}


def test_a_normalization_whose_parameters_are_codes_is_of_the_numbers_they_stand_for(
    build: Build, tmp_path: Path
) -> None:
    from halfeven.run.litert import open_litert

    model = build(TEXT, 21, **ARRAYS)
    network = lower(model)
    scale = next(t for op in network.ops for t in op.inputs if t is not None and t.name == "g")
    assert scale.values is not None
    np.testing.assert_allclose(scale.values, [2.0, 1.0], rtol=1e-6)
    (tmp_path / "q.onnx").write_bytes(ir.serde.serialize_model(model).SerializeToString())
    draft = deployment.open_quantized(tmp_path / "q.onnx", format="tflite")
    api.export(draft, tmp_path / "q.tflite")
    x = np.random.default_rng(0).uniform(-2, 2, (1, 2, 4, 4)).astype(np.float32)
    expected = OrtExecutor(load(tmp_path / "q.onnx"), optimize=False)({"x": x})["y"]
    run = open_litert(tmp_path / "q.tflite", "reference")
    [given] = run({run.inputs[0].name: x}).values()
    assert sqnr_db(expected, given) > 30
