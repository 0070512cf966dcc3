"""BatchNormalization and per-channel arithmetic go into the layer before, exactly, and only where nobody else looks."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfeven.graph.batchnorm import fold_batchnorm, fold_channel_affine
from halfeven.graph.names import name_everything
from halfeven.graph.prune import remove_dead
from halfeven.graph.shapes import infer_shapes

Build = Callable[..., ir.Model]
Compute = Callable[..., list[np.ndarray]]

NORM = "BatchNormalization <epsilon = 0.001> (h, s, b, m, v)"


def _norm(channels: int, dtype: str = "float32", seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "s": rng.normal(1, 0.5, channels).astype(dtype),
        "b": rng.normal(0, 1, channels).astype(dtype),
        "m": rng.normal(0, 1, channels).astype(dtype),
        "v": rng.uniform(0.1, 2, channels).astype(dtype),
    }


def _random(*shape: int, seed: int = 1, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(dtype)


def _folded(model: ir.Model) -> list[str]:
    name_everything(model)
    infer_shapes(model)
    notes = fold_channel_affine(model) + fold_batchnorm(model) + fold_channel_affine(model)
    remove_dead(model)
    return notes


def _ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.all_nodes())


def _assert_close(before: list[np.ndarray], after: list[np.ndarray], tolerance: float = 2e-6) -> None:
    for was, now in zip(before, after, strict=True):
        assert was.dtype == now.dtype
        assert np.abs(was.astype(float) - now).max() <= tolerance * np.abs(was).max()


LAYERS = {
    "conv": ("[N,4,9,9]", "Conv(x, w)", {"w": (6, 4, 3, 3)}, 6),
    "conv with bias": ("[N,4,9,9]", "Conv(x, w, c)", {"w": (6, 4, 3, 3), "c": (6,)}, 6),
    "grouped conv": ("[N,4,9,9]", "Conv <group = 2> (x, w)", {"w": (6, 2, 3, 3)}, 6),
    "depthwise conv": ("[N,4,9,9]", "Conv <group = 4> (x, w, c)", {"w": (4, 1, 3, 3), "c": (4,)}, 4),
    "conv in one dim": ("[N,4,9]", "Conv(x, w)", {"w": (6, 4, 3)}, 6),
    "transposed conv": ("[N,4,5,5]", "ConvTranspose <strides = [2, 2]> (x, w)", {"w": (4, 6, 3, 3)}, 6),
    "grouped transposed conv": (
        "[N,4,5,5]", "ConvTranspose <group = 2> (x, w, c)", {"w": (4, 3, 3, 3), "c": (6,)}, 6,
    ),
    "gemm": ("[N,5]", "Gemm(x, w)", {"w": (5, 6)}, 6),
    "gemm transposed": ("[N,5]", "Gemm <transB = 1> (x, w, c)", {"w": (6, 5), "c": (6,)}, 6),
    "gemm scaled": ("[N,5]", "Gemm <alpha = 0.5, beta = 3.0> (x, w, c)", {"w": (5, 6), "c": (1, 6)}, 6),
    "gemm with beta alone": ("[N,5]", "Gemm <beta = 3.0> (x, w)", {"w": (5, 6)}, 6),
    "gemm with one bias": ("[N,5]", "Gemm <transB = 1> (x, w, c)", {"w": (6, 5), "c": ()}, 6),
    "gemm with a bias per row": ("[3,5]", "Gemm(x, w, c)", {"w": (5, 6), "c": (3, 6)}, 6),
}  # fmt: skip


def _layer(build: Build, name: str, after: str, **more: np.ndarray) -> tuple[ir.Model, dict[str, np.ndarray], int]:
    shape, call, weights, channels = LAYERS[name]
    arrays = {key: _random(*dims, seed=k) for k, (key, dims) in enumerate(weights.items())}
    model = build(f"g (float{shape} x) => (float y) {{ h = {call}  {after} }}", **arrays, **more)
    model.graph.outputs[0].shape = None
    return model, {"x": _random(*(int(d) if d != "N" else 3 for d in shape[1:-1].split(",")), seed=9)}, channels


@pytest.mark.parametrize("name", LAYERS)
def test_batch_normalization_goes_into_the_layer_before(build: Build, compute: Compute, name: str) -> None:
    model, feeds, _ = _layer(build, name, f"y = {NORM}", **_norm(LAYERS[name][3]))
    layer = model.graph[0].op_type
    before = compute(model, feeds)
    assert _folded(model) == [f"1 BatchNormalization folded into {layer}"]
    assert [(node.op_type, node.outputs[0].name) for node in model.graph] == [(layer, "y")]
    assert "w" in model.graph.initializers
    _assert_close(before, compute(model, feeds))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    "after",
    [
        "y = Mul(h, k)",
        "y = Add(k, h)",
        "y = Sub(h, k)",
        "y = Sub(k, h)",
        "y = Div(h, k)",
        "i = Mul(h, k) y = Add(i, k)",
    ],
)
def test_arithmetic_per_channel_goes_into_the_layer_before(
    build: Build, compute: Compute, name: str, per_channel: bool, after: str
) -> None:
    rank = LAYERS[name][0].count(",") + 1
    operand = _random(LAYERS[name][3] if per_channel else 1).reshape(1, -1, *(1,) * (rank - 2))
    model, feeds, _ = _layer(build, name, after, k=operand if per_channel else operand.reshape(()))
    before = compute(model, feeds)
    _folded(model)
    assert len(model.graph) == 1
    _assert_close(before, compute(model, feeds))


def test_a_norm_after_scale_and_shift_folds_with_them(build: Build, compute: Compute) -> None:
    model = build(
        "g (float[N,4,9,9] x) => (float[N,6,7,7] y) {"
        f" c = Conv(x, w)  a = Mul(k, c)  h = Add(a, k)  z = {NORM}  y = Mul(z, k) }}",
        w=_random(6, 4, 3, 3), k=_random(6, 1, 1), **_norm(6),
    )  # fmt: skip
    feeds = {"x": _random(2, 4, 9, 9)}
    before = compute(model, feeds)
    _folded(model)
    assert _ops(model) == {"Conv": 1}
    _assert_close(before, compute(model, feeds))


def test_a_matmul_of_rank_two_folds_and_leaves_an_add(build: Build, compute: Compute) -> None:
    feeds = {"x": _random(3, 5)}
    after = {"norm": f"[norm] y = {NORM.replace('(h', '(h0')}", "bias": f"[bias] h = Add(c, h0)  y = {NORM}"}
    for name, text in after.items():
        model = build(
            f"g (float[N,5] x) => (float[N,6] y) {{ h0 = MatMul(x, w)  {text} }}",
            w=_random(5, 6), c=_random(6), **_norm(6),
        )  # fmt: skip
        before = compute(model, feeds)
        assert _folded(model) == ["1 BatchNormalization folded into MatMul"]
        assert [node.op_type for node in model.graph] == ["MatMul", "Add"]
        assert model.graph[1].name == name
        _assert_close(before, compute(model, feeds))


def test_a_matmul_of_rank_three_keeps_its_norm(build: Build) -> None:
    model = build(
        f"g (float[N,6,5] x) => (float[N,6,6] y) {{ h = MatMul(x, w)  y = {NORM} }}", w=_random(5, 6), **_norm(6)
    )
    (note,) = _folded(model)
    assert "the MatMul before is not of rank 2" in note
    assert _ops(model) == {"MatMul": 1, "BatchNormalization": 1}


def test_an_added_constant_of_other_channels_than_the_norms_keeps_it(build: Build) -> None:
    model = build(
        f"g (float[N,6,5] x) => (float[N,6,8] y) {{ k = MatMul(x, w)  h = Add(k, c)  y = {NORM} }}",
        w=_random(5, 8), c=_random(8), **_norm(6),
    )  # fmt: skip
    (note,) = _folded(model)
    assert "Add comes before" in note
    assert _ops(model) == {"MatMul": 1, "Add": 1, "BatchNormalization": 1}


def test_a_shared_weight_is_copied_for_the_layer_that_folds(build: Build, compute: Compute) -> None:
    model = build(
        "g (float[1,4,9,9] x) => (float[1,6,7,7] y, float[1,6,7,7] z) {"
        f" h = Conv(x, w, c)  y = {NORM}  z = Conv(x, w, c) }}",
        w=_random(6, 4, 3, 3), c=_random(6), **_norm(6),
    )  # fmt: skip
    feeds = {"x": _random(1, 4, 9, 9)}
    before = compute(model, feeds)
    _folded(model)
    assert set(model.graph.initializers) == {"w", "c", "w_1", "c_1"}
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), _random(6, 4, 3, 3))
    _assert_close(before, compute(model, feeds))


def test_one_convolution_twice_under_shared_norms_folds_twice(build: Build, compute: Compute) -> None:
    model = build(
        "g (float[1,4,9,9] x) => (float[1,6,7,7] y, float[1,6,7,7] z) {"
        f" h = Conv(x, w)  y = {NORM}  g = Conv(x, w)  z = {NORM.replace('(h', '(g')} }}",
        w=_random(6, 4, 3, 3), **_norm(6),
    )  # fmt: skip
    feeds = {"x": _random(1, 4, 9, 9)}
    before = compute(model, feeds)
    assert _folded(model) == ["2 BatchNormalization folded into Conv"]
    _assert_close(before, compute(model, feeds))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("h = Relu(x)  y = NORM", "Relu comes before"),
        ("y = BatchNormalization(x, s, b, m, v)", "an input of the graph comes before"),
        ("h = Conv(x, w)  y = NORM  z = Relu(h)", "others read the result of the Conv before"),
        ("u = Add(w, w)  h = Conv(x, u)  y = NORM", "the weight of the Conv before is not a constant"),
        ("u = Neg(c)  h = Conv(x, w, u)  y = NORM", "the bias of the Conv before is not a constant"),
        ("h = Conv(x, w)  u = Neg(m)  y = BatchNormalization(h, s, b, u, v)", "its parameters are not constants"),
        ("h = Conv(x, w)  y, p, q = BatchNormalization <training_mode = 1> (h, s, b, m, v)", "in training mode"),
        ("h = Conv(x, w)  y = BatchNormalization(h, s, nan, m, v)", "not finite"),
        ("h = Conv(x, w)  y = BatchNormalization(h, s, b, m, negative)", "a variance is negative"),
        ("h = Conv(x, w)  y = BatchNormalization(h, s4, s4, s4, s4)", "another number of channels"),
    ],
)
def test_a_norm_that_cannot_fold_stays_with_a_reason(build: Build, text: str, reason: str) -> None:
    text = text.replace("NORM", NORM)
    bad = {"nan": np.full(6, np.nan, np.float32), "negative": np.full(6, -1, np.float32), "s4": np.ones(4, np.float32)}
    model = build(
        f"g (float[1,4,9,9] x) => (float y{', float z' if 'z =' in text else ''}) {{ {text} }}",
        w=_random(6, 4, 3, 3), c=_random(6), **_norm(6), **bad,
    )  # fmt: skip
    weight = model.graph.initializers["w"].const_value if "w" in model.graph.initializers else None
    notes = _folded(model)
    assert len(notes) == 1
    assert "1 BatchNormalization kept, as" in notes[0]
    assert reason in notes[0]
    assert _ops(model)["BatchNormalization"] == 1
    assert weight is None or model.graph.initializers["w"].const_value is weight


def test_the_result_of_a_layer_that_is_an_output_is_not_touched(build: Build, compute: Compute) -> None:
    model = build(
        f"g (float[1,4,9,9] x) => (float[1,6,7,7] h, float[1,6,7,7] y) {{ h = Conv(x, w)  y = {NORM} }}",
        w=_random(6, 4, 3, 3), **_norm(6),
    )  # fmt: skip
    _folded(model)
    assert _ops(model) == {"Conv": 1, "BatchNormalization": 1}


@pytest.mark.parametrize(
    "shape", [(6,), (1, 6, 7, 7), (6, 1), (2, 6, 1, 1), (1, 1, 6, 1, 1), (1, 1, 7, 1), (7,)], ids=str
)
def test_an_operand_that_is_not_per_channel_is_not_folded(build: Build, shape: tuple[int, ...]) -> None:
    model = build(
        "g (float[1,4,8,8] x) => (float y) { h = Conv(x, w)  y = Mul(h, k) }", w=_random(6, 4, 3, 3), k=_random(*shape)
    )
    assert fold_channel_affine(model) == []
    assert _ops(model) == {"Conv": 1, "Mul": 1}


def test_one_channel_is_not_spread_over_many(build: Build) -> None:
    model = build(
        "g (float[1,4,9,9] x) => (float y) { h = Conv(x, w)  y = Mul(h, k) }", w=_random(1, 4, 3, 3), k=_random(6, 1, 1)
    )
    assert fold_channel_affine(model) == []


@pytest.mark.parametrize("after", ["y = Div(k, h)", "y = Div(h, zero)", "y = Mul(h, huge)", "y = Mul(h, h)"])
def test_arithmetic_that_is_not_linear_or_not_finite_is_not_folded(build: Build, after: str) -> None:
    operands = {"k": np.array(2, np.float32), "zero": np.array(0, np.float32), "huge": np.array(1e38, np.float32)}
    model, _, _ = _layer(build, "conv", after, **operands)
    model.graph.initializers["w"].const_value = ir.tensor(_random(6, 4, 3, 3) * 100)
    assert fold_channel_affine(model) == []


def test_half_precision_folds_norms_but_no_scale_that_would_round(build: Build, compute: Compute) -> None:
    x = _random(1, 4, 9, 9, dtype="float16")
    model = build(
        f"g (float16[1,4,9,9] x) => (float16[1,6,7,7] y) {{ h = Conv(x, w)  y = {NORM} }}",
        w=_random(6, 4, 3, 3, dtype="float16"), **_norm(6, "float16"),
    )  # fmt: skip
    before = compute(model, {"x": x})
    assert _folded(model) == ["1 BatchNormalization folded into Conv"]
    assert model.graph.initializers["w"].const_value.dtype == ir.DataType.FLOAT16
    _assert_close(before, compute(model, {"x": x}), tolerance=4e-3)
    for factor, nodes in ((0.7, 2), (0.5, 1)):
        scaled = build(
            "g (float16[1,4,9,9] x) => (float16[1,6,7,7] y) { h = Conv(x, w)  y = Mul(h, k) }",
            w=_random(6, 4, 3, 3, dtype="float16"), k=np.array(factor, np.float16),
        )  # fmt: skip
        _folded(scaled)
        assert len(scaled.graph) == nodes


def test_half_precision_that_would_overflow_is_not_folded(build: Build) -> None:
    norm = _norm(6, "float16") | {"s": np.full(6, 3e4, np.float16)}
    model = build(
        f"g (float16[1,4,9,9] x) => (float16[1,6,7,7] y) {{ h = Conv(x, w)  y = {NORM} }}",
        w=_random(6, 4, 3, 3, dtype="float16") * np.float16(100), **norm,
    )  # fmt: skip
    (note,) = _folded(model)
    assert "would overflow" in note


def test_folding_happens_inside_a_loop_body(build: Build, compute: Compute) -> None:
    model = build(
        """g (float[1,2,5,5] x) => (float[1,2,5,5] y) <int64 n = {2}, bool t = {1}> {
      y = Loop (n, t, x) <body = b (int64 i, bool go, float[1,2,5,5] z) => (bool on, float[1,2,5,5] o) {
        on = Identity(go)  h = Conv <pads = [1, 1, 1, 1]> (z, w)  o = """ + NORM + """
      }>
    }""",
        w=_random(2, 2, 3, 3), **_norm(2),
    )  # fmt: skip
    feeds = {"x": _random(1, 2, 5, 5)}
    before = compute(model, feeds)
    assert _folded(model) == ["1 BatchNormalization folded into Conv"]
    _assert_close(before, compute(model, feeds))


def test_a_norm_in_a_branch_does_not_fold_into_a_layer_outside(build: Build) -> None:
    model = build(
        "g (float[1,4,9,9] x, bool c) => (float[1,6,7,7] y) { h = Conv(x, w)  y = If (c) <"
        f"then_branch = a () => (float[1,6,7,7] p) {{ p = {NORM} }},"
        "else_branch = b () => (float[1,4,9,9] q) { q = Neg(x) }> }",
        w=_random(6, 4, 3, 3), **_norm(6),
    )  # fmt: skip
    _folded(model)
    assert _ops(model)["BatchNormalization"] == 1


@settings(max_examples=40, deadline=None)
@given(
    group=st.integers(1, 3), per_group=st.integers(1, 3), inputs=st.integers(1, 3), seed=st.integers(0, 2**16),
    transposed=st.booleans(), epsilon=st.floats(1e-7, 0.1),
)  # fmt: skip
def test_folding_is_exact_for_any_grouping(
    build: Build, compute: Compute, group: int, per_group: int, inputs: int, seed: int, transposed: bool, epsilon: float
) -> None:
    channels = group * per_group
    shape = (group * inputs, per_group, 2, 2) if transposed else (channels, inputs, 2, 2)
    model = build(
        f"g (float[1,{group * inputs},4,4] x) => (float[1,{channels},H,W] y) {{"
        f" h = {'ConvTranspose' if transposed else 'Conv'} <group = {group}> (x, w)"
        f" y = {NORM.replace('0.001', f'{epsilon:.9f}')} }}",
        w=_random(*shape, seed=seed), **_norm(channels, seed=seed),
    )  # fmt: skip
    feeds = {"x": _random(1, group * inputs, 4, 4, seed=seed + 1)}
    before = compute(model, feeds)
    _folded(model)
    assert len(model.graph) == 1
    _assert_close(before, compute(model, feeds))
