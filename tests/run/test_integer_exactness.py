"""Promised: random operators give the same integers as ONNX Runtime on this processor, ties, saturation and odd sizes
included. `benchmarks/exactness.py` does this at length; here each operator gets some ten thousand elements.
"""

import exactness
import numpy as np
import pytest

from halfeven.run.integer.machines import ARM64, this_machine

ELEMENTS = 30_000


@pytest.mark.parametrize("operator", exactness.OPERATORS)
def test_no_integer_differs_from_the_runtime_s(operator: str) -> None:
    machine = this_machine()
    count = exactness.measured(operator, ELEMENTS, machine, seed=1, signed=machine is ARM64)
    assert count.elements >= ELEMENTS
    assert (count.differing, count.first) == (0, "")


def test_a_single_wrong_step_would_be_counted() -> None:
    count = exactness.Count()
    codes = np.arange(5, dtype=np.uint8)
    count.add("y", codes, codes + np.array([0, 0, 1, 0, 0], np.uint8))
    assert (count.elements, count.differing, count.step, count.first) == (5, 1, 1.0, "y")
