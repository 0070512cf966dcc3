"""Promised: imports point downwards, third parties enter by few doors, importing is light, tables hold no code, and
the public names are these.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from halfeven import errors

PACKAGE = Path(errors.__file__).parent
ROOT = Path(__file__).parents[1]
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    {"deferred", "errors", "memory", "version", "wording"},
    {"files", "numerics"},
    {"stats", "graph", "data"},
    {"targets"},
    {"draft"},
    {"run", "training"},
    {"steps", "exporters", "importers"},
    {"report"},
    {"options", "feeding", "result"},
    {"api", "deployment"},
    {"qat"},
    {"ready_loop", "bit_search"},
    {"halfeven", "demo"},
    {
        "arguments",
        "cli",
        "commands",
        "completions",
        "conforming",
        "deploying",
        "training_run",
        "searching",
        "number",
        "plotting",
        "printing",
        "progress",
        "__main__",
    },
)
HEIGHTS = {name: height for height, names in enumerate(LAYERS) for name in names}
DOORS = {
    "PIL": r"data/\w+\.py",
    "halfeven.numerics._native": r"numerics/native\.py",
    "numpy": r"(?!deferred|errors|version|wording|arguments|cli|commands|completions|conforming|deploying|number\.|plotting|printing|progress|searching|__init__|__main__).*",
    "ai_edge_litert": r"run/litert\.py",
    "executorch": r"run/executorch\w*\.py",
    "flatbuffers": r"(exporters|importers)/litert/\w+\.py",
    "matplotlib": r"report/plots_canvas\.py",
    "MNN": r"run/mnn\.py",
    "ncnn": r"run/ncnn\.py",
    "onnx": r"(graph|run|exporters|importers|training)/(\w+/)?\w+\.py",
    "onnx_ir": r"(graph|run|steps|exporters|importers|report|training)/(\w+/)?\w+\.py|(draft|feeding|api|deployment|qat|result|targets/check)\.py",
    "openvino": r"run/openvino\.py",
    "tflite_micro": r"run/tflite_micro\.py",
    "onnxruntime": r"run/ort\.py",
    "onnxscript": r"run/torch\w*\.py",
    "rich": r"(printing|progress)\.py",
    "threadpoolctl": r"run/samples\.py",
    "torch": r"run/(torch\w*|executorch)\.py|training/pytorch\.py",
}
INSIDE_FUNCTIONS = {
    "MNN",
    "PIL",
    "ai_edge_litert",
    "executorch",
    "matplotlib",
    "ncnn",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "tflite_micro",
    "torch",
}
AT_IMPORT = {"training/pytorch.py": {"torch"}}  # its package is nothing without it, and loaded only when asked for
LONGEST = 350
LONGER: dict[str, str] = {}  # path -> why it may be longer
VAGUE = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
PUBLIC = {
    *(
        "quantize",
        "calibrate",
        "inspect",
        "verify",
        "load",
        "export",
        "pipeline",
        "prepare",
        "restore",
        "train",
        "search",
        "compare",
        "conform",
        "open_quantized",
    ),
    *("Draft", "Plan", "Result", "Site", "Quantizer", "Scheme", "IntGrid", "QParams", "Rounding", "Target", "TARGETS"),
    *("__version__", "Record", "QuantError", "BadOption", "BadCalibration", "UnsupportedModel", "UnsupportedByTarget"),
    *("Simplify", "Trace", "Place", "Equalize", "Observe", "Calibrate", "Gptq"),
}
NEED_TORCH = {"FakeQuantizer"}  # public too, but not in __all__: a star import works without PyTorch
HEAVY = {"PIL", "numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "torch"}

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def layer(name: str) -> int:
    """The height of `halfeven.x.y`; `halfeven` itself, which gives the public names, stands above what it names."""
    return HEIGHTS[name.split(".")[1] if "." in name else name]


def module_name(path: Path) -> str:
    return ".".join(("halfeven", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported anywhere in a syntax tree; of `from halfeven import errors` it is the second."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            assert node.level == 0, f"imports are absolute, not as 'from .{module} import'"
            inner = HEIGHTS if module == "halfeven" else {"_native"}
            yield from (f"{module}.{alias.name}" if alias.name in inner else module for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: not in functions, nor for the type checker alone."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        else:
            waiting += ast.iter_child_nodes(node)


@each_module
def test_a_module_imports_from_its_own_package_and_from_below_only(path: Path) -> None:
    own = module_name(path)
    for name in imports(syntax(path)):
        if name.split(".")[0] == "halfeven" and name.split(".")[:2] != own.split(".")[:2]:
            assert layer(name) < layer(own) or layer(own) == len(LAYERS) - 1, f"{own} imports {name}"
            if own.startswith("halfeven.data"):
                assert name.split(".")[1] in ("errors", "numerics"), f"{own} imports {name}"


@each_module
def test_third_parties_enter_by_their_doors_only(path: Path) -> None:
    tree, where = syntax(path), path.relative_to(PACKAGE).as_posix()
    for name in imports(tree):
        door = name if name in DOORS else name.split(".")[0]
        if door != "halfeven" and door not in sys.stdlib_module_names:
            assert door in DOORS, f"{where} imports {name}, which has no door"
            assert re.fullmatch(DOORS[door], where), f"{where} imports {name}"
    outside = INSIDE_FUNCTIONS - AT_IMPORT.get(where, set())
    assert outside.isdisjoint(name.split(".")[0] for name in at_import(tree))


@each_module
def test_a_module_is_short_and_has_the_name_of_a_subject(path: Path) -> None:
    where = path.relative_to(PACKAGE).as_posix()
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST or where in LONGER
    assert VAGUE.isdisjoint(path.relative_to(PACKAGE).with_suffix("").parts)


@each_module
def test_only_the_command_line_prints(path: Path) -> None:
    if path.relative_to(PACKAGE).with_suffix("").as_posix() not in LAYERS[-1]:
        calls = [node.func for node in ast.walk(syntax(path)) if isinstance(node, ast.Call)]
        assert "print" not in [call.id for call in calls if isinstance(call, ast.Name)]


TABLES = sorted(p for p in (PACKAGE / "targets").glob("*.py") if p.name not in ("__init__.py", "check.py", "target.py"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_target_is_a_table_without_code(path: Path) -> None:
    code = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If | ast.For | ast.While | ast.Try | ast.Match
    assert not [ast.unparse(node) for node in ast.walk(syntax(path)) if isinstance(node, code)]


def loaded_by(program: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after `program`."""
    end = "\nimport sys; print('loaded:', *{name.split('.')[0] for name in sys.modules}, flush=True)"
    done = subprocess.run([sys.executable, "-c", program + end], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stdout.splitlines()[-1].split())


def test_importing_halfeven_loads_no_library() -> None:
    assert loaded_by("import halfeven") == set()


def test_showing_help_loads_no_numerical_library() -> None:
    program = "import sys; sys.argv = ['halfeven', '--help']\nfrom halfeven.cli import main\ntry: main()\n"
    assert loaded_by(program + "except SystemExit: pass") <= {"rich"}


def test_the_public_names_are_these_and_each_resolves() -> None:
    import halfeven

    assert set(halfeven.__all__) == PUBLIC
    assert all(getattr(halfeven, name) is not None for name in halfeven.__all__)
    assert set(halfeven._HOME) - PUBLIC == NEED_TORCH


def test_no_file_tells_of_the_machine_it_was_made_on() -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    words = re.compile("|".join(("(?i:sub" + "agent)", "/work" + "/", r"\." + "library")).encode())
    paths = [ROOT / name.decode() for name in files.split(b"\0") if name]
    assert [str(path) for path in paths if path.is_file() and words.search(path.read_bytes())] == []
