"""Promised: networks are quantized for the DPU with powers of two alone, by whatever estimator, equalized and rounded by
Gptq; for Horizon with symmetric codes alone, and an affine plan is refused. The network is the shipped one.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.formats import exporter_named
from halfeven.exporters.onnx import to_qdq
from halfeven.graph import ops
from halfeven.graph.plan import Quantizer
from halfeven.numerics.profiles import profile_named
from halfeven.numerics.quantize import quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import ScaleRule, ZeroRule
from halfeven.targets import TARGETS, target_named

DEMO = Path(halfeven.__file__).parent / "demo"
HORIZON = ("horizon", "horizon-before-3.0.31", "horizon-int16")


@cache
def result(target: str, calibrate: str = "auto", limit: int = 24) -> Any:
    """The network quantized with few pictures, and with `limit` of 24 compared on some that were held out."""
    options: dict[str, Any] = {"limit": limit, "calibrate": calibrate, "verify": limit >= 24, "observe_elements": 2**12}
    network, data = DEMO / "fashion_mnist_mbv2.onnx", str(DEMO / "calibration.npz")
    return halfeven.quantize(network, data=data, target=target, preprocess="fashion-mnist", **options)


def quantizers(draft: Draft, role: str) -> list[Quantizer]:
    return [quantizer for quantizer in draft.plan.groups.values() if quantizer.role == role]


def test_every_scale_for_the_dpu_is_one_power_of_two_for_its_tensor() -> None:
    draft = result("vitis-dpu").draft
    for role, count in (("weight", 35), ("bias", 35)):
        assert len(quantizers(draft, role)) == count
    for quantizer in draft.plan.groups.values():
        params = quantizer.params
        assert params is not None
        assert params.scale.size == 1
        assert np.frexp(params.scale)[0] == 0.5
        assert not params.zero_point.any()
        assert (quantizer.scheme.grid.low, quantizer.scheme.grid.high) == (-128, 127)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_each_estimator_gives_powers_of_two(method: str) -> None:
    draft = result("vitis-dpu", method, 4).draft
    assert all((np.frexp(q.params.scale)[0] == 0.5).all() for q in quantizers(draft, "activation"))


def test_the_network_for_the_dpu_answers_as_the_float_network_does() -> None:
    found = result("vitis-dpu")
    assert found.verification.sqnr_db > 15


def test_a_bias_of_the_dpu_lies_on_its_own_grid_and_not_below_the_accumulators() -> None:
    draft = result("vitis-dpu").draft
    checked = 0
    for node in draft.model.graph:
        bias = ops.bias_of(node)
        if not ops.is_layer(node) or bias is None:
            continue
        seen = [
            draft.plan.seen_by(v.name or "", node.name or "", i) for i, v in enumerate(node.inputs) if v is not None
        ]
        data, weight, own = (float(q.params.scale.ravel()[0]) for q in seen if q is not None and q.params is not None)
        assert own >= data * weight
        tensor = ops.constant_of(bias)
        assert tensor is not None
        codes = quantize(tensor.numpy(), seen[2].params)
        assert np.abs(tensor.numpy() - codes * np.float32(own)).max() <= own / 2
        checked += 1
    assert checked == 35


def test_fix_positions_and_shifts_are_within_what_the_dpu_has(tmp_path: Path) -> None:
    draft, path = result("vitis-dpu").draft, tmp_path / "quant_info.json"
    exporter_named("vitis-fix")(draft, path)
    data = json.loads(path.read_text())
    fixes = {name: value[0][1] for part in ("param", "output") for name, value in data[part].items()}
    for site, group in draft.plan.sites.items():
        assert float(draft.plan.groups[group].params.scale.ravel()[0]) == 2.0 ** -fixes[site.value]
    convolutions = [node for node in draft.model.graph if node.op_type == "Conv"]
    for node in convolutions:
        data_fix, weight_fix, bias_fix = (fixes[v.name or ""] for v in node.inputs if v is not None)
        assert 0 <= data_fix + weight_fix - bias_fix <= 16


def test_a_shift_that_the_dpu_lacks_is_refused(tmp_path: Path) -> None:
    draft = result("vitis-dpu").draft
    node = next(node for node in draft.model.graph if node.op_type == "Conv")
    weight = node.inputs[1]
    assert weight is not None
    group = next(g for s, g in draft.plan.sites.items() if s.value == weight.name)
    quantizer = draft.plan.groups[group]
    tiny = replace(quantizer, params=replace(quantizer.params, scale=quantizer.params.scale * np.float32(2.0**-20)))
    with pytest.raises(UnsupportedByTarget, match="a shift of"):
        exporter_named("vitis-fix")(replace(draft, plan=draft.plan.with_group(group, tiny)), tmp_path / "x.json")
    assert not list(tmp_path.iterdir())


def test_fix_positions_of_other_scales_are_refused(tmp_path: Path) -> None:
    with pytest.raises(halfeven.QuantError, match="no power of two"):
        exporter_named("vitis-fix")(result("horizon", "minmax", 4).draft, tmp_path / "x.json")


@pytest.mark.parametrize("name", HORIZON)
def test_horizon_takes_symmetric_codes_only(name: str) -> None:
    target = TARGETS[name]
    schemes = [scheme for rule in target.rules for scheme in (rule.data, rule.weight) if scheme is not None]
    assert all(scheme.symmetric for scheme in (*schemes, *target.takes))
    draft = result(name, "minmax", 4).draft
    assert all(
        q.scheme.symmetric and (q.params is None or not q.params.zero_point.any()) for q in draft.plan.groups.values()
    )
    bits = {q.scheme.grid.bits for q in quantizers(draft, "activation")}
    assert bits == ({16} if name == "horizon-int16" else {8})
    assert all(q.scheme.tiling.axis == 0 for q in quantizers(draft, "weight"))


@pytest.mark.parametrize("form", ["qdq", "encodings", "aimet-2.0"])
def test_an_affine_plan_is_refused_for_horizon(form: str, tmp_path: Path) -> None:
    affine = result("integer", "minmax", 4).draft
    assert any(q.scheme.zero_point is ZeroRule.FREE for q in affine.plan.groups.values())
    with pytest.raises(UnsupportedByTarget, match="symmetric"):
        exporter_named(form)(replace(affine, target=target_named("horizon")), tmp_path / "net.out")
    assert not list(tmp_path.iterdir())


def test_horizon_has_the_rounding_of_both_versions_of_its_toolchain() -> None:
    new, old = (profile_named(TARGETS[name].numerics.profile) for name in ("horizon", "horizon-before-3.0.31"))
    ties = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert new.quantize(ties, 1.0, 0, -128, 127).tolist() == [-2, -2, 0, 0, 2, 2]
    assert old.quantize(ties, 1.0, 0, -128, 127).tolist() == [-2, -1, 0, 1, 2, 3]
    assert TARGETS["horizon-before-3.0.31"].numerics.rounding is Rounding.SUM_UP


def test_sixteen_bits_are_closer_than_eight() -> None:
    eight, sixteen = (result(name, "minmax").verification.sqnr_db for name in ("horizon", "horizon-int16"))
    assert sixteen > eight + 3


def test_the_graph_of_int16_codes_is_valid() -> None:
    model = to_qdq(result("horizon-int16", "minmax", 4).draft)
    codes = {v.dtype for node in model.graph if node.op_type == "QuantizeLinear" for v in node.outputs}
    assert codes == {ir.DataType.INT16}
    assert model.opset_imports[""] >= 21


def test_the_dpus_bias_and_rounding_are_in_its_table() -> None:
    target = TARGETS["vitis-dpu"]
    assert (target.numerics.bias_bits, target.numerics.rounding) == (8, Rounding.HALF_UP)
    assert all(rule.data.scale is ScaleRule.POWER_OF_TWO for rule in target.rules)
