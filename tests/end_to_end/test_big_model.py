"""A network that is large beside the machine: its weights are quantized one at a time, and only a session holds them all.

`benchmarks/big_model.py` measures 3 GiB; here are 192 MiB, with the same promise in proportion: beside what ONNX Runtime
itself takes to run the float network once, half the size of the weights at most (a second copy would be all of it).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "big_model.py"
MIB = 192
# glibc keeps freed blocks of up to 32 MiB for itself, as its threshold grows; then what is measured is its thrift
FREED_IS_RETURNED = {"MALLOC_MMAP_THRESHOLD_": "100000"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_quantizing_takes_little_more_memory_than_running() -> None:
    command = [sys.executable, str(SCRIPT), "--mib", str(MIB), "--side", "2048", "--json"]
    done = subprocess.run(command, env={**os.environ, **FREED_IS_RETURNED}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["runtime_anonymous_mib"] > MIB, "the runtime holds the weights, so a second copy would show"
    assert row["over_anonymous_mib"] < MIB / 2
    assert row["output_mib"] <= MIB / 4 + 1
