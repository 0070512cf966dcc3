"""The targets: tables without code, every row of which is met by a small model and means what it says."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven import targets
from halfeven.draft import Draft, pipeline
from halfeven.errors import BadOption
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import Site
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.observe import Observe
from halfeven.targets import TARGETS, target_named
from halfeven.targets.costs import UNIFORM
from halfeven.targets.target import OpRule, Target

Build = Callable[..., ir.Model]
Samples = Callable[..., list]
Placed = Callable[..., Draft]

# An operator between two layers, `a` before and `b` behind, both of which are always worth integers: v is what `a`
# makes, of shape (1, 4, 6, 6), h what the operator makes.
MODELS = {
    "Conv": "h = Conv(v, w)",
    "ConvTranspose": "h = ConvTranspose(v, w)",
    "Add": "h = Add(v, v)",
    "Sub": "h = Sub(v, k)",
    "Mul": "h = Mul(v, v)",
    "PRelu": "h = PRelu(v, k)",
    "Div": "h = Div(v, k)",
    "Max": "h = Max(v, v)",
    "Min": "h = Min(v, v)",
    "ReduceMax": "h = ReduceMax <axes = [3]> (v)",
    "ReduceMin": "h = ReduceMin <axes = [3]> (v)",
    "AveragePool": "h = AveragePool <kernel_shape = [2, 2]> (v)",
    "ReduceMean": "h = ReduceMean <axes = [2, 3]> (v)",
    "Concat": "h0 = Concat <axis = 3> (v, v)",
    "MaxPool": "h = MaxPool <kernel_shape = [2, 2]> (v)",
    "Pad": "h = Pad(v, pads)",
    "Resize": 'h = Resize <mode = "nearest"> (v, , twice)',
    "Reshape": "h = Reshape(v, shape)",
    "Transpose": "h = Transpose <perm = [0, 1, 3, 2]> (v)",
    "Squeeze": "h = Squeeze(v, none)",
    "Unsqueeze": "h1 = Unsqueeze(v, one)",
    "Flatten": "h2 = Flatten(v)",
    "Slice": "h = Slice(v, one, four, three)",
    "Split": "h, g = Split <axis = 3> (v, parts)",
    "Expand": "h = Expand(v, same)",
    "Clip": "h = Clip(v, low, high)",
    "MatMul": "m = MatMul(f, u)",
    "Gemm": "m = Gemm(f, u, c)",
    "Gather": "e = Gather(t, i)",
}
FRAME = (
    "g (float[1,4,6,6] x, float[3,4] f0, int64[3] i) => ({outputs}) <float[4,4,1,1] wa, float[4,4,1,1] wb,"
    " float[4,4,1,1] w,"
    " float[1,1,6,6] k, float[4,4] u, float[4,4] ua, float[4,4] ub, float[4] c, float[6,4] t,"
    " int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}, float[4] twice = {{1, 1, 2, 2}}, int64[4] shape = {{1, 4, 9, 4}},"
    " int64[1] none = {{4}}, int64[1] one = {{1}}, int64[1] four = {{4}}, int64[1] three = {{3}}, int64[2] parts ="
    " {{3, 3}},"
    " int64[4] same = {{1, 4, 6, 6}}, float low = {{-0.5}}, float high = {{0.5}}, float zero = {{0}}, float[144,3]"
    " uf> {{ {body} }}"
)


def _model(build: Build, op: str, text: str = "", head: str = "[n]") -> ir.Model:
    """The model of MODELS: layer, operator under the name `n`, layer; or `head` and `text` in the operator's place."""
    call = text or MODELS.get(op, f"h = {op}(v)")
    before, after, outputs = "[a] v = Conv(x, wa)", "[b] y = Conv(h, wb)", "float y"
    if call.startswith("h0"):
        call = "[p] p = Conv(x, w)  [n] h = Concat <axis = 3> (v, p)"
    if call.startswith("h1"):
        after = "[s] h = Squeeze(h1, one)  [b] y = Conv(h, wb)"
    if call.startswith("h2"):
        after = "[b] y = MatMul(h2, uf)"
    if call.startswith("h, g"):
        after = "[b] y = Conv(h, wb)  [d] z = Conv(g, wb)"
        outputs = "float y, float z"
    if call.startswith("m ="):
        before, after = "[a] f = MatMul(f0, ua)", "[b] y = MatMul(m, ub)"
    if call.startswith("e ="):
        before, after = "", "[b] y = MatMul(e, ub)"
    if op in ("Relu", "Clip"):
        before = "[a] v0 = Conv(x, wa)  [p] v = MaxPool <kernel_shape = [1, 1]> (v0)"
    if op == "Squeeze":
        before += "  [q] q = Unsqueeze(v, none)"
        call = call.replace("(v", "(q")
    named = call if call.startswith("[") else f"{head} {call}"
    model = build(FRAME.format(outputs=outputs, body=f"{before}  {named}  {after}"))
    for output in model.graph.outputs:
        output.shape = None
    return model


