"""Promised: block scales, LPBQ's whole multiples among them, are written and read back bit for bit, or refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from halfeven.draft import Draft
from halfeven.errors import QuantError, UnsupportedByTarget
from halfeven.exporters.formats import exporter_named
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.importers.formats import import_plan
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import QParams, Scheme, Tiling
from halfeven.targets import target_named

TARGET = target_named("tensorrt")


def given(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def blocked_draft(model: ir.Model, run: int) -> Draft:
    """The product with int4 weights in blocks along the sum, each of another scale."""
    scheme = Scheme(IntGrid(4), Tiling(((0, run), (1, 1))))
    shape = (-(-8 // run), 2)
    scale = (np.sqrt(np.arange(1, 1 + shape[0] * 2)) / 64).astype(np.float32).reshape(shape)
    params = QParams(scheme, scale, np.zeros(shape, np.int32))
    plan = Plan({0: Quantizer(scheme, "by hand", "weight", params)}, {Site("w", "product", 1): 0})
    return Draft(model, target_named("onnxruntime"), plan)


@pytest.mark.parametrize("name", ["aimet-1.0", "aimet-2.0", "encodings"])
def test_block_scales_come_back(name: str, model: ir.Model, tmp_path: Path) -> None:
    draft, path = blocked_draft(model, 4), tmp_path / "net.encodings"
    exporter_named(name)(draft, path)
    back = import_plan(path, model, draft.target).at(Site("w", "product", 1))
    ours = draft.plan.groups[0]
    assert back is not None
    assert back.scheme == ours.scheme
    np.testing.assert_array_equal(back.params.scale, ours.params.scale)


def test_aimet_1_lists_block_scales_by_output_channel(model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "net.encodings"
    exporter_named("aimet-1.0")(blocked_draft(model, 4), path)
    entry = json.loads(path.read_text())["param_encodings"][0]
    assert (entry["enc_type"], entry["block_size"]) == ("PER_BLOCK", 4)
    np.testing.assert_array_equal(np.float32(entry["scale"]), np.sqrt([1, 3, 2, 4]).astype(np.float32) / 64)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_block_scales_that_are_whole_multiples_are_written_as_lpbq_and_come_back(
    version: str, model: ir.Model, tmp_path: Path
) -> None:
    plain, path = blocked_draft(model, 4), tmp_path / "net.encodings"
    old = plain.plan.groups[0]
    steps, factors = np.array([[3, 5], [11, 16]]), np.array([[0.0123, 0.0456]], np.float32)
    params = QParams(old.scheme, steps.astype(np.float32) * factors, old.params.zero_point)
    draft = replace(plain, plan=plain.plan.with_group(0, replace(old, params=params)))
    exporter_named(f"aimet-{version}")(draft, path)
    data = json.loads(path.read_text())
    entry = (data["param_encodings"] if version == "1.0" else data["encodings"])[0]
    if version == "1.0":
        kind = [entry[key] for key in ("enc_type", "bw", "compressed_bw", "block_size", "is_sym")]
        assert kind == ["LPBQ", 8, 4, 4, True]
        assert entry["offset"] == [-128, -128]
    else:
        assert (entry["output_dtype"], entry["axis"], entry["block_size"]) == ("int4", 0, 4)
        assert "y_scale" not in entry
    found = np.float32(entry["scale" if version == "1.0" else "per_channel_float_scale"])
    multiples = np.array(entry["per_block_int_scale"])
    made = multiples.reshape(2, 2).T * found.reshape(1, 2) if version == "1.0" else multiples * found
    np.testing.assert_array_equal(made.astype(np.float32), params.scale)
    back = import_plan(path, model, draft.target).at(Site("w", "product", 1))
    assert back is not None
    assert back.params is not None
    np.testing.assert_array_equal(back.params.scale, params.scale)
    assert back.scheme == old.scheme


@pytest.mark.parametrize("name", ["aimet-0.6.1", "ppq-ppl", "ppq-qnn", "vitis-fix"])
def test_formats_without_block_scales_refuse_them(name: str, model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "net.out"
    with pytest.raises(UnsupportedByTarget):
        exporter_named(name)(blocked_draft(model, 4), path)
    assert not list(tmp_path.iterdir())


def test_a_short_last_block_is_refused_for_aimet(model: ir.Model, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedByTarget, match="last block"):
        exporter_named("aimet-2.0")(blocked_draft(model, 3), tmp_path / "net.encodings")


def test_lpbq_is_the_product_of_its_scales(model: ir.Model, tmp_path: Path) -> None:
    steps, factors = [[3, 5], [11, 16]], [[0.001, 0.002]]
    old = {"per_block_int_scale": steps, "per_channel_float_scale": factors}
    new = {"y_scale": {"x": steps, "x_scale": factors[0], "axis": 1}}
    for version, how in (("2.0.0", old), ("2.1.0", new)):
        entry = {"name": "w", "output_dtype": "int4", "axis": 0, "block_size": 4, **how}
        path = given(tmp_path / "net.encodings", {"version": version, "encodings": [entry]})
        quantizer = import_plan(path, model, target_named("onnxruntime")).at(Site("w", "product", 1))
        assert quantizer is not None
        expected = np.array(steps, np.float32) * np.array(factors, np.float32)
        np.testing.assert_array_equal(quantizer.params.scale, expected)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"is_sym": False}, "symmetric"),
        ({"offset": [0, -128]}, "offsets of -128"),
        ({"per_block_int_scale": [1, 2, 3]}, "3 multiples for 2 channels"),
        ({"per_block_int_scale": [1, 2, 3, 0]}, "per_block_int_scale"),
    ],
)
def test_lpbq_of_version_1_that_does_not_fit_is_refused(
    more: dict[str, object], said: str, model: ir.Model, tmp_path: Path
) -> None:
    entry = {
        "name": "w",
        "dtype": "INT",
        "enc_type": "LPBQ",
        "bw": 8,
        "compressed_bw": 4,
        "block_size": 4,
        "is_sym": True,
    }
    entry |= {"scale": [0.5, 0.25], "offset": [-128, -128], "per_block_int_scale": [1, 2, 3, 4]}
    data = {"version": "1.0.0", "activation_encodings": [], "param_encodings": [{**entry, **more}]}
    with pytest.raises(QuantError, match=said):
        import_plan(given(tmp_path / "net.encodings", data), model, TARGET)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_scales_for_each_place_of_a_kernel_are_refused_for_aimet_whose_blocks_share_one(
    version: str, tmp_path: Path
) -> None:
    text = '<ir_version: 9, opset_import: ["": 21]> g (float[1, 8, 5, 5] x) => (float[1, 2, 3, 3] y) {y = Conv(x, w)}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 8, 3, 3), np.float32), "w"))
    proto.graph.node[0].name = "layer"
    scheme = Scheme(IntGrid(4), Tiling(((0, 1), (1, 4), (2, 1), (3, 1))))
    params = QParams(scheme, np.full((2, 2, 3, 3), 0.3, np.float32), np.zeros((2, 2, 3, 3), np.int32))
    plan = Plan({0: Quantizer(scheme, "by hand", "weight", params)}, {Site("w", "layer", 1): 0})
    draft = Draft(ir.serde.deserialize_model(proto), target_named("onnxruntime"), plan)
    with pytest.raises(UnsupportedByTarget, match="each place of its kernel"):
        exporter_named(f"aimet-{version}")(draft, tmp_path / "net.encodings")
    assert not list(tmp_path.iterdir())


def test_unsigned_codes_are_not_written_as_lpbq(model: ir.Model, tmp_path: Path) -> None:
    plain = blocked_draft(model, 4)
    old = plain.plan.groups[0]
    scheme = replace(old.scheme, grid=IntGrid(4, signed=False))
    params = QParams(scheme, np.array([[1, 2], [3, 4]], np.float32), old.params.zero_point)
    plan = plain.plan.with_group(0, replace(old, scheme=scheme, params=params))
    exporter_named("aimet-1.0")(replace(plain, plan=plan), tmp_path / "net.encodings")
    entry = json.loads((tmp_path / "net.encodings").read_text())["param_encodings"][0]
    assert entry["enc_type"] == "PER_BLOCK"
