"""The two files of an ncnn network: layers in text, their weights in binary.

    .param    7767517                                the magic number
              layers blobs                           counts
              type name inputs outputs IN.. OUT.. KEY=VALUE..      a line for each layer, in order of computation
    .bin      the weights of the layers in that order, nothing between them

    KEY=VALUE    0=16             an integer
                 1=1.00000000e-05 a real number: a point or an exponent is in it
                 -23309=2,0,1     an array of key 9: -23300 - key, its length, its elements

    weights      plain      float32, as they are
                 tagged     4 bytes of 0, then float32             weights that could be of another type
                 codes      4 bytes 38 4b 0d 00, then int8, filled with zeros to a multiple of 4

All is little-endian. A blob has one reader: where there are more, a layer `Split` gives each its own. Nine significant
digits hold a float32, and ncnn reads them back to the same bits. Names have no spaces and up to 255 bytes.
Sources: ncnn src/net.cpp, src/paramdict.cpp, src/modelbin.cpp (20261020).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.graph.edit import unused
from halfeven.numerics.conventions import Canonical, from_canonical
from halfeven.numerics.scheme import QParams

MAGIC = 7767517
INT8_TAG = 0x000D4B38
NAME_BYTES = 200  # a suffix fits behind it
Number: TypeAlias = int | float
Param: TypeAlias = Number | Sequence[Number]
Array: TypeAlias = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Layer:
    """A line of the .param file; `weights` are its bytes in the .bin file."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, Param] = field(default_factory=dict)
    weights: tuple[bytes, ...] = ()

    @property
    def line(self) -> str:
        """Its text."""
        counts = f"{len(self.inputs)} {len(self.outputs)}"
        words = [f"{self.kind:<24} {self.name:<24} {counts}", *self.inputs, *self.outputs]
        return " ".join([*words, *(_param(key, value) for key, value in self.params.items())])


def _param(key: int, value: Param) -> str:
    if isinstance(value, Sequence):
        return f"{-23300 - key}={','.join([str(len(value)), *map(_number, value)])}"
    return f"{key}={_number(value)}"


def _number(value: Number) -> str:
    return str(int(value)) if isinstance(value, (int, np.integer)) else f"{float(value):.8e}"


def plain(values: npt.ArrayLike) -> bytes:
    """Weights that are float32 always: biases, scales, the contents of a MemoryData."""
    return np.ascontiguousarray(values, "<f4").tobytes()


def tagged(values: npt.ArrayLike) -> bytes:
    """Float32 weights in a place where int8 could stand."""
    return bytes(4) + plain(values)


def codes(values: Array) -> bytes:
    """Int8 weights."""
    data = np.ascontiguousarray(values, np.int8).tobytes()
    return INT8_TAG.to_bytes(4, "little") + data + bytes(-len(data) % 4)


def reciprocals(params: QParams) -> npt.NDArray[np.float32]:
    """The scales of ncnn: what it multiplies by to get codes; flat."""
    fields = (from_canonical("ncnn", Canonical(float(s), 0, -127, 127), lossy=True) for s in params.scale.ravel())
    return np.array([f["scale"] for f in fields], np.float32)


def safe_name(name: str, taken: set[str]) -> str:
    """A name that ncnn can read, not taken yet; it is taken now."""
    stem = re.sub(r"\s", "_", name).encode()[:NAME_BYTES].decode(errors="ignore") or "unnamed"
    return unused(stem, taken)


def with_splits(layers: Sequence[Layer], outputs: Sequence[str]) -> list[Layer]:
    """The layers, with a Split behind each blob of several readers; an output counts as one and keeps its name."""
    names = {name for layer in layers for name in (layer.name, *layer.outputs)}
    readers = Counter(name for layer in layers for name in layer.inputs) + Counter(outputs)
    waiting: dict[str, list[str]] = {}
    made: list[Layer] = []
    for layer in layers:
        read = tuple(waiting[name].pop(0) if name in waiting else name for name in layer.inputs)
        shared = [name for name in layer.outputs if readers[name] > 1]
        tops = {name: safe_name(f"{name}_all", names) if layer.kind != "Input" else name for name in shared}
        made.append(replace(layer, inputs=read, outputs=tuple(tops.get(name, name) for name in layer.outputs)))
        for name in shared:
            copies = [safe_name(f"{name}_{i}", names) for i in range(readers[name] - (name in outputs))]
            own = [name] if name in outputs else []
            made.append(Layer("Split", safe_name(f"split_{name}", names), (tops[name],), (*own, *copies)))
            waiting[name] = copies
    return made


def param_text(layers: Sequence[Layer]) -> str:
    """The .param file."""
    blobs = sum(len(layer.outputs) for layer in layers)
    return "\n".join([str(MAGIC), f"{len(layers)} {blobs}", *(layer.line for layer in layers), ""])
