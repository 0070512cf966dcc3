"""Promised: an LSTM or GRU written step after step has its weights in the file once, in int8 where the plan has codes,
and computes in LiteRT what the float or QDQ network does; in static mode the reason why it stays float is true.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, pipeline
from halfeven.exporters.litert.write import Written, to_litert
from halfeven.exporters.onnx import to_qdq
from halfeven.numerics.grid import INT8
from halfeven.numerics.quantize import params_of
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.run.litert import open_litert, schema
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import sqnr_db
from halfeven.steps.calibrate import Calibrate
from halfeven.targets.litert import LITERT

pytest.importorskip("ai_edge_litert")

STEPS = 12
LSTM = (
    "g (float[%d,2,24] x) => (y) <float[%d,160,24] w, float[%d,160,40] r, float[%d,320] b>"
    ' { y = LSTM<hidden_size = 40, direction = "%s">(x, w, r, b) }'
)
GRU = (
    "g (float[%d,2,24] x) => (y) <float[1,120,24] w, float[1,120,40] r, float[1,240] b>"
    " { y = GRU<hidden_size = 40, linear_before_reset = %d>(x, w, r, b) }"
)
NETWORKS = {
    "lstm": LSTM % (STEPS, 1, 1, 1, "forward"),
    "lstm both ways": LSTM % (STEPS, 2, 2, 2, "bidirectional"),
    "gru": GRU % (STEPS, 0),
    "gru, reset behind": GRU % (STEPS, 1),
}
CONSTANTS = {"lstm": 2, "lstm both ways": 4, "gru": 3, "gru, reset behind": 2}
"""How many constants hold the weights: those of states in two for a GRU which resets ahead."""


def large(written: Written) -> list[int]:
    """The bytes of the constants of more than 1500 bytes."""
    sizes = [len(buffer.data) for buffer in _model(written).buffers if buffer.data is not None]
    return sorted(size for size in sizes if size > 1500)


def _model(written: Written):
    return schema().ModelT.InitFromObj(schema().Model.GetRootAs(bytearray(written.data)))


def run(written: Written, path: Path, data: list) -> list[np.ndarray]:
    """What LiteRT gives for each sample."""
    path.write_bytes(written.data)
    opened = open_litert(path)
    return [np.asarray(opened(feeds)["y"]) for _, feeds in data]


def weighed(build, samples, placed, text: str, mode: str) -> tuple[Draft, list]:
    """A network with a plan of its weights, and data."""
    model = build(text)
    data = samples(model, 2)
    return pipeline(Calibrate())(placed(model, LITERT, data, mode=mode), data), data


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_weights_of_all_steps_stand_in_the_file_once(build, samples, placed, tmp_path, name) -> None:
    draft, data = weighed(build, samples, placed, NETWORKS[name], "weight-only")
    written = to_litert(draft, mode="float")
    stored = sum(v.const_value.nbytes for k, v in draft.model.graph.initializers.items() if k in "wr")
    assert sum(large(written)) == stored
    assert len(large(written)) == CONSTANTS[name]
    expected = [OrtExecutor(draft.model)(feeds)["y"] for _, feeds in data]
    for mine, theirs in zip(run(written, tmp_path / "f.tflite", data), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_alone_are_codes_made_real_once_and_compute_what_the_qdq_network_does(
    build, samples, placed, tmp_path, name
) -> None:
    draft, data = weighed(build, samples, placed, NETWORKS[name], "weight-only")
    written = to_litert(draft)
    stored = sum(v.const_value.size for k, v in draft.model.graph.initializers.items() if k in "wr")
    assert sum(large(written)) == stored  # a byte each
    model = _model(written)
    kinds = [model.operatorCodes[op.opcodeIndex].builtinCode for op in model.subgraphs[0].operators]
    assert kinds.count(schema().BuiltinOperator.DEQUANTIZE) == CONSTANTS[name]
    expected = [OrtExecutor(to_qdq(draft))(feeds)["y"] for _, feeds in data]
    for mine, theirs in zip(run(written, tmp_path / "w.tflite", data), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_scales_of_the_inputs_as_many_as_the_gates_are_not_taken_for_theirs(build, samples, placed, tmp_path) -> None:
    text = "g (float[3,2,8] x) => (y) <float[1,8,8] w, float[1,8,2] r> { y = LSTM<hidden_size = 2>(x, w, r) }"
    draft, data = weighed(build, samples, placed, text, "weight-only")
    weight = draft.model.graph.initializers["w"].const_value.numpy() * np.float32(2) ** np.arange(8, dtype=np.float32)
    draft.model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    (group,) = (group for site, group in draft.plan.sites.items() if site.value == "w")
    scheme = Scheme(INT8, per_channel(2))
    held = replace(draft.plan.groups[group], scheme=scheme, params=params_of(weight, scheme))
    draft = replace(draft, plan=draft.plan.with_group(group, held))
    expected = [OrtExecutor(to_qdq(draft))(feeds)["y"] for _, feeds in data]
    for mine, theirs in zip(run(to_litert(draft), tmp_path / "i.tflite", data), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_a_dynamic_lstm_has_codes_as_weights_and_kernels_that_quantize_what_comes(
    build, samples, placed, tmp_path
) -> None:
    draft, data = weighed(build, samples, placed, NETWORKS["lstm"], "dynamic")
    written = to_litert(draft)
    assert sum(large(written)) == 160 * 24 + 160 * 40
    assert any(f"{2 * STEPS} layers with int8 weights quantize what they read" in note for note in written.notes)
    expected = [OrtExecutor(draft.model)(feeds)["y"] for _, feeds in data]
    found = run(written, tmp_path / "d.tflite", data)
    assert sqnr_db(np.stack(expected), np.stack(found)) > 25


def test_in_static_mode_the_reason_says_that_the_steps_are_written_out_in_float(build, samples, placed) -> None:
    model = build(NETWORKS["lstm"])
    (reason,) = placed(model, LITERT, samples(model, 2)).plan.floats.values()
    assert "keeps its state from run to run" in reason
    assert "steps of LSTM are written out in float" in reason
