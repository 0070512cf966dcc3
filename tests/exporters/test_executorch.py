"""Promised: a network exported to ExecuTorch runs there on XNNPACK's int8 kernels, which its file shows; the codes of the
demo network are those that the simulator of XNNPACK computes; what has no int8 kernel runs in float; what ExecuTorch
cannot run is refused, and nothing is written.
"""

from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft
from halfeven.errors import BadCalibration, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.executorch.forms import why_float
from halfeven.exporters.onnx import to_qdq
from halfeven.feeding import open_data
from halfeven.graph.lower import lower
from halfeven.graph.prepare import prepare
from halfeven.report.conform import conform
from halfeven.report.sides import sides
from halfeven.run.executorch import open_executorch
from halfeven.run.executorch_file import kernels_of
from halfeven.run.integer.litert import LITERT_XNNPACK
from halfeven.run.ort import OrtExecutor
from halfeven.targets.executorch import EXECUTORCH
from halfeven.targets.onnxruntime import ONNXRUNTIME

pytest.importorskip("executorch")
DEMO = Path(str(files("halfeven.demo")))
Build = Callable[..., ir.Model]

MANY = """
g (float[N,4,12,12] x) => (float[N,5] y, float[N,4,24,24] z) <float[8,4,3,3] w, float[8] b, float[8,1,3,3] d,
  float[8,8,2,2] t, float[6,8] g, float[6] h, float[6,5] m, float[4,4,3,3] v, float[1] half, float[1] three, float six,
  int64[2] parts, int64[1] one, int64[1] four, int64[1] axis, int64[8] pads, int64[2] flat, float[4] twice, float zero> {
  a = Conv<pads=[1,1,0,0]>(x, w, b)
  r = Clip(a, zero, six)
  e = Conv<pads=[1,1,1,1], group=8, strides=[2,2]>(r, d)
  u = ConvTranspose<strides=[2,2]>(e, t)
  s, s2 = Split<axis=1>(u, parts)
  q = Add(s, s2)
  k = Slice(u, one, four, axis)
  c = Concat<axis=1>(q, k)
  p = Mul(q, half)
  i = Div(q, three)
  f = Sub(p, i)
  j = Pad(f, pads)
  l = Conv(j, v)
  o = Sigmoid(l)
  z = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(o, , twice)
  n = MaxPool<kernel_shape=[2,2], strides=[2,2]>(u)
  n2 = GlobalAveragePool(n)
  n3 = Reshape(n2, flat)
  n4 = Gemm<transB=1>(n3, g, h)
  n5 = Transpose<perm=[0,1]>(n4)
  n6 = Relu(n5)
  y = MatMul(n6, m)
}"""
NUMBERS: dict[str, object] = {
    "half": [0.5],
    "three": [3.0],
    "six": 6.0,
    "zero": 0.0,
    "parts": [4, 4],
    "one": [1],
    "four": [5],
    "axis": [1],
    "pads": [0, 0, 1, 1, 0, 0, 1, 1],
    "flat": [-1, 8],
    "twice": [1, 1, 2, 2],
}


@pytest.fixture(scope="module")
def many(build: Build, samples: Callable, placed: Callable, calibrated: Callable) -> tuple[Draft, list]:
    """A calibrated draft of a network of many operators, and its data."""
    model = build(MANY, **{name: np.array(value) for name, value in NUMBERS.items()})
    data = [(label, {"x": feeds["x"][:1]}) for label, feeds in samples(model)]
    return calibrated(placed(model, EXECUTORCH, data, prefer="size"), data), data


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list]:
    """The demo network as a .pte and as a QDQ file, and samples."""
    folder, kind = tmp_path_factory.mktemp("executorch"), "fashion-mnist"
    result = halfeven.quantize(
        DEMO / "fashion_mnist_mbv2.onnx", DEMO / "calibration.npz", preprocess=kind, target="executorch", verify=False
    )
    result.save(folder / "demo.pte")
    result.save(folder / "demo.onnx")
    feed = open_data(result.draft.model, DEMO / "test.npz", {"preprocess": kind, "limit": 16}, held_out=False)
    return folder / "demo.pte", folder / "demo.onnx", list(feed.calibration)


def test_every_layer_of_the_demo_network_has_an_int8_kernel(demo: tuple[Path, Path, list]) -> None:
    kernels = kernels_of(demo[0])
    assert all(kernel.delegated for kernel in kernels)
    assert sum(kernel.weighted for kernel in kernels) == 35
    assert {k.kind for k in kernels if not k.integer} == {"Convert"}
    assert Counter(k.kind for k in kernels)["Convert"] == 2  # at the borders
    assert {k.reads[1] for k in kernels if k.weighted} == {"qcint8"}


def test_every_code_and_output_of_the_demo_network_is_that_of_xnnpacks_simulator(demo: tuple[Path, Path, list]) -> None:
    pytest.importorskip("ai_edge_litert")
    pte, qdq, data = demo
    run, [side] = open_executorch(pte), sides(qdq, [LITERT_XNNPACK.name], data[:1])
    for _, feeds in data:
        np.testing.assert_array_equal(run(feeds)["logits"], side(feeds)[0]["logits"])
    [found] = conform(qdq, data[:4], ["executorch"]).runtimes
    assert (found.refused, found.notes[0]) == ("", "35 of 35 layers with weights run in int8 in XNNPACK.")
    assert (len(found.tensors), found.compared, found.differing) == (43, 4 * 200_754, 0)


