"""Placement: which sites, in which groups, and a reason for every node that stays float.

The cases of place.txt are read here; a few that need special data or errors follow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.draft import Draft, pipeline
from halfeven.errors import BadOption
from halfeven.graph.plan import Plan, Site
from halfeven.graph.prepare import prepare
from halfeven.steps.place import Place
from halfeven.targets import TARGETS
from halfeven.targets.costs import UNIFORM

CASES = Path(__file__).with_name("place.txt")
INTEGER = TARGETS["integer"]


@dataclass
class Case:
    """One titled case of the file."""

    title: str
    graph: str = ""
    options: dict[str, str] = field(default_factory=dict)
    expected: list[str] = field(default_factory=list)

    @property
    def place(self) -> Place:
        keep = tuple(p.strip() for p in self.options.get("keep_float", "").split(",") if p.strip())
        return Place(keep_float=keep, prefer=self.options.get("prefer", "speed"))  # type: ignore[arg-type]


def _cases() -> Iterator[Case]:
    for block in CASES.read_text("utf-8").split("\n# ")[1:]:
        text, _, expected = block.partition("=== plan\n")
        title, *lines = text.splitlines()
        case = Case(title, expected=[line for line in expected.splitlines() if line])
        for line in lines:
            key, colon, value = line.partition(": ")
            if colon and not case.graph and key.isidentifier():
                case.options[key] = value
            else:
                case.graph += line + "\n"
        yield case


def _shown(plan: Plan) -> list[str]:
    groups = [f"{q.scheme}: {', '.join(map(str, plan.members(g)))}" for g, q in sorted(plan.groups.items())]
    return [*groups, *(f"float {node}: {reason}" for node, reason in plan.floats.items())]


def _drafted(case: Case, build: Callable[..., ir.Model], samples: Callable[..., list], placed: Callable[..., Draft]) -> Draft:
    model = build(case.graph)
    target = TARGETS[case.options["target"]]
    if case.options.get("trace") == "no":
        return pipeline(case.place)(Draft(prepare(model)[0], target))
    return placed(model, target, samples(model), keep_float=case.place.keep_float, prefer=case.place.prefer)


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.title)
def test_the_plan_is_the_one_written_down(
    case: Case, build: Callable[..., ir.Model], samples: Callable[..., list], placed: Callable[..., Draft]
) -> None:
    found = _shown(_drafted(case, build, samples, placed).plan)
    cut = [
        text[: len(wanted) - 3] + "..." if wanted.endswith("...") else text
        for text, wanted in zip(found, case.expected, strict=False)
    ]
    assert cut + found[len(cut) :] == case.expected
