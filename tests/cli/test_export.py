"""Promised: `export` writes a quantized network in any format, from a QDQ file or from a float model with scales made
elsewhere; `quantize` goes to any format in one step; what cannot be written is refused and nothing is left behind.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import halfeven as package
from halfeven.errors import BadOption
from halfeven.exporters.formats import FORMATS, Format, format_of, target_of
from halfeven.graph.plan import Plan
from halfeven.targets import TARGETS

Halfeven = Callable[..., Any]
QUANTIZE = ("quantize", "net.onnx", "--prefer", "size", "--data", "x.npz", "--no-verify", "--skip", "equalize")


@pytest.fixture
def ours(halfeven: Halfeven) -> str:
    """A QDQ file and its plan, in the current folder."""
    ran = halfeven(*QUANTIZE, "-o", "ours.onnx", "--save-plan", "plan.json", "--quiet")
    assert (ran.status, ran.err) == (0, "")
    return "ours.onnx"


def graph_of(path: str) -> bytes:
    model = onnx.load(path)
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def codes_of(path: str) -> list[tuple[str, bytes]]:
    tensors = onnx.load(path).graph.initializer
    return sorted((t.name, onnx.numpy_helper.to_array(t).tobytes()) for t in tensors)


def test_a_qdq_file_comes_out_as_it_went_in(halfeven: Halfeven, ours: str) -> None:
    ran = halfeven("export", ours, "-o", "again.onnx")
    assert (ran.status, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert said.startswith("ours.onnx -> again.onnx: ONNX with QuantizeLinear and DequantizeLinear, for onnxruntime")
    assert "3 of 3 layers quantized" in said
    assert codes_of("again.onnx") == codes_of(ours)


def test_a_float_model_and_its_plan_give_the_quantized_file(halfeven: Halfeven, ours: str) -> None:
    for flag in ("--plan", "--encodings"):
        assert (
            halfeven(*QUANTIZE, "--skip", "gptq", "-o", "plain.onnx", "--save-plan", "plain.json", "--quiet").status
            == 0
        )
        ran = halfeven("export", "net.onnx", flag, "plain.json", "-o", "again.onnx")
        assert (ran.status, ran.err) == (0, "")
        assert codes_of("again.onnx") == codes_of("plain.onnx")


def test_scales_of_another_file_serve_as_a_plan(halfeven: Halfeven, ours: str) -> None:
    ran = halfeven("export", "net.onnx", "--plan", ours, "-o", "again.onnx", "--json")
    assert (ran.status, ran.err) == (0, "")
    report = json.loads(ran.out)
    assert set(report) == {"output", "format", "target", "layers", "nodes", "notes"}
    assert (report["format"], report["layers"]) == ("qdq", {"quantized": 3, "all": 3})
    zero_points = {t[0] for t in codes_of(ours) if "scale" in t[0]}
    assert zero_points == {t[0] for t in codes_of("again.onnx") if "scale" in t[0]}


def test_codes_change_sign_for_a_target_that_takes_the_other(halfeven: Halfeven, ours: str, home: Path) -> None:
    ran = halfeven("export", ours, "-o", "signed.onnx", "--target", "integer")
    assert (ran.status, ran.err) == (0, "")
    assert "moved between unsigned and signed codes" in " ".join(ran.out.split())
    kinds = {t.data_type for t in onnx.load("signed.onnx").graph.initializer if "zero_point" in t.name}
    assert onnx.TensorProto.UINT8 not in kinds
    with np.load(home / "x.npz") as stored:
        feeds = {"x": stored["x"][:4]}
    from halfeven.run.ort import OrtExecutor

    a, b = (OrtExecutor(name, optimize=False)(feeds)["y"] for name in (ours, "signed.onnx"))
    np.testing.assert_array_equal(a, b)


def test_what_the_target_cannot_run_is_refused_with_its_status(halfeven: Halfeven, ours: str) -> None:
    ran = halfeven("export", ours, "-o", "trt.onnx", "--target", "tensorrt")
    assert (ran.status, ran.out) == (5, "")
    assert ran.err.startswith("halfeven: error: Conv '")
    assert ran.err.count("\n") == 1
    assert not Path("trt.onnx").exists()


def test_quantize_writes_the_format_of_the_suffix(halfeven: Halfeven) -> None:
    written = [name for name, entry in FORMATS.items() if entry.suffix == ".onnx" and name in ("qdq", "qoperator")]
    for name in written:
        ran = halfeven(*QUANTIZE, "-o", f"{name}.onnx", "--format", name)
        assert (ran.status, ran.err) == (0, "")
    ops = {node.op_type for node in onnx.load("qoperator.onnx").graph.node}
    assert "QLinearConv" in ops
    assert "QLinearConv" not in {node.op_type for node in onnx.load("qdq.onnx").graph.node}


def test_the_format_chooses_the_target(halfeven: Halfeven) -> None:
    pytest.importorskip("ai_edge_litert")
    ran = halfeven(*QUANTIZE, "-o", "net.tflite", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert json.loads(ran.out)["target"] == target_of("tflite") == "litert"
    assert Path("net.tflite").read_bytes()[4:8] == b"TFL3"


def test_a_file_of_another_runtime_is_verified_there(halfeven: Halfeven) -> None:
    pytest.importorskip("ai_edge_litert")
    assert halfeven(*QUANTIZE, "-o", "net.tflite", "--quiet").status == 0
    words = ("verify", "net.onnx", "net.tflite", "--data", "x.npz", "--limit", "6")
    ran = halfeven(*words, "--json")
    assert ran.status == 0
    found = json.loads(ran.out)
    assert found["runtime"] == "LiteRT"
    assert found["sqnr_db"] > 15
    assert found["own_float_ms"]["ratio"] > 0
    assert found["bytes"]["int8"] == Path("net.tflite").stat().st_size
    said = " ".join(halfeven(*words).out.split())
    assert "in LiteRT on this machine" in said
    assert "latency, float in LiteRT too" in said


def test_a_runtime_that_is_not_installed_is_named(halfeven: Halfeven, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    Path("net.tflite").write_bytes(b"\0\0\0\0TFL3")
    ran = halfeven("verify", "net.onnx", "net.tflite", "--data", "x.npz")
    assert (ran.status, ran.out) == (2, "")
    assert "pip install 'halfeven[litert]'" in ran.err


# what is said, and the exit status
REFUSED: dict[tuple[str, ...], tuple[int, str]] = {
    ("export", "ours.onnx", "-o", "out.xyz"): (2, "has the suffix of no format"),
    ("export", "ours.onnx", "-o", "out.onnx", "--format", "qd"): (2, "did you mean 'qdq'"),
    ("export", "ours.onnx"): (2, "missing: -o"),
    ("export", "ours.onnx", "-o", "ours.onnx"): (2, "is the file given as MODEL"),
    ("export", "ours.onnx", "-o", "nowhere/out.onnx"): (2, "there is no folder"),
    ("export", "net.onnx", "-o", "out.onnx"): (3, "no plan in it"),
    ("export", "missing.onnx", "-o", "out.onnx"): (3, "does not exist"),
    ("export", "other.onnx", "--plan", "missing.json", "-o", "out.onnx"): (2, "'missing.json' cannot be read"),
    ("export", "renamed.onnx", "--plan", "plan.json", "-o", "out.onnx"): (2, "The plan is of another model"),
    ("export", "net.onnx", "--plan", "junk.txt", "-o", "out.onnx"): (2, "is of no format that can be imported"),
    ("export", "net.onnx", "--plan", "empty.json", "-o", "out.onnx"): (2, "is of no format that can be imported"),
    ("quantize", "net.onnx", "--prefer", "size", "--io", "uint8", "-o", "out.onnx", "--format", "qoperator"): (
        2,
        "--io uint8 is of the format qdq",
    ),
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_is_wrong_is_said_in_a_sentence_and_nothing_is_written(
    halfeven: Halfeven, ours: str, words: tuple[str, ...]
) -> None:
    Path("junk.txt").write_text("1 2 3")
    Path("empty.json").write_text("{}")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    status, said = REFUSED[words]
    ran = halfeven(*words)
    assert (ran.status, ran.out) == (status, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_plan_of_equalized_channels_needs_its_own_network(halfeven: Halfeven, ours: str) -> None:
    plan = Plan.load("plan.json").to_json()
    Path("equalized.json").write_text(json.dumps({**plan, "scaling": "abc"}))
    ran = halfeven("export", "net.onnx", "--plan", "equalized.json", "-o", "out.onnx")
    assert ran.status == 2
    assert "equalized channels" in ran.err


def test_a_suffix_names_its_format_unless_several_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert format_of("a/b.ONNX") == "qdq"
    assert format_of("x.onnx", "qoperator") == "qoperator"
    monkeypatch.setitem(FORMATS, "one", Format(".twin", "a twin", ""))
    assert format_of("x.twin") == "one"
    monkeypatch.setitem(FORMATS, "two", Format(".twin", "a twin", ""))
    with pytest.raises(BadOption, match="--format: one, two"):
        format_of("x.twin")
    assert all(target_of(name) in TARGETS for name in FORMATS)


def test_python_exports_as_the_command_line_does(halfeven: Halfeven, ours: str) -> None:
    notes = package.export(package.open_quantized(ours), "python.onnx")
    assert halfeven("export", ours, "-o", "shell.onnx", "--quiet") == (0, "", "")
    assert notes == ()
    assert graph_of("python.onnx") == graph_of("shell.onnx")
