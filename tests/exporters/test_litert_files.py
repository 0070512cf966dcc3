"""Promised: equal drafts give equal bytes; constants lie at multiples of 16; the file says where it comes from and how its
inputs are laid out; what a .tflite file cannot hold is refused in a sentence that names the node, and nothing is written.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halfeven.errors import BadCalibration, BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.formats import exporter_named
from halfeven.exporters.litert.flatbuffer import FileGraph, FileTensor, to_bytes
from halfeven.exporters.litert.layout import Dims, regroup
from halfeven.exporters.litert.write import to_litert, write_litert
from halfeven.run.litert import open_litert
from halfeven.run.tflite_micro import open_tflite_micro
from halfeven.targets import TARGETS, target_named
from halfeven.targets.costs import UNIFORM
from halfeven.targets.litert import LITERT
from halfeven.targets.target import Cost
from halfeven.version import __version__

tables = pytest.importorskip("ai_edge_litert.schema_py_generated")

EAGER = replace(LITERT, costs=replace(UNIFORM, quantize=Cost(), dequantize=Cost()))
CONV = "g (float[N,3,8,8] x) => (y) <float[4,3,3,3] w, float[4] b> { h = Conv<pads = [1,1,1,1]>(x, w, b) y = Relu(h) }"


def unpacked(data: bytes):
    return tables.ModelT.InitFromObj(tables.Model.GetRootAsModel(data, 0))


@pytest.fixture
def draft(build, samples, placed, calibrated):
    model = build(CONV)
    data = samples(model, 3)
    return calibrated(placed(model, EAGER, data), data)


def test_equal_drafts_give_equal_bytes_in_every_mode(draft) -> None:
    for mode in ("integer", "dynamic", "weights", "float"):
        assert to_litert(draft, mode=mode).data == to_litert(draft, mode=mode).data


def test_the_mode_follows_from_the_plan(draft) -> None:
    assert to_litert(draft).data == to_litert(draft, mode="integer").data
    assert to_litert(draft).data != to_litert(draft, mode="dynamic").data


def test_constants_lie_at_multiples_of_sixteen(draft) -> None:
    data = to_litert(draft).data
    root = tables.Model.GetRootAsModel(data, 0)
    places = [root.Buffers(i).DataAsNumpy() for i in range(root.BuffersLength()) if root.Buffers(i).DataLength()]
    start = np.frombuffer(data, np.uint8).ctypes.data
    assert len(places) > 2
    assert {(array.ctypes.data - start) % 16 for array in places} == {0}


def test_the_file_says_where_it_comes_from(draft) -> None:
    model = unpacked(to_litert(draft).data)
    entry = next(e for e in model.metadata if e.name == b"halfeven")
    told = json.loads(bytes(model.buffers[entry.buffer].data))
    assert told == {
        "version": __version__,
        "target": "litert",
        "plan": draft.plan.digest,
        "mode": "integer",
        "axes": {"x": [0, 2, 3, 1], "y": [0, 2, 3, 1]},
    }
    (signature,) = model.signatureDefs
    assert [m.name for m in (*signature.inputs, *signature.outputs)] == [b"x", b"y"]


def test_scales_and_zero_points_are_those_of_the_plan(draft) -> None:
    graph = unpacked(to_litert(draft).data).subgraphs[0]
    by_name = {t.name.decode(): t for t in graph.tensors}
    weight = by_name["w_quantized"]
    assert weight.quantization.quantizedDimension == 0
    assert tuple(weight.shape) == (4, 3, 3, 3)
    plan = {q.role: q.params for q in draft.plan.groups.values()}
    np.testing.assert_array_equal(weight.quantization.scale, plan["weight"].scale.ravel())
    assert not weight.quantization.zeroPoint.any()
    bias = by_name["b_quantized"]
    scales = np.float32(by_name["x_quantized"].quantization.scale[0]) * weight.quantization.scale
    np.testing.assert_array_equal(bias.quantization.scale, scales)
    assert bias.type == tables.TensorType.INT32


def test_the_batch_stays_open(draft, tmp_path) -> None:
    path = tmp_path / "m.tflite"
    assert write_litert(draft, path)
    runner = open_litert(path)
    assert [runner({"x": np.ones((n, 8, 8, 3), np.float32)})["y"].shape for n in (1, 3)] == [(1, 8, 8, 4), (3, 8, 8, 4)]


def test_the_layout_of_onnx_is_kept_where_asked_for(draft, tmp_path) -> None:
    path = tmp_path / "m.tflite"
    notes = write_litert(draft, path, layout="onnx")
    assert any(note.startswith("2 transposes") for note in notes)
    assert open_litert(path)({"x": np.ones((2, 3, 8, 8), np.float32)})["y"].shape == (2, 4, 8, 8)


def test_the_format_is_known_by_name(draft, tmp_path) -> None:
    exporter_named("tflite")(draft, tmp_path / "m.tflite")
    assert (tmp_path / "m.tflite").read_bytes() == to_litert(draft).data


def test_fixed_scales_are_pinned_and_what_would_join_them_with_others_stays_float(
    build, samples, placed, calibrated, tmp_path
) -> None:
    alone = build("g (float[1,4] x) => (y) { s = Sigmoid(x) y = Mul(s, x) }")
    plan = placed(alone, EAGER, samples(alone)).plan
    found = [q.params for q in plan.groups.values() if q.params is not None]
    assert [(float(p.scale[0]), int(p.zero_point[0])) for p in found] == [(1 / 256, -128)]
    shared = build("g (float[1,4] x) => (y) { s = Sigmoid(x) t = Mul(x, x) y = Concat<axis = 1>(s, t) }")
    draft = placed(shared, EAGER, samples(shared))
    found = [q.params for q in draft.plan.groups.values() if q.params is not None]
    assert [(float(p.scale[0]), int(p.zero_point[0])) for p in found] == [(1 / 256, -128)]
    assert {node.op_type for node in draft.model.graph if node.name in draft.plan.floats} == {"Concat"}
    assert write_litert(calibrated(draft, samples(shared)), tmp_path / "m.tflite")


# --------------------------------------------------------------------------------------------------- refusals

REFUSED = {
    "Conv 'Conv_y'.*3 spatial": "g (float[1,2,4,4,4] x) => (y) <float[3,2,2,2,2] w> { y = Conv(x, w) }",
    "ConvTranspose.*groups": "g (float[1,4,5,5] x) => (y) <float[4,3,2,2] w> { y = ConvTranspose<group = 2>(x, w) }",
    "Resize.*cubic": 'g (float[1,2,4,4] x) => (y) <float[4] s = {1,1,2,2}> { y = Resize<mode = "cubic">(x, , s) }',
    "Pad.*edge": 'g (float[1,2,4,4] x) => (y) <int64[8] p = {0,0,1,1,0,0,0,0}> { y = Pad<mode = "edge">(x, p) }',
    "NonZero.*no form": "g (float[4] x) => (y) { y = NonZero(x) }",
    "custom.Odd.*no form": "g (float[4] x) => (float[4] y) { y = custom.Odd(x) }",
    "MaxPool.*output 'i'": "g (float[1,2,4,4] x) => (y, i) { y, i = MaxPool<kernel_shape = [2,2]>(x) }",
    "computed at run time": "g (float[4,4] x, float[4,4] w, float[4] b) => (y) { y = Gemm<alpha = 2.0>(x, w, b) }",
}


@pytest.mark.parametrize("match", REFUSED)
def test_what_litert_cannot_express_is_refused_by_name(match, build, samples, tmp_path) -> None:
    from halfeven.draft import Draft
    from halfeven.graph.prepare import prepare

    draft = Draft(prepare(build(REFUSED[match]))[0], LITERT)
    with pytest.raises(UnsupportedByTarget, match=match if "computed" not in match else "Gemm.*constant matrix"):
        write_litert(draft, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_unsigned_activations_are_refused(build, samples, placed, calibrated) -> None:
    model = build(CONV)
    data = samples(model, 2)
    draft = calibrated(placed(model, TARGETS["onnxruntime"], data, prefer="size"), data)
    with pytest.raises(UnsupportedByTarget, match=r"uint8.*--target litert"):
        to_litert(draft)


@pytest.mark.parametrize("option", [{"mode": "int4"}, {"io": "uint8"}, {"layout": "nchw"}])
def test_an_unknown_option_is_refused(draft, option) -> None:
    with pytest.raises(BadOption, match="Choose one of"):
        to_litert(draft, **option)


def test_codes_at_the_ends_need_a_plan_that_has_them(draft) -> None:
    with pytest.raises(BadOption, match="--io int16"):
        to_litert(draft, io="int16")


def test_two_gigabytes_are_the_end() -> None:
    many = np.broadcast_to(np.zeros(1, np.float32), (1 << 29,))
    graph = FileGraph([FileTensor("w", many.shape, "float32", data=many)], [], [], [])
    with pytest.raises(UnsupportedByTarget, match=r"2\.1 GB.*at most 2 GB"):
        to_bytes(graph)


def test_a_type_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedByTarget, match="'w' is complex64"):
        to_bytes(FileGraph([FileTensor("w", (1,), "complex64")], [], [], []))


# ------------------------------------------------------------------------------------------------ the runtimes


def test_what_is_no_tflite_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        open_litert(path)
    path.write_bytes(b"no flatbuffer at all")
    with pytest.raises(UnsupportedModel, match=r"no \.tflite file"):
        open_litert(path)
    with pytest.raises(BadOption, match="no kernels 'gpu'"):
        open_litert(path, "gpu")


def test_tensorflow_lite_micro_refuses_what_does_not_fit(draft, tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    path = tmp_path / "m.tflite"
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        open_tflite_micro(path)
    write_litert(draft, path)
    with pytest.raises(BadCalibration, match=r"input 0 is float32 \(1, 8, 8, 3\), found float32 \(1, 3, 8, 8\)"):
        open_tflite_micro(path)(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(BadOption, match="arena of 100 bytes"):
        open_tflite_micro(path, arena=100)


def test_feeds_that_do_not_fit_are_named(draft, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write_litert(draft, path)
    with pytest.raises(BadCalibration, match="input 'x' was not fed"):
        open_litert(path)({"z": np.zeros(1)})
    with pytest.raises(BadCalibration, match=r"input 'x' is float32 \(-1, 8, 8, 3\), found float32 \(1, 3, 8, 8\)"):
        open_litert(path)({"x": np.zeros((1, 3, 8, 8), np.float32)})


def test_the_targets_are_known_by_name() -> None:
    assert {target_named(n).rule("Conv").data.grid.bits for n in ("litert", "litert-int16")} == {8, 16}  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------- the layout


@pytest.mark.parametrize(
    ("before", "order", "after", "expected"),
    [
        (Dims((2, 3, 4, 5)), (0, 2, 3, 1), Dims((2, 3, 20)), (0, 2, 1)),  # height and width merge
        (Dims((2, 3, 4, 5)), (0, 2, 3, 1), Dims((2, 60)), None),  # channels would have to come first
        (Dims((2, 3, 1, 5)), (0, 2, 3, 1), Dims((2, 3, 5)), (0, 2, 1)),  # an axis of length one goes
        (Dims((2, 3, 1, 1)), (0, 2, 3, 1), Dims((2, 3)), (0, 1)),  # nothing but channels is left
        (Dims((2, 6, 5)), (0, 2, 1), Dims((2, 2, 3, 5)), (0, 3, 1, 2)),  # channels split
        (Dims((1, 3, 4), open=0), (0, 2, 1), Dims((3, 4)), None),  # an open axis does not vanish
    ],
)
def test_a_reshape_keeps_memory_as_it_is_where_it_can(before, order, after, expected) -> None:
    assert regroup(before, order, after) == expected
    if expected is not None:
        x = np.arange(np.prod(before.sizes)).reshape(before.sizes)
        stored = x.transpose(order).ravel()
        np.testing.assert_array_equal(x.reshape(after.sizes).transpose(expected).ravel(), stored)


def test_what_the_runtime_refuses_is_not_written(build, samples, placed, tmp_path: Path) -> None:
    model = build("g (double[4] x) => (y) { y = Sqrt(x) }")
    draft = placed(model, LITERT, samples(model, 1))
    with pytest.raises(UnsupportedByTarget, match="The runtime refuses what would be written: LiteRT cannot run"):
        write_litert(draft, tmp_path / "m.tflite", mode="float")
    assert list(tmp_path.iterdir()) == []
