"""Promised: FP32 and FP16 in one model. What is quantized, what the table or the user pins, and what would overflow or
vanish stays float32, with the reason; the rest computes in 16 bits; inputs and outputs keep their type unless asked.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, pipeline
from halfeven.errors import BadOption
from halfeven.exporters.onnx import to_qdq
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.half import PINNED, Half
from halfeven.steps.observe import Observe
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
Placed = Callable[..., Draft]
Samples = Callable[..., list]
ORT = TARGETS["onnxruntime"]

NETWORK = (
    "g (float[1,3,8,8] x) => (float[1,5] y) <float[4,3,3,3] w, float[4] b, float[144,5] v, float[4] k, int64[2] shape ="
    " {1, 144}> { [conv] h = Conv(x, w, b)  [act] r = Relu(h)  [flat] f = Reshape(r, shape)  [fc] m = MatMul(f, v)"
    "  [soft] y = Softmax(m) }"
)


def halved(placed: Placed, model: ir.Model, data: list, mode: str = "float", **options: object) -> Draft:
    draft = placed(model, ORT, data, mode=mode)
    return pipeline(Observe(), Calibrate(), Half(**options))(draft, data)  # type: ignore[arg-type]


def types_of(model: ir.Model) -> dict[str, set[str]]:
    """By node, the floating types of what it reads and makes."""
    floats = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    return {
        node.name or "": {v.dtype.name for v in (*node.inputs, *node.outputs) if v is not None and v.dtype in floats}
        for node in model.graph
        if node.op_type != "Cast"
    }


def test_two_precisions_stand_in_one_model_and_some_operators_are_pinned(
    build: Build, samples: Samples, placed: Placed
) -> None:
    model = build(NETWORK.replace("float[4] k, ", ""))
    data = samples(model, 4)
    draft = halved(placed, model, data, dtype="fp16", keep_fp32=("f*",))
    mixed = to_qdq(draft)
    onnx.checker.check_model(ir.to_proto(mixed), full_check=True)
    assert types_of(mixed) == {
        "conv": {"FLOAT16"},
        "act": {"FLOAT16"},
        "flat": {"FLOAT"},
        "fc": {"FLOAT"},
        "soft": {"FLOAT"},
    }
    stored = {name: value.dtype.name for name, value in mixed.graph.initializers.items()}
    assert stored == {"w_float16": "FLOAT16", "b_float16": "FLOAT16", "v": "FLOAT", "shape": "INT64"}
    assert [v.dtype for v in (*mixed.graph.inputs, *mixed.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert "2 nodes compute in float16" in draft.notes
    assert any(note.endswith("in float32: kept in float32 by --keep-fp32 'f*'") for note in draft.notes)
    assert any(note.startswith("Softmax 'soft' in float32: a sum of squares") for note in draft.notes)
    for _, feeds in data:
        expected, found = OrtExecutor(model)(feeds)["y"], OrtExecutor(mixed)(feeds)["y"]
        assert sqnr_db(expected, found) > 50
        assert (expected != found).any()


def test_a_quantized_network_computes_its_float_regions_in_float16(
    build: Build, samples: Samples, placed: Placed, tmp_path: object
) -> None:
    text = (
        "g (float[1,8,12,12] x) => (float[1,8,10,10] y) <float[8,8,3,3] w, float[8,8,1,1] k>"
        " { [conv] h = Conv(x, w)  [tanh] t = Tanh(h)  [erf] y = Erf(t) }"
    )
    model = build(text)
    data = samples(model, 4)
    draft = placed(model, ORT, data, prefer="size")
    draft = pipeline(Observe(), Calibrate(), Half(dtype="fp16"))(draft, data)
    mixed = to_qdq(draft)
    kinds = types_of(mixed)
    assert kinds["conv"] == {"FLOAT"}
    assert kinds["tanh"] == kinds["erf"] == {"FLOAT16"}
    assert "QuantizeLinear" in {node.op_type for node in mixed.graph}
    for _, feeds in data:
        assert sqnr_db(OrtExecutor(model)(feeds)["y"], OrtExecutor(mixed)(feeds)["y"]) > 25


def test_what_reaches_beyond_float16_on_the_data_is_named_and_pinned(
    build: Build, samples: Samples, placed: Placed
) -> None:
    model = build(
        "g (float[2,6] x) => (float[2,6] y) <float[6] big = {300,300,300,300,300,300}, float[6] small = {0.001,0.001,"
        "0.001,0.001,0.001,0.001}> { [up] a = Mul(x, big)  [square] b = Mul(a, a)  [down] c = Mul(b, small)"
        "  [last] y = Tanh(c) }"
    )
    data = samples(model, 4)
    draft = halved(placed, model, data, dtype="fp16")
    kinds = types_of(to_qdq(draft))
    assert kinds == {"up": {"FLOAT16"}, "square": {"FLOAT"}, "down": {"FLOAT"}, "last": {"FLOAT16"}}
    assert any("'b' reaches" in note and "float16 ends at 65504" in note for note in draft.notes)
    plain = OrtExecutor(to_qdq(draft))
    assert all(np.isfinite(plain(feeds)["y"]).all() for _, feeds in data)
    bold = types_of(to_qdq(halved(placed, model, samples(model, 4, 1e-4), dtype="fp16")))
    assert bold["square"] == {"FLOAT16"}
    careful = halved(placed, model, samples(model, 4, 1e-1), dtype="fp16", headroom=1e3)
    assert types_of(to_qdq(careful))["square"] == {"FLOAT"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1e5, "its constant 'k' reaches 1e+05, above float16's 65504"),
        (1e-9, "its constant 'k' is too small for float16: 6 of 6 numbers would become 0"),
        (1e-7, "its constant 'k' is too small for float16: 0 of 6 numbers would become 0"),
    ],
)
def test_constants_that_overflow_or_vanish_are_named_and_pinned(
    build: Build, samples: Samples, placed: Placed, value: float, said: str
) -> None:
    model = build("g (float[2,6] x) => (float[2,6] y) <float[6] k> { [a] h = Mul(x, k)  [b] y = Tanh(h) }",
                  k=np.full(6, value, np.float32))  # fmt: skip
    draft = halved(placed, model, samples(model, 2), dtype="fp16")
    assert types_of(to_qdq(draft))["a"] == {"FLOAT"}
    assert any(said in note for note in draft.notes)
    assert types_of(to_qdq(halved(placed, model, samples(model, 2), dtype="bf16")))["a"] == {"BFLOAT16"}


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("ReduceMean<keepdims=0, axes=[1]>(x)", "FLOAT"),
        ("ReduceMean<keepdims=0, axes=[0]>(x)", "FLOAT16"),
        ("LayerNormalization(x, k)", "FLOAT"),
        ("Exp(x)", "FLOAT"),
        ("CumSum(x, one)", "FLOAT"),
        ("Tanh(x)", "FLOAT16"),
    ],
)
def test_the_table_and_the_length_of_a_sum_decide(
    build: Build, samples: Samples, placed: Placed, operator: str, kind: str
) -> None:
    model = build(
        f"g (float[2,2000] x) => (float[] y) <float[2000] k, int64 one = {{1}}> {{ [a] h = {operator}  [b] y = Tanh(h) }}"
    )
    model.graph.outputs[0].shape = None
    assert types_of(to_qdq(halved(placed, model, samples(model, 1), dtype="fp16")))["a"] == {kind}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_inputs_and_outputs_are_16_bit_if_asked(build: Build, samples: Samples, placed: Placed, dtype: str) -> None:
    model = build("g (float[2,6] x) => (float[2,4] y, float[2,6] r) <float[6,4] w> { r = Relu(x)  y = MatMul(r, w) }")
    data = samples(model, 2)
    mixed = to_qdq(halved(placed, model, data, dtype=dtype, interface="same"))
    proto = ir.to_proto(mixed)
    onnx.checker.check_model(proto, full_check=True)
    kind = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}[dtype]
    assert [v.dtype for v in (*mixed.graph.inputs, *mixed.graph.outputs)] == [kind] * 3
    assert {node.op_type for node in mixed.graph} == {"Relu", "MatMul"}
    run = onnx.reference.ReferenceEvaluator(proto)
    expected = OrtExecutor(model)(data[0][1])
    found = run.run(None, {"x": data[0][1]["x"].astype(kind.numpy())})
    for name, array in zip(expected, found, strict=True):
        assert sqnr_db(expected[name], array.astype(np.float32)) > (55 if dtype == "fp16" else 40)


def test_a_resize_keeps_its_scales_and_shapes_stay_what_they_are(
    build: Build, samples: Samples, placed: Placed
) -> None:
    model = build(
        "g (float[1,2,N,4] x) => (float[1,2,M,8] y) <float[4] scales = {1, 1, 2, 2}> { [s] n = Shape(x)"
        "  z = Cast<to=1>(n)  q = Cast<to=7>(z)  [t] h = Reshape(x, q)  [r] y = Resize(h, , scales) }"
    )
    data = samples(model, 2)
    mixed = to_qdq(halved(placed, model, data, dtype="fp16"))
    onnx.checker.check_model(ir.to_proto(mixed), full_check=True)
    assert types_of(mixed)["r"] == {"FLOAT", "FLOAT16"}
    assert mixed.graph.initializers["scales"].dtype == ir.DataType.FLOAT
    np.testing.assert_allclose(OrtExecutor(mixed)(data[0][1])["y"], OrtExecutor(model)(data[0][1])["y"], atol=2e-3)


def test_what_a_body_reads_from_outside_stays_float32(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (float[2,6] x, bool c) => (float[2,6] y) { [a] h = Tanh(x)  y = If(c) <then_branch = t () => (float[2,6] p)"
        " { p = Abs(h) }, else_branch = e () => (float[2,6] q) { q = Neg(h) }> }"
    )
    data = samples(model, 2)
    mixed = to_qdq(halved(placed, model, data, dtype="fp16"))
    assert types_of(mixed)["a"] == {"FLOAT16"}
    for _, feeds in data:
        np.testing.assert_allclose(OrtExecutor(mixed)(feeds)["y"], OrtExecutor(model)(feeds)["y"], atol=1e-3)


def test_a_transpose_that_would_crash_the_runtime_stays_float32(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (float[1,N,6] x) => (float[N,1,4] y) <float[6,4] w> { r = Tanh(x)  [t] h = Transpose<perm=[1,0,2]>(r)"
        "  [m] y = MatMul(h, w) }"
    )
    draft = halved(placed, model, samples(model, 2), dtype="fp16")
    kinds = types_of(to_qdq(draft))
    assert (kinds["t"], kinds["m"]) == ({"FLOAT"}, {"FLOAT16"})
    assert any("cannot load a float16 Transpose before a MatMul" in note for note in draft.notes)
    assert OrtExecutor(to_qdq(draft))(samples(model, 1)[0][1])["y"].shape == (2, 1, 4)


def test_without_a_type_nothing_changes_and_slips_are_errors(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(NETWORK.replace("float[4] k, ", ""))
    data = samples(model, 1)
    draft = placed(model, ORT, data, mode="float")
    assert Half()(draft, data, lambda *_: None) is draft
    with pytest.raises(BadOption, match=r"--keep-fp32 'hed/\*' matches no node"):
        halved(placed, model, data, dtype="fp16", keep_fp32=("hed/*",))
    with pytest.raises(BadOption, match=r"--float-dtype 'fp8' is not known. Choose fp32, fp16 or bf16"):
        halved(placed, model, data, dtype="fp8")


def test_every_pinned_operator_has_a_reason_and_exists() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert set(PINNED) <= known
    assert all(PINNED.values())
