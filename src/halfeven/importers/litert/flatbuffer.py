"""Reading flatbuffers that nobody has vouched for: every offset and length is checked before it is used.

    file      uint32: where the root table begins; then the four letters of the file's kind
    table     int32 d at p; its vtable begins at p - d
    vtable    uint16: its own bytes; uint16: the table's; then a uint16 for each field: its place from p, 0: absent
    field     a number where it stands; of a table, vector or text a uint32: how far on from here that begins
    vector    uint32: how many; then numbers, or for tables and texts a uint32 each, as in a field
    text      a vector of bytes, UTF-8

All is little-endian. An offset may point anywhere, so that a file of a few kilobytes could name the same long vector a
thousand times; together the vectors read may therefore have no more bytes than `GENEROSITY` files. Nothing is read that
was not asked for and tables are followed along paths that the caller writes, so there is no recursion to bound.
Source: flatbuffers.dev, "FlatBuffer Internals".
"""

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from halfeven.errors import UnsupportedModel

GENEROSITY = 4
"""How often over the bytes of a file may be read: writers share a vector now and then."""
_SIZES = {"b": 1, "B": 1, "?": 1, "h": 2, "H": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8}


@dataclass(eq=False)
class Source:
    """The bytes of a file, what to call it, and how many bytes of vectors may still be read."""

    data: memoryview
    where: str
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = GENEROSITY * len(self.data) + 4096

    def root(self) -> "Table":
        """The table that the file is.

        Raises:
            UnsupportedModel: there is none.
        """
        return Table(self, self.offset(0))

    def number(self, kind: str, at: int) -> int | float | bool:
        """The number of a struct `kind` at a byte.

        Raises:
            UnsupportedModel: that is not inside the file.
        """
        if not 0 <= at <= len(self.data) - _SIZES[kind]:
            raise self.damaged(f"byte {at} is asked for and there are {len(self.data)}")
        found: int | float | bool = struct.unpack_from("<" + kind, self.data, at)[0]
        return found

    def offset(self, at: int) -> int:
        """The byte that the offset at `at` points to."""
        return at + int(self.number("I", at))

    def vector(self, at: int, size: int) -> tuple[int, int]:
        """First byte and length of a vector at `at` whose elements have `size` bytes."""
        count = int(self.number("I", at))
        if count * size > len(self.data) - at - 4:
            raise self.damaged(f"a list of {count} elements at byte {at} runs over the end")
        self.left -= count * size
        if self.left < 0:
            raise self.damaged("its lists overlap")
        return at + 4, count

    def damaged(self, what: str) -> UnsupportedModel:
        """The error that says so."""
        return UnsupportedModel(f"{self.where} is damaged or truncated: {what}. Convert or download it again.")


@dataclass(frozen=True, eq=False)
class Table:
    """A table that begins at byte `at`. Fields are asked for by slot, their number in the schema from 0."""

    source: Source
    at: int

    def number(self, slot: int, kind: str, default: float = 0) -> int | float | bool:
        """A number of a struct kind: i, I, b, B, h, H, q, Q, f or ?; `default` where the table leaves it out."""
        place = self._place(slot)
        return default if place is None else self.source.number(kind, place)

    def integer(self, slot: int, kind: str = "i", default: int = 0) -> int:
        """A number of an integer kind."""
        return int(self.number(slot, kind, default))

    def table(self, slot: int) -> "Table | None":
        """A table, or None."""
        place = self._place(slot)
        return None if place is None else Table(self.source, self.source.offset(place))

    def tables(self, slot: int) -> list["Table"]:
        """The tables of a vector; none where it is left out."""
        start, count = self._vector(slot, 4)
        return [Table(self.source, self.source.offset(start + 4 * i)) for i in range(count)]

    def numbers(self, slot: int, dtype: str) -> npt.NDArray[np.generic]:
        """The numbers of a vector, a view of shape (count,)."""
        element = np.dtype(dtype)
        start, count = self._vector(slot, element.itemsize)
        return np.frombuffer(self.source.data, element, count, start)

    def integers(self, slot: int) -> tuple[int, ...]:
        """The numbers of a vector of int32."""
        return tuple(int(n) for n in self.numbers(slot, "<i4"))

    def text(self, slot: int) -> str:
        """A text; "" where it is left out, and a mark for bytes that are no UTF-8."""
        start, count = self._vector(slot, 1)
        return bytes(self.source.data[start : start + count]).decode("utf-8", "replace")

    def content(self, slot: int) -> memoryview:
        """The bytes of a vector, a view. They are not counted as read: tensors may share them."""
        left = self.source.left
        start, count = self._vector(slot, 1)
        self.source.left = left
        return self.source.data[start : start + count]

    def _vector(self, slot: int, size: int) -> tuple[int, int]:
        place = self._place(slot)
        return (0, 0) if place is None else self.source.vector(self.source.offset(place), size)

    def _place(self, slot: int) -> int | None:
        """The byte of a field; None where the table leaves it out."""
        layout = self.at - int(self.source.number("i", self.at))
        entry = 4 + 2 * slot
        if entry + 2 > int(self.source.number("H", layout)):
            return None
        distance = int(self.source.number("H", layout + entry))
        return self.at + distance if distance else None
