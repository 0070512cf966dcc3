"""Grids: which codes exist.

    grid                low     high    levels   dtype    ONNX element type
    IntGrid(8)         -128      127       256   int8     INT8
    IntGrid(8, narrow)  -127     127       255   int8     INT8
    UINT8                  0     255       256   uint8    UINT8
    IntGrid(16)      -32768    32767     65536   int16    INT16
    IntGrid(32)       -2^31   2^31-1      2^32   int32    INT32
    IntGrid(4)           -8        7        16   int8     INT4 (packed on export)

A narrow grid drops the lowest code, so that a symmetric range maps to it exactly (TensorRT, ncnn, TFLite weights).

`Grid` is any of the grids there are: besides the integers those of `floats`, `logs`, `binary` and `codebook`. In JSON
an integer grid is its fields, any other has its kind beside them.
"""

from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption
from halfeven.numerics.binary import BinaryGrid, TernaryGrid
from halfeven.numerics.codebook import CodebookGrid
from halfeven.numerics.floats import FloatGrid, Specials
from halfeven.numerics.logs import LogGrid


@dataclass(frozen=True)
class IntGrid:
    """The integers `low..high`; value = (code - zero_point) * scale.

    Holds: 1 <= bits <= 32; low <= 0 <= high.
    """

    bits: int
    signed: bool = True
    narrow: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 32:
            raise BadOption(f"IntGrid: {self.bits} bits asked for; integers of 1 to 32 bits exist.")
        if self.narrow and self.bits == 1:
            raise BadOption("IntGrid: 1 bit and narrow leaves one code; use narrow=False.")
        if self.narrow and not self.signed:
            raise BadOption("IntGrid: narrow drops the lowest code, which in an unsigned grid is 0; use narrow=False.")

    @property
    def low(self) -> int:
        """The lowest code."""
        return (-(1 << (self.bits - 1)) if self.signed else 0) + self.narrow

    @property
    def high(self) -> int:
        """The highest code."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def dtype(self) -> np.dtype[np.signedinteger | np.unsignedinteger]:
        """The smallest NumPy integer that holds every code."""
        width = next(w for w in (8, 16, 32) if w >= self.bits)
        return np.dtype(f"{'' if self.signed else 'u'}int{width}")

    def __str__(self) -> str:
        """`int8`, `uint8`, `int8 narrow`."""
        return f"{'' if self.signed else 'u'}int{self.bits}{' narrow' if self.narrow else ''}"

    def clip(self, codes: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Saturate float codes; NaN goes to `low`, as in ONNX Runtime's kernels."""
        return np.where(np.isnan(codes), self.low, np.clip(codes, self.low, self.high)).astype(codes.dtype)


Grid: TypeAlias = IntGrid | FloatGrid | LogGrid | BinaryGrid | TernaryGrid | CodebookGrid

KINDS: dict[str, type[Grid]] = {
    "float": FloatGrid,
    "log": LogGrid,
    "binary": BinaryGrid,
    "ternary": TernaryGrid,
    "codebook": CodebookGrid,
}


def grid_to_json(grid: Grid) -> dict[str, Any]:
    """Plain values."""
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(grid).items()}
    kind = next((name for name, cls in KINDS.items() if type(grid) is cls), None)
    return fields if kind is None else {"kind": kind, **fields}


def grid_from_json(data: dict[str, Any]) -> Grid:
    """The inverse of `grid_to_json`.

    Raises:
        BadOption: a kind or a field that does not exist, or a grid that does not.
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    if kind is not None and kind not in KINDS:
        raise BadOption(
            f"There is no grid of kind {kind!r}. There are {', '.join(KINDS)}, and integers without a kind."
        )
    try:
        if "values" in fields:
            fields["values"] = tuple(float(v) for v in fields["values"])
        if "specials" in fields:
            fields["specials"] = Specials(fields["specials"])
        return IntGrid(**fields) if kind is None else KINDS[kind](**fields)
    except (TypeError, ValueError) as error:
        raise BadOption(f"A grid is malformed: {error}.") from error


INT8 = IntGrid(8)
UINT8 = IntGrid(8, signed=False)
INT8_NARROW = IntGrid(8, narrow=True)
INT16 = IntGrid(16)
INT32 = IntGrid(32)
