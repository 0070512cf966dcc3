"""Without data, what BatchNormalization knew stands in: moments of clipped normals are right, high biases move on
without changing the function, the mean error of every channel goes, and a trained network keeps far more of its output.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import halfeven
import halfeven.demo
from halfeven.data.source import open_source
from halfeven.draft import Draft, pipeline
from halfeven.errors import BadCalibration
from halfeven.graph.model import load
from halfeven.graph.normals import normals_now
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.ragged import fake_quantize_ragged, ragged_params
from halfeven.numerics.scheme import Scheme, per_group
from halfeven.run.ort import OrtExecutor
from halfeven.run.specs import input_specs
from halfeven.stats.clipped import Clipped
from halfeven.stats.distance import sqnr_db
from halfeven.steps.absorb import Absorb, high_bias
from halfeven.steps.correct import mean_error
from halfeven.steps.equalize import Equalize
from halfeven.steps.expected import expected
from halfeven.steps.place import Place
from halfeven.steps.simplify import Simplify
from halfeven.steps.trace import Trace
from halfeven.targets import TARGETS

HOME = Path(halfeven.demo.__file__).parent
CHANNELS = 8
GAMMA = np.linspace(0.1, 1.6, CHANNELS).astype(np.float32)
BETA = np.array([4, 3, 2, 1, 0.5, -1, 5, 0], np.float32)
NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,8,6,6] x) => (float[N,5,6,6] y) <float zero = {0}, float top = {TOP}> {
    a = Conv(x, w1)  b = BatchNormalization<epsilon = 0.0>(a, gamma, beta, mean, var)  c = CLAMP  y = Conv(c, w2, b2)
}"""


def network(clamp: str = "Relu(b)", top: str = "6") -> onnx.ModelProto:
    """Standard normal inputs make of b exactly the normals of gamma and beta."""
    rng = np.random.default_rng(1)
    model = onnx.parser.parse_model(NET.replace("CLAMP", clamp).replace("TOP", top))
    mixing = np.linalg.qr(rng.standard_normal((CHANNELS, CHANNELS)))[0].reshape(CHANNELS, CHANNELS, 1, 1)
    tensors = {"w1": mixing, "gamma": GAMMA, "beta": BETA, "mean": np.zeros(CHANNELS), "var": np.ones(CHANNELS)}
    tensors |= {"w2": rng.standard_normal((5, CHANNELS, 1, 1)), "b2": rng.standard_normal(5)}
    for name, array in tensors.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def inputs(count: int = 64) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, CHANNELS, 6, 6)).astype(np.float32)


def prepared(model: onnx.ModelProto) -> Draft:
    draft = Draft(load(model), TARGETS["integer"])
    return pipeline(Simplify(), Trace(), Place(prefer="size"))(draft, [("x", {"x": inputs(1)})])


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0), (-0.5, 0.25)])
def test_the_moments_of_a_clipped_normal_are_those_of_many_samples(bounds: tuple[float, float]) -> None:
    mean, deviation = np.array([-3.0, -0.4, 0.0, 1.0, 5.0, 2.0]), np.array([0.5, 1.0, 2.0, 0.1, 3.0, 0.0])
    z = np.random.default_rng(0).standard_normal((400_000, 1))
    x = np.clip(mean + deviation * z, *bounds)
    clipped = Clipped.normal(mean, deviation).within(*bounds)
    found = clipped.moments()
    np.testing.assert_allclose(found[0], x.mean(0), atol=0.02)
    np.testing.assert_allclose(found[1], x.var(0), atol=0.05)
    stood_in = clipped.sample(4096, 6.0)
    np.testing.assert_allclose(stood_in.mean(1), found[0], atol=0.01)
    assert (stood_in.min(1), stood_in.max(1))[0] == pytest.approx(clipped.range(6.0)[0])


