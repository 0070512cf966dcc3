"""The C++ kernels equal their references bit for bit: compiles cpp/tests/kernels.cpp and runs it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CPP = Path(__file__).parents[2] / "cpp"
COMPILER = next(
    (found for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name and (found := shutil.which(name))), ""
)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler found: set CXX")
@pytest.mark.skipif(not CPP.is_dir(), reason="the C++ sources are not here")
@pytest.mark.parametrize("optimize", ["-O3", "-O0"])
def test_each_fast_kernel_equals_its_reference(tmp_path: Path, optimize: str) -> None:
    program = tmp_path / "kernels"
    flags = ["-std=c++17", optimize, "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pthread"]
    source = [f"-I{CPP / 'include'}", str(CPP / "tests" / "kernels.cpp"), "-o", str(program)]
    compiled = subprocess.run([COMPILER, *flags, *source], capture_output=True, text=True, timeout=120)
    assert compiled.returncode == 0, compiled.stderr
    run = subprocess.run([str(program)], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, "0 failures\n")
