"""Promised: what the documentation shows runs on the shipped network; its links resolve; each page has its Chinese twin
with the same headings and the same examples; its tables name all there is, with the defaults that hold.

Executed are the ```python blocks and those marked ```bash run, of each English page in its order, in one folder that
holds the files of the demo: blocks of Python that follow one another in an interpreter of theirs, each with its own
names, a line that calls `halfeven` and nothing else in this one, other lines by bash. A ```toml block is written to the
file that its first line names. Output that the pages show has the words that are printed; its figures, which are of one
machine, are not compared.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import pytest

from halfeven import errors
from halfeven.cli import build_parser, main
from halfeven.data.preprocess import CHOICES, PRESETS
from halfeven.options import all_options
from halfeven.stats.estimate import METHODS
from halfeven.targets import TARGETS

ROOT = Path(__file__).parents[1]
DEMO = Path(errors.__file__).parent / "demo"
NAMES = (
    *("getting-started", "options", "data", "targets", "calibration", "plan", "how-it-works", "glossary", "deploy"),
    *(
        "benchmarks",
        "numerics",
        "onnx-formats",
        "encodings",
        "exactness",
        "litert",
        "ncnn",
        "executorch",
        "openvino",
        "tflite-import",
        "bare-metal",
        "training",
        "plots",
    ),
)
TWINS = {"README.md": "README.zh-CN.md", **{f"docs/{name}.md": f"docs/zh/{name}.md" for name in NAMES}}
BLOCK = re.compile(r"^```(\w*)( run)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OUTPUT = re.compile(r"^```text\n((?:SQNR|fashion_mnist).*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

IN_TURN = "import sys\nfor text in sys.argv[1:]:\n    exec(compile(text, text, 'exec'), {'__name__': '__main__'})"

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documents are not here")
each_page = pytest.mark.parametrize("page", TWINS)


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def examples(page: str) -> list[tuple[str, str]]:
    """Language and text of the blocks that are executed or written."""
    found = [(lang, text) for lang, run, text in BLOCK.findall(text_of(page)) if lang in ("python", "toml") or run]
    assert all(lang in ("python", "toml", "bash") for lang, _ in found)
    return found


def needs_torch(text: str) -> bool:
    return any(words in text for words in ("import torch", "halfeven.prepare(", "halfeven.train("))


def needs_keras(text: str) -> bool:
    return "import keras" in text


@pytest.fixture
def run_examples(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[tuple[str, str]]], str]:
    """`run_examples(blocks)`: run one after another in a folder where `halfeven` is this interpreter's; what they print."""
    for name in ("fashion_mnist_mbv2.onnx", "calibration.npz", "test.npz"):
        shutil.copy(DEMO / name, tmp_path / name)
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "halfeven").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m halfeven "$@"\n')
    (commands / "halfeven").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "100")

    def process(*words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def line(text: str) -> str:
        if not text.startswith("halfeven ") or set(text) & set("|&;<>$`\\"):
            return process("bash", "-euc", text)
        status, (out, err) = main(shlex.split(text)[1:]), capfd.readouterr()
        assert status == 0, f"{text}\n{out}\n{err}"
        return out

    def run(blocks: list[tuple[str, str]]) -> str:
        printed = ""
        for language, together in groupby(blocks, lambda block: block[0]):
            texts = [text for _, text in together]
            if language == "toml":
                for text in texts:
                    Path(text.splitlines()[0].removeprefix("# ")).write_text(text, "utf-8")
            elif language == "python":
                printed += process(sys.executable, "-c", IN_TURN, *texts)
            else:
                printed += "".join(line(command) for text in texts for command in text.splitlines() if command)
        return printed

    return run


def without_figures(text: str) -> str:
    """The words alone: figures are of one machine and day, and the width of columns is theirs."""
    return " ".join(re.sub(r"[-+]?\d+(\.\d+)?", "0", text).split())


@each_page
def test_the_examples_of_a_page_run(page: str, run_examples: Callable[[list[tuple[str, str]]], str]) -> None:
    if page == "docs/plots.md":
        pytest.importorskip("matplotlib")
    blocks = [(language, text) for language, text in examples(page) if not needs_torch(text)]
    if shutil.which("bash") is None:
        blocks = [(language, text) for language, text in blocks if language != "bash"]
    printed = without_figures(run_examples(blocks))
    if page == "docs/getting-started.md" and "bash" in dict(blocks):
        shown = [text for name in ("README.md", page) for text in OUTPUT.findall(text_of(name))]
        assert len(shown) == 3
        for text in shown:
            assert without_figures(text) in printed


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_examples_with_pytorch_run(run_examples: Callable[[list[tuple[str, str]]], str]) -> None:
    blocks = [(language, text) for page in TWINS for language, text in examples(page) if needs_torch(text)]
    assert blocks
    run_examples([(language, text) for language, text in blocks if not needs_keras(text)])


@pytest.mark.skipif(
    find_spec("keras") is None or find_spec("torch") is None, reason="Keras or PyTorch is not installed"
)
def test_the_example_with_keras_runs(run_examples: Callable[[list[tuple[str, str]]], str]) -> None:
    pytest.importorskip("flatbuffers")
    (block,) = (one for one in examples("docs/training.md") if needs_keras(one[1]))
    run_examples([block])


def test_a_command_on_the_demo_network_that_is_not_executed_on_its_page_is_executed_on_another() -> None:
    run = {
        line for page in TWINS for language, text in examples(page) if language == "bash" for line in text.splitlines()
    }
    for page in TWINS:
        for language, marked, text in BLOCK.findall(text_of(page)):
            lines = text.splitlines() if language == "bash" and not marked else []
            assert {line for line in lines if "fashion_mnist" in line} <= run, page


@each_page
def test_a_chinese_page_has_the_same_headings_and_the_same_examples(page: str) -> None:
    levels = [[len(marks) for marks, _ in headings(name)] for name in (page, TWINS[page])]
    assert levels[0] == levels[1]
    assert examples(page) == examples(TWINS[page])


def prose(page: str) -> str:
    """The page without its blocks."""
    return BLOCK.sub("", text_of(page))


def headings(page: str) -> list[tuple[str, str]]:
    return HEADING.findall(prose(page))


def anchors(page: str) -> set[str]:
    """The headings as GitHub turns them into anchors."""
    plain = (re.sub(r"[^\w\- ]", "", text.lower()) for _, text in headings(page))
    return {text.strip().replace(" ", "-") for text in plain}


def documents() -> Iterator[str]:
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")):
        yield path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", sorted(documents()))
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.resolve().is_relative_to(ROOT.resolve()), link
        assert file.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT.resolve()).as_posix()), f"{page}: {link}"


