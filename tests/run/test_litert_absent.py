"""Promised: without the packages of LiteRT and TensorFlow Lite Micro the rest works, and only their files are refused,
with what to install; the packages are not loaded before they are needed.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from halfeven.errors import BadOption
from halfeven.run.litert import open_litert, schema
from halfeven.run.tflite_micro import open_tflite_micro


def test_asking_for_the_exporter_loads_no_runtime() -> None:
    program = (
        "from halfeven.exporters.formats import exporter_named; exporter_named('tflite'); import sys;"
        " print(*(name in sys.modules for name in ('ai_edge_litert', 'flatbuffers', 'tflite_micro')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False", "False"]


@pytest.mark.parametrize("call", [lambda path: open_litert(path), lambda path: schema()], ids=["open", "schema"])
def test_without_litert_its_files_are_refused(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.tflite").write_bytes(b"    TFL3")
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BadOption, match=r"LiteRT is not installed: pip install 'halfeven\[litert\]'"):
        call(tmp_path / "m.tflite")


def test_without_tflite_micro_its_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(BadOption, match=r"TensorFlow Lite Micro is not installed: pip install"):
        open_tflite_micro(tmp_path / "m.tflite")
