"""Arrays in .npy and .npz files: the headers are read at once, the values when asked for.

    .npy                         memory-mapped
    .npz, member stored          memory-mapped inside the archive (np.savez)
    .npz, member compressed      unpacked: in memory up to 64 MiB, else to a temporary file which is memory-mapped

Nothing is unpickled. Before anything is allocated the length that the header claims is compared with the length that
the file has, and an array that unpacks to more than 8 GiB is refused.

Source: NumPy `numpy.lib.format` (NEP 1), PKWARE APPNOTE.TXT 4.3.7 for the local header of a zip member.
"""

import math
import mmap
import os
import shutil
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from halfeven.data.sample import Array
from halfeven.errors import BadCalibration

IN_MEMORY = 64 << 20
"""Bytes up to which a compressed array is unpacked in memory."""
ON_DISK = 8 << 30
"""Bytes up to which data are unpacked or spooled to a temporary file."""
_DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, struct.error)
_DAMAGED_ZIP = (*_DAMAGED, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Stored:
    """An array whose values are not read yet."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    open: Callable[[], Array]


@dataclass(frozen=True)
class _Header:
    """What precedes an array's values; `start` is where they begin, in bytes from the array's first byte."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    start: int


def in_memory(array: Array) -> Stored:
    """An array that is there already."""
    return Stored(array.dtype, array.shape, lambda: array)


def read_npy(path: Path) -> Stored:
    """The array of a .npy file.

    Raises:
        BadCalibration: not a .npy file, damaged, truncated, or it holds Python objects.
    """
    try:
        with path.open("rb") as stream:
            header = _header(stream, path.stat().st_size)
    except _DAMAGED as error:
        raise _damaged(path.name, error) from error
    return Stored(header.dtype, header.shape, lambda: _mapped(path, 0, header))


def read_npz(path: Path) -> Mapping[str, Stored]:
    """The arrays of a .npz file by key; arrays that cannot be read say so when opened.

    Raises:
        BadCalibration: not a zip file, or a member is damaged.
    """
    arrays: dict[str, Stored] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in (info for info in archive.infolist() if info.filename.endswith(".npy")):
                key = info.filename.removesuffix(".npy")
                with archive.open(info) as stream:
                    arrays[key] = _member(path, info, _header(stream, info.file_size))
    except _DAMAGED_ZIP as error:
        raise _damaged(path.name, error) from error
    return arrays


def _member(path: Path, info: zipfile.ZipInfo, header: _Header) -> Stored:
    def open_member() -> Array:
        try:
            if info.compress_type == zipfile.ZIP_STORED:
                return _mapped(path, _data_offset(path, info), header)
            return _unpacked(path, info, header)
        except _DAMAGED_ZIP as error:
            raise _damaged(f"{path.name}, array {info.filename!r}", error) from error

    return Stored(header.dtype, header.shape, open_member)


def _header(stream: IO[bytes], size: int) -> _Header:
    """Read a .npy header and compare the length that it claims with `size`, the bytes that are there.

    A dtype with Python objects is passed on, as an array that no input asks for may have one; `_mapped` refuses it.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version} is not that of a plain array")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    start = stream.tell()
    if not dtype.hasobject and start + math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"the header claims {dtype} {list(shape)}, the file has {size - start} bytes of values")
    return _Header(dtype, shape, fortran, start)


def _mapped(path: Path, start: int, header: _Header) -> Array:
    """Map an array whose first byte is byte `start` of the file."""
    if header.dtype.hasobject:
        raise holds_objects(path.name)
    if math.prod(header.shape) == 0:
        return np.empty(header.shape, header.dtype)
    order: Any = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", start + header.start, header.shape, order)


def let_go(array: Array) -> None:
    """Give the pages of a mapped array back to the system, which reads them again when they are asked for."""
    if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: after its local header, a name and an extra field."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        name, extra = struct.unpack("<26xHH", stream.read(30))
    return int(info.header_offset + 30 + name + extra)


def _unpacked(path: Path, info: zipfile.ZipInfo, header: _Header) -> Array:
    if header.dtype.hasobject:
        return _mapped(path, 0, header)
    if info.file_size > ON_DISK:
        raise ValueError(f"it unpacks to {info.file_size} bytes, more than {ON_DISK}")
    with zipfile.ZipFile(path) as archive, archive.open(info) as stream:
        if info.file_size <= IN_MEMORY:
            flat = np.frombuffer(stream.read(), header.dtype, math.prod(header.shape), header.start)
            return flat.reshape(header.shape, order="F" if header.fortran else "C")
        handle, name = tempfile.mkstemp(suffix=".npy")
        with os.fdopen(handle, "wb") as target:
            shutil.copyfileobj(stream, target, 1 << 20)
    array = _mapped(Path(name), 0, header)
    weakref.finalize(array, discard, name)
    return array


def holds_objects(what: str) -> BadCalibration:
    """The error for an array that only unpickling could read."""
    return BadCalibration(f"{what} holds Python objects, which are never loaded. Store arrays of numbers.")


def discard(path: str) -> None:
    """Delete a temporary file; one that is still mapped (Windows) is left to the system."""
    with suppress(OSError):
        os.unlink(path)


def _damaged(what: str, error: BaseException) -> BadCalibration:
    if isinstance(error, FileNotFoundError):
        return BadCalibration(f"{what} does not exist.")
    return BadCalibration(f"{what} cannot be read as arrays ({error}). Write it with numpy.save or numpy.savez.")
