"""`load` accepts any valid ONNX file, keeps external weights on disk, and refuses all other files with one sentence."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from halfeven.errors import UnsupportedModel
from halfeven.graph.model import load
from halfeven.graph.prepare import prepare

Build = Callable[..., ir.Model]

GEMM = "g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }"


def _proto(weight: TensorProto | None = None) -> onnx.ModelProto:
    weight = weight or numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _external(location: str, offset: int | None = None, length: int | None = None, dims: tuple[int, ...] = (4, 3)):
    tensor = TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def _write(folder: Path, weight: TensorProto, data: bytes = bytes(48)) -> Path:
    (folder / "w.bin").write_bytes(data)
    path = folder / "model.onnx"
    path.write_bytes(_proto(weight).SerializeToString())
    return path


def test_a_path_a_message_and_a_model_load_alike(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_proto().SerializeToString())
    model = load(path)
    assert load(model) is model
    for source in (str(path), path, _proto()):
        assert ir.to_onnx_text(load(source)) == ir.to_onnx_text(model)


def test_a_message_is_copied() -> None:
    proto = _proto()
    before = proto.SerializeToString()
    model = load(proto)
    model.graph.initializers["w"].name = "other"
    assert proto.SerializeToString() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(80), "ZIP archive"),
        (b"\x80\x02}q\x00.", "Python pickle"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(80), "LiteRT"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a text file"),
        (b'{"irVersion": 8}', "JSON"),
        (b"\x00\x01\x02garbage", "not an ONNX model"),
        (b"\x08\x08", "holds no graph"),
        (_proto().SerializeToString()[:60], "damaged or truncated"),
    ],
)
def test_a_file_that_is_not_onnx_is_refused_by_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(UnsupportedModel, match=message):
        load(path)


def test_any_truncation_of_a_model_is_refused(tmp_path: Path) -> None:
    whole = _proto().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UnsupportedModel):
            load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="does not exist"):
        load(tmp_path / "no.onnx")
    with pytest.raises(UnsupportedModel, match="is a folder"):
        load(tmp_path)
    with pytest.raises(UnsupportedModel, match="cannot be read"):
        load(tmp_path / ("n" * 300))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float[1] x) => (float[1] x) {}", "without nodes"),
        ("g (float[1] x) => () { y = Relu(x) }", "without outputs"),
        ("g (float[1] x) => (float[1] y) { y = Relu(z) }", "Relu '' reads 'z', which no node"),
        ("g (float[1] x) => (float[1] z) { y = Relu(x) }", "outputs 'z', which no node"),
        ("g (float[1] x) => (float[1] y) { a = Add(x, b)  b = Relu(a)  y = Relu(b) }", "cycle"),
    ],
)
def test_a_graph_that_cannot_be_computed_is_refused(build: Build, text: str, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        load(build(text))


def test_an_output_written_twice_is_refused() -> None:
    proto = _proto()
    proto.graph.node.append(proto.graph.node[0])
    with pytest.raises(UnsupportedModel, match="redeclared"):
        load(proto)


def test_opset_six_is_refused_and_seven_is_read(build: Build) -> None:
    with pytest.raises(UnsupportedModel, match="has opset 6"):
        load(build("g (float[1] x) => (float[1] y) { y = Relu(x) }", opset=6))
    assert load(build("g (float[1] x) => (float[1] y) { y = Relu(x) }", opset=7)).opset_imports[""] == 7


def test_operators_of_unknown_domains_pass(build: Build) -> None:
    assert len(load(build("g (float[1] x) => (float[1] y) { y = custom.Magic(x) }")).graph) == 1


def test_the_long_name_of_the_default_domain_means_the_same() -> None:
    proto = _proto()
    proto.opset_import[0].domain = "ai.onnx"
    assert load(proto).opset_imports == {"": 17}


def test_a_name_that_is_not_text_is_refused() -> None:
    message = _proto()
    message.graph.node[0].name = "layer"
    proto = onnx.ModelProto()
    proto.ParseFromString(message.SerializeToString().replace(b"layer", b"lay\xffr"))
    with pytest.raises(UnsupportedModel, match="not text"):
        load(proto)


def test_nodes_out_of_order_are_sorted(build: Build) -> None:
    model = load(build("g (float[1] x) => (float[1] y) { y = Relu(a)  a = Exp(x) }"))
    assert [node.op_type for node in model.graph] == ["Exp", "Relu"]


def test_sparse_weights_are_refused_rather_than_dropped() -> None:
    proto = _proto()
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    with pytest.raises(UnsupportedModel, match="'s' as a sparse tensor"):
        load(proto)


@pytest.mark.parametrize(
    "weight",
    [
        TensorProto(name="w", dims=[2**40, 2**40], data_type=TensorProto.FLOAT),
        TensorProto(name="w", dims=[4, 3], data_type=TensorProto.FLOAT, raw_data=bytes(47)),
        TensorProto(name="w", dims=[4, 3], data_type=TensorProto.FLOAT, float_data=[1.0] * 13),
        TensorProto(name="w", dims=[4, 3], data_type=TensorProto.FLOAT, int32_data=[1] * 12),
        TensorProto(name="w", dims=[-4, -3], data_type=TensorProto.FLOAT, raw_data=bytes(48)),
        TensorProto(name="w", dims=[1] * 65, data_type=TensorProto.FLOAT, raw_data=bytes(4)),
        TensorProto(name="w", dims=[4, 3], raw_data=bytes(48)),
        TensorProto(name="w", dims=[4, 3], data_type=99, raw_data=bytes(48)),
        TensorProto(name="w", dims=[3], data_type=TensorProto.STRING, string_data=[b"a"]),
    ],
)
def test_a_tensor_that_contradicts_its_shape_is_refused(weight: TensorProto) -> None:
    with pytest.raises(UnsupportedModel):
        load(_proto(weight))


def test_every_way_to_store_a_tensor_is_understood() -> None:
    for dtype in ("float16", "float64", "int8", "uint8", "int32", "int64", "uint64", "bool", "complex64"):
        onnx_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        weight = helper.make_tensor("w", onnx_type, [4, 3], np.ones(12, dtype).tolist())
        assert not weight.raw_data
        assert load(_proto(weight)).graph.initializers["w"].const_value.numpy().shape == (4, 3)
    for onnx_type, count in ((TensorProto.INT4, 5), (TensorProto.UINT4, 4), (TensorProto.BFLOAT16, 3)):
        weight = helper.make_tensor("w", onnx_type, [count], [1] * count)
        assert load(_proto(weight)).graph.initializers["w"].const_value.numpy().shape == (count,)
    empty = TensorProto(name="w", dims=[0, 3], data_type=TensorProto.FLOAT)
    assert load(_proto(empty)).graph.initializers["w"].const_value.numpy().shape == (0, 3)


def test_external_weights_are_found_beside_the_model(tmp_path: Path) -> None:
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    path = _write(tmp_path, _external("w.bin", offset=16), bytes(16) + weight.tobytes())
    tensor = load(path).graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), weight)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_external("gone.bin"), "Put the data file beside the model"),
        (_external(""), "not a path relative"),
        (_external("/etc/passwd"), "not a path relative"),
        (_external("C:\\secret.bin"), "not a path relative"),
        (_external("../outside.bin"), "leads out of the model's folder"),
        (_external("sub/../../outside.bin"), "leads out of the model's folder"),
        (_external("link.bin"), "leads out of the model's folder"),
        (_external("folder"), "not a regular file"),
        (_external("w.bin\0"), "cannot be read"),
        (_external("w.bin", offset=1), "lies at bytes 1 to 49"),
        (_external("w.bin", offset=2**62), "lies at bytes"),
        (_external("w.bin", offset=-8), "not a valid ONNX model"),
        (_external("w.bin", length=44), "needs 48 bytes"),
        (_external("w.bin", dims=(2**30, 2**30)), "has 48"),
    ],
)
def test_external_data_that_are_missing_outside_or_too_short_are_refused(
    tmp_path: Path, tensor: TensorProto, message: str
) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(bytes(48))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(UnsupportedModel, match=message):
        load(_write(folder, tensor))


def test_external_data_of_a_message_have_no_folder() -> None:
    with pytest.raises(UnsupportedModel, match="Give the path of the file"):
        load(_proto(_external("w.bin")))


def test_external_data_in_attributes_and_subgraphs_are_checked_too(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=_external("../x.bin"))
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4, 3])])
    proto = _proto()
    proto.graph.input.append(helper.make_tensor_value_info("p", TensorProto.BOOL, []))
    proto.graph.node.append(helper.make_node("If", ["p"], ["z"], then_branch=branch, else_branch=branch))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(UnsupportedModel, match=r"attribute 'value'.*leads out"):
        load(path)


def test_a_download_cache_of_links_into_one_folder_is_read(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "aa").write_bytes(_proto(_external("w.bin")).SerializeToString())
    (blobs / "bb").write_bytes(np.full(12, 2, np.float32).tobytes())
    (snapshot / "model.onnx").symlink_to(blobs / "aa")
    (snapshot / "w.bin").symlink_to(blobs / "bb")
    assert load(snapshot / "model.onnx").graph.initializers["w"].const_value.numpy()[0, 0] == 2


def test_a_data_file_with_two_hard_links_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path, _external("w.bin"), np.full(12, 3, np.float32).tobytes())
    os.link(tmp_path / "w.bin", tmp_path / "copy.bin")
    assert load(path).graph.initializers["w"].const_value.numpy()[0, 0] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss, and sparse files, are the system's own")
def test_three_gibibytes_of_weights_cost_no_memory(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    rows = 3 * 2**18
    path = tmp_path / "model.onnx"
    path.write_bytes(_proto(_external("w.bin", dims=(1024, rows))).SerializeToString())
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(4 * 1024 * rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model, _ = prepare(load(path))
    assert model.graph.initializers["w"].const_value.numpy()[-1, -1] == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
