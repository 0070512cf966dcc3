"""Promised: the numbers and names of docs/numerics.md and its Chinese twin are those of the code; nothing that has a name
in the code is missing there; every paper cited is among the sources; the C++ example prints what the page says.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from halfeven.errors import QuantError
from halfeven.numerics import blocks, floats
from halfeven.numerics.conventions import CONVENTIONS
from halfeven.numerics.elementwise import Addition
from halfeven.numerics.formulas import FORMULAS, parameters
from halfeven.numerics.profiles import DPU_METHODS, PPQ_POLICIES, PROFILES
from halfeven.numerics.requant import Requant
from halfeven.numerics.rounding import Rounding
from halfeven.stats.aciq import laplace_clip, normal_clip
from halfeven.stats.estimate import METHODS
from halfeven.stats.kl import VARIANTS

ROOT = Path(__file__).parents[1]
PAGES = ("docs/numerics.md", "docs/zh/numerics.md")
ERRORS = ("error", "错误")

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documents are not here")
each_page = pytest.mark.parametrize("page", PAGES)


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def rows(page: str, first: Iterable[str], columns: int) -> dict[str, list[str]]:
    """The table rows whose first cell is one of `first`, by it; a name in backticks is meant without them."""
    wanted, found = set(first), {}
    for line in text_of(page).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == columns and cells[0].strip("`") in wanted:
            assert cells[0] not in found, f"{page}: {cells[0]} stands twice"
            found[cells[0].strip("`")] = cells[1:]
    assert set(found) == wanted
    return found


def number(text: str) -> float:
    """What `2^-5`, `6e38/255` or `(2 - 2^-23) 2^127` says."""
    spelled = re.sub(r"\) ", ") * ", text.replace("^", "**"))
    assert re.fullmatch(r"[-+*/()\d.e ]+", spelled), text
    return float(eval(spelled))


@each_page
def test_the_rounding_table_is_that_of_the_rules(page: str) -> None:
    ties = np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    for name, cells in rows(page, Rounding, 8).items():
        assert [int(cell) for cell in cells[:6]] == Rounding(name)(ties).tolist(), name


@each_page
def test_the_profiles_are_those_of_the_code(page: str) -> None:
    for name, (rule, ratio, zero, overflow, nan) in rows(page, PROFILES, 6).items():
        profile = PROFILES[name]
        kept = f"{profile.rounding} {profile.ratio} {profile.overflow.removeprefix('int32_')} {profile.nan}"
        if "dpu" not in name and "ppq" not in name:
            assert rule.startswith(profile.rounding), name
        assert str(profile.rounding) in rule, name
        assert f"{profile.rounding} {ratio.split(';')[0]} {overflow} {nan}" == kept, name
        assert zero == ("none" if profile.zero == "absent" else profile.zero), name
        if profile.tail is not None:
            assert f"n mod {profile.block}" in rule
            assert profile.tail.rounding in rule
            assert ratio.split("; ")[-1] == profile.tail.ratio


@each_page
def test_the_methods_of_the_dpu_and_the_policies_of_ppq_are_those_of_the_code(page: str) -> None:
    methods = rows(page, map(str, DPU_METHODS), 4)
    assert {int(method): re.findall(r"`(\w+)`", cells[2])[0] for method, cells in methods.items()} == DPU_METHODS
    names = {policy for kind in PPQ_POLICIES.values() for policy in kind}
    for policy, cells in rows(page, names, 4).items():
        for kind, cell in zip(("numerical", "tensor", "cuda"), cells, strict=True):
            assert (cell if cell in list(Rounding) else None) == PPQ_POLICIES[kind].get(policy), policy


FORMATS = {
    "float32": floats.FLOAT32,
    "float16": floats.FLOAT16,
    "bfloat16": floats.BFLOAT16,
    "float8 e4m3fn": floats.FLOAT8_E4M3FN,
    "float8 e4m3fnuz": floats.FLOAT8_E4M3FNUZ,
    "float8 e5m2": floats.FLOAT8_E5M2,
    "float8 e5m2fnuz": floats.FLOAT8_E5M2FNUZ,
    "float6 e2m3": floats.FLOAT6_E2M3,
    "float6 e3m2": floats.FLOAT6_E3M2,
    "float4 e2m1": floats.FLOAT4_E2M1,
    "e8m0": floats.FLOAT8_E8M0,
}


@each_page
def test_the_float_formats_are_those_of_the_code(page: str) -> None:
    for name, (fields, _, largest, normal, subnormal) in rows(page, FORMATS, 6).items():
        grid = FORMATS[name]
        assert [int(part) for part in re.findall(r"\d+", fields)[:2]] == [grid.exponent, grid.mantissa]
        assert number(largest) == grid.high
        assert number(normal) == 2.0**grid.least_exponent
        if grid.signed:
            assert number(subnormal) == float(grid.decode(np.array(1)))


@each_page
def test_the_degenerate_ranges_give_what_the_table_says(page: str) -> None:
    ranges = ((0.0, 0.0), (3.0, 3.0), (-3.0, -3.0), (1.0, 5.0), (0.0, 1e-40), (-3e38, 3e38))
    for name, cells in rows(page, FORMULAS, 7).items():
        grid = {"signed": False} if FORMULAS[name].affine else {"symmetric": True}
        for (low, high), cell in zip(ranges, cells, strict=True):
            if cell in ERRORS:
                with pytest.raises(QuantError):
                    parameters(name, low, high, **grid)  # type: ignore[arg-type]
                continue
            found = parameters(name, low, high, **grid)  # type: ignore[arg-type]
            scale, zero_point = cell.split(", ")
            said = np.float32(number(scale)) if abs(number(scale)) > 1e-37 else np.float32(high) / np.float32(255)
            if name in ("tensorrt", "power-of-two", "ristretto", "ncnn"):
                said = np.float32(number(scale))
            assert found.scale == pytest.approx(float(said), rel=1e-3 if found.scale < 1e-37 else 1e-6), (name, cell)
            assert found.zero_point == int(zero_point), (name, cell)


@each_page
def test_the_clips_of_fitted_distributions_are_those_of_the_code(page: str) -> None:
    normal, laplace = ([float(cell) for cell in row] for row in (table for table in _clips(page) if len(table) == 7))
    assert normal == [round(normal_clip(2.0 ** (bits - 1)), 6) for bits in range(2, 9)]
    assert laplace == [round(laplace_clip(2.0 ** (bits - 1)), 6) for bits in range(2, 9)]


def _clips(page: str) -> list[list[str]]:
    return [re.findall(r"\d+\.\d{6}", line) for line in text_of(page).splitlines() if line.startswith("| ")]


@each_page
def test_what_has_a_name_in_the_code_is_explained(page: str) -> None:
    text = text_of(page)
    shifts = {flavour for flavour in Requant if flavour.startswith("shift_")}
    names = [*PROFILES, *FORMULAS, *CONVENTIONS, *METHODS, *Addition, *(set(Requant) - shifts)]
    missing = [name for name in names if f"`{name}`" not in text]
    missing += [name for name in shifts if f"`{name.removeprefix('shift_')}`" not in text]
    formats = {form.name for form in vars(blocks).values() if isinstance(form, blocks.BlockFormat)}
    assert missing == []
    rows(page, formats, 6)
    heads = [line for line in text.splitlines() if line.startswith("| |") and all(name in line for name in VARIANTS)]
    assert len(heads) == 1


@each_page
def test_every_paper_that_is_cited_is_among_the_sources(page: str) -> None:
    text = text_of(page)
    start = text.rindex("\n## ")
    cited = set(re.findall(r"([A-Z]\w+)(?: et al\.| and [A-Z]\w+| 等| 与 [A-Z]\w+)? (\d{4})\b", text[:start]))
    cited -= {("OE", year) for _, year in cited}
    listed = set(re.findall(r"^- ([A-Z]\w+).*? (\d{4})", text[start:], re.MULTILINE))
    assert len(listed) >= 25
    assert cited <= listed
    assert {name for name, _ in listed} <= set(re.findall(r"[A-Z]\w+", text[:start]))


COMPILER = next((found for name in (os.environ.get("CXX"), "c++", "g++") if name and (found := shutil.which(name))), "")


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler was found")
def test_the_c_example_prints_what_the_page_says(tmp_path: Path) -> None:
    sources = [re.findall(r"```cpp\n(.*?)```", text_of(page), re.DOTALL) for page in PAGES]
    assert sources[0] == sources[1]
    (source,) = sources[0]
    (tmp_path / "example.cpp").write_text(source, "utf-8")
    program = tmp_path / "example"
    options = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-ffp-contract=off"]
    command = [COMPILER, *options, f"-I{ROOT / 'cpp' / 'include'}", str(tmp_path / "example.cpp"), "-o", str(program)]
    subprocess.run(command, check=True, timeout=120)
    printed = subprocess.run([program], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    for page in PAGES:
        assert f"`{printed}`" in text_of(page)


def test_quantizing_in_c_never_rounds_by_c_s_round() -> None:
    """Half to even is nearbyint under FE_TONEAREST; round() sends ties away from zero."""
    headers = ROOT / "cpp" / "include" / "halfeven"
    rounding, quantize = (re.sub(r"//.*", "", (headers / name).read_text("utf-8")) for name in
                          ("rounding.hpp", "quantize.hpp"))  # fmt: skip
    assert "half_even(float x) { return nearbyintf(x); }" in rounding
    assert re.findall(r"\b(?:l|ll)?round[fl]?\s*\(|fesetround", rounding + quantize) == []


def test_the_glossary_has_the_words_of_precision() -> None:
    for page in ("docs/glossary.md", "docs/zh/glossary.md"):
        first = [line.split("|")[1] for line in text_of(page).splitlines() if line.startswith("| ")]
        for word in ("low precision", "regular precision", "mixed precision"):
            assert any(word in cell for cell in first), f"{page}: {word}"