@pytest.mark.parametrize("tool", ["make_options_page.py", "make_results_table.py", "targets_page.py"])
def test_generated_tables_are_up_to_date(tool: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / tool), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"run python tools/{tool}\n{done.stdout}{done.stderr}"


def table_rows(page: str) -> list[list[str]]:
    """The cells of all table lines."""
    lines = [line for line in prose(page).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("page", ["docs/options.md", "docs/zh/options.md"])
def test_the_options_page_has_every_option_with_its_default(page: str) -> None:
    rows = {row[1]: row for row in table_rows(page) if len(row) == 5}
    for option in all_options().values():
        command, _, file, default, meaning = rows[f"`{option.name}`"]
        assert command.startswith(f"`{option.flag} ")
        assert file == f"`[{option.step}] {option.field}`"
        assert default == f"`{'[]' if option.many else option.default}`"
        assert meaning


@pytest.mark.parametrize("page", ["docs/options.md", "docs/zh/options.md"])
@pytest.mark.parametrize("command", ["quantize", "calibrate", "inspect", "verify", "demo"])
def test_the_options_page_has_every_flag_of_the_command_line(page: str, command: str) -> None:
    commands = next(a for a in build_parser(command)._actions if a.dest == "command").choices
    text = text_of(page)
    flags = {flag for action in commands[command]._actions for flag in action.option_strings} - {"-h"}  # type: ignore[index]
    assert {flag for flag in flags if not re.search(rf"`(-o`, `)?{flag}[ `]", text) and flag != "-o"} == set()


def test_presets_estimators_targets_and_exit_codes_are_all_documented() -> None:
    words = [("docs/data.md", w) for w in (*PRESETS, *(choice for c in ("resize", "filter") for choice in CHOICES[c]))]
    words += [("docs/calibration.md", name) for name in METHODS] + [("docs/targets.md", name) for name in TARGETS]
    kinds = errors.QuantError.__subclasses__()
    assert kinds
    for page, word in words:
        for name in (page, TWINS[page]):
            assert f"`{word}`" in text_of(name), f"{name}: {word}"
    for page in ("README.md", "README.zh-CN.md"):
        codes = {row[0] for row in table_rows(page)}
        assert {str(kind.exit_code) for kind in kinds} | {"0", "1", "130"} <= codes


@pytest.mark.parametrize("page", ["docs/targets.md", "docs/zh/targets.md"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_targets_page_has_every_operator_of_every_target(target: str, page: str) -> None:
    text = text_of(page)
    part = text[text.index(f"### `{target}`") :].split("\n###")[0].split("\n## ")[0]
    for rule in TARGETS[target].rules:
        assert any(set(rule.ops) == set(line.split(" | ")[0].strip("| ").split(", ")) for line in part.splitlines())
    assert TARGETS[target].source in part


def test_the_readme_runs_the_tests_as_the_makefile_does() -> None:
    makefile, readme = text_of("Makefile"), text_of("README.md")
    start = readme.index("Without `make`, the tests are run by")
    (commands,) = re.findall(r"```bash\n(.*?)```", readme[start : readme.index("## Use")], re.DOTALL)
    recipe = makefile[makefile.index("\ntest:") : makefile.index("\nclean:")]
    shown = [line for line in commands.splitlines() if "venv .venv" not in line and "pip install" not in line]
    run = [line.strip().replace("$(VENV)", ".venv") for line in recipe.splitlines() if "$(VENV)/bin" in line]
    assert shown == run
    assert "-c constraints.txt" in makefile
    (extras,) = re.findall(r"^EXTRAS = (\S+)$", makefile, re.MULTILINE)
    assert "-e '.[test,$(EXTRAS)]'" in makefile
    assert f"-m pip install -c constraints.txt -e '.[test,{extras}]'" in commands
