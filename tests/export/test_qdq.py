"""The QDQ model computes what the plan says, bit for bit, and is a sound ONNX file.

The oracle runs every node of the float graph alone, on operands that this file rounds by its own few lines of
arithmetic: (clip(rint(x / scale) + zero) - zero) * scale, biases at f32(input scale * weight scale).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from halfeven.draft import Batch, Draft, pipeline
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.onnx import to_qdq
from halfeven.graph import ops
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.numerics.grid import INT8_NARROW, IntGrid
from halfeven.numerics.quantize import params_of
from halfeven.numerics.scheme import QParams, Scheme, per_channel
from halfeven.run.ort import OrtExecutor, integer_nodes
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.equalize import Equalize
from halfeven.steps.gptq import Gptq
from halfeven.steps.observe import Observe
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import Target

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]
EAGER = {name: replace(target, costs=UNIFORM) for name, target in TARGETS.items()}
"""The targets, with costs that make all layers worth it, so that small networks are quantized."""
INTEGER = TARGETS["integer"]


# --------------------------------------------------------------------------------------------- the oracle


def _round(x: np.ndarray, quantizer: Quantizer) -> np.ndarray:
    params, grid = quantizer.params, quantizer.scheme.grid
    assert params is not None
    scale, zero = params.scale, params.zero_point.astype(np.float32)
    if scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    codes = np.clip(np.rint(x / scale) + zero, grid.low, grid.high)
    return np.asarray((codes - zero) * scale, np.float32)


def _operand(plan: Plan, node: ir.Node, port: int, x: np.ndarray) -> np.ndarray:
    """What input `port` of `node` reads under the plan when it would read `x`."""
    value, name = node.inputs[port], node.name or ""
    assert value is not None
    quantizer = plan.seen_by(value.name or "", name, port)
    if quantizer is None:
        return x
    if quantizer.role != "bias":
        return _round(x, quantizer)
    sources = [plan.seen_by(node.inputs[p].name or "", name, p) for p in (0, 1)]  # type: ignore[union-attr]
    a, b = (s.params.scale.ravel() for s in sources)  # type: ignore[union-attr]
    scale = (a * b).astype(np.float32)
    codes = np.rint((x / scale).astype(np.float64)).astype(np.int32)
    return codes.astype(np.float32) * scale


def _alone(node: ir.Node, operands: list[np.ndarray | None], opset: int) -> list[np.ndarray]:
    """The outputs of one node, by the runtime, without optimisations."""
    names = [f"i{k}" for k in range(len(operands))]
    infos = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, operands, strict=True)
        if x is not None
    ]
    proto = ir.serde.serialize_node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend(n if x is not None else "" for n, x in zip(names, operands, strict=True))
    outs = [f"o{k}" if v.name else "" for k, v in enumerate(node.outputs)]
    proto.output.extend(outs)
    graph = onnx.helper.make_graph([proto], "one", infos, [onnx.ValueInfoProto(name=n) for n in outs if n])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    found = OrtExecutor(ir.from_proto(model), optimize=False, threads=1)(
        {n: x for n, x in zip(names, operands, strict=True) if x is not None}
    )
    return list(found.values())


def _by_hand(draft: Draft, feeds: Batch) -> Batch:
    """The outputs of the network that the draft describes."""
    values = dict(feeds)
    values.update({n: v.const_value.numpy() for n, v in draft.model.graph.initializers.items()})
    for node in draft.model.graph:
        operands = [
            None if value is None else _operand(draft.plan, node, port, values[value.name or ""])
            for port, value in enumerate(node.inputs)
        ]
        made = _alone(node, operands, draft.model.opset_imports[""])
        values.update(zip((v.name for v in node.outputs if v.name), made, strict=True))
    out = {}
    for value in draft.model.graph.outputs:
        quantizer = draft.plan.at(Site(value.name or ""))
        out[value.name or ""] = (
            values[value.name or ""] if quantizer is None else _round(values[value.name or ""], quantizer)
        )
    return out


def _assert_as_by_hand(draft: Draft, data: list) -> ir.Model:
    quantized = to_qdq(draft)
    run = OrtExecutor(quantized, optimize=False, threads=1)
    for _, feeds in data:
        expected, found = _by_hand(draft, feeds), run(feeds)
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    return quantized


def _assert_sound(draft: Draft, quantized: ir.Model) -> None:
    """Checked by onnx; nothing is left over; the interface is the source's."""
    proto = ir.to_proto(quantized)
    onnx.checker.check_model(proto, full_check=True)
    graph = quantized.graph
    assert all(value.uses() or value.is_graph_output() for value in graph.initializers.values())
    for node in graph:
        assert any(value.uses() or value.is_graph_output() for value in node.outputs), node.name
    names = [node.name for node in graph]
    assert len(set(names)) == len(names)
    for a, b in ((draft.model.graph.inputs, graph.inputs), (draft.model.graph.outputs, graph.outputs)):
        assert [(v.name, v.dtype, v.shape) for v in a] == [(v.name, v.dtype, v.shape) for v in b]
    assert to_bytes(to_qdq(draft)) == to_bytes(quantized)


def to_bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


# --------------------------------------------------------------------------------------------- random networks


