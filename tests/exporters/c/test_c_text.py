"""Promised: the C text holds no floating-point token and calls nothing but memset and memcpy; equal drafts give equal text; what
a model's author named cannot become code; the header says shapes, scales and zero points that are the network's.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.exporters.c import text as text_of_c
from halfeven.exporters.c.identifiers import file_stem, identifier, remark
from halfeven.exporters.c.text import PARTS, kernel_text, wrapped

HOSTILE = (
    "*/ int evil = 1; /*",
    '"); system("reboot"); ("',
    "a\\\nb",
    "??/\nx",
    "// \n#error no",
    "名字",
    "main",
    "0start",
    "double",
    "%s%n",
    "../../etc/passwd",
)
NODE = """agraph (float[1,2,6,6] x) => (float[1,3,6,6] y) <float[3,2,3,3] w, float[3] b>
{ c = Conv <pads=[1,1,1,1]> (x, w, b) y = Sigmoid (c) }"""
FUNCTIONS = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


def code_of(text: str) -> str:
    """Without comments and strings."""
    return re.sub(r'"[^"\n]*"', '""', re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL))


def test_the_code_is_of_integers_and_calls_no_library(drafted: Callable, written: Callable, tmp_path: Path) -> None:
    made = written(drafted(NODE), tmp_path / "net.c")
    code = code_of(made.path.read_text())
    assert not re.search(r"\b(float|double|long double|malloc|free|printf)\b", code)
    assert not re.search(r"\d\.\d|\.\d+[fF]?\b|\d[eE][+-]?\d", re.sub(r"0[xX][0-9A-Fa-f]+u?", "", code))
    assert set(re.findall(r"#include\s*(\S+)", made.path.read_text())) == {'"net.h"', "<stddef.h>", "<string.h>"}
    defined = set(re.findall(r"^static \w+ (\w+)\(", code, re.MULTILINE))
    called = set(FUNCTIONS.findall(code)) - {"if", "for", "while", "switch", "return", "sizeof", "defined"}
    assert called - defined <= {"net_run", "net_trace", "TRACE", "memset", "memcpy"}
    assert "static int8_t arena[" in code


def test_every_kernel_is_free_of_floats_and_is_emitted_once(
    drafted: Callable, written: Callable, tmp_path: Path
) -> None:
    folder = Path(text_of_c.__file__).parent / "kernels"
    names = sorted(path.stem for path in folder.glob("*.c"))
    assert set(PARTS) < set(names)
    for name in names:
        assert not re.search(r"\b(float|double)\b|\d\.\d", kernel_text(name))
    text = written(drafted(NODE), tmp_path / "net.c").path.read_text()
    assert [len(re.findall(rf"^static void {k}\(", text, re.MULTILINE)) for k in ("convolution", "lookup", "move")] == [
        1,
        1,
        0,
    ]


def test_equal_drafts_give_equal_text(drafted: Callable, written: Callable, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        written(drafted(NODE), tmp_path / folder / "net.c")
    for name in ("net.c", "net.h", "net_test.c"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_header_says_what_the_codes_mean(
    drafted: Callable, written: Callable, compiled: Callable, tmp_path: Path
) -> None:
    made = written(drafted(NODE), tmp_path / "net.c")
    (tmp_path / "say.c").write_text(
        '#include <stdio.h>\n#include "net.h"\nstatic const int in[] = NET_INPUT_SHAPE, out[] = NET_OUTPUT_SHAPE;\n'
        "int main(void) {\n"
        '    printf("%d %d %d %a %d\\n", in[1], NET_INPUT_RANK, NET_INPUT_SIZE, (double)NET_INPUT_SCALE, NET_INPUT_ZERO_POINT);\n'
        '    printf("%d %d %d %a %d\\n", out[1], NET_OUTPUT_RANK, NET_OUTPUT_SIZE, (double)NET_OUTPUT_SCALE, NET_OUTPUT_ZERO_POINT);\n'
        '    printf("%d %d\\n", NET_ARENA_BYTES, NET_CONSTANT_BYTES);\n    return 0;\n}\n'
    )
    said = subprocess.run([compiled(tmp_path, ["say.c"], "say")], capture_output=True, text=True, check=True).stdout
    lines = said.splitlines()
    for line, (_, tensor), channels in zip(lines, (*made.program.inputs, *made.program.outputs), (2, 3), strict=False):
        first, rank, size, scale, zero = line.split()
        assert (int(first), int(rank), int(size)) == (channels, 4, channels * 36)
        assert np.float32(float.fromhex(scale)) == tensor.params.scale.ravel()[0]
        assert int(zero) == int(tensor.params.zero_point.ravel()[0])
    arena, constants = map(int, lines[2].split())
    assert f"{constants} bytes of constants, an arena of {arena} bytes" in made.notes[0]
    assert "[1, 2, 6, 6]" in made.notes[1]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_others_cannot_become_code(
    name: str, drafted: Callable, written: Callable, compiled: Callable, tmp_path: Path
) -> None:
    draft = drafted(NODE)
    for node in draft.model.graph:
        for value in node.outputs:
            old = value.name
            if old == "c":
                value.name = name
                sites = {
                    type(s)(name if s.value == old else s.value, s.consumer, s.port): g
                    for s, g in draft.plan.sites.items()
                }
                object.__setattr__(draft.plan, "sites", sites)
    made = written(draft, tmp_path / "net.c")
    text = made.path.read_text("utf-8")
    assert text.isascii()
    assert "??" not in text
    assert "evil" not in code_of(text)
    assert "system" not in code_of(text)
    assert "reboot" not in code_of(text)
    (tmp_path / "trace.c").write_text(
        '#include "net.h"\nvoid net_trace(const char *t, const int8_t *c, int32_t n) { (void)t; (void)c; (void)n; }\n'
    )
    program = compiled(tmp_path, ["net.c", "net_test.c", "trace.c"], "traced", ["cc", "-O1", "-DNET_TRACE"])
    assert subprocess.run([program], check=False).returncode == 0


@given(st.text(max_size=80))
def test_a_remark_can_end_no_comment_and_no_string(text: str) -> None:
    found = remark(text)
    assert found.isascii()
    assert not set(found) & set("*/\\\"'?\n\r#%<>{}")


@given(st.text(max_size=80))
def test_an_identifier_is_one(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", identifier(text))
    assert identifier(text) not in ("int", "double", "main", "class", "float")


@pytest.mark.parametrize("stem", ['a"b', "a b", "", "-x", "名", "a\\b", "x\n"])
def test_a_file_name_that_cannot_stand_in_an_include_is_refused(stem: str) -> None:
    with pytest.raises(BadOption, match="use letters, digits"):
        file_stem(stem)


def test_the_least_int32_is_written_as_c_wants_it() -> None:
    assert wrapped([-(1 << 31), 5]) == "    (-2147483647 - 1), 5,"
