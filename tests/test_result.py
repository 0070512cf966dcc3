"""Promised: a result is shown in one line, never replaces weights that its source reads, and its file records what was
asked for beside what the model does itself.
"""

import json
from importlib.resources import files
from pathlib import Path

import onnx
import pytest

import halfeven
from halfeven.errors import BadOption
from halfeven.result import Result

DEMO = Path(str(files("halfeven.demo")))
MODEL, DATA = DEMO / "fashion_mnist_mbv2.onnx", DEMO / "calibration.npz"


def quantized(model: Path, **options: object) -> Result:
    return halfeven.quantize(model, DATA, preprocess="fashion-mnist", limit=6, skip=("gptq",), **options)  # type: ignore[arg-type]


def outside(folder: Path, data: str) -> Path:
    """The shipped network with its weights in a file of their own."""
    where = {"save_as_external_data": True, "location": data, "size_threshold": 10}
    onnx.save_model(onnx.load(MODEL), folder / "model.onnx", **where)
    return folder / "model.onnx"


def test_a_result_is_shown_in_one_line_with_name_sizes_and_cost() -> None:
    result = quantized(MODEL)
    found = result.verification
    assert found is not None
    text = repr(result)
    sizes = " -> ".join(f"{size / 1e6:.2f} MB" for size in found.sizes)
    assert text.startswith("<Result fashion_mnist_mbv2.onnx: ")
    assert f" layers quantized for onnxruntime, {sizes}, SQNR {found.sqnr_db:.1f} dB>" in text
    assert len(text) < 160
    assert "\n" not in text
    unverified = repr(quantized(MODEL, verify=False))
    assert unverified.endswith(" MB, not verified>")
    assert ", weights " in unverified


def test_weights_that_the_source_reads_are_not_written_over(tmp_path: Path) -> None:
    result = quantized(outside(tmp_path, "out.onnx.data"), verify=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused = r"out.onnx': its weights would replace '.*out.onnx.data', which the source model reads"
    with pytest.raises(BadOption, match=refused):
        result.save(tmp_path / "out.onnx")
    with pytest.raises(BadOption, match=refused):
        halfeven.export(result.draft, tmp_path / "out.onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    result.save(tmp_path / "other.onnx")
    assert (tmp_path / "other.onnx").is_file()


def test_a_source_in_one_file_hinders_no_name(tmp_path: Path) -> None:
    (tmp_path / "out.onnx.data").write_bytes(b"old")
    quantized(MODEL, verify=False).save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").is_file()


def test_the_file_says_which_preprocess_was_asked_for_and_what_of_it_is_in_the_model(tmp_path: Path) -> None:
    for io in ("float", "uint8"):
        quantized(MODEL, verify=False, io=io, target="openvino").save(tmp_path / f"{io}.onnx")
        stored = {p.key: p.value for p in onnx.load(tmp_path / f"{io}.onnx").metadata_props}
        said = json.loads(stored["halfeven.options"])
        assert said["preprocess"] == "fashion-mnist"
        if io == "float":
            assert "folded" not in said
        else:
            assert said["folded"].pop("where").startswith("the normalisation of pictures is ")
            assert said["folded"] == {"scale": pytest.approx(1 / 255), "mean": [0.2860], "std": [0.3530]}
