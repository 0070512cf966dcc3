"""Promised: `halfeven plot` draws, for each layer, a density curve of each sample on a logarithmic axis with the chosen
range, convolutions and pooling apart; the weights of the first layers; both mappings of a tensor and the adjusted range.
What the curves are made of is checked here; the pictures are files of the kind that was asked for.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import halfeven
from halfeven.cli import main
from halfeven.errors import BadOption
from halfeven.report.plots import observe, range_of, tensors_of
from halfeven.report.plots_mapping import values_of
from halfeven.run.ort import OrtExecutor
from halfeven.stats.histogram import Histogram

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,12,12] x) => (float[N,4] y) {
    a = Conv(x, w1)  b = Relu(a)  c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)  d = Conv(c, w2)
    e = GlobalAveragePool(d)  f = Flatten(e)  y = MatMul(f, w3)
}"""
X = np.random.default_rng(2).standard_normal((6, 3, 12, 12)).astype(np.float32)
PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng, model = np.random.default_rng(3), onnx.parser.parse_model(NET)
    for name, shape in {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (8, 4)}.items():
        array = rng.standard_normal(shape).astype(np.float32) / 5
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=X)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calibrated(home: Path) -> halfeven.Draft:
    return halfeven.quantize(home / "net.onnx", {"x": X}, verify=False, prefer="size", skip=("gptq", "equalize")).draft


def test_every_layer_has_a_density_of_each_sample_convolutions_apart_from_pooling(home: Path) -> None:
    draft = calibrated(home)
    assert [(c.name, c.kind) for c in tensors_of(draft)] == [
        ("b", "conv"), ("c", "pool"), ("d", "conv"), ("e", "pool"), ("y", "dense")
    ]  # fmt: skip
    samples = [(str(i), {"x": X[i : i + 1]}) for i in range(6)]
    curves = {c.name: c for c in observe(draft, samples)}
    values = [np.asarray(OrtExecutor(draft.model, ("b",))(feeds, "x")["b"]) for _, feeds in samples]
    relu = curves["b"]
    assert len(relu.counts) == 6
    assert relu.zeros == sum(int((x == 0).sum()) for x in values)
    assert relu.edges[-1] == max(x.max() for x in values)
    for i, x in enumerate(values):
        np.testing.assert_array_equal(relu.counts[i], np.histogram(x[x != 0], relu.edges)[0])
        assert np.nansum(relu.density(i) * np.diff(relu.edges)) == pytest.approx(1.0)


def test_the_range_that_is_marked_is_what_the_codes_express(home: Path) -> None:
    draft = calibrated(home)
    quantizer = draft.plan.at(halfeven.Site("b"))
    assert quantizer is not None
    assert quantizer.params is not None
    low, high = range_of(quantizer) or (0.0, 0.0)
    assert low == 0.0
    assert high == pytest.approx(255 * float(quantizer.params.scale.ravel()[0]))
    assert range_of(None) is None


def test_the_tensor_whose_mapping_is_shown_may_be_an_activation_or_a_weight(home: Path) -> None:
    draft = calibrated(home)
    first, weight = values_of(draft), values_of(draft, "w2")
    assert first.name == "x"
    assert (first.low, first.high) == (X.min(), X.max())
    assert weight.histogram == Histogram.of(np.asarray(draft.model.graph.initializers["w2"].const_value.numpy()))
    with pytest.raises(BadOption, match="--tensor 'w9': no activation of this name is observed"):
        values_of(draft, "w9")


@pytest.mark.parametrize(("kind", "magic"), [("png", PNG), ("svg", SVG)])
def test_the_command_writes_a_picture_of_each_kind(
    home: Path, capsys: pytest.CaptureFixture[str], kind: str, magic: bytes
) -> None:
    pytest.importorskip("matplotlib")
    words = (
        "plot",
        "net.onnx",
        "--data",
        "x.npz",
        "--prefer",
        "size",
        "-o",
        "out",
        "--picture",
        kind,
        "--samples",
        "3",
    )
    assert main(words) == 0
    names = {"activations-conv-1", "activations-pool-1", "activations-dense-1", "weights", "mapping", "range"}
    assert {path.name for path in (home / "out").iterdir()} == {f"{name}.{kind}" for name in names}
    assert all(path.read_bytes().startswith(magic) for path in (home / "out").iterdir())
    assert "6 pictures of 3 samples" in capsys.readouterr().out
    if kind == "svg":
        drawn = (home / "out" / "activations-conv-1.svg").read_text("utf-8")
        again = {path.name: path.read_bytes() for path in (home / "out").iterdir()}
        assert drawn.count('<g id="axes_') == 2
        assert main(words) == 0
        assert {path.name: path.read_bytes() for path in (home / "out").iterdir()} == again


def test_pictures_without_matplotlib_are_refused_before_the_work(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("halfeven.report.plots_canvas.find_spec", lambda name: None)
    assert main(("plot", "net.onnx", "--data", "x.npz", "-o", "out")) == 2
    assert "pip install 'halfeven[plots]'" in capsys.readouterr().err
    assert not (home / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--tensor", "w9"), "--tensor 'w9': no act"), (("-o", "x.npz/out"), "-o 'x.npz/out': the folder")],
)
def test_a_wrong_tensor_or_folder_is_refused_before_the_work(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, str], said: str
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("halfeven.api.quantize", lambda *_, **__: pytest.fail("the work was begun"))
    assert main(("plot", "net.onnx", "--data", "x.npz", "--limit", "4", "-o", "out", *words)) == 2
    assert said in capsys.readouterr().err
    assert not (home / "out").exists()
