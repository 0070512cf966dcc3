"""Promised: without PyTorch everything else works, a star import too, and what trains says what to install."""

import subprocess
import sys

PROGRAM = """
import sys
sys.modules["torch"] = None
from halfeven import *
import halfeven, halfeven.training
from halfeven.errors import BadOption
print(IntGrid(8))
try:
    halfeven.FakeQuantizer
except BadOption as error:
    print(error)
"""


def test_without_torch_only_training_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == [
        "int8",
        "Training needs PyTorch, which is not installed: pip install 'halfeven[torch]'.",
    ]
