"""Promised: `halfeven number` shows a number in each format, reads patterns back, fits the terminal, has JSON, says what
is wrong in a sentence, and loads neither ONNX nor a runtime.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfeven.numerics.number import FORMATS, spell

Halfeven = Callable[..., Any]
PEERS = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float6e3m2": ml_dtypes.float6_e3m2fn,
    "float4e2m1": ml_dtypes.float4_e2m1fn,
}


def rows(halfeven: Halfeven, *words: str) -> dict[str, dict[str, Any]]:
    """The formats of the JSON report, by name."""
    ran = halfeven("number", *words, "--json")
    assert (ran.status, ran.err) == (0, "")
    return {row["format"]: row for row in json.loads(ran.out)["formats"]}


def test_a_number_in_every_float_format(halfeven: Halfeven) -> None:
    ran = halfeven("number", "123.45")
    assert (ran.status, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert "float32 123.45 -3.05e-06 123.44999 123.450005" in said
    assert "float16 123.4375 -0.0125 123.375 123.5" in said
    assert "float16 0x57B7 0 10101 1110110111 1.9287109375 * 2^6" in said
    assert "0x42F6E666" in said
    assert all(name in said for name in FORMATS)


@pytest.mark.parametrize("number", ["123.45", "-0.3", "1e-8", "0", "6.5", "-1e5", "3e38"])
def test_the_json_has_the_bits_of_numpy(halfeven: Halfeven, number: str) -> None:
    found = rows(halfeven, number)
    for name, kind in PEERS.items():
        with np.errstate(over="ignore"):
            value = np.float64(number).astype(kind)
        if np.isnan(value) or np.isinf(np.float64(value)):
            continue  # ours saturates
        width = np.dtype(kind).itemsize
        pattern = int(np.array(value).view(f"uint{8 * width}"))
        assert int(found[name]["hex"], 16) == pattern, name
        assert int(found[name]["bits"].replace(" ", ""), 2) == pattern
        assert found[name]["error"] == pytest.approx(float(Fraction(float(value)) - Fraction(number)), abs=1e-300)


@settings(max_examples=25)
@given(x=st.floats(allow_nan=False, allow_infinity=False))
def test_a_value_that_is_shown_reads_back_to_the_same_code(x: float) -> None:
    for row in spell(repr(x)):
        if row.value not in ("inf", "-inf", "nan"):
            assert {one.format: one.hex for one in spell(row.value)}[row.format] == row.hex


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("123.45", "--q", "5.11"),
            "Q5.11 15.99951171875 -107 15.9990234375 hex bits value Q5.11 0x7FFF 01111.11111111111",
        ),
        (("123.45", "--q", "8.8"), "Q8.8 0x7B73 01111011.01110011 31603 * 0.00390625"),
        (("--q", "u8.8", "123.45"), "UQ8.8 123.44921875 -0.000781 123.4453125 123.453125"),
        (("-3.7", "--q", "5.11"), "Q5.11 0xE266 11100.01001100110 -7578 * 0.00048828125"),
        (("E266", "--hex", "--q", "5.11"), "Q5.11 -3.7001953125 -3.70068359375 -3.69970703125"),
        (("A1C7D.FF014", "--hex", "--q", "21.20"), "0x0A1C7DFF014"),
        (("0x42F6E666", "--hex"), "float32 123.45 123.44999 123.450005"),
        (("57B7", "--hex"), "float16 0x57B7 0 10101 1110110111 1.9287109375 * 2^6 bfloat16 0x57B7 0 10101111 0110111"),
        (
            ("0.3", "--scale", "0.0078125"),
            "int8 0x26 00100110 (38 - 0) * 0.0078125 uint8 0xA6 10100110 (166 - 128) * 0.0078125",
        ),
        (("-1", "--scale", "0.1", "--zero-point", "200"), "uint8 -1.0 0 -1.1 -0.90000004"),
        (("-1e5", "--scale", "1"), "int8 -128.0 9.99e+04 -127.0"),
        (("1e400", "--scale", "1"), "int8 127.0 126.0 uint8 127.0 126.0"),
        (("-1e400",), "float32 -inf -3.4028235e+38"),
        (("1e400", "--q", "8.8"), "Q8.8 127.99609375 127.9921875"),
        (("inf",), "float16 inf 65504"),
        (("-inf",), "float8e4m3fn -448"),
        (("nan",), "float32 0x7FC00000 0 11111111 10000000000000000000000 nan"),
        (("-0",), "float32 0x80000000 1 00000000 00000000000000000000000 zero"),
        (("1e-45",), "0 00000000 00000000000000000000001 1.1920928955078125e-07 * 2^-126 (subnormal)"),
    ],
)
def test_what_is_said(
    halfeven: Halfeven, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    ran = halfeven("number", *words)
    assert (ran.status, ran.err) == (0, "")
    assert expected in " ".join(ran.out.split())


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("number", ["123.45", "-1.2345678901234567e-300", "nan"])
def test_no_line_is_longer_than_the_terminal(
    halfeven: Halfeven, monkeypatch: pytest.MonkeyPatch, columns: int, number: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = halfeven("number", number)
    assert ran.status == 0
    assert max(len(line) for line in ran.out.splitlines()) <= columns
    assert "\u2026" not in ran.out


def test_the_json_is_one_object(halfeven: Halfeven) -> None:
    ran = halfeven("number", "0.1", "--json")
    found = json.loads(ran.out, parse_constant=lambda name: pytest.fail(name))
    assert set(found) == {"number", "formats"}
    fields = {"format", "value", "error", "hex", "bits", "below", "above", "formula"}
    assert all(set(row) == fields for row in found["formats"])
    assert [row["format"] for row in found["formats"]] == list(FORMATS)


def test_quiet_prints_nothing(halfeven: Halfeven) -> None:
    assert halfeven("number", "1", "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("abc",), "'abc' is no number; expected one such as 123.45, -1e-3, inf or nan."),
        ((), "missing: NUMBER"),
        (("1", "2"), "one argument too many"),
        (("1", "--q", "3"), "'3' is no fixed-point format; expected one such as 5.11"),
        (("1", "--q", "60.60"), "Q60.60 has 120 bits; 1 to 64 are possible."),
        (("nan", "--q", "8.8"), "'nan' has no code in Q8.8"),
        (("-5", "--hex"), "'-5' is no bit pattern; expected hexadecimal digits such as 42F6E666."),
        (("zz", "--hex"), "'zz' is no number in base 16"),
        (("12345", "--hex"), "has 5 hexadecimal digits; float patterns have 1, 2, 4, 8 or 16"),
        (("12345", "--hex", "--q", "8.8"), "0x12345 does not fit in the 16 bits of Q8.8"),
        (("1e999999999",), "too large, too small or too long"),
        (("1", "--scale", "0"), "--scale 0.0: a scale is a float32 above 0, and finite."),
        (("1", "--scale", "1e-60"), "a scale is a float32 above 0"),
        (("1", "--scale", "x"), "expected a number, found 'x'"),
        (("1", "--zero-point", "3"), "--zero-point goes with --scale"),
        (("1", "--scale", "1", "--zero-point", "256"), "--zero-point 256: int8 has codes from -128 to 127"),
        (("1", "--scale", "1", "--hex"), "--scale and --hex are two readings of the number"),
        (("1", "--scale", "1", "--q", "8.8"), "--scale and --q are two readings"),
        (("1", "--bits", "8"), "halfeven number has no option --bits"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_status_2(
    halfeven: Halfeven, words: tuple[str, ...], message: str
) -> None:
    ran = halfeven("number", *words)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_model_is_not_needed_nor_its_libraries() -> None:
    program = (
        "import sys\nfrom halfeven.cli import main\nmain(['number', '1.5', '--json', '--quiet'])\n"
        "print(sorted({'onnx', 'onnx_ir', 'onnxruntime', 'torch'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