def test_folding_keeps_mean_and_deviation_through_affines_clones_and_opsets() -> None:
    model = network()
    model.graph.node[1].output[0] = "b0"
    model.graph.node.insert(2, onnx.helper.make_node("Mul", ["b0", "half"], ["b"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([[[[-0.5]]]]), "half"))
    for opset in (17, 12):
        model.opset_import[0].version = opset
        draft = Simplify()(Draft(load(model), TARGETS["integer"]), [("x", {"x": inputs(1)})], lambda *_: None)
        (normal,) = normals_now(draft.model.clone()).values()
        np.testing.assert_allclose(normal.mean, -0.5 * BETA)
        np.testing.assert_allclose(normal.deviation, 0.5 * GAMMA)


@pytest.mark.parametrize(("clamp", "top", "moved"), [("Relu(b)", "6", 4), ("Clip(b, zero, top)", "4.4", 3)])
def test_high_biases_move_on_and_the_network_computes_the_same(clamp: str, top: str, moved: int) -> None:
    draft = prepared(network(clamp, top))
    done = Absorb()(draft, (), lambda *_: None)
    values = [OrtExecutor(d.model, ("c", "y"))({"x": inputs()}, "x") for d in (draft, done)]
    before, after = (v["y"] for v in values)
    assert sqnr_db(before, after) > 45
    assert f"the high bias of {moved} channels" in " ".join(done.notes)
    peaks = [np.asarray(v["c"]).max((0, 2, 3)) for v in values]
    amount = high_bias(normals_now(draft.model)["b"], float(top) if "Clip" in clamp else np.inf, 3.0)
    assert (amount > 0).sum() == moved
    np.testing.assert_allclose(peaks[0] - peaks[1], amount, atol=1e-4 if "Relu" in clamp else 0.2)


def test_a_padded_reader_takes_up_no_bias() -> None:
    model = network()
    model.graph.node[-1].attribute.append(onnx.helper.make_attribute("pads", [1, 1, 1, 1]))
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 8
    model.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 8
    draft = prepared(model)
    assert Absorb()(draft, (), lambda *_: None).notes == draft.notes


def test_equalized_channels_are_known_as_they_are_now() -> None:
    draft = pipeline(Absorb(deviations=0), Equalize())(prepared(network()), [("x", {"x": inputs(2)})])
    assert "equalized 1 of 1" in " ".join(draft.notes)
    known = expected(draft.model, draft.shapes)
    seen = np.asarray(OrtExecutor(draft.model, ("c",))({"x": inputs(256)}, "x")["c"])
    np.testing.assert_allclose(known.means["c"], seen.mean((0, 2, 3)), rtol=0.05, atol=0.02)
    assert not np.allclose(known.clipped["b"].mean, BETA)


def test_correction_brings_down_the_mean_error_of_each_channel(tmp_path: Path) -> None:
    x, errors = inputs(400), []
    reference = OrtExecutor(load(network()))({"x": x}, "x")["y"]
    for skip in (("correct", "absorb", "equalize", "gptq"), ("absorb", "equalize", "gptq")):
        done = halfeven.quantize(network(), mode="weight-only", skip=skip, verify=False)
        off = np.asarray(OrtExecutor(done.model)({"x": x}, "x")["y"]) - reference
        errors.append(np.abs(off.mean((0, 2, 3))))
    assert (errors[1] < 0.1 * errors[0]).all()


def test_correction_knows_blocks_of_which_the_last_is_short() -> None:
    weight = np.random.default_rng(3).standard_normal((5, 20, 1, 1)).astype(np.float32)
    scheme = Scheme(IntGrid(4), per_group(4, 1, 16))
    params = ragged_params(weight, scheme)
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[1, 20, 3, 3] x) => (float[1, 5, 3, 3] y) { y = Conv(x, w) }'
    )
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    node = load(model).graph[0]
    mean = np.linspace(-1, 1, 20)
    expected = (fake_quantize_ragged(weight, params).astype(np.float64) - weight)[:, :, 0, 0] @ mean
    np.testing.assert_allclose(mean_error(node, params, mean), expected)


def test_a_trained_network_keeps_its_output_without_any_data() -> None:
    model = HOME / "fashion_mnist_mbv2.onnx"
    source = open_source(HOME / "test.npz", input_specs(load(model)), preprocess="fashion-mnist", limit=100)
    free, noise = (halfeven.quantize(model, verify=False, skip=skip) for skip in ((), ("absorb", "expect", "correct")))
    runs = [OrtExecutor(m) for m in (load(model), free.model, noise.model)]
    outputs = [np.concatenate([next(iter(r(f, n).values())) for n, f in source]) for r in runs]
    quality = [sqnr_db(outputs[0], other) for other in outputs[1:]]
    assert quality[0] > 25
    assert quality[0] > quality[1] + 10
    said = " ".join(free.notes)
    assert "those that BatchNormalization was trained with" in said
    assert "make up for rounded weights" in said
    assert "synthetic samples stand in" in said


