"""Promised: a model run in pieces computes the bits of the whole, sample after sample and on several threads, in less
memory; what cannot be cut stays whole.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from halfeven.draft import Batch
from halfeven.errors import BadCalibration
from halfeven.run import pieces
from halfeven.run.ort import OrtExecutor
from halfeven.run.pieces import InPieces, split

Build = Callable[..., ir.Model]
NET = (
    "g (float[n,3,h,w] x, float[4] bias) => (float[n,4,h,w] a, float[n,4,h,w] b, float[n,4,h,w] c, float[n,4] d)"
    " <float[4,3,1,1] f, float[4,4,1,1] k, float[4,4,1,1] l, float[1] one = {1}> { a = Conv(x, f, bias)  r = Relu(a)"
    " b = Conv(r, k)  s = Add(a, b)  c = Conv(s, l, bias)  t = Mul(c, one)  u = Add(t, r)"
    " v = GlobalAveragePool(u)  d = Flatten(v) }"
)
SIZE = 4 * 4 * 5 * 6  # bytes of a, b and c, for pictures of 5 x 6


def _feeds(seed: int, side: int = 5, batch: int = 1) -> Batch:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, 3, side, 6), np.float32)
    return {"x": x, "bias": rng.standard_normal(4, np.float32)}


def _values(run: InPieces, feeds: Batch) -> Batch:
    return {name: x.copy() for part in run(feeds) for name, x in part.values.items()}


def _typed(model: ir.Model) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))


@pytest.fixture
def cut(build: Build, monkeypatch: pytest.MonkeyPatch) -> list[pieces.Piece]:
    monkeypatch.setattr(pieces, "PIECE", SIZE + 10)
    return split(_typed(build(NET)), {"a": SIZE, "b": SIZE, "c": SIZE, "d": 16})


def test_it_is_cut_where_a_piece_of_memory_is_full(cut: list[pieces.Piece]) -> None:
    assert [[node.op_type for node in piece.model.graph] for piece in cut] == [
        ["Conv", "Relu"],
        ["Conv", "Add"],
        ["Conv", "Mul", "Add", "GlobalAveragePool"],
        ["Flatten"],
    ]
    assert [piece.reads for piece in cut] == [("x", "bias"), ("r", "a"), ("bias", "s", "r"), ("v",)]
    assert [piece.kept for piece in cut] == [{"a", "r"}, {"s"}, {"v"}, set()]
    assert [set(piece.model.graph.initializers) for piece in cut] == [{"f"}, {"k"}, {"l", "one"}, set()]


def test_samples_have_the_bits_of_the_whole_whatever_their_shapes(build: Build, cut: list[pieces.Piece]) -> None:
    whole, run = OrtExecutor(build(NET), (), 1, optimize=False), InPieces.of(cut, 1)
    for seed, shape in enumerate([(5, 1), (5, 1), (5, 1), (8, 1), (8, 1), (5, 2), (5, 1), (5, 1)]):
        feeds = _feeds(seed, *shape)
        expected, found = whole(feeds), _values(run, feeds)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_threads_do_not_see_each_others_values(build: Build, cut: list[pieces.Piece]) -> None:
    whole, run = OrtExecutor(build(NET), (), 1, optimize=False), InPieces.of(cut, 1)
    samples = [_feeds(seed) for seed in range(60)]
    with ThreadPoolExecutor(3) as pool:
        for feeds, found in zip(samples, pool.map(lambda feeds: _values(run, feeds), samples), strict=True):
            for name, values in whole(feeds).items():
                np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_pieces_use_the_same_memory_but_for_what_later_ones_read(cut: list[pieces.Piece]) -> None:
    run = InPieces.of(cut, 1)
    list(run(_feeds(0)))
    a, b, c, _ = run(_feeds(1))
    assert np.shares_memory(b.values["b"], c.values["c"])
    assert not np.shares_memory(a.values["a"], b.values["b"])
    assert [one is two for one, two in zip((a, b, c), run(_feeds(2)), strict=False)] == [True] * 3


def test_what_cannot_be_run_has_the_error_of_an_ordinary_run(build: Build, cut: list[pieces.Piece]) -> None:
    whole, run = OrtExecutor(build(NET), (), 1, optimize=False), InPieces.of(cut, 1)
    list(run(_feeds(0)))
    for bad in (
        {**_feeds(0), "bias": np.zeros(3, np.float32)},
        {"x": _feeds(0)["x"][:, :2], "bias": _feeds(0)["bias"]},
    ):
        with pytest.raises(BadCalibration, match="sample 7") as told:
            whole(bad, "sample 7")
        with pytest.raises(BadCalibration) as found:
            list(run(bad, "sample 7"))
        assert str(found.value).partition(" cannot be run")[0] == str(told.value).partition(" cannot be run")[0]
    np.testing.assert_array_equal(_values(run, _feeds(0))["c"], whole(_feeds(0))["c"])


BRANCH = (
    "g (float[4] x, bool p) => (float[4] y, float[4] z) { y = Abs(x)"
    " z = If (p) <then_branch = t () => (float[4] a) { a = Neg(y) }, else_branch = e () => (float[4] b) { b = Exp(y) }>"
    " }"
)
SEQUENCE = "g (float[4] x) => (float[4] y, float[4] z) { y = Abs(x)  s = SequenceConstruct(y, x)  i = Constant "
SEQUENCE += "<value_int = 0> ()  z = SequenceAt(s, i) }"


def test_graphs_within_nodes_stay_whole(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 8)
    (only,) = split(build(BRANCH), {"y": 16, "z": 16})
    assert not only.kept


@pytest.mark.parametrize("typed", [False, True])
def test_a_sequence_crosses_no_border(build: Build, monkeypatch: pytest.MonkeyPatch, typed: bool) -> None:
    monkeypatch.setattr(pieces, "PIECE", 8)
    model = _typed(build(SEQUENCE)) if typed else build(SEQUENCE)
    cut = split(model, {"y": 16, "s": 16, "z": 16})
    assert [piece.kept for piece in cut] == [{"y"}, set()]


DOUBLE = (
    "g (float[4] x) => (float[4] y, float[4] z) <int64[1] n = {4}> { y = Abs(x)  d = Cast <to = 11> (y)"
    " z1 = Cast <to = 1> (d)  w = Exp(z1)  e = Expand(d, n)  f = Cast <to = 1> (e)  z = Add(w, f) }"
)


def test_a_value_of_unknown_type_crosses_no_border(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 8)
    model = build(DOUBLE)
    for node in model.graph:
        for value in node.outputs:
            value.type = None if value.name in "de" else ir.TensorType(ir.DataType.FLOAT)
    feeds = {"x": np.float32([-1, 2, -3, 4])}
    model.graph.outputs.insert(1, next(v for node in model.graph for v in node.outputs if v.name == "w"))
    cut = split(model, {"y": 16, "w": 16, "z": 16})
    assert not any("d" in piece.kept for piece in cut)
    run, whole = InPieces.of(cut, 1), OrtExecutor(build(DOUBLE), (), 1, optimize=False)
    for _ in range(3):
        np.testing.assert_array_equal(_values(run, feeds)["z"], whole(feeds)["z"])


NUMBER = (
    "g (float[4] x) => (float[1] r, float[4] a, float[4] y) <int64[1] ax = {0}> { r = ReduceSum <keepdims = 1> (x, ax)"
    " m = Squeeze(r)  a = Abs(x)  s = Shape(m)  o = Size(s)  c = Cast <to = 1> (o)  b = Neg(a)  y = Add(b, c) }"
)


def test_a_single_number_that_crosses_a_border_keeps_its_shape(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 8)
    model = _typed(build(NUMBER))
    cut = split(model, {"r": 4, "a": 16, "y": 16})
    assert any("m" in piece.kept for piece in cut)
    run, whole = InPieces.of(cut, 1), OrtExecutor(build(NUMBER), (), 1, optimize=False)
    for seed in range(4):
        feeds = {"x": np.random.default_rng(seed).standard_normal(4).astype(np.float32)}
        np.testing.assert_array_equal(_values(run, feeds)["y"], whole(feeds)["y"])


def test_an_output_that_no_node_makes_leaves_the_model_whole(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 8)
    model = build("g (float[4] x) => (float[4] y, float[4] z) { y = Abs(x)  z = Neg(y) }")
    assert len(split(model, {"y": 16, "z": 16})) == 2
    model.graph.outputs.append(model.graph.inputs[0])
    assert len(split(model, {"y": 16, "z": 16})) == 1


def test_what_a_later_piece_refuses_is_told_of_the_sample(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 8)
    model = _typed(build("g (float[n] x, float[m] b) => (float[n] y, float[k] z) { y = Abs(x)  z = Add(y, b) }"))
    cut = split(model, {"y": 16, "z": 16})
    assert len(cut) == 2
    with pytest.raises(BadCalibration, match=r"^sample 7 \(x float32\[4\], b float32\[3\]\) cannot be run"):
        list(InPieces.of(cut, 1)({"x": np.zeros(4, np.float32), "b": np.zeros(3, np.float32)}, "sample 7"))
