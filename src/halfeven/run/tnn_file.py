"""The two files of a TNN network, and their reader: layers in text, their weights and scales in binary.

    .tnnproto   "1 BLOBS 1 4206624770 ,"                      counts and the version, 0xFABC0002
                "NAME D0 D1 .. : NAME D0 .. ,"                inputs, with the lengths of their axes
                " BLOB BLOB .. ,"                             all blobs; TNN does not read this line
                "NAME NAME .. ,"                              outputs
                " LAYERS ,"                                   how many lines follow
                "TYPE NAME INPUTS OUTPUTS IN.. OUT.. PARAM.. ,"     a layer; its parameters by their place

TNN drops quotes and line breaks, and splits at commas, then at spaces; of what stands between two commas it reads 4095
bytes. A layer whose type begins with `Quantized` has int8 codes in and out.

    .tnnmodel   u32 0xFABC0002                                the version
                i32 COUNT                                     resources
                i32 0, string TYPE, string NAME, contents     each resource

    string      i32 length, bytes
    raw         u32 0xFABC0002, i32 type, i32 bytes, data     type: 0 float32, 1 float16, 2 int8, 3 int32, 4 bfloat16
                u32 0xFABC0004, i32 type, i32 bytes, i32 rank, i32 lengths.., data         the same with its axes
                of no bytes: nothing behind the length

All is little-endian. What a resource holds depends on its type, and on whether its first raw is of int8:

    Convolution, Deconvolution     string name, i32 has_bias, raw weights, raw bias if it has one, SCALE if int8
    InnerProduct                   string name, raw weights (out, in), raw bias, SCALE if int8
    BlobScale                      SCALE, raw bias (zeros); its name is that of a blob and `_scale_data_` behind it
    Add Sub Mul Div Maximum ..     raw the constant operand
    MatMul                         raw weights with axes
    BatchNormCxx                   raw factors, raw summands
    PReLU                          string name, raw slopes
    SCALE                          raw float32 scales; before it, in files of newer tools, raw int8 zero points

    codes (out, in / groups, kh, kw)    int8, real = code * scale of the channel
    scale of a layer                    f32(scale of what it reads * scale of its weights), one for each output channel
    bias of an int8 layer               int32 at that scale
    scale of a blob                     real = code * scale

Sources: TNN source/tnn/interpreter/tnn/objseri.h, model_interpreter.cc, model_packer.cc, layer_interpreter/*.cc;
utils/split_utils.cc; tools/quantization/calibration.cc (github.com/Tencent/TNN, as of 2023).
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption, UnsupportedModel

Array = npt.NDArray[np.generic]
VERSION, WITH_AXES = 0xFABC0002, 0xFABC0004
SUFFIX = ".tnnmodel"
SCALE_OF = "_scale_data_"
QUANTIZED = "Quantized"
LONGEST_LINE = 4095
LARGEST_TEXT = 1 << 26
MOST_LAYERS = 10000  # TNN refuses more resources
TYPES: Mapping[int, str] = {0: "<f4", 1: "<f2", 2: "<i1", 3: "<i4", 4: "<u2"}
FLOAT, INT8, INT32 = 0, 2, 3
BINARY = ("Add", "Sub", "Mul", "Div", "Maximum", "Minimum")


@dataclass(frozen=True)
class Layer:
    """A line of the .tnnproto file."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...] = ()

    @property
    def quantized(self) -> bool:
        """Whether it has codes in and out."""
        return self.kind.startswith(QUANTIZED)


@dataclass(frozen=True)
class Weights:
    """What a resource holds: `values` are codes where `scale` is there; `zero_points` where the file has them."""

    values: Array
    bias: Array | None = None
    scale: Array | None = None
    zero_points: Array | None = None


@dataclass(frozen=True)
class TnnNetwork:
    """A network as its files say: `weights` by the names of layers, `scales` by those of blobs."""

    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    weights: Mapping[str, Weights] = field(default_factory=dict)
    scales: Mapping[str, Weights] = field(default_factory=dict)


def read_tnn(path: str | Path) -> TnnNetwork:
    """The network of a .tnnproto file and the .tnnmodel file beside it.

    Raises:
        BadOption: one of the files is not there or cannot be read.
        UnsupportedModel: a file is damaged, or is none of TNN's.
    """
    proto = Path(path)
    inputs, outputs, layers = _proto(_bytes(proto, LARGEST_TEXT), proto)
    model = proto.with_suffix(SUFFIX)
    found = _Model(model, _bytes(model)).resources()
    scales = {name.removesuffix(SCALE_OF): held for name, (kind, held) in found.items() if kind == "BlobScale"}
    weights = {name: held for name, (kind, held) in found.items() if kind != "BlobScale"}
    return TnnNetwork(inputs, outputs, layers, weights, scales)


def _bytes(path: Path, most: int | None = None) -> bytes:
    try:
        if most is not None and path.stat().st_size > most:
            raise UnsupportedModel(f"'{path}' has {path.stat().st_size} bytes: no .tnnproto file is that large.")
        return path.read_bytes()
    except OSError as error:
        raise BadOption(
            f"'{path}' cannot be read: {error.strerror or error}. A TNN network is a .tnnproto file and a .tnnmodel "
            "file beside it."
        ) from error


# --------------------------------------------------------------------------------------------------- text


