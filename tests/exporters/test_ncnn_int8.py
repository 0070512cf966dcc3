"""Promised: a network quantized for ncnn runs there on int8 kernels, which is seen in its blobs; a convolution's output
has the bits that ncnn's formula gives; the demo network keeps its accuracy; what ncnn cannot run is refused by name.

    acc = sum of codes;  y = fma(float32(acc), 1 / f32(s_in s_w), bias);  Relu;  code = half_away(f32(y s_out))
"""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft
from halfeven.errors import BadCalibration, BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.ncnn.parts import Layer, codes, param_text, plain, reciprocals, safe_name
from halfeven.exporters.ncnn.write import write_ncnn
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.graph.network import Op
from halfeven.graph.prepare import prepare
from halfeven.numerics.fused import fma
from halfeven.numerics.integer_ops import conv2d
from halfeven.numerics.profiles import profile_named
from halfeven.run.ncnn import NcnnExecutor, int8_layers, open_ncnn
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.targets.ncnn import NCNN, NCNN_X86
from halfeven.targets.onnxruntime import ONNXRUNTIME

pytest.importorskip("ncnn")
Build = Callable[..., ir.Model]
Made = Callable[..., Draft]
GOLDEN = Path(__file__).parents[1] / "golden" / "ncnn_integer.npz"
DEMO = Path(str(files("halfeven.demo")))
QUANTIZE = profile_named("ncnn").quantize

CONV = "g (float[1,3,9,9] x) => (float[1,5,9,9] y) <float[5,3,3,3] w, float[5] b> { y = Conv<pads=[1,1,1,1]>(x, w, b) }"
CHAIN = """
g (float[N,6,8,8] x) => (float[N,7] y) <float[12,6,3,3] w, float[12] b, float[12,1,3,3] d, float[12,12,1,1] v,
  float[12] c, float[12,7] m, float[7] n> {
  a = Conv<pads=[1,1,1,1]>(x, w, b)
  r = Relu(a)
  e = Conv<pads=[1,1,1,1], group=12>(r, d)
  f = Conv(e, v, c)
  s = Add(f, e)
  g0 = GlobalAveragePool(s)
  h = Flatten(g0)
  y = Gemm(h, m, n)
}"""


@pytest.fixture(scope="module")
def made(build: Build, samples: Callable, placed: Callable, calibrated: Callable) -> Made:
    """`made(text, target, **weights)`: a calibrated draft of the text's network, and its data."""

    def run(text: str, target: object = NCNN, **weights: np.ndarray) -> tuple[Draft, list]:
        model = build(text, **weights)
        data = samples(model)
        return calibrated(placed(model, target, data, prefer="size"), data), data

    return run


def kinds(path: Path) -> list[str]:
    return [line.split()[0] for line in path.read_text().splitlines()[2:]]


def conv_of(draft: Draft) -> Op:
    return next(op for op in lower(to_qdq(draft)).ops if op.kind == "Conv")


