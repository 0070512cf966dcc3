"""Promised: OpenVINO runs what is quantized for it on int8 kernels, from the ONNX file and from our IR alike, with the
same bits; the demo network keeps its accuracy; what the IR cannot hold is refused by name.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft
from halfeven.errors import BadCalibration, BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.onnx import write_qdq
from halfeven.exporters.openvino.write import write_ir
from halfeven.graph.prepare import prepare
from halfeven.run.openvino import int8_layers, integer_share, open_openvino
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.targets.integer import INTEGER
from halfeven.targets.openvino import OPENVINO

pytest.importorskip("openvino")
Build = Callable[..., ir.Model]
Made = Callable[..., tuple[Draft, list]]
DEMO = Path(str(files("halfeven.demo")))
CONV = "g (float[1,3,9,9] x) => (float[1,5,9,9] y) <float[5,3,3,3] w, float[5] b> { y = Conv<pads=[1,1,1,1]>(x, w, b) }"
CHAIN = """
g (float[N,6,8,8] x) => (float[N,7] y) <float[16,6,3,3] w, float[16] b, float[16,1,3,3] d, float[16,16,1,1] v,
  float[16] c, float[16,16,2,2] t, float[16,7] m, float[7] n> {
  a = Conv<pads=[1,1,1,1]>(x, w, b)
  r = Relu(a)
  e = Conv<pads=[1,1,1,1], group=16>(r, d)
  f = Conv(e, v, c)
  s0 = Add(f, e)
  s = Relu(s0)
  u = ConvTranspose<strides=[2,2]>(s, t)
  g0 = GlobalAveragePool(u)
  h = Flatten(g0)
  y = Gemm(h, m, n)
}"""
WORDS = """
g (int64[N,L] i) => (float[N,L,8] y) <float[16,8] e, float[8] g, float[8] o, float[8,8] q, float[8,8] k, float[8,8] v,
  float[8,16] m, float[16] n, float[16,8] w> {
  x = Gather(e, i)
  l = LayerNormalization(x, g, o)
  a = MatMul(l, q)  b = MatMul(l, k)  c = MatMul(l, v)
  t = Transpose<perm=[0,2,1]>(b)
  s = MatMul(a, t)
  p = Softmax(s)
  z = MatMul(p, c)
  r = Add(z, x)
  h0 = MatMul(r, m)  h = Add(h0, n)  u = Relu(h)
  f = MatMul(u, w)
  y = Add(f, r)
}"""


@pytest.fixture(scope="module")
def made(build: Build, samples: Callable, placed: Callable, calibrated: Callable) -> Made:
    """`made(text, target)`: a calibrated draft of the text's network, and its data."""

    def run(text: str, target: object = OPENVINO) -> tuple[Draft, list]:
        model = build(text)
        data = samples(model)
        return calibrated(placed(model, target, data, prefer="size"), data), data

    return run


def both(draft: Draft, folder: Path) -> list:
    write_qdq(draft, folder / "net.onnx")
    write_ir(draft, folder / "net.xml")
    return [open_openvino(folder / f"net{suffix}", threads=1) for suffix in (".onnx", ".xml")]


@pytest.mark.parametrize(("text", "layers"), [(CONV, 1), (CHAIN, 5), (WORDS, 5)], ids=["one layer", "chain", "words"])
def test_the_ir_computes_what_the_onnx_file_computes_on_integers(
    made: Made, tmp_path: Path, text: str, layers: int
) -> None:
    draft, data = made(text)
    onnx, xml = both(draft, tmp_path)
    for _, feeds in data:
        assert sqnr_db(onnx(feeds)["y"], xml(feeds)["y"]) > 100
    for run in (onnx, xml):
        ran = int8_layers(run, data[0][1])
        assert len(ran) == layers
        assert all(layer.integer and layer.kernel.endswith("I8") for layer in ran), ran
        assert {layer.name for layer in ran} <= {layer.name for layer in integer_share(run)}


