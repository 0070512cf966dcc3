"""Promised: without a runtime's package, opening a file for it says in one sentence what to install."""

import sys
from pathlib import Path

import pytest

from halfeven.errors import BadOption
from halfeven.run.executorch import open_executorch
from halfeven.run.ncnn import open_ncnn
from halfeven.run.openvino import open_openvino


@pytest.mark.parametrize(
    ("package", "opens"), [("executorch", open_executorch), ("ncnn", open_ncnn), ("openvino", open_openvino)]
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    package: str, opens: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadOption, match=rf"is not installed: pip install 'halfeven\[{package}\]'"):
        opens(tmp_path / "net")  # type: ignore[operator]
