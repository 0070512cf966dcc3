"""Promised: what a table can hold comes back from it bit for bit, at the same places, for symmetric, affine and
power-of-two plans; what it cannot hold is named and measured. The network is the shipped one, trained on Fashion-MNIST.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

import halfeven
from halfeven.draft import Draft
from halfeven.exporters.formats import FORMATS, exporter_named
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.model import load
from halfeven.graph.plan import Plan, Quantizer, changes
from halfeven.importers.formats import import_plan, sniff
from halfeven.run.ort import OrtExecutor

DEMO = Path(halfeven.__file__).parent / "demo"
NOT_SNIFFED = {
    "ppq-qnn": "aimet",
    "aimet-0.6.1": "aimet",
    "aimet-1.0": "aimet",
    "tensorrt-cache-minmax": "tensorrt-cache",
}
WHOLE = ("aimet-0.6.1", "aimet-1.0", "aimet-2.0", "ppq-ppl", "ppq-qnn", "ppq-config", "encodings")
ACTIVATIONS = ("tensorrt-cache", "tensorrt-cache-minmax", "ppq-tensorrt")


@cache
def drafted(target: str, skip: tuple[str, ...] = ("gptq",)) -> Draft:
    """The shipped network calibrated on four pictures."""
    network, data = DEMO / "fashion_mnist_mbv2.onnx", str(DEMO / "calibration.npz")
    options = {"preprocess": "fashion-mnist", "limit": 4, "verify": False, "skip": skip}
    return halfeven.quantize(network, data=data, target=target, **options).draft


def exchanged(draft: Draft, name: str, folder: Path) -> tuple[Plan, tuple[str, ...]]:
    """What comes back from a file of a format, read with the float model that was written beside it."""
    path = folder / f"table{FORMATS[name].suffix}"
    notes = exporter_named(name)(draft, path)
    assert sniff(path) == NOT_SNIFFED.get(name, name)
    floating = load(path.with_name(f"{path.name}.float.onnx"))
    return import_plan(path, floating, draft.target), notes


def moved(before: Plan, after: Plan) -> list[str]:
    """Differences, but those in the reasons of float nodes."""
    return [f"{change.where}: {change.text}" for change in changes(before, after) if change.kind != "node"]


@pytest.mark.parametrize("target", ["tensorrt", "horizon", "onnxruntime", "integer"])
@pytest.mark.parametrize("name", WHOLE)
def test_a_table_of_activations_and_weights_gives_the_plan_back(name: str, target: str, tmp_path: Path) -> None:
    draft = drafted(target)
    plan, _ = exchanged(draft, name, tmp_path)
    assert moved(draft.plan, plan) == []
    assert all(
        plan.groups[group].scheme == draft.plan.at(site).scheme
        for site, group in plan.sites.items()
        if draft.plan.at(site)
    )


@pytest.mark.parametrize("name", ["aimet-0.6.1", "aimet-1.0", "aimet-2.0", "vitis-fix", "ppq-config", "encodings"])
def test_powers_of_two_come_back_with_their_biases(name: str, tmp_path: Path) -> None:
    draft = drafted("vitis-dpu")
    plan, _ = exchanged(draft, name, tmp_path)
    assert moved(draft.plan, plan) == []


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_tables_of_activations_give_their_scales_back_and_leave_weights_to_calibration(
    name: str, tmp_path: Path
) -> None:
    draft = drafted("tensorrt")
    plan, notes = exchanged(draft, name, tmp_path)
    assert {text.split(": ")[1] for text in moved(draft.plan, plan)} == {"has no scale any more"}
    weights = [q for q in plan.groups.values() if q.role == "weight"]
    assert len(weights) == 35
    assert all(q.params is None for q in weights)
    assert any("35 constants" in note for note in notes)


def test_the_network_of_a_table_read_back_computes_the_same_numbers(tmp_path: Path) -> None:
    draft = drafted("horizon")
    path = tmp_path / "table.encodings"
    exporter_named("aimet-2.0")(draft, path)
    floating = load(path.with_name(f"{path.name}.float.onnx"))
    back = Draft(floating, draft.target, import_plan(path, floating, draft.target))
    x = np.random.default_rng(0).normal(size=(4, 1, 28, 28)).astype(np.float32)
    first, second = (next(iter(OrtExecutor(to_qdq(one))({"input": x}).values())) for one in (draft, back))
    np.testing.assert_array_equal(first, second)


def test_ncnn_keeps_six_decimals_and_says_how_many_scales_that_loses(tmp_path: Path) -> None:
    draft = drafted("horizon")
    plan, notes = exchanged(draft, "ncnn-table", tmp_path)
    worst, lost, total = 0.0, 0, 0
    for site, group in plan.sites.items():
        ours, theirs = draft.plan.seen_by(site.value, site.consumer, site.port), plan.groups[group]
        if ours is not None and ours.params is not None and theirs.params is not None and site.consumer:
            ratio = np.abs(theirs.params.scale.ravel() / ours.params.scale.ravel() - 1)
            worst, lost, total = max(worst, float(ratio.max())), lost + int((ratio > 0).sum()), total + ratio.size
    assert 0 < lost < total / 2
    assert worst < 1e-5
    assert any("six decimals keep" in note and f"of {2621} scales" in note for note in notes)
    lines = (tmp_path / "table.table").read_text().splitlines()
    heads = [line.split()[0].endswith("_param_0") for line in lines]
    assert heads == [True] * 35 + [False] * 35


def test_ranges_of_float32_lose_little_and_it_is_said(tmp_path: Path) -> None:
    draft, rng = drafted("integer"), np.random.default_rng(1)
    groups = dict(draft.plan.groups)
    for group, quantizer in groups.items():
        if quantizer.role == "activation" and quantizer.params is not None:
            scale = quantizer.params.scale * np.float32(rng.uniform(0.7, 1.4))
            groups[group] = replace(quantizer, params=replace(quantizer.params, scale=np.asarray(scale, np.float32)))
    draft = replace(draft, plan=replace(draft.plan, groups=groups))
    plan, notes = exchanged(draft, "ort-calibration", tmp_path)
    pairs = [
        (draft.plan.seen_by(site.value, site.consumer, site.port), plan.groups[group])
        for site, group in plan.sites.items()
    ]
    scales = [
        (a.params.scale, b.params.scale) for a, b in pairs if a and a.params and b.params and b.role == "activation"
    ]
    assert 0 < max(float(np.abs(a / b - 1).max()) for a, b in scales) < 2e-7
    lost = sum(bool((a != b).any()) for a, b in scales)
    assert any(f"{lost} scale" in note and "not kept exactly by float32 ranges" in note for note in notes)


def test_onnx_runtime_reads_the_ranges(tmp_path: Path) -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    if not hasattr(calibrate, "load_tensors_data"):
        pytest.skip("this ONNX Runtime has no cache of ranges")
    draft, path = drafted("tensorrt"), tmp_path / "ranges.json"
    exporter_named("ort-calibration")(draft, path)
    found = calibrate.load_tensors_data(path)
    for name, tensor in found.items():
        quantizer = next(draft.plan.at(s) for s in draft.plan.sites if s.value == name)
        assert quantizer is not None
        assert quantizer.params is not None
        low, high = tensor.range_value
        assert float(high) == float(-low) == float(np.float32(127 * float(quantizer.params.scale.ravel()[0])))


def test_mnn_gets_every_layer_and_of_convolutions_the_scales_come_back(tmp_path: Path) -> None:
    draft = drafted("horizon", ("gptq", "equalize"))
    plan, _ = exchanged(draft, "mnn-params", tmp_path)
    layers = json.loads((tmp_path / "table.json").read_text())["algo"][0]["quant_params"]["layer"]
    assert len(layers) == 35
    placed = {site for site in plan.sites if site.consumer and plan.groups[plan.sites[site]].role == "weight"}
    assert len(placed) == 35
    kept = [site for site in placed if draft.plan.at(site) is not None]
    assert {site.value for site in placed} - {site.value for site in kept} == {"/fc/Gemm_filters"}
    for site in kept:
        ours, theirs = draft.plan.at(site), plan.at(site)
        assert ours is not None
        assert theirs is not None
        np.testing.assert_array_equal(ours.params.scale, theirs.params.scale)


def test_uint8_codes_are_moved_for_mnn_without_a_change_of_value(tmp_path: Path) -> None:
    draft = drafted("onnxruntime", ("gptq", "equalize"))
    path = tmp_path / "table.json"
    exporter_named("mnn-params")(draft, path)
    layers = json.loads(path.read_text())["algo"][0]["quant_params"]["layer"]
    one = layers[0]["input"][0]
    quantizer = next(draft.plan.at(s) for s in draft.plan.sites if s.value == one["name"])
    assert quantizer is not None
    assert quantizer.params is not None
    assert (one["clamp_min"], one["clamp_max"]) == (-128, 127)
    assert one["zero_point"] == int(quantizer.params.zero_point.ravel()[0]) - 128


def test_a_float_model_is_written_beside_that_has_the_names_and_the_function(tmp_path: Path) -> None:
    draft, path = drafted("horizon"), tmp_path / "net.encodings"
    notes = exporter_named("aimet-1.0")(draft, path)
    assert "net.encodings.float.onnx" in notes[0]
    model = onnx.load(tmp_path / "net.encodings.float.onnx")
    names = {n for node in model.graph.node for n in (*node.input, *node.output)}
    data = json.loads(path.read_text())
    assert {e["name"] for key in ("activation_encodings", "param_encodings") for e in data[key]} <= names
    assert not [node.name for node in model.graph.node if "QuantizeLinear" in node.op_type]


def test_nodes_in_half_precision_stay_float(tmp_path: Path) -> None:
    draft, path = drafted("tensorrt"), tmp_path / "table.json"
    exporter_named("tensorrt-precision")(draft, path)
    data = json.loads(path.read_text())
    kept = next(node.name for node in draft.model.graph if node.op_type == "Conv")
    data["fp16_nodes"].append(kept)
    path.write_text(json.dumps(data))
    plan = import_plan(path, draft.model, draft.target)
    assert not [site for site in plan.sites if site.consumer == kept]
    assert "keeps it in float" in plan.floats[kept or ""]


def test_a_quantizer_of_every_entry_says_where_it_came_from(tmp_path: Path) -> None:
    plan, _ = exchanged(drafted("horizon"), "aimet-2.0", tmp_path)
    reasons: list[Quantizer] = list(plan.groups.values())
    assert all("'table.encodings'" in quantizer.reason for quantizer in reasons)
