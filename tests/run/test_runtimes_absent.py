"""Promised: without a runtime's package, opening a file for it says in one sentence what to install."""

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import halfeven
from halfeven.errors import BadOption
from halfeven.report.conform import conform
from halfeven.run.executorch import open_executorch
from halfeven.run.ncnn import open_ncnn
from halfeven.run.openvino import open_openvino


@pytest.mark.parametrize(
    ("package", "opens"), [("executorch", open_executorch), ("ncnn", open_ncnn), ("openvino", open_openvino)]
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    package: str, opens: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadOption, match=rf"is not installed: pip install 'halfeven\[{package}\]'"):
        opens(tmp_path / "net")  # type: ignore[operator]


def test_conforming_without_a_runtime_s_package_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = files("halfeven.demo")
    source, pictures = home / "fashion_mnist_mbv2.onnx", home / "calibration.npz"
    how = {"preprocess": "fashion-mnist", "target": "executorch", "verify": False, "limit": 8}
    halfeven.quantize(str(source), str(pictures), **how).save(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "executorch", None)
    feeds = {"input": np.zeros((1, 1, 28, 28), np.float32)}
    [found] = conform(tmp_path / "m.onnx", [("black", feeds)], ["executorch"]).runtimes
    assert "pip install 'halfeven[executorch]'" in found.refused
    assert found.tensors == {}
