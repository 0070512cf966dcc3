"""Promised: the shipped network stored in float16 or float64 is quantized as the float32 one is, with inputs and outputs of
its own type, and a note says what became of its numbers.
"""

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import halfeven
from halfeven.cli import main

DEMO = Path(str(files("halfeven.demo")))
KINDS = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}
DATA: dict[str, Any] = {"preprocess": "fashion-mnist", "limit": 60}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`stored(kind)`: the path of the shipped network with every float32 of that type instead."""
    folder = tmp_path_factory.mktemp("stored")

    def make(kind: str) -> Path:
        proto = onnx.load(DEMO / "fashion_mnist_mbv2.onnx")
        tensors = [*proto.graph.initializer, *(a.t for n in proto.graph.node for a in n.attribute if a.name == "value")]
        for tensor in tensors:
            if tensor.data_type == TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))
        for info in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
            if info.type.tensor_type.elem_type == TensorProto.FLOAT:
                info.type.tensor_type.elem_type = KINDS[kind]
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, folder / f"{kind}.onnx")
        return folder / f"{kind}.onnx"

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_quantized_as_in_float32(kind: str, stored: Callable[[str], Path], tmp_path: Path) -> None:
    plain = halfeven.quantize(DEMO / "fashion_mnist_mbv2.onnx", DEMO / "calibration.npz", **DATA)
    result = halfeven.quantize(stored(kind), DEMO / "calibration.npz", **DATA)
    assert result.plan.floats.keys() - {"input_float32_Cast", "logits_Cast"} == plain.plan.floats.keys()
    assert sum(q.role == "weight" for q in result.plan.groups.values()) == sum(
        q.role == "weight" for q in plain.plan.groups.values()
    )
    found = result.verification
    assert found is not None
    assert found.sqnr_db > 30
    assert found.integer_layers == plain.verification.integer_layers  # type: ignore[union-attr]
    assert found.sizes[0] == stored(kind).stat().st_size
    (note,) = [note for note in result.notes if note.startswith(f"the network is in {kind}: ")]
    assert ("without loss" if kind == "float16" else "rounded to float32") in note
    result.save(tmp_path / "q.onnx")
    graph = onnx.load(tmp_path / "q.onnx").graph
    assert [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)] == [KINDS[kind]] * 2
    halves = [t.name for t in graph.initializer if t.data_type == KINDS[kind]]
    assert halves == []


def test_the_command_line_quantizes_verifies_and_inspects_it(
    stored: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(DEMO / "test.npz"), "--preprocess", "fashion-mnist", "--limit", "40"]
    for kind in KINDS:
        model, output = str(stored(kind)), str(tmp_path / f"{kind}.int8.onnx")
        assert main(["quantize", model, *data, "--no-verify", "--quiet", "-o", output]) == 0
        assert main(["verify", model, output, *data, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["sqnr_db"] > 30
        assert main(["inspect", model, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["layers"]["quantized"] > 25


def test_statistics_serve_it_too(stored: Callable[[str], Path]) -> None:
    model, data = stored("float16"), DEMO / "calibration.npz"
    record = halfeven.calibrate(model, data, **DATA)
    given = halfeven.quantize(model, stats=record, verify=False, skip=("gptq",))
    direct = halfeven.quantize(model, data, verify=False, skip=("gptq",), **DATA)
    scales = [
        {g: q.params.scale.tolist() for g, q in r.plan.groups.items() if q.params is not None} for r in (given, direct)
    ]
    assert scales[0] == scales[1]
    assert np.isfinite([s for group in scales[0].values() for s in np.ravel(group)]).all()
