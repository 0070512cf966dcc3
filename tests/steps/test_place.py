"""Placement: which sites, in which groups, and a reason for every node that stays float.

The cases of place.txt are read here; a few that need special data or errors follow.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, pipeline
from halfeven.errors import BadOption
from halfeven.graph import ops
from halfeven.graph.plan import Plan, Site
from halfeven.graph.prepare import prepare
from halfeven.graph.shapes import infer_shapes
from halfeven.steps.place import Place
from halfeven.steps.regions import Unit, choose, make_units, unit_costs
from halfeven.steps.trace import Trace
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import Cost, Costs, Target

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]

CASES = Path(__file__).with_name("place.txt")
INTEGER = TARGETS["integer"]


@dataclass
class Case:
    """One titled case of the file."""

    title: str
    graph: str = ""
    options: dict[str, str] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)

    @property
    def place(self) -> Place:
        keep = tuple(p.strip() for p in self.options.get("keep_float", "").split(",") if p.strip())
        return Place(keep_float=keep, prefer=self.options.get("prefer", "speed"))  # type: ignore[arg-type]


def _cases() -> Iterator[Case]:
    for block in CASES.read_text("utf-8").split("\n# ")[1:]:
        text, _, expected = block.partition("=== plan\n")
        title, *lines = text.splitlines()
        case = Case(title, expected=[line for line in expected.splitlines() if line])
        for line in lines:
            key, colon, value = line.partition(": ")
            if colon and not case.graph and key.isidentifier():
                case.options[key] = value
            else:
                case.graph += line + "\n"
        yield case


def _shown(plan: Plan) -> list[str]:
    groups = [f"{q.scheme}: {', '.join(map(str, plan.members(g)))}" for g, q in sorted(plan.groups.items())]
    return [*groups, *(f"float {node}: {reason}" for node, reason in plan.floats.items())]


def _drafted(case: Case, build: Build, samples: Samples, placed: Placed, target: Target | None = None) -> Draft:
    model, target = build(case.graph), target or TARGETS[case.options["target"]]
    if case.options.get("trace") == "no":
        return pipeline(case.place)(Draft(prepare(model)[0], target))
    return placed(model, target, samples(model), keep_float=case.place.keep_float, prefer=case.place.prefer)


@pytest.mark.parametrize("case", list(_cases()), ids=lambda case: case.title)
def test_the_plan_is_the_one_written_down(case: Case, build: Build, samples: Samples, placed: Placed) -> None:
    found = _shown(_drafted(case, build, samples, placed).plan)
    cut = [
        text[: len(wanted) - 3] + "..." if wanted.endswith("...") else text
        for text, wanted in zip(found, case.expected, strict=False)
    ]
    assert cut + found[len(cut) :] == case.expected


@pytest.mark.parametrize("target", [replace(t, costs=UNIFORM) for t in TARGETS.values()], ids=lambda t: t.name)
def test_every_node_is_met_by_a_site_or_has_a_reason(
    target: Target, build: Build, samples: Samples, placed: Placed
) -> None:
    for case in _cases():
        draft = _drafted(case, build, samples, placed, target)
        plan, model = draft.plan, draft.model
        consumers, values = {site.consumer for site in plan.sites}, {site.value for site in plan.sites}
        for node in model.graph.all_nodes():
            met = node.name in consumers or any(
                v.name in values for v in (*node.inputs, *node.outputs) if v is not None
            )
            assert met or plan.floats.get(node.name), f"{case.title}: {node.op_type} {node.name!r} is not accounted for"
        assert all(plan.floats.values())
        assert set(plan.floats) <= {node.name for node in model.graph.all_nodes()}


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_every_site_names_what_is_there_and_every_group_has_sites(
    target: Target, build: Build, samples: Samples, placed: Placed
) -> None:
    for case in _cases():
        draft = _drafted(case, build, samples, placed, replace(target, costs=UNIFORM))
        nodes = {node.name: node for node in draft.model.graph}
        made = {value.name: value for node in draft.model.graph for value in node.outputs}
        for site, group in draft.plan.sites.items():
            value = nodes[site.consumer].inputs[site.port] if site.consumer else made[site.value]
            assert value is not None
            assert value.name == site.value
            assert value.dtype in (ir.DataType.FLOAT, None)
            assert (ops.constant_of(value) is None) == (draft.plan.groups[group].role == "activation")
        assert set(draft.plan.sites.values()) == set(draft.plan.groups)
        assert all(q.reason.startswith(target.name) for q in draft.plan.groups.values())


def test_a_pattern_that_matches_no_node_is_an_error(build: Build, samples: Samples, placed: Placed) -> None:
    model = build("g (float[1,4] x) => (float[1,4] y) <float[4,4] w> { [a] y = MatMul(x, w) }")
    with pytest.raises(BadOption, match=r"--keep-float 'haed\*' matches no node"):
        placed(model, INTEGER, samples(model), keep_float=("a", "haed*"))
    with pytest.raises(BadOption, match=r"'quality' is not known. Choose speed or size"):
        placed(model, INTEGER, samples(model), prefer="quality")


def test_a_name_written_out_matches_itself(build: Build, samples: Samples, placed: Placed) -> None:
    """Names as `layers[0]` would otherwise be read as a choice of characters."""
    model = build("g (float[1,4] x) => (float[1,4] y) <float[4,4] w> { [a] y = MatMul(x, w) }")
    model.graph[0].name = "layers[0]/fc"
    plan = placed(model, INTEGER, samples(model), keep_float=("layers[0]/fc",)).plan
    assert plan.floats == {"layers[0]/fc": "kept in float by --keep-float 'layers[0]/fc'"}


def test_a_mask_that_the_first_sample_does_not_use_stays_float_as_well(
    build: Build, samples: Samples, placed: Placed
) -> None:
    model = build(
        "g (float[1,4] x, float[1,4] pad) => (float[1,4] y) <float[4,4] w, float low = {-3.4e38}> {"
        " [a] h = MatMul(x, w)  [m] m = Mul(pad, low)  [s] s = Add(h, m)  [t] t = Mul(s, s)  [e] y = Sigmoid(t) }"
    )
    data = [(label, {**feeds, "pad": np.zeros((1, 4), np.float32)}) for label, feeds in samples(model)]
    data[1][1]["pad"][0, 3] = 1
    plan = placed(model, INTEGER, data).plan
    assert "a mask" in plan.floats.get("m", "")


def test_a_mask_of_float16_in_a_widened_network_stays_float(build: Build, samples: Samples, placed: Placed) -> None:
    """Masked with its largest number, as -3.4e38 does not exist there."""
    model = build(
        "g (float[1,4] x, float[1,4] pad) => (float[1,4] y) <float[4,4] w, float low = {-65504}> {"
        " [a] h = MatMul(x, w)  [m] m = Mul(pad, low)  [s] s = Add(h, m)  [t] t = Mul(s, s)  [e] y = Sigmoid(t) }"
    )
    plan = placed(model, INTEGER, samples(model)).plan
    assert all("a mask" in plan.floats.get(name, "") for name in "ms")


def test_without_data_the_shapes_are_those_that_the_graph_states(build: Build) -> None:
    model = build("g (float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4,4,1,1] w> { [a] y = Conv(x, w) }")
    draft = pipeline(Trace(), Place())(Draft(prepare(model)[0], INTEGER))
    assert draft.shapes == {"x": (1, 4, 8, 8), "y": (1, 4, 8, 8)}
    assert Site("x", "a", 0) in draft.plan.sites


def test_prefer_size_quantizes_a_layer_that_does_not_pay(build: Build, samples: Samples, placed: Placed) -> None:
    model = build("g (float[1,4,2,2] x) => (float[1,4,2,2] y) <float[4,4,1,1] w> { [a] y = Conv(x, w) }")
    dear = Costs("all integers are dear", {"": Cost()}, {"": Cost(call=1e6)}, Cost(call=1), Cost(call=1))
    target = replace(INTEGER, costs=dear)
    fast, small = (placed(model, target, samples(model), prefer=p).plan for p in ("speed", "size"))
    assert not fast.sites
    assert fast.floats["a"].startswith("does not pay: ")
    assert fast.floats["a"].endswith("--prefer size quantizes it all the same")
    assert Site("w", "a", 1) in small.sites


def test_placement_leaves_the_model_as_it_is_and_is_the_same_each_time(
    build: Build, samples: Samples, placed: Placed
) -> None:
    case = next(c for c in _cases() if "residual" in c.title)
    model = prepare(build(case.graph))[0]
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    plans = [pipeline(Trace(), Place())(Draft(model, INTEGER), samples(model)).plan for _ in range(2)]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert plans[0].to_json() == plans[1].to_json()
    assert list(plans[0].sites) == list(plans[1].sites)


@pytest.mark.parametrize("seed", range(12))
def test_the_chosen_units_cost_no_more_than_any_other_choice(seed: int) -> None:
    """Brute force over all assignments, priced as the module's text says."""
    model, shapes = _tangle(seed)
    rng = np.random.default_rng(seed)
    rates = {op: Cost(call=float(rng.integers(0, 30))) for op in ("Conv", "Add", "Sigmoid", "")}
    floats = {op: Cost(call=float(rng.integers(0, 30))) for op in ("Conv", "Add", "Sigmoid", "")}
    costs = Costs("drawn", floats, rates, Cost(call=float(rng.integers(0, 9))), Cost(call=float(rng.integers(0, 9))))
    target = replace(INTEGER, costs=costs)
    units = make_units(model, target, {})
    chosen, floating = choose(units, target, shapes, "speed")
    assert set(floating) == set(units) - chosen
    free = [unit for unit in units if unit.rule is not None]
    prices = [_price(model, units, set(picked), target, shapes) for n in range(len(free) + 1)
              for picked in combinations(free, n)]  # fmt: skip
    assert _price(model, units, chosen, target, shapes) == min(prices)


