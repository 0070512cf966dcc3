"""Promised: help is quick, complete and has examples; --quiet is quiet; --json is one object of a fixed form; what is
printed fits 80 columns; verification is the default and warns of what a user must know.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfeven.arguments import ARGUMENTS
from halfeven.cli import EXAMPLES, SUMMARIES, build_parser, main, subparser
from halfeven.errors import QuantError
from halfeven.options import all_options

Halfeven = Callable[..., Any]
QUANTIZE = ("quantize", "net.onnx", "--prefer", "size", "--data", "x.npz", "-o", "out.onnx")
NUMBER = (int, float)
FIGURES: dict[str, Any] = {
    "samples": int,
    "sqnr_db": NUMBER,
    "cosine": NUMBER,
    "outputs": {"y": {"sqnr_db": NUMBER, "cosine": NUMBER}},
    "top1_agreement": NUMBER,
    "accuracy": type(None),
    "labelled": int,
    "bytes": {"float": int, "int8": int},
    "latency_ms": {"float": NUMBER, "int8": NUMBER, "ratio": NUMBER},
    "integer_layers": {"integer": int, "all": int},
    "warnings": [str],
    "runtime": str,
    "own_float_ms": type(None),
}
PLACED: dict[str, Any] = {
    "target": str,
    "layers": {"quantized": int, "all": int},
    "nodes": {"quantized": int, "all": int},
    "weight_bytes": {"float": int, "quantized": int},
    "floats": [{"node": str, "op": str, "reason": str}],
    "notes": [str],
}
TENSORS = [{"tensor": str, "scheme": str, "group": int}]
LABELLED = {**FIGURES, "accuracy": {"float": NUMBER, "int8": NUMBER}, "outputs": {"logits": FIGURES["outputs"]["y"]}}
REPORTS: dict[tuple[str, ...], dict[str, Any]] = {
    QUANTIZE: {"output": str, "verification": FIGURES, **PLACED},
    (*QUANTIZE, "--no-verify"): {"output": str, "verification": type(None), **PLACED},
    ("inspect", "net.onnx"): {**PLACED, "tensors": TENSORS},
    ("calibrate", "net.onnx", "--data", "x.npz", "-o", "s.json"): {"output": str, "tensors": int, "samples": int},
    ("verify", "net.onnx", "net.onnx", "--data", "x.npz"): {**FIGURES, "sqnr_db": type(None), "outputs": dict},
    ("demo",): {"output": str, "verification": LABELLED, "notes": [str]},
}


def conforms(value: Any, form: Any, where: str = "report") -> None:
    """Check plain values against a form: a dict of keys, a list of one form, or types."""
    if isinstance(form, dict):
        assert set(value) == set(form), where
        for key, inner in form.items():
            conforms(value[key], inner, f"{where}.{key}")
    elif isinstance(form, list):
        assert isinstance(value, list), where
        for one in value:
            conforms(one, form[0], where)
    else:
        assert isinstance(value, form), f"{where}: {value!r}"
        assert not isinstance(value, bool), where


@pytest.mark.parametrize("words", REPORTS, ids=" ".join)
def test_json_is_one_object_of_this_form_and_nothing_else(halfeven: Halfeven, words: tuple[str, ...]) -> None:
    ran = halfeven(*words, "--json")
    assert (ran.status, ran.err) == (0, "")
    conforms(json.loads(ran.out, parse_constant=lambda name: pytest.fail(name)), REPORTS[words])


def test_on_failure_json_leaves_standard_output_empty(halfeven: Halfeven) -> None:
    ran = halfeven("quantize", "missing.onnx", "--json")
    assert (ran.status, ran.out) == (3, "")


@pytest.mark.parametrize("words", [w for w in REPORTS if w != ("demo",)], ids=" ".join)
def test_quiet_prints_nothing(halfeven: Halfeven, words: tuple[str, ...]) -> None:
    assert halfeven(*words, "--quiet") == (0, "", "")


def test_the_report_says_in_one_sentence_what_it_cost(halfeven: Halfeven) -> None:
    ran = halfeven(*QUANTIZE)
    assert (ran.status, ran.err) == (0, "")
    sentence = r"SQNR \d+\.\d dB, [\d.]+ % same top-1, \d\.\d\d x size, \d+\.\d\d x latency \(on 8 samples,"
    assert re.search(sentence, " ".join(ran.out.split()))
    assert ran.out.startswith("net.onnx -> out.onnx\n")
    assert "3 of 3 layers quantized for onnxruntime" in ran.out


def test_without_verification_the_report_says_so(halfeven: Halfeven) -> None:
    ran = halfeven(*QUANTIZE, "--no-verify")
    assert "not compared with the float model" in ran.out
    assert "SQNR" not in ran.out


def test_the_default_output_stands_beside_the_model(halfeven: Halfeven, home: Path) -> None:
    Path("v1.2.onnx").write_bytes((home / "net.onnx").read_bytes())
    assert halfeven("quantize", "v1.2.onnx", *QUANTIZE[2:-2], "--no-verify", "--quiet").status == 0
    assert Path("v1.2.int8.onnx").is_file()


def test_what_is_quantized_to_ruin_or_slower_is_warned_of(halfeven: Halfeven, home: Path) -> None:
    with np.load(home / "x.npz") as stored:
        np.savez("loud.npz", x=stored["x"] * 300)
    ran = halfeven(*QUANTIZE[:4], "--data", "x.npz", "--holdout", "loud.npz", "-o", "out.onnx")
    said = " ".join(ran.out.split())
    assert ran.status == 0
    assert re.search(r"warning: SQNR of output 'y' is -?\d+\.\d dB, under 10: the quantized model is far from", said)


def test_synthetic_data_are_called_so(halfeven: Halfeven) -> None:
    said = " ".join(halfeven("quantize", "net.onnx", "--prefer", "size", "-o", "out.onnx").out.split())
    assert "note: no data were given: 16 synthetic samples stand in; real data give better scales" in said
    assert "they say little about real data" in said


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_no_line_is_longer_than_the_terminal_and_no_word_is_cut(
    halfeven: Halfeven, monkeypatch: pytest.MonkeyPatch, home: Path, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in (QUANTIZE, ("inspect", "net.onnx", "--all")):
        ran = halfeven(*words)
        assert ran.status == 0
        assert max(len(line) for line in ran.out.splitlines()) <= columns
        assert "\u2026" not in ran.out
        assert not any(line != line.rstrip() for line in ran.out.splitlines())


def test_inspect_lists_every_tensor_and_reason_when_asked(halfeven: Halfeven) -> None:
    said = " ".join(halfeven("inspect", "net.onnx", "--all", "--prefer", "size", "--keep-float", "Gemm").out.split())
    assert "2 of 3 become integer" in said
    assert "kept in float by --keep-float 'Gemm'" in said
    assert "w1 -> Conv_a[1]" in said


HELP = ("COLUMNS", "80")


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ARGUMENTS)
def test_the_help_of_each_command_has_an_example_and_a_text_for_each_option(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*HELP)
    text = help_of(capsys, command)
    assert all(example in text for example in EXAMPLES[command])
    assert max(len(line) for line in text.splitlines()) <= 80
    for action in subparser(build_parser(command), command)._actions:
        assert action.help, action.option_strings


@pytest.mark.parametrize("command", ARGUMENTS)
def test_the_examples_in_the_help_are_commands_that_parse(command: str) -> None:
    for example in EXAMPLES[command]:
        words = example.removeprefix('eval "$(').split("|")[0].split(")")[0].split()
        assert words[0] == "halfeven"
        args, rest = build_parser(command).parse_known_args(words[1:])
        assert (args.command, rest) == (command, [])


def test_the_help_lists_commands_and_exit_statuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*HELP)
    text = help_of(capsys)
    assert all(f"{name}" in text and SUMMARIES[name] in text for name in ARGUMENTS)
    statuses = {kind.exit_code for kind in QuantError.__subclasses__()} | {0, 1, 130}
    assert statuses == {0, 1, 2, 3, 4, 5, 130}
    assert all(re.search(rf"(^|\s){status}  \w", text) for status in statuses)
    assert max(len(line) for line in text.splitlines()) <= 80


def test_every_option_of_a_step_has_a_text_and_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "quantize")
    for option in all_options().values():
        assert option.help
        assert option.help.endswith(".")
        assert re.search(rf"{option.flag}\b", text)


def test_help_is_quick_and_loads_no_library() -> None:
    program = (
        "import sys, time; start = time.process_time()\nfrom halfeven.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'rich', 'PIL', 'torch', 'shutil'} & set(sys.modules)\n"
        "print(sorted(heavy), time.process_time() - start, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    loaded, seconds = done.stderr.rsplit(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 0.5  # of the processor: 0.03 on a desktop; NumPy alone would take more than 0.1


@pytest.mark.parametrize("columns", [50, 80, 140])
def test_the_help_is_as_wide_as_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = help_of(capsys, "quantize").split("options:")[1].split("examples:")[0].splitlines()
    assert columns - 25 < max(len(line) for line in lines) <= columns - 2


def test_without_a_terminal_the_help_has_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    expected = help_of(capsys, "quantize")
    for columns in ("0", "", "wide"):
        monkeypatch.setenv("COLUMNS", columns)
        assert help_of(capsys, "quantize") == expected


@pytest.mark.parametrize("command", ARGUMENTS)
def test_the_parser_has_the_arguments_of_its_command_and_the_names_of_all(command: str) -> None:
    parser = build_parser(command)
    for name in ARGUMENTS:
        assert bool(subparser(parser, name)._actions) is (name == command)


def test_no_command_prints_the_help_and_fails(halfeven: Halfeven) -> None:
    ran = halfeven()
    assert (ran.status, ran.out) == (2, "")
    assert "halfeven quantize" in ran.err


def test_debug_shows_the_traceback(home: Path) -> None:
    with pytest.raises(QuantError, match="does not exist"):
        main(["quantize", "missing.onnx", "--debug"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_report_that_cannot_be_printed_is_an_error_but_a_reader_that_leaves_is_none(home: Path) -> None:
    command = [sys.executable, "-m", "halfeven", "inspect", str(home / "net.onnx"), "--all"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("halfeven: error: standard output: No space left")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
