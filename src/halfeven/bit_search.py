"""Searching a width for each weight: what `halfeven search` and `halfeven.search` do.

    found = halfeven.search("model.onnx", "photos/", preprocess="imagenet", bits=(2, 4, 8), budget=4.5)
    print(found.summary())
    found.save("mixed.plan.json")

The sensitivities are those of `steps.search`, the choice that of `stats.allocation`. What sensitivities cannot tell is
that errors which are large add up to more than their sum: what one layer has ruined, those behind it ruin further. So
the sums of their powers, `POWERS`, are minimised too, which avoids large ones. Of these few choices and the uniform
widths within the budget that one is taken whose outputs, measured with all weights rounded, are nearest to the float.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from halfeven import api
from halfeven.draft import Draft, Progress, no_progress, pipeline
from halfeven.errors import BadOption
from halfeven.exporters.formats import target_of
from halfeven.feeding import Feed, open_data
from halfeven.graph.plan import Plan
from halfeven.options import check_setting, make_steps, read_config
from halfeven.stats.allocation import Allocation, allocate, front
from halfeven.steps.search import Probe, Sensitivities, Weight, searched, with_widths
from halfeven.targets.check import refuse
from halfeven.wording import counted

Choice: TypeAlias = tuple[int, ...]
JUDGED = 32
POWERS = (1.0, 1.25, 1.5, 2.0)
SHOWN = 12


@dataclass(frozen=True)
class Point:
    """A choice of widths: mean bits of a weight, the SQNR that sensitivities predict, and that measured, if it was."""

    name: str
    bits: float
    predicted_db: float
    measured_db: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        shown = {"name": self.name, "bits": self.bits, "predicted_db": _finite(self.predicted_db)}
        return shown if self.measured_db is None else {**shown, "measured_db": _finite(self.measured_db)}


@dataclass(frozen=True)
class Search:
    """What was found. `widths`: of each weight its elements and bits; `uniform`: the same width for all, measured too.

    `front`: the best there is for each mean of bits, as predicted. Figures are of weights alone, activations in float.
    """

    plan: Plan
    chosen: Point
    uniform: tuple[Point, ...]
    front: tuple[Point, ...]
    widths: Mapping[str, tuple[int, int]]
    target: str
    samples: tuple[int, int]
    notes: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, beside and then renamed."""
        self.plan.save(path)

    def counts(self) -> list[tuple[int, int, float]]:
        """Of each width, from the least on: how many weights have it, and what share of all elements these are."""
        weights, elements = Counter[int](), Counter[int]()
        for size, bits in self.widths.values():
            weights[bits] += 1
            elements[bits] += size
        return [(bits, weights[bits], elements[bits] / sum(elements.values())) for bits in sorted(weights)]

    def shown_front(self) -> list[Point]:
        """At most `SHOWN` points of the front, from end to end."""
        at = np.unique(np.linspace(0, len(self.front) - 1, SHOWN).round().astype(int))
        return [self.front[i] for i in at]

    def compared(self) -> list[Point]:
        """The choice and the uniform widths, by bits."""
        return sorted({point.name: point for point in (*self.uniform, self.chosen)}.values(), key=lambda p: p.bits)

    @property
    def sentence(self) -> str:
        """What was chosen, in one."""
        shares = ", ".join(f"{bits} bits for {counted(n, 'weight')} ({share:.0%})" for bits, n, share in self.counts())
        return f"{self.chosen.bits:.2f} bits a weight: {shares}".replace("%", " %")

    def summary(self) -> str:
        """The choice beside uniform widths, in a few lines."""
        lines = [f"  {p.name:<8} {p.bits:5.2f} bits   SQNR {p.measured_db:.1f} dB" for p in self.compared()]
        return "\n".join([self.sentence, *lines, *(f"  note: {text}" for text in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "target": self.target,
            "samples": {"measured": self.samples[0], "judged": self.samples[1]},
            "chosen": self.chosen.to_json(),
            "uniform": [point.to_json() for point in self.uniform],
            "front": [point.to_json() for point in self.front],
            "widths": {name: {"elements": size, "bits": bits} for name, (size, bits) in self.widths.items()},
            "notes": list(self.notes),
        }


def search(
    model: api.Model,
    data: Any,
    *,
    bits: Sequence[int] = (2, 4, 8),
    budget: float = 4.5,
    target: str | None = None,
    preprocess: Any = None,
    holdout: Any = None,
    limit: int | None = None,
    example_inputs: Any = None,
    config: str | Path | None = None,
    samples: int = 16,
    minutes: float | None = None,
    sensitivities: str | Path | None = None,
    progress: Progress = no_progress,
    **options: object,
) -> Search:
    """A width for each weight, so that all weights have `budget` bits in the mean and the outputs change least.

    Args:
        model: As for `quantize`.
        data: As for `quantize`; needed.
        bits: The widths to choose from: 2 to those that the target's weights have, mostly 8.
        budget: The mean of bits over all elements of the weights searched, at most.
        target: Name of the target.
        preprocess: As for `quantize`.
        holdout: Other data to judge the choice with; without it a part of `data` is held out, as by `quantize`.
        limit: Use at most so many samples.
        example_inputs: Of a module.
        config: TOML file with the same options.
        samples: How many to measure sensitivities with.
        minutes: End measuring after so long, and choose by what is known then; None: when all is measured.
        sensitivities: A file to keep them in as they come. A search that finds those of the same network, plan and
            samples there goes on with them: after an interruption, for another budget, with further widths.
        progress: Called with (task, done, total).
        options: Those of the steps `simplify` and `place`; `prefer` is "size" if not given.

    Returns:
        The plan, for `prepare`, `train` and `quantize`; what it costs beside uniform widths; and the front.

    Raises:
        BadOption: there are no such widths, the budget is below the least or above the most, or nothing to search.
        QuantError: as for `quantize`.
    """
    bits = _widths(bits)
    _refuse_figures(bits, budget, samples, minutes)
    if data is None:
        raise BadOption("A search needs --data: it measures what each weight costs at the outputs.")
    top, chosen = read_config(config, api.SETTINGS) if config is not None else ({}, {})
    given = {"target": target, "preprocess": preprocess, "holdout": holdout, "limit": limit}
    settings = {k: top.get(k) if v is None else check_setting(k, v) for k, v in given.items()}
    steps = make_steps({"prefer": "size", **chosen, **options})
    draft = api.load(model, str(settings.pop("target") or target_of(str(top.get("format") or "qdq"))), example_inputs)
    feed = open_data(draft.model, data, settings, held_out=True)
    draft = pipeline(steps["simplify"], steps["trace"], steps["place"])(draft, feed.calibration, progress)
    weights = searched(draft, bits)
    if not weights:
        why = f"no weight is quantized for {draft.target.name}; `halfeven inspect` says why"
        raise BadOption(f"There is nothing to search: {why}.")
    refuse(draft.target, draft.model, with_widths(draft.plan, {w.group: min(bits) for w in weights}))
    probe = Probe(draft, weights, list(feed.some(samples)))
    known = Sensitivities.of(probe, None if sensitivities is None else Path(sensitivities))
    known.measure(probe, bits, math.inf if minutes is None else 60 * minutes, progress)
    errors, estimated = known.table(probe, bits)
    notes = (*known.notes, *([_unfinished(estimated, errors.size)] if estimated else []))
    return _found(draft, probe, feed, _Choices(weights, bits, errors), budget, notes, progress)


@dataclass(frozen=True)
class _Choices:
    """Weights, widths and errors (weights, widths): what a choice, an index of a width for each weight, comes to."""

    weights: tuple[Weight, ...]
    bits: tuple[int, ...]
    errors: npt.NDArray[np.float64]

    @property
    def costs(self) -> npt.NDArray[np.int64]:
        """Bits, (weights, widths)."""
        return np.multiply.outer([weight.size for weight in self.weights], self.bits).astype(np.int64)

    @property
    def elements(self) -> int:
        """Of all weights."""
        return sum(weight.size for weight in self.weights)

    def uniform(self) -> dict[str, Choice]:
        """The choices of one width for all, by name."""
        return {f"{b} bits": (j,) * len(self.weights) for j, b in enumerate(self.bits)}

    def widths(self, choice: Choice) -> dict[int, int]:
        """Bits by group."""
        return {weight.group: self.bits[j] for weight, j in zip(self.weights, choice, strict=True)}

    def point(self, name: str, choice: Choice, probe: Probe) -> Point:
        """A choice, predicted and measured."""
        rows, at = np.arange(len(self.weights)), list(choice)
        mean, predicted = self.costs[rows, at].sum() / self.elements, float(self.errors[rows, at].sum())
        return Point(name, float(mean), _decibels(predicted), _decibels(probe.whole(self.widths(choice))))

    def front(self) -> tuple[Point, ...]:
        """The best there is for each mean of bits, as predicted."""
        return tuple(Point("", p.cost / self.elements, _decibels(p.error)) for p in front(self.errors, self.costs))

    def best(self, budget: float, probe: Probe, progress: Progress) -> tuple[Choice, tuple[str, ...]]:
        """What measures best of the few choices that the module's text tells of, and sentences on it."""
        most = math.floor(budget * self.elements + 1e-9)
        found = [allocate(self.errors**power, self.costs, most) for power in POWERS]
        uniform = {name: choice for name, choice in self.uniform().items() if self.bits[choice[0]] <= budget}
        tried, errors = list(dict.fromkeys([*(a.choice for a in found), *uniform.values()])), []
        for done, choice in enumerate(tried):
            progress("compare", done, len(tried))
            errors.append(probe.whole(self.widths(choice)))
        chosen = tried[int(np.argmin(errors))]
        notes = [
            f"no mixture measured better than {n}, so that is taken for all" for n, c in uniform.items() if c == chosen
        ]
        return chosen, (*notes, *([] if found[0].exact else [_gap(found[0])]))


def _found(
    draft: Draft, probe: Probe, feed: Feed, choices: _Choices, budget: float, notes: tuple[str, ...], progress: Progress
) -> Search:
    """The choice, judged beside uniform widths on what was held out."""
    chosen, said = choices.best(budget, probe, progress)
    judge = Probe(draft, choices.weights, list(islice(feed.held_out, JUDGED)))
    named, points = {**choices.uniform(), "mixed": chosen}, dict[str, Point]()
    for done, (name, choice) in enumerate(named.items()):
        progress("judge", done, len(named))
        points[name] = choices.point(name, choice, judge)
    widths = choices.widths(chosen)
    taken = next((name for name, choice in named.items() if choice == chosen), "mixed")
    return Search(
        with_widths(draft.plan, widths),
        points[taken],
        tuple(points[name] for name in choices.uniform()),
        choices.front(),
        {weight.name: (weight.size, widths[weight.group]) for weight in choices.weights},
        draft.target.name,
        (len(probe.samples), len(judge.samples)),
        tuple(dict.fromkeys((*notes, *said, *draft.notes, *feed.said()))),
    )


def _widths(bits: Any) -> tuple[int, ...]:
    """The widths, from the least on."""
    given = list(bits) if isinstance(bits, list | tuple | range) else [bits]
    found = sorted(set(given)) if all(isinstance(b, int) and not isinstance(b, bool) for b in given) else []
    if len(found) < 2 or found[0] < 2 or found[-1] > 8:
        raise BadOption(f"--bits {','.join(map(str, given))}: expected two widths or more from 2 to 8, such as 2,4,8.")
    return tuple(found)


def _refuse_figures(bits: Sequence[int], budget: float, samples: int, minutes: float | None) -> None:
    """Pass if there may be something to choose.

    Raises:
        BadOption: there is not.
    """
    if not isinstance(budget, int | float) or not bits[0] <= budget <= bits[-1]:
        where = f"the weights can have from {bits[0]} to {bits[-1]} bits in the mean"
        raise BadOption(f"--budget {budget}: {where}. Choose a budget between, or other --bits.")
    if not isinstance(samples, int) or samples < 1:
        raise BadOption(f"--samples {samples}: expected a whole number of at least 1.")
    if minutes is not None and not (isinstance(minutes, int | float) and minutes > 0):
        raise BadOption(f"--minutes {minutes}: expected a number above 0.")


def _unfinished(estimated: int, total: int) -> str:
    return (
        f"{estimated} of {total} sensitivities are estimated from the error of the weight, for want of time; the same "
        "search again goes on where this one ended"
    )


def _gap(best: Allocation) -> str:
    gap = _decibels(best.bound) - _decibels(best.error)
    return f"there were too many choices to prove that none is better; none is by more than {gap:.2f} dB, as predicted"


def _decibels(error: float) -> float:
    return math.inf if error <= 0 else -10 * math.log10(error)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
