"""A file is written whole or not at all, and nothing is left beside it."""

import os
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from halfeven.errors import BadOption
from halfeven.files import write_file, write_text


def _names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_text(path, "old")
    write_text(path, "größer")
    assert path.read_bytes() == "größer".encode()
    assert _names(tmp_path) == ["out.json"]


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no")])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise fault

    with pytest.raises(BadOption if isinstance(fault, OSError) else type(fault)) as caught:
        write_file(path, write)
    if isinstance(fault, OSError):
        assert "cannot be written: No space left on device" in str(caught.value)
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["out.json"]


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"'.*out.json' cannot be written: No such file"):
        write_text(tmp_path / "none" / "out.json", "text")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BadOption, match="cannot be written"):
        write_text(tmp_path / "out", "text")
    assert _names(tmp_path) == ["out"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "out.json", "text")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="paths are shorter there")
def test_a_name_as_long_as_the_system_allows_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    write_text(path, "text")
    assert path.read_text() == "text"
