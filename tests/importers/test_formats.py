"""Promised: the format of a file is told by its content first and its name last; what is of none is said, with those
there are; every format that is listed has its importer.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from halfeven.errors import BadOption
from halfeven.graph.plan import Plan
from halfeven.importers.formats import IMPORTS, import_plan, importer_named, sniff
from halfeven.targets import TARGETS

TARGET = TARGETS["onnxruntime"]


def test_every_importer_that_is_listed_is_there() -> None:
    for name, entry in IMPORTS.items():
        assert callable(importer_named(name))
        assert entry.what
        assert entry.keys or entry.begins or entry.suffixes or entry.home in {e.home for e in IMPORTS.values()}
    with pytest.raises(BadOption, match=r"The format 'nothing' cannot be imported. Choose one of: plan, qdq"):
        importer_named("nothing")


def test_a_plan_is_known_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("plan.json", "plan.txt", "plan", "plan.onnx"):
        Plan(floats={"a": "b"}).save(tmp_path / name)
        assert sniff(tmp_path / name) == "plan"
        assert import_plan(tmp_path / name, None, TARGET) == Plan(floats={"a": "b"})


def test_an_onnx_file_is_known_by_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x0a")
    assert sniff(tmp_path / "x.onnx") == "qdq"


WRONG: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("hello"),
    "another object": lambda p: p.write_text(json.dumps({"a": 1})),
    "a list": lambda p: p.write_text("[1]"),
    "bytes": lambda p: p.write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_of_no_format_is_said(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    WRONG[fault](path)
    with pytest.raises(BadOption, match=r"file.json' is of no format that can be imported. These can: plan"):
        import_plan(path, None, TARGET)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "half an object": (b'{"halfeven_plan": 1', "is damaged JSON, cut off perhaps: Expecting ',' delimiter"),
    "deep": (b'{"a":' * 100000, "is damaged JSON"),
    "a byte that is no text": (b'{"a": "\xff"}', "is damaged JSON"),
    "UTF-16": ('{"halfeven_plan": 1}'.encode("utf-16"), "is text in UTF-16; UTF-8 was expected"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_file_is_called_damaged_without_the_list_of_formats(fault: str, tmp_path: Path) -> None:
    path, (data, said) = tmp_path / "file.json", DAMAGED[fault]
    path.write_bytes(data)
    with pytest.raises(BadOption) as caught:
        import_plan(path, None, TARGET)
    assert str(caught.value).startswith(f"'{path}' {said}")
    assert "These can" not in str(caught.value)


def test_the_mark_that_some_editors_put_before_utf_8_is_passed_over(tmp_path: Path) -> None:
    path, plan = tmp_path / "plan.json", Plan(floats={"a": "b"})
    plan.save(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert sniff(path) == "plan"
    assert import_plan(path, None, TARGET) == plan
    path.write_bytes(b"\xef\xbb\xbfTRT-8601-EntropyCalibration2\n")
    assert sniff(path) == "tensorrt-cache"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(BadOption, match="cannot be read"):
            sniff(path)


def test_a_plan_of_another_sign_has_the_same_values() -> None:
    import numpy as np

    from halfeven.graph.plan import Quantizer, Site
    from halfeven.importers.shifting import as_target_takes
    from halfeven.numerics.grid import UINT8
    from halfeven.numerics.quantize import fake_quantize
    from halfeven.numerics.scheme import QParams, Scheme, ZeroRule

    scheme = Scheme(UINT8, zero_point=ZeroRule.FREE)
    params = QParams(scheme, np.float32(0.03).reshape(()), np.int32(101).reshape(()))
    plan = Plan({0: Quantizer(scheme, "x", params=params)}, {Site("x"): 0})
    x = np.linspace(-5, 9, 4001, dtype=np.float32)
    for target, moved in (("integer", 1), ("openvino", 0), ("tensorrt", 0), ("onnxruntime-arm", 1)):
        found, count = as_target_takes(plan, TARGETS[target])
        assert count == moved
        after = found.groups[0].params
        assert after is not None
        np.testing.assert_array_equal(fake_quantize(x, params), fake_quantize(x, after))


def test_a_tflite_file_serves_wherever_a_model_does(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from importlib.resources import files

    import numpy as np

    import halfeven
    from halfeven.importers.models import read_model

    with np.load(str(files("halfeven.demo") / "calibration.npz"), allow_pickle=False) as stored:
        x = ((stored["x"][:6, None].astype(np.float32) / 255 - 0.2860) / 0.3530).astype(np.float32)
    net = str(files("halfeven.demo") / "fashion_mnist_mbv2.onnx")
    result = halfeven.quantize(net, x, target="litert", verify=False)
    result.save(tmp_path / "net.tflite")
    model, notes = read_model(tmp_path / "net.tflite")
    assert any(node.op_type == "DequantizeLinear" for node in model.graph)
    assert notes
    assert sniff(tmp_path / "net.tflite") == "tflite"
    draft = halfeven.open_quantized(tmp_path / "net.tflite", target="litert")
    halfeven.export(draft, tmp_path / "net.onnx")
    found = halfeven.compare(tmp_path / "net.tflite", tmp_path / "net.onnx", target="litert")
    assert found.places > 100
    assert found.differences == ()
