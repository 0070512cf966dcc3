"""A saved model is whole, the same bytes each time, streams its weights, and replaces the old file only at the end."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from halfeven.errors import BadOption
from halfeven.graph.model import load, save

Build = Callable[..., ir.Model]


def _model(build: Build, size: int = 64) -> ir.Model:
    text = f"g (float[N,{size}] x) => (float[N,{size}] y) {{ h = MatMul(x, w)  y = Add(h, b) }}"
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(0, 1, (size, size)).astype(np.float32), np.ones(size, np.float32)
    model = build(text, w=weight, b=bias)
    model.metadata_props["author"] = "someone"
    model.producer_name, model.doc_string = "tool", "words"
    model.graph[0].metadata_props["path"] = "a.b"
    return model


def _with_external_weights(build: Build, folder: Path) -> ir.Model:
    ir.save(_model(build), folder / "source.onnx", external_data="weights.bin")
    return load(folder / "source.onnx")


def test_what_is_saved_is_what_is_loaded(build: Build, tmp_path: Path) -> None:
    model = ir.from_proto(ir.to_proto(_model(build)))
    save(model, tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]
    again = load(tmp_path / "m.onnx")
    assert ir.to_onnx_text(again) == ir.to_onnx_text(model)
    assert (again.producer_name, again.doc_string, again.metadata_props) == ("tool", "words", {"author": "someone"})
    assert again.graph[0].metadata_props == {"path": "a.b"}


def test_the_same_model_gives_the_same_bytes(build: Build, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(_model(build), tmp_path / name / "m.onnx")
    assert (tmp_path / "a/m.onnx").read_bytes() == (tmp_path / "b/m.onnx").read_bytes()


def test_external_weights_go_to_one_file_beside_the_model(build: Build, tmp_path: Path) -> None:
    model = _with_external_weights(build, tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(model, tmp_path / name / "m.onnx")
        assert sorted(os.listdir(tmp_path / name)) == ["m.onnx", "m.onnx.data"]
    for name in ("m.onnx", "m.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    onnx.checker.check_model(tmp_path / "a/m.onnx")
    again = load(tmp_path / "a/m.onnx").graph.initializers
    assert isinstance(again["w"].const_value, ir.ExternalTensor)
    assert again["w"].const_value.offset % 4096 == 0
    assert not isinstance(again["b"].const_value, ir.ExternalTensor)
    np.testing.assert_array_equal(again["w"].const_value.numpy(), _model(build).graph.initializers["w"].const_value)
    assert model.graph.initializers["w"].const_value.location == "weights.bin"


def test_an_external_constant_becomes_an_initializer(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(np.arange(300, dtype=np.float32).tobytes())
    weight = onnx.TensorProto(dims=[300], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="w.bin")
    nodes = [
        onnx.helper.make_node("Constant", [], ["w"], value=weight),
        onnx.helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    infos = [onnx.helper.make_tensor_value_info(name, 1, [300]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", infos[:1], infos[1:])
    (tmp_path / "m.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    (tmp_path / "out").mkdir()
    save(load(tmp_path / "m.onnx"), tmp_path / "out/n.onnx")
    again = load(tmp_path / "out/n.onnx")
    assert again.graph.initializers["w"].const_value.numpy()[299] == 299


def test_saving_over_the_own_data_file_is_whole_and_the_old_tensors_say_so(build: Build, tmp_path: Path) -> None:
    save(_with_external_weights(build, tmp_path), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    expected = model.graph.initializers["w"].const_value.numpy().copy()
    model.graph.initializers["b"].const_value = ir.tensor(np.ones(512, np.float32), name="b")
    save(model, tmp_path / "m.onnx")
    np.testing.assert_array_equal(load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy(), expected)
    with pytest.raises(ValueError, match="invalidated"):
        model.graph.initializers["w"].const_value.numpy()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(build: Build, tmp_path: Path) -> None:
    save(_with_external_weights(build, tmp_path), tmp_path / "m.onnx")
    os.remove(tmp_path / "source.onnx")
    old = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    model = load(tmp_path / "m.onnx")
    os.truncate(tmp_path / "m.onnx.data", 100)
    old["m.onnx.data"] = old["m.onnx.data"][:100]
    with pytest.raises(BadOption, match="could not be written"):
        save(model, tmp_path / "m.onnx")
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == old


def test_a_full_disk_is_one_clear_error_and_no_partial_file(build: Build, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limit[1]))
    try:
        with pytest.raises(BadOption, match="could not be written"):
            save(_model(build), tmp_path / "m.onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert os.listdir(tmp_path) == []


def test_a_path_that_cannot_be_written_is_refused(build: Build, tmp_path: Path) -> None:
    model = _model(build)
    with pytest.raises(BadOption, match="an existing folder"):
        save(model, tmp_path / "none" / "m.onnx")
    with pytest.raises(BadOption, match="is a folder"):
        save(model, tmp_path)
    with pytest.raises(BadOption, match="could not be written"):
        save(model, tmp_path / ("n" * 300))


def test_a_transposed_view_of_a_mapped_weight_is_written_in_its_own_order(build: Build, tmp_path: Path) -> None:
    model = _with_external_weights(build, tmp_path)
    value = model.graph.initializers["w"]
    view = value.const_value.numpy().T
    value.const_value = ir.Tensor(view)
    model.graph.initializers["b"].const_value = ir.ExternalTensor(
        "weights.bin", 0, 64, ir.DataType.FLOAT, shape=ir.Shape([16]), name="b", base_dir=tmp_path
    )
    save(model, tmp_path / "m.onnx")
    np.testing.assert_array_equal(load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy(), view)


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is the system's own")
def test_weights_are_streamed(build: Build, tmp_path: Path) -> None:
    """192 MiB in twelve tensors cost less memory than two of them."""
    resource = pytest.importorskip("resource")
    names = [f"w{k}" for k in range(12)]
    calls = "  ".join(f"h{k + 1} = MatMul(h{k}, w{k})" for k in range(12))
    model = build(f"g (float[N,2048] h0) => (float[N,2048] h12) {{ {calls} }}")
    (tmp_path / "w.bin").write_bytes(b"")
    os.truncate(tmp_path / "w.bin", 12 * 2**24)
    for k, name in enumerate(names):
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        shape = ir.Shape([2048, 2048])
        value.const_value = ir.ExternalTensor(
            "w.bin", k * 2**24, 2**24, ir.DataType.FLOAT, shape=shape, name=name, base_dir=tmp_path
        )
        model.graph.register_initializer(value)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    save(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == 12 * 2**24
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**14
