"""Promised: `halfeven train` trains the shipped network from the shell, writes what it trained, and refuses in a
sentence what it cannot do.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from halfeven import errors

pytest.importorskip("torch")
DEMO = Path(errors.__file__).parent / "demo"


def halfeven(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "halfeven", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)


def test_the_shipped_network_is_trained_from_the_shell(tmp_path: Path) -> None:
    words = ["train", str(DEMO / "fashion_mnist_mbv2.onnx"), "--data", str(DEMO / "calibration.npz")]
    words += ["--preprocess", "fashion-mnist", "--limit", "24", "--epochs", "1", "--batch", "8", "-o", "t.onnx"]
    done = halfeven(*words, "--save-state", "t.pt", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verification"]["sqnr_db"] > 10
    assert (tmp_path / "t.onnx").stat().st_size > 50_000
    assert (tmp_path / "t.pt").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--device", "cuda:7"], "--device 'cuda:7': PyTorch finds no such device"),
        (["--epochs", "0"], "epochs 0; at least 1 is needed"),
        (["--rate", "nan"], "rate nan; a finite number"),
        (["--data", "missing.npz"], "missing.npz"),
        (["-o", "no/such/folder.onnx"], "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(more: list[str], said: str, tmp_path: Path) -> None:
    words = ["train", str(DEMO / "fashion_mnist_mbv2.onnx"), "--data", str(DEMO / "calibration.npz")]
    done = halfeven(*words, "--preprocess", "fashion-mnist", "--limit", "6", *more, folder=tmp_path)
    assert done.returncode not in (0, 1)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
