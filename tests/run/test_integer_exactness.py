"""Promised: random operators give the same integers as ONNX Runtime on this processor, ties, saturation and odd sizes
included. `benchmarks/exactness.py` does this at length; here each operator gets some ten thousand elements.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from halfeven.run.integer.machines import ARM64, this_machine

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "exactness.py"
ELEMENTS = 30_000


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exactness", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["exactness"] = module
    spec.loader.exec_module(module)
    return module


EXACTNESS = loaded()


@pytest.mark.parametrize("operator", EXACTNESS.OPERATORS)
def test_no_integer_differs_from_the_runtime_s(operator: str) -> None:
    machine = this_machine()
    count = EXACTNESS.measured(operator, ELEMENTS, machine, seed=1, signed=machine is ARM64)
    assert count.elements >= ELEMENTS
    assert (count.differing, count.first) == (0, "")


def test_a_single_wrong_step_would_be_counted() -> None:
    count = EXACTNESS.Count()
    codes = np.arange(5, dtype=np.uint8)
    count.add("y", codes, codes + np.array([0, 0, 1, 0, 0], np.uint8))
    assert (count.elements, count.differing, count.step, count.first) == (5, 1, 1.0, "y")
