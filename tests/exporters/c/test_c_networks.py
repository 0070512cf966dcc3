"""Promised: the shipped network in C, built as strict C99 by every compiler found, computes the integers of the simulation:
of 1000 pictures at the output, of a few at every tensor, on x86, 32-bit ARM and 64-bit RISC-V; and names as many pictures
rightly as the float network, to a half per cent.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import halfeven
from halfeven import errors
from halfeven.numerics.quantize import quantize

DEMO = Path(errors.__file__).parent / "demo"
MODEL = DEMO / "fashion_mnist_mbv2.onnx"
COUNT = 1000
TRACER = """
#include <stdio.h>
#include "demo.h"
static int8_t x[DEMO_INPUT_SIZE], y[DEMO_OUTPUT_SIZE];
void demo_trace(const char *tensor, const int8_t *codes, int32_t count)
{
    printf("%s\\n%ld\\n", tensor, (long)count);
    fwrite(codes, 1, (size_t)count, stdout);
}
int main(void)
{
    while (fread(x, 1, sizeof x, stdin) == sizeof x) {
        if (demo_run(x, y) != 0) return 1;
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def made(written: Callable, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The demo network, quantized and written."""
    result = halfeven.quantize(
        MODEL, DEMO / "calibration.npz", target="integer", preprocess="fashion-mnist", verify=False
    )
    return written(result.draft, tmp_path_factory.mktemp("demo") / "demo.c")


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """The test pictures as the network reads them, and their classes."""
    with np.load(DEMO / "test.npz") as held:
        x = ((held["x"].astype(np.float32) / np.float32(255) - np.float32(0.2860)) / np.float32(0.3530))[:, None]
        return x[:COUNT].astype(np.float32), held["y"][:COUNT]


@pytest.fixture(scope="module")
def feeds(made, pictures: tuple[np.ndarray, np.ndarray]) -> list[list[np.ndarray]]:  # type: ignore[no-untyped-def]
    """The pictures as codes."""
    (_, tensor) = made.program.inputs[0]
    return [[codes] for codes in quantize(pictures[0], tensor.params)[:, None]]


def test_a_thousand_pictures_have_the_integers_of_the_simulation(made, feeds: list, pictures: tuple) -> None:  # type: ignore[no-untyped-def]
    found = np.array([row[0] for row in made.run(feeds, ["cc", "-O3"])])
    batches = [[np.concatenate([one[0] for one in feeds[i : i + 100]])] for i in range(0, COUNT, 100)]
    (_, tensor), (_, source) = made.program.outputs[0], made.program.inputs[0]
    shape = made.program.shapes[f"%{source.name}"]
    made.program.shapes[f"%{source.name}"] = (100, *shape[1:])
    simulated = made.simulated(batches)
    made.program.shapes[f"%{source.name}"] = shape
    np.testing.assert_array_equal(found, np.concatenate([one[tensor.name] for one in simulated]))
    session = ort.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    floats = session.run(None, {"input": pictures[0]})[0]
    right, right_in_float = ((logits.argmax(1) == pictures[1]).mean() for logits in (found, floats))
    assert right >= right_in_float - 0.005


def test_every_tensor_of_a_picture_has_the_integers_of_the_simulation(made, feeds: list, compiled: Callable) -> None:  # type: ignore[no-untyped-def]
    folder = made.path.parent
    (folder / "tracer.c").write_text(TRACER)
    program = compiled(folder, ["demo.c", "tracer.c"], "tracer", ["cc", "-O2", "-DDEMO_TRACE"])
    names = {t.name for op in made.network.ops for t in op.outputs if t.coded and f"%{t.name}" in made.program.shapes}
    for one in feeds[:3]:
        rest = subprocess.run([program], input=one[0].tobytes(), capture_output=True, check=True).stdout
        (wanted,) = made.simulated([one], sorted(names))
        by_remark = {halfeven_remark(name): codes for name, codes in wanted.items()}
        seen = 0
        while rest:
            title, count, rest = rest.split(b"\n", 2)
            codes, rest = np.frombuffer(rest[: int(count)], np.int8), rest[int(count) :]
            np.testing.assert_array_equal(codes, by_remark[title.decode()].ravel(), err_msg=title.decode())
            seen += 1
        assert seen == len(made.program.calls) == 42


def halfeven_remark(name: str) -> str:
    from halfeven.exporters.c.identifiers import remark

    return remark(name)


@pytest.mark.parametrize(
    ("command", "emulator"),
    [
        (["gcc", "-O0"], []),
        (["gcc", "-O1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"], []),
        (
            ["clang", "-O2", "-Weverything", "-Wno-unknown-warning-option", "-Wno-unsafe-buffer-usage", "-Wno-padded"],
            [],
        ),
        (["arm-linux-gnueabihf-gcc", "-O2", "-static"], ["qemu-arm"]),
        (["riscv64-linux-gnu-gcc", "-O2", "-static"], ["qemu-riscv64"]),
        (["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-Os", "-c"], []),
    ],
    ids=["gcc -O0", "sanitizers", "clang -Weverything", "arm", "riscv64", "cortex-m4 object"],
)
def test_each_compiler_builds_what_passes_its_own_test(made, command: list, emulator: list, compiled: Callable) -> None:  # type: ignore[no-untyped-def]
    missing = [tool for tool in (command[0], *emulator[:1]) if not shutil.which(tool)]
    if missing:
        pytest.skip(f"{missing[0]} is needed")
    if "-c" in command:
        compiled(made.path.parent, ["demo.c"], "demo.o", command)
        return
    if "-Weverything" in command:
        compiled(made.path.parent, ["demo.c"], "demo_clang.o", [*command, "-c"])
        command = command[:2]
    made.passes_its_own_test(command, emulator)


@pytest.mark.parametrize(
    ("compiler", "emulator"),
    [("arm-linux-gnueabihf-gcc", "qemu-arm"), ("riscv64-linux-gnu-gcc", "qemu-riscv64")],
    ids=["arm", "riscv64"],
)
def test_another_processor_computes_the_same_integers(made, feeds: list, compiler: str, emulator: str) -> None:  # type: ignore[no-untyped-def]
    if not (shutil.which(compiler) and shutil.which(emulator)):
        pytest.skip(f"{compiler} and {emulator} are needed")
    some = feeds[:40]
    there = made.run(some, [compiler, "-O2", "-static"], [emulator])
    here = made.run(some, ["cc", "-O2"])
    np.testing.assert_array_equal(np.array(there), np.array(here))


BOARDS = {
    "cortex-m4": (
        ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
        (0x0, 0x20000000),
        ["qemu-system-arm", "-M", "mps2-an386"],
    ),
    "cortex-m3": (
        ["arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb"],
        (0x0, 0x20000000),
        ["qemu-system-arm", "-M", "mps2-an385"],
    ),
    "riscv32": (
        ["riscv64-unknown-elf-gcc", "-march=rv32imac", "-mabi=ilp32"],
        (0x80000000, 0x80100000),
        ["qemu-system-riscv32", "-M", "virt", "-bios", "none"],
    ),
}


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_without_a_system_computes_the_recorded_integers(made, board: str) -> None:  # type: ignore[no-untyped-def]
    compiler, (flash, ram), emulator = BOARDS[board]
    memory = {"flash": flash, "flash_size": 0x100000, "ram": ram, "ram_size": 0x100000, "stack_size": 0x4000}
    command = [
        *compiler,
        *("--specs=picolibc.specs", "--oslib=semihost", "--crt0=hosted"),
        *(f"-Wl,--defsym=__{name}={value:#x}" for name, value in memory.items()),
        "-Os",
    ]
    quiet = ["-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native"]
    if not (shutil.which(compiler[0]) and shutil.which(emulator[0]) and links(command, made.path.parent)):
        pytest.skip(f"{compiler[0]} with picolibc and {emulator[0]} are needed")
    made.passes_its_own_test(command, [*emulator, *quiet, "-kernel"])


def links(command: list[str], folder: Path) -> bool:
    """Whether the compiler has a C library for the board."""
    (folder / "nothing.c").write_text("int main(void) { return 0; }\n")
    done = subprocess.run([*command, "nothing.c", "-o", "nothing"], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


def test_the_arena_is_no_more_than_what_lives_at_once_needs(made) -> None:  # type: ignore[no-untyped-def]
    arena = int(made.path.with_suffix(".h").read_text().split("DEMO_ARENA_BYTES ")[1].split()[0])
    shapes = made.program.shapes
    live = max(
        sum(int(np.prod(shapes[name])) for name in {*call.inputs, call.output} if name in shapes)
        for call in made.program.calls
    )
    assert live <= arena <= 1.5 * live
