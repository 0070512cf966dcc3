"""Promised: beside a plan nothing is asked for in vain: what the plan settles is refused by name, and what a run without
data would do besides is said. What an edited plan says is done or refused: nodes in `floats` are float in the file, a
`method` calibrates its group.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.cli import main
from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.graph.model import save
from halfeven.graph.plan import Plan, Site
from halfeven.graph.prepare import prepare
from halfeven.steps.follow import with_floats
from halfeven.steps.place import Place
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import Cost

NET = (
    "g (float[N,4] x) => (float[N,2] y) <float[4,4] w, float[4] b, float[4,2] v> { h = Gemm(x, w, b) y = MatMul(h, v) }"
)
X = {"x": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)}
CORRECTED = "biases are as in the model: the plan does not say whether it was made without data"


@pytest.fixture
def made(build: Callable) -> halfeven.Result:
    return halfeven.quantize(build(NET), X, prefer="size", verify=False, skip=("equalize", "gptq"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prefer": "size"}, "--prefer would do nothing: leave it out"),
        ({"keep_float": ("y",), "bits": 4}, "--keep-float and --bits would do nothing: leave them out"),
    ],
)
def test_options_of_placement_are_refused_beside_a_plan(
    options: dict[str, object], named: str, made: halfeven.Result, build: Callable
) -> None:
    with pytest.raises(BadOption, match=f"--plan says what is quantized and how, so {named}"):
        halfeven.quantize(build(NET), X, plan=made.plan, **options)


def test_they_are_refused_from_the_command_line_and_from_a_configuration(
    made: halfeven.Result, build: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, plan, out, config = (tmp_path / name for name in ("m.onnx", "plan.json", "q.onnx", "c.toml"))
    save(build(NET), model)
    made.plan.save(plan)
    config.write_text('[place]\nkeep_float = ["y"]\n')
    words = ["quantize", str(model), "--plan", str(plan), "-o", str(out)]
    for more, flag in ((["--prefer", "size"], "--prefer"), (["--config", str(config)], "--keep-float")):
        assert main([*words, *more]) == 2
        assert f"so {flag} would do nothing" in " ".join(capsys.readouterr().err.split())
        assert not out.exists()


def test_other_options_go_with_a_plan_and_a_run_without_data_says_what_it_leaves(
    made: halfeven.Result, build: Callable
) -> None:
    with_data = halfeven.quantize(build(NET), X, plan=made.plan, verify=False, calibrate="minmax")
    without = halfeven.quantize(build(NET), plan=made.plan, verify=False)
    skipped = halfeven.quantize(build(NET), plan=made.plan, verify=False, skip=("correct",))
    said = [any(note.startswith(CORRECTED) for note in one.notes) for one in (with_data, without, skipped)]
    assert said == [False, True, False]


CONVS = (
    "g (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] t) <float[4,4,3,3] w1, float[4] b1, float[4,4,3,3] w2,"
    " float[4] b2, float[4,4,3,3] w3> {"
    " c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r1 = Relu(c1)"
    " c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2, b2)  r2 = Relu(c2)"
    " s = Add(r1, r2)  c3 = Conv <pads = [1, 1, 1, 1]> (s, w3)  y = Relu(c3)  t = Tanh(r2) }"
)


FREE = replace(TARGETS["onnxruntime"], costs=replace(UNIFORM, quantize=Cost(), dequantize=Cost()))
"""ONNX Runtime's table, where all that can be quantized pays."""


def _prepared(text: str, build: Callable) -> ir.Model:
    return prepare(build(text))[0]


def _placed(model: ir.Model, **options: object) -> Draft:
    """A draft in which every layer that can be is quantized."""
    return Place(prefer="size", **options)(Draft(model, FREE), (), lambda *_: None)  # type: ignore[arg-type]


def _alike(plan: Plan) -> set[frozenset[Site]]:
    """The sites, those of a group together."""
    return {frozenset(plan.members(group)) for group in set(plan.sites.values())}


@pytest.mark.parametrize("node", ["Conv_c1", "Conv_c2", "Conv_c3", "Relu_r2", "Add_s"])
def test_a_node_added_to_floats_is_float_as_if_it_had_been_kept(build: Callable, node: str) -> None:
    model = _prepared(CONVS, build)
    whole, kept = _placed(model).plan, _placed(model, keep_float=(node,)).plan
    followed, changed = with_floats(model, replace(whole, floats={**whole.floats, node: "mine"}))
    assert changed[0] == node
    assert followed.floats[node] == "mine"
    assert followed.floats.keys() == kept.floats.keys()
    assert _alike(followed) == _alike(kept)
    assert with_floats(model, followed) == (followed, [])