def _proto(content: bytes, path: Path) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...], tuple[Layer, ...]]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnsupportedModel(f"'{path}' is no .tnnproto file: byte {error.start} of it is no text.") from error
    parts = [part.split() for part in re.sub(r'["\r\n]', "", text).split(",")]
    if len(parts) < 7 or len(parts[0]) != 4 or parts[0][3] not in (str(VERSION), str(WITH_AXES)):
        raise UnsupportedModel(f"'{path}' is no .tnnproto file: its first line does not end in the version of one.")
    lines = [part for part in parts[5:] if part]
    if parts[4] != [str(len(lines))]:
        raise UnsupportedModel(f"'{path}' is no whole .tnnproto file: it has {len(lines)} layers, not {parts[4]}.")
    try:
        return _inputs(parts[1], parts[0][3] == str(WITH_AXES)), tuple(parts[3]), tuple(map(_layer, lines))
    except (ValueError, IndexError) as error:
        raise UnsupportedModel(f"'{path}' is no whole .tnnproto file: {error}.") from error


def _inputs(words: list[str], ranked: bool) -> dict[str, tuple[int, ...]]:
    """Names and lengths; with `ranked` (a newer version) a rank stands before the lengths, a type behind them."""
    found: dict[str, tuple[int, ...]] = {}
    for name, *numbers in (part.split() for part in " ".join(words).split(":")):
        found[name] = tuple(int(n) for n in (numbers[1:-1] if ranked else numbers))
    return found


def _layer(words: list[str]) -> Layer:
    if len(words) < 4 or not (words[2].isdigit() and words[3].isdigit()):
        raise ValueError(f"the layer {' '.join(words)[:80]!r} does not say how many blobs it reads and makes")
    reads, makes = int(words[2]), int(words[3])
    rest = words[4:]
    if len(rest) < reads + makes:
        raise ValueError(f"the layer '{words[1]}' names fewer blobs than it says")
    made = tuple(rest[reads : reads + makes])
    return Layer(words[0], words[1], tuple(rest[:reads]), made, tuple(rest[reads + makes :]))


# ------------------------------------------------------------------------------------------------- binary


@dataclass
class _Model:
    """Reads a .tnnmodel file from its beginning; every length is held against what is left of it."""

    path: Path
    content: bytes
    at: int = 0

    def resources(self) -> dict[str, tuple[str, Weights]]:
        """What it holds, by name."""
        if self.integer() & 0xFFFFFFFF not in (VERSION, WITH_AXES):
            raise UnsupportedModel(f"'{self.path}' is no .tnnmodel file: it does not begin with the version of one.")
        count = self.integer()
        if not 0 <= count < MOST_LAYERS:
            raise self.broken(f"it says that it holds {count} resources")
        found: dict[str, tuple[str, Weights]] = {}
        for _ in range(count):
            self.integer()
            kind, name = self.text(), self.text()
            if name in found:
                raise self.broken(f"'{name}' stands twice")
            found[name] = kind, self.weights(kind.removeprefix(QUANTIZED))
        return found

    def weights(self, kind: str) -> Weights:
        """The contents of a resource."""
        match kind:
            case "Convolution" | "Deconvolution":
                self.text()
                biased = self.integer()
                values = self.raw()
                bias = self.raw() if biased else None
                return Weights(values, bias, *self.scale()) if values.dtype == np.int8 else Weights(values, bias)
            case "InnerProduct":
                self.text()
                values, bias = self.raw(), self.raw()
                return Weights(values, bias, *self.scale()) if values.dtype == np.int8 else Weights(values, bias)
            case "BlobScale":
                scale, zero_points = self.scale()
                return Weights(scale, self.raw(), scale, zero_points)
            case "BatchNormCxx":
                return Weights(self.raw(), self.raw())
            case "PReLU":
                self.text()
        if kind in (*BINARY, "MatMul", "PReLU"):
            return Weights(self.raw())
        raise UnsupportedModel(f"'{self.path}' holds weights of a '{kind[:40]}', whose layout is not known here.")

    def scale(self) -> tuple[Array, Array | None]:
        """Scales, and the zero points that may stand before them."""
        first = self.raw()
        zero_points = first if first.dtype == np.int8 else None
        scale = self.raw() if zero_points is not None else first
        if scale.dtype != np.float32 or not np.isfinite(scale).all():
            raise self.broken("its scales are no float32 numbers")
        return scale, zero_points

    def raw(self) -> Array:
        """An array; flat where the file does not say its axes."""
        version, kind, length = self.integer() & 0xFFFFFFFF, self.integer(), self.integer()
        if version not in (VERSION, WITH_AXES) or kind not in TYPES or length < 0:
            raise self.broken(f"no array begins at byte {self.at - 12}")
        dtype = np.dtype(TYPES[kind])
        dims: list[int] | None = None
        if length and version == WITH_AXES:
            rank = self.integer()
            dims = [self.integer() for _ in range(rank)] if 0 <= rank <= 8 else [-1]
        data = np.frombuffer(self.take(length), np.uint8)
        if length % dtype.itemsize or (dims is not None and prod(dims) * dtype.itemsize != length):
            raise self.broken(f"an array of {length} bytes is not of {dtype} numbers or of axes {dims}")
        found = data.view(dtype)
        return found if dims is None else found.reshape(dims)

    def integer(self) -> int:
        """Four bytes, signed."""
        return int(struct.unpack("<i", self.take(4))[0])

    def text(self) -> str:
        """A name."""
        return self.take(self.integer()).decode("utf-8", "replace")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if not 0 <= count <= len(self.content) - self.at:
            raise self.broken(f"{count} bytes were expected at byte {self.at} of {len(self.content)}")
        self.at += count
        return self.content[self.at - count : self.at]

    def broken(self, why: str) -> UnsupportedModel:
        """The error of a file that does not hold what it says."""
        return UnsupportedModel(f"'{self.path}' is no whole .tnnmodel file: {why}.")
