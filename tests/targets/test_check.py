"""Promised: what a target cannot run is refused before a file is written, in sentences that name node and reason; what it
runs is not, also where the plan is not the one that placement makes.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, pipeline
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.formats import FORMATS, PACKAGES, exporter_named
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.plan import DYNAMIC, Plan, Quantizer, Site
from halfeven.numerics.grid import INT8, INT8_NARROW, INT16, UINT8, IntGrid
from halfeven.numerics.scheme import QParams, Scheme, Tiling, ZeroRule, per_channel
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.observe import Observe
from halfeven.targets import TARGETS
from halfeven.targets.check import check

Build = Callable[..., ir.Model]
NET = """g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] w, float[4] b> {
    [conv] c = Conv(x, w, b) [add] s = Add(c, x) [out] y = Conv(s, w) }"""
AFFINE, SYMMETRIC = ZeroRule.FREE, ZeroRule.NONE


def act(grid: IntGrid, rule: ZeroRule = AFFINE, zero: int = 3, tiling: Tiling | None = None) -> Quantizer:
    """An activation's quantizer with parameters."""
    scheme = Scheme(grid, tiling or Tiling(), zero_point=rule)
    shape = (1, 4, 1, 1) if tiling else ()
    zeros = np.full(shape, zero if rule is AFFINE else 0, np.int32)
    return Quantizer(scheme, "test", params=QParams(scheme, np.full(shape, 0.1, np.float32), zeros))


def weight(grid: IntGrid = INT8_NARROW, axis: int | None = 0, rule: ZeroRule = SYMMETRIC) -> Quantizer:
    """A weight's quantizer with parameters."""
    scheme = Scheme(grid, Tiling() if axis is None else per_channel(axis), zero_point=rule)
    shape = tuple(4 if i == axis else 1 for i in range(4))
    zeros = np.full(shape, 5 if rule is AFFINE else 0, np.int32)
    return Quantizer(scheme, "test", "weight", QParams(scheme, np.full(shape, 0.01, np.float32), zeros))


def bias(bits: int = 32) -> Quantizer:
    return Quantizer(Scheme(IntGrid(bits), per_channel(0)), "test", "bias")


def plan_of(x: Quantizer, w: Quantizer, b: Quantizer | None = None) -> Plan:
    """One convolution quantized."""
    groups = {0: x, 1: w} | ({} if b is None else {2: b})
    sites = {Site("x", "conv", 0): 0, Site("w", "conv", 1): 1} | ({} if b is None else {Site("b", "conv", 2): 2})
    return Plan(groups, sites)


