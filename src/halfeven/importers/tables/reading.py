"""Reading tables that others wrote: JSON without surprises, numbers that are numbers, and one sentence for a fault.

A file is data: no code comes from it, its size is looked at before it is read, and what stands in it is checked before
it is used. NaN, infinities, numbers beyond float32, texts where numbers belong, keys that stand twice, and nesting
deeper than Python reads are refused. A fault's sentence names the file and the entry.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from halfeven.errors import BadOption, QuantError
from halfeven.importers.formats import LARGEST_TABLE

LARGEST_FLOAT = float(np.finfo(np.float32).max)


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises BadOption: it cannot be read, or is far too large for a table."""
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise BadOption(f"'{path}' is too large for a table of scales ({path.stat().st_size} bytes).")
        return path.read_bytes()
    except OSError as error:
        raise BadOption(f"'{path}' cannot be read: {error.strerror or error}.") from error


def read_text(path: Path) -> str:
    """A file's UTF-8 text, without the mark that may stand before it. Raises BadOption: it is none."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadOption(f"'{path}' is no table: text was expected, and byte {error.start} is none.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises BadOption: there is none."""
    try:
        data = json.loads(read_text(path), parse_constant=_no_number, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise BadOption(f"'{path}' cannot be read: JSON was expected, but {error}.") from error
    if not isinstance(data, dict):
        raise BadOption(f"'{path}' is no table: a JSON object was expected, found {data!r:.40}.")
    return data


@contextmanager
def entry(path: Path, name: object) -> Iterator[None]:
    """Let what fails inside be a fault of one entry of a file."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, IndexError, BadOption) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise BadOption(f"'{path}', entry {str(name)!r:.80}: {why}.") from error
    except RecursionError as error:
        raise BadOption(f"'{path}', entry {str(name)!r:.80}: it is nested too deep.") from error
    except QuantError as error:
        raise type(error)(f"'{path}': {error}") from error


def items(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object inside an object."""
    found = data[key]
    if not isinstance(found, dict):
        raise TypeError(f"{key}: an object was expected, found {found!r:.40}")
    return found


def listed(data: Mapping[str, Any], key: str) -> list[Any]:
    """A list inside an object."""
    found = data[key]
    if not isinstance(found, list):
        raise TypeError(f"{key}: a list was expected, found {found!r:.40}")
    return found


def text(value: Any, what: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise TypeError(f"{what}: a text was expected, found {value!r:.40}")
    return value


def truth(value: Any, what: str) -> bool:
    """True or false, or the text of it, as AIMET has it."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise TypeError(f"{what}: true or false was expected, found {value!r:.40}")
    return value


def number(value: Any, what: str) -> float:
    """A finite number within float32."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what}: a number was expected, found {value!r:.40}")
    if not (math.isfinite(value) and abs(value) <= LARGEST_FLOAT):
        raise ValueError(f"{what}: a finite float32 was expected, found {value!r:.40}")
    return float(value)


def whole(value: Any, what: str, low: int = -(2**31), high: int = 2**31 - 1) -> int:
    """A whole number of a range; 3.0 is one."""
    found = number(value, what)
    if found != math.floor(found) or not low <= found <= high:
        raise ValueError(f"{what}: a whole number from {low} to {high} was expected, found {value!r:.40}")
    return int(found)


def scale(value: Any, what: str = "scale") -> float:
    """A positive float32, from a decimal number near one."""
    found = float(np.float32(number(value, what)))
    if found <= 0:
        raise ValueError(f"{what}: a scale is positive, found {value!r:.40}")
    return found


def flat(value: Any) -> Sequence[Any]:
    """One value as a list of one; nested lists as one list, in order."""
    if not isinstance(value, list):
        return [value]
    return [one for inner in value for one in (flat(inner) if isinstance(inner, list) else [inner])]


def _no_number(found: str) -> float:
    raise ValueError(f"{found} stands where a number belongs")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key in found if sum(key == k for k, _ in pairs) > 1)
        raise ValueError(f"{twice!r:.80} stands twice")
    return found
