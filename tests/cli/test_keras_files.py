"""Promised: model files of Keras and TensorFlow, which may hold code, are refused in one sentence that says what to do."""

from pathlib import Path

import pytest

from halfeven.cli import main

KERAS, TENSORFLOW = "is a Keras model, which may hold code and is not read", "is a TensorFlow SavedModel"


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("m.keras", b"PK\x03\x04", KERAS),
        ("m.h5", b"\x89HDF\r\n\x1a\n", KERAS),
        ("saved_model.pb", b"\x08\x01\x12\x00", TENSORFLOW),
        ("model/saved_model.pb", b"\x08\x01\x12\x00", TENSORFLOW),
    ],
)
def test_a_file_of_keras_or_tensorflow_is_refused_with_what_to_give(
    name: str, head: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(head + bytes(100))
    given = path.parent if "/" in name else path
    assert main(["quantize", str(given), "-o", str(tmp_path / "o.onnx")]) == 3
    error = capsys.readouterr().err
    assert f"{given} {said}" in error.replace("\n", " ")
    assert ".tflite" in error
    assert "Traceback" not in error
    assert not (tmp_path / "o.onnx").exists()
