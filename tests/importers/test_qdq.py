"""Promised: a QDQ model, ours or another tool's, becomes a float model and a plan that compute the same integers when
they are written again; names and kinds of places are those of the float graph where they can be told.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import halfeven
from halfeven.draft import Draft
from halfeven.errors import UnsupportedModel
from halfeven.exporters.interface import integer_interface
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.model import load
from halfeven.graph.plan import Site, changes
from halfeven.importers.qdq import draft_of
from halfeven.run.ort import OrtExecutor
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
DEMO = files("halfeven.demo")
NET = str(DEMO / "fashion_mnist_mbv2.onnx")
ONNX_TARGETS = [name for name, target in TARGETS.items() if "qdq" in target.formats]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Of the shipped calibration pictures the first 12, as the network takes them."""
    with np.load(str(DEMO / "calibration.npz"), allow_pickle=False) as stored:
        return ((stored["x"][:12, None].astype(np.float32) / 255 - 0.2860) / 0.3530).astype(np.float32)


def rewritten(model: ir.Model, target: str = "onnxruntime") -> tuple[Draft, ir.Model]:
    """The draft of a QDQ model, and the QDQ model of that, whether or not the target could run it."""
    draft = draft_of(model, TARGETS[target])
    return draft, to_qdq(replace(draft, target=replace(draft.target, rules=(), takes=())))


def integers(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[bytes]:
    """What every QuantizeLinear makes in one run of the graph as written, in the order of their names."""
    wanted = tuple(n.outputs[0].name or "" for n in model.graph if n.op_type == "QuantizeLinear")
    found = OrtExecutor(model, wanted, optimize=False)(feeds)
    return sorted(np.asarray(found[name]).astype(np.int32).tobytes() for name in wanted)


def constants(model: ir.Model) -> list[bytes]:
    """The codes of the constants that DequantizeLinear reads, each tensor's in ascending order."""
    read = [n.inputs[0] for n in model.graph if n.op_type == "DequantizeLinear"]
    tensors = {v.name: v.const_value for v in read if v is not None and v.const_value is not None}
    return sorted(np.sort(t.numpy().astype(np.int32).ravel()).tobytes() for t in tensors.values())


def same(first: ir.Model, second: ir.Model, feeds: dict[str, np.ndarray]) -> None:
    """Check that two graphs compute the same numbers from the same codes."""
    if not any(n.op_type == "QuantizeLinear" and n.inputs[0].const_value is not None for n in first.graph):  # type: ignore[union-attr]
        assert constants(first) == constants(second)
    a, b = (OrtExecutor(model, optimize=False)(feeds) for model in (first, second))
    assert list(a) == list(b)
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name])


@pytest.mark.parametrize("target", ONNX_TARGETS)
def test_the_demo_network_goes_out_and_in_and_out_with_the_same_integers(pictures: np.ndarray, target: str) -> None:
    draft = halfeven.quantize(NET, pictures, target=target, verify=False).draft
    first = to_qdq(draft)
    again = draft_of(first, TARGETS[target])
    second = to_qdq(again)
    feeds = {"input": pictures[:3]}
    same(first, second, feeds)
    assert integers(first, feeds) == integers(second, feeds)
    assert [c.text for c in changes(draft.plan, again.plan) if c.kind != "node"] == []
    assert again.notes == ()
    names = {v.name for node in again.model.graph for v in node.outputs}
    assert {site.value for site in draft.plan.sites if not site.consumer} <= names


