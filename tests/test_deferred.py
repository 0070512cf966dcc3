"""Promised: SymPy, which onnx-ir imports, is loaded when something uses it, and works then as ever."""

import subprocess
import sys

import pytest

PROGRAMS = {
    "onnx-ir alone does not load it": "assert not loaded()",
    "a named dimension does not load it": "d = ir.SymbolicDim('n'); assert d == ir.SymbolicDim('n'); assert not loaded()",
    "arithmetic on dimensions does": "assert str((ir.SymbolicDim('n') + 2).value) in ('n + 2', '2 + n'); assert loaded()",
    "an import of a name does": "from sympy import Max; assert Max(1, 2) == 2",
    "an import of all names does": "from sympy import *; assert Max(1, 2) == 2",
    "an import of a submodule does": "import sympy.core; assert sympy.core.__name__ == 'sympy.core'; sympy.Max",
    "an import from a submodule does": "from sympy.core.numbers import Integer; import sympy; assert sympy.Integer is Integer",
    "an attribute that is not there is missed": (
        "import sympy\ntry: sympy.no_such_thing\nexcept AttributeError: pass\nelse: raise SystemExit('found')"
    ),
    "it is a plain module once loaded": (
        "import sympy, importlib; sympy.Max; assert type(sympy) is type(sys)"
        "; assert sympy.__spec__.name == 'sympy'; assert sympy.__file__.endswith('__init__.py')"
    ),
    "those who look at all modules do not load it": (
        "import inspect; [hasattr(m, '__warningregistry__') for m in list(sys.modules.values())]"
        "; inspect.getmodule(print); assert not loaded()"
    ),
    "threads that ask at once all get it": (
        "from concurrent.futures import ThreadPoolExecutor as P; import sympy"
        "; assert len(set(P(8).map(lambda _: sympy.Max, range(8)))) == 1"
    ),
}
HEAD = "import sys, halfeven; import onnx_ir as ir\nloaded = lambda: 'sympy.core' in sys.modules\n"


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_sympy_waits_until_it_is_used(name: str) -> None:
    run(HEAD + PROGRAMS[name])


def test_the_commands_do_without_it() -> None:
    program = "import sys; from halfeven.cli import main\ntry: main(['inspect', '--help'])\nexcept SystemExit: pass\n"
    run(program + "assert 'onnx_ir' in sys.modules and 'sympy.core' not in sys.modules")


def test_others_get_sympy_as_ever() -> None:
    run(
        "import sys, halfeven, sympy\nassert 'sympy.core' in sys.modules\nimport onnx_ir\nassert type(sympy) is type(sys)"
    )