def test_a_network_that_was_folded_before_says_that_noise_is_all_there_is() -> None:
    folded = prepared(network()).model.clone()
    for node in folded.graph:
        for value in node.outputs:
            value.meta.clear()
    notes = " ".join(halfeven.quantize(folded, verify=False, prefer="size").notes)
    assert "no BatchNormalization was folded here" in notes


BODY = """<ir_version: 4, opset_import: ["" : 8]>
net (float[1,8,6,6] x, bool p) => (float[1,5,6,6] y) {
    a = Conv(x, w1)  q = If (p) <
        then_branch = t () => (float[1,8,6,6] n) {
            m = Conv(a, w1)  n = BatchNormalization(m, gamma, beta, mean, var) },
        else_branch = e () => (float[1,8,6,6] r) { r = Relu(a) }>
    y = Conv(q, w2, b2)
}"""


def test_what_was_folded_inside_of_a_body_is_not_denied() -> None:
    model = onnx.parser.parse_model(BODY)
    model.graph.initializer.extend(t for t in network().graph.initializer if t.name not in ("zero", "top"))
    notes = halfeven.quantize(model, verify=False, prefer="size").notes
    assert "1 BatchNormalization folded into Conv" in notes
    assert not any("no BatchNormalization" in note for note in notes)
    assert any("what the folded BatchNormalization was trained with reaches no tensor" in note for note in notes)


@pytest.mark.parametrize("data", [None, {"x": inputs(8)}], ids=["made without data", "made with data"])
def test_a_plan_is_followed_without_data(data: dict[str, np.ndarray] | None) -> None:
    given = {"verify": False, "skip": ("gptq",) if data is None else ("gptq", "equalize")}
    made = halfeven.quantize(network(), data, prefer="size", **given)
    followed = halfeven.quantize(network(), plan=made.plan, **given)
    assert followed.plan.to_json() == made.plan.to_json()
    outputs = [np.asarray(OrtExecutor(r.model)({"x": inputs()}, "x")["y"]) for r in (made, followed)]
    np.testing.assert_array_equal(*outputs)


def test_with_data_the_steps_stay_out() -> None:
    done = halfeven.quantize(network(), {"x": inputs(8)}, verify=False, prefer="size")
    assert not any("BatchNormalization" in note and "folded into" not in note for note in done.notes)


def test_the_shares_of_a_float_softmax_reach_from_0_to_1_though_synthetic_masks_hide_nothing() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[1,16,8] x, int64[1,1,16] mask) => (float[1,16,8] y) <float one = {1}, float low = {-3.4e38}> {
        t = Transpose<perm = [0, 2, 1]>(x)  s = MatMul(x, t)
        f = Cast<to = 1>(mask)  o = Sub(one, f)  m = Mul(o, low)  a = Add(s, m)
        p = Softmax(a)  c = MatMul(p, x)  y = MatMul(c, w)
    }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    result = halfeven.quantize(model, target="litert", prefer="size", verify=False)
    (quantizer,) = {g for site, g in result.plan.sites.items() if site.value == "p"}
    params = result.plan.groups[quantizer].params
    assert params is not None
    assert params.scale == pytest.approx(1 / 255)
    assert int(params.zero_point) == -128
    assert any("1 tensor of shares may reach from 0 to 1" in note for note in result.notes)


LINES = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,H,W] x) => (float[N,4,V] y) <int64[1] rows = {2}> {
    a = Conv<strides = [HIGH, 4]>(x, w)  b = Squeeze(a, rows)  y = Relu(b)
}"""


def lines(height: int, dtype: str = "float32") -> onnx.ModelProto:
    """A network that takes pictures of one height only, and does not say so."""
    text = LINES.replace("HIGH", str(height))
    model = onnx.parser.parse_model(text if dtype == "float32" else text.replace("float[", "double["))
    weight = np.random.default_rng(0).standard_normal((4, 3, height, 4)).astype(dtype)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pictures_have_a_size_that_the_network_takes_though_it_states_none(dtype: str) -> None:
    result = halfeven.quantize(lines(48, dtype), prefer="size")
    assert any("16 synthetic samples of 48 x 320 stand in" in note for note in result.notes)
    assert result.verification is not None
    assert result.verification.sqnr_db > 25


def test_where_no_size_is_taken_the_sizes_tried_are_named() -> None:
    with pytest.raises(
        BadCalibration, match=r"on no synthetic picture \(224 x 224, 48 x 320, .*were tried\): give it data"
    ):
        halfeven.quantize(lines(13))
