"""What calibration sees does not depend on how the values lay in memory, nor on which of two equal models ran."""

import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, pipeline
from halfeven.graph import ops
from halfeven.run import pieces
from halfeven.run.blocked import Blocked, blocked
from halfeven.run.ort import OrtExecutor
from halfeven.steps.equalize import Equalize
from halfeven.steps.observe import Observe
from halfeven.steps.watching import ENOUGH
from halfeven.targets import TARGETS

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]

NET = (
    "g (float[1,3,9,7] x) => (float[1,5,9,7] y) <float[32,3,3,3] a, float[32] ab, float[32,1,3,3] d, float[32] db,"
    " float[36,32,1,1] b, float[5,36,1,1] z, float zero = {0}, float six = {6}> {"
    " h = Conv <pads = [1, 1, 1, 1]> (x, a, ab)  r = Clip(h, zero, six)"
    " k = Conv <group = 32, pads = [1, 1, 1, 1]> (r, d, db)  s = Clip(k, zero, six)"
    " t = Conv(s, b)  u = Relu(t)  y = Conv(u, z) }"
)
MANY = ENOUGH + 3


def _network(build: Build) -> ir.Model:
    spread = 2.0 ** np.linspace(3, -3, 32)
    rng = np.random.default_rng(5)
    a = rng.normal(size=(32, 3, 3, 3)) * spread.reshape(-1, 1, 1, 1)
    return build(NET, a=a, ab=spread, b=rng.normal(size=(36, 32, 1, 1)) / spread.reshape(1, -1, 1, 1))


@pytest.fixture(scope="module")
def data(build: Build, samples: Samples) -> list:
    return samples(_network(build), MANY)


@pytest.fixture(scope="module")
def equalized(build: Build, placed: Placed, data: list) -> Draft:
    draft = pipeline(Equalize())(placed(_network(build), TARGETS["integer"], data), data)
    assert draft.unscaled is not None
    assert any(node.op_type == "Min" for node in draft.model.graph)
    return draft


def _values(found: Blocked, feeds: dict) -> dict:
    (part,) = found.run(feeds)
    return {name: part.values[inside] for name, inside in found.names.items()}


class Stream:
    """Samples of unknown number: each is watched in order."""

    def __init__(self, data: list) -> None:
        self.data = data

    def __iter__(self) -> Iterator:
        return iter(self.data)


@pytest.mark.parametrize("moments", [0, 2])
def test_many_samples_are_seen_as_they_lie_and_few_in_order_with_the_same_result(
    equalized: Draft, data: list, moments: int
) -> None:
    step = Observe(elements=200, moments=moments)
    many, few = pipeline(step)(equalized, data), pipeline(step)(equalized, Stream(data))
    assert many.stats == few.stats
    assert len(many.stats) >= 5
    assert many.moments.keys() == few.moments.keys()
    for name, found in many.moments.items():
        np.testing.assert_array_equal(found.gram, few.moments[name].gram)
    assert many.unscaled is None


