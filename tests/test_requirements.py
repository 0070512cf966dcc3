"""Promised: docs/requirements.md has every requirement and every slip once; what it calls done names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "requirements.md"
COUNT = 128
SLIPS = 13
WORK = {
    "The main job",
    "The arithmetic of quantization, whole",
    "Deploy: the files that runtimes read",
    "Integer execution, bit for bit",
    "Training: what you train is what you export",
}
ROW = re.compile(r"\| (R\d{3}) \| ([^|]+) \| (\w+) \| ([^|]+) \|")
SLIP = re.compile(r"\| (X\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|")
NODE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[tuple[str, str, str, str]]:
    lines = TABLE.read_text("utf-8").splitlines() if TABLE.exists() else []
    return [found.groups() for line in lines if (found := ROW.fullmatch(line))]  # type: ignore[misc]


@cache
def functions_of(path: str) -> set[str]:
    """The test functions of a file that stands in this tree."""
    file = ROOT / path
    nodes = ast.walk(ast.parse(file.read_text("utf-8"))) if file.is_file() else ()
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


pytestmark = pytest.mark.skipif(not TABLE.parent.is_dir(), reason="the documents are not here")


def test_every_requirement_stands_in_the_table_once_and_in_order() -> None:
    assert [row[0] for row in rows()] == [f"R{number:03}" for number in range(1, COUNT + 1)]


def test_no_row_of_the_table_is_malformed() -> None:
    assert len(re.findall(r"(?m)^\|\s*R\d", TABLE.read_text("utf-8"))) == COUNT


@pytest.mark.parametrize(("number", "state", "shown"), [(row[0], row[2], row[3]) for row in rows()])
def test_what_is_done_names_its_tests_and_what_is_not_names_the_work(number: str, state: str, shown: str) -> None:
    if state == "later":
        assert shown in WORK
        return
    assert state == "done"
    nodes = NODE.findall(shown)
    assert nodes, f"{number} is called done, but no test is named"
    assert NODE.sub("", shown).replace("<br>", "") == ""
    assert [f"{path}::{name}" for path, name in nodes if name not in functions_of(path)] == []


def test_each_slip_of_the_founding_documents_names_the_tests_of_what_holds() -> None:
    slips = [found.groups() for line in TABLE.read_text("utf-8").splitlines() if (found := SLIP.fullmatch(line))]
    assert [number for number, _ in slips] == [f"X{number}" for number in range(1, SLIPS + 1)]
    for number, shown in slips:
        nodes = NODE.findall(shown)
        assert nodes, number
        assert NODE.sub("", shown).replace("<br>", "") == ""
        assert [f"{path}::{name}" for path, name in nodes if name not in functions_of(path)] == []
