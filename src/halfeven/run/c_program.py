r"""Generated C, compiled by the compiler of this computer and run. The one door to it.

    cc -std=c99 -O1 -DNAME_TRACE NAME.c NAME_drive.c -o NAME_drive
    NAME_drive in.bin out.bin

The driver, written here, reads codes of all inputs, set after set, and writes what the C function traces and returns:

    COUNT NAME\n, then COUNT codes         a tensor that is done
    COUNT \n, then COUNT codes             an output, in order

Only a file that was written a moment ago is compiled: a C file is a program, and may do what it likes.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption, UnsupportedModel

Codes = npt.NDArray[np.int8]
COMPILERS = ("cc", "gcc", "clang")
LIMIT = 600  # seconds
DRIVER = """#include <stdio.h>
#include "@STEM@.h"

static FILE *made;
@BUFFERS@

static void put(const char *tensor, const int8_t *codes, int32_t count)
{
    fprintf(made, "%ld %s\\n", (long)count, tensor);
    fwrite(codes, 1, (size_t)count, made);
}

void @NAME@_trace(const char *tensor, const int8_t *codes, int32_t count)
{
    put(tensor, codes, count);
}

int main(int argc, char **argv)
{
    FILE *given;
    if (argc != 3 || (given = fopen(argv[1], "rb")) == NULL || (made = fopen(argv[2], "wb")) == NULL) {
        return 2;
    }
    while (@READ@) {
        if (@NAME@_run(@ARGUMENTS@) != 0) {
            return 1;
        }
        @WRITE@
    }
    return fclose(made) != 0;
}
"""


def compiler() -> list[str]:
    """The C compiler, a path and its arguments: $CC, else cc, gcc or clang.

    Raises:
        BadOption: there is none, or CC names one that is not there.
    """
    wanted = os.environ.get("CC", "").strip()
    if wanted:
        return _named(wanted)
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        raise BadOption("To run C a compiler is needed, and none was found: install gcc or clang, or set CC to yours.")
    return [found]


def _named(wanted: str) -> list[str]:
    """A compiler as CC names it: a path that may hold blanks, or words as a shell reads them."""
    try:
        words = [wanted] if shutil.which(wanted) else shlex.split(wanted)
    except ValueError:  # a quote that does not end
        words = []
    found = shutil.which(words[0]) if words else None
    if found is None:
        raise BadOption(f"CC names '{wanted}', which is not found: set it to a C compiler, or unset it.")
    return [found, *words[1:]]


@dataclass(frozen=True)
class CProgram:
    """A compiled file; `gives` are the numbers of codes of its outputs."""

    path: Path
    gives: tuple[int, ...]

    def __call__(self, sets: Sequence[Sequence[Codes]]) -> Iterator[tuple[dict[str, Codes], list[Codes]]]:
        """Of each set of inputs the traced tensors by the names they have in C, and the outputs in order; flat codes.

        Raises:
            UnsupportedModel: the program failed.
        """
        given, made = self.path.with_suffix(".in"), self.path.with_suffix(".out")
        given.write_bytes(b"".join(np.ascontiguousarray(codes, np.int8).tobytes() for one in sets for codes in one))
        done = _ran([str(self.path), str(given), str(made)], self.path.parent)
        if done.returncode:
            raise UnsupportedModel(f"The program of '{self.path.name}' ended with {done.returncode}.")
        yield from _sets(made.read_bytes(), len(self.gives))


def compile_c(path: Path, name: str, takes: Sequence[int], gives: Sequence[int]) -> CProgram:
    """Compile the file at `path`, whose function is `name`_run, with inputs and outputs of so many codes.

    Raises:
        BadOption: there is no compiler.
        UnsupportedModel: it refuses the file; what it says is told.
    """
    ins, outs = ([(f"{kind}{i}", n) for i, n in enumerate(ns)] for kind, ns in (("x", takes), ("y", gives)))
    parts = {
        "STEM": path.stem,
        "NAME": name,
        "BUFFERS": "\n".join(f"static int8_t {v}[{n}];" for v, n in (*ins, *outs)),
        "READ": " && ".join(f"fread({v}, 1, {n}, given) == {n}" for v, n in ins),
        "ARGUMENTS": ", ".join(v for v, _ in (*ins, *outs)),
        "WRITE": " ".join(f'put("", {v}, {n});' for v, n in outs),
    }
    text = DRIVER
    for key, value in parts.items():
        text = text.replace(f"@{key}@", value)
    driver = path.with_name(f"{path.stem}_drive.c")
    driver.write_text(text, "ascii")
    built = path.with_name(f"{path.stem}_drive.exe")
    cc = compiler()
    words = [*cc, "-std=c99", "-O1", f"-D{name.upper()}_TRACE", path.name, driver.name, "-o", built.name]
    done = _ran(words, path.parent)
    if done.returncode:
        raise UnsupportedModel(f"{words[0]} cannot compile '{path.name}': {' '.join(done.stderr.split())[:300]}")
    return CProgram(built, tuple(gives))


def _ran(words: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedModel(f"'{Path(words[0]).name}' could not be run: {error}.") from error


def _sets(content: bytes, outputs: int) -> Iterator[tuple[dict[str, Codes], list[Codes]]]:
    traced: dict[str, Codes] = {}
    given: list[Codes] = []
    at = 0
    while at < len(content):
        end = content.index(b"\n", at)
        count, _, tensor = content[at:end].decode("ascii").partition(" ")
        at = end + 1 + int(count)
        codes = np.frombuffer(content[end + 1 : at], np.int8)
        if tensor:
            traced[tensor] = codes
        else:
            given.append(codes)
        if len(given) == outputs:
            yield traced, given
            traced, given = {}, []
