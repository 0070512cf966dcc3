"""Promised: a network quantized for TNN is written byte for byte as TNN's sources read it; its codes, biases and scales are
the plan's; TNN's optimizer finds nothing that it would take for something else; what TNN cannot run is refused by name,
and a damaged file is told in one sentence.
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft
from halfeven.errors import BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.onnx import to_qdq
from halfeven.exporters.tnn.parts import raw, safe_name, word
from halfeven.exporters.tnn.write import write_tnn
from halfeven.graph.lower import lower
from halfeven.graph.prepare import prepare
from halfeven.run.tnn_file import Layer, TnnNetwork, read_tnn
from halfeven.targets.onnxruntime import ONNXRUNTIME
from halfeven.targets.tnn import TNN

Build = Callable[..., ir.Model]
Made = Callable[..., Draft]
DEMO = Path(str(files("halfeven.demo")))
CONV = "g (float[1,2,3,3] x) => (float[1,1,3,3] y) <float[1,2,1,1] w, float[1] b> { [conv_one] y = Conv(x, w, b) }"
COPY = ("-3.40282347e+38", "3.40282347e+38")
IMAGE = "g (float[N,4,6,6] x) => (float[N,4,6,6] y) <float[4,4,1,1] w, float[4,4,1,1] v> "


@pytest.fixture(scope="module")
def made(build: Build, samples: Callable, placed: Callable, calibrated: Callable) -> Made:
    """`made(text, target, **weights)`: a calibrated draft of the text's network."""

    def run(text: str, target: object = TNN, **weights: np.ndarray) -> Draft:
        model = build(text, **weights)
        data = samples(model)
        return calibrated(placed(model, target, data, prefer="size"), data)

    return run


def written(draft: Draft, folder: Path) -> tuple[TnnNetwork, tuple[str, ...]]:
    notes = write_tnn(draft, folder / "net.tnnproto")
    return read_tnn(folder / "net.tnnproto"), notes


def kinds(net: TnnNetwork) -> list[str]:
    return [layer.kind for layer in net.layers]


def test_a_convolution_has_the_bytes_that_the_sources_ask_for(made: Made, tmp_path: Path) -> None:
    draft = made(CONV, w=np.array([[[[1.27]], [[-0.5]]]], np.float32), b=np.array([0.25], np.float32))
    write_tnn(draft, tmp_path / "net.tnnproto")
    [conv] = [op for op in lower(to_qdq(draft)).ops if op.kind == "Conv"]
    sx, sw, sy = (float(t.params.scale.ravel()[0]) for t in (*conv.inputs[:2], *conv.outputs))
    assert (tmp_path / "net.tnnproto").read_text() == (
        '"1 2 1 4206624770 ,"\n"x 1 2 3 3 ,"\n" x y ,"\n"y ,"\n" 1 ,"\n'
        '"QuantizedConvolution conv_one 1 1 x y 1 2 1 1 1 1 1 0 0 1 -1 1 1 0 ,"\n'
    )
    version = b"\x02\x00\xbc\xfa"

    def blob(name: bytes, scale: float) -> bytes:
        head = struct.pack("<ii9si", 0, 9, b"BlobScale", len(name)) + name
        scales = version + struct.pack("<iif", 0, 4, scale)
        return head + scales + version + struct.pack("<iii", 3, 4, 0)

    codes = np.round(np.array([1.27, -0.5]) / sw)
    product = np.float32(sx) * np.float32(sw)
    layer = struct.pack("<ii20si8si8si", 0, 20, b"QuantizedConvolution", 8, b"conv_one", 8, b"conv_one", 1)
    layer += version + struct.pack("<ii2b", 2, 2, *codes.astype(int))
    layer += version + struct.pack("<iii", 3, 4, round(0.25 / float(product)))
    layer += version + struct.pack("<iif", 0, 4, product)
    expected = version + struct.pack("<i", 3) + blob(b"x_scale_data_", sx) + layer + blob(b"y_scale_data_", sy)
    assert (tmp_path / "net.tnnmodel").read_bytes() == expected


