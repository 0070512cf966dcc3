"""Promised: without PyTorch the rest works, and only a PyTorch model is refused, with what to install."""

import subprocess
import sys

import pytest

from halfeven.errors import BadOption
from halfeven.run.torch import from_module, is_module


def test_asking_whether_something_is_a_module_does_not_import_torch() -> None:
    program = "from halfeven.run.torch import is_module; import sys; print(is_module(1), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("absent", ["torch", "onnxscript"])
def test_a_module_without_its_packages_is_refused(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    assert not is_module(object())
    with pytest.raises(BadOption, match=r"need torch and onnxscript: pip install 'halfeven\[torch\]'"):
        from_module(object(), ())
