"""The formats that a quantized network can leave in, by name.

An exporter is a function `(draft, path) -> notes`: it writes the calibrated draft to `path`, beside and then renamed,
and returns sentences for the user on what was converted, left in float or left out. It refuses, before writing, what
the format or its runtime cannot take. Modules are imported when their format is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from halfeven.draft import Draft
from halfeven.errors import BadOption

Exporter: TypeAlias = Callable[[Draft, Path], tuple[str, ...]]


@dataclass(frozen=True)
class Format:
    """A format: the suffix of its files, what it is, and where its exporter stands (`module:function`)."""

    suffix: str
    what: str
    home: str


FORMATS: dict[str, Format] = {
    "qdq": Format(".onnx", "ONNX with QuantizeLinear and DequantizeLinear", "halfeven.exporters.onnx:write_qdq"),
}


def exporter_named(name: str) -> Exporter:
    """The exporter of a format.

    Raises:
        BadOption: there is none; the message lists those there are.
    """
    if name not in FORMATS:
        raise BadOption(f"--format '{name}' is not known. Choose one of: {', '.join(FORMATS)}.")
    module, _, function = FORMATS[name].home.partition(":")
    exporter: Exporter = getattr(import_module(module), function)
    return exporter
