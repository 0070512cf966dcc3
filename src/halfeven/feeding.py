"""Feeding: data opened for a model, divided into what calibrates and what judges, checked as it passes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import onnx_ir as ir

from halfeven.data.check import DataCheck, Findings, checked
from halfeven.data.part import Part, read_ahead
from halfeven.data.preprocess import Preprocess, parse_preprocess
from halfeven.data.sample import InputSpec, Sample, Source
from halfeven.data.source import open_source
from halfeven.data.synthetic import Synthetic
from halfeven.run.specs import index_limits, input_specs

HELD_OUT = 32
FEWEST = 5


@dataclass
class Checked:
    """Samples that can be iterated again; each pass leaves out what is unusable, the first one keeps the score."""

    source: Source
    specs: list[InputSpec]
    passed: int = 0
    findings: Findings | None = None
    seen: DataCheck | None = None

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """Yield label and feeds."""
        samples, findings = checked(self.source, self.specs)
        check = DataCheck(self.specs)
        count = 0
        for label, feeds in read_ahead(samples):
            if count >= self.passed:
                check.add(feeds)
            count += 1
            yield label, feeds
            if count > self.passed:
                self.passed, self.findings = count, findings
                self.seen = check if self.seen is None or count == check.count else self.seen


@dataclass
class Feed:
    """Data for one job."""

    calibration: Checked
    held_out: Checked
    labels: Mapping[str, frozenset[int]]
    digest: str
    preprocess: Preprocess | None
    colored: bool
    notes: list[str] = field(default_factory=list)

    def said(self) -> tuple[str, ...]:
        """What was noticed about the data, in sentences."""
        said = list(self.notes)
        for part in (self.calibration, self.held_out):
            if part.findings is not None:
                said += part.findings.sentences()
        if self.calibration.seen is not None and self.calibration.seen.count > 1:
            said += self.calibration.seen.findings(self.preprocess)
        return tuple(dict.fromkeys(said))

    def some(self, count: int) -> Iterator[tuple[str, Sample]]:
        """The first few samples."""
        return islice(self.calibration, count)


def open_data(model: ir.Model, data: Any, settings: Mapping[str, Any], *, held_out: bool) -> Feed:
    """Open what a job runs on; without data, synthetic samples.

    Every n-th sample is held out to verify with (a fifth, at most 32), unless `settings["holdout"]` gives other data,
    or there are so few that all must do both; then a note says so.
    """
    specs = input_specs(model)
    options = settings.get("preprocess")
    preprocess = parse_preprocess(options) if options is not None else None
    if data is None:
        seed = int(settings.get("seed") or 0)
        limits = index_limits(model)
        source: Source = Synthetic(specs, limits, seed=seed)
        other: Source = Synthetic(specs, limits, count=8, seed=seed + 1)
        note = "the figures compare float and INT8 on synthetic samples too: they say little about real data"
        feed = Feed(Checked(source, specs), Checked(other, specs), {}, source.digest, None, False, [*source.notes])
        feed.notes += [note] if held_out else []
        return feed
    source = open_source(
        data, specs, preprocess=preprocess, limit=settings.get("limit"), labels=settings.get("labels")
    )
    notes = list(source.notes)
    calibration, judged = source, source
    if settings.get("holdout") is not None:
        judged = open_source(settings["holdout"], specs, preprocess=preprocess, labels=settings.get("labels"))
        notes += judged.notes
    elif held_out:
        calibration, judged, more = _divide(source)
        notes += more
    colored = preprocess is not None and len(specs) == 1 and (specs[0].rank == 4)
    return Feed(
        Checked(calibration, specs), Checked(judged, specs), judged.labels, source.digest, preprocess, colored, notes
    )


def _divide(source: Source) -> tuple[Source, Source, list[str]]:
    count = source.count
    if count is not None and count < FEWEST:
        return source, source, [f"there are only {count} samples: the figures are of those the scales were made from"]
    every = 5 if count is None else max(5, count // HELD_OUT)
    held = Part(source, every, held=True)
    return Part(source, every, held=False), held, []