def test_in_pieces_the_same_is_seen(equalized: Draft, data: list, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cuts = pipeline(Observe())(equalized, data), []
    split = pieces.split
    monkeypatch.setattr(pieces, "PIECE", 4000)
    monkeypatch.setattr("halfeven.run.blocked.split", lambda *given: cuts.append(found := split(*given)) or found)
    found = pipeline(Observe())(equalized, data)
    assert [len(cut) >= 3 for cut in cuts] == [True]
    assert found.stats == whole.stats
    for name, moments in found.moments.items():
        np.testing.assert_array_equal(moments.gram, whole.moments[name].gram)


def test_where_the_runtime_refuses_a_piece_it_is_said_and_the_result_is_the_same(
    equalized: Draft, data: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(model: ir.Model, sizes: dict[str, int]) -> list[pieces.Piece]:
        cut = split(model, sizes)
        if len(cut) > 1:
            cut[1].model.graph.inputs[0].type = ir.TensorType(ir.DataType.INT64)
        return cut

    expected, split = pipeline(Observe())(equalized, data), pieces.split
    monkeypatch.setattr(pieces, "PIECE", 4000)
    monkeypatch.setattr("halfeven.run.blocked.split", mistaken)
    found = pipeline(Observe())(equalized, data)
    assert any("faster way failed" in note for note in found.notes)
    assert found.stats == expected.stats


def test_the_model_as_it_was_shows_what_the_equalized_one_computes(equalized: Draft, data: list) -> None:
    fast = pipeline(Observe())(equalized, data)
    slow = pipeline(Observe())(replace(equalized, unscaled=None), data)
    assert fast.stats.keys() == slow.stats.keys()
    for name, seen in fast.stats.items():
        mine, theirs = seen.histogram.extrema, slow.stats[name].histogram.extrema
        np.testing.assert_allclose([mine.low, mine.high], [theirs.low, theirs.high], rtol=1e-5, err_msg=name)
        assert mine.count == theirs.count
    for name, found in fast.moments.items():
        np.testing.assert_allclose(found.gram, slow.moments[name].gram, rtol=1e-4, atol=1e-2, err_msg=name)


def test_a_bound_by_channel_is_seen_as_the_float32_that_stands_in_the_model(equalized: Draft, data: list) -> None:
    clamp = next(node for node in equalized.model.graph if node.op_type == "Min")
    bounds = ops.constant_of(clamp.inputs[1])
    assert bounds is not None
    loud = [(label, {"x": 1000 * feeds["x"]}) for label, feeds in data]
    seen = pipeline(Observe())(equalized, loud).stats[clamp.outputs[0].name or ""]
    assert seen.histogram.extrema.high == bounds.numpy().max()


def test_a_model_changed_after_it_was_equalized_is_run_itself(equalized: Draft, data: list) -> None:
    assert equalized.unscaled is not None
    other = replace(equalized, model=equalized.unscaled.model)
    plain = replace(other, unscaled=None)
    assert pipeline(Observe())(other, data).stats == pipeline(Observe())(plain, data).stats


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="blocks are those of x86-64")
def test_on_x86_values_come_in_blocks_of_eight_or_sixteen(build: Build) -> None:
    run = blocked(_network(build), dict.fromkeys(("r", "s", "u", "y"), 0), 1)
    assert set(run.blocks) == {"r", "s"}
    assert set(run.blocks.values()) <= {8, 16}


def test_a_value_that_is_turned_to_channels_last_comes_in_order(build: Build, samples: Samples) -> None:
    net = "g (float[1,3,9,7] x) => (float[1,9,7,32] y) <float[32,3,3,3] a> {"
    net += " h = Conv <pads = [1, 1, 1, 1]> (x, a)  y = Transpose <perm = [0, 2, 3, 1]> (h) }"
    model = build(net)
    feeds = samples(model, 1)[0][1]
    found = blocked(model, {"y": 0}, 1)
    assert not found.blocks
    np.testing.assert_array_equal(_values(found, feeds)["y"], OrtExecutor(model, ("y",), 1)(feeds)["y"])


def test_values_lie_in_blocks_of_channels_and_hold_the_same_bits(build: Build, data: list) -> None:
    model, names = _network(build), ("r", "s", "u", "y")
    run, feeds = blocked(model, dict.fromkeys(names, 0), 1), data[0][1]
    ordered, found = OrtExecutor(model, names, 1)(feeds), _values(run, feeds)
    for name in names:
        channels, (block, x) = ordered[name].shape[1], (run.blocks.get(name, 1), found[name])
        x = x.reshape(channels // block, -1, block).swapaxes(1, 2).reshape(ordered[name].shape)
        np.testing.assert_array_equal(x, ordered[name], err_msg=name)
    assert not run.blocks.keys() & {"u", "y"}, "36 and 5 channels do not fill blocks of 8 or 16"


def test_without_room_for_a_temporary_file_it_is_said_and_the_result_is_the_same(
    equalized: Draft, data: list, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = pipeline(Observe())(equalized, data)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    found = pipeline(Observe(moments=0))(equalized, data)
    assert any("faster way failed" in note and "no such folder" in note for note in found.notes)
    assert found.stats == expected.stats
    assert not any("faster way" in note for note in expected.notes)
