"""Promised: a sensitivity is the error of the network with one weight rounded; what was measured is kept, and gone on
with. The plan of a search keeps its budget and costs less than one width for all; what it says is in every file.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import halfeven
from halfeven import errors
from halfeven.bit_search import Search
from halfeven.draft import Draft, no_progress
from halfeven.errors import BadCalibration, BadOption
from halfeven.exporters.formats import exporter_named
from halfeven.graph.plan import Plan
from halfeven.graph.prepare import prepare
from halfeven.graph.weight_codes import weight_params
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.quantize import fake_quantize
from halfeven.run.ort import OrtExecutor
from halfeven.steps.place import Place
from halfeven.steps.search import Probe, Sensitivities, searched, with_widths
from halfeven.targets import TARGETS

NET = (
    "g (float[N,4] x) => (float[N,2] y) <float[4,6] w, float[6,2] v> { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
)
RNG = np.random.default_rng(0)
SAMPLES = [(str(i), {"x": RNG.standard_normal((3, 4)).astype(np.float32)}) for i in range(4)]
DEMO = Path(errors.__file__).parent / "demo"
NETWORK = str(DEMO / "fashion_mnist_mbv2.onnx")
WIDTHS = (2, 3, 4, 6, 8)


@pytest.fixture
def draft(build: Callable) -> Draft:
    model = prepare(build(NET))[0]
    return Place(prefer="size")(Draft(model, TARGETS["onnxruntime"]), (), no_progress)


@pytest.fixture
def probe(draft: Draft) -> Probe:
    return Probe(draft, searched(draft, (2, 8)), SAMPLES)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    with np.load(DEMO / "calibration.npz") as arrays:
        return np.asarray(arrays["x"][:64])


@pytest.fixture(scope="module")
def found(pictures: np.ndarray) -> Search:
    return halfeven.search(NETWORK, pictures, preprocess="fashion-mnist", bits=WIDTHS, budget=4)


def constants(draft: Draft) -> dict[str, np.ndarray]:
    return {name: v.const_value.numpy() for name, v in draft.model.graph.initializers.items() if v.const_value}


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_an_error_is_that_of_the_network_with_one_weight_rounded(probe: Probe, draft: Draft, bits: int) -> None:
    held = constants(draft)

    def run(x: np.ndarray, **other: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(x @ {**held, **other}["w"], 0) @ {**held, **other}["v"], np.float64)

    power = np.mean([np.square(run(feeds["x"])).sum() for _, feeds in SAMPLES])
    for weight in probe.weights:
        name = weight.name.split(" ")[0]
        params = weight_params(draft.model, draft.plan, weight.group, IntGrid(bits))
        if bits == 8:
            own = draft.plan.groups[weight.group].scheme
            params = replace(params, scheme=own, scale=np.abs(held[name]).max(0, keepdims=True) / np.float32(127))
        values = fake_quantize(held[name], params)
        for i, (_, feeds) in enumerate(SAMPLES):
            expected = np.square(run(feeds["x"]) - run(feeds["x"], **{name: values})).sum() / power
            measured = probe.error(i, probe.rounded({weight.group: bits}))
            assert measured == pytest.approx(expected, rel=1e-3, abs=1e-12)
            assert probe.error(i, {}) == 0


def test_what_an_interruption_leaves_is_gone_on_with(probe: Probe, tmp_path: Path) -> None:
    path, whole = tmp_path / "s.json", Sensitivities("k")
    whole.measure(probe, (2, 8), math.inf, no_progress)

    def interrupt(task: str, done: int, total: int | None) -> None:
        if done == 7:
            raise KeyboardInterrupt

    begun = Sensitivities.of(probe, path)
    with pytest.raises(KeyboardInterrupt):
        begun.measure(probe, (2, 8), math.inf, interrupt)
    data = json.loads(path.read_text())
    assert sum(len(of) for widths in data["errors"].values() for of in widths.values()) == 7
    kept = data["errors"][probe.weights[0].name]["2"]
    kept[0] = 0.125  # as nothing measures it, it tells whether it was measured again
    path.write_text(json.dumps(data))
    resumed = Sensitivities.of(probe, path)
    resumed.measure(probe, (2, 8), math.inf, no_progress)
    whole.measured(probe.weights[0], 2)[0] = 0.125
    assert resumed.errors == whole.errors == json.loads(path.read_text())["errors"]
    assert resumed.notes == ()


def test_what_is_of_other_samples_is_measured_anew_and_that_is_said(draft: Draft, probe: Probe, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    Sensitivities.of(probe, path).measure(probe, (2, 8), math.inf, no_progress)
    other = Sensitivities.of(Probe(draft, probe.weights, SAMPLES[1:]), path)
    assert not other.errors
    assert "was of another network, plan or other samples: all is measured anew" in other.notes[0]


def test_what_there_was_no_time_for_is_estimated_from_the_weight(probe: Probe) -> None:
    known = Sensitivities("k")
    with pytest.raises(BadCalibration, match="no time to measure anything"):
        known.table(probe, (2, 4, 8))
    known.measure(probe, (2,), math.inf, no_progress)
    table, estimated = known.table(probe, (2, 4, 8))
    assert estimated == 4
    assert (np.diff(table, axis=1) < 0).all()
    known.measure(probe, (4, 8), 0, no_progress)
    assert known.table(probe, (2, 4, 8))[1] == 4
    known.measure(probe, (4, 8), math.inf, no_progress)
    measured, estimated = known.table(probe, (2, 4, 8))
    assert estimated == 0
    assert (np.abs(np.log10(table / measured)) < 1).all()


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON", '{"halfeven_plan": 1}', '{"halfeven_sensitivities": 9}'])
def test_a_file_of_something_else_is_not_written_over(probe: Probe, tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(BadOption, match=r"s.json' is where the sensitivities are kept, and holds something else"):
        Sensitivities.of(probe, path)
    assert path.read_text() == text


def test_the_choice_keeps_its_budget_and_costs_less_than_one_width_for_all(found: Search) -> None:
    sizes, bits = zip(*found.widths.values(), strict=True)
    assert found.chosen.bits == pytest.approx(np.dot(sizes, bits) / np.sum(sizes))
    assert 3.9 < found.chosen.bits <= 4
    assert len(set(bits)) > 2
    uniform = {point.name: point for point in found.uniform}
    assert found.chosen.measured_db > uniform["4 bits"].measured_db + 3
    assert uniform["8 bits"].measured_db > uniform["6 bits"].measured_db > found.chosen.measured_db
    ends = found.front[0], found.front[-1]
    assert (ends[0].bits, ends[-1].bits) == (2, 8)
    assert all(
        b.bits > a.bits and b.predicted_db > a.predicted_db for a, b in zip(found.front, found.front[1:], strict=False)
    )
    assert "4.00 bits a weight: 3 bits for" in found.summary()


@pytest.mark.parametrize(("skip", "gain"), [((), 0.3), (("gptq",), 1.5)], ids=["gptq", "nearest"])
def test_its_plan_is_followed_by_quantize_with_less_error_than_one_width_for_all(
    found: Search, pictures: np.ndarray, tmp_path: Path, skip: tuple[str, ...], gain: float
) -> None:
    with np.load(DEMO / "test.npz") as arrays:
        judged = np.asarray(arrays["x"][:300])

    def followed(plan: Plan) -> float:
        given: dict[str, Any] = {"preprocess": "fashion-mnist", "holdout": judged, "skip": skip}
        result = halfeven.quantize(NETWORK, pictures, plan=plan, **given)
        assert result.verification is not None
        return result.verification.sqnr_db

    weights = [group for group, q in found.plan.groups.items() if q.role == "weight"]
    found.save(tmp_path / "mixed.json")
    uniform = followed(with_widths(found.plan, dict.fromkeys(weights, 4)))
    assert followed(Plan.load(tmp_path / "mixed.json")) > uniform + gain


def stored_codes(path: Path) -> dict[str, tuple[int, int]]:
    """The ends of the codes of each weight, by the node's name that reads it made real."""
    graph = onnx.load(path).graph
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    made = {n.output[0]: held[n.input[0]] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in held}
    return {
        node.name: (int(made[node.input[1]].min()), int(made[node.input[1]].max()))
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in made
    }


