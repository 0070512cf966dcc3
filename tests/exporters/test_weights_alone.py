"""Promised: weights alone in 8 or 4 bits, a scale for each output or for each block, the last block short where it must
be; read back, they are the weight rounded to nearest. MatMulNBits computes what DequantizeLinear and MatMul compute. No
data are needed; with data GPTQ rounds for the outputs. What each mode means for speed is said, and is so.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft, pipeline
from halfeven.errors import BadOption, UnsupportedByTarget
from halfeven.exporters.formats import exporter_named
from halfeven.exporters.nbits import packed_weight, to_nbits
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Plan, Site
from halfeven.numerics.lpbq import lpbq_parts
from halfeven.numerics.ragged import dequantize_ragged, quantize_ragged
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.gptq import Gptq
from halfeven.steps.observe import Observe
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
Placed = Callable[..., Draft]
Samples = Callable[..., list]
Sound = Callable[[Draft, ir.Model], None]
ORT = TARGETS["onnxruntime"]

PRODUCTS = (
    "g (float[3,70] x) => (float[3,5] y) <float[70,48] w, float[24,48] v, float[24] c, float[24,5] u>"
    " { [a] h = MatMul(x, w)  [b] k = Gemm<transB=1>(h, v, c)  r = Relu(k)  [d] y = MatMul(r, u) }"
)


def alone(build: Build, placed: Placed, text: str = PRODUCTS, data: object = (), **options: object) -> Draft:
    draft = placed(build(text), ORT, data, mode="weight-only", **options)
    return Calibrate()(draft, (), lambda *_: None)


def optimized(model: ir.Model, folder: Path) -> list[str]:
    """The operators that the runtime makes of a model."""
    path = folder / "optimized.onnx"
    assert OrtExecutor(model, written=path).outputs
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("zero_points", ["none", "free"])
@pytest.mark.parametrize(("bits", "block"), list(product((4, 8), (0, 16, 32, 64, 128))))
def test_stored_weights_are_the_nearest_and_every_kernel_computes_with_them(
    build: Build, samples: Samples, placed: Placed, sound: Sound, bits: int, block: int, zero_points: str
) -> None:
    draft = alone(build, placed, bits=bits, block=block, zero_points=zero_points)
    quantized = to_qdq(draft)
    sound(draft, quantized)
    rounded = build(PRODUCTS)
    for (name, node), port in zip({"w": "a", "v": "b", "u": "d"}.items(), (1, 1, 1), strict=True):
        params = draft.plan.at(Site(name, node, port)).params  # type: ignore[union-attr]
        weight = rounded.graph.initializers[name]
        x = weight.const_value.numpy()
        values = dequantize_ragged(quantize_ragged(x, params), params)
        assert sqnr_db(x, values) > (14 if bits == 4 else 37)
        weight.const_value = ir.tensor(values, name=name)
        assert params.scheme.grid.bits == bits
        assert params.scheme.symmetric == (zero_points == "none")
        stored = quantized.graph.initializers[f"{name}_quantized"].const_value
        kind = {4: ir.DataType.INT4, 8: ir.DataType.INT8} if params.scheme.symmetric else None
        assert stored.dtype == (kind or {4: ir.DataType.UINT4, 8: ir.DataType.UINT8})[bits]
        np.testing.assert_array_equal(stored.numpy().astype(np.int16), quantize_ragged(x, params))
    packed, notes = to_nbits(to_qdq(draft))
    assert [n.op_type for n in packed.graph].count("MatMulNBits") == 3
    assert notes == ("3 matrix products became MatMulNBits, activations in float32",)
    fast, _ = to_nbits(to_qdq(draft), 4)
    for _, feeds in samples(build(PRODUCTS), 2):
        expected = OrtExecutor(rounded, optimize=False)(feeds)["y"]
        for run in (OrtExecutor(quantized, optimize=False), OrtExecutor(packed)):
            found = run(feeds)["y"]
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * float(np.abs(expected).max()))
        for model in (quantized, fast):  # the runtime rounds activations to int8 in both
            assert sqnr_db(expected, OrtExecutor(model)(feeds)["y"]) > 30


@pytest.mark.parametrize("block", [16, 64])
def test_whole_block_scales_are_multiples_of_a_channels_and_the_file_computes_with_them(
    build: Build, samples: Samples, placed: Placed, sound: Sound, block: int
) -> None:
    draft = alone(build, placed, bits=4, block=block, block_scales="integer")
    quantized = to_qdq(draft)
    sound(draft, quantized)
    rounded = build(PRODUCTS)
    for name, node, channel in (("w", "a", 1), ("v", "b", 0), ("u", "d", 1)):
        params = draft.plan.at(Site(name, node, 1)).params  # type: ignore[union-attr]
        assert lpbq_parts(params, channel) is not None
        weight = rounded.graph.initializers[name]
        x = weight.const_value.numpy()
        weight.const_value = ir.tensor(dequantize_ragged(quantize_ragged(x, params), params), name=name)
    _, feeds = samples(rounded, 1)[0]
    expected = OrtExecutor(rounded, optimize=False)(feeds)["y"]
    found = OrtExecutor(quantized, optimize=False)(feeds)["y"]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5 * float(np.abs(expected).max()))


def test_matmulnbits_packs_rows_in_blocks_low_half_first() -> None:
    codes = np.arange(1, 7, dtype=np.int16).reshape(2, 3)
    data, scales, zeros = packed_weight(
        codes, np.array([[1.0], [2.0]], np.float32), np.array([[8], [8]], np.int16), 4, 16
    )
    assert data.shape == (2, 1, 8)
    assert data[:, 0, :2].tolist() == [[0x21, 0x03], [0x54, 0x06]]
    assert scales.tolist() == [1.0, 2.0]
    assert zeros is None
    whole = np.zeros((1, 33), np.int16)
    _, scales, zeros = packed_weight(whole, np.ones((1, 3), np.float32), np.array([[3, 5, 7]], np.int16), 4, 16)
    assert zeros is not None
    assert zeros.tolist() == [0x53, 0x07]
    _, scales, zeros = packed_weight(whole.repeat(10, 1), np.full((1, 1), 0.5, np.float32), np.full((1, 1), 9), 8)
    assert scales.tolist() == [0.5] * 3
    assert zeros is not None
    assert zeros.tolist() == [9, 9, 9]


ALL = (
    "g (int64[2,4] i, float[2,3,8,8] p, float[2,2,6] s) => (float[2,2,2,8] y, float[2,2,2,8] z, float[2,4,5] e, float[2,2,8,8] k)"
    " <float[4,3,3,3] c, float[4,2,3,3] t, float[20,5] table, float[1,32,6] w, float[1,32,8] r, float[2,24,6] gw,"
    " float[2,24,8] gr> { [table] e = Gather(table, i)  [conv] h = Conv(p, c)  [up] k = ConvTranspose(h, t)"
    "  [lstm] o = LSTM<hidden_size=8>(s, w, r)"
    '  [gru] z = GRU<hidden_size=8, direction="bidirectional">(s, gw, gr)  y = Concat<axis=1>(o, o) }'
)


def test_convolutions_tables_and_recurrent_weights_are_int8_whatever_matrices_are(
    build: Build, samples: Samples, placed: Placed, sound: Sound
) -> None:
    model = build(ALL)
    data = samples(model, 1)
    draft = Calibrate()(placed(model, ORT, data, mode="weight-only", bits=4, block=32), (), lambda *_: None)
    assert "weights of Conv, ConvTranspose, GRU, Gather, LSTM are int8" in draft.notes[-1]
    quantized = to_qdq(draft)
    sound(draft, quantized)
    kinds = {v.name: v.const_value.dtype for v in quantized.graph.initializers.values()}
    assert {k for k, kind in kinds.items() if kind == ir.DataType.INT8 and k.endswith("_quantized")} == {
        f"{name}_quantized" for name in ("c", "t", "table", "w", "r", "gw", "gr")
    }
    runs = [OrtExecutor(m)(data[0][1]) for m in (model, quantized)]
    assert all(sqnr_db(runs[0][name], runs[1][name]) > 35 for name in runs[0])
    channels = draft.plan.at(Site("gw", "gru", 1)).params.scale  # type: ignore[union-attr]
    assert channels.shape == (2, 24, 1)


def test_each_mode_says_what_it_computes_in_and_does_so(
    build: Build, samples: Samples, placed: Placed, tmp_path: Path
) -> None:
    """Weights alone make no integer kernel; scales found in each run do."""
    data = samples(build(PRODUCTS), 2)
    notes, kernels = {}, {}
    for mode in ("weight-only", "dynamic", "float"):
        draft = Calibrate()(placed(build(PRODUCTS), ORT, data, mode=mode), (), lambda *_: None)
        notes[mode], kernels[mode] = draft.notes[-1], set(optimized(to_qdq(draft), tmp_path))
    assert "the runtime makes them real and computes in float, no faster" in notes["weight-only"]
    assert "matrix products are of integers" in notes["dynamic"]
    assert notes["float"] == "nothing is quantized"
    integer = {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "MatMulInteger"}
    assert kernels["weight-only"].isdisjoint(integer)
    assert kernels["float"].isdisjoint(integer | {"DequantizeLinear"})
    assert "DynamicQuantizeMatMul" in kernels["dynamic"]


@pytest.mark.parametrize("zero_points", ["none", "free"])
def test_with_data_blocks_of_four_bits_are_rounded_for_the_outputs(
    build: Build, samples: Samples, placed: Placed, zero_points: str
) -> None:
    text = "g (float[40,64] x) => (float[40,8] y) <float[64,64] m, float[64,8] w> { h = MatMul(x, m)  [a] y = MatMul(h, w) }"
    rng = np.random.default_rng(5)
    mixing = (rng.normal(0, 1, (64, 4)) @ rng.normal(0, 1, (4, 64)) + 0.1 * rng.normal(0, 1, (64, 64))).astype(
        "float32"
    )
    model = build(text, m=mixing)
    data = samples(model, 12)
    expected = OrtExecutor(model)(data[0][1])["y"]
    quality = []
    for steps in ([Calibrate()], [Observe(), Calibrate(), Gptq()]):
        draft = placed(model, ORT, data, mode="weight-only", bits=4, block=32, zero_points=zero_points)
        found = OrtExecutor(to_qdq(pipeline(*steps)(draft, data)))(data[0][1])["y"]
        quality.append(sqnr_db(expected, found))
    assert quality[1] > quality[0] + 3


def test_a_plan_of_weights_alone_is_the_same_read_back(build: Build, placed: Placed, tmp_path: Path) -> None:
    draft = alone(build, placed, bits=4, block=32)
    draft.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").to_json() == draft.plan.to_json()


def test_a_plan_of_whole_block_scales_is_followed_and_refused_without_them(build: Build, tmp_path: Path) -> None:
    options = {"mode": "weight-only", "bits": 4, "block": 32, "block_scales": "integer", "verify": False}
    made = halfeven.quantize(ir.to_proto(build(PRODUCTS)), **options)
    made.plan.save(tmp_path / "plan.json")
    again = halfeven.quantize(ir.to_proto(build(PRODUCTS)), plan=tmp_path / "plan.json", verify=False)
    assert again.plan.to_json()["groups"] == made.plan.to_json()["groups"]
    bare = {g: replace(q, params=None) for g, q in made.plan.groups.items()}
    replace(made.plan, groups=bare).save(tmp_path / "bare.json")
    with pytest.raises(BadOption, match="Put the `params` back"):
        halfeven.quantize(ir.to_proto(build(PRODUCTS)), plan=tmp_path / "bare.json", verify=False)


def test_what_the_user_keeps_in_float_keeps_its_weights(build: Build, placed: Placed) -> None:
    draft = alone(build, placed, keep_float=("b",))
    assert {site.consumer for site in draft.plan.sites} == {"a", "d"}
    assert draft.plan.floats["b"].startswith("kept in float")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 5}, "--bits 5: weights alone"),
        ({"block": 24}, "--block 24: choose one of 16, 32, 64, 128"),
        ({"bits": 4, "block_scales": "integer"}, "--block-scales integer is of weights of 4 bits in blocks"),
        ({"block": 32, "block_scales": "integer"}, "--block-scales integer is of weights of 4 bits in blocks"),
        ({"bits": 4, "block": 32, "block_scales": "integer", "zero_points": "free"}, "no --zero-points free"),
    ],
)
def test_other_bits_and_blocks_are_refused(build: Build, placed: Placed, options: dict[str, object], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        alone(build, placed, **options)


@pytest.mark.parametrize("name", ["matmulnbits", "matmulnbits-int8"])
def test_without_such_products_nothing_is_written(build: Build, placed: Placed, tmp_path: Path, name: str) -> None:
    convolution = "g (float[1,3,8,8] x) => (float[1,4,6,6] y) <float[4,3,3,3] w> { y = Conv(x, w) }"
    with pytest.raises(UnsupportedByTarget, match="no matrix product whose weights alone are quantized"):
        exporter_named(name)(alone(build, placed, convolution), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    notes = exporter_named(name)(alone(build, placed), tmp_path / "model.onnx")
    level = {
        a.i for n in onnx.load(tmp_path / "model.onnx").graph.node for a in n.attribute if a.name == "accuracy_level"
    }
    assert level == ({4} if name.endswith("int8") else {0})
    assert ("int8" in notes[0]) == name.endswith("int8")
