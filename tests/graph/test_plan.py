"""A plan is plain data: JSON out, JSON in, equal again bit for bit; what is no plan is refused with a sentence."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.graph.plan import Plan, Quantizer, Site, difference
from halfeven.numerics.grid import INT8_NARROW, INT32, UINT8, IntGrid
from halfeven.numerics.scheme import QParams, ScaleRule, Scheme, Tiling, ZeroRule, per_channel

NAMES = st.text(min_size=1, max_size=6)
GRIDS = st.sampled_from([UINT8, INT8_NARROW, INT32, IntGrid(4), IntGrid(16, signed=False)])
SCALES = st.floats(float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max), width=32)


@st.composite
def _quantizers(draw: st.DrawFn) -> Quantizer:
    grid, channels = draw(GRIDS), draw(st.integers(1, 4))
    tiling = draw(st.sampled_from([Tiling(), per_channel(0), per_channel(1)]))
    affine = draw(st.sampled_from(ZeroRule))
    scheme = Scheme(grid, tiling, draw(st.sampled_from(ScaleRule)), affine)
    params = None
    if draw(st.booleans()):
        shape = () if not tiling.tiles else tiling.scale_shape((channels, channels))
        count = int(np.prod(shape))
        scale = np.array(draw(st.lists(SCALES, min_size=count, max_size=count)), np.float32).reshape(shape)
        codes = st.integers(grid.low, grid.high) if affine is ZeroRule.FREE else st.just(0)
        zero = np.array(draw(st.lists(codes, min_size=count, max_size=count)), np.int32).reshape(shape)
        params = QParams(scheme, scale, zero)
    role = draw(st.sampled_from(["activation", "weight", "bias"]))
    bits = draw(st.none() | st.integers(2, grid.bits - 1)) if role == "weight" else None
    return Quantizer(scheme, draw(st.text(max_size=5)), role, params, draw(st.sampled_from(["", "mse"])), bits)  # type: ignore[arg-type]


@st.composite
def _plans(draw: st.DrawFn) -> Plan:
    groups = draw(st.dictionaries(st.integers(0, 99), _quantizers(), max_size=4))
    sites = st.builds(Site, NAMES) | st.builds(Site, NAMES, NAMES, st.integers(0, 9))
    placed = draw(st.dictionaries(sites, st.sampled_from(sorted(groups)), max_size=6)) if groups else {}
    return Plan(groups, placed, draw(st.dictionaries(NAMES, st.text(max_size=5), max_size=3)))


def _same(a: Plan, b: Plan) -> None:
    assert a.sites == b.sites
    assert a.floats == b.floats
    assert set(a.groups) == set(b.groups)
    for group, mine in a.groups.items():
        other = b.groups[group]
        assert replace(mine, params=None) == replace(other, params=None)
        assert (mine.params is None) == (other.params is None)
        if mine.params is not None and other.params is not None:
            assert mine.params.scheme == other.params.scheme
            for x, y in ((mine.params.scale, other.params.scale), (mine.params.zero_point, other.params.zero_point)):
                assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


@settings(max_examples=80, deadline=None)
@given(_plans())
def test_a_plan_reads_back_from_its_json_bit_for_bit(plan: Plan) -> None:
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    _same(plan, again)
    assert again.digest == plan.digest
    assert difference(plan, again) == []


def test_a_plan_reads_back_from_its_file(tmp_path: Path) -> None:
    plan = replace(_plan(), floats={"Übergang/1": "不支持"})
    path = tmp_path / "plan.json"
    plan.save(path)
    _same(plan, Plan.load(path))
    assert "不支持" in path.read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


ACT = Scheme(UINT8, zero_point=ZeroRule.FREE)
WEIGHT = Scheme(INT8_NARROW, per_channel(0))


def _params(scheme: Scheme, scale: Any, zero: Any) -> QParams:
    return QParams(scheme, np.array(scale, np.float32), np.array(zero, np.int32))


def _plan() -> Plan:
    groups = {
        0: Quantizer(ACT, "input", params=_params(ACT, 0.1, 3)),
        1: Quantizer(WEIGHT, "weight", "weight", _params(WEIGHT, [[0.5], [0.25]], [[0], [0]])),
    }
    sites = {Site("x", "conv", 0): 0, Site("h"): 0, Site("w", "conv", 1): 1}
    return Plan(groups, sites, {"erf": "no integer kernel"})


def test_a_reader_sees_its_own_site_before_everyones() -> None:
    own, all_others = Quantizer(ACT, "own"), Quantizer(ACT, "all")
    plan = Plan({0: own, 1: all_others}, {Site("x", "a", 1): 0, Site("x"): 1})
    assert plan.seen_by("x", "a", 1) is own
    assert plan.seen_by("x", "a", 0) is all_others
    assert plan.seen_by("y", "a", 1) is None
    assert plan.members(1) == [Site("x")]
    assert plan.with_group(1, own).at(Site("x")) is own


def test_the_digest_depends_on_content_and_not_on_order() -> None:
    plan = _plan()
    turned = Plan(dict(reversed(plan.groups.items())), dict(reversed(plan.sites.items())), plan.floats)
    assert turned.digest == plan.digest
    assert (
        plan.with_group(0, Quantizer(ACT, "input", params=_params(ACT, np.nextafter(np.float32(0.1), 1), 3))).digest
        != plan.digest
    )


def _edit(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    data = deepcopy(_plan().to_json())
    change(data)
    return data


MALFORMED = {
    "no object": [1],
    "another version": {"halfeven_plan": 99, "groups": [], "floats": {}},
    "no groups": _edit(lambda d: d.pop("groups")),
    "groups are text": _edit(lambda d: d.update(groups=["a"])),
    "floats are a list": _edit(lambda d: d.update(floats=["a"])),
    "no floats": _edit(lambda d: d.pop("floats")),
    "no scheme": _edit(lambda d: d["groups"][0].pop("scheme")),
    "scheme is text": _edit(lambda d: d["groups"][0].update(scheme="int8")),
    "64 bits": _edit(lambda d: d["groups"][0]["scheme"]["grid"].update(bits=64)),
    "bits are text": _edit(lambda d: d["groups"][0]["scheme"]["grid"].update(bits="8")),
    "an unknown field of a grid": _edit(lambda d: d["groups"][0]["scheme"]["grid"].update(colour=1)),
    "an unknown rule": _edit(lambda d: d["groups"][0]["scheme"].update(scale="cubic")),
    "a misspelt key": _edit(lambda d: d["groups"][0].update(methd="mse")),
    "a misspelt key of the plan": _edit(lambda d: d.update(float={})),
    "a misspelt key of a scheme": _edit(lambda d: d["groups"][0]["scheme"].update(zeropoint="none")),
    "a key of its own": _edit(lambda d: d["groups"][0]["params"].update(comment="by hand")),
    "bits of an activation": _edit(lambda d: d["groups"][0].update(bits=4)),
    "one bit of a weight": _edit(lambda d: d["groups"][1].update(bits=1)),
    "as many bits as the grid": _edit(lambda d: d["groups"][1].update(bits=8)),
    "bits that are no number": _edit(lambda d: d["groups"][1].update(bits="4")),
    "an unknown role": _edit(lambda d: d["groups"][0].update(role="banana")),
    "params are null": _edit(lambda d: d["groups"][0].update(params=None)),
    "a scale is text": _edit(lambda d: d["groups"][0]["params"].update(scale=["a"])),
    "a scale is null": _edit(lambda d: d["groups"][0]["params"].update(scale=[None])),
    "a scale is negative": _edit(lambda d: d["groups"][0]["params"].update(scale=[-0.1])),
    "a scale is zero": _edit(lambda d: d["groups"][0]["params"].update(scale=[0.0])),
    "a scale is beyond float32": _edit(lambda d: d["groups"][0]["params"].update(scale=[1e39])),
    "shape and scales disagree": _edit(lambda d: d["groups"][1]["params"].update(shape=[3, 1])),
    "an endless shape": _edit(lambda d: d["groups"][1]["params"].update(shape=[10**12, 10**12])),
    "a zero point beyond int32": _edit(lambda d: d["groups"][0]["params"].update(zero_point=[2**40])),
    "a zero point off the grid": _edit(lambda d: d["groups"][0]["params"].update(zero_point=[300])),
    "a zero point that is no integer": _edit(lambda d: d["groups"][0]["params"].update(zero_point=[1.5])),
    "a site of no parts": _edit(lambda d: d["groups"][0]["sites"].append([])),
    "a site of four parts": _edit(lambda d: d["groups"][0]["sites"].append(["a", "b", 0, 1])),
    "a site that is text": _edit(lambda d: d["groups"][0]["sites"].append("ab")),
    "a site whose port is text": _edit(lambda d: d["groups"][0]["sites"].append(["a", "b", "c"])),
    "one site in two groups": _edit(lambda d: d["groups"][1]["sites"].append(["h"])),
    "one group twice": _edit(lambda d: d["groups"].append(d["groups"][0])),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_plan_is_refused(name: str) -> None:
    with pytest.raises(BadOption, match=r"plan|Plan|QParams|IntGrid"):
        Plan.from_json(MALFORMED[name])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b"null", b'"plan"'])
def test_a_file_that_holds_no_plan_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(BadOption, match="plan"):
        Plan.load(path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no object", r'is no plan: expected a JSON object with "halfeven_plan": 1, found \[1\]\. Give a file made'),
        ("another version", r'"halfeven_plan": 1, found "halfeven_plan": 99\.'),
        ("no groups", "is malformed, in it: 'groups' is missing"),
        ("groups are text", "in entry 0 of groups: the entry: an object was expected, found 'a'"),
        ("floats are a list", r"in it: floats: an object was expected, found \['a'\]"),
        ("no scheme", "in entry 0 of groups: 'scheme' is missing"),
        ("a site that is text", "in entry 0 of groups: a site is .* found 'ab'"),
        ("a misspelt key", "in entry 0 of groups: the group has no key 'methd'; did you mean 'method'"),
        ("a misspelt key of the plan", "in it: the plan has no key 'float'; did you mean 'floats'"),
        ("a misspelt key of a scheme", "the scheme has no key 'zeropoint'; did you mean 'zero_point'"),
        ("a key of its own", "params has no key 'comment'; there are shape, scale, zero_point, threshold"),
        ("an unknown role", "in entry 0 of groups: role 'banana' is none of activation, weight, bias"),
        ("a zero point off the grid", r"in entry 0 of groups: QParams: zero points \[300\]; whole numbers from"),
    ],
)
def test_a_malformed_file_is_named_with_what_was_found_and_expected(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(MALFORMED[name]))
    with pytest.raises(BadOption, match=rf"^'.*plan\.json' .*{said}"):
        Plan.load(path)


def test_a_plan_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"none.json' cannot be read"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(BadOption, match="cannot be read"):
        Plan.load(tmp_path)


def test_a_difference_is_told_by_site_and_node() -> None:
    before = _plan()
    coarser = replace(before.groups[0], scheme=Scheme(IntGrid(4, signed=False), zero_point=ZeroRule.FREE), params=None)
    after = Plan({**before.groups, 0: coarser, 2: coarser},
                 {Site("h"): 0, Site("w", "conv", 1): 1, Site("z"): 2}, {"gelu": "kept"})  # fmt: skip
    assert difference(before, after) == [
        "h: uint8 affine per-tensor became uint4 affine per-tensor",
        "x -> conv[0]: no longer quantized",
        "z: was not quantized, now uint4 affine per-tensor",
        "node 'erf' is now quantized",
        "node 'gelu' stays float: kept",
    ]


def test_bits_of_a_weight_are_told_as_its_codes() -> None:
    before = _plan()
    after = before.with_group(1, replace(before.groups[1], bits=4))
    (line,) = difference(before, after)
    assert line.startswith("w -> conv[1]: int8")
    assert " became int4 " in line
    assert after.groups[1].rounding.scheme.grid == IntGrid(4)  # type: ignore[union-attr]
    assert before.groups[1].rounding.scheme == before.groups[1].scheme  # type: ignore[union-attr]


def test_a_change_of_one_scale_of_many_is_told_by_that_scale() -> None:
    before = _plan()
    after = before.with_group(1, replace(before.groups[1], params=_params(WEIGHT, [[0.5], [0.125]], [[0], [0]])))
    (line,) = difference(before, after)
    assert "w -> conv[1]" in line
    assert "0.25" in line
    assert "0.125" in line


def test_a_change_of_a_zero_point_is_not_told_as_one_of_the_scale() -> None:
    before = _plan()
    after = before.with_group(0, replace(before.groups[0], params=_params(ACT, 0.1, 4)))
    lines = difference(before, after)
    assert len(lines) == 2
    assert all("scale 0.1 became 0.1" not in line for line in lines)


def test_a_scale_that_is_new_is_told() -> None:
    after = _plan()
    before = after.with_group(0, replace(after.groups[0], params=None))
    assert len(difference(before, after)) == 2
    assert len(difference(after, before)) == 2


def test_another_reason_to_stay_float_is_told() -> None:
    (line,) = difference(_plan(), replace(_plan(), floats={"erf": "kept by the user"}))
    assert "kept by the user" in line


def test_a_site_reads_as_a_place_on_a_wire() -> None:
    assert str(Site("x")) == "x"
    assert str(Site("x", "conv", 2)) == "x -> conv[2]"
