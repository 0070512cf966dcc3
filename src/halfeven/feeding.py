"""Feeding: data opened for a model, divided into what calibrates and what judges, checked as it passes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import length_hint
from typing import Any, NamedTuple

import onnx_ir as ir

from halfeven.data.check import DataCheck, Findings, Readable, checked
from halfeven.data.lead import LedSource, Turn, few
from halfeven.data.part import Part, read_ahead
from halfeven.data.preprocess import Preprocess, parse_preprocess
from halfeven.data.sample import InputSpec, Sample, Source
from halfeven.data.source import open_source
from halfeven.data.synthetic import Synthetic
from halfeven.draft import Batch
from halfeven.errors import BadCalibration, UnsupportedModel
from halfeven.graph.widen import widened
from halfeven.run.ort import OrtExecutor
from halfeven.run.specs import class_count, index_limits, input_specs
from halfeven.wording import counted

HELD_OUT = 32
FEWEST = 5
SIDES = (
    *((224, 224), (48, 320), (32, 320), (32, 100), (256, 256)),
    *((320, 320), (512, 512), (640, 640), (64, 64), (28, 28)),
)
"""Heights and widths of synthetic pictures: photos, lines of text, scenes, small pictures."""


@dataclass
class Checked:
    """Samples that can be iterated again; each pass leaves out what is unusable.

    `findings` are those of the longest pass; `check` has seen each sample once, however often it passed. `instead`
    gives the samples of a source of one that is unusable.
    """

    source: Source
    specs: list[InputSpec]
    instead: "Checked | None" = None
    findings: Findings = field(default_factory=Findings)
    check: DataCheck = field(init=False)
    _known: Counter[str] = field(default_factory=Counter, repr=False)
    """The labels of the samples that `check` has seen, and how often one pass had them."""

    def __post_init__(self) -> None:
        """Nothing has passed."""
        self.check = DataCheck(self.specs)

    @property
    def passed(self) -> int:
        """How many samples the longest pass gave."""
        return self.check.count

    def __length_hint__(self) -> int:
        """The number of samples, the unusable included; 0 if only a pass would tell."""
        return self.source.count or 0

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """Yield label and feeds."""
        return self.passing(self.source)

    def led(self, count: int) -> "CheckedLed":
        """The samples, `count` of them first (data/lead.py)."""
        return CheckedLed(self, count)

    def passing(self, source: Readable) -> Iterator[tuple[str, Sample]]:
        """A pass over the source's samples, in the order in which `source` gives them."""
        samples, findings = checked(source, self.specs)
        passed: Counter[str] = Counter()
        try:
            for label, feeds in read_ahead(samples):
                passed[label] += 1
                if passed[label] > self._known[label]:
                    self._known[label] = passed[label]
                    self.check.add(feeds)
                yield label, feeds
        except BadCalibration:
            if self.instead is None or (findings.seen, findings.bad) != (1, 1):
                raise
            yield from self.instead
        finally:
            if findings.seen >= self.findings.seen:
                self.findings = findings


@dataclass(frozen=True)
class CheckedLed:
    """Checked samples of which a few come first."""

    samples: Checked
    few: int
    turns: list[Turn] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """Yield label and feeds."""
        self.turns.clear()
        source = LedSource(self.samples.source, self.few)  # one for each pass: it is read ahead by a thread
        for label, feeds in self.samples.passing(source):
            self.turns.append(source.turns[label].popleft())
            yield label, feeds

    def __length_hint__(self) -> int:
        """See Checked."""
        return length_hint(self.samples)

    def turn(self, number: int) -> Turn:
        """See Led."""
        return self.turns[number]


