"""The pieces of TNN's two files: lines of text, and weights as bytes. `halfeven.run.tnn_file` describes the files.

Arrays are written without their axes, as every TNN reads them; with them (0xFABC0004, TNN of 2021 and later) where TNN
could not tell the axes by itself: the weights of a MatMul, and operands that are neither one number nor one for each
channel. Scales are written alone, without zero points, which TNN then takes as zero. Numbers in the text have nine
digits, which hold a float32.
"""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfeven.graph.edit import unused
from halfeven.run.tnn_file import FLOAT, INT8, INT32, SCALE_OF, VERSION, WITH_AXES, Layer

Array = npt.NDArray[np.generic]
Param = int | float | str
LARGEST = 3.40282347e38  # of float32
NAME_BYTES = 120  # so that a line of thirty names is read whole
_CODES = {np.dtype(np.float32): FLOAT, np.dtype(np.int8): INT8, np.dtype(np.int32): INT32}


@dataclass(frozen=True)
class Made:
    """A layer of the file and what stands for it in the .tnnmodel file, if it has weights."""

    layer: Layer
    weights: bytes | None = None


def word(value: Param) -> str:
    """A parameter's text."""
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, (int, np.integer)) else f"{np.float32(value):.9g}"


def integer(value: int) -> bytes:
    """Four bytes."""
    return struct.pack("<i", value)


def string(text: str) -> bytes:
    """A name behind its length."""
    data = text.encode()
    return integer(len(data)) + data


def raw(values: npt.ArrayLike, *, axes: bool = False) -> bytes:
    """An array of float32, int8 or int32; other floats become float32."""
    data = np.asarray(values)
    if data.dtype not in _CODES:
        data = data.astype(np.float32)
    held = np.ascontiguousarray(data, data.dtype.newbyteorder("<")).tobytes()
    dims = b"".join(map(integer, (data.ndim, *data.shape))) if axes and held else b""
    head = struct.pack("<Iii", WITH_AXES if axes else VERSION, _CODES[data.dtype], len(held))
    return head + dims + held


def safe_name(name: str, taken: set[str]) -> str:
    """A name without what splits TNN's lines, not taken yet; it is taken now."""
    plain = re.sub(r'[\s,:"]', "_", name).replace(SCALE_OF, SCALE_OF[:-1])
    stem = plain.encode()[:NAME_BYTES].decode(errors="ignore") or "unnamed"
    return unused(stem, taken)


def proto_text(inputs: Mapping[str, Sequence[int]], outputs: Sequence[str], layers: Sequence[Layer]) -> str:
    """The .tnnproto file."""
    blobs = sorted({name for layer in layers for name in (*layer.inputs, *layer.outputs)})
    fed = " : ".join(" ".join([name, *map(str, dims)]) for name, dims in inputs.items())
    lines = [f"1 {len(blobs)} 1 {VERSION}", fed, " " + " ".join(blobs), " ".join(outputs), f" {len(layers)}"]
    return "".join(f'"{line} ,"\n' for line in (*lines, *map(line_of, layers)))


def line_of(layer: Layer) -> str:
    """A layer's line, without quotes and the comma."""
    counts = (str(len(layer.inputs)), str(len(layer.outputs)))
    return " ".join([layer.kind, layer.name, *counts, *layer.inputs, *layer.outputs, *layer.params])


def model_bytes(made: Iterable[Made], scales: Mapping[str, float]) -> list[bytes]:
    """The .tnnmodel file in pieces: before each layer the scales of what it reads, behind it those of what it makes."""
    pieces: dict[str, bytes] = {}

    def scale(blob: str) -> None:
        if blob in scales:
            name = blob + SCALE_OF
            held = raw(np.array([scales[blob]], np.float32)) + raw(np.zeros(1, np.int32))
            pieces.setdefault(name, integer(0) + string("BlobScale") + string(name) + held)

    for one in made:
        for blob in one.layer.inputs if one.layer.quantized else ():
            scale(blob)
        if one.weights is not None:
            pieces[one.layer.name] = integer(0) + string(one.layer.kind) + string(one.layer.name) + one.weights
        for blob in one.layer.outputs if one.layer.quantized else ():
            scale(blob)
    return [struct.pack("<Ii", VERSION, len(pieces)), *pieces.values()]
