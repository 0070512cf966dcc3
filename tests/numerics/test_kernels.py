"""The C++ headers keep their promises under every compiler that is found here, on this machine and on emulated boards.

Each fast kernel equals its reference, and the golden vectors shared with Python come out, bit for bit: compiles the
programs of cpp/tests and runs them. cpp/README.md lists the packages that give the compilers and the emulators.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPP, GOLDEN = ROOT / "cpp", ROOT / "tests" / "golden"
VECTORS = [str(GOLDEN / name) for name in ("ties.json", "requantize.json", "integer_ops.json")]
PROGRAMS = {"kernels": [], "codes": [], "integers": [], "layers": [], "golden": VECTORS, "device": []}
STRICT = ["-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", f"-I{CPP / 'include'}"]
SANITIZED = ["-std=c++17", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
HOST = next((found for name in (os.environ.get("CXX"), "c++", "g++") if name and (found := shutil.which(name))), "")
CLANG = shutil.which("clang++") or ""

pytestmark = pytest.mark.skipif(not CPP.is_dir(), reason="the C++ sources are not here")


def built(folder: Path, program: str, command: list[str]) -> Path:
    """The program, compiled without a warning."""
    out = folder / program
    source = [str(CPP / "tests" / f"{program}.cpp"), "-o", str(out)]
    compiled = subprocess.run([*command, *STRICT, *source], capture_output=True, text=True, timeout=300)
    assert compiled.returncode == 0, compiled.stderr
    return out


def passes(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout + run.stderr) == (0, "0 failures\n")  # an emulated board may print to either


def works(command: list[str]) -> bool:
    """Whether the compiler can compile and link with these options."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.cpp"
        source.write_text("int main() { return 0; }\n")
        done = subprocess.run([*command, str(source), "-o", str(source.with_suffix(""))], capture_output=True)
        return done.returncode == 0


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("options", [["-std=c++17", "-O2"], SANITIZED], ids=["optimized", "sanitized"])
@pytest.mark.parametrize("compiler", [HOST, CLANG], ids=["host", "clang"])
def test_each_program_passes(tmp_path: Path, compiler: str, options: list[str], program: str) -> None:
    if not compiler:
        pytest.skip("no such C++ compiler found: set CXX, or install clang")
    command = [compiler, *options, "-pthread"]
    if options is SANITIZED and not works(command):
        pytest.skip(f"{Path(compiler).name} has no sanitizer library here")
    passes([str(built(tmp_path, program, command)), *PROGRAMS[program]])


@pytest.mark.parametrize("compiler", [HOST, CLANG], ids=["host", "clang"])
@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_firmware_needs_no_more_than_cpp_11(tmp_path: Path, compiler: str, standard: str) -> None:
    if not compiler:
        pytest.skip("no such C++ compiler found: set CXX, or install clang")
    plain = [f"-std={standard}", "-O0", "-fno-exceptions", "-fno-rtti"]
    passes([str(built(tmp_path, "device", [compiler, *plain]))])


@pytest.mark.parametrize("program", ["codes", "integers", "layers", "golden", "device"])
@pytest.mark.parametrize(
    ("compiler", "emulator"),
    [("arm-linux-gnueabihf-g++", "qemu-arm"), ("riscv64-linux-gnu-g++", "qemu-riscv64")],
    ids=["arm", "riscv64"],
)
def test_each_program_passes_on_an_emulated_processor(
    tmp_path: Path, compiler: str, emulator: str, program: str
) -> None:
    if not (shutil.which(compiler) and shutil.which(emulator)):
        pytest.skip(f"{compiler} and {emulator} are needed: see cpp/README.md")
    command = [compiler, "-std=c++17", "-O2", "-static", "-pthread"]
    few = ["few"] if program == "codes" else []
    passes([emulator, str(built(tmp_path, program, command)), *PROGRAMS[program], *few])


BOARDS = {
    "cortex-m4, hard float": (
        ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
        (0x0, 0x20000000),
        ["qemu-system-arm", "-M", "mps2-an386"],
    ),
    "cortex-m3, soft float": (
        ["arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb"],
        (0x0, 0x20000000),
        ["qemu-system-arm", "-M", "mps2-an385"],
    ),
    "riscv32, soft float": (
        ["riscv64-unknown-elf-gcc", "-march=rv32imac", "-mabi=ilp32"],
        (0x80000000, 0x80100000),
        ["qemu-system-riscv32", "-M", "virt", "-bios", "none"],
    ),
}


@pytest.mark.parametrize("board", BOARDS)
def test_the_headers_run_on_a_board_without_a_system_or_a_cpp_library(tmp_path: Path, board: str) -> None:
    compiler, (flash, ram), emulator = BOARDS[board]
    memory = {"flash": flash, "flash_size": 0x100000, "ram": ram, "ram_size": 0x100000, "stack_size": 0x10000}
    command = [
        *compiler,
        *("--specs=picolibc.specs", "--oslib=semihost", "--crt0=hosted"),
        *(f"-Wl,--defsym=__{name}={value:#x}" for name, value in memory.items()),
        *("-xc++", "-std=c++11", "-O2", "-fno-exceptions", "-fno-rtti"),
    ]
    if not (shutil.which(compiler[0]) and shutil.which(emulator[0]) and works(command)):
        pytest.skip(f"{compiler[0]} with picolibc and {emulator[0]} are needed: see cpp/README.md")
    quiet = ["-nographic", "-monitor", "none", "-serial", "none", "-semihosting-config", "enable=on,target=native"]
    passes([*emulator, *quiet, "-kernel", str(built(tmp_path, "device", command))])
