"""Promised: C is compiled here, fed the samples, and compared with its simulator tensor by tensor; without a compiler the
report says so.
"""

from pathlib import Path

import numpy as np
import pytest

import halfeven
from halfeven import demo
from halfeven.exporters.c.program import Program
from halfeven.run.c_program import COMPILERS, compiler

HOME = Path(demo.__file__).parent


def quantized() -> tuple[halfeven.Result, np.ndarray]:
    pictures = np.load(HOME / "calibration.npz")["x"][:8, None].astype(np.float32) / np.float32(255)
    result = halfeven.quantize(HOME / "fashion_mnist_mbv2.onnx", pictures, target="integer", verify=False)
    return result, pictures[:2]


def test_the_codes_of_every_tensor_in_c_are_those_of_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        compiler()
    except halfeven.BadOption:
        pytest.skip("no C compiler found: set CC")
    result, pictures = quantized()
    (one,) = halfeven.conform(result.draft, pictures, ("c",)).runtimes
    assert one.sentence == f"c computes the integers of integer: none of {one.compared:,} differs."
    assert len(one.tensors) > 30
    assert one.effect.equal == 2
    stored = Program.array

    def wrong(program: Program, values: object, dtype: type, about: str) -> object:
        return stored(program, np.asarray(values) + (about.startswith("bias") * 4000), dtype, about)

    monkeypatch.setattr(Program, "array", wrong)
    (other,) = halfeven.conform(result.draft, pictures, ("c",)).runtimes
    assert other.differing > 1000
    assert other.first is not None


def test_without_a_compiler_the_report_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PATH", "CC"):
        monkeypatch.setenv(name, str(tmp_path))
    result, pictures = quantized()
    (one,) = halfeven.conform(result.draft, pictures, ("c",)).runtimes
    assert one.sentence.startswith("c cannot run it: To run C a compiler is needed")
    assert COMPILERS[0] == "cc"
