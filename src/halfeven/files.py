"""Writing files so that a cut, a full disk or Ctrl-C leaves the old file, never half a new one."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from halfeven.errors import BadOption


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to disk, then rename it over `path`.

    Raises:
        BadOption: the folder does not exist, cannot be written, or the disk is full; `path` is as it was.
    """
    path = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(prefix=".halfeven-", dir=path.parent)
    except OSError as error:
        raise BadOption(f"'{path}' cannot be written: {error.strerror}. Choose another folder with -o.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError):
            raise BadOption(f"'{path}' cannot be written: {error.strerror}. Nothing was changed.") from error
        raise


def write_text(path: Path, text: str) -> None:
    """`write_file` for UTF-8 text."""
    write_file(path, lambda file: file.write(text.encode("utf-8")))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
