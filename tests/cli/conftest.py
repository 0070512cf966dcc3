"""A small network, data for it, and `halfeven` called in process."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from halfeven.cli import main

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
NET = """net (float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w2)  d = Relu(c)
    e = Flatten(d)  y = Gemm<transB=1>(e, w3, b3)
}"""
SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (5, 512), "b3": (5,)}


class Ran(NamedTuple):
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


Halfeven = Callable[..., Ran]


def _save(path: Path, text: str, **weights: np.ndarray) -> None:
    model = onnx.parser.parse_model(HEADER + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, path)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test writes to: networks net, ints, relu, constant, other; data x.npz of 40 samples."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    drawn = {k: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for k, s in SHAPES.items()}
    _save(folder / "net.onnx", NET, **drawn)
    _save(folder / "other.onnx", NET, **{**drawn, "w2": drawn["w2"] * 2})
    _save(folder / "renamed.onnx", NET.replace("a =", "q =").replace("Relu(a)", "Relu(q)"), **drawn)
    _save(folder / "ints.onnx", "ints (int64[N,4] x) => (int64[N,4] y) { y = Add(x, x) }")
    _save(folder / "relu.onnx", "relu (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    _save(folder / "constant.onnx", "none () => (float[2] y) { y = Constant<value_floats=[1.0, 2.0]>() }")
    np.savez(folder / "x.npz", x=rng.standard_normal((40, 3, 8, 8)).astype(np.float32))
    return folder


@pytest.fixture
def halfeven(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Halfeven:
    """`halfeven("quantize", "net.onnx")`: runs in an empty folder; words that name a file of `home` mean that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> Ran:
        capfd.readouterr()
        ours = {path.name for path in home.iterdir()} - {path.name for path in tmp_path.iterdir()}
        given = [str(home / word) if word in ours else word for word in words]
        try:
            status = main(given)
        except SystemExit as end:
            status = int(end.code or 0)
        return Ran(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def demo_model() -> str:
    """The path of the shipped network."""
    return str(files("halfeven.demo") / "fashion_mnist_mbv2.onnx")


@pytest.fixture(scope="session")
def demo_pictures() -> np.ndarray:
    """The shipped calibration pictures as the network takes them, shape (200, 1, 28, 28)."""
    with np.load(str(files("halfeven.demo") / "calibration.npz"), allow_pickle=False) as stored:
        codes = stored["x"]
    return ((codes[:, None].astype(np.float32) / 255 - 0.2860) / 0.3530).astype(np.float32)
