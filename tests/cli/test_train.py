"""Promised: `halfeven train` trains the shipped network from the shell, writes what it trained, and refuses in a
sentence what it cannot do.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfeven import errors

pytest.importorskip("torch")
DEMO = Path(errors.__file__).parent / "demo"


def test_the_shipped_network_is_trained_from_the_shell(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "halfeven", "train", str(DEMO / "fashion_mnist_mbv2.onnx")]
    words += ["--data", str(DEMO / "calibration.npz"), "--preprocess", "fashion-mnist", "--limit", "24"]
    words += ["--epochs", "1", "--batch", "8", "-o", "t.onnx", "--save-state", "t.pt", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verification"]["sqnr_db"] > 10
    assert (tmp_path / "t.onnx").stat().st_size > 50_000
    assert (tmp_path / "t.pt").stat().st_size > 50_000


@pytest.mark.parametrize(
    "more", [["--weight-bits", "binary"], ["--weight-bits", "1"], ["--target", "vitis-dpu", "--rounding", "device"]]
)
def test_what_help_offers_is_trained(more: list[str], halfeven: Callable[..., Any], tmp_path: Path) -> None:
    words = ["train", str(DEMO / "fashion_mnist_mbv2.onnx"), "--data", str(DEMO / "calibration.npz"), "-o", "t.onnx"]
    ran = halfeven(*words, "--preprocess", "fashion-mnist", "--limit", "6", "--epochs", "1", "--batch", "4", *more)
    assert ran.status in (0, 1), ran.err
    assert (tmp_path / "t.onnx").stat().st_size > 50_000


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
def test_what_cannot_be_done_is_one_sentence(
    more: list[str], said: str, halfeven: Callable[..., Any], tmp_path: Path
) -> None:
    words = ["train", str(DEMO / "fashion_mnist_mbv2.onnx"), "--data", str(DEMO / "calibration.npz")]
    ran = halfeven(*words, "--preprocess", "fashion-mnist", "--limit", "6", *more)
    assert ran.status not in (0, 1)
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