# target, plan, what the sentence says; None: it runs
CASES: dict[str, tuple[str, Plan, str | None]] = {
    "as the table says": ("onnxruntime", plan_of(act(UINT8), weight(), bias()), None),
    "signed codes, slower but run": ("onnxruntime", plan_of(act(INT8), weight(), bias()), None),
    "unsigned weights with a zero point": ("onnxruntime", plan_of(act(UINT8), weight(UINT8, 0, AFFINE)), None),
    "a weight with one scale": ("onnxruntime", plan_of(act(UINT8), weight(axis=None)), None),
    "weights of seven bits, stored in eight": ("integer", plan_of(act(INT8), weight(IntGrid(7, narrow=True))), None),
    "weights of seven bits that use all codes": ("tensorrt", plan_of(act(INT8, SYMMETRIC), weight(IntGrid(7))), None),
    "weights of four bits": ("integer", plan_of(act(INT8), weight(IntGrid(4))), "weight is int4 symmetric codes"),
    "activations of seven bits": ("integer", plan_of(act(IntGrid(7)), weight()), "input 0 is int7 affine codes"),
    "a symmetric activation where zero points are free": ("integer", plan_of(act(INT8, SYMMETRIC), weight()), None),
    "a zero point that is zero where none may be": ("tensorrt", plan_of(act(INT8, AFFINE, 0), weight()), None),
    "a layer of weights alone": ("tensorrt", Plan({1: weight(IntGrid(4))}, {Site("w", "conv", 1): 1}), None),
    "scales found at run time": (
        "onnxruntime",
        plan_of(replace(act(UINT8), params=None, method=DYNAMIC), weight()),
        None,
    ),
    "scales found at run time, where nothing finds them": (
        "tensorrt",
        plan_of(replace(act(UINT8), params=None, method=DYNAMIC), weight()),
        "Conv 'conv', input 0 is quantized anew in each run; of what is written for tensorrt no layer can be",
    ),
    "sixteen bits": ("openvino", plan_of(act(INT16), weight()), "Conv 'conv', input 0 is int16 affine codes"),
    "the other sign": ("openvino", plan_of(act(INT8), weight()), "openvino takes uint8 affine"),
    "a zero point": ("tensorrt", plan_of(act(INT8, AFFINE, 7), weight()), "with zero point 7, but tensorrt takes int8"),
    "scales by channel of an activation": (
        "onnxruntime",
        plan_of(act(UINT8, AFFINE, 3, per_channel(1)), weight()),
        "input 0 has several scales, but onnxruntime takes one",
    ),
    "scales along the wrong axis": (
        "integer",
        plan_of(act(INT8), weight(axis=1)),
        "Conv 'conv', weight has scales of tiling ((1, 1),), but integer takes scales along axis 0",
    ),
    "the lowest code of a weight": (
        "integer",
        plan_of(act(INT8), weight(INT8)),
        "weight is int8 symmetric with code -128",
    ),
    "a weight with a zero point": (
        "tensorrt",
        plan_of(act(INT8, SYMMETRIC), weight(INT8_NARROW, 0, AFFINE)),
        "zero point 5",
    ),
    "an integer bias": (
        "tensorrt",
        plan_of(act(INT8, SYMMETRIC), weight(), bias()),
        "Conv 'conv': its bias is int32, but tensorrt takes it in float",
    ),
    "a bias of too few bits": ("integer", plan_of(act(INT8), weight(), bias(16)), "its bias is int16 symmetric"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_refused_for_what_the_target_cannot_run_and_for_nothing_else(build: Build, case: str) -> None:
    target, plan, said = CASES[case]
    found = check(TARGETS[target], build(NET), plan)
    if said is None:
        assert found == []
    else:
        assert len(found) == 1
        assert said in found[0]


def test_an_operator_without_a_row_is_no_fault_but_its_codes_may_be(build: Build) -> None:
    model = build("g (float[1,4] x) => (float[1,4] y) { [s] y = Softmax(x) }")
    for quantizer, count in ((act(UINT8), 0), (act(INT16), 1)):
        plan = Plan({0: quantizer}, {Site("x"): 0, Site("y"): 0})
        found = check(TARGETS["openvino"], model, plan)
        assert len(found) == 2 * count
        assert all("int16" in sentence for sentence in found)


def test_half_precision_is_not_quantized(build: Build) -> None:
    model = build("g (float16[1,4,6,6] x) => (float16[1,4,6,6] y) <float16[4,4,1,1] w> { [conv] y = Conv(x, w) }")
    (found, *_) = check(TARGETS["integer"], model, plan_of(act(INT8), weight()))
    assert found == "Conv 'conv' computes in FLOAT16; only float32 is quantized."


def test_an_output_whose_scale_the_kernel_fixes_has_no_other(build: Build) -> None:
    fixed = [(t, op, r.fixed) for t in TARGETS.values() for r in t.rules if r.fixed is not None for op in r.ops]
    assert fixed, "no target fixes an output: this test has lost its subject"
    for target, op, (scale, zero) in fixed:
        model = build(f"g (float[1,4] x) => (float[1,4] y) {{ [n] y = {op}(x) }}")
        scheme = target.rule(op).data  # type: ignore[union-attr]
        for value, count in ((scale, 0), (scale * 2, 1)):
            params = QParams(scheme, np.float32(value).reshape(()), np.int32(zero).reshape(()))
            found = check(target, model, Plan({0: Quantizer(scheme, "test", params=params)}, {Site("y"): 0}))
            assert len(found) == count
            assert all(f"{op} 'n': its output has scale" in sentence for sentence in found)


def test_every_plan_that_placement_makes_passes(
    build: Build, samples: Callable[..., list], placed: Callable[..., Draft]
) -> None:
    model = build(NET)
    data = samples(model)
    for target in TARGETS.values():
        draft = pipeline(Observe(), Calibrate())(placed(model, target, data, prefer="size"), data)
        assert draft.plan.sites
        assert check(target, draft.model, draft.plan) == []


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_writes_what_the_target_cannot_run(build: Build, tmp_path: Path, name: str) -> None:
    for package in PACKAGES.get(FORMATS[name].extra, ()):
        pytest.importorskip(package)
    draft = Draft(build(NET), TARGETS["tensorrt"], plan_of(act(INT8, AFFINE, 7), weight()))
    path = tmp_path / f"file{FORMATS[name].suffix}"
    with pytest.raises(UnsupportedByTarget):
        exporter_named(name)(draft, path)
    assert list(tmp_path.iterdir()) == []


def test_of_many_faults_the_first_few_are_told_and_the_others_counted(build: Build) -> None:
    layers = " ".join(f"[c{i}] v{i + 1} = Conv(v{i}, w)" for i in range(6))
    model = build(f"g (float[1,4,6,6] v0) => (float[1,4,6,6] v6) <float[4,4,1,1] w> {{ {layers} }}")
    plan = Plan({0: act(INT16), 1: weight()}, {Site(f"v{i}", f"c{i}", 0): 0 for i in range(6)})
    with pytest.raises(
        UnsupportedByTarget, match=r"Conv 'c0'.*Conv 'c1'.*Conv 'c2'.* And 3 more\. Choose another"
    ) as why:
        to_qdq(Draft(model, TARGETS["openvino"], plan))
    assert "c3" not in str(why.value)
