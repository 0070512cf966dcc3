"""Stored summaries: JSON gives the same bits back, is small, and a file that was tampered with is refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration
from halfeven.stats.histogram import Histogram
from halfeven.stats.stored import KINDS, summary_from_json
from halfeven.stats.summary import Summary

STREAM = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))


def through_text(summary: Summary) -> Summary:
    return summary_from_json(json.loads(json.dumps(summary.to_json(), allow_nan=False)))


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
@given(x=STREAM)
def test_a_stored_summary_reads_back_the_same(kind: type[Summary], x: np.ndarray) -> None:
    for summary in (kind.of(x), kind()):
        again = through_text(summary)
        assert again == summary
        assert again.to_json() == summary.to_json()


def test_a_stored_histogram_is_small() -> None:
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    x[0] = 1e6
    assert len(json.dumps(Histogram.of(x).to_json())) < 300
    assert len(json.dumps(Histogram.of(x[1:]).to_json())) < 16_000


def stored(**changes: Any) -> dict[str, Any]:
    return {**Histogram.of(np.array([0.0, 1.0, 2.5, -1.0], np.float32)).to_json(), **changes}


FAULTS: dict[str, tuple[Any, str]] = {
    "no summary": ([1, 2], "kind None found"),
    "no kind": ({}, "kind None found; one of extrema, moving-average, histogram was expected"),
    "an unknown kind": ({"kind": "gram"}, "kind 'gram' found"),
    "a missing field": ({"kind": "extrema", "range": [0, 1]}, "count, nans, infs missing"),
    "no field": ({"kind": "moving-average"}, "range, samples, nans, infs, c missing"),
    "a range in reverse": ({"kind": "extrema", "range": [1, 0], "count": 1, "nans": 0, "infs": 0}, "in order"),
    "a range of text": ({"kind": "extrema", "range": "ab", "count": 1, "nans": 0, "infs": 0}, "two finite numbers"),
    "a range of NaN": ({"kind": "extrema", "range": [0, float("nan")], "count": 1, "nans": 0, "infs": 0}, "finite"),
    "no float32": ({"kind": "extrema", "range": [0, 0.1], "count": 1, "nans": 0, "infs": 0}, "float32 values"),
    "a count of text": ({"kind": "extrema", "range": [0, 1], "count": "x", "nans": 0, "infs": 0}, "Stored extrema: "),
    "too many bins": (stored(counts=[-(10**12)]), "at most 4096 were expected"),
    "too few bins": (stored(counts=[1, 2]), "but its range has"),
    "counts of text": (stored(counts=["a"]), "Stored histogram: "),
    "counts beyond int64": (stored(counts=[10**30]), "Stored histogram: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_was_tampered_with_is_refused(fault: str) -> None:
    data, message = FAULTS[fault]
    with pytest.raises(BadCalibration, match=message):
        summary_from_json(data)