@pytest.mark.parametrize("skip", [(), ("gptq",)], ids=["gptq", "nearest"])
def test_a_file_holds_no_code_beyond_the_bits_of_its_weight(
    found: Search, pictures: np.ndarray, tmp_path: Path, skip: tuple[str, ...]
) -> None:
    result = halfeven.quantize(
        NETWORK, pictures[:16], preprocess="fashion-mnist", plan=found.plan, skip=skip, verify=False
    )
    result.save(tmp_path / "q8.onnx")
    (note,) = result.save(tmp_path / "q4.onnx", "qdq-int4")
    bits = {name.split("-> ")[1].rpartition("[")[0]: width for name, (_, width) in found.widths.items()}
    assert "stored as INT4" in note
    found_codes = stored_codes(tmp_path / "q8.onnx")
    assert found_codes.keys() == bits.keys()
    for node, (low, high) in found_codes.items():
        assert -(2 ** (bits[node] - 1)) <= low < 0 < high < 2 ** (bits[node] - 1), node
    kinds = [t.data_type for t in onnx.load(tmp_path / "q4.onnx").graph.initializer]
    assert kinds.count(onnx.TensorProto.INT4) >= sum(width <= 4 for width in bits.values())
    (name,) = OrtExecutor(tmp_path / "q8.onnx").widths
    feeds = {name: np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)}
    runs = [OrtExecutor(tmp_path / name, optimize=False)(feeds) for name in ("q8.onnx", "q4.onnx")]
    for name, made in runs[0].items():
        np.testing.assert_array_equal(made, runs[1][name])