def _tangle(seed: int) -> tuple[ir.Model, dict[str, tuple[int, ...]]]:
    """Conv, Add, Sigmoid, Erf and Relu at random, on values of one shape; some are outputs."""
    rng = np.random.default_rng(seed)
    names, nodes = ["x"], []
    for i in range(9):
        a, b = (names[rng.integers(max(0, len(names) - 4), len(names))] for _ in range(2))
        call = rng.choice([f"Conv({a}, w)", f"Add({a}, {b})", f"Sigmoid({a})", f"Erf({a})", f"Relu({a})"])
        nodes.append(f"[n{i}] v{i} = {call}")
        names.append(f"v{i}")
    outs = ", ".join(f"float[1,2,3,3] {n}" for n in ("v4", "v8"))
    text = f"g (float[1,2,3,3] x) => ({outs}) <float[2,2,1,1] w = {{1, 2, 3, 4}}> {{ {' '.join(nodes)} }}"
    model = ir.from_onnx_text('<ir_version: 8, opset_import: ["" : 17]>\n' + text)
    infer_shapes(model)
    return model, dict.fromkeys(names, (1, 2, 3, 3))


def _price(
    model: ir.Model, units: Sequence[Unit], integer: set[Unit], target: Target, shapes: dict[str, tuple[int, ...]]
) -> int:
    world = {value: unit in integer for unit in units for node in unit.nodes for value in node.outputs}
    total = sum(unit_costs(unit, target, shapes)[unit in integer] for unit in units)
    readers: dict[ir.Value, set[bool]] = {v: {False} for v in model.graph.outputs}
    for unit in units:
        for port in ops.data_ports(unit.head):
            readers.setdefault(unit.head.inputs[port], set()).add(unit in integer)  # type: ignore[arg-type]
    for value, worlds in readers.items():
        quantize, dequantize = int(target.costs.quantize.call * 1000), int(target.costs.dequantize.call * 1000)
        total += quantize * (True in worlds and not world.get(value, False))
        total += dequantize * (False in worlds and world.get(value, False))
    return total
