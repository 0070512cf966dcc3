"""Promised: whole networks are imported with Transposes at their borders only, their names and interface kept, in every
form that TensorFlow Lite stores weights in; what becomes of it is said; and a file of codes gives its scales as a plan.
"""

import re
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Batch
from halfeven.errors import UnsupportedModel
from halfeven.exporters.onnx import to_qdq
from halfeven.importers.litert.contents import looks_like_tflite
from halfeven.importers.litert.reader import CONVERTERS, import_tflite, load_tflite
from halfeven.importers.litert.schema import OPERATORS, OPTIONS
from halfeven.importers.qdq import draft_of
from halfeven.run.litert import schema
from halfeven.run.ort import OrtExecutor
from halfeven.targets import target_named

pytest.importorskip("ai_edge_litert")
W = Any


def mobile_net(w: W, size: int = 16) -> int:
    """A picture classifier in the manner of MobileNetV2: its picture is input 0."""
    x = w.feed(1, size, size, 3)
    h = w.conv(x, 3, 8, strideH=2, strideW=2, fusedActivationFunction=3)
    fields = {"depthMultiplier": 1, "dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": 3}
    d = w.op(
        "DEPTHWISE_CONV_2D",
        [h, w.drawn(1, 3, 3, 8), w.drawn(8)],
        options="DepthwiseConv2D",
        strideH=1,
        strideW=1,
        **fields,
    )
    a = w.op("ADD", [h, w.conv(d, 8, 8, kernel=1)], options="Add")
    m = w.op("MEAN", [a, w.const([1, 2])], options="Reducer", keepDims=False)
    y = w.op("FULLY_CONNECTED", [m, w.drawn(5, 8), w.drawn(5)], options="FullyConnected")
    return int(w.op("SOFTMAX", [y], options="Softmax", beta=1.0))


def segmenter(w: W) -> int:
    """Down, up, joined with what was kept, cut and padded: an image for an image."""
    x = w.feed(1, 8, 10, 4)
    down = w.op("MAX_POOL_2D", [w.conv(x, 4, 6)], options="Pool2D", strideH=2, strideW=2, filterHeight=2, filterWidth=2)
    up = w.op("RESIZE_BILINEAR", [down, w.const([8, 10])], options="ResizeBilinear", halfPixelCenters=True)
    joined = w.op("CONCATENATION", [up, x], options="Concatenation", axis=3)
    gate = w.op("LOGISTIC", [w.op("MEAN", [joined, w.const([1, 2])], options="Reducer", keepDims=True)])
    gated = w.op("MUL", [joined, gate], options="Mul")
    padded = w.op("PAD", [gated, w.const([[0, 0], [1, 1], [1, 1], [0, 0]])])
    cut = w.op("SLICE", [padded, w.const([0, 0, 1, 0]), w.const([1, -1, -1, -1])])
    return int(w.op("PRELU", [w.conv(cut, 10, 4, padding=1), w.drawn(1, 1, 4)]))


def near(found: Batch, wanted: Batch, share: float = 1e-5) -> None:
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() <= share * np.abs(array).max()


@pytest.mark.parametrize(("network", "transposes"), [(mobile_net, 1), (segmenter, 2)])
def test_a_network_is_transposed_at_its_borders_only(
    network: Callable[[W], int], transposes: int, wiring: Callable[..., W], both: Callable[..., Any], tmp_path: Path
) -> None:
    w = wiring()
    network(w)
    answers = both(w.file(tmp_path), w.feeds())
    near(answers.found, answers.wanted)
    assert Counter(answers.operators)["Transpose"] == transposes


@pytest.mark.parametrize(
    ("network", "dtype", "apart"),  # int16: the runtime has no such PRELU
    [
        (mobile_net, "int8", 1),
        (mobile_net, "uint8", 1),
        (mobile_net, "int16", 8),
        (segmenter, "int8", 3),
        (segmenter, "uint8", 3),
    ],
)
def test_a_network_of_codes_answers_as_the_runtime_does(
    network: Callable[[W], int],
    dtype: str,
    apart: int,
    wiring: Callable[..., W],
    both: Callable[..., Any],
    tmp_path: Path,
) -> None:
    w = wiring()
    network(w)
    w.quantize(tmp_path, dtype)
    answers = both(w.file(tmp_path), w.feeds())
    (wanted,), (found,) = answers.wanted.values(), answers.found.values()
    codes = np.abs(found.astype(np.int64) - wanted)
    assert codes.max() <= apart
    assert codes.mean() <= apart / 2