@pytest.mark.parametrize("format", ["qoperator", "c", "ncnn"])
def test_other_formats_are_given_the_values_of_the_codes(
    found: Search, pictures: np.ndarray, tmp_path: Path, format: str
) -> None:
    target = "ncnn" if format == "ncnn" else "integer" if format == "c" else "onnxruntime"
    mixed = halfeven.search(
        NETWORK, pictures[:12], preprocess="fashion-mnist", bits=(2, 8), budget=3, samples=1, target=target
    )
    given: dict[str, Any] = {"preprocess": "fashion-mnist", "target": target, "verify": False, "skip": ("gptq",)}
    result = halfeven.quantize(NETWORK, pictures[:12], plan=mixed.plan, **given)
    file = tmp_path / f"m.{'onnx' if format == 'qoperator' else 'c' if format == 'c' else 'param'}"
    exporter_named(format)(result.draft, file)
    held = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    wide = replace(result.plan, groups={g: replace(q, bits=None) for g, q in result.plan.groups.items()})
    exporter_named(format)(replace(result.draft, plan=wide), file)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} != held


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": (8,)}, r"--bits 8: expected two widths or more from 2 to 8"),
        ({"bits": (1, 8)}, r"--bits 1,8: expected two"),
        ({"bits": (4, 16)}, r"--bits 4,16: expected two"),
        ({"bits": (4, 6.5)}, r"--bits 4,6.5: expected two"),
        ({"bits": 4}, r"--bits 4: expected two"),
        ({"budget": 1.5}, r"--budget 1.5: the weights can have from 2 to 8 bits in the mean"),
        ({"bits": (4, 8), "budget": 3.9}, r"--budget 3.9: the weights can have from 4 to 8"),
        ({"budget": 9}, r"--budget 9: "),
        ({"budget": float("nan")}, r"--budget nan: "),
        ({"samples": 0}, r"--samples 0: expected a whole number of at least 1"),
        ({"minutes": 0}, r"--minutes 0: expected a number above 0"),
        ({"data": None}, r"A search needs --data"),
        ({"keep_float": ("*",)}, r"There is nothing to search: no weight is quantized for onnxruntime"),
        ({"mode": "weight-only", "place_bits": 4}, r"There is no option 'place_bits'"),
        ({"limit": -1}, r"--limit -1"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(build: Callable, options: dict[str, Any], said: str) -> None:
    given = {"data": {"x": np.ones((4, 4), np.float32)}, **options}
    with pytest.raises(BadOption, match=said):
        halfeven.search(build(NET), given.pop("data"), **given)


def test_weights_of_fewer_bits_than_the_widths_are_said_before_anything_is_measured(build: Callable) -> None:
    plan = Place(prefer="size", mode="weight-only", bits=4)
    draft = plan(Draft(prepare(build(NET))[0], TARGETS["onnxruntime"]), (), no_progress)
    with pytest.raises(BadOption, match=r"--bits 8: onnxruntime has weights of 4 bits \(such as 'w'\)"):
        searched(draft, (2, 8))


def test_outputs_that_are_no_numbers_or_nothing_are_refused(build: Callable) -> None:
    model = prepare(
        build("g (float[N,4] x) => (int64[N] y) <float[4,2] v> { h = MatMul(x, v) y = ArgMax<axis=1, keepdims=0>(h) }")
    )[0]
    draft = Place(prefer="size")(Draft(model, TARGETS["onnxruntime"]), (), no_progress)
    with pytest.raises(BadCalibration, match="no output of finite floats on these data"):
        Probe(draft, searched(draft, (2, 8)), SAMPLES)