def test_an_array_says_its_axes_where_it_must() -> None:
    assert raw(np.ones((2, 1), np.float32), axes=True) == struct.pack("<Iiiiii2f", 0xFABC0004, 0, 8, 2, 2, 1, 1, 1)
    assert raw(np.zeros(0, np.int32)) == struct.pack("<Iii", 0xFABC0002, 3, 0)


def test_numbers_and_names_are_read_back_as_they_are() -> None:
    bits = np.random.default_rng(0).integers(0x20000000, 0x5F000000, 300).astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal([np.float32(word(float(n))) for n in bits], bits)
    taken: set[str] = set()
    names = [safe_name(name, taken) for name in ('a b,c:"d"', "a\tb_c__d_", "", "x_scale_data_")]
    assert names == ["a_b_c__d_", "a_b_c__d__1", "unnamed", "x_scale_data"]


def test_every_code_bias_and_scale_of_the_demo_network_is_the_plans(tmp_path: Path) -> None:
    result = halfeven.quantize(
        DEMO / "fashion_mnist_mbv2.onnx", DEMO / "calibration.npz", target="tnn", preprocess="fashion-mnist", limit=64,
        verify=False,
    )  # fmt: skip
    net, notes = written(result.draft, tmp_path)
    network = lower(to_qdq(result.draft))
    layers = [op for op in network.ops if op.kind in ("Conv", "Gemm")]
    assert len(layers) == len(net.weights) == 35
    assert notes[0].startswith("35 of 35 layers with weights and 6 others are int8 layers")
    by_name = {layer.name: layer for layer in net.layers}
    for op in layers:
        (x, w, b), y = op.inputs, op.outputs[0]
        held, layer = net.weights[op.name], by_name[op.name]
        codes = w.data if op.kind == "Conv" or op.attributes.get("transB") else w.data.T
        np.testing.assert_array_equal(held.values, codes.ravel())
        np.testing.assert_array_equal(held.bias, b.data)
        np.testing.assert_array_equal(held.scale, x.params.scale.ravel() * w.params.scale.ravel())
        np.testing.assert_array_equal(held.scale, np.broadcast_to(b.params.scale.ravel(), held.scale.shape))
        for blob, tensor in ((layer.inputs[0], x), (layer.outputs[0], y)):
            np.testing.assert_array_equal(net.scales[blob].values, tensor.params.scale.ravel())
    sums = [op for op in network.ops if op.kind == "Add"]
    assert [by_name[op.name].kind for op in sums] == ["QuantizedAdd"] * 6
    assert any("adds 6 sums into the 1 x 1 convolution before" in note for note in notes)
    assert net.inputs == {"input": (1, 1, 28, 28)}
    assert net.outputs == ("logits",)


