"""Promised: the figures are those of the definitions, the sentence and the table say them, JSON holds finite numbers,
and who must be warned is warned.
"""

from typing import Any

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from halfeven.draft import Batch
from halfeven.errors import BadCalibration
from halfeven.report.verify import Verification, compare_models

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
SIZES = (400_000, 100_000)


def scaled(factor: float, graph: str = "y = Mul(x, f)", out: str = "float[N,4] y") -> ir.Model:
    """A network that multiplies by a factor."""
    text = f"{HEADER}net (float[N,4] x) => ({out}) <float f = {{{factor}}}> {{ {graph} }}"
    return ir.from_proto(onnx.parser.parse_model(text))


def samples(count: int, seed: int = 0) -> list[tuple[str, Batch]]:
    rng = np.random.default_rng(seed)
    return [(f"s{i}", {"x": rng.standard_normal((1, 4)).astype(np.float32)}) for i in range(count)]


def test_figures_are_those_of_the_definitions() -> None:
    found = compare_models(scaled(1.0), scaled(0.9), samples(5), sizes=SIZES)
    assert found.samples == found.classes == 5
    assert found.sqnr_db == pytest.approx(20.0, abs=1e-4)  # 10 log10(1 / 0.1^2)
    assert found.cosine == pytest.approx(1.0)
    assert found.agreement == 1.0
    assert found.accuracy is None
    assert found.integer_layers == (0, 0)


def test_equal_models_are_called_equal_and_their_json_is_finite() -> None:
    found = compare_models(scaled(1.0), scaled(1.0), samples(3), sizes=SIZES)
    assert found.sqnr_db == float("inf")
    assert found.sentence.startswith("equal, 100 % same top-1, 0.25 x size, ")
    assert found.to_json()["sqnr_db"] is None
    assert found.to_json()["outputs"] == {"y": {"sqnr_db": None, "cosine": pytest.approx(1.0)}}


def test_accuracy_counts_labelled_samples_only() -> None:
    data = samples(6)
    truth = {label: frozenset({int(feeds["x"].argmax())}) for label, feeds in data[:4]}
    truth["s0"] = frozenset({int(data[0][1]["x"].argmin())})
    found = compare_models(scaled(1.0), scaled(-1.0), data, sizes=SIZES, labels=truth)
    assert found.labelled == 4
    assert found.accuracy == (0.75, 0.25)
    assert found.agreement == 0.0
    assert "accuracy 75.0 % -> 25.0 %, 0 % same top-1" in found.sentence
    assert ("accuracy, 4 labels", "75.0 %", "25.0 %", "-50.0 points") in found.rows()


@pytest.mark.parametrize(
    ("graph", "out"), [("y = ReduceSum<keepdims=1>(x)", "float[1,1] y"), ("y = ArgMax(x)", "int64[1,4] y")]
)
def test_what_is_no_score_per_class_has_no_top_1(graph: str, out: str) -> None:
    model = scaled(1.0, graph, out)
    found = compare_models(model, model, samples(2), sizes=SIZES)
    assert found.agreement is None
    assert "top-1" not in found.sentence


def test_of_several_outputs_the_sentence_names_the_first() -> None:
    first = scaled(1.0, "y = Mul(x, f) z = Neg(y)", "float[N,4] y, float[N,4] z")
    found = compare_models(first, first, samples(2), sizes=SIZES)
    assert found.sentence.startswith("equal ('y'), ")
    assert [row[0] for row in found.rows()[:2]] == ["output 'y'", "output 'z'"]


def test_outputs_beyond_the_eighth_are_counted() -> None:
    found = verification(outputs={f"o{i}": (30.0, 0.99) for i in range(11)})
    assert found.rows()[8][0] == "3 more outputs"
    assert len(found.to_json()["outputs"]) == 11


def test_a_model_far_from_the_float_one_is_warned_of() -> None:
    assert compare_models(scaled(1.0), scaled(0.69), samples(4), sizes=SIZES).warnings == ()
    (text,) = (w for w in compare_models(scaled(1.0), scaled(0.5), samples(4), sizes=SIZES).warnings if "SQNR" in w)
    assert text.startswith("SQNR of output 'y' is 6.0 dB, under 10: the quantized model is far from the float one.")


def test_outputs_that_are_not_numbers_are_warned_of() -> None:
    found = compare_models(
        scaled(1.0), scaled(1.0, "n = Sqrt(f) m = Neg(n) k = Log(m) y = Mul(x, k)"), samples(2), sizes=SIZES
    )
    assert any("SQNR" in text for text in found.warnings)
    assert found.to_json()["cosine"] is None


def test_a_model_slower_than_the_float_one_is_warned_of_with_the_reason() -> None:
    slow = scaled(1.0, " ".join(["a0 = Mul(x, f)", *(f"a{i + 1} = Sin(a{i})" for i in range(400)), "y = Mul(a400, f)"]))
    (text,) = (w for w in compare_models(scaled(1.0), slow, samples(1), sizes=SIZES).warnings if "slower" in w)
    assert text.startswith("INT8 is slower than float on this machine (")
    assert text.endswith("x): no layer runs in integers.")


def test_without_samples_there_is_nothing_to_verify() -> None:
    with pytest.raises(BadCalibration, match="no sample to verify with"):
        compare_models(scaled(1.0), scaled(1.0), [], sizes=SIZES)


def test_progress_is_told_sample_by_sample_and_knows_the_count_of_a_list() -> None:
    told: list[tuple[str, int, int | None]] = []
    compare_models(scaled(1.0), scaled(1.0), samples(3), sizes=SIZES, progress=lambda *step: told.append(step))
    assert told == [("verify", 1, 3), ("verify", 2, 3), ("verify", 3, 3), ("measure", 0, None)]


def verification(**changes: Any) -> Verification:
    given: dict[str, Any] = {
        "samples": 10,
        "outputs": {"y": (19.24, 0.994)},
        "agreement": 0.94,
        "accuracy": None,
        "labelled": 0,
        "sizes": (1_000_000, 270_000),
        "latency": (10.0, 4.5, 0.45),
        "integer_layers": (3, 4),
        "classes": 10,
    }
    return Verification(**{**given, **changes})


def test_the_sentence_and_the_table_are_these() -> None:
    found = verification()
    cost = "SQNR 19.2 dB, 94 % same top-1, 0.27 x size, 0.45 x latency"
    assert found.sentence == f"{cost} (on 10 samples, in ONNX Runtime on this machine)"
    assert verification(samples=1).sentence.endswith("(on 1 sample, in ONNX Runtime on this machine)")
    assert found.rows() == [
        ("output 'y'", "", "", "SQNR 19.2 dB, cosine 0.99400"),
        ("same top-1", "", "", "94 % of 10"),
        ("size", "1.00 MB", "0.27 MB", "0.27 x"),
        ("latency, median", "10.00 ms", "4.50 ms", "0.45 x"),
        ("integer layers", "", "3 of 4", "as ONNX Runtime executes them"),
    ]
