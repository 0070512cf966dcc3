"""Promised: the completion scripts are accepted by their shells, and complete commands, options, values and files."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfeven.arguments import ARGUMENTS
from halfeven.cli import build_parser, flags_of
from halfeven.stats.estimate import METHODS
from halfeven.targets import TARGETS

Halfeven = Callable[..., Any]
BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="no bash")


@pytest.fixture
def script(halfeven: Halfeven) -> Path:
    """The bash script, in the current folder."""
    ran = halfeven("completions", "bash")
    assert (ran.status, ran.err) == (0, "")
    path = Path("halfeven.bash")
    path.write_text(ran.out)
    return path


def completed(script: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    assert BASH is not None
    program = f"""source {script}
COMP_WORDS=(halfeven {" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words)}
_halfeven; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run([BASH, "--norc", "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


@needs_bash
def test_bash_accepts_the_script(script: Path) -> None:
    assert BASH is not None
    done = subprocess.run([BASH, "-n", str(script)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@needs_bash
def test_bash_completes_commands_options_and_values(script: Path) -> None:
    assert completed(script, "") == {*ARGUMENTS, "--help", "--version"}
    assert completed(script, "q") == {"quantize"}
    assert completed(script, "quantize", "--cal") == {"--calibrate", "--calibrate-p", "--calibrate-sigmas"}
    for command in ARGUMENTS:
        assert completed(script, command, "-") == set(flags_of(build_parser(command), command))
    assert completed(script, "quantize", "m.onnx", "--target", "") == set(TARGETS)
    assert completed(script, "quantize", "m.onnx", "--calibrate", "m") == {m for m in METHODS if m.startswith("m")}
    assert completed(script, "inspect", "--prefer", "") == {"speed", "size"}
    assert completed(script, "quantize", "--preprocess", "imagenet-") == {"imagenet-stretch", "imagenet-bgr"}
    assert completed(script, "completions", "") == {"bash", "zsh", "fish"}


@needs_bash
def test_bash_completes_files_whose_names_have_spaces(script: Path) -> None:
    Path("my model.onnx").write_text("")
    assert completed(script, "quantize", "my") == {"my model.onnx"}
    assert completed(script, "verify", "a.onnx", "b.onnx", "--data", "my") == {"my model.onnx"}


def test_the_zsh_script_is_that_of_bash_behind_its_loader(halfeven: Halfeven, script: Path) -> None:
    head, _, rest = halfeven("completions", "zsh").out.partition("bashcompinit\n")
    assert head.startswith("#compdef halfeven\n")
    assert rest == script.read_text()


def test_the_fish_script_has_every_option_of_every_command(halfeven: Halfeven) -> None:
    lines = halfeven("completions", "fish").out.splitlines()
    assert all(line.startswith("complete -c halfeven ") for line in lines)
    for command in ARGUMENTS:
        mine = [line for line in lines if f"__fish_seen_subcommand_from {command}'" in line]
        offered = {f"--{name}" for line in mine for name in re.findall(r" -l (\S+)", line)}
        offered |= {f"-{name}" for line in mine for name in re.findall(r" -s (\S)", line)}
        assert offered == set(flags_of(build_parser(command), command))
    assert any("-l target -x -a 'onnxruntime " in line for line in lines)
    if fish := shutil.which("fish"):
        assert subprocess.run([fish, "--no-execute"], input="\n".join(lines), text=True, timeout=30).returncode == 0
