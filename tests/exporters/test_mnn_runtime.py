"""Promised: MNN runs what is quantized for it on int8 kernels with our scales and weights, and gives the numbers of the
QDQ file: none differs by more than float32 rounds, but behind a depthwise layer, which adds its zero point as a whole
number, where a code in some hundreds is one off. What MNN gets wrong, or cannot take, is written so that it computes in
float; what has no layer for it is refused.
"""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft, Samples, pipeline
from halfeven.errors import BadCalibration, BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.formats import exporter_named
from halfeven.exporters.mnn.write import write_mnn
from halfeven.exporters.onnx import to_qdq
from halfeven.run.mnn import convert_onnx, int8_layers, open_mnn
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.observe import Observe
from halfeven.targets.mnn import MNN
from halfeven.targets.target import Target
from halfeven.targets.tensorrt import TENSORRT

pytest.importorskip("MNN")
Build = Callable[..., ir.Model]
Placed = Callable[..., Draft]
DEMO = Path(str(files("halfeven.demo")))
FRAME = """g (float[1,4,8,8] x) => (float[1,c,n,m] y) <float[8,4,3,3] w, float[8] b, float[8,8,1,1] v, float[8] c,
  float[8,8,3,3] u, float[8,1,3,3] d, float[8,16,1,1] p, float[8,8] k, float[8] l, float[8,4,1,1] o, float[8,2,3,3] g, float zero = {0}, float one = {1},
  float[4] twice = {1, 1, 2, 2}, float[600,8,1,1] q, float[600] r, float[600,120] t, float[120] s> { %s }"""
LAYER = "a = Conv<pads=[1,1,1,1]>(x, w, b)  "
POOL = "MaxPool<kernel_shape=[2,2], strides=[2,2]>"
NETWORKS = {  # the layers that run on codes, and all layers
    "layers": (LAYER + "h = Relu(a)  z = Conv<pads=[1,1,1,1]>(h, u)  y = Conv(z, v, c)", 3, 3),
    "a clip that codes hold": (LAYER + "h = Clip(a, zero, one)  z = Conv(h, v, c)  y = Neg(z)", 2, 2),
    "a sum with a Relu": (LAYER + "e = Conv(a, v)  f = Add(a, e)  h = Relu(f)  z = Conv(h, v)  y = Neg(z)", 3, 3),
    "a maximum between layers": (LAYER + f"h = {POOL}(a)  z = Conv(h, v, c)  y = Neg(z)", 2, 2),
    "a maximum before layers": (f"a = {POOL}(x)  h = Conv<pads=[1,1,1,1]>(a, w)  z = Conv(h, v)  y = Neg(z)", 2, 2),
    "a maximum at the end": (LAYER + f"h = {POOL}(a)  y = Neg(h)", 1, 1),
    "a maximum beside what it reads": (
        LAYER + "h = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(a)  j = Concat<axis=1>(a, h)  z = Conv(j, p)  y = Neg(z)",
        2,
        2,
    ),
    "a nearest resize": (LAYER + 'h = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
                         'nearest_mode="floor">(a, , twice)  z = Conv(h, v)  y = Neg(z)', 2, 2),
    "a linear resize": (LAYER + 'h = Resize<mode="linear">(a, , twice)  z = Conv(h, v)  y = Neg(z)', 2, 2),
    "a maximum of two": (LAYER + "e = Conv(a, v)  h = Max(a, e)  z = Conv(h, v)  y = Neg(z)", 3, 3),
    "a negation": (LAYER + "h = Neg(a)  z = Conv(h, v)  y = Neg(z)", 2, 2),
    "products": (LAYER + "e0 = GlobalAveragePool(a)  f = Flatten(e0)  z = Gemm<transB=1>(f, k, l)  y = Relu(z)", 2, 2),
    "a large product": (LAYER + "e = Conv(a, q, r)  e0 = GlobalAveragePool(e)  f = Flatten(e0)  y = Gemm(f, t, s)", 3, 3),
}  # fmt: skip


def made(build: Build, samples: Callable[..., Samples], placed: Placed, body: str, target: Target = MNN) -> tuple:
    """A calibrated draft of a network, and its samples."""
    model = build(FRAME % body)
    for output in model.graph.outputs:
        output.shape = None
    data = samples(model)
    draft = placed(model, target, data, prefer="size")
    return pipeline(Observe(), Calibrate(method="minmax"))(draft, data), data


@pytest.mark.parametrize("name", NETWORKS)
def test_mnn_gives_the_numbers_of_the_qdq_file(
    build: Build, samples: Callable[..., Samples], placed: Placed, tmp_path: Path, name: str
) -> None:
    body, integer, count = NETWORKS[name]
    draft, data = made(build, samples, placed, body)
    write_mnn(draft, tmp_path / "net.mnn")
    run, reference = open_mnn(tmp_path / "net.mnn"), OrtExecutor(to_qdq(draft), optimize=False)
    for _, feeds in data[:3]:
        assert sqnr_db(reference(feeds)["y"], run(feeds)["y"]) > 100
    ran = int8_layers(run, data[0][1])
    assert (sum(layer.integer for layer in ran), len(ran)) == (integer, count)


