"""Promised: what MNN takes and computes wrongly is refused by name before a file is written, what it computes rightly is
not; a file whose outputs part from the QDQ network's is not written, and the first such output is named.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, Samples, pipeline
from halfeven.errors import UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.mnn.write import write_mnn
from halfeven.exporters.mnn.wrong import prove
from halfeven.exporters.onnx import to_qdq
from halfeven.run.mnn import open_mnn
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.observe import Observe
from halfeven.targets.mnn import MNN

pytest.importorskip("MNN")
Build = Callable[..., ir.Model]
FRAME = """g (float[1,4,12,12] x) => (float[1,c,n,m] y) <float[8,4,3,3] w, float[4,8,1,1] v, float[4] up = {1, 1, 1.5, 1.5},
  float[4] twice = {1, 1, 2, 2}, float[4] half = {1, 1, 0.5, 0.5}, int64 two = {2}, int64[1] channels = {1},
  int64[4] one = {1, 8, 1, 1}>
  { a = Conv<pads=[1,1,1,1]>(x, w)  %s  y = Conv(b, v) }"""
NEAREST = '[n] b = Resize<mode="nearest", coordinate_transformation_mode="%s", nearest_mode="%s">(a, , %s)'
CUBIC = '[n] b = Resize<mode="cubic", coordinate_transformation_mode="%s", cubic_coeff_a=%s>(a, , %s)'
WRONG = {
    "dilations": ("[n] b = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(a)", "drops the dilations"),
    "pads in front": ('[n] b = MaxPool<kernel_shape=[2,2], auto_pad="SAME_LOWER">(a)', "pads SAME_LOWER behind"),
    "ties upwards": (NEAREST % ("half_pixel", "round_prefer_ceil", "up"), "rounds ties down"),
    "ties upwards, from a corner": (NEAREST % ("asymmetric", "round_prefer_ceil", "twice"), "rounds ties down"),
    "ceil": (NEAREST % ("half_pixel", "ceil", "twice"), "no nearest_mode ceil"),
    "cubic": (CUBIC % ("half_pixel", -0.75, "twice"), "cubic interpolation is exact for other coordinates"),
    "cubic of another coefficient": (CUBIC % ("asymmetric", -0.5, "twice"), "cubic interpolation is exact for other"),
    "antialias": ('[n] b = Resize<mode="linear", antialias=1>(a, , half)', "drops antialias"),
    "antialias to one element": ('[n] b = Resize<mode="linear", antialias=1>(a, , , one)', "drops antialias"),
    "a norm": ("[n] s = ReduceL2(a, channels)  b = Mul(a, s)", "reads axes from an attribute alone"),
    "shrink": ("[n] b = Shrink(a)", "with other numbers"),
}
RIGHT = {
    "a sum so far": "b = CumSum(a, two)",
    "a sum so far without the last": "b = CumSum<exclusive=1>(a, two)",
    "a maximum": "b = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], dilations=[1,1]>(a)",
    "no ties": NEAREST % ("half_pixel", "round_prefer_ceil", "twice"),
    "ties down": NEAREST % ("half_pixel", "round_prefer_floor", "up"),
    "whole coordinates": NEAREST % ("asymmetric", "ceil", "half"),
    "cubic by corners": CUBIC % ("align_corners", -0.75, "up"),
    "cubic and smaller": CUBIC % ("half_pixel", -0.75, "half"),
    "linear and larger": '[n] b = Resize<mode="linear", antialias=1>(a, , twice)',
}


def made(build: Build, samples: Callable[..., Samples], placed: Callable[..., Draft], body: str) -> tuple[Draft, list]:
    """A calibrated draft of a network, and its samples."""
    model = build(FRAME % body, opset=18)
    for output in model.graph.outputs:
        output.shape = None
    data = list(samples(model))
    return pipeline(Observe(), Calibrate(method="minmax"))(placed(model, MNN, data, prefer="size"), data), data


@pytest.mark.parametrize("name", WRONG)
def test_what_mnn_computes_wrongly_is_refused_by_name(build, samples, placed, tmp_path: Path, name: str) -> None:
    body, reason = WRONG[name]
    draft, _ = made(build, samples, placed, body)
    with pytest.raises(UnsupportedByTarget, match=f"'n': MNN computes it wrongly.*{reason}"):
        write_mnn(draft, tmp_path / "net.mnn")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", RIGHT)
def test_what_it_computes_rightly_is_written_and_gives_the_numbers_of_the_qdq_network(
    build, samples, placed, tmp_path: Path, name: str
) -> None:
    draft, data = made(build, samples, placed, RIGHT[name])
    write_mnn(draft, tmp_path / "net.mnn")
    run, reference = open_mnn(tmp_path / "net.mnn"), OrtExecutor(to_qdq(draft), optimize=False)
    for _, feeds in data[:3]:
        assert sqnr_db(reference(feeds)["y"], run(feeds)["y"]) > 60


@pytest.mark.parametrize("traced", [True, False])
def test_a_file_that_computes_something_else_is_found_by_running_it(
    build, samples, placed, tmp_path: Path, traced: bool
) -> None:
    draft, _ = made(build, samples, placed, "b = Relu(a)")
    other, _ = made(build, samples, placed, "c = Neg(a)  b = Relu(c)")
    smaller, _ = made(build, samples, placed, RIGHT["a maximum"])
    write_mnn(other, tmp_path / "other.mnn")
    write_mnn(smaller, tmp_path / "smaller.mnn")
    if not traced:
        draft = replace(draft, sample={})
    with pytest.raises(UnsupportedByTarget, match=r"output 'y' .* wrongly, with -?\d.* dB SQNR"):
        prove(draft, tmp_path / "other.mnn")
    with pytest.raises(UnsupportedByTarget, match=r"output 'y' .* of shape \(1, 4, 6, 6\), where \(1, 4, 12, 12\)"):
        prove(draft, tmp_path / "smaller.mnn")
    write_mnn(draft, tmp_path / "net.mnn")
    assert prove(draft, tmp_path / "net.mnn") == ()


def test_an_operator_that_the_converter_lacks_is_named_without_its_log(build, samples, placed, tmp_path: Path) -> None:
    model = build(FRAME % "b = Mish(a)", opset=18)
    data = list(samples(model))
    draft = pipeline(Observe(), Calibrate(method="minmax"))(placed(model, MNN, data, prefer="size"), data)
    with pytest.raises(UnsupportedModel) as refused:
        write_mnn(draft, tmp_path / "net.mnn")
    assert str(refused.value).startswith("MNN's converter refuses the network: it has no Mish")
    assert not any(word in str(refused.value) for word in ("Start to", "Not Support", "Failed", "["))
    assert np.all([file.suffix != ".mnn" for file in tmp_path.iterdir()])