@dataclass
class Feed:
    """Data for one job."""

    calibration: Checked
    held_out: Checked
    labels: Mapping[str, frozenset[int]]
    given: Source
    """The data of both, before they were divided."""
    preprocess: Preprocess | None
    colored: bool
    notes: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Of all that was given; asked for after a pass, when arrays are hashed already."""
        return self.given.digest

    def said(self) -> tuple[str, ...]:
        """What was noticed about the data, in sentences."""
        said = list(self.notes)
        if self.held_out.instead is not None and self.held_out.findings.bad and not self.held_out.passed:
            said.append("the only sample held out cannot be used: the figures are of those the scales were made from")
        for part in (self.calibration, self.held_out):
            if not isinstance(part.source, Synthetic):
                said += [*part.source.notes, *part.findings.sentences()]
        if self.calibration.passed > 1 and not isinstance(self.calibration.source, Synthetic):
            said += self.calibration.check.findings(self.preprocess)
        return tuple(dict.fromkeys(said))

    def some(self, count: int) -> Iterator[tuple[str, Sample]]:
        """A few samples, the same ones in whatever order the data were given (data/lead.py)."""
        return few(self.calibration, count)


def open_data(
    model: ir.Model, data: Any, settings: Mapping[str, Any], *, held_out: bool, measured: bool = False
) -> Feed:
    """Open what a job runs on; without data, synthetic samples. `measured`: the scales come from statistics.

    Every n-th sample is held out to verify with (a fifth, at most 32), unless `settings["holdout"]` gives other data,
    or there are so few that all must do both; then a note says so.

    Raises:
        UnsupportedModel: the model has no inputs.
        BadOption, BadCalibration: see `open_source`.
    """
    specs = input_specs(model)
    if not specs:
        raise UnsupportedModel("The model has no inputs: it always computes the same, so there is nothing to measure.")
    options = settings.get("preprocess")
    preprocess = parse_preprocess(options) if options is not None else None
    others: dict[str, Any] = {"preprocess": preprocess, "labels": settings.get("labels"), "classes": class_count(model)}
    if data is None:
        judges = held_out and settings.get("holdout") is None
        feed = _synthetic(model, specs, int(settings.get("seed") or 0), judges, measured)
        if settings.get("holdout") is not None:
            judged = open_source(settings["holdout"], specs, **others)
            feed.held_out, feed.labels = Checked(judged, specs), judged.labels
            feed.notes += _no_classes(feed.labels, others["classes"])
        return feed
    source = open_source(data, specs, limit=settings.get("limit"), **others)
    notes: list[str] = []
    calibration, judged = source, source
    if settings.get("holdout") is not None:
        judged = open_source(settings["holdout"], specs, **others)
    elif held_out:
        calibration, judged, notes = _divide(source)
    notes += _no_classes(judged.labels, others["classes"])
    colored = preprocess is not None and len(specs) == 1 and (specs[0].rank == 4)
    calibrating = Checked(calibration, specs)
    judging = Checked(judged, specs, instead=calibrating if isinstance(judged, Part) else None)
    return Feed(calibrating, judging, judged.labels, source, preprocess, colored, notes)


class Run(NamedTuple):
    """Samples to run, with their labels; `notes` say what stands in for data."""

    data: list[tuple[str, Batch]]
    labels: Mapping[str, frozenset[int]]
    notes: list[str]


def samples_of(model: ir.Model, data: Any, settings: Mapping[str, Any]) -> Run:
    """At most `settings["limit"]` samples, synthetic ones without data; raises as `open_data`."""
    feed = open_data(model, data, settings, held_out=False, measured=True)
    held, notes = list(islice(feed.calibration, int(settings["limit"]))), list(feed.notes)
    if data is None:
        notes.append(f"{counted(len(held), 'synthetic sample')}, as no --data was given: real data reach other codes")
    return Run(held, feed.labels, notes)


def _no_classes(labels: Mapping[str, frozenset[int]], classes: int | None) -> list[str]:
    """A sentence on samples whose label is no class of the model; none if all fit or its classes are not known."""
    wrong = [found for found in labels.values() if classes and not any(0 <= number < classes for number in found)]
    if not wrong or not classes:
        return []
    are = "is" if len(wrong) == 1 else "are"
    return [
        f"{len(wrong)} of {counted(len(labels), 'label')} {are} no class of the model, which has 0..{classes - 1}: the "
        f"first is {min(wrong[0])}. Is the first class counted as 0?"
    ]


def _synthetic(model: ir.Model, specs: list[InputSpec], seed: int, held_out: bool, measured: bool) -> Feed:
    """Noise, and other noise to judge with."""
    source = _that_runs(model, Synthetic(specs, index_limits(model), seed=seed))
    judged = replace(source, count=8, seed=seed + 1)
    notes = [] if measured else [*source.notes]
    if held_out:
        notes.append("the figures compare float and INT8 on synthetic samples: they say little about real data")
    return Feed(Checked(source, specs), Checked(judged, specs), {}, source, None, False, notes)


def _that_runs(model: ir.Model, source: Synthetic) -> Synthetic:
    """Pictures of a size that the model takes, where it leaves it open: of SIDES, the first that runs.

    Raises:
        BadCalibration: none does; the sizes are named, and what the runtime said of the first.
    """
    if not source.size:
        return source
    run, reasons = OrtExecutor(widened(model, [ir.DataType.DOUBLE])[0], optimize=False), dict[str, str]()
    for tried in (replace(source, sides=sides) for sides in SIDES):
        if tried.size not in reasons:
            label, sample = next(iter(tried))
            try:
                run(sample, label)
            except BadCalibration as error:
                reasons[tried.size] = str(error)
                continue
            return tried
    first, *others = reasons.values()
    if not others:
        raise BadCalibration(first)
    raise BadCalibration(
        f"No data were given, and the model runs on no synthetic picture ({', '.join(reasons)} were tried): give it "
        f"data. The first: {first}"
    )


def _divide(source: Source) -> tuple[Source, Source, list[str]]:
    count = source.count
    if count is None:  # a loader: it is counted, so that it is divided as an array of the same samples is
        count = len(source.contents)
    if count < FEWEST:
        made_from = f"the {counted(count, 'sample')} that the scales were made from"
        return source, source, [f"the figures are of {made_from}: too few to hold some out"]
    every = max(5, -(-count // HELD_OUT))
    held = Part(source, every, held=True)
    return Part(source, every, held=False), held, []
