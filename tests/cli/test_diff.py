"""Promised: `diff` tells in which places two quantizations of a network differ, whatever files they are in, and ranks the
differences by what they cost on data.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import halfeven as package
from halfeven.graph.plan import Plan
from halfeven.numerics.scheme import QParams
from halfeven.report.differences import _by_channel

Halfeven = Callable[..., Any]
QUANTIZE = ("quantize", "net.onnx", "--prefer", "size", "--data", "x.npz", "--no-verify", "--quiet")
PLAIN = (*QUANTIZE, "--skip", "equalize", "--skip", "gptq")
COST = ("--model", "net.onnx", "--data", "x.npz", "--limit", "4")


@pytest.fixture
def pair(halfeven: Halfeven) -> tuple[str, str]:
    """Two plans: in the second the output of one layer has a scale ten times as large, and one weight's is doubled."""
    assert halfeven(*PLAIN, "-o", "a.onnx", "--save-plan", "a.json").status == 0
    plan = Plan.load("a.json")
    for name, factor in (("c", 10), ("w3", 2)):
        group = next(g for s, g in plan.sites.items() if s.value in (name, "d" if name == "c" else name))
        old = plan.groups[group].params
        assert old is not None
        params = QParams(old.scheme, old.scale * np.float32(factor), old.zero_point)
        plan = plan.with_group(group, replace(plan.groups[group], params=params))
    plan.save("b.json")
    return "a.json", "b.json"


def test_the_same_quantization_has_no_difference_whatever_file_it_is_in(
    halfeven: Halfeven, pair: tuple[str, str]
) -> None:
    for words in (("a.json", "a.json"), ("a.onnx", "a.onnx"), ("a.json", "a.onnx"), ("a.onnx", "a.json")):
        ran = halfeven("diff", *words)
        assert (ran.status, ran.err) == (0, "")
        assert ran.out.startswith(f"{words[0]} and {words[1]}: 0 differences in ")


def test_a_model_without_a_plan_is_named(halfeven: Halfeven, pair: tuple[str, str]) -> None:
    for words in (("a.onnx", "net.onnx"), ("net.onnx", "a.onnx")):
        ran = halfeven("diff", *words)
        assert ran.status == 3
        assert "net.onnx': The model has no QuantizeLinear" in ran.err


