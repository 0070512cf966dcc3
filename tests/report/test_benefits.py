"""Promised: INT8 makes a network of weights four times smaller, and every report says how large, how many bytes of
weights each run reads, and how fast: of four codes that are stored where one float was.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import halfeven

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,512] x) => (float[N,512] y) { a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  y = Relu(c) }"""
X = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, of 2 MB of weights, and net.int8.onnx."""
    home, rng = tmp_path_factory.mktemp("benefits"), np.random.default_rng(1)
    model = onnx.parser.parse_model(NET)
    for name in ("w1", "w2"):
        array = rng.standard_normal((512, 512)).astype(np.float32) / 22
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, home / "net.onnx")
    halfeven.quantize(home / "net.onnx", {"x": X}, verify=False, prefer="size").save(home / "net.int8.onnx")
    return home


def test_a_network_of_weights_becomes_four_times_smaller(folder: Path) -> None:
    before, after = ((folder / name).stat().st_size for name in ("net.onnx", "net.int8.onnx"))
    assert before > 2_000_000
    assert 0.25 <= after / before < 0.26


def test_storage_and_the_bytes_of_weights_that_each_run_reads_are_reported(folder: Path) -> None:
    seen, _ = halfeven.inspect(folder / "net.onnx", prefer="size")
    assert seen.weights == (2 * 4 * 512 * 512, 2 * 512 * 512)
    said = seen.to_json()["weight_bytes"]
    assert said["quantized"] * 4 == said["float"]
    found = halfeven.verify(folder / "net.onnx", folder / "net.int8.onnx", {"x": X})
    files = [(folder / name).stat().st_size for name in ("net.onnx", "net.int8.onnx")]
    assert list(found.sizes) == files
    assert "0.25 x size" in found.sentence


def test_the_speed_of_float_and_integers_is_measured_and_reported(folder: Path) -> None:
    found = halfeven.verify(folder / "net.onnx", folder / "net.int8.onnx", {"x": X})
    floating, quantized, ratio = found.latency
    assert floating > 0 and quantized > 0  # noqa: PT018
    assert ratio > 0
    assert f"{ratio:.2f} x latency" in found.sentence
    assert found.to_json()["latency_ms"]["ratio"] == ratio
    assert found.integer_layers == (2, 2)


def test_four_codes_are_stored_where_one_float_was(folder: Path) -> None:
    stored = {}
    for name in ("net.onnx", "net.int8.onnx"):
        tensors = onnx.load(folder / name).graph.initializer
        stored[name] = sum(len(t.raw_data) for t in tensors if list(t.dims) == [512, 512])
    assert stored["net.onnx"] == 4 * stored["net.int8.onnx"] == 2 * 4 * 512 * 512