def test_equal_drafts_give_equal_files_and_half_a_draft_none(made: Made, tmp_path: Path) -> None:
    draft = made(CONV)
    for name in ("a", "b"):
        write_tnn(draft, tmp_path / f"{name}.tnnproto")
    for suffix in (".tnnproto", ".tnnmodel"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    with pytest.raises(BadOption, match="cannot be written"):
        write_tnn(draft, tmp_path / "none" / "a.tnnproto")
    assert not (tmp_path / "none").exists()


# what it is, the network, its layers
KERNELS = {
    "a clamp below is an activation, one above the saturation of codes": (
        IMAGE + "{ l = Constant<value_float=0.0>()  h = Constant<value_float=0.01>()  a = Conv(x, w)  "
        "r = Clip(a, l, h)  y = Conv(r, v) }",
        ["QuantizedConvolution"] * 2,
    ),
    "a sum and its Relu": (
        IMAGE + "{ a = Conv(x, w)  s = Add(a, x)  r = Relu(s)  y = Conv(r, v) }",
        ["QuantizedConvolution", "QuantizedAdd", "QuantizedReLU", "QuantizedConvolution"],
    ),
    "a linear Upsample, which TNN would make int8": (
        "g (float[N,4,6,6] x) => (float[N,4,12,12] y) <float[4,4,1,1] w, float[4,4,1,1] v> { "
        "s = Constant<value_floats=[1.0,1.0,2.0,2.0]>()  a = Conv(x, w)  "
        'g0 = Resize<mode="linear">(a, , s)  y = Conv(g0, v) }',
        ["QuantizedConvolution", "Clip", "Upsample", "Clip", "QuantizedConvolution"],
    ),
    "a sum that is stretched, which TNN would make int8": (
        IMAGE + "{ a = Conv(x, w)  m = ReduceMax<axes=[2,3]>(a)  c = Conv(m, w)  s = Add(a, c)  y = Conv(s, v) }",
        ["QuantizedConvolution", "ReduceMax", "QuantizedConvolution", "Add", "Clip", "QuantizedConvolution"],
    ),
    "parts that become codes, one by one": (
        "g (float[N,4,6,6] x) => (float[N,4,6,6] y, float[N,4,6,6] z) <float[4,2,1,1] w, float[4,2,1,1] v> { "
        "t = Constant<value_ints=[2,2]>()  g0 = Sigmoid(x)  l, r = Split<axis=1>(g0, t)  y = Conv(l, w)  z = Conv(r, v) }",
        ["Sigmoid", "SplitV", "Clip", "Clip", "QuantizedConvolution", "QuantizedConvolution"],
    ),
    "a Sigmoid's product, whose sides change": (
        IMAGE + "{ a = Conv(x, w)  s = Sigmoid(a)  m = Mul(a, s)  y = Conv(m, v) }",
        ["QuantizedConvolution", "Sigmoid", "Mul", "QuantizedConvolution"],
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_layers_are_int8_where_tnn_has_a_kernel_and_float_elsewhere(made: Made, tmp_path: Path, name: str) -> None:
    text, expected = KERNELS[name]
    net, _ = written(made(text), tmp_path)
    assert kinds(net) == expected
    int8 = {b for layer in net.layers if layer.quantized for b in (*layer.inputs, *layer.outputs)}
    assert set(net.scales) == int8
    for layer in net.layers:
        if layer.kind == "Clip" and "copy" in layer.name:
            assert layer.params == COPY
        if layer.kind == "Mul":
            assert layer.inputs[0] not in int8  # the Sigmoid


def test_an_input_that_int8_and_float_layers_read_is_copied(made: Made, tmp_path: Path) -> None:
    net, _ = written(
        made(
            "g (float[N,4,6,6] x) => (float[N,4,6,6] y, float[N,4,6,2] z) <float[4,4,1,1] w, float[4,4,1,1] v> { "
            "s = Constant<value_ints=[0]>()  e = Constant<value_ints=[2]>()  a = Constant<value_ints=[3]>()  "
            "y = Conv(x, w)  k = Slice(x, s, e, a)  z = Conv(k, v) }"
        ),
        tmp_path,
    )
    assert kinds(net) == ["Clip", "QuantizedConvolution", "StridedSliceV2", "QuantizedConvolution"]
    copy, first, sliced, _ = net.layers
    assert copy.inputs == ("x",)
    assert first.inputs == sliced.inputs == copy.outputs
    assert "x" not in net.scales


def test_numbers_that_float_layers_read_unrounded_are_told(made: Made, tmp_path: Path) -> None:
    text = IMAGE + "{ g0 = Sigmoid(x)  m = ReduceMax<axes=[2,3]>(g0)  c = Conv(m, w)  s = Add(g0, c)  a = Conv(g0, w)  t = Add(a, s)  y = Conv(t, v) }"  # fmt: skip
    _, notes = written(made(text), tmp_path)
    assert any(note.startswith("1 tensor that a float layer makes and both") for note in notes)


def test_a_clamp_that_no_kernel_has_leaves_its_layer_in_float_and_it_is_said(made: Made, tmp_path: Path) -> None:
    text = IMAGE + "{ l = Constant<value_float=-0.1>()  h = Constant<value_float=5.0>()  a = Conv(x, w)  r = Clip(a, l, h)  y = Conv(r, v) }"  # fmt: skip
    net, notes = written(made(text), tmp_path)
    assert kinds(net) == ["Convolution", "Clip", "QuantizedConvolution"]
    assert any(note.startswith("Conv 'Conv_a' runs in float: its clamp") for note in notes)


REFUSED = {
    "an unknown operator": ("g (float[N,4] x) => (float[N,4] y) { [node] y = Acosh(x) }", r"Acosh 'node'.*TNN"),
    "whole numbers": ("g (int64[N,4] x) => (int64[N,4] y) { y = Neg(x) }", r"Input 'x' is INT64"),
    "no weights": ("g (float[N,4] x) => (float[N,4] y) { y = Sigmoid(x) }", r"layers with weights; here are 0"),
    "a computed shape": (
        "g (float[N,4] x, float[N,2] z) => (float[a,b] y) { s = Cast<to=7>(z)  q = Constant<value_ints=[0]>()  "
        "t = Squeeze(s, q)  [node] y = Reshape(x, t) }", r"Cast.*cannot be written for TNN"
    ),
    "backwards": (
        "g (float[N,4] x) => (float[N,4] y) { s = Constant<value_ints=[-1]>()  e = Constant<value_ints=[-9]>()  "
        "a = Constant<value_ints=[1]>()  k = Constant<value_ints=[-1]>()  [node] y = Slice(x, s, e, a, k) }",
        r"Slice 'node'.*backwards",
    ),
    "pads of a pool that differ": (
        "g (float[N,4,6,6] x) => (float[N,4,6,6] y) { [node] y = MaxPool<kernel_shape=[2,2], pads=[0,0,1,1]>(x) }",
        r"MaxPool 'node'.*both sides",
    ),
    "another nearest pixel": (
        "g (float[N,4,6,6] x) => (float[N,4,9,9] y) { s = Constant<value_floats=[1.0,1.0,1.5,1.5]>()  "
        "[node] y = Resize(x, , s) }", r"Resize 'node'.*no nearest neighbour"
    ),
    "a constant that is joined": (
        "g (float[N,4] x) => (float[N,8] y) <float[1,4] c> { [node] y = Concat<axis=1>(x, c) }", r"Concat 'node'.*constant"
    ),
    "three spatial axes": (
        "g (float[N,2,4,4,4] x) => (float[N,2,4,4,4] y) <float[2,2,1,1,1] w> { [node] y = Conv(x, w) }",
        r"Conv 'node'.*3 axes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_tnn_cannot_run_is_refused_before_anything_is_written(build: Build, tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(UnsupportedByTarget, match=message):
        write_tnn(Draft(prepare(build(text))[0], TNN), tmp_path / "net.tnnproto")
    assert list(tmp_path.iterdir()) == []


def test_names_that_tnn_cannot_read_are_told(made: Made, tmp_path: Path) -> None:
    draft = made(CONV)
    draft.model.graph.inputs[0].name, before = "in put", draft.plan
    sites = {replace(site, value="in put" if site.value == "x" else site.value): g for site, g in before.sites.items()}
    net, notes = written(replace(draft, plan=replace(before, sites=sites)), tmp_path)
    assert list(net.inputs) == ["in_put"]
    assert any(note == "'in put' is called 'in_put' in TNN, whose names are single words." for note in notes)


def test_codes_with_a_zero_point_are_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedByTarget, match=r"uint8 affine.*--target tnn"):
        write_tnn(made(CONV, ONNXRUNTIME), tmp_path / "net.tnnproto")


# ------------------------------------------------------------------------------------------------- reading


@pytest.fixture(scope="module")
def files_of(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    write_tnn(made(CONV), folder / "net.tnnproto")
    return (folder / "net.tnnproto").read_bytes(), (folder / "net.tnnmodel").read_bytes()


def placed_in(folder: Path, proto: bytes, model: bytes) -> Path:
    (folder / "net.tnnproto").write_bytes(proto)
    (folder / "net.tnnmodel").write_bytes(model)
    return folder / "net.tnnproto"


def test_a_file_that_is_cut_or_garbled_is_told_in_a_sentence(files_of: tuple[bytes, bytes], tmp_path: Path) -> None:
    proto, model = files_of
    for length in range(0, len(proto) - 5, 3):
        with pytest.raises(UnsupportedModel, match=r"\.tnnproto file: "):
            read_tnn(placed_in(tmp_path, proto[:length], model))
    for length in range(0, len(model), 3):
        with pytest.raises(UnsupportedModel, match=r"\.tnnmodel file: "):
            read_tnn(placed_in(tmp_path, proto, model[:length]))
    rng = np.random.default_rng(0)
    for place in range(0, len(model), 2):  # any four bytes: some say a length of two thousand million
        bad = model[:place] + rng.bytes(2) + b"\xff\x7f" + model[place + 4 :]
        with suppress(UnsupportedModel):
            read_tnn(placed_in(tmp_path, proto, bad))


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (b"\x89PNG\r\n", "no text"),
        (b"{}", "no .tnnproto file"),
        (b'"1 2 1 4206624770 ,"\n"x 1 ,"\n" ,"\n"y ,"\n" 2 ,"\n"ReLU r 1 1 x y ,"\n', r"1 layers, not \['2'\]"),
        (b'"1 2 1 4206624770 ,"\n"x a ,"\n" ,"\n"y ,"\n" 1 ,"\n"ReLU r 1 1 x y ,"\n', "invalid literal"),
        (b'"1 2 1 4206624770 ,"\n"x 1 ,"\n" ,"\n"y ,"\n" 1 ,"\n"ReLU r 9 1 x y ,"\n', "fewer blobs"),
        (b'"1 2 1 4206624770 ,"\n"x 1 ,"\n" ,"\n"y ,"\n" 1 ,"\n"ReLU r x 1 y ,"\n', "how many blobs"),
    ],
)
def test_text_that_is_no_network_is_told(
    files_of: tuple[bytes, bytes], tmp_path: Path, proto: bytes, message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        read_tnn(placed_in(tmp_path, proto, files_of[1]))


def test_a_missing_file_is_told(files_of: tuple[bytes, bytes], tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"a\.tnnproto' cannot be read"):
        read_tnn(tmp_path / "a.tnnproto")
    (tmp_path / "a.tnnproto").write_bytes(files_of[0])
    with pytest.raises(BadOption, match=r"a\.tnnmodel' cannot be read"):
        read_tnn(tmp_path / "a.tnnproto")


def test_what_newer_tools_write_is_read_too(tmp_path: Path) -> None:
    proto = b'"1 2 1 4206624772 ,"\n"x 2 1 3 0 : z 1 4 3 ,"\n" x y ,"\n"y ,"\n" 1 ,"\n"MatMul m 1 1 x y 1 ,"\n'
    weights = struct.pack("<Iiiiii6f", 0xFABC0004, 0, 24, 2, 3, 2, *range(6))
    scale = struct.pack("<Iii1b", 0xFABC0002, 2, 1, 3) + struct.pack("<Iiif", 0xFABC0002, 0, 4, 0.5)
    model = struct.pack("<Iiii6si1s", 0xFABC0004, 2, 0, 6, b"MatMul", 1, b"m")
    model += weights + struct.pack("<ii9si13s", 0, 9, b"BlobScale", 13, b"x_scale_data_") + scale
    model += struct.pack("<Iiii", 0xFABC0002, 3, 4, 0)
    net = read_tnn(placed_in(tmp_path, proto, model))
    assert net.inputs == {"x": (1, 3), "z": (4,)}
    assert net.layers == (Layer("MatMul", "m", ("x",), ("y",), ("1",)),)
    np.testing.assert_array_equal(net.weights["m"].values, np.arange(6, dtype=np.float32).reshape(3, 2))
    assert (net.scales["x"].scale, net.scales["x"].zero_points) == (np.float32(0.5), np.int8(3))


def test_weights_of_a_layer_that_is_not_known_are_told(files_of: tuple[bytes, bytes], tmp_path: Path) -> None:
    bad = files_of[1].replace(b"QuantizedConvolution", b"QuantizedSomething!!")
    with pytest.raises(UnsupportedModel, match="'Something!!', whose layout is not known"):
        read_tnn(placed_in(tmp_path, files_of[0], bad))