def test_the_demo_network_has_the_same_bits_every_layer_in_integers_and_its_accuracy(tmp_path: Path) -> None:
    result = halfeven.quantize(
        DEMO / "fashion_mnist_mbv2.onnx", DEMO / "calibration.npz", target="openvino", preprocess="fashion-mnist",
        limit=64, verify=False,
    )  # fmt: skip
    onnx, xml = both(result.draft, tmp_path)
    with np.load(DEMO / "test.npz") as stored:
        x, labels = ((stored["x"][:500, None] / 255 - 0.2860) / 0.3530).astype(np.float32), stored["y"][:500]
    floating = OrtExecutor(DEMO / "fashion_mnist_mbv2.onnx")({"input": x})["logits"]
    for row in x[:20]:
        np.testing.assert_array_equal(onnx({"input": row[None]})["logits"], xml({"input": row[None]})["logits"])
    found = xml({"input": x})["logits"]
    assert sqnr_db(floating, found) > 25
    assert (found.argmax(1) == labels).mean() >= (floating.argmax(1) == labels).mean() - 0.015
    for run in (onnx, xml):
        ran = int8_layers(run, {"input": x[:1]})
        assert len(ran) == 35
        assert all(layer.integer and layer.nodes for layer in ran)


def test_a_signed_affine_network_is_written_too(made: Made, tmp_path: Path) -> None:
    draft, data = made(CHAIN, INTEGER)
    onnx, xml = both(draft, tmp_path)
    for _, feeds in data:
        assert sqnr_db(onnx(feeds)["y"], xml(feeds)["y"]) > 60


def test_the_file_holds_what_its_description_says(made: Made, tmp_path: Path) -> None:
    draft, _ = made(CONV)
    write_ir(draft, tmp_path / "net.xml")
    root = ET.parse(tmp_path / "net.xml").getroot()
    layers = {layer.get("id"): layer for layer in root.iter("layer")}
    kinds = [layer.get("type") for layer in layers.values()]
    assert kinds.count("FakeQuantize") == 1
    [levels] = [layer.find("data").get("levels") for layer in layers.values() if layer.get("type") == "FakeQuantize"]  # type: ignore[union-attr]
    assert levels == "256"
    constants = [layer.find("data").attrib for layer in layers.values() if layer.get("type") == "Const"]  # type: ignore[union-attr]
    assert [c["element_type"] for c in constants].count("i8") == 1
    size = (tmp_path / "net.bin").stat().st_size
    assert all(int(c["offset"]) % 64 == 0 and int(c["offset"]) + int(c["size"]) <= size for c in constants)
    for edge in root.iter("edge"):
        for end, side in (("from", "output"), ("to", "input")):
            ports = layers[edge.get(f"{end}-layer")].find(side)
            assert edge.get(f"{end}-port") in [port.get("id") for port in ports]  # type: ignore[union-attr]
    write_ir(draft, tmp_path / "again.xml")
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "net.bin").read_bytes()


REFUSED = {
    "an unknown operator": ("g (float[N,4] x) => (float[N,4] y) { [node] y = Hardmax(x) }", r"Hardmax 'node'"),
    "control flow": (
        "g (float[2] x, bool c) => (float[2] y) { [node] y = If (c) <then_branch = t () => (float[2] a) { a = Exp(x) },"
        " else_branch = e () => (float[2] b) { b = Neg(x) }> }", r"If 'node'"
    ),
    "indices of a pool": (
        "g (float[1,2,4,4] x) => (float[1,2,2,2] y, int64[1,2,2,2] i) "
        "{ [node] y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }", r"MaxPool 'node'.*indices"
    ),
    "computed scales of a resize": (
        "g (float[1,2,4,4] x, float[4] s) => (float[1,2,a,b] y) { [node] y = Resize(x, , s) }", r"Resize 'node'.*scales"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_ir_cannot_hold_is_refused_before_anything_is_written(build: Build, tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(UnsupportedByTarget, match=message):
        write_ir(Draft(prepare(build(text))[0], OPENVINO), tmp_path / "net.xml")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_network_are_not_replaced(made: Made, tmp_path: Path) -> None:
    (tmp_path / "net.param").write_text("7767517")
    (tmp_path / "net.bin").write_bytes(b"others")
    with pytest.raises(BadOption, match=r"net\.param reads"):
        write_ir(made(CONV)[0], tmp_path / "net.xml")
    assert (tmp_path / "net.bin").read_bytes() == b"others"


def test_files_that_are_none_and_feeds_that_do_not_fit_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="is not there"):
        open_openvino(tmp_path / "net.xml")
    (tmp_path / "net.xml").write_bytes(b"<net")
    with pytest.raises(UnsupportedModel, match="OpenVINO cannot load"):
        open_openvino(tmp_path / "net.xml")
    write_ir(made(CONV)[0], tmp_path / "net.xml")
    run = open_openvino(tmp_path / "net.xml", threads=1)
    with pytest.raises(BadCalibration, match=r"a sample \(x float32\[1, 2\]\) cannot be run"):
        run({"x": np.zeros((1, 2), np.float32)})
