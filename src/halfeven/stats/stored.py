"""Summaries as plain values: the table of their kinds, which a file's `kind` is looked up in."""

from typing import Any

from halfeven.errors import BadCalibration
from halfeven.stats.histogram import Histogram
from halfeven.stats.summary import Extrema, MovingAverage, Summary

KINDS: dict[str, type[Summary]] = {kind.kind: kind for kind in (Extrema, MovingAverage, Histogram)}


def summary_from_json(data: dict[str, Any]) -> Summary:
    """The summary that `to_json` wrote, of whatever kind.

    Raises:
        BadCalibration: the kind is unknown, or its values are wrong.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in KINDS:
        raise BadCalibration(f"Stored summary: kind {kind!r} found; one of {', '.join(KINDS)} was expected.")
    try:
        return KINDS[kind].from_json(data)
    except (TypeError, ValueError, OverflowError) as fault:
        raise BadCalibration(f"Stored {kind}: {fault}. Calibrate anew, or restore the file.") from fault
