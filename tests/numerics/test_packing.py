"""Promised: packing 1 to 8 bits goes there and back, in both orders, and gives the bytes of ONNX's packed tensors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from halfeven.errors import BadOption
from halfeven.numerics.packing import Order, pack, pack_signs, packed_size, unpack, unpack_signs


@given(data=st.data(), bits=st.integers(1, 8), signed=st.booleans(), order=st.sampled_from(["low", "high"]))
def test_codes_survive_packing(data: st.DataObject, bits: int, signed: bool, order: Order) -> None:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    codes = np.array(data.draw(st.lists(st.integers(low, high), max_size=70)), np.int16)
    packed = pack(codes, bits, order)
    assert packed.dtype == np.uint8
    assert packed.size == packed_size(codes.size, bits) == -(-codes.size * bits // 8)
    again = unpack(packed, bits, codes.size, signed=signed, order=order)
    assert again.dtype == (np.int8 if signed else np.uint8)
    np.testing.assert_array_equal(again, codes)


@given(signs=st.lists(st.sampled_from([-1, 1]), max_size=70), order=st.sampled_from(["low", "high"]))
def test_signs_survive_packing(signs: list[int], order: Order) -> None:
    codes = np.array(signs, np.int8)
    packed = pack_signs(codes, order)
    assert packed.size == -(-len(signs) // 8)
    np.testing.assert_array_equal(unpack_signs(packed, codes.size, order), codes)


@pytest.mark.parametrize("name", ["INT4", "UINT4", "INT2", "UINT2"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 1000])
def test_the_bytes_are_those_of_onnx_tensors(name: str, count: int) -> None:
    bits, signed = int(name[-1]), name.startswith("I")
    rng = np.random.default_rng(count)
    codes = rng.integers(-(1 << (bits - 1)) * signed, 1 << (bits - signed), count).astype(np.int8)
    kind = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))
    tensor = numpy_helper.from_array(codes.astype(kind), "x")
    assert pack(codes, bits).tobytes() == tensor.raw_data
    theirs = np.frombuffer(tensor.raw_data, np.uint8)
    np.testing.assert_array_equal(unpack(theirs, bits, count, signed=signed), codes)


@pytest.mark.parametrize("name", ["FLOAT6E2M3", "FLOAT6E3M2", "FLOAT4E2M1"])
def test_the_bytes_of_float_codes_are_those_of_onnx_tensors(name: str) -> None:
    if not hasattr(TensorProto, name):
        pytest.skip("this onnx has no such type")
    kind = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))
    codes = np.random.default_rng(1).integers(0, 1 << int(name[5]), 97).astype(np.uint8)
    tensor = numpy_helper.from_array(codes.view(kind), "x")
    assert pack(codes, int(name[5])).tobytes() == tensor.raw_data


def test_both_orders_of_four_codes() -> None:
    assert pack(np.array([1, 2, 3, 0]), 2).tolist() == [0b00_11_10_01]
    assert pack(np.array([1, 2, 3, 0]), 2, "high").tolist() == [0b01_10_11_00]
    assert pack(np.array([0x1, -1]), 4).tolist() == [0xF1]
    assert pack(np.array([0x1, -1]), 4, "high").tolist() == [0x1F]
    assert pack(np.array([0b000001, 0b000011, 0b000111, 0b111111]), 6).tolist() == [
        0b11_000001,
        0b0111_0000,
        0b111111_00,
    ]
    assert pack_signs(np.array([1, -1, -1, 1, 1, -1, 1, 1, 1])).tolist() == [0b11011001, 1]


@pytest.mark.parametrize(("codes", "bits"), [([16], 4), ([-9], 4), ([-1, 8], 4), ([2], 1), ([-2], 1)])
def test_codes_that_do_not_fit_are_refused(codes: list[int], bits: int) -> None:
    with pytest.raises(BadOption, match=f"do not fit in {bits} bits"):
        pack(np.array(codes), bits)


def test_wrong_sizes_widths_and_orders_are_refused() -> None:
    with pytest.raises(BadOption, match="3 bytes found; 8 codes of 4 bits take 4"):
        unpack(np.zeros(3, np.uint8), 4, 8, signed=True)
    with pytest.raises(BadOption, match="bytes found; -1 codes"):
        unpack(np.zeros(0, np.uint8), 4, -1, signed=True)
    with pytest.raises(BadOption, match="9 bits asked for"):
        pack(np.zeros(1, np.int8), 9)
    with pytest.raises(BadOption, match="order 'middle'"):
        pack(np.zeros(1, np.int8), 4, "middle")  # type: ignore[arg-type]
