"""Promised: random networks, quantized for each target, compute what their plans say, and the runtime runs them in integers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.exporters.onnx import to_qdq
from halfeven.run.ort import OrtExecutor, integer_nodes
from halfeven.stats.distance import sqnr_db
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import Target

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]
Calibrated = Callable[..., Draft]
ByHand = Callable[..., ir.Model]
Sound = Callable[[Draft, ir.Model], None]
EAGER = {
    name: replace(target, costs=UNIFORM)
    for name, target in TARGETS.items()
    if "qdq" in target.formats and target.rules[0].data.grid.bits == 8  # float32 adds up no products of 16 bits exactly
}
"""The targets, with costs that make all layers worth it, so that small networks are quantized."""
INTEGER = TARGETS["integer"]


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


@pytest.mark.parametrize("target", EAGER.values(), ids=lambda t: t.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_random_network_computes_what_its_plan_says(
    build: Build,
    samples: Samples,
    placed: Placed,
    calibrated: Calibrated,
    as_by_hand: ByHand,
    sound: Sound,
    name: str,
    target: Target,
) -> None:
    kind, seed = NETWORKS[name]
    model = build(kind(seed))
    data = samples(model, 3, seed=seed)
    draft = calibrated(placed(model, target, data), data)
    assert draft.plan.sites
    quantized = as_by_hand(draft, [data[0], *samples(model, 1, 3.0, seed=99)])
    sound(draft, quantized)


@pytest.mark.parametrize("target", [EAGER["onnxruntime"], INTEGER], ids=lambda t: t.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_equalized_and_rounded_by_moments_it_does_so_too(
    build: Build,
    samples: Samples,
    placed: Placed,
    calibrated: Calibrated,
    as_by_hand: ByHand,
    sound: Sound,
    name: str,
    target: Target,
) -> None:
    kind, seed = NETWORKS[name]
    model = build(kind(seed))
    data = samples(model, 3, seed=seed)
    draft = calibrated(placed(model, target, data), data, refine=True)
    sound(draft, as_by_hand(draft, data[:1]))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-arm", "integer"])
def test_the_runtimes_optimiser_keeps_the_network_close(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, seed: int, name: str
) -> None:
    model = build(_cnn(seed))
    data = samples(model, 4, seed=seed)
    quantized = to_qdq(calibrated(placed(model, EAGER[name], data), data))
    plain, fast = (OrtExecutor(quantized, optimize=o)(data[0][1]) for o in (False, True))
    for key, array in plain.items():
        assert sqnr_db(array, fast[key]) > 20, key


@pytest.mark.parametrize("classes", [2, 5, 40, 300])
@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-arm", "integer"])
def test_a_softmax_keeps_close_however_flat_it_is(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, name: str, classes: int
) -> None:
    """QLinearSoftmax of ONNX Runtime 1.31 overflows when its output's scale is much below 1 / (150 * classes)."""
    model = build(
        f"g (float[3,8] x) => (float[3,4] y) <float[8,{classes}] w, float[{classes},4] v>"
        " { [a] h = MatMul(x, w)  [s] s = Softmax(h)  [b] y = MatMul(s, v) }",
        w=np.random.default_rng(0).normal(0, 0.02, (8, classes)),
        v=np.random.default_rng(1).uniform(0, 1, (classes, 4)),
    )
    data = samples(model)
    draft = calibrated(placed(model, EAGER[name], data, prefer="size"), data)
    quantized = to_qdq(draft)
    for signed in (False, True):
        reference, found = (OrtExecutor(m, signed=signed)(data[0][1]) for m in (model, quantized))
        assert sqnr_db(reference["y"], found["y"]) > 12


def test_every_convolution_becomes_one_of_integers(
    build: Build, samples: Samples, placed: Placed, calibrated: Calibrated, tmp_path: Path
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
    quantized = to_qdq(calibrated(placed(model, EAGER["onnxruntime"], data), data))
    ir.save(quantized, tmp_path / "q.onnx")
    assert integer_nodes(tmp_path / "q.onnx") == (5, 5)
    ir.save(model, tmp_path / "f.onnx")
    assert integer_nodes(tmp_path / "f.onnx") == (0, 5)