# What a picture of c channels and 5 x 5 points may go through: nodes, weights, channels after. {v} is a recent value,
# {s} one of as many channels, {u} one of {d} channels.
PICTURES = {
    "conv": ("[n{i}] v{i} = Conv({v}, w{i})", "float[6,{c},1,1] w{i}", "6"),
    "conv, relu": (
        "[n{i}] h{i} = Conv <pads = [1, 1, 1, 1]> ({v}, w{i}, b{i})  [a{i}] v{i} = Relu(h{i})",
        "float[4,{c},3,3] w{i}, float[4] b{i}", "4",
    ),
    "conv, clip": (
        "[n{i}] h{i} = Conv({v}, w{i}, b{i})  [a{i}] v{i} = Clip(h{i}, zero, one)",
        "float[3,{c},1,1] w{i}, float[3] b{i}", "3",
    ),
    "depthwise": ("[n{i}] v{i} = Conv <group = {c}, pads = [1, 1, 1, 1]> ({v}, w{i})", "float[{c},1,3,3] w{i}", "{c}"),
    "transposed": (
        "[n{i}] v{i} = ConvTranspose <pads = [1, 1, 1, 1]> ({v}, w{i}, b{i})",
        "float[{c},4,3,3] w{i}, float[4] b{i}", "4",
    ),
    "sum": ("[n{i}] v{i} = Add({v}, {s})", "", "{c}"),
    "sum, clip": ("[n{i}] h{i} = Add({v}, {s})  [a{i}] v{i} = Clip(h{i}, zero, one)", "", "{c}"),
    "join": ("[n{i}] v{i} = Concat <axis = 1> ({v}, {u})", "", "{c} + {d}"),
    "join with a constant": ("[n{i}] v{i} = Concat <axis = 1> ({v}, k{i})", "float[2,1,5,5] k{i}", "{c} + 1"),
    "gate": ("[s{i}] s{i} = Sigmoid({s})  [n{i}] v{i} = Mul({v}, s{i})", "", "{c}"),
    "bias": ("[n{i}] v{i} = Add({v}, k{i})", "float[1,1,5,5] k{i}", "{c}"),
    "relu": ("[n{i}] v{i} = Relu({v})", "", "{c}"),
    "prelu": ("[n{i}] v{i} = PRelu({v}, k{i})", "float[{c},1,1] k{i}", "{c}"),
    "pool": ("[n{i}] v{i} = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({v})", "", "{c}"),
    "average": ("[n{i}] v{i} = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({v})", "", "{c}"),
    "frame, cut": ("[n{i}] h{i} = Pad({v}, frame)  [a{i}] v{i} = Slice(h{i}, first, last, axes)", "", "{c}"),
    "grow, shrink": (
        '[n{i}] h{i} = Resize <mode = "nearest"> ({v}, , twice)'
        "  [a{i}] v{i} = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h{i})", "", "{c}",
    ),
    "turn": ("[n{i}] v{i} = Transpose <perm = [0, 1, 3, 2]> ({v})", "", "{c}"),
    "split, swap": (
        "[n{i}] h{i}, k{i} = Split <axis = 2> ({v}, parts)  [a{i}] v{i} = Concat <axis = 2> (k{i}, h{i})", "", "{c}",
    ),
    "flatten, shape": ("[n{i}] h{i} = Flatten({v})  [a{i}] v{i} = Reshape(h{i}, like{c})", "int64[4] like{c} = {{2,"
        " {c}, 5, 5}}", "{c}"),
    "erf": ("[n{i}] v{i} = Erf({v})", "", "{c}"),
}  # fmt: skip
FIXED = (
    "float[4,3,3,3] stem, float[4] stem_b, float[5] head_b, float zero = {0}, float one = {1}, int64[8] frame = {0,"
    " 0, 1, 1,"
    " 0, 0, 1, 1}, int64[2] first = {1, 0}, int64[2] last = {6, 5}, int64[2] axes = {2, 3}, float[4] twice = {1, 1,"
    " 2, 2},"
    " int64[2] parts = {2, 3}"
)


def _cnn(seed: int) -> str:
    """Nine of PICTURES behind a convolution, then a classifier; a value in the middle is an output as well."""
    rng = np.random.default_rng(seed)
    lines, weights = ["[stem] v0 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, stem, stem_b)"], {FIXED: None}
    now = [("v0", 4)]
    for i in range(1, 10):
        v, c = now[-1 - rng.integers(min(3, len(now)))]
        u, d = now[-1 - rng.integers(min(4, len(now)))]
        s = rng.choice([name for name, channels in now if channels == c])
        text, more, after = PICTURES[str(rng.choice(list(PICTURES)))]
        given = {"i": i, "v": v, "c": c, "u": u, "d": d, "s": s}
        lines.append(text.format(**given))
        if more:
            weights[more.format(**given)] = None
        now.append((f"v{i}", sum(map(int, after.format(**given).split(" + ")))))
    weights[f"float[5,{now[-1][1]}] head"] = None
    lines.append(
        "[g] p = GlobalAveragePool(v9)  [f] f = Flatten(p)  [fc] l = Gemm <transB = 1> (f, head, head_b) "
        " [sm] y = Softmax(l)"
    )
    outputs = f"float[2,5] y, float[2,{now[5][1]},5,5] v5"
    return f"g (float[2,3,9,9] x) => ({outputs}) <{', '.join(weights)}> {{ {'  '.join(lines)} }}"


