"""Read out this processor's approximate reciprocal, RCPPS, and compare it with the tables of `halfeven.numerics.rcpps`.

    python tools/rcpps.py

Of all 2**23 significands between 1 and 2, and of every 509th with every exponent. It needs an x86-64 processor and a C
compiler, `cc` or what CC names. An emulator gives its own reciprocals, not those of the processor that it emulates.
"""

import ctypes
import os
import shlex
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from halfeven.numerics.fused import Floats32
from halfeven.numerics.rcpps import amd_reciprocal, intel_reciprocal
from halfeven.run.processor import family, vendor

C = """
#include <xmmintrin.h>
void rcp(const float *x, float *y, long n) {
    for (long i = 0; i < n; i++) _mm_store_ss(y + i, _mm_rcp_ss(_mm_load_ss(x + i)));
}
"""
STEP = 509


def instruction(x: npt.NDArray[np.float32]) -> Floats32:
    """RCPSS of float32 numbers by this processor.

    Raises:
        OSError: there is no compiler.
        subprocess.CalledProcessError: it cannot compile for this processor.
    """
    with TemporaryDirectory() as folder:
        source, built = Path(folder) / "rcp.c", Path(folder) / "rcp.so"
        source.write_text(C)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run([*compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
        held, made = np.ascontiguousarray(x), np.empty_like(x)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (held, made)]
        ctypes.CDLL(str(built)).rcp(*pointers, ctypes.c_long(held.size))
        return made


def main() -> None:
    """Print how many reciprocals differ from each table."""
    fractions = np.arange(2**23, dtype=np.uint32)
    exponents = np.arange(255, dtype=np.uint32)[:, None] << 23
    bits = np.concatenate([fractions | 127 << 23, (exponents | fractions[::STEP]).ravel()])
    x = bits.view(np.float32)
    found = instruction(x)
    print(f"{vendor() or 'a vendor that is not known'}, family {family()}: {x.size:,} numbers")
    for name, table in (("Intel", intel_reciprocal), ("AMD", amd_reciprocal)):
        print(f"differ from {name}'s table: {(found != table(x)).sum():,}")


if __name__ == "__main__":
    main()