def test_a_depthwise_layer_is_one_code_off_now_and_then(
    build: Build, samples: Callable[..., Samples], placed: Placed, tmp_path: Path
) -> None:
    draft, data = made(build, samples, placed, LAYER + "y = Conv<group=8, pads=[1,1,1,1]>(a, d, c)")
    write_mnn(draft, tmp_path / "net.mnn")
    run, reference = open_mnn(tmp_path / "net.mnn"), OrtExecutor(to_qdq(draft), optimize=False)
    quantizer = draft.plan.seen_by("y", "", 0)
    assert quantizer is not None
    assert quantizer.params is not None
    apart = [np.rint((run(f)["y"] - reference(f)["y"]) / quantizer.params.scale.ravel()[0]) for _, f in data]
    assert 0 < np.mean(np.abs(apart) > 0) < 0.005
    assert np.max(np.abs(apart)) == 1


def test_a_symmetric_sum_with_a_relu_is_computed_in_float(
    build: Build, samples: Callable[..., Samples], placed: Placed, tmp_path: Path
) -> None:
    body = LAYER + "e = Conv(a, v)  f = Add(a, e)  h = Relu(f)  z = Conv(h, v)  y = Conv(z, v)"
    draft, data = made(build, samples, placed, body, TENSORRT)
    write_mnn(draft, tmp_path / "net.mnn")
    floating = OrtExecutor(draft.model)(data[0][1])["y"]
    assert sqnr_db(floating, open_mnn(tmp_path / "net.mnn")(data[0][1])["y"]) > 25


def test_a_layer_that_mnn_takes_apart_stays_float_and_is_named(
    build: Build, samples: Callable[..., Samples], placed: Placed, tmp_path: Path
) -> None:
    draft, data = made(build, samples, placed, LAYER + "[apart] z = Conv<group=2>(a, o)  y = Conv(z, v)")
    notes = write_mnn(draft, tmp_path / "net.mnn")
    assert "1 layer left float for MNN, as MNN takes its groups apart: 'apart'" in notes
    assert sqnr_db(OrtExecutor(draft.model)(data[0][1])["y"], open_mnn(tmp_path / "net.mnn")(data[0][1])["y"]) > 25


def test_a_network_without_a_layer_for_it_is_refused(
    build: Build, samples: Callable[..., Samples], placed: Placed, tmp_path: Path
) -> None:
    draft, _ = made(build, samples, placed, "z = Conv<group=2, pads=[1,1,1,1]>(x, g)  y = Neg(z)")
    with pytest.raises(UnsupportedByTarget, match=r"no layer on codes: 'Conv_z' stays float, as MNN takes its groups"):
        write_mnn(draft, tmp_path / "net.mnn")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_network_keeps_its_accuracy_on_int8_kernels(tmp_path: Path) -> None:
    options = {"preprocess": "fashion-mnist", "limit": 32, "verify": False}
    data, path = str(DEMO / "calibration.npz"), tmp_path / "net.mnn"
    result = halfeven.quantize(DEMO / "fashion_mnist_mbv2.onnx", data, target="mnn", **options)
    assert result.save(path)[0] == "35 layers given to MNN's converter with scales; all others run in float"
    with np.load(DEMO / "test.npz") as stored:
        x, labels = ((stored["x"][:300, None] / 255 - 0.2860) / 0.3530).astype(np.float32), stored["y"][:300]
    run = open_mnn(path)
    floating = OrtExecutor(DEMO / "fashion_mnist_mbv2.onnx")({"input": x})["logits"]
    quantized = OrtExecutor(to_qdq(result.draft), optimize=False)({"input": x})["logits"]
    found = run({"input": x})["logits"]
    assert sqnr_db(floating, found) == pytest.approx(sqnr_db(floating, quantized), abs=0.3)
    assert sqnr_db(quantized, found) > 33
    assert (found.argmax(1) == labels).mean() >= (floating.argmax(1) == labels).mean() - 0.015
    ran = int8_layers(run, {"input": x[:1]})
    assert (sum(layer.integer for layer in ran), len(ran)) == (35, 35)
    np.testing.assert_array_equal(run({"input": x[:1]})["logits"], found[:1])


def test_the_table_and_its_network_make_the_same_model(
    build: Build, samples: Callable[..., Samples], placed: Placed, tmp_path: Path
) -> None:
    draft, data = made(build, samples, placed, NETWORKS["layers"][0])
    exporter_named("mnn-params")(draft, tmp_path / "net.json")
    write_mnn(draft, tmp_path / "net.mnn")
    convert_onnx(tmp_path / "net.json.float.onnx", tmp_path / "other.mnn", tmp_path / "net.json")
    found = [open_mnn(tmp_path / name)(data[0][1])["y"] for name in ("net.mnn", "other.mnn")]
    np.testing.assert_array_equal(*found)


def test_files_that_are_none_and_feeds_that_do_not_fit_are_refused(
    build: Build, samples: Callable[..., Samples], placed: Placed, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadOption, match="is not there"):
        open_mnn(tmp_path / "net.mnn")
    draft, data = made(build, samples, placed, LAYER + "y = Neg(a)")
    write_mnn(draft, tmp_path / "net.mnn")
    content = (tmp_path / "net.mnn").read_bytes()
    for broken in (b"", b"MNN", content[: len(content) // 2]):
        (tmp_path / "broken.mnn").write_bytes(broken)
        with pytest.raises(UnsupportedModel, match=r"no whole \.mnn file"):
            open_mnn(tmp_path / "broken.mnn")
    run = open_mnn(tmp_path / "net.mnn")
    with pytest.raises(BadCalibration, match=r"needs 'x' too"):
        run({"z": data[0][1]["x"]})
    with pytest.raises(BadCalibration, match=r"x float32\[1, 3, 8, 8\]"):
        run({"x": np.zeros((1, 3, 8, 8), np.float32)})
    run(data[0][1])
    assert capfd.readouterr().out == ""
