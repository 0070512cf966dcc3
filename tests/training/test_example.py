"""Promised: the example of under 40 lines trains, saves, resumes, exports, and runs in ONNX Runtime, LiteRT and as C; all
integers are those of the simulators, and the files are there.
"""

import ast
import re
import runpy
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("ai_edge_litert")

import halfeven
from halfeven.run.c_program import compiler

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_and_deploy.py"
pytestmark = pytest.mark.skipif(not EXAMPLE.is_file(), reason="the examples are not here")


def test_the_example_has_under_40_lines_of_code() -> None:
    text = EXAMPLE.read_text("utf-8")
    said: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            said |= set(range(body[0].lineno, (body[0].end_lineno or 0) + 1))
    code = [line for i, line in enumerate(text.splitlines(), 1) if line.strip() and i not in said]
    assert len(code) < 40
    assert max(map(len, code)) <= 120


def test_the_example_gives_the_integers_of_every_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        build = compiler()
    except halfeven.BadOption:
        pytest.skip("no C compiler found: set CC")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    resumed, *others = capsys.readouterr().out.splitlines()
    assert resumed.endswith("equal bits: True")
    for line, runtime in zip(others, ("onnxruntime", r"litert@xnnpack(?:-arm64)?", "c"), strict=True):
        found = re.fullmatch(rf"{runtime} computes .*: none of ([\d,]+) differs. (\d+) of 32 pictures are .*", line)
        assert found is not None, line
        assert int(found[1].replace(",", "")) > 100_000
        assert int(found[2]) > 16
    sources = ["fashion.c", "fashion_test.c"]
    subprocess.run([*build, "-std=c99", "-O1", *sources, "-o", "fashion_test.exe"], check=True)
    assert subprocess.run([tmp_path / "fashion_test.exe"], check=False).returncode == 0
    for name in ("fashion.onnx", "fashion.tflite"):
        assert (tmp_path / name).stat().st_size > 10_000