# What four rows of six features may go through.
ROWS = {
    "matmul": ("[n{i}] v{i} = MatMul({v}, w{i})", "float[6,6] w{i}"),
    "gemm": ("[n{i}] v{i} = Gemm({v}, w{i}, b{i})", "float[6,6] w{i}, float[6] b{i}"),
    "gemm, relu": ("[n{i}] h{i} = Gemm({v}, w{i}, b{i})  [a{i}] v{i} = Relu(h{i})", "float[6,6] w{i}, float[6] b{i}"),
    "gemm by a shared weight": ("[n{i}] v{i} = Gemm <transB = 1> ({v}, w, b{i})", "float[6] b{i}"),
    "sum": ("[n{i}] v{i} = Add({v}, {u})", ""),
    "twice": ("[n{i}] v{i} = Add({v}, {v})", ""),
    "half": ("[n{i}] v{i} = Mul({v}, half)", ""),
    "half more": ("[n{i}] v{i} = Add(half, {v})", ""),
    "less": ("[n{i}] v{i} = Sub({v}, k)", ""),
    "less from": ("[n{i}] v{i} = Sub(k, {v})", ""),
    "relu": ("[n{i}] v{i} = Relu({v})", ""),
    "leaky": ("[n{i}] v{i} = LeakyRelu({v})", ""),
    "tanh": ("[n{i}] v{i} = Tanh({v})", ""),
    "erf": ("[n{i}] v{i} = Erf({v})", ""),
    "shape": ("[n{i}] t{i} = Reshape({v}, sh)  [a{i}] v{i} = Reshape(t{i}, flat)", ""),
    "turn": ("[n{i}] t{i} = Transpose({v})  [a{i}] v{i} = Transpose(t{i})", ""),
    "normalize": ("[n{i}] v{i} = LayerNormalization({v}, k)", ""),
}


def _mlp(seed: int) -> str:
    """Eight of ROWS, then a layer; a value in the middle is an output as well."""
    rng = np.random.default_rng(seed)
    lines, now = [], ["x"]
    weights = ["float[6,6] w, float[6] k, float half = {0.5}, int64[3] sh = {2, 2, 6}, int64[2] flat = {4, 6}"]
    for i in range(8):
        v, u = (now[-1 - rng.integers(min(3, len(now)))] for _ in range(2))
        text, more = ROWS[str(rng.choice(list(ROWS)))]
        lines.append(text.format(i=i, v=v, u=u))
        weights += [more.format(i=i)] if more else []
        now.append(f"v{i}")
    lines.append("[fc] y = MatMul(v7, head)")
    weights.append("float[6,6] head")
    return f"g (float[4,6] x) => (float[4,6] v4, float[4,6] y) <{', '.join(weights)}> {{ {'  '.join(lines)} }}"


NETWORKS = {f"{kind.__name__[1:]} {seed}": (kind, seed) for kind in (_cnn, _mlp) for seed in range(7)}


def _calibrated(draft: Draft, data: list, *, refine: bool = False, method: str = "minmax") -> Draft:
    first, last = ([Equalize()], [Gptq()]) if refine else ([], [])
    return pipeline(*first, Observe(), Calibrate(method=method), *last)(draft, data)


