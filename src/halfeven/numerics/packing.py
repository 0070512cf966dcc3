"""Packing: codes of 1 to 8 bits, one after another in bytes.

    order     the codes a, b, c, d of 2 bits      the codes a, b of 4 bits     where
    low       d c b a  in one byte, high to low   b a                          ONNX int2, int4; bitsandbytes has `high`
    high      a b c d                             a b

`low` fills a byte from its lowest bit, and what does not fit goes on in the lowest bits of the next: four 6-bit codes
are three bytes. `high` fills from the highest bit. The last byte is padded with zeros. Signed codes are their lowest
bits in two's complement. A tensor is packed flat, in C order; its shape is kept elsewhere.

    codes      1 bit                 2 bits                4 bits                6 bits
    bytes      ceil(n / 8)           ceil(n / 4)           ceil(n / 2)           ceil(6 n / 8)

Source: ONNX IR specification, "Tensor definition" (packed types), equal byte for byte (tests).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption

Order = Literal["low", "high"]
Bytes = npt.NDArray[np.uint8]


def packed_size(count: int, bits: int) -> int:
    """The number of bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)


def pack(codes: npt.NDArray[np.integer], bits: int, order: Order = "low") -> Bytes:
    """The bytes of `codes`, flat, shape (packed_size(codes.size, bits),).

    Raises:
        BadOption: a width that is not 1 to 8, or a code that does not fit in it, signed or unsigned.
    """
    _check(bits, order)
    flat = codes.astype(np.int64).ravel()
    if flat.size:
        low, high = int(flat.min()), int(flat.max())
        if low < -(1 << (bits - 1)) or high >= 1 << (bits if low >= 0 else bits - 1):
            raise BadOption(f"pack: codes from {low} to {high} do not fit in {bits} bits.")
    mask = (flat & ((1 << bits) - 1)).astype(np.uint8)
    columns = np.arange(bits) if order == "low" else np.arange(bits)[::-1]
    stream = (mask[:, None] >> columns.astype(np.uint8)) & np.uint8(1)
    return np.packbits(stream.ravel(), bitorder="little" if order == "low" else "big")


def unpack(data: Bytes, bits: int, count: int, *, signed: bool, order: Order = "low") -> npt.NDArray[np.integer]:
    """`count` codes, int8 if `signed` and else uint8, shape (count,): the inverse of `pack`.

    Raises:
        BadOption: a width that is not 1 to 8, or bytes that are not packed_size(count, bits).
    """
    _check(bits, order)
    if count < 0 or data.size != packed_size(count, bits):
        raise BadOption(
            f"unpack: {data.size} bytes found; {count} codes of {bits} bits take {packed_size(count, bits)}."
        )
    stream = np.unpackbits(data.ravel(), count=count * bits, bitorder="little" if order == "low" else "big")
    columns = np.arange(bits) if order == "low" else np.arange(bits)[::-1]
    codes = (stream.reshape(count, bits).astype(np.int16) << columns.astype(np.int16)).sum(1, dtype=np.int16)
    wrapped = codes - ((codes >> (bits - 1)) << bits) if signed else codes
    result: npt.NDArray[np.integer] = wrapped.astype(np.int8 if signed else np.uint8)
    return result


def pack_signs(codes: npt.NDArray[np.integer], order: Order = "low") -> Bytes:
    """Binary codes as bits: 1 for the code 1, 0 for -1."""
    return pack((codes > 0).astype(np.uint8), 1, order)


def unpack_signs(data: Bytes, count: int, order: Order = "low") -> npt.NDArray[np.int8]:
    """`count` binary codes, -1 or 1, shape (count,): the inverse of `pack_signs`."""
    return (2 * unpack(data, 1, count, signed=False, order=order).astype(np.int8) - 1).astype(np.int8)


def _check(bits: int, order: str) -> None:
    if not 1 <= bits <= 8:
        raise BadOption(f"Packing: {bits} bits asked for; codes of 1 to 8 bits are packed.")
    if order not in ("low", "high"):
        raise BadOption(f"Packing: order '{order}' asked for; there are low and high.")
