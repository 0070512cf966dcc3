"""Promised: a full disk, a folder that cannot be written and Ctrl-C leave the old file as it was, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="limits and signals of POSIX")
OLD = b"the old file"
COMMAND = [sys.executable, "-m", "halfeven"]
# A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C.
HEEDING = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from halfeven.cli import main\n"
)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def limited(limit: int) -> list[str]:
    """A program that runs halfeven where no file may grow over `limit` bytes, as on a full disk."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from halfeven.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(main())"
    )
    return [sys.executable, "-c", program]


@pytest.mark.parametrize(
    "words",
    [
        ("quantize", "net.onnx", "--prefer", "size", "--no-verify"),
        ("calibrate", "net.onnx", "--prefer", "size"),
    ],
    ids=lambda words: words[0],
)
def test_a_full_disk_leaves_the_old_file(home: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "out").write_bytes(OLD)
    given = [str(home / word) if word == "net.onnx" else word for word in words]
    done = subprocess.run(
        [*limited(2000), *given, "--data", str(home / "x.npz"), "-o", "out"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("halfeven: error: ")
    assert "could not be written" in done.stderr or "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"out": OLD}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    command = [*COMMAND, "quantize", str(home / "net.onnx"), "-o", "locked/out.onnx"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "cannot be written to" in done.stderr


def test_ctrl_c_leaves_the_old_file(demo_model: str, demo_pictures: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.repeat(demo_pictures, 20, axis=0))
    (tmp_path / "out.onnx").write_bytes(OLD)
    command = [sys.executable, "-c", f"{HEEDING}sys.exit(main())", "quantize", demo_model]
    command += ["--data", "x.npy", "-o", "out.onnx"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(2.5)  # imports take half a second, the run five
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (out, err) == ("", "halfeven: interrupted; no half-written file is left\n")
    assert {p.name for p in tmp_path.iterdir()} == {"x.npy", "out.onnx"}
    assert (tmp_path / "out.onnx").read_bytes() == OLD