@pytest.mark.parametrize("target", EAGER.values(), ids=lambda t: t.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_random_network_computes_what_its_plan_says(
    build: Build, samples: Samples, placed: Placed, name: str, target: Target
) -> None:
    kind, seed = NETWORKS[name]
    model = build(kind(seed))
    data = samples(model, 3, seed=seed)
    draft = _calibrated(placed(model, target, data), data)
    assert draft.plan.sites
    quantized = _assert_as_by_hand(draft, [data[0], *samples(model, 1, 3.0, seed=99)])
    _assert_sound(draft, quantized)


@pytest.mark.parametrize("target", [EAGER["onnxruntime"], INTEGER], ids=lambda t: t.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_equalized_and_rounded_by_moments_it_does_so_too(
    build: Build, samples: Samples, placed: Placed, name: str, target: Target
) -> None:
    kind, seed = NETWORKS[name]
    model = build(kind(seed))
    data = samples(model, 3, seed=seed)
    draft = _calibrated(placed(model, target, data), data, refine=True)
    _assert_sound(draft, _assert_as_by_hand(draft, data[:1]))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-arm", "integer"])
def test_the_runtimes_optimiser_keeps_the_network_close(
    build: Build, samples: Samples, placed: Placed, seed: int, name: str
) -> None:
    model = build(_cnn(seed))
    data = samples(model, 4, seed=seed)
    quantized = to_qdq(_calibrated(placed(model, EAGER[name], data), data))
    plain, fast = (OrtExecutor(quantized, optimize=o)(data[0][1]) for o in (False, True))
    for key, array in plain.items():
        assert sqnr_db(array, fast[key]) > 20, key


@pytest.mark.parametrize("classes", [2, 5, 40, 300])
@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-arm", "integer"])
def test_a_softmax_keeps_close_however_flat_it_is(
    build: Build, samples: Samples, placed: Placed, name: str, classes: int
) -> None:
    """QLinearSoftmax of ONNX Runtime 1.31 overflows when its output's scale is much below 1 / (150 * classes)."""
    model = build(
        f"g (float[3,8] x) => (float[3,4] y) <float[8,{classes}] w, float[{classes},4] v>"
        " { [a] h = MatMul(x, w)  [s] s = Softmax(h)  [b] y = MatMul(s, v) }",
        w=np.random.default_rng(0).normal(0, 0.02, (8, classes)),
        v=np.random.default_rng(1).uniform(0, 1, (classes, 4)),
    )
    data = samples(model)
    draft = _calibrated(placed(model, EAGER[name], data, prefer="size"), data)
    quantized = to_qdq(draft)
    for signed in (False, True):
        reference, found = (OrtExecutor(m, signed=signed)(data[0][1]) for m in (model, quantized))
        assert sqnr_db(reference["y"], found["y"]) > 12


def test_every_convolution_becomes_one_of_integers(
    build: Build, samples: Samples, placed: Placed, tmp_path: Path
) -> None:
    model = build(
        "g (float[1,3,8,8] x) => (float[1,5] y) <float[8,3,3,3] a, float[8] ab, float[8,1,3,3] d, float[8] db,"
        " float[8,8,1,1] p, float[8] pb, float[5,8] f, float[5] fb, float zero = {0}, float six = {6}> {"
        " h = Conv <pads = [1, 1, 1, 1]> (x, a, ab)  r = Relu(h)  k = Conv <group = 8, pads = [1, 1, 1, 1]> (r, d, db)"
        " c = Clip(k, zero, six)  m = Conv(c, p, pb)  s = Add(m, r)  t = Relu(s)  n = Conv(t, p)  g ="
        " GlobalAveragePool(n)"
        " q = Flatten(g)  y = Gemm <transB = 1> (q, f, fb) }"
    )
    data = samples(model)
    quantized = to_qdq(_calibrated(placed(model, EAGER["onnxruntime"], data), data))
    ir.save(quantized, tmp_path / "q.onnx")
    assert integer_nodes(tmp_path / "q.onnx") == (5, 5)
    ir.save(model, tmp_path / "f.onnx")
    assert integer_nodes(tmp_path / "f.onnx") == (0, 5)


# --------------------------------------------------------------------------------------------- integers

LAYERED = (
    "g (float[1,3,6,6] x) => (float[1,5,6,6] y) <float[4,3,1,1] a, float[4] ab, float[5,4,1,1] z, float[5] zb> {"
    " [a] h = Conv(x, a, ab)  [r] r = Relu(h)  [z] y = Conv(r, z, zb) }"
)


@pytest.mark.parametrize(
    ("name", "activation", "bias"),
    [("onnxruntime", "uint8", "int32"), ("onnxruntime-arm", "int8", "int32"), ("openvino", "uint8", "int32"),
     ("integer", "int8", "int32"), ("tensorrt", "int8", "float32")],
)  # fmt: skip
def test_the_integers_have_the_targets_types(
    build: Build, samples: Samples, placed: Placed, name: str, activation: str, bias: str
) -> None:
    model = build(LAYERED)
    data = samples(model)
    quantized = to_qdq(_calibrated(placed(model, EAGER[name], data), data))
    for node in quantized.graph:
        if node.op_type == "QuantizeLinear":
            assert node.inputs[2].const_value.numpy().dtype == activation
        if node.op_type == "DequantizeLinear":
            assert node.inputs[1].dtype == ir.DataType.FLOAT
            assert node.inputs[2].dtype == node.inputs[0].dtype
    kinds = {n: str(v.const_value.numpy().dtype) for n, v in quantized.graph.initializers.items()}
    assert kinds["a_quantized"] == "int8"
    assert kinds["ab" if bias == "float32" else "ab_quantized"] == bias
    assert "a" not in kinds


def test_a_bias_is_rounded_at_the_scale_of_the_accumulator(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(LAYERED)
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    initializers = to_qdq(draft).graph.initializers
    for bias, weight, source in (("ab", "a", Site("x", "a", 0)), ("zb", "z", Site("r"))):
        sx = draft.plan.at(source).params.scale.ravel()
        sw = draft.plan.at(Site(weight, weight, 1)).params.scale.ravel()
        scale = (sx * sw).astype(np.float32)
        b = model.graph.initializers[bias].const_value.numpy()
        np.testing.assert_array_equal(initializers[f"{bias}_scale"].const_value.numpy(), scale)
        np.testing.assert_array_equal(initializers[f"{bias}_quantized"].const_value.numpy(), np.rint(b / scale))
        assert not initializers[f"{bias}_zero_point"].const_value.numpy().any()


def test_a_weight_is_rounded_by_channel(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(LAYERED)
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    codes = to_qdq(draft).graph.initializers["z_quantized"].const_value.numpy()
    weight = model.graph.initializers["z"].const_value.numpy()
    scale = draft.plan.at(Site("z", "z", 1)).params.scale
    np.testing.assert_array_equal(codes, np.rint(weight / scale))
    assert (np.abs(codes.astype(int)).reshape(5, -1).max(1) == 127).all()


def test_weights_of_four_bits_are_stored_as_such(build: Build, samples: Samples, placed: Placed) -> None:
    model = build("g (float[2,6] x) => (float[2,4] y) <float[6,4] w> { [a] y = MatMul(x, w) }", opset=21)
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    scheme = Scheme(IntGrid(4, narrow=True), per_channel(1))
    params = params_of(model.graph.initializers["w"].const_value.numpy(), scheme)
    group = draft.plan.sites[Site("w", "a", 1)]
    draft = replace(draft, plan=draft.plan.with_group(group, Quantizer(scheme, "by hand", "weight", params)))
    quantized = to_qdq(draft)
    assert np.abs(quantized.graph.initializers["w_quantized"].const_value.numpy().astype(int)).max() == 7
    _assert_as_by_hand(draft, data[:1])
    _assert_sound(draft, quantized)


# --------------------------------------------------------------------------------------------- clamps

CLAMPED = (
    "g (float[1,3,4,4] x) => (float[1,4,4,4] y) <float[4,3,1,1] a, float[4,4,1,1] z, float zero = {0}, float low ="
    " {-0.5},"
    " float top = {0.75}> { [a] h = Conv(x, a)  [c] r = %s  [z] y = Conv(r, z) }"
)


@pytest.mark.parametrize(
    "clamp", ["Relu(h)", "Clip(h, zero, top)", "Clip(h, low, top)", "Clip(h, zero)", "Clip(h, , top)"]
)
@pytest.mark.parametrize("wide", [False, True])
def test_a_clamp_goes_if_and_only_if_the_codes_cannot_pass_it(
    build: Build, samples: Samples, placed: Placed, clamp: str, wide: bool
) -> None:
    model = build(CLAMPED % clamp, a=np.full((4, 3, 1, 1), 2))
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    if wide:
        group = draft.plan.sites[Site("r")]
        old = draft.plan.groups[group]
        params = QParams(old.scheme, np.array(0.03, np.float32), np.array(5, np.int32))
        draft = replace(draft, plan=draft.plan.with_group(group, replace(old, params=params)))
    quantized = _assert_as_by_hand(draft, data)
    params = draft.plan.at(Site("r")).params
    codes = np.arange(-128, 128, dtype=np.float64)
    values = (codes - params.zero_point) * float(params.scale)
    low = {"low,": -0.5, ",": -np.inf}.get(clamp.split()[1], 0) if " " in clamp else 0
    high = 0.75 if "top" in clamp else np.inf
    passed = max(low - values.min(), values.max() - high)
    left = any(node.op_type in ("Relu", "Clip") for node in quantized.graph)
    assert left == (passed > 1e-5)
    assert left or not wide
    _assert_sound(draft, quantized)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_a_target_that_needs_its_clamps_keeps_them(
    build: Build, samples: Samples, placed: Placed, target: Target
) -> None:
    model = build(CLAMPED % "Relu(h)")
    data = samples(model)
    quantized = to_qdq(_calibrated(placed(model, EAGER[target.name], data), data))
    assert any(node.op_type == "Relu" for node in quantized.graph) == (not target.clamps_in_range)


@pytest.mark.parametrize(
    "text",
    [
        "(float[1,4,4,4] y, float[1,4,4,4] h) W { [a] h = Conv(x, a)  [c] r = Relu(h)  [z] y = Conv(r, z) }",
        "(float[1,4,4,4] y, float[1,4,4,4] e) W { [a] h = Conv(x, a)  [c] r = Relu(h)  [z] y = Conv(r, z)  [e] e ="
        " Erf(h) }",
        "(float[1,4,4,4] y) W { [a] h = Conv(x, a)  [c] y = Relu(h) }",
        "(float[1,4,4,4] y, float[1,4,4,4] z) W { [a] h = Conv(x, a)  [c] y = Relu(h)  [b] z = Conv(y, z0) }",
        "(float[1,4,4,4] y) W { [a] h = Conv(x, a)  [c] r = Relu(h)  [d] s = Clip(r, zero, top)  [z] y = Conv(s, z) }",
        "(float[1,4,4,4] y) W { [a] r = Relu(x)  [d] s = Clip(r, zero, top)  [z] y = Conv(s, a) }",
    ],
)
def test_clamps_with_other_readers_or_in_rows_stay_right(
    build: Build, samples: Samples, placed: Placed, text: str
) -> None:
    weights = "<float[4,3,1,1] a, float[4,4,1,1] z, float[4,4,1,1] z0, float zero = {0}, float top = {0.5}>"
    model = build("g (float[1,3,4,4] x) => " + text.replace("W", weights))
    data = samples(model)
    for target in EAGER.values():
        draft = _calibrated(placed(model, target, data), data)
        _assert_sound(draft, _assert_as_by_hand(draft, data[:2]))


# --------------------------------------------------------------------------------------------- outputs and names


@pytest.mark.parametrize("target", EAGER.values(), ids=lambda t: t.name)
def test_the_interface_stays_whatever_is_quantized(
    build: Build, samples: Samples, placed: Placed, target: Target
) -> None:
    """Outputs: a quantized tensor that is read on, an input, a constant, one made of floats, in this order."""
    model = build(
        "g (float[1,4] x, float[1,4] u) => (float[1,4] m, float[1,4] x, float[4,4] w, float[1,4] e, float[1,4] y)"
        " <float[4,4] w, float[4,4] v> { [a] h = MatMul(x, w)  [m] m = Add(h, u)  [b] k = MatMul(m, v)  [e] e = Erf(k)"
        " [c] y = MatMul(k, w) }"
    )
    data = samples(model)
    draft = _calibrated(placed(model, target, data), data)
    quantized = _assert_as_by_hand(draft, data[:2])
    _assert_sound(draft, quantized)
    found = OrtExecutor(quantized)(data[0][1])
    np.testing.assert_array_equal(found["x"], data[0][1]["x"])
    np.testing.assert_array_equal(found["w"], model.graph.initializers["w"].const_value.numpy())


def test_names_that_the_exporter_would_give_are_taken_already(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (float[1,4,2,2] x) => (float[1,4,2,2] y) <float[4,4,1,1] w, float[4,4,1,1] w_scale, float[4,4,1,1]"
        " w_quantized,"
        " float[4] x_zero_point, float[1,4,2,2] y_float> {"
        " [conv1] conv1 = Conv(x, w, x_zero_point)  [s] conv1_scale = Sigmoid(conv1)  [c] conv1_quantized ="
        " Conv(conv1_scale, w_scale)"
        " [w_dequantized_DequantizeLinear] w_dequantized = Add(conv1_quantized, y_float)"
        " [conv1_quantized_QuantizeLinear] conv1_dequantized = Conv(w_dequantized, w_quantized)  [l] y ="
        " Relu(conv1_dequantized) }"
    )
    data = samples(model)
    for target in EAGER.values():
        draft = _calibrated(placed(model, target, data), data)
        _assert_sound(draft, _assert_as_by_hand(draft, data[:1]))


def test_a_draft_that_is_not_calibrated_is_refused(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(LAYERED)
    draft = placed(model, INTEGER, samples(model, 1))
    with pytest.raises(UnsupportedByTarget, match=r"x -> a\[0\] has no scale: run Calibrate before the export"):
        to_qdq(draft)


def test_a_bias_without_its_scales_is_refused(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(LAYERED)
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    sites = {s: g for s, g in draft.plan.sites.items() if s != Site("x", "a", 0)}
    with pytest.raises(UnsupportedByTarget, match=r"Conv 'a'.*bias"):
        to_qdq(replace(draft, plan=replace(draft.plan, sites=sites)))


def test_the_draft_is_left_as_it_is(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(LAYERED)
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    before = to_bytes(draft.model)
    to_qdq(draft)
    assert to_bytes(draft.model) == before


@pytest.mark.parametrize("everyone", [False, True])
def test_two_readers_with_a_scale_each_read_through_their_own(
    build: Build, samples: Samples, placed: Placed, everyone: bool
) -> None:
    """As an edited plan may ask; `everyone` leaves one of them the site of all readers."""
    model = build(
        "g (float[1,4] x) => (float[1,4] y, float[1,4] z) <float[4,4] w, float[4,4] u, float[4,4] v> {"
        " [i] h = MatMul(x, u)  [a] y = MatMul(h, w)  [b] z = MatMul(h, v) }"
    )
    data = samples(model)
    draft = _calibrated(placed(model, INTEGER, data), data)
    fine = draft.plan.groups[draft.plan.sites[Site("h")]]
    coarse = replace(fine, params=QParams(fine.scheme, np.array(0.25, np.float32), np.array(0, np.int32)))
    sites = {s: g for s, g in draft.plan.sites.items() if everyone or s != Site("h")}
    if not everyone:
        sites[Site("h", "a", 0)] = draft.plan.sites[Site("h")]
    sites[Site("h", "b", 0)] = 99
    draft = replace(draft, plan=replace(draft.plan, groups={**draft.plan.groups, 99: coarse}, sites=sites))
    _assert_sound(draft, _assert_as_by_hand(draft, data[:2]))


# --------------------------------------------------------------------------------------------- shared constants

SHARED = {
    "one weight for two operators": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w> { [a] h = MatMul(x, w)  [b] y"
        " = Gemm(h, w) }",
    "one weight along two axes": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w> { [a] h = MatMul(x, w)  [b] y ="
        " Gemm <transB = 1> (h, w) }",
    "one weight and bias for two layers": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4] b> {"
    " [a] h = Gemm(x, w, b)  [r] r = Relu(h)  [b] y = Gemm(r, w, b) }",
    "one constant for a sum and a product": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4,4] v, float k"
        " = {0.5}> {"
    " [a] h = MatMul(x, w)  [s] s = Add(h, k)  [m] m = Mul(s, k)  [b] y = MatMul(m, v) }",
    "one constant as bias and as summand": "g (float[1,4] x) => (float[1,4] y) <float[4,4] w, float[4,4] v, float[4]"
        " k> {"
    " [a] h = Gemm(x, w, k)  [e] e = Erf(h)  [s] s = Add(e, k)  [b] y = Gemm(s, v, k) }",
    "one weight read in floats as well": "g (float[1,4] x) => (float[1,4] y, float[4,4] e) <float[4,4] w> { [a] y ="
        " MatMul(x, w)  [e] e = Erf(w) }",
    "one constant on both sides": "g (float[4,4] x) => (float[4,4] y) <float[4,4] w> { [a] h = MatMul(x, w)  [s] s ="
        " Sub(w, h)  [t] y = Sub(s, w) }",
    "a weight read in a body": "g (float[1,4] x, bool c) => (float[1,4] y) <float[4,4] w> { [a] h = MatMul(x, w)  [i]"
        " y = If(c) <"
    " then_branch = t () => (float[1,4] p) { p = MatMul(h, w) }, else_branch = e () => (float[1,4] q) { q ="
    " Identity(h) }> }",
}  # fmt: skip


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("name", SHARED)
def test_a_shared_constant_serves_each_reader(
    build: Build, samples: Samples, placed: Placed, name: str, refine: bool
) -> None:
    model = build(SHARED[name])
    data = samples(model)
    for target in EAGER.values():
        draft = _calibrated(placed(model, target, data, prefer="size"), data, refine=refine)
        quantized = to_qdq(draft)
        _assert_sound(draft, quantized)
        if "body" not in name:
            _assert_as_by_hand(draft, data[:1])
        reference, found = (OrtExecutor(m, optimize=False)(data[0][1]) for m in (model, quantized))
        assert all(sqnr_db(reference[key], found[key]) > 20 for key in reference)


@pytest.mark.parametrize("target", EAGER.values(), ids=lambda t: t.name)
def test_bodies_of_control_flow_read_what_everyone_reads(
    build: Build, samples: Samples, placed: Placed, target: Target
) -> None:
    """A quantized tensor, a looked-up row, and a clamp's operand, which must therefore stay."""
    model = build(
        "g (float[3,4] x, int64[3] i, bool c) => (float[3,4] y) <float[6,4] t, float[4,4] w, float[4,4] v> {"
        " e = Gather(t, i)  s = Add(e, x)  h = MatMul(s, w)  r = Relu(h)  k = MatMul(r, v)  q = Sigmoid(k)  b = If(c) <"
        " then_branch = p () => (float[3,4] p1) { p0 = Add(h, e)  p1 = Add(p0, q) },"
        " else_branch = n () => (float[3,4] n1) { n1 = Add(r, q) }>  y = MatMul(b, v) }"
    )
    data = samples(model)
    draft = _calibrated(placed(model, target, data, prefer="size"), data, refine=True)
    quantized = to_qdq(draft)
    _assert_sound(draft, quantized)
    for _, feeds in data[:2]:
        for choice in (True, False):
            given = {**feeds, "c": np.array(choice)}
            reference, found = (OrtExecutor(m, optimize=False)(given)["y"] for m in (model, quantized))
            assert sqnr_db(reference, found) > 20


TABLES = {
    "rows": ("int64[2,3] i", "float[2,3,4] y", "Gather(t, i)", "float[6,4] t"),
    "one row": ("int64 i", "float[4] y", "Gather(t, i)", "float[6,4] t"),
    "columns": ("int64[3] i", "float[6,3] y", "Gather <axis = 1> (t, i)", "float[6,4] t"),
    "the last axis from behind": ("int64[3] i", "float[6,3] y", "Gather <axis = -1> (t, i)", "float[6,4] t"),
    "rows of matrices": ("int64[3] i", "float[3,2,4] y", "Gather(t, i)", "float[6,2,4] t"),
    "rows from behind": ("int32[3] i", "float[3,4] y", "Gather <axis = -2> (t, i)", "float[6,4] t"),
}


@pytest.mark.parametrize("per_row", [True, False])
@pytest.mark.parametrize("name", TABLES)
def test_a_lookup_gives_what_the_rounded_table_holds(
    build: Build, samples: Samples, placed: Placed, name: str, per_row: bool
) -> None:
    given, out, call, table = TABLES[name]
    model = build(f"g ({given}) => ({out}) <{table}> {{ [g] y = {call} }}")
    data = samples(model)
    draft = _calibrated(placed(model, EAGER["onnxruntime"], data, prefer="size"), data)
    group = draft.plan.sites[Site("t", "g", 0)]
    old = draft.plan.groups[group]
    if not per_row:
        scheme = Scheme(INT8_NARROW)
        params = params_of(model.graph.initializers["t"].const_value.numpy(), scheme)
        draft = replace(draft, plan=draft.plan.with_group(group, replace(old, scheme=scheme, params=params)))
    quantized = _assert_as_by_hand(draft, data)
    _assert_sound(draft, quantized)
    assert {v.dtype for v in quantized.graph.initializers.values() if v.shape and np.prod(v.shape.numpy()) > 12} == {
        ir.DataType.INT8
    }


@pytest.mark.parametrize(
    "text",
    [
        "[g] h = Gather(t, i)  [k] k = Gather(t, j)  [s] y = Add(h, k)",
        "[g] h = Gather(t, i)  [s] s = Sigmoid(h)  [b] b = MatMul(s, w)  [k] k = Gather(t, j)  [t] y = Add(b, k)",
        "[g] h = Gather(t, i)  [s] s = Sigmoid(h)  [b] y = Gemm <transB = 1> (s, t)",
        "[g] h = Gather(t, i)  [s] s = Sigmoid(h)  [b] m = MatMul(s, w)  [c] y = Gemm <transB = 1> (m, t, b)",
        "[d] d = Transpose(t)  [g] h = Gather(t, i)  [s] s = Sigmoid(h)  [b] y = MatMul(s, d)",
        "[b] m = Gemm <transB = 1> (x, t, b)  [g] h = Gather(t, i)  [c] k = Gemm <transB = 1> (h, t, b)  [s] y ="
        " Add(m, k)",
    ],
)
def test_a_table_with_two_readers_serves_both(build: Build, samples: Samples, placed: Placed, text: str) -> None:
    """As where input and output embeddings are tied."""
    model = build(
        "g (int64[3] i, int64[3] j, float[3,4] x) => (float[3,n] y) <float[6,4] t, float[4,4] w, float[6] b>"
        f" {{ {text} }}"
    )
    data = samples(model)
    for name in ("onnxruntime", "onnxruntime-arm"):
        draft = _calibrated(placed(model, EAGER[name], data, prefer="size"), data)
        assert any(q.role == "weight" for q in draft.plan.groups.values())
        _assert_sound(draft, _assert_as_by_hand(draft, data[:2]))


def test_a_lookup_that_is_an_output_keeps_its_name(build: Build, samples: Samples, placed: Placed) -> None:
    model = build(
        "g (int64[3] i) => (float[3,4] h, float[3,4] y) <float[6,4] t, float[4,4] w> { [g] h = Gather(t, i)  [a] y ="
        " MatMul(h, w) }"
    )
    data = samples(model)
    draft = _calibrated(placed(model, EAGER["onnxruntime"], data, prefer="size"), data)
    assert ops.weight_port(draft.model.graph[0]) == 0
    assert Site("t", "g", 0) in draft.plan.sites
    _assert_sound(draft, _assert_as_by_hand(draft, data[:2]))


LAYERS = {
    "conv in one dimension": "(float[2,3,9] x) => (float y) <float[4,3,3] w, float[4] b> { [a] y = Conv <pads = [1,"
        " 1]> (x, w, b) }",
    "conv in three dimensions": "(float[1,2,4,4,4] x) => (float y) <float[3,2,2,2,2] w> { [a] y = Conv(x, w) }",
    "grouped conv": "(float[1,4,5,5] x) => (float y) <float[6,2,3,3] w, float[6] b> { [a] y = Conv <group = 2> (x, w,"
        " b) }",
    "conv of one output": "(float[1,4,5,5] x) => (float y) <float[1,4,3,3] w, float[1] b> { [a] y = Conv(x, w, b) }",
    "transposed conv": "(float[1,4,5,5] x) => (float y) <float[4,3,2,2] w, float[3] b> { [a] y = ConvTranspose"
        " <strides = [2, 2]> (x, w, b) }",
    "grouped transposed conv": "(float[1,4,5,5] x) => (float y) <float[4,3,2,2] w, float[6] b> { [a] y ="
        " ConvTranspose <group = 2> (x, w, b) }",
    "gemm": "(float[3,4] x) => (float y) <float[4,5] w, float[5] b> { [a] y = Gemm(x, w, b) }",
    "gemm with one bias for all": "(float[3,4] x) => (float y) <float[4,5] w, float[1] b> { [a] y = Gemm(x, w, b) }",
    "gemm with a bias of two axes": "(float[3,4] x) => (float y) <float[4,5] w, float[1,5] b> { [a] y = Gemm(x, w, b)"
        " }",
    "gemm with a scalar bias": "(float[3,4] x) => (float y) <float[4,5] w, float b = {0.5}> { [a] y = Gemm(x, w, b) }",
    "gemm without bias": "(float[3,4] x) => (float y) <float[5,4] w> { [a] y = Gemm <transB = 1> (x, w) }",
    "matmul of rank four": "(float[2,2,3,4] x) => (float y) <float[4,5] w> { [a] y = MatMul(x, w) }",
    "batched matmul": "(float[2,3,4] x) => (float y) <float[2,4,5] w> { [a] y = MatMul(x, w) }",
    "matmul of a vector": "(float[4] x) => (float y) <float[4,5] w> { [a] y = MatMul(x, w) }",
    "split": "(float[2,4] x) => (float y, float z) <float[4,6] w, float[3,3] v, int64[2] n = {3, 3}> { [a] h ="
        " MatMul(x, w)  s, t = Split <axis = 1> (h, n)"
    "  y = MatMul(s, v)  z = MatMul(t, v) }",
    "lrn of a pool": "(float[1,4,6,6] x) => (float y) <float[4,4,1,1] w> { [a] h = Conv(x, w)  p = MaxPool"
        " <kernel_shape = [2, 2]> (h)"
    "  l = LRN <size = 3> (p)  y = Conv(l, w) }",
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_every_shape_of_layer_computes_what_its_plan_says(
    build: Build, samples: Samples, placed: Placed, name: str
) -> None:
    model = build(f"g {LAYERS[name]}")
    for output in model.graph.outputs:
        output.shape = None
    data = samples(model)
    for target in EAGER.values():
        for refine in (False, True) if target.name in ("onnxruntime", "integer") else (False,):
            draft = _calibrated(placed(model, target, data, prefer="size"), data, refine=refine)
            assert draft.plan.sites or draft.plan.floats["a"]
            quantized = _assert_as_by_hand(draft, data[:1])
            _assert_sound(draft, quantized)
            reference, found = (OrtExecutor(m)(data[0][1]) for m in (model, quantized))
            assert all(sqnr_db(reference[key], found[key]) > 20 for key in reference)