def _rows() -> Iterator[tuple[Target, OpRule, str]]:
    for target in TARGETS.values():
        for rule in target.rules:
            for op in rule.ops:
                yield replace(target, costs=UNIFORM), rule, op


ROWS = list(_rows())
IDS = [f"{target.name}-{op}" for target, _, op in ROWS]


def _draft(model: ir.Model, target: Target, samples: Samples, placed: Placed) -> tuple[Draft, list]:
    data = samples(model)
    draft = placed(model, target, data, prefer="size")
    return pipeline(Observe(), Calibrate(method="minmax"))(draft, data), data


@pytest.mark.parametrize(("target", "rule", "op"), ROWS, ids=IDS)
def test_every_operator_of_every_row_is_quantized_as_the_row_says(
    build: Build, samples: Samples, placed: Placed, target: Target, rule: OpRule, op: str
) -> None:
    moved = op == "Gather" and rule.weight is None
    model = _model(build, op, "h = Gather <axis = 2> (v, i)" if moved else "")
    draft, data = _draft(model, target, samples, placed)
    plan = draft.plan
    node = next(n for n in draft.model.graph if n.name == "n")
    assert node.op_type == op
    assert "n" not in plan.floats
    made, read = node.outputs[0], node.inputs[0]
    after = plan.at(Site(made.name or ""))
    if rule.weight is not None:
        port = 0 if op == "Gather" else 1
        weight = plan.at(Site(node.inputs[port].name or "", "n", port))
        assert weight is not None
        assert weight.scheme.grid == rule.weight.grid
        assert (weight.scheme.tiling.axis is None) == (rule.weight.tiling.axis is None)
    if op == "Gather" and not moved:
        assert after is None
    else:
        before = plan.seen_by(read.name or "", "n", 0)
        assert before is not None
        assert before.scheme == rule.data
        assert after is not None
        assert after.scheme == rule.data
        assert (before is after) == (rule.output == "as_input")
    quantized = to_qdq(draft)
    reference, found = (OrtExecutor(m, optimize=False)(data[0][1])["y"] for m in (model, quantized))
    assert sqnr_db(reference, found) > 20
    for signed in (False, True):
        assert sqnr_db(reference, OrtExecutor(quantized, signed=signed)(data[0][1])["y"]) > 20


@pytest.mark.parametrize(("target", "rule", "op"), ROWS, ids=IDS)
def test_a_kernel_that_can_makes_floats_for_a_float_reader(
    build: Build, samples: Samples, placed: Placed, target: Target, rule: OpRule, op: str
) -> None:
    if rule.output == "as_input" or op == "Gather":
        return
    model = _model(build, op)
    nodes = list(model.graph)
    at = next(i for i, node in enumerate(nodes) if node.name == "n")
    value = nodes[at].outputs[0]
    erf = ir.Node("", "Erf", [value], num_outputs=1, name="e")
    erf.outputs[0].name, erf.outputs[0].type = "z", ir.TensorType(ir.DataType.FLOAT)
    model.graph.outputs[:] = [erf.outputs[0]]
    model.graph.remove(nodes[:at:-1], safe=True)
    model.graph.append(erf)
    draft, _ = _draft(model, target, samples, placed)
    if "n" not in draft.plan.floats:
        assert (Site(value.name or "") in draft.plan.sites) == (rule.output == "own")