def test_codes_become_a_plan_of_exactly_the_files_scales(wiring: Callable[..., W], tmp_path: Path) -> None:
    w = wiring()
    mobile_net(w)
    w.quantize(tmp_path)
    imported = load_tflite(w.file(tmp_path))
    draft = draft_of(imported.model, target_named("integer"))
    held = {w.name(i): t.quantization for i, t in enumerate(w.tensors) if t.quantization is not None}
    pinned = {site.value: draft.plan.groups[group].params for site, group in draft.plan.sites.items()}
    assert set(held) <= set(pinned)
    derived = {value for value, params in pinned.items() if params is None}  # biases, at the product of two scales
    assert derived == {w.name(op.inputs[2]) for kind, op in w.operators if kind.endswith(("CONV_2D", "CONNECTED"))}
    for value, params in pinned.items():
        if params is None:
            continue
        wanted = held["t12" if "GlobalAveragePool" in value else value.removesuffix("_channels_first")]
        np.testing.assert_array_equal(params.scale.ravel(), np.asarray(wanted.scale, np.float32))
        np.testing.assert_array_equal(params.zero_point.ravel(), wanted.zeroPoint)
    x = w.feeds()[w.name(w.inputs[0])]
    params = w.tensors[w.inputs[0]].quantization
    real = ((x.astype(np.float32) - params.zeroPoint[0]) * params.scale[0]).astype(np.float32)
    (again,), (once,) = (
        OrtExecutor(to_qdq(draft))({w.name(w.inputs[0]): real}).values(),
        OrtExecutor(imported.model)(w.feeds()).values(),
    )
    np.testing.assert_allclose(again, (once.astype(np.float32) + 128) / 256)


def test_an_imported_network_is_quantized_as_any_other(wiring: Callable[..., W], tmp_path: Path) -> None:
    w = wiring()
    mobile_net(w, 32)
    model = load_tflite(w.file(tmp_path)).model
    data = np.random.default_rng(0).normal(0, 1, (20, 32, 32, 3)).astype(np.float32)
    result = halfeven.quantize(model, data=data, target="integer")
    assert result.verification is not None
    assert "4 of 4 layers" in result.summary()


@pytest.mark.parametrize("signed", [True, False])
def test_weights_in_half_precision_or_codes_are_read_without_a_node_for_them(
    signed: bool, wiring: Callable[..., W], both: Callable[..., Any], tmp_path: Path
) -> None:
    w = wiring()
    x = w.image()
    kernel = w.rng.normal(0, 0.5, (8, 3, 3, 4)).astype(np.float32)
    if signed:
        stored = w.const(np.rint(kernel * 40).astype(np.int8), "int8")
        w.params(stored, np.full(8, 1 / 40), 0, 0)
    else:
        stored = w.const(kernel.astype(np.float16), "float16")
    real = w.op("DEQUANTIZE", [stored])
    w.op("CONV_2D", [x, real, w.drawn(8)], options="Conv2D", strideH=1, strideW=1)
    answers = both(w.file(tmp_path), w.feeds(), "optimized")
    near(answers.found, answers.wanted)
    assert answers.operators.count("DequantizeLinear") == signed
    assert "Cast" not in answers.operators
    assert signed == any("integer codes and computes in floating point" in note for note in answers.imported.notes)


def test_layers_of_dynamic_range_keep_their_codes(
    wiring: Callable[..., W], both: Callable[..., Any], tmp_path: Path
) -> None:
    w = wiring()
    weight = w.const(np.rint(w.rng.normal(0, 40, (5, 6))).astype(np.int8), "int8")
    w.params(weight, 0.01)
    w.op("FULLY_CONNECTED", [w.feed(2, 6), weight, w.drawn(5)], options="FullyConnected", asymmetricQuantizeInputs=True)
    answers = both(w.file(tmp_path), w.feeds())
    near(answers.found, answers.wanted, 0.02)  # the runtime quantizes the input to 8 bits
    assert answers.operators == ["DequantizeLinear", "Gemm"]


