"""Promised: without MNN's package, writing a file for it and opening one say in one sentence what to install."""

import sys
from pathlib import Path

import pytest

from halfeven.errors import BadOption
from halfeven.exporters.formats import exporter_named
from halfeven.run.mnn import convert_onnx, open_mnn

SAYS = r"not installed: pip install 'halfeven\[mnn\]'"


def test_without_mnn_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "MNN", None)
    monkeypatch.setitem(sys.modules, "_tools", None)
    with pytest.raises(BadOption, match=SAYS):
        open_mnn(tmp_path / "net.mnn")
    with pytest.raises(BadOption, match=SAYS):
        convert_onnx(tmp_path / "net.onnx", tmp_path / "net.mnn")
    with pytest.raises(BadOption, match=r"--format mnn needs MNN, which is " + SAYS):
        exporter_named("mnn")