def accumulated(x: np.ndarray, w: np.ndarray, sx: np.ndarray, sw: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """A convolution's real output, by a fused multiply-add and by two operations, as the processor has it."""
    read = np.asarray(QUANTIZE(x, sx, 0, -127, 127)).astype(np.int8)
    acc = conv2d(read, w, pads=(1, 1, 1, 1)).astype(np.float32)
    scale = (np.float32(1) / np.asarray(sx * sw, np.float32)).reshape(1, -1, 1, 1)
    bias = b.reshape(1, -1, 1, 1)
    return [fma(acc, scale, bias), acc * scale + bias]


def test_a_convolution_has_the_bits_of_the_formula(made: Made, tmp_path: Path) -> None:
    draft, data = made(CONV)
    write_ncnn(draft, tmp_path / "net.param")
    run = open_ncnn(tmp_path / "net.param")
    assert kinds(tmp_path / "net.param") == ["Input", "Quantize", "Convolution"]
    x, w, b = conv_of(draft).inputs
    assert b is not None
    assert b.params is None  # the bias stays float
    for _, feeds in data:
        found = run(feeds)["y"]
        ways = accumulated(feeds["x"], w.data, reciprocals(x.params)[0], reciprocals(w.params), b.data)
        assert any(np.array_equal(found, way) for way in ways)


def test_the_formula_gives_the_recorded_codes(tmp_path: Path) -> None:
    with np.load(GOLDEN) as stored:
        case = {name.split("/")[1]: stored[name] for name in stored.files}
    ways = accumulated(case["x"][None], case["w"], case["sx"], case["sw"], case["b"])
    recoded = [QUANTIZE(np.maximum(way, 0), case["so"], 0, -127, 127)[0] for way in ways]
    np.testing.assert_array_equal(recoded[0], case["y"])
    weights = (codes(case["w"]), *(plain(case[key]) for key in ("b", "sw", "sx", "so")))
    params = {0: 8, 1: 3, 4: 1, 5: 1, 6: case["w"].size, 8: 101, 9: 1}
    layers = [Layer("Input", "x", (), ("x",)), Layer("Convolution", "c", ("x",), ("y",), params, weights)]
    (tmp_path / "net.param").write_text(param_text(layers))
    (tmp_path / "net.bin").write_bytes(b"".join(weights))
    found = open_ncnn(tmp_path / "net.param")({"x": case["x"][None]})["y"][0]
    assert any(np.array_equal(found, way) for way in recoded)


def test_layers_run_on_codes_and_hand_codes_on(made: Made, tmp_path: Path) -> None:
    draft, data = made(CHAIN)
    notes = write_ncnn(draft, tmp_path / "net.param")
    run = open_ncnn(tmp_path / "net.param")
    ran = int8_layers(run, data[0][1])
    assert [layer.kind for layer in ran] == ["Convolution", "ConvolutionDepthWise", "Convolution", "InnerProduct"]
    assert all(layer.integer for layer in ran)
    assert notes[0].startswith("4 of 4 layers with weights run in int8")
    text = (tmp_path / "net.param").read_text()
    assert [line.count(" 8=101") for line in text.splitlines() if line.startswith("Conv")] == [1, 1, 0]
    assert kinds(tmp_path / "net.param").count("Cast") == 1  # the sum reads codes that a layer reads too
    for _, feeds in data:
        assert sqnr_db(OrtExecutor(to_qdq(draft), optimize=False)(feeds)["y"], run(feeds)["y"]) > 40


SHAPES = {
    "one row": "g (float[N,1,8] x) => (float[N,1,7] y) <float[8,7] w> { y = MatMul(x, w) }",
    "open rows": "g (float[N,L,8] x) => (float[N,L,7] y) <float[8,7] w> { y = MatMul(x, w) }",
    "rows of rows": "g (float[N,3,L,8] x) => (float[N,3,L,7] y) <float[8,7] w> { y = MatMul(x, w) }",
    "pixels alone": "g (float[N,8,1,1] x) => (float[N,5,1,1] y) <float[8,8,1,1] w, float[5,8,1,1] v> "
    "{ a = Conv(x, w)  r = Relu(a)  y = Conv(r, v) }",
    "an activation of real numbers": "g (float[N,3,5,5] x) => (float[N,4,3,3] y) <float[4,3,3,3] w> "
    "{ l = Constant<value_float=-0.1>()  h = Constant<value_float=0.4>()  a = Conv(x, w)  y = Clip(a, l, h) }",
}


@pytest.mark.parametrize("name", SHAPES)
def test_blobs_of_every_number_of_axes_run_on_codes(made: Made, tmp_path: Path, name: str) -> None:
    draft, data = made(SHAPES[name])
    write_ncnn(draft, tmp_path / "net.param")
    run = open_ncnn(tmp_path / "net.param")
    for _, feeds in data:
        expected = OrtExecutor(to_qdq(draft), optimize=False)(feeds)["y"]
        assert run(feeds)["y"].shape == expected.shape
        assert sqnr_db(expected, run(feeds)["y"]) > 40
    assert all(layer.integer for layer in int8_layers(run, data[0][1]))


def test_on_x86_depthwise_layers_stay_float_as_ncnn_is_slower_there_in_int8(
    build: Build, samples: Callable, placed: Callable
) -> None:
    model = build("g (float[1,96,28,28] x) => (float[1,96,28,28] y) <float[96,1,3,3] d, float[96,96,1,1] v> "
                  "{ [deep] a = Conv<group=96, pads=[1,1,1,1]>(x, d)  [wide] y = Conv(a, v) }")  # fmt: skip
    floats = [set(placed(model, target, samples(model, 1)).plan.floats) for target in (NCNN, NCNN_X86)]
    assert floats == [set(), {"deep"}]


def test_algorithms_and_threads_change_no_bit(made: Made, tmp_path: Path) -> None:
    draft, data = made(CHAIN)
    write_ncnn(draft, tmp_path / "net.param")
    one = open_ncnn(tmp_path / "net.param")(data[0][1])["y"]
    for options in ({"winograd": False}, {"threads": 2}):
        np.testing.assert_array_equal(open_ncnn(tmp_path / "net.param", **options)(data[0][1])["y"], one)


def test_equal_drafts_give_equal_files_and_half_a_draft_none(made: Made, tmp_path: Path) -> None:
    draft, _ = made(CHAIN)
    for name in ("a", "b"):
        write_ncnn(draft, tmp_path / f"{name}.param")
    for suffix in (".param", ".bin"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    folder = tmp_path / "none"
    with pytest.raises(BadOption, match="cannot be written"):
        write_ncnn(draft, folder / "a.param")
    assert not folder.exists()


def test_the_demo_network_keeps_its_accuracy_with_every_layer_in_int8(tmp_path: Path) -> None:
    result = halfeven.quantize(
        DEMO / "fashion_mnist_mbv2.onnx", DEMO / "calibration.npz", target="ncnn", preprocess="fashion-mnist", limit=64,
        verify=False,
    )  # fmt: skip
    write_ncnn(result.draft, tmp_path / "demo.param")
    run = open_ncnn(tmp_path / "demo.param")
    [name] = run.inputs
    with np.load(DEMO / "test.npz") as stored:
        x, labels = ((stored["x"][:500, None] / 255 - 0.2860) / 0.3530).astype(np.float32), stored["y"][:500]
    floating = OrtExecutor(DEMO / "fashion_mnist_mbv2.onnx")({name: x})
    [(key, scores)] = run({name: x}).items()
    assert sqnr_db(floating[key], scores) > 25
    assert (scores.argmax(1) == labels).mean() >= (floating[key].argmax(1) == labels).mean() - 0.015
    ran = int8_layers(run, {name: x[:1]})
    assert len(ran) == 35
    assert all(layer.integer for layer in ran)


def test_groups_with_scales_of_their_own_run_in_float_and_it_is_said(made: Made, tmp_path: Path) -> None:
    draft, data = made("g (float[1,4,6,6] x) => (float[1,6,4,4] y) <float[6,2,3,3] w> { y = Conv<group=2>(x, w) }")
    notes = write_ncnn(draft, tmp_path / "net.param")
    assert any("runs in float" in note for note in notes)
    run = open_ncnn(tmp_path / "net.param")
    expected = OrtExecutor(to_qdq(draft), optimize=False)(data[0][1])["y"]
    np.testing.assert_allclose(run(data[0][1])["y"], expected, atol=1e-5)
    assert not int8_layers(run, data[0][1])[0].integer


def test_groups_that_the_kernels_get_wrong_run_in_float(made: Made, tmp_path: Path) -> None:
    net = "g (float[1,4,6,6] x) => (float[1,16,4,4] y) <float[16,2,3,3] w, float[16] b> { y = Conv<group=2>(x, w, b) }"
    alike = np.repeat(np.random.default_rng(0).normal(size=(2, 2, 3, 3)), 8, axis=0)  # one scale in each group
    draft, data = made(net, w=alike)
    notes = write_ncnn(draft, tmp_path / "net.param")
    assert any("or a wrong one" in note for note in notes)
    expected = OrtExecutor(to_qdq(draft), optimize=False)(data[0][1])["y"]
    np.testing.assert_allclose(open_ncnn(tmp_path / "net.param")(data[0][1])["y"], expected, atol=1e-5)


REFUSED = {
    "an unknown operator": ("g (float[N,4] x) => (float[N,4] y) { [node] y = Acosh(x) }", r"Acosh 'node'.*ncnn"),
    "the batch axis": (
        "g (float[N,4] x) => (float[1,4] y) { [node] y = ReduceMean<axes=[0]>(x) }", r"ReduceMean 'node'.*batch axis"
    ),
    "samples joined": (
        "g (float[N,4] x) => (float[M,4] y) { [node] y = Concat<axis=0>(x, x) }", r"Concat 'node'.*batch axis"
    ),
    "a fixed batch": ("g (float[8,4] x) => (float[8,4] y) { y = Relu(x) }", r"Input 'x'.*first axis of 8"),
    "whole numbers": ("g (int64[N,4] x) => (int64[N,4] y) { y = Neg(x) }", r"Input 'x' is INT64"),
    "a computed shape": (
        "g (float[N,4] x, float[N,2] z) => (float[a,b] y) { s = Cast<to=7>(z)  q = Constant<value_ints=[0]>()  "
        "t = Squeeze(s, q)  [node] y = Reshape(x, t) }", r"Cast.*cannot be written for ncnn"
    ),
    "steps": (
        "g (float[N,4] x) => (float[N,2] y) { s = Constant<value_ints=[0]>()  e = Constant<value_ints=[4]>()  "
        "a = Constant<value_ints=[1]>()  k = Constant<value_ints=[2]>()  [node] y = Slice(x, s, e, a, k) }",
        r"Slice 'node'.*step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_ncnn_cannot_run_is_refused_before_anything_is_written(build: Build, tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(UnsupportedByTarget, match=message):
        write_ncnn(Draft(prepare(build(text))[0], NCNN), tmp_path / "net.param")
    assert list(tmp_path.iterdir()) == []


def test_codes_with_a_zero_point_are_refused(made: Made, tmp_path: Path) -> None:
    draft, _ = made(CONV, ONNXRUNTIME)
    with pytest.raises(UnsupportedByTarget, match=r"uint8 affine.*--target ncnn"):
        write_ncnn(draft, tmp_path / "net.param")


def test_weights_of_another_network_are_not_replaced(made: Made, tmp_path: Path) -> None:
    draft, _ = made(CONV)
    (tmp_path / "net.xml").write_text("<net/>")
    (tmp_path / "net.bin").write_bytes(b"others")
    with pytest.raises(BadOption, match=r"net\.xml reads"):
        write_ncnn(draft, tmp_path / "net.param")
    assert (tmp_path / "net.bin").read_bytes() == b"others"


def test_a_number_in_the_text_is_read_back_to_its_bits(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0x20000000, 0x5F000000, 300).astype(np.uint32)
    numbers = bits.view(np.float32)
    layers = [Layer("Input", "x", (), ("x",)), Layer("Split", "s", ("x",), tuple(f"x{i}" for i in range(300)))]
    layers += [
        Layer("BinaryOp", f"b{i}", (f"x{i}",), (f"y{i}",), {0: 2, 1: 1, 2: float(n)}) for i, n in enumerate(numbers)
    ]
    (tmp_path / "net.param").write_text(param_text(layers))
    (tmp_path / "net.bin").write_bytes(b"")
    found = open_ncnn(tmp_path / "net.param")({"x": np.ones((1, 1), np.float32)})
    np.testing.assert_array_equal([found[f"y{i}"].item() for i in range(300)], numbers)


def test_names_are_made_readable_and_unlike() -> None:
    taken: set[str] = set()
    assert [safe_name(name, taken) for name in ("a b", "a\tb", "", "é" * 200)] == ["a_b", "a_b_1", "unnamed", "é" * 100]


@pytest.mark.parametrize("content", [b"", b"7767517\n3 3\nInput x 0 1 x\n", b"\x89PNG\r\n", b"7767517\n"])
def test_what_is_no_param_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.param").write_bytes(content)
    (tmp_path / "net.bin").write_bytes(b"")
    with pytest.raises(UnsupportedModel, match=r"no whole \.param file"):
        open_ncnn(tmp_path / "net.param")


def test_a_missing_file_and_too_few_weights_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="is not there"):
        open_ncnn(tmp_path / "net.param")
    write_ncnn(made(CONV)[0], tmp_path / "net.param")
    (tmp_path / "net.bin").write_bytes((tmp_path / "net.bin").read_bytes()[:40])
    with pytest.raises(UnsupportedModel, match="too few weights"):
        open_ncnn(tmp_path / "net.param")


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "needs 'x'"),
        ({"x": np.zeros((1, 3, 9, 9), np.int8)}, "takes real numbers"),
        ({"x": np.zeros((0, 3, 9, 9), np.float32)}, "or none"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(made: Made, tmp_path: Path, feeds: dict, message: str) -> None:
    write_ncnn(made(CONV)[0], tmp_path / "net.param")
    with pytest.raises(BadCalibration, match=message):
        NcnnExecutor(tmp_path / "net.param")(feeds)