def test_weights_of_four_bits_are_read_low_half_first(wiring: Callable[..., W], tmp_path: Path) -> None:
    w = wiring()
    codes = np.array([[-8, 7, 1], [0, -1, 3]], np.int64)
    halves = codes.ravel() & 15
    weight = w.tensor((2, 3), "int8", (halves[::2] | halves[1::2] << 4).astype(np.uint8).tobytes())
    w.tensors[weight].type = schema().TensorType.INT4
    w.params(weight, [0.5, 0.25])
    y = w.op("FULLY_CONNECTED", [w.feed(1, 3), weight, -1], options="FullyConnected")
    w.tensors[y].shape = [1, 2]
    model = import_tflite(memoryview(w.packed()), "x.tflite").model
    x = np.array([[1, 2, 4]], np.float32)
    (found,) = OrtExecutor(model)({"t1": x}).values()
    np.testing.assert_array_equal(found, x @ (codes * [[0.5], [0.25]]).astype(np.float32).T)


@pytest.mark.parametrize("time_major", [True, False])
def test_an_lstm_answers_as_the_runtime_does(
    time_major: bool, wiring: Callable[..., W], both: Callable[..., Any], tmp_path: Path
) -> None:
    w = wiring()
    x, none = w.feed(5, 2, 3) if time_major else w.feed(2, 5, 3), -1
    gates = [w.drawn(4, 3) for _ in range(4)] + [w.drawn(4, 4) for _ in range(4)] + [none] * 3
    biases = [w.drawn(4) for _ in range(4)]
    state = [w.tensor((2, 4)), w.tensor((2, 4))]
    for index in state:
        w.tensors[index].isVariable = True
    w.op("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *gates, *biases, none, none, *state, none, none, none, none],
         options="UnidirectionalSequenceLSTM", fusedActivationFunction=4, timeMajor=time_major)  # fmt: skip
    answers = both(w.file(tmp_path), w.feeds())
    near(answers.found, answers.wanted)
    assert any("state of zero" in note for note in answers.imported.notes)


@pytest.mark.parametrize("blocks", [False, True])
def test_a_sparse_constant_is_read_into_its_dense_form(
    blocks: bool, wiring: Callable[..., W], both: Callable[..., Any], tmp_path: Path
) -> None:
    w, s = wiring(), schema()
    dense = np.zeros((4, 8), np.float32)
    dense[0, :4], dense[1, 4:], dense[3, :] = 1.5, -2.0, 0.25
    weight = w.const(dense)
    sparsity = s.SparsityParametersT()

    def level(size: int, segments: list[int] | None = None, indices: list[int] | None = None) -> Any:
        made = s.DimensionMetadataT()
        made.format, made.denseSize = int(segments is not None), size
        if segments is not None:
            made.arraySegmentsType = made.arrayIndicesType = s.SparseIndexVector.Uint8Vector
            made.arraySegments, made.arrayIndices = s.Uint8VectorT(), s.Uint8VectorT()
            made.arraySegments.values, made.arrayIndices.values = segments, indices
        return made

    if blocks:
        sparsity.traversalOrder, sparsity.blockMap = [0, 1, 2], [1]
        sparsity.dimMetadata = [level(4), level(0, [0, 1, 2, 2, 4], [0, 1, 0, 1]), level(4)]
    else:
        sparsity.traversalOrder, sparsity.blockMap = [0, 1], []
        rows = [np.flatnonzero(row).tolist() for row in dense]
        ends = np.cumsum([0, *map(len, rows)]).tolist()
        sparsity.dimMetadata = [level(4), level(0, ends, [i for row in rows for i in row])]
    w.tensors[weight].sparsity = sparsity
    w.buffers[w.tensors[weight].buffer] = dense[dense != 0].tobytes()
    w.op(
        "FULLY_CONNECTED",
        [w.feed(2, 8), w.op("DENSIFY", [weight], options="Densify"), w.drawn(4)],
        options="FullyConnected",
    )
    answers = both(w.file(tmp_path, "optimized"), w.feeds(), "optimized")
    near(answers.found, answers.wanted)
    np.testing.assert_array_equal(next(v.const_value.numpy() for v in answers.imported.model.graph.initializers.values()
                                       if v.shape == ir.Shape((4, 8))), dense)  # fmt: skip