class Reader(CalibrationDataReader):
    """The pictures, one by one."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.rest = iter([{"input": pictures[i : i + 1]} for i in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rest, None)


THEIRS = {
    "u8s8 per channel": {"activation_type": QuantType.QUInt8, "per_channel": True},
    "s8s8 symmetric": {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}},
    "u8u8": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "weights quantized in the graph, a pair for each reader": {
        "activation_type": QuantType.QInt8,
        "per_channel": True,
        "extra_options": {"AddQDQPairToWeight": True, "DedicatedQDQPair": True},
    },
}


@pytest.mark.parametrize("name", THEIRS)
def test_a_file_of_another_quantizer_computes_the_same_when_written_again(
    pictures: np.ndarray, tmp_path: Path, name: str
) -> None:
    settings = {"weight_type": QuantType.QInt8, **THEIRS[name]}
    path = str(tmp_path / "theirs.onnx")
    quantize_static(NET, path, Reader(pictures), quant_format=QuantFormat.QDQ, **settings)
    model = load(path)
    draft, again = rewritten(model)
    same(model, again, {"input": pictures[:3]})
    before = {n.name for n in load(NET).graph} - {""}
    kept = {node.name for node in draft.model.graph}
    assert {n for n in before if not any(word in n for word in ("Clip", "Identity", "Constant"))} <= kept
    assert not any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in draft.model.graph)
    assert any(site.value.endswith("Conv_output_0") or "Add_output" in site.value for site in draft.plan.sites)


# ------------------------------------------------------------------------------------- by hand

HEAD = "g (float[1,4,6,6] x) => (float[1,4,h,w] y)"
SCALES = (
    "float s = {0.05}, uint8 z = {128}, float t = {0.02}, uint8 u = {100}, float[4] ws = {0.01, 0.02, 0.03, 0.04},"
    " int8[4] wz = {0, 0, 0, 0}, float[4] bs = {0.0005, 0.001, 0.0015, 0.002}, int32[4] bz = {0, 0, 0, 0},"
    " int8[4,4,1,1] wq, int32[4] bq, float[4,4,1,1] wf"
)
X = "xq = QuantizeLinear(x, s, z)  xr = DequantizeLinear(xq, s, z)  w = DequantizeLinear <axis = 0> (wq, ws, wz)"
GRAPHS = {
    "a layer with bias": f"{X} b = DequantizeLinear <axis = 0> (bq, bs, bz) c = Conv(xr, w, b)"
    " q = QuantizeLinear(c, t, u) y = DequantizeLinear(q, t, u)",
    "a bias of another scale": f"{X} b = DequantizeLinear <axis = 0> (bq, ws, bz) y = Conv(xr, w, b)",
    "a number quantized in the graph": "xq = QuantizeLinear(x, s, z) xr = DequantizeLinear(xq, s, z)"
    " wn = QuantizeLinear <axis = 0> (wf, ws, wz) w = DequantizeLinear <axis = 0> (wn, ws, wz) y = Conv(xr, w)",
    "a weight transposed": f"{X} v = Transpose <perm = [1, 0, 2, 3]> (w) y = Conv(xr, v)",
    "two pairs in a row": f"{X} c = Conv(xr, w) q = QuantizeLinear(c, t, u) r = DequantizeLinear(q, t, u)"
    " p = QuantizeLinear(r, s, z) o = DequantizeLinear(p, s, z) y = Conv(o, w)",
    "the same pair twice in a row": f"{X} xp = QuantizeLinear(xr, s, z) xo = DequantizeLinear(xp, s, z) y = Conv(xo, w)",
    "codes moved": f"{X} m = MaxPool <kernel_shape = [2, 2]> (xq) mr = DequantizeLinear(m, s, z) y = Conv(mr, w)",
    "codes moved twice": "xq = QuantizeLinear(x, s, z) a = Transpose <perm = [0, 1, 3, 2]> (xq)"
    " m = MaxPool <kernel_shape = [2, 2]> (a) y = DequantizeLinear(m, s, z)",
    "one reader through a pair and one without": f"{X} c = Conv(xr, w) d = Sigmoid(x) y = Add(c, d)",
    "two pairs on one value": f"{X} xt = QuantizeLinear(x, t, u) xv = DequantizeLinear(xt, t, u) c = Conv(xr, w)"
    " d = Conv(xv, w) y = Add(c, d)",
    "an input that is the output": "xq = QuantizeLinear(x, s, z) y = DequantizeLinear(xq, s, z)",
    "an output with other readers": f"{X} c = Conv(xr, w) k = Sigmoid(c) q = QuantizeLinear(k, t, u)"
    " y0 = DequantizeLinear(q, t, u) n = Conv(y0, w) y = Add(n, c)",
    "a value of its own and a pair that is the output": f"{X} c = Conv(xr, w) k = Sigmoid(c)"
    " q = QuantizeLinear(c, t, u) y = DequantizeLinear(q, t, u)",
    "no zero point": "xq = QuantizeLinear(x, s) xr = DequantizeLinear(xq, s) w = DequantizeLinear <axis = 0> (wq, ws)"
    " y = Conv(xr, w)",
}


def feeds_of(seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(0, 3, (1, 4, 6, 6)).astype(np.float32)}


def by_hand(build: Build, body: str, head: str = HEAD, opset: int = 17) -> ir.Model:
    rng = np.random.default_rng(1)
    codes = {"wq": rng.integers(-127, 128, (4, 4, 1, 1)), "bq": rng.integers(-(2**23), 2**23, 4)}
    model = build(f"{head} <{SCALES}> {{ {body} }}", opset=opset, **codes)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]
    for output in model.graph.outputs:
        output.shape = None
    return model


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_by_hand_computes_the_same_when_written_again(build: Build, name: str) -> None:
    model = by_hand(build, GRAPHS[name])
    before = str(ir.to_proto(model))
    draft, again = rewritten(model)
    assert str(ir.to_proto(model)) == before
    assert not any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in draft.model.graph)
    assert all(value.dtype == ir.DataType.FLOAT for value in draft.model.graph.initializers.values())
    same(model, again, feeds_of())
    third = rewritten(again)[1]
    same(model, third, feeds_of(1))


def test_places_are_of_the_kind_that_they_are(build: Build) -> None:
    draft, _ = rewritten(by_hand(build, GRAPHS["a layer with bias"]))
    plan = draft.plan
    roles = {site.port: quantizer.role for site in plan.sites if (quantizer := plan.at(site)) and site.consumer}
    assert roles == {0: "activation", 1: "weight", 2: "bias"}
    bias = next(q for q in plan.groups.values() if q.role == "bias")
    assert bias.params is None, "its scale is that of the accumulator, which follows"
    assert str(plan.at(Site("y")).scheme) == "uint8 affine per-tensor"  # type: ignore[union-attr]
    assert {q.scheme.grid.narrow for q in plan.groups.values() if q.role == "weight"} == {True}


def test_a_bias_of_a_scale_of_its_own_keeps_it(build: Build) -> None:
    draft, _ = rewritten(by_hand(build, GRAPHS["a bias of another scale"]))
    (bias,) = [q for q in draft.plan.groups.values() if q.role == "bias"]
    assert bias.params is not None
    np.testing.assert_array_equal(bias.params.scale.ravel(), np.float32([0.01, 0.02, 0.03, 0.04]))


def test_names_of_the_float_graph_are_told_from_those_of_the_codes(build: Build) -> None:
    body = X.replace("xq =", "x_quantized =").replace("(xq", "(x_quantized").replace("(wq", "(k_quantized")
    body += " c_raw = Conv(xr, w) act_QuantizeLinear_Output = QuantizeLinear(c_raw, t, u)"
    body += " y = DequantizeLinear(act_QuantizeLinear_Output, t, u) e = Relu(y)"
    text = (
        f"{HEAD.replace('float[1,4,h,w] y', 'float[1,4,h,w] e')} <{SCALES.replace(' wq', ' k_quantized')}> {{ {body} }}"
    )
    draft, _ = rewritten(build(text, k_quantized=np.ones((4, 4, 1, 1))))
    assert "k" in draft.model.graph.initializers
    conv = next(n for n in draft.model.graph if n.op_type == "Conv")
    assert conv.outputs[0].name == "act"


def test_codes_at_the_border_become_real_numbers_and_it_is_said(pictures: np.ndarray) -> None:
    draft = halfeven.quantize(NET, pictures, target="integer", verify=False).draft
    model = integer_interface(to_qdq(draft), draft, "int8")
    again = draft_of(model, TARGETS["integer"])
    assert {v.dtype for v in (*again.model.graph.inputs, *again.model.graph.outputs)} == {ir.DataType.FLOAT}
    assert len(again.notes) == 2
    same(to_qdq(draft), to_qdq(again), {"input": pictures[:2]})


def test_codes_of_eight_bits_come_back_from_any_scale_and_zero_point() -> None:
    from halfeven.importers.qdq_constants import real_tensor
    from halfeven.numerics.grid import IntGrid
    from halfeven.numerics.quantize import quantize
    from halfeven.numerics.scheme import QParams, Scheme, ZeroRule

    rng = np.random.default_rng(0)
    for bits, signed in ((4, True), (8, True), (8, False), (16, True), (16, False)):
        grid = IntGrid(bits, signed=signed)
        codes = np.arange(grid.low, grid.high + 1).astype(grid.dtype)
        for scale in rng.uniform(1e-6, 10, 40).astype(np.float32):
            zero = np.int32([rng.integers(grid.low, grid.high + 1)])
            params = QParams(Scheme(grid, zero_point=ZeroRule.FREE), np.float32([scale]), zero)
            tensor, lost = real_tensor(ir.tensor(codes), params, "w")
            assert lost == 0
            np.testing.assert_array_equal(quantize(tensor.numpy(), params), codes)


def test_biases_beyond_float32_are_counted() -> None:
    from halfeven.importers.qdq_constants import real_tensor
    from halfeven.numerics.grid import INT32
    from halfeven.numerics.quantize import quantize
    from halfeven.numerics.scheme import QParams, Scheme

    params = QParams(Scheme(INT32), np.float32([0.0003]), np.int32([0]))
    drawn = np.random.default_rng(0).normal(0, 1e5, 4000).astype(np.float32)
    codes = quantize(drawn, params)
    assert abs(codes.astype(np.int64)).max() > 2**28
    tensor, lost = real_tensor(ir.tensor(codes), params, "b")
    assert lost == 0, "a bias that was a float32 number once is one again"
    np.testing.assert_array_equal(quantize(tensor.numpy(), params), codes)
    codes[:3] = 0, 2**24 + 1, -(2**28) - 1
    tensor, lost = real_tensor(ir.tensor(codes), params, "b")
    assert np.flatnonzero(quantize(tensor.numpy(), params) != codes).tolist() == [1, 2]
    assert lost == 2


REFUSED = {
    "a scale that is computed": "a = ReduceMax <keepdims = 0> (x) q = QuantizeLinear(x, a, z)"
    " y = DequantizeLinear(q, a, z)",
    "no quantization": "y = Relu(x)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_without_a_plan_in_it_is_refused(build: Build, name: str) -> None:
    with pytest.raises(UnsupportedModel, match="no plan in it"):
        draft_of(by_hand(build, REFUSED[name]), TARGETS["onnxruntime"])


def test_what_no_plan_can_hold_stays_and_is_named(build: Build) -> None:
    body = f"{X} c = Conv(xr, w) a = Max(c, s) [odd] q = QuantizeLinear(c, t, u) k = ConvInteger(q, wq) f = Cast <to = 1> (k)"
    body += " y = Add(a, f)"
    model = by_hand(build, body)
    draft, again = rewritten(model)
    assert any("'odd'" in note for note in draft.notes)
    assert "odd" in draft.plan.floats
    same(model, again, feeds_of())


@pytest.mark.parametrize("name", ["the scale is zero", "the scale has another shape"])
def test_parameters_that_make_no_sense_are_refused_by_name(build: Build, name: str) -> None:
    scales = {"the scale is zero": "float s = {0.0}", "the scale has another shape": "float[3] s = {1.0, 1.0, 1.0}"}
    text = f"{HEAD} <{SCALES.replace('float s = {0.05}', scales[name])}> {{ q = QuantizeLinear(x, s, z) [bad] y = DequantizeLinear(q, s, z) }}"
    with pytest.raises(UnsupportedModel, match=r"'bad' cannot be used"):
        draft_of(build(text), TARGETS["onnxruntime"])
