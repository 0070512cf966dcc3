"""Promised: what is asked for is verified as it can be, or a note says why not; formats that cannot store it say so in the
terms in which it was asked for; a file whose output has another shape than the float model's is no success.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.cli import main
from halfeven.errors import UnsupportedByTarget, UnsupportedModel
from halfeven.report.verify import compare_models

NET = (
    "g (float[1,4,8,8] x) => (float[1,4,m,n] y) <float[4,4,3,3] w, float[4] b, float[4,4,3,3] v>"
    " { h = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(h)  k = Add(r, x)  y = Conv<pads=[1,1,1,1]>(k, v) }"
)
HALVES = {"tflite": "LiteRT", "ncnn": "ncnn", "c": "bare metal", "tnn": "TNN"}


@pytest.fixture
def net(build, tmp_path: Path) -> Path:
    """A float network in a file, and data beside it."""
    ir.save(build(NET), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(12, 4, 8, 8)).astype(np.float32))
    return tmp_path / "net.onnx"


def test_a_file_in_bfloat16_is_written_with_a_note_that_it_was_not_verified(net: Path, capsys) -> None:
    data, out = str(net.with_name("x.npz")), net.with_name("out.onnx")
    assert main(["quantize", str(net), "--data", data, "--float-dtype", "bf16", "--mode", "float", "-o", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert out.is_file()
    assert "not verified, as ONNX Runtime has no bfloat16 kernels on this machine; verify it where there are" in said
    assert main(["verify", str(net), str(out), "--data", data]) == UnsupportedModel.exit_code
    assert "no bfloat16 kernels on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["float", "static"])
def test_a_model_whose_inputs_became_half_is_verified_with_the_same_samples(net: Path, mode: str) -> None:
    given = {"float_dtype": "fp16", "half_interface": "same", "mode": mode, "keep_float": ("Add",)}
    if mode == "float":
        del given["keep_float"]
    data = net.with_name("x.npz")
    done = halfeven.quantize(net, data, **given, **({"prefer": "size"} if mode == "static" else {}))
    assert done.model.graph.inputs[0].dtype is ir.DataType.FLOAT16
    assert done.verification is not None
    assert done.verification.sqnr_db > 25
    done.save(net.with_name("half.onnx"))
    assert halfeven.verify(net, net.with_name("half.onnx"), data).sqnr_db > 25


@pytest.mark.parametrize("format", HALVES)
def test_a_format_without_half_precision_names_the_option_not_the_nodes_that_it_made(net: Path, format: str) -> None:
    done = halfeven.quantize(net, net.with_name("x.npz"), float_dtype="fp16", mode="float", verify=False)
    out = net.with_name(f"out{ {'tflite': '.tflite', 'ncnn': '.param', 'c': '.c', 'tnn': '.tnnproto'}[format] }")
    with pytest.raises(UnsupportedByTarget) as refused:
        halfeven.export(done.draft, out, format)
    said = str(refused.value)
    assert said.startswith("--float-dtype makes 4 nodes compute in 16 bits, the first being Conv")
    assert f"files for {HALVES[format]} are written in integers and float32 alone" in said
    assert "Cast" not in said
    assert not out.exists()


@pytest.mark.parametrize(("format", "suffix"), [("ncnn", ".param"), ("tnn", ".tnnproto")])
@pytest.mark.parametrize("mode", ["weight-only", "dynamic"])
def test_a_runtime_that_would_be_given_weights_alone_as_floats_refuses_them(
    net: Path, format: str, suffix: str, mode: str
) -> None:
    given = {"prefer": "size"} if mode == "dynamic" else {}
    done = halfeven.quantize(net, net.with_name("x.npz"), mode=mode, verify=False, **given)
    with pytest.raises(
        UnsupportedByTarget, match="weights alone would be stored as float32, and the file be no smaller"
    ):
        halfeven.export(done.draft, net.with_name(f"out{suffix}"), format)
    assert [file.name for file in net.parent.iterdir() if file.stem == "out"] == []


def test_an_output_of_another_shape_is_an_error_with_both_shapes(build, net: Path, capsys) -> None:
    ir.save(build(NET.replace("y = Conv<pads=[1,1,1,1]>(k, v)", "y = Conv(k, v)")), net.with_name("other.onnx"))
    status = main(["verify", str(net), str(net.with_name("other.onnx")), "--data", str(net.with_name("x.npz"))])
    ran = capsys.readouterr()
    assert (status, ran.out) == (UnsupportedModel.exit_code, "")
    assert "output 'y' of the quantized model has shape (1, 4, 6, 6), that of the float model (1, 4, 8, 8)" in ran.err


def test_an_output_whose_length_depends_on_the_data_is_warned_of(build) -> None:
    text = "g (float[1,8] x) => (float[a,b] y) <float bound = {%s}> { m = Greater(x, bound)  i = NonZero(m)  y = Cast<to=1>(i) }"
    data = [(f"s{i}", {"x": np.random.default_rng(i).normal(size=(1, 8)).astype(np.float32)}) for i in range(4)]
    found = compare_models(build(text % 0.0), build(text % -9.0), data, sizes=(1, 1))
    (warning,) = (text for text in found.warnings if "another shape" in text)
    assert warning.startswith(
        "Output 'y' had another shape than the float model's on 4 samples of 4: its length depends"
    )