def test_the_transposed_convolution_of_mediapipe_is_read(
    wiring: Callable[..., W], both: Callable[..., Any], tmp_path: Path
) -> None:
    w = wiring()
    w.custom["Convolution2DTransposeBias"] = "its options are a C structure"
    y = w.op("Convolution2DTransposeBias", [w.feed(1, 5, 6, 4), w.drawn(3, 2, 2, 4), w.drawn(3)])
    w.operators[-1][1].customOptions = list(struct.pack("<3i", 1, 2, 2))
    w.tensors[y].shape = [1, 10, 12, 3]
    answers = both(w.file(tmp_path, "xnnpack"), w.feeds(), "xnnpack")  # the only kernels that have it
    near(answers.found, answers.wanted)
    assert "ConvTranspose" in answers.operators


def test_open_axes_stay_open(wiring: Callable[..., W], tmp_path: Path) -> None:
    w = wiring()
    x = w.feed(1, 6, 7, 4, signature=[-1, 6, 7, 4])
    y = w.conv(x, 4, 8, strideH=2, strideW=2)
    path = w.file(tmp_path)
    w.tensors[y].shapeSignature = [-1, 3, 4, 8]
    path.write_bytes(w.packed())
    model = load_tflite(path).model
    assert [str(d) for d in model.graph.inputs[0].shape] == ["batch", "6", "7", "4"]
    (found,) = OrtExecutor(model)({"t0": np.zeros((3, 6, 7, 4), np.float32)}).values()
    assert found.shape == (3, 3, 4, 8)


def test_a_tensor_may_be_an_output_and_go_on_and_names_may_repeat(
    wiring: Callable[..., W], both: Callable[..., Any], tmp_path: Path
) -> None:
    w = wiring()
    x = w.image()
    y = w.conv(x, 4, 8)
    z = w.op("RELU", [y])
    w.tensors[z].name = b"twice"
    last = w.op("NEG", [z])
    w.tensors[last].name = b""
    w.outputs = [y, x, z, last]
    imported = load_tflite(w.file(tmp_path))
    assert [str(v.name) for v in imported.model.graph.outputs] == ["t3", "t0_1", "twice", f"tensor_{last}"]
    found = OrtExecutor(imported.model)(w.feeds())
    np.testing.assert_array_equal(np.maximum(found["t3"], 0), found["twice"])
    np.testing.assert_array_equal(-found["twice"], found[f"tensor_{last}"])


def test_the_tables_are_those_of_the_schema() -> None:
    s = schema()
    names = {number: name for name, number in vars(s.BuiltinOperator).items() if isinstance(number, int)}
    assert [names[i] for i in range(len(OPERATORS))] == list(OPERATORS)
    kinds = {number: name for name, number in vars(s.BuiltinOptions).items() if isinstance(number, int)}
    for name, options in OPTIONS.items():
        reader = getattr(s, kinds[options.table])
        assert name in CONVERTERS
        assert len(options.fields) <= sum(callable(getattr(reader, field)) for field in vars(reader))


@pytest.mark.parametrize("page", ["docs/tflite-import.md", "docs/zh/tflite-import.md"])
def test_the_pages_name_the_operators_that_are_imported(page: str) -> None:
    path = Path(__file__).parents[3] / page
    if not path.is_file():
        pytest.skip("the documents are not here")
    table = [line for line in path.read_text("utf-8").splitlines() if line.count("|") == 3]
    named = {word for line in table for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", line) if word in OPERATORS}
    assert named == {name for name in CONVERTERS if name in OPERATORS}


def test_many_tensors_of_one_name_cost_no_search(wiring: Callable[..., W]) -> None:
    w = wiring()
    x = w.feed(4)
    for _ in range(4000):
        x = w.op("ABS", [x])
        w.tensors[x].name = b"same"
    began = time.monotonic()
    names = {v.name for node in import_tflite(memoryview(w.packed()), "x.tflite").model.graph for v in node.outputs}
    assert len(names) == 4000
    assert time.monotonic() - began < 20


def test_what_cannot_be_imported_is_named(wiring: Callable[..., W], tmp_path: Path) -> None:
    w = wiring()
    w.custom["TFLite_Detection_PostProcess"] = "yes"
    w.op("TFLite_Detection_PostProcess", [w.op("SVDF", [w.op("RELU", [w.feed(1, 4)])])])
    with pytest.raises(UnsupportedModel, match=r"TFLite_Detection_PostProcess \(1\), SVDF \(1\).*[Cc]ustom"):
        import_tflite(memoryview(w.packed()), "x.tflite")


def test_a_file_is_recognized_by_its_mark() -> None:
    assert looks_like_tflite(b"\x1c\0\0\0TFL3")
    assert not looks_like_tflite(b"\x08\x08TFL3")