def test_of_a_batch_what_does_not_begin_with_it_is_left_out_and_told(build: Build, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    text = """g (float[N,4,6,6] x) => (float[N,8,6,6] y) <float[8,4,3,3] w, float[8,8,3,3] v> {
        a = Conv<pads=[1,1,1,1]>(x, w)  r = Relu(a)  t = Transpose<perm=[1,0,2,3]>(r)
        u = Transpose<perm=[1,0,2,3]>(t)  y = Conv<pads=[1,1,1,1]>(u, v) }"""
    x = np.random.default_rng(0).standard_normal((16, 4, 6, 6)).astype(np.float32)
    model = ir.to_proto(build(text))
    halfeven.quantize(model, x, target="executorch", prefer="size", verify=False).save(tmp_path / "m.onnx")
    [found] = conform(tmp_path / "m.onnx", [("three", {"x": x[:3]})], ["executorch"]).runtimes
    assert (found.refused, found.differing) == ("", 0)
    assert found.compared > 3 * 8 * 36
    assert any("not compared: no output of the program" in note for note in found.notes)


def test_a_batch_runs_sample_by_sample(demo: tuple[Path, Path, list]) -> None:
    run, data = open_executorch(demo[0]), demo[2][:3]
    both = run({"input": np.concatenate([feeds["input"] for _, feeds in data])})["logits"]
    np.testing.assert_array_equal(both, np.concatenate([run(feeds)["logits"] for _, feeds in data]))
    with pytest.raises(BadCalibration, match=r"of shape \[1, 1, 28, 28\], found \[1, 1, 28, 27\]"):
        run({"input": np.zeros((1, 1, 28, 27), np.float32)})
    with pytest.raises(BadCalibration, match="float32, not float64"):
        run({"input": np.zeros((1, 1, 28, 28))})


def test_many_operators_run_on_codes_and_give_what_the_plan_says(many: tuple[Draft, list], tmp_path: Path) -> None:
    draft, data = many
    notes = halfeven.export(draft, tmp_path / "many.pte")
    kernels = kernels_of(tmp_path / "many.pte")
    assert notes[0] == "6 of 6 layers with weights run in int8 in XNNPACK."
    assert [k.kind for k in kernels if not k.delegated] == ["aten::upsample_nearest2d"]
    assert {k.kind for k in kernels if k.delegated and not k.integer} == {"Convert", "Sigmoid", "StaticTranspose"}
    run, wanted = open_executorch(tmp_path / "many.pte"), OrtExecutor(to_qdq(draft), optimize=False, threads=1)
    steps = {
        t.name: op.inputs[0] for op in lower(to_qdq(draft)).ops for t in op.outputs if op.kind == "DequantizeLinear"
    }
    source = steps["y"]
    assert source is not None
    assert source.params is not None
    for _, feeds in data:
        found, planned = run(feeds), wanted(feeds)
        off = np.rint((found["y"] - planned["y"]) / source.params.scale.ravel()[0])
        assert np.abs(off).max() <= 1
        assert np.abs(found["z"] - planned["z"]).max() < 0.02
        assert (np.abs(found["z"] - planned["z"]) < 1e-6).mean() > 0.9  # behind a sigmoid in float


def test_other_codes_are_refused_and_nothing_is_written(
    build: Build, samples: Callable, placed: Callable, calibrated: Callable, tmp_path: Path
) -> None:
    model = build("g (float[1,3,4,4] x) => (float[1,2,4,4] y) <float[2,3,1,1] w> { y = Conv(x, w) }")
    data = samples(model)
    draft = calibrated(placed(model, ONNXRUNTIME, data, prefer="size"), data)
    with pytest.raises(UnsupportedByTarget, match="is uint8 affine per-tensor, but ExecuTorch's XNNPACK takes int8"):
        halfeven.export(draft, tmp_path / "y.pte")
    odd = build("g (float[1,3] x) => (float[1,3] y) { y = custom.Odd(x) }")
    with pytest.raises(UnsupportedByTarget, match=r"custom\.Odd '.*' has no form in PyTorch"):
        halfeven.export(Draft(prepare(odd)[0], EXECUTORCH), tmp_path / "y.pte")
    assert list(tmp_path.iterdir()) == []


def test_a_slice_whose_places_are_computed_is_none_on_codes(
    build: Build, samples: Callable, placed: Callable, calibrated: Callable
) -> None:
    text = "h = Conv(x, w)  p = Slice(h, s, e, a)  z = Conv(p, v)  y = Neg(z)"
    frame = "g (float[1,3,4,4] x, int64[1] s) => (float[1,2,c,4] y) <float[2,3,1,1] w, float[2,2,1,1] v, int64[1] e, %s"
    model = build(frame % ("int64[1] a> { " + text + " }"), e=np.array([4]), a=np.array([2]))
    data = [(label, {**feeds, "s": np.array([1])}) for label, feeds in samples(model)]
    network = lower(to_qdq(calibrated(placed(model, EXECUTORCH, data, prefer="size"), data)))
    [cut] = [op for op in network.ops if op.kind == "Slice"]
    assert (cut.integer, why_float(cut)) == (True, "its settings are computed")


@pytest.mark.parametrize("kept", [0, 7, 40, 3000, -64])
def test_a_damaged_file_is_refused(kept: int, demo: tuple[Path, Path, list], tmp_path: Path) -> None:
    (tmp_path / "cut.pte").write_bytes(demo[0].read_bytes()[:kept])
    with pytest.raises(UnsupportedModel, match=r"cut\.pte'"):
        open_executorch(tmp_path / "cut.pte")({"input": np.zeros((1, 1, 28, 28), np.float32)})