@pytest.mark.parametrize(
    ("target", "rule", "op", "clamp"),
    [(*row, clamp) for row in ROWS for clamp in row[1].fuses],
    ids=[f"{i}-{c}" for i, row in zip(IDS, ROWS, strict=True) for c in row[1].fuses],
)
def test_what_a_row_fuses_has_no_quantizer_before_it(
    build: Build, samples: Samples, placed: Placed, target: Target, rule: OpRule, op: str, clamp: str
) -> None:
    name = MODELS[op][0]
    call = MODELS[op].replace(f"{name} =", "k0 =", 1)
    model = _model(build, op, f"{name} = {clamp}(k0{', low, high' if clamp == 'Clip' else ''})", f"[n] {call}  [r]")
    draft, data = _draft(model, target, samples, placed)
    assert "n" not in draft.plan.floats
    assert Site("k0") not in draft.plan.sites
    assert not any(site.consumer == "r" for site in draft.plan.sites)
    assert Site(name) in draft.plan.sites
    assert clamp in rule.fuses
    reference, found = (OrtExecutor(m, optimize=False)(data[0][1])["y"] for m in (model, to_qdq(draft)))
    assert sqnr_db(reference, found) > 20


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_a_condition_of_a_row_keeps_other_attributes_in_float(
    build: Build, samples: Samples, placed: Placed, target: Target
) -> None:
    rule = target.rule("Resize")
    if rule is None:
        return
    model = _model(build, "Resize", 'h = Resize <mode = "linear"> (v, , twice)')
    draft, _ = _draft(model, replace(target, costs=UNIFORM), samples, placed)
    assert ("n" in draft.plan.floats) == bool(rule.where)
    if rule.where:
        assert draft.plan.floats["n"] == f"{target.name} runs Resize in integers only with mode = nearest, here linear"


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
@pytest.mark.parametrize(("dilations", "integer"), [("1, 1", True), ("2, 1", False), ("2, 2", False)])
def test_an_average_over_a_window_with_gaps_stays_float(
    build: Build, samples: Samples, placed: Placed, target: Target, dilations: str, integer: bool
) -> None:
    if target.rule("AveragePool") is None:
        return
    body = f"a = Conv(x, w)  [n] h = AveragePool <kernel_shape = [2, 2], dilations = [{dilations}]> (a)  y = Conv(h, w)"
    model = build(f"g (float[1,4,6,6] x) => (float[1,4,n,m] y) <float[4,4,1,1] w> {{ {body} }}", opset=19)
    floats = placed(model, replace(target, costs=UNIFORM), samples(model)).plan.floats
    assert ("n" not in floats) is integer
    if not integer:
        shown = f"({dilations})"
        assert floats["n"] == f"{target.name} runs AveragePool in integers only without dilations, here {shown}"


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_a_row_without_constants_keeps_them_in_float(
    build: Build, samples: Samples, placed: Placed, target: Target, op: str
) -> None:
    rule = target.rule(op)
    if rule is None:
        return
    model = _model(build, op, f"h = {op}(v, k)")
    draft, _ = _draft(model, replace(target, costs=UNIFORM), samples, placed)
    assert ("n" in draft.plan.floats) == (not rule.constants)
    assert (Site("k", "n", 1) in draft.plan.sites) == rule.constants


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_stay_float_and_the_target_says_why(
    build: Build, samples: Samples, placed: Placed, target: Target, op: str
) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * 2
    model = build(
        f"g (float[3,1,4] x) => (float[3,1,1,2] y) <float[1,{gates},4] w, float[1,{gates},2] r>"
        f" {{ [n] y = {op} <hidden_size = 2> (x, w, r) }}"
    )
    reason = placed(model, target, samples(model)).plan.floats["n"]
    assert reason == target.recurrent.format(op=op)
    assert "{" not in reason


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_biases_have_the_bits_of_the_accumulator_or_stay_float(
    build: Build, samples: Samples, placed: Placed, target: Target
) -> None:
    model = _model(build, "Conv", "h = Conv(v, w, c)")
    draft, _ = _draft(model, replace(target, costs=UNIFORM), samples, placed)
    bias = draft.plan.at(Site("c", "n", 2))
    assert (bias is not None) == bool(target.numerics.bias_bits)
    if bias is not None:
        assert (bias.scheme.grid.bits, bias.role) == (target.numerics.bias_bits, "bias")
        assert bias.scheme.symmetric


# --------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_a_table_is_whole(target: Target) -> None:
    assert target.source.strip()
    assert target.costs.source.strip()
    assert target.formats
    listed = [op for rule in target.rules if rule.second is None for op in rule.ops]
    assert len(set(listed)) == len(listed), "an operator in two rows"
    for rule in target.rules:
        assert rule.ops
        assert (target.rule if rule.second is None else target.product)(rule.ops[0]) is rule
        assert rule.data.tiling.axis is None
        assert rule.weight is None or rule.weight.symmetric
    assert target.rule("NoSuchOperator") is None


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_costs_are_not_negative_and_there_is_one_for_what_is_not_listed(target: Target) -> None:
    costs = target.costs
    assert "" in costs.floats
    assert "" in costs.integers
    assert set(costs.integers) <= set(costs.floats)
    for cost in (*costs.floats.values(), *costs.integers.values(), costs.quantize, costs.dequantize):
        assert min(cost.mac, cost.element, cost.weight, cost.tap, cost.call) >= 0


def test_a_target_is_found_by_its_name() -> None:
    assert all(target_named(name) is target and target.name == name for name, target in TARGETS.items())
    with pytest.raises(BadOption, match=r"--target 'onnxruntim' is not known. Choose one of: onnxruntime, .*integer"):
        target_named("onnxruntim")


def test_tables_hold_no_code() -> None:
    files = sorted(Path(targets.__file__).parent.glob("*.py"))
    tables = [path for path in files if path.name not in ("__init__.py", "check.py", "target.py")]
    assert len(tables) >= 5
    code = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.Match)
    for path in tables:
        found = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, code)]
        assert not found, f"{path.name}: {type(found[0]).__name__} in line {found[0].lineno}"


def test_what_a_symmetric_target_rounds_has_zero_in_the_middle(build: Build, samples: Samples, placed: Placed) -> None:
    draft, _ = _draft(_model(build, "Conv"), TARGETS["tensorrt"], samples, placed)
    points = [q.params.zero_point for q in draft.plan.groups.values() if q.params is not None]
    assert points
    assert not any(np.any(point) for point in points)


def test_tensorrt_has_one_symmetric_threshold_for_the_activations_of_a_layer() -> None:
    for rule in TARGETS["tensorrt"].rules:
        assert (rule.data.symmetric, rule.data.tiling.tiles, rule.data.grid.high) == (True, (), 127)
