"""Promised: `halfeven search` writes a plan that `halfeven quantize` follows, keeps what it measured, and goes on with
it; Ctrl-C leaves no half-written file; what cannot be done is one sentence.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HEEDING = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from halfeven.cli import main\n"
)


def test_a_search_writes_a_plan_that_is_followed(halfeven: Callable[..., Any], tmp_path: Path) -> None:
    words = ["search", "net.onnx", "--data", "x.npz", "--bits", "2,3,8", "--budget", "4", "-o", "mixed.json"]
    ran = halfeven(*words, "--samples", "2")
    assert ran.status == 0, ran.err
    assert "net.onnx -> mixed.json" in ran.out
    assert "bits a weight: " in ran.out
    assert all(text in ran.out for text in ("measured SQNR", "best predicted SQNR", "mixed.sensitivities.json"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mixed.json", "mixed.sensitivities.json"]
    bits = [
        group.get("bits", 8)
        for group in json.loads(Path("mixed.json").read_text())["groups"]
        if group["role"] == "weight"
    ]
    assert len(bits) == 3
    assert set(bits) <= {2, 3, 8}
    assert halfeven("quantize", "net.onnx", "--data", "x.npz", "--plan", "mixed.json", "-o", "q.onnx").status == 0


def test_another_budget_goes_on_with_what_was_measured(halfeven: Callable[..., Any]) -> None:
    words = ["search", "net.onnx", "--data", "x.npz", "--samples", "2", "-o", "m.json", "--json"]
    first = json.loads(halfeven(*words).out)
    kept = Path("m.sensitivities.json")
    before = json.loads(kept.read_text())
    second = json.loads(halfeven(*words, "--budget", "3", "--bits", "2,5,8").out)
    after = json.loads(kept.read_text())
    assert first["chosen"]["bits"] <= 4.5
    assert second["chosen"]["bits"] <= 3
    for name, widths in before["errors"].items():
        assert after["errors"][name] == {**widths, "5": after["errors"][name]["5"]}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--bits", "2,four"], "--bits 2,four: expected whole numbers with commas between them, such as 2,4,8"),
        (["--bits", "4"], "--bits 4: expected two widths or more"),
        (["--budget", "1"], "--budget 1.0: the weights can have from 2 to 8 bits in the mean"),
        (["--budget", "few"], "expected a number, found 'few'"),
        (["--minutes", "-1"], "--minutes -1.0: expected a number above 0"),
        (["--conv-bits", "4"], "halfeven search has no option --conv-bits"),
        (["--data", "missing.npz"], "missing.npz"),
        (["-o", "no/such.json"], "there is no folder"),
        (["--target", "nothing"], "'nothing' is not known"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    more: list[str], said: str, halfeven: Callable[..., Any], tmp_path: Path
) -> None:
    ran = halfeven("search", "net.onnx", "--data", "x.npz", *more)
    assert ran.status not in (0, 1)
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_data_are_asked_for(halfeven: Callable[..., Any]) -> None:
    ran = halfeven("search", "net.onnx")
    assert (ran.status, "missing: --data" in ran.err) == (2, True)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_keeps_what_was_measured_and_the_old_plan(
    demo_model: str, demo_pictures: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", demo_pictures)
    (tmp_path / "m.json").write_text("the old plan")
    command = [sys.executable, "-c", f"{HEEDING}sys.exit(main())", "search", demo_model, "--data", "x.npy"]
    command += ["--bits", "2,3,4,5,6,7,8", "--samples", "160", "-o", "m.json"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    kept = tmp_path / "m.sensitivities.json"
    for _ in range(600):  # it is written for the first time after some seconds
        if kept.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (out, err) == ("", "halfeven: interrupted; no half-written file is left\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", kept.name, "x.npy"]
    assert (tmp_path / "m.json").read_text() == "the old plan"
    assert json.loads(kept.read_text())["errors"]