@pytest.mark.parametrize(
    ("target", "mode"),
    [*((name, "static") for name in sorted(TARGETS)), ("onnxruntime", "dynamic"), ("onnxruntime", "weight-only")],
)
def test_a_plan_as_placed_is_followed_as_it_is(build: Callable, target: str, mode: str) -> None:
    model = _prepared(CONVS, build)
    plan = Place(mode=mode)(Draft(model, TARGETS[target]), (), lambda *_: None).plan  # type: ignore[arg-type]
    assert with_floats(model, plan) == (plan, [])


def test_a_node_added_to_floats_has_no_codes_in_the_file_and_is_told(build: Callable) -> None:
    x = {"x": np.random.default_rng(0).normal(size=(8, 4, 6, 6)).astype(np.float32)}
    plan = halfeven.quantize(build(CONVS), x, prefer="size", verify=False).plan.uncalibrated()
    plan = replace(plan, floats={**plan.floats, "Conv_c2": "mine"})
    result = halfeven.quantize(build(CONVS), x, plan=plan, verify=False)
    (conv,) = (node for node in result.model.graph if node.name == "Conv_c2")
    made = [value.producer() for value in conv.inputs]
    assert [None if node is None else node.op_type for node in made] == ["DequantizeLinear", None, None]
    (note,) = (note for note in result.notes if "lists" in note)
    assert note.startswith("the plan quantizes what its `floats` lists: 2 nodes now float in the file ('Conv_c2', ")
    assert "2 of 3 layers quantized" in result.summary()
    assert result.plan.floats["Relu_r2"] == "its layer 'Conv_c2' is float"


def _method(plan: Plan, method: str, role: str = "activation") -> Plan:
    return replace(plan, groups={g: replace(q, method=method) if q.role == role else q for g, q in plan.groups.items()})


def _scales(result: halfeven.Result) -> list[float]:
    return [float(q.params.scale.max()) for q in result.plan.groups.values() if q.params and q.role == "activation"]


def test_a_group_without_params_is_calibrated_by_its_method(made: halfeven.Result, build: Callable) -> None:
    plan = made.plan.uncalibrated()
    settings = {"verify": False, "skip": ("equalize", "gptq")}
    for method in ("minmax", "mse"):
        asked = halfeven.quantize(build(NET), X, plan=plan, calibrate=method, **settings)
        told = halfeven.quantize(build(NET), X, plan=_method(plan, method), calibrate="percentile", **settings)
        assert _scales(told) == _scales(asked)
    by_name = halfeven.quantize(build(NET), X, plan=_method(plan, "mse"), tensors=("*=minmax",), **settings)
    assert _scales(by_name) == _scales(halfeven.quantize(build(NET), X, plan=plan, calibrate="minmax", **settings))


def test_a_method_beside_params_is_said_to_do_nothing(made: halfeven.Result, build: Callable) -> None:
    settings = {"verify": False, "skip": ("equalize", "gptq")}
    result = halfeven.quantize(build(NET), X, plan=_method(made.plan, "percentile"), **settings)
    assert _scales(result) == _scales(made)
    assert any(
        "are kept as they are, whatever `method` says beside them; take the `params` out" in n for n in result.notes
    )
    free = halfeven.quantize(build(NET), X, plan=made.plan.uncalibrated(), **settings)
    assert not any("whatever `method` says" in note for note in free.notes)


def _edited(plan: Plan, change: Callable[[dict], object]) -> Plan:
    data = json.loads(json.dumps(plan.to_json()))
    change(data)
    return Plan.from_json(data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["floats"].update(nosuch="x"), "`floats` lists 'nosuch', but the model has no such node"),
        (
            lambda d: d["groups"][0].update(method="foo"),
            r"group 0 \(x -> .*\) has the method 'foo'; choose one of minmax,",
        ),
        (lambda d: d["groups"][2].update(method="mse"), "has the method 'mse'; the method of a weight is minmax"),
        (
            lambda d: d["groups"][2]["sites"][0].__setitem__(2, 0),
            "node 'Gemm_h' does not read 'w' at input 0; it does so at 1",
        ),
    ],
)
def test_what_a_plan_cannot_mean_is_refused(
    change: Callable[[dict], object], said: str, made: halfeven.Result, build: Callable
) -> None:
    with pytest.raises(BadOption, match=f"^--plan: .*{said}"):
        halfeven.quantize(build(NET), X, plan=_edited(made.plan, change), verify=False)
