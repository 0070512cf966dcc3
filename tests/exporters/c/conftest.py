"""A C compiler, drafts of small networks for the `integer` target, and what a written C file computes."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.exporters.c.build import build as build_program
from halfeven.exporters.c.program import own_name
from halfeven.exporters.c.write import input_shapes, write_c
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.graph.network import Network
from halfeven.graph.plan import Quantizer, Site
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.run.c_program import compiler
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.targets import TARGETS
from halfeven.targets.integer import ACT, WEIGHT

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion", "-Wundef"]
NONE: dict[Site, str] = {}
DRIVER = """
#include <stdio.h>
#include "NAME.h"
BUFFERS
int main(void)
{
    while (READ) {
        if (NAME_run(ARGUMENTS) != 0) return 1;
        WRITE
    }
    return 0;
}
"""


def _compiled(folder: Path, sources: Sequence[str], program: str, command: Sequence[str] = ()) -> Path:
    own = not command or command[0] == "cc"
    start = [*compiler(), *(command[1:] if command else ["-O1"])] if own else command
    words = [*start, *STRICT, *sources, "-o", program]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / program


@pytest.fixture(scope="session")
def compiled() -> Callable[..., Path]:
    """`compiled(folder, sources, program, command=host)`: built as strict C99 without one warning."""
    try:
        compiler()
    except BadOption as error:
        pytest.skip(str(error))
    return _compiled


@pytest.fixture(scope="session")
def drafted(build: Callable, samples: Callable, placed: Callable, calibrated: Callable) -> Callable[..., Draft]:
    """`drafted(text, opset=17, scale=1, also=(), **weights)`: quantized for the integer target, on normal samples.

    `also`: sites that placement leaves float, each with the value whose group it joins; "": a group of its own.
    """

    def make(
        text: str, opset: int = 17, scale: float = 1.0, also: dict[Site, str] = NONE, **weights: np.ndarray
    ) -> Draft:
        model: ir.Model = build(text, opset, **weights)
        data = samples(model, scale=scale)
        draft = placed(model, TARGETS["integer"], data)
        for site, like in also.items():
            groups, sites = dict(draft.plan.groups), dict(draft.plan.sites)
            sites[site] = sites[Site(like)] if like else max(groups, default=0) + 1
            constant = site.value in draft.model.graph.initializers
            weight = Scheme(WEIGHT.grid, per_channel(0)) if site.value == "w" else ACT
            made = Quantizer(weight if constant else ACT, "asked for", "weight" if constant else "activation")
            groups.setdefault(sites[site], made)
            draft = replace(draft, plan=replace(draft.plan, groups=groups, sites=sites))
        return calibrated(draft, data)

    return make


class Written:
    """What a draft became: `path` of the C file, `notes`, and the network and program it was written from."""

    def __init__(self, draft: Draft, path: Path, compile_: Callable[..., Path]) -> None:
        self.draft, self.path = draft, path
        self.notes = write_c(draft, path)
        self.network: Network = lower(to_qdq(draft))
        self.program = build_program(self.network, input_shapes(self.network, draft), {})
        self._compile = compile_

    @property
    def kernels(self) -> set[str]:
        """The kernels that are called."""
        return {call.kernel for call in self.program.calls}

    def passes_its_own_test(self, command: Sequence[str] = (), emulator: Sequence[str] = ()) -> None:
        """The recorded codes come out again."""
        name = self.path.stem
        test = self._compile(self.path.parent, [f"{name}.c", f"{name}_test.c"], f"{name}_self", command)
        assert subprocess.run([*emulator, test], timeout=300, check=False).returncode == 0

    def run(
        self, feeds: list[list[np.ndarray]], command: Sequence[str] = (), emulator: Sequence[str] = ()
    ) -> list[list[np.ndarray]]:
        """Codes of all outputs for codes of all inputs, set by set."""
        program, name = self.program, self.path.stem
        sizes = [
            [int(np.prod(program.shapes[own_name(t)])) for _, t in kind] for kind in (program.inputs, program.outputs)
        ]
        ins, outs = ([(f"{letter}{i}", n) for i, n in enumerate(s)] for letter, s in zip("xy", sizes, strict=True))
        text = DRIVER.replace("BUFFERS", "\n".join(f"static int8_t {v}[{n}];" for v, n in (*ins, *outs)))
        text = text.replace("READ", " && ".join(f"fread({v}, 1, {n}, stdin) == {n}" for v, n in ins))
        text = text.replace("WRITE", " ".join(f"fwrite({v}, 1, {n}, stdout);" for v, n in outs))
        text = text.replace("ARGUMENTS", ", ".join(v for v, _ in (*ins, *outs))).replace("NAME", name)
        (self.path.parent / f"{name}_drive.c").write_text(text)
        built = self._compile(self.path.parent, [f"{name}.c", f"{name}_drive.c"], f"{name}_drive", command)
        sent = b"".join(codes.tobytes() for one in feeds for codes in one)
        done = subprocess.run([*emulator, built], input=sent, capture_output=True, timeout=600, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        found = np.frombuffer(done.stdout, np.int8).reshape(len(feeds), -1)
        ends = np.cumsum([0, *sizes[1]])
        return [[row[a:b] for a, b in pairwise(ends)] for row in found]

    def simulated(self, feeds: list[list[np.ndarray]], watch: Sequence[str] = ()) -> list[dict[str, np.ndarray]]:
        """Codes by the simulation of the integer target: of the outputs, and of what is watched."""
        run = IntegerExecutor(self.network, machine_named("integer"), threads=1)
        wanted = [t.name for _, t in self.program.outputs]
        found = []
        for one in feeds:
            real = {}
            for (title, tensor), codes in zip(self.program.inputs, one, strict=True):
                scale, zero = tensor.params.scale.ravel()[0], int(tensor.params.zero_point.ravel()[0])
                shape = self.program.shapes[own_name(tensor)]
                real[title] = ((codes.astype(np.int32) - zero).astype(np.float32) * scale).reshape(shape)
            found.append(run(real, [*wanted, *watch]))
        return found

    def noise(self, count: int, seed: int = 0) -> list[list[np.ndarray]]:
        """Codes for all inputs, all 256 alike."""
        rng = np.random.default_rng(seed)
        shapes = [self.program.shapes[own_name(t)] for _, t in self.program.inputs]
        return [[rng.integers(-128, 128, shape).astype(np.int8) for shape in shapes] for _ in range(count)]


@pytest.fixture(scope="session")
def written(compiled: Callable[..., Path]) -> Callable[[Draft, Path], Written]:
    """`written(draft, path)`: the three C files, and ways to run them."""
    return lambda draft, path: Written(draft, path, compiled)