def test_places_and_changes_are_told(halfeven: Halfeven, pair: tuple[str, str]) -> None:
    ran = halfeven("diff", *pair)
    assert (ran.status, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert "a.json and b.json: 2 differences in " in said
    assert "w3" in said
    assert "channel 0, one of 5 that changed" in said
    assert "alone" not in said


def test_differences_are_ranked_by_what_they_cost(halfeven: Halfeven, pair: tuple[str, str]) -> None:
    ran = halfeven("diff", *pair, *COST, "--json")
    assert (ran.status, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert set(found) == {"a", "b", "places", "samples", "sqnr_db", "differences", "notes"}
    assert found["samples"] == 4
    first, second = found["differences"]
    assert first["kinds"] == second["kinds"] == ["scale"]
    assert "w3" in second["places"][0], "ten times the scale costs more than twice"
    assert first["cost"] > second["cost"] > 0
    assert first["sqnr_db"]["a"] - first["sqnr_db"]["b"] == pytest.approx(20, abs=4), "ten times the scale is 20 dB"
    assert second["sqnr_db"]["a"] - second["sqnr_db"]["b"] == pytest.approx(6, abs=4), "a bit is about 6 dB"
    whole = found["sqnr_db"]
    assert whole["a"] > whole["b"]
    noise = sum(10 ** (-one["sqnr_db"]["b"] / 10) - 10 ** (-one["sqnr_db"]["a"] / 10) for one in (first, second))
    assert noise == pytest.approx(10 ** (-whole["b"] / 10) - 10 ** (-whole["a"] / 10), rel=0.5), "single noises add up"
    said = " ".join(halfeven("diff", *pair, *COST).out.split())
    assert "as a whole: SQNR" in said
    assert "alone in A alone in B" in said
    swapped = json.loads(halfeven("diff", *reversed(pair), *COST, "--json").out)["differences"]
    assert [one["cost"] for one in swapped] == pytest.approx([-second["cost"], -first["cost"]])


def test_equalized_networks_are_measured_each_on_its_own(halfeven: Halfeven, pair: tuple[str, str]) -> None:
    assert halfeven(*QUANTIZE, "-o", "equalized.onnx").status == 0
    found = json.loads(halfeven("diff", "a.onnx", "equalized.onnx", *COST, "--json").out)
    measured = [one for one in found["differences"] if one["measured"]]
    assert len(measured) == len(found["differences"]) > 0
    assert all(one["sqnr_db"][side] is None or one["sqnr_db"][side] > 20 for one in measured for side in "ab")


def test_what_only_one_quantizes_is_a_difference_and_its_node_too(halfeven: Halfeven, pair: tuple[str, str]) -> None:
    words = (*PLAIN, "--keep-float", "Gemm", "-o", "less.onnx", "--save-plan", "less.json")
    assert halfeven(*words).status == 0
    found = json.loads(halfeven("diff", "a.onnx", "less.onnx", *COST, "--json").out)["differences"]
    kinds = {kind for one in found for kind in one["kinds"]}
    assert kinds == {"quantized", "node"}
    gone = next(one for one in found if "w3" in one["places"][0])
    assert gone["changes"] == ["no longer quantized"]
    assert (gone["sqnr_db"]["b"], gone["cost"] < 0) == (None, True)
    assert not next(one for one in found if one["kinds"] == ["node"])["measured"]


def test_factors_of_channels_are_found_between_two_weights() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, 6, 3, 3)).astype(np.float32)
    a, b = rng.uniform(0.2, 5, (8, 1, 1, 1)), rng.uniform(0.2, 5, (1, 6, 1, 1))
    scaled = (w * a * b).astype(np.float32)
    np.testing.assert_allclose(_by_channel(w, scaled), scaled, rtol=1e-4)
    rounded = (np.round(scaled * 20) / 20).astype(np.float32)
    assert np.abs(_by_channel(w, rounded) - scaled).max() < 0.02
    assert _by_channel(w * 0, scaled).max() == 0


REFUSED: dict[tuple[str, ...], tuple[int, str]] = {
    ("diff", "a.json"): (2, "missing: B"),
    ("diff", "a.json", "missing.json"): (2, "'missing.json' cannot be read"),
    ("diff", "a.json", "net.onnx"): (3, "no plan in it"),
    ("diff", "a.json", "b.json", "--data", "x.npz"): (2, "give the float model too (--model)"),
    ("diff", "a.json", "b.json", "--model", "net.onnx", "--data", "missing.npz"): (4, "missing.npz"),
    ("diff", "a.json", "b.json", "--model", "missing.onnx"): (3, "does not exist"),
    ("diff", "a.json", "broken.json"): (2, "malformed"),
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_is_wrong_is_said_in_a_sentence(halfeven: Halfeven, pair: tuple[str, str], words: tuple[str, ...]) -> None:
    Path("broken.json").write_text('{"halfeven_plan": 1, "groups": 3, "floats": {}}')
    status, said = REFUSED[words]
    ran = halfeven(*words)
    assert (ran.status, ran.out) == (status, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_python_compares_as_the_command_line_does(halfeven: Halfeven, pair: tuple[str, str], home: Path) -> None:
    found = package.compare(*pair)
    assert json.loads(halfeven("diff", *pair, "--json").out) == found.to_json()
    assert [one.alone for one in found.differences] == [(None, None)] * 2
    told: list[tuple[str, int, int | None]] = []
    package.compare(
        *pair,
        model=home / "net.onnx",
        data=home / "x.npz",
        limit=2,
        progress=lambda *said: told.append(said),
    )
    assert told == [("measure", 0, 2), ("measure", 1, 2)]
